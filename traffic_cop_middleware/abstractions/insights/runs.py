"""From buckets that are off to stretches of time: one bucket alone is chance, two of three are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NEEDED, WITHIN = 2, 3


class Run(NamedTuple):
    """Buckets that are off: from `first` to before `end`. It was known when bucket `known` had ended."""

    first: int
    end: int
    known: int


def runs(off: Sequence[bool], *, begin: int = 0) -> list[Run]:
    """Stretches in which two of three buckets that follow on one another are off.

    Each begins and ends with a bucket that is off. `begin` is the index of the first flag.
    """
    found: list[Run] = []
    for index, each in enumerate(off):
        low = max(0, index - WITHIN + 1)
        window = list(off[low : index + 1])
        if not each or sum(window) < NEEDED:
            continue
        first, end = begin + low + window.index(True), begin + index + 1
        if found and first < found[-1].end:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(Run(first, end, end - 1))
    return found


def joined(found: Sequence[Run], *, gap: int) -> list[Run]:
    """Runs with at most `gap` buckets between them as one."""
    out: list[Run] = []
    for run in found:
        if out and run.first - out[-1].end <= gap:
            out[-1] = out[-1]._replace(end=run.end)
        else:
            out.append(run)
    return out
