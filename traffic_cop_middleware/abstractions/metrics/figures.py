"""All that was counted in one stretch of time, by one worker or by several together."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, Key, Series
from traffic_cop_middleware.abstractions.metrics.usage import Usage

FORM = 2
MOST_NAMES = 2_000
"""How many counters, and how many timings, are told apart; the rest of a family is one."""
Name = tuple[str, ...]
"""A family's name and the values of its labels (`families.py`)."""
_dumps = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


class Figures:
    """`requests` and `streams` by route, method and status; `counts` and `timings` by family and labels; `usage`.

    `gauges` are what is under way at this moment; they are not part of a sum over time.
    """

    __slots__ = ("counts", "gauges", "requests", "streams", "timings", "usage")

    def __init__(self) -> None:
        self.requests: dict[Key, Series] = {}
        self.streams: dict[Key, Series] = {}
        self.counts: dict[Name, int] = {}
        self.timings: dict[Name, Histogram] = {}
        self.gauges: dict[Name, int] = {}
        self.usage = Usage()

    def count(self, name: Name, number: int = 1) -> None:
        """Add to a counter."""
        counts = self.counts
        if name not in counts and len(counts) >= MOST_NAMES:
            name = (name[0], *(OVERFLOW for _ in name[1:]))
        counts[name] = counts.get(name, 0) + number

    def timing(self, name: Name) -> Histogram:
        """The histogram of a family and labels."""
        timings = self.timings
        found = timings.get(name)
        if found is None:
            if len(timings) >= MOST_NAMES:
                name = (name[0], *(OVERFLOW for _ in name[1:]))
            found = timings[name] = timings.get(name) or Histogram()
        return found

    def merge(self, other: Figures, *, sign: int = 1, usage: bool = True, pause: Callable[[], None] = never) -> None:
        """Add what is in another one; with `sign=-1` take it away again (not its usage)."""
        for mine, theirs in ((self.requests, other.requests), (self.streams, other.streams)):
            for key, series in theirs.items():
                known = mine.get(key)
                if known is None:
                    known = mine[key] = Series()
                known.merge(series, sign=sign)
                pause()
        for name, number in other.counts.items():
            self.count(name, sign * number)
        for name, timed in other.timings.items():
            self.timing(name).merge(timed, sign=sign)
        if usage and sign == 1:
            self.usage.merge(other.usage.kinds)

    def packed(self) -> list[Any]:
        """As JSON, which shares nothing with what is counted on."""
        return [
            FORM,
            [[*key, series.packed()] for key, series in self.requests.items()],
            [[*key, series.packed()] for key, series in self.streams.items()],
            [[*name, number] for name, number in self.counts.items()],
            [[*name, timed.packed()] for name, timed in self.timings.items()],
            [[*name, number] for name, number in self.gauges.items() if number],
            self.usage.packed(),
        ]

    def merge_packed(self, packed: list[Any], *, gauges: bool = False, pause: Callable[[], None] = never) -> None:
        """Add figures that `packed` wrote.

        Raises:
            ValueError: they are of another form, as another version of this package writes them.
        """
        form, requests, streams, counts, timings, now, usage = packed
        if form != FORM:
            raise ValueError(f"figures of the form {form}, and this worker reads {FORM}")
        for mine, theirs in ((self.requests, requests), (self.streams, streams)):
            for template, method, status, series in theirs:
                key = (template, method, status)
                known = mine.get(key)
                if known is None:
                    known = mine[key] = Series()
                known.merge_packed(series)
                pause()
        for *name, number in counts:
            self.count(tuple(name), number)
        for *name, timed in timings:
            self.timing(tuple(name)).merge_packed(timed)
        if gauges:
            for *name, number in now:
                self.gauges[tuple(name)] = self.gauges.get(tuple(name), 0) + number
        self.usage.merge(usage)


def encode(packed: list[Any], *, pause: Callable[[], None] = never) -> bytes:
    """Packed figures as a blob: compressed JSON, with a line of its own for each series."""
    form, requests, streams, *others = packed
    lines = [_dumps([form, *others])]
    for kind, rows in enumerate((requests, streams)):
        for row in rows:
            lines.append(_dumps([kind, *row]))
            pause()
    return zlib.compress("\n".join(lines).encode("ascii"), 1)


def decode(blob: bytes, *, pause: Callable[[], None] = never) -> list[Any]:
    """What `encode` made a blob of.

    Raises:
        ValueError: it is none.
    """
    series: tuple[list[Any], list[Any]] = ([], [])
    try:
        head, *lines = zlib.decompress(blob).split(b"\n")
        form, *others = json.loads(head)
        if form == FORM and len(others) == 4:
            for line in lines:
                kind, *row = json.loads(line)
                series[kind].append(row)
                pause()
            return [form, *series, *others]
    except (zlib.error, ValueError, TypeError) as exc:
        raise ValueError(f"a blob that holds no figures: {exc}") from exc
    raise ValueError(f"figures of the form {form!r}, and this worker reads {FORM}")
