"""Buckets that one look at the last hour has read, for the next one.

Theory of operation. Looks follow each other by five minutes, and what is compared is the same but for the buckets at
the ends of each stretch: of 1,900 a dozen. What is kept of a bucket is counts, and durations in lanes: with 50 routes
some 30 MB, in the worker that looks.

Kept is only what changes no more: the bucket is not due, is recorded in full (five minutes have their marks), and is
older than the windows of which a minute is made (`history/keeping.py`). All the same a process that counts for itself
may write hours later, when its documents are back: so each bucket is read again after 36 looks, an hour of them at a
time. Where there is more than is kept, the rest is read each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from traffic_cop_middleware.abstractions.history.ranges import FIVE, HOUR, MINUTE
from traffic_cop_middleware.abstractions.history.series import Grid, Slot

SETTLED = HOUR
"""Seconds after which a bucket is not expected to change."""
LOOKS = 36
MOST_FIGURES = 150_000
"""Series by buckets that are kept: those of 75 routes."""


class KeptSlots:
    """Buckets of five minutes of the requests, by when they begin."""

    def __init__(self) -> None:
        self._slots: Mapping[int, Slot] = {}

    def of(self, grid: Grid, starts: Iterable[int], *, due: Collection[tuple[int, int]]) -> Mapping[int, Slot]:
        """Those of the `starts` that need not be read, for a look that ends with the grid."""
        look = grid.end // FIVE
        found: dict[int, Slot] = {}
        for start in starts:
            slot = self._slots.get(start)
            again = (start // HOUR + look) % LOOKS == 0
            if slot is not None and not again and (slot.timed or start < grid.timed) and (FIVE, start) not in due:
                found[start] = slot
        return found

    def keep(self, grid: Grid, *, due: Collection[tuple[int, int]]) -> None:
        """Keep what that grid has, in place of what there was."""
        kept: dict[int, Slot] = {}
        figures = 0
        for start in sorted(grid.slots):
            slot = grid.slots[start]
            whole = slot.marks >= FIVE // MINUTE and (FIVE, start) not in due
            figures += len(slot.figures)
            if figures > MOST_FIGURES:
                break
            if whole and start + FIVE + SETTLED <= grid.end:
                kept[start] = slot.without_times() if slot.timed and start < grid.timed else slot
        self._slots = kept


def stretches(starts: Iterable[int], step: int, *, most: int) -> Sequence[Sequence[tuple[int, int]]]:
    """Buckets as stretches of those that follow one another, so many buckets at a time; `starts` are in order."""
    parts: list[list[tuple[int, int]]] = []
    length = most
    for start in starts:
        if length == most:
            parts.append([])
            length = 0
        part = parts[-1]
        if part and part[-1][1] == start:
            part[-1] = (part[-1][0], start + step)
        else:
            part.append((start, start + step))
        length += 1
    return parts
