"""Rows of the history as series of buckets on one grid, as the detectors read them.

A bucket is known where its marks (`RECORDED`) say that somebody counted for nine tenths of it at least: then what has
no row had no request. Else it is `None`: a recorder that was away is not to look like traffic that stayed away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from math import inf
from operator import mul

from traffic_cop_middleware.abstractions.history.ranges import MINUTE
from traffic_cop_middleware.abstractions.history.rows import RECORDED, summary_of_rows
from traffic_cop_middleware.abstractions.insights.values import Series
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Name
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, SCALE, Histogram, middle
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets, numbers_in
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, REQUESTS, TIMINGS, USAGE, WIDTHS, Summary
from traffic_cop_middleware.contracts import HistoryRow, Past

ENOUGH = 0.9
"""The share of a bucket that is to be recorded, or nobody knows."""
Labels = tuple[tuple[str, str], ...]


class _Figures:
    """What one series has, by the index of the bucket; plain numbers, of which the garbage collector has no trouble."""

    __slots__ = ("counts", "errors", "timed")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.errors: dict[int, int] = {}
        self.timed: dict[int, tuple[int, int]] = {}
        """The lowest bucket of durations, and their lanes (`Buckets`)."""

    def add(self, index: int, count: int, *, failed: bool) -> None:
        self.counts[index] = self.counts.get(index, 0) + count
        if failed:
            self.errors[index] = self.errors.get(index, 0) + count

    def time(self, index: int, buckets: Buckets) -> None:
        whole = Buckets(*self.timed.get(index, (0, 0)))
        whole.add(buckets.low, buckets.lanes)
        self.timed[index] = (whole.low, whole.lanes)

    def moved(self, first: int) -> None:
        """Count the buckets from that one on, and forget those before."""
        self.counts = {index - first: each for index, each in self.counts.items() if index >= first}
        self.errors = {index - first: each for index, each in self.errors.items() if index >= first}
        self.timed = {index - first: each for index, each in self.timed.items() if index >= first}


class Grid:
    """Collects rows of the history in buckets of `step` seconds from `start` to `end`, which lie on the steps.

    Rows come in any order and in parts, each once; those of other times are left out. Durations are kept from `timed`
    on (`None`: none are), and with `only` no other labels.
    """

    def __init__(
        self, start: int, end: int, step: int, *, timed: float | None = 0.0, only: Collection[Labels] | None = None
    ) -> None:
        self.start, self.end, self.step = start, end, step
        self._timed = inf if timed is None else timed
        self._only = only
        self._marks: dict[int, int] = {}
        self._of: dict[Labels, _Figures] = {}

    def add(self, rows: Iterable[Past], *, pause: Callable[[], None] = never) -> None:
        """Add rows: marks, and those of requests, upstreams or usage."""
        of: dict[int, list[HistoryRow]] = {}
        for past in rows:
            if self.start <= past.start < self.end:
                of.setdefault((past.start - self.start) // self.step, []).append(past.row)
        for index, some in of.items():
            self._add(index, summary_of_rows(some, pause=pause))
            pause()

    def _add(self, index: int, summary: Summary) -> None:
        for name, row in summary.rows.items():
            if name[:2] == (COUNTS, RECORDED):
                self._marks[index] = self._marks.get(index, 0) + row
            elif name[0] in (REQUESTS, USAGE) and (figures := self._figures(name)) is not None:
                failed = name[0] == REQUESTS and int(name[3]) >= 500
                figures.add(index, numbers_in(row, WIDTHS[name[0]])[0], failed=failed)
        timed = self.start + index * self.step >= self._timed
        for name, buckets in summary.durations.items():
            upstream = name[:2] == (TIMINGS, families.UPSTREAM)
            if (name[0] == REQUESTS or upstream) and timed and (figures := self._figures(name)) is not None:
                figures.time(index, buckets)
                if upstream:
                    failed = name[4] != "499" and (not name[4].isdecimal() or int(name[4]) >= 500)
                    figures.add(index, buckets.count, failed=failed)

    def _figures(self, name: Name) -> _Figures | None:
        labels = _labels_of(name)
        if self._only is not None and labels not in self._only:
            return None
        figures = self._of.get(labels)
        if figures is None:
            figures = self._of[labels] = _Figures()
        return figures

    def known(self, index: int) -> bool:
        """Whether somebody counted for (nearly) all of a bucket."""
        return self._marks.get(index, 0) * MINUTE >= ENOUGH * self.step

    def trimmed(self) -> None:
        """Begin with the first bucket that is known; and end before a last one that is not, as it is yet to come."""
        length = (self.end - self.start) // self.step
        first = min((index for index in self._marks if self.known(index)), default=0)
        if length > first and not self.known(length - 1):
            self.end -= self.step
        self.start += first * self.step
        self._marks = {index - first: marks for index, marks in self._marks.items()}
        for figures in self._of.values():
            figures.moved(first)

    def series(self, most: int, *, since: float, pause: Callable[[], None] = never) -> Sequence[Series]:
        """The series with the most requests since then, the busiest first."""
        begin = int(since - self.start) // self.step
        requests = {
            labels: sum(count for index, count in figures.counts.items() if index >= begin)
            for labels, figures in self._of.items()
        }
        found = []
        for labels in sorted(self._of, key=lambda labels: (-requests[labels], labels))[:most]:
            figures = self._of[labels]
            counts, errors = self._counted([figures])
            durations: list[Histogram | None] = [None] * len(counts)
            for index, timed in figures.timed.items():
                if index < len(counts):
                    durations[index] = histogram_of(Buckets(*timed))
                    pause()
            found.append(
                Series(
                    start=self.start,
                    step=self.step,
                    counts=counts,
                    errors=errors,
                    durations=durations,
                    labels=dict(labels),
                )
            )
        return found

    def total(self, *, timed: bool = False, pause: Callable[[], None] = never) -> Series:
        """All of it as one series; with its durations only where they are wanted."""
        counts, errors = self._counted([*self._of.values()])
        durations: list[Histogram | None] = []
        for index in range(len(counts)) if timed else ():
            whole = Buckets()
            for figures in self._of.values():
                whole.add(*figures.timed.get(index, (0, 0)))
            durations.append(histogram_of(whole) if whole.lanes else None)
            pause()
        return Series(start=self.start, step=self.step, counts=counts, errors=errors, durations=durations)

    def _counted(self, every: Sequence[_Figures]) -> tuple[list[int | None], list[int]]:
        length = max(0, self.end - self.start) // self.step
        counts: list[int | None] = [0 if self.known(index) else None for index in range(length)]
        errors = [0] * length
        for figures in every:
            for index, count in figures.counts.items():
                if index < length and (known := counts[index]) is not None:
                    counts[index] = known + count
            for index, count in figures.errors.items():
                if index < length and counts[index] is not None:
                    errors[index] += count
        return counts, errors


def _labels_of(name: Name) -> Labels:
    if name[0] == USAGE:
        return ((name[1], name[2]),)
    if name[0] == TIMINGS:
        return (("route", name[2]), ("upstream", name[3]))
    return (("method", name[2]), ("route", name[1]))


@cache
def _middle(index: int) -> float:
    """There are 1,500 at the most."""
    return middle(index, SCALE)


def histogram_of(buckets: Buckets) -> Histogram:
    """Durations as the detectors read them; their sum is that of the buckets' middles, so within 1.1 %."""
    found = Histogram(scale=SCALE)
    found.bins = dict(buckets.bins())
    found.total = sum(map(mul, map(_middle, found.bins), found.bins.values()))
    found.bounded = [0] * len(BOUNDS) + [sum(found.bins.values())]
    return found
