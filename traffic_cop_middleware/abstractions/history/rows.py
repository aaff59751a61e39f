"""Between what a stretch of time came to and the rows that a history keeps of it.

A row has the figures of one route and method, of one gateway route, of one family of counters, of one metric of the
app's own, or of one kind of users: so a question reads no more than it asks for. Rows of several buckets add up as the
blobs of workers do (`metrics/summary.py`), buckets of durations included: no quantile is ever made of quantiles.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import MOST_NAMES, Name
from traffic_cop_middleware.abstractions.metrics.lanes import NUMBER
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW
from traffic_cop_middleware.abstractions.metrics.summary import (
    BUSINESS,
    COUNTS,
    FIRST_BYTE,
    TIMINGS,
    USAGE,
    Summary,
    encode,
    summed_up,
)
from traffic_cop_middleware.abstractions.metrics.usage import MOST
from traffic_cop_middleware.abstractions.metrics.windows import left_out
from traffic_cop_middleware.contracts import HistoryRow
from traffic_cop_middleware.contracts.history import MOST_WORD
from traffic_cop_middleware.contracts.usage import REST

UPSTREAMS = "upstreams"
"""The kind of rows about upstreams, one for each gateway route. Other kinds have the words of a summary's names."""
PERSONAL = ("user", "api_key")
"""Kinds of use that may name a person: no bucket has them for longer than hours are kept."""
RECORDED = "recorded"
"""The row, of the kind `COUNTS`, that says for how many minutes of a bucket somebody was there to count."""
Place = tuple[str, str, str]
"""Kind, name and method of a row."""


class Uncapped(Summary):
    """A summary that takes any number of names: for a sum of which the largest are kept afterwards (`capped`)."""

    __slots__ = ()

    def _limited(self, name: Name) -> Name:
        return name


def place_of(name: Name) -> Place:
    """The row that figures of this name are in."""
    kind = name[0]
    if kind in (COUNTS, TIMINGS):
        family = name[1]
        if family in (families.UPSTREAM, families.UPSTREAM_FAILED):
            return UPSTREAMS, name[2], ""
        return COUNTS, family, ""
    if kind in (USAGE, BUSINESS):
        return kind, name[1], ""
    kinds = {first_byte: of for of, first_byte in FIRST_BYTE.items()}
    return kinds.get(kind, kind), name[1], name[2]


def is_personal(row: HistoryRow) -> bool:
    """Whether it may name a person."""
    return row.kind == USAGE and row.name in PERSONAL


def rows_of(summary: Summary, *, pause: Callable[[], None] = never) -> Sequence[HistoryRow]:
    """What a stretch of time came to, as rows."""
    by_place = defaultdict[Place, Summary](Uncapped)
    for name, row in summary.rows.items():
        by_place[_shortened(place_of(name))].add_row(name, row)
    for name, buckets in summary.durations.items():
        by_place[_shortened(place_of(name))].add_durations(name, buckets.low, buckets.lanes)
    for name, level in summary.levels.items():
        by_place[_shortened(place_of(name))].add_level(name, level)
    pause()
    rows = []
    for place in sorted(by_place):
        rows.append(HistoryRow(*place, encode(by_place[place], pause=pause)))
        pause()
    return rows


def mark_of_a_minute() -> Sequence[HistoryRow]:
    """What says that a minute was recorded, be it that no request came: as rows, which add up as others do."""
    summary = Uncapped()
    summary.add_row((COUNTS, RECORDED), 1)
    return rows_of(summary)


def _shortened(place: Place) -> Place:
    """A route of which the name is too long to be kept goes by its beginning; its figures know the whole name."""
    kind, name, method = place
    return kind, name[:MOST_WORD], method


def summary_of_rows(rows: Iterable[HistoryRow], *, pause: Callable[[], None] = never) -> Summary:
    """Rows of any buckets, added up."""
    return summed_up((row.value for row in rows), unreadable=left_out, pause=pause, whole=Uncapped())


def rolled_up(rows: Iterable[HistoryRow], *, pause: Callable[[], None] = never) -> Sequence[HistoryRow]:
    """The rows of a coarser bucket, of those of the finer ones within it."""
    return rows_of(capped(summary_of_rows(rows, pause=pause)), pause=pause)


def capped(summary: Summary, *, most: int = MOST) -> Summary:
    """The same, with so many users of a kind at most: those with the most requests, and the rest as one.

    Of an app's own metrics so many series are left as a window has: the largest ones, of levels the latest.
    """
    users: dict[str, list[Name]] = defaultdict(list)
    for name in summary.rows:
        if name[0] == USAGE and name[2] != REST:
            users[name[1]].append(name)
    for kind, names in users.items():
        if len(names) > most:
            largest = set(heapq.nlargest(most, names, key=lambda name: (_requests(summary.rows[name]), name)))
            rest = sum(summary.rows.pop(name) for name in names if name not in largest)
            summary.add_row((USAGE, kind, REST), rest)
    _cap_business(summary)
    return summary


def _cap_business(summary: Summary, *, most: int = MOST_NAMES) -> None:
    series: dict[str, set[Name]] = defaultdict(set)
    for name in (*summary.rows, *summary.durations, *summary.levels):
        if name[0] == BUSINESS:
            series[name[1]].add(name)

    def size(name: Name) -> tuple[float, int, str]:
        return summary.levels[name].time if name in summary.levels else 0.0, summary.rows.get(name, 0), repr(name)

    for names in series.values():
        if len(names) > most:
            for name in names - {*heapq.nlargest(most, sorted(names), key=size)}:
                rest = (*name[:2], *(OVERFLOW for _ in name[2:]))
                if name == rest:
                    continue
                if name in summary.rows:
                    summary.add_row(rest, summary.rows.pop(name))
                if name in summary.durations:
                    buckets = summary.durations.pop(name)
                    summary.add_durations(rest, buckets.low, buckets.lanes)
                if name in summary.levels:
                    summary.add_level(rest, summary.levels.pop(name))


def _requests(row: int) -> int:
    return row & ((1 << 8 * NUMBER) - 1)
