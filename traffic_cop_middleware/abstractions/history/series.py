"""Rows of the history as series of buckets on one grid, as the detectors read them.

A bucket is known where its marks (`RECORDED`) say that somebody counted for nine tenths of it at least: then what has
no row had no request. Else it is `None`: a recorder that was away is not to look like traffic that stayed away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from math import inf

from traffic_cop_middleware.abstractions.history.ranges import MINUTE
from traffic_cop_middleware.abstractions.history.rows import RECORDED
from traffic_cop_middleware.abstractions.insights.durations import Durations, added
from traffic_cop_middleware.abstractions.insights.values import Series
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Name
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, REQUESTS, TIMINGS, USAGE, first_numbers
from traffic_cop_middleware.abstractions.metrics.windows import left_out
from traffic_cop_middleware.contracts import HistoryRow, Past

ENOUGH = 0.9
"""The share of a bucket that is to be recorded, or nobody knows."""
TIMED = (REQUESTS, TIMINGS)
Labels = tuple[tuple[str, str], ...]
Figures = tuple[int, int, Durations | None]
"""Requests, those of them that failed, and how long they took."""


class Slot:
    """What a bucket of the grid has: `marks`, and figures by labels. `timed`: its durations were read."""

    __slots__ = ("figures", "marks", "timed")

    def __init__(self, *, timed: bool) -> None:
        self.marks = 0
        self.timed = timed
        self.figures: dict[Labels, Figures] = {}

    def add(self, row: HistoryRow, *, only: Collection[Labels] | None = None) -> None:
        """Add a row.

        Raises:
            ValueError: it holds no figures.
        """
        counts, durations = first_numbers(row.value, timed=TIMED if self.timed else ())
        for name, count in counts:
            if name[:2] == MARK:
                self.marks += count
            elif name[0] in (REQUESTS, USAGE):
                self._add(_labels_of(name), count, count if _failed(name) else 0, None, only)
        for name, buckets in durations:
            if name[0] == REQUESTS:
                self._add(_labels_of(name), 0, 0, Durations(buckets), only)
            elif name[1] == families.UPSTREAM:
                timed = Durations(buckets)
                self._add(_labels_of(name), timed.count, timed.count if _failed(name) else 0, timed, only)

    def _add(
        self, labels: Labels, count: int, failed: int, timed: Durations | None, only: Collection[Labels] | None
    ) -> None:
        if only is not None and labels not in only:
            return
        known = self.figures.get(labels)
        if known is not None:
            count, failed = known[0] + count, known[1] + failed
            timed = known[2] if timed is None else timed if known[2] is None else Durations(added((known[2], timed)))
        self.figures[labels] = (count, failed, timed)

    def without_times(self) -> Slot:
        """The same without durations, which take most of the memory."""
        found = Slot(timed=False)
        found.marks = self.marks
        found.figures = {labels: (count, failed, None) for labels, (count, failed, _) in self.figures.items()}
        return found


class Grid:
    """Collects rows of the history in buckets of `step` seconds from `start` to `end`, which lie on the steps.

    Rows come in any order and in parts, each once; those of other times are left out. Durations are kept from `timed`
    on (`None`: none are), and with `only` no other labels. `slots` are buckets as another grid had them, by when they
    begin: what is not changed any more need not be read again.
    """

    def __init__(
        self,
        start: int,
        end: int,
        step: int,
        *,
        timed: float | None = 0.0,
        only: Collection[Labels] | None = None,
        slots: Mapping[int, Slot] | None = None,
    ) -> None:
        self.start, self.end, self.step = start, end, step
        self.timed = inf if timed is None else timed
        self._only = only
        self.slots: dict[int, Slot] = dict(slots or {})

    def add(self, rows: Iterable[Past], *, pause: Callable[[], None] = never) -> None:
        """Add rows: marks, and those of requests, upstreams or usage."""
        for start, row in rows:
            if self.start <= start < self.end:
                at = start // self.step * self.step
                slot = self.slots.get(at)
                if slot is None:
                    slot = self.slots[at] = Slot(timed=at >= self.timed)
                try:
                    slot.add(row, only=self._only)
                except ValueError as exc:
                    left_out(exc)
            pause()

    def known(self, start: int) -> bool:
        """Whether somebody counted for (nearly) all of the bucket that begins there."""
        slot = self.slots.get(start)
        return slot is not None and slot.marks * MINUTE >= ENOUGH * self.step

    def trimmed(self) -> None:
        """Begin with the first bucket that is known; and end before a last one that is not, as it is yet to come."""
        first = min((start for start in self.slots if self.known(start)), default=self.start)
        if self.end > first and not self.known(self.end - self.step):
            self.end -= self.step
        self.start = first

    def series(self, most: int, *, since: float, pause: Callable[[], None] = never) -> Sequence[Series]:
        """The series with the most requests since then, the busiest first."""
        requests = Counter[Labels]()
        for start, slot in self.slots.items():
            late = start >= int(since) // self.step * self.step
            for labels, (count, _, _) in slot.figures.items():
                requests[labels] += count if late else 0
            pause()
        names = sorted(requests, key=lambda labels: (-requests[labels], labels))[:most]
        unknown = self._unknown()
        columns: dict[Labels, tuple[list[int | None], list[int], list[Durations | None]]] = {
            labels: (unknown.copy(), [0] * len(unknown), [None] * len(unknown)) for labels in names
        }
        for start, slot in self.slots.items():
            index = (start - self.start) // self.step
            if 0 <= index < len(unknown):
                known = unknown[index] is not None
                timed = start >= self.timed
                for labels, figures in slot.figures.items():
                    column = columns.get(labels)
                    if column is not None:
                        if known:
                            column[0][index], column[1][index] = figures[:2]
                        if timed:
                            column[2][index] = figures[2]
            pause()
        return [
            Series(start=self.start, step=self.step, counts=counts, errors=errors, durations=times, labels=dict(labels))
            for labels, (counts, errors, times) in columns.items()
        ]

    def total(self, *, timed: bool = False, pause: Callable[[], None] = never) -> Series:
        """All of it as one series; with its durations only where they are wanted."""
        counts = self._unknown()
        errors = [0] * len(counts)
        durations: list[Durations | None] = [None] * len(counts) if timed else []
        for start, slot in self.slots.items():
            index = (start - self.start) // self.step
            if 0 <= index < len(counts):
                if counts[index] is not None:
                    counts[index] = sum(count for count, _, _ in slot.figures.values())
                    errors[index] = sum(failed for _, failed, _ in slot.figures.values())
                if timed and (whole := added(each for _, _, each in slot.figures.values() if each is not None)).lanes:
                    durations[index] = Durations(whole)
            pause()
        return Series(start=self.start, step=self.step, counts=counts, errors=errors, durations=durations)

    def _unknown(self) -> list[int | None]:
        """A bucket each: without requests where it is known, else `None`."""
        return [0 if self.known(start) else None for start in range(self.start, self.end, self.step)]


MARK = (COUNTS, RECORDED)


@lru_cache(maxsize=4_000)
def _labels_of(name: Name) -> Labels:
    if name[0] == USAGE:
        return ((name[1], name[2]),)
    if name[0] == TIMINGS:
        return (("route", name[2]), ("upstream", name[3]))
    return (("method", name[2]), ("route", name[1]))


@lru_cache(maxsize=4_000)
def _failed(name: Name) -> bool:
    if name[0] == TIMINGS:
        return name[4] != "499" and (not name[4].isdecimal() or int(name[4]) >= 500)
    return name[0] == REQUESTS and int(name[3]) >= 500
