"""What stands out in the history, and its shape: which rows are read, and which detectors see them.

Theory of operation. A look judges the buckets of 5 minutes from `since` on. To know what is usual it needs no whole
month, only: the day before; the same day, and a little more, in each of four weeks before (slots of the week, and the
level that moves them); the same hours of the six days before (latency, errors). So a look at the last hour reads 1,900
buckets of a route where four weeks have 8,064. What was not read is unknown to the detectors, as what was not recorded.

Rows are read some hours at a time and added up in a thread, with pauses: no request waits for it. What the look before
has read of the past is kept (`kept.py`).
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

from traffic_cop_middleware.abstractions.history.keeping import SETTLED
from traffic_cop_middleware.abstractions.history.questions import HistoryQuestions
from traffic_cop_middleware.abstractions.history.ranges import (
    DAY,
    FIVE,
    HOUR,
    KEPT,
    MINUTE,
    Range,
    Window,
    bounds_of,
    cover,
)
from traffic_cop_middleware.abstractions.history.results import By
from traffic_cop_middleware.abstractions.history.rows import RECORDED, UPSTREAMS
from traffic_cop_middleware.abstractions.history.series import Grid
from traffic_cop_middleware.abstractions.insights.failing import failing
from traffic_cop_middleware.abstractions.insights.kept import KeptSlots, stretches
from traffic_cop_middleware.abstractions.insights.movers import movers
from traffic_cop_middleware.abstractions.insights.patterns import Patterns, patterns
from traffic_cop_middleware.abstractions.insights.quotas import Quota, Quotas, exhaustion, quotas_of
from traffic_cop_middleware.abstractions.insights.slow import slower
from traffic_cop_middleware.abstractions.insights.unused import ENOUGH_DAYS, Route, unused
from traffic_cop_middleware.abstractions.insights.unusual import unusual
from traffic_cop_middleware.abstractions.insights.upstreams import imbalanced
from traffic_cop_middleware.abstractions.insights.values import WEEK, Insight, Series
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, REQUESTS, STREAMS, USAGE, first_numbers
from traffic_cop_middleware.abstractions.metrics.windows import left_out
from traffic_cop_middleware.contracts import HistoryRow, HistoryStore, Past
from traffic_cop_middleware.contracts.usage import REST
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.loops import OneThread

LONGEST_LOOK = 7 * DAY
LONGEST_KEPT = 2 * HOUR
BEFORE, SAME_HOUR = 30 * HOUR, 2 * HOUR
"""Seconds before a look that are read in each of the weeks, and in each of the days before."""
WEEKS, DAYS = 4, 6
AT_ONCE = 36
"""Buckets that are read at a time."""
MOST_ROUTES = 500
MOST_NEAR_QUOTA = 20
"""Names of a kind whose quota is looked at: those that have used most."""
LEAST_USED = 0.05
RANKS = {"critical": 0, "warning": 1, "info": 2}
Span = tuple[int, int]
Declared = Mapping[str, Collection[str]]
"""The methods of each route that there is, by its template; none where it takes any."""


class InsightQuestions(HistoryQuestions):
    """What stands out, and how the traffic is shaped."""

    def __init__(
        self,
        history: HistoryStore | None,
        *,
        clock: Callable[[], float],
        thread: OneThread,
        catch_up: Callable[[], Awaitable[object]] | None = None,
        routes: Sequence[Callable[[], Declared]] = (),
    ) -> None:
        super().__init__(history, clock=clock, thread=thread, catch_up=catch_up)
        self._routes = routes
        self._slots = KeptSlots()

    async def insights(
        self,
        range: Window = "1h",
        *,
        routes: int = 50,
        quotas: Quotas | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Sequence[Insight]:
        """What stood out, as sentences with their evidence, baseline and confidence, what is worst first.

        Spikes and drops, of all traffic and by route; routes that became slower, and bursts of errors; upstreams that
        are slower or fail more than the others of their route; what moved most against the same time a week, or a day,
        ago. `range` is what is judged, up to 7 days; the time before is what it is compared with, whatever there is of
        it: some hours, the better two weeks and more. Only whole 5 minutes are judged, of the `routes` with the most
        requests (up to 500). Times in sentences are UTC.

        A look at a day or more also names the routes of this app, and of its gateway, that nobody asked for in the 28
        days before its end, where a week of them was recorded at least. WebSockets, and routes that are left out of
        the API's description (`include_in_schema=False`), are not among them.

        `quotas` say who may use how many requests, `{"tenant": "10000/day"}` or `{"tenant": {"acme": "10000/day"}}`
        (also "user", "plan", "api_key"): then it is told who is about to use theirs up; of each kind the 20 that used
        most. `weights` are the shares that upstreams are to have, by their name: then it is told who gets another one.

        Some dozen round trips to the documents, and seconds of CPU in a thread of its own: 2 for 50 routes and a month
        of history, and less than one where this process looked at an hour some minutes ago
        (`benchmarks/analytics.py`). Minutes in which no worker was there to count are known as such: they
        are no drop.

        Raises:
            ConfigurationError: a range, number or quota can't be used.
            StoreUnavailable: the documents are away.
        """
        _check_routes(routes)
        every = quotas_of(quotas)
        now = self._clock()
        start, upto = bounds_of(range, now)
        if upto - start > LONGEST_LOOK:
            raise ConfigurationError(
                f"insights({range!r}): what is judged are 7 days at the most; what is before is read"
            )
        end = _whole(min(upto, now - SETTLED), FIVE)
        since = _whole(max(start, 0.0), FIVE)
        await self._catch_up_once()
        found: list[Insight] = []
        spans = _looked_at(since, end, oldest=_whole(now - KEPT[FIVE], FIVE) + FIVE)
        if since < end and spans:
            # Times are compared with those of a week, and no more of them is kept in memory.
            grid = Grid(spans[0][0], end, FIVE, timed=since - WEEK - HOUR)
            kept = self._slots if end - since <= LONGEST_KEPT else None  # a longer look would keep too much
            await self._collect(grid, spans, REQUESTS, kept=kept)
            found += await self._computed(_of_requests, grid, since, routes)
            upstreams = Grid(since, end, FIVE)
            await self._collect(upstreams, [(since, end)], UPSTREAMS)
            found += await self._computed(_of_upstreams, upstreams, weights)
            if upto - start >= DAY:
                found += await self._of_unused(end)
        for kind, name, quota in every:
            found += await self._of_quota(kind, name, quota, now)
        return sorted(found, key=lambda each: (RANKS[each.severity], each.start, each.key))

    async def patterns(self, range: Window = "28d", *, routes: int = 50, most: int = 5) -> Patterns:
        """The shape of the traffic: the week by the hour, its busiest hours, latency against load, and routes that are
        slow at some hour of the day; hours are UTC.

        `range` is as in `traffic`, up to 13 months; the `most` of each are given, of the `routes` with the most
        requests. Hours in which no worker was there to count are left out. Some round trips to the documents.

        Raises:
            ConfigurationError: a range or number can't be used.
            StoreUnavailable: the documents are away.
        """
        _check_routes(routes)
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ConfigurationError(f"most={most!r}: how many of each are given, a whole number from 1")
        now = self._clock()
        start, upto = bounds_of(range, now)
        end = _whole(min(upto, now - SETTLED), HOUR)
        begin = max(_whole(start, HOUR), _whole(now - KEPT[HOUR], HOUR) + HOUR)
        await self._catch_up_once()
        grid = Grid(begin, max(begin, end), HOUR)
        if begin < end:
            await self._collect(grid, [(begin, end)], REQUESTS)
        return await self._computed(_patterns, grid, routes, most)

    @property
    def now(self) -> float:
        """The time by the clock that the traffic is counted by, in seconds since the epoch."""
        return self._clock()

    async def _catch_up_once(self) -> None:
        if self._catch_up is not None:
            await self._catch_up()

    async def _collect(
        self, grid: Grid, spans: Sequence[Span], kind: str, *, name: str | None = None, kept: KeptSlots | None = None
    ) -> None:
        """Read what there is of a kind in these stretches, and what was recorded at all; what is `kept` is not read."""
        history = self._kept
        due = {each[:2] for each in await history.due()}
        starts = [at for start, end in spans for at in builtins.range(start, end, grid.step)]
        if kept is not None:
            grid.slots.update(kept.of(grid, starts, due=due))
            starts = [start for start in starts if start not in grid.slots]
        for part in stretches(starts, grid.step, most=AT_ONCE):
            covered = [each for span in part for each in cover(*span, due=due, coarsest=grid.step)]
            await self._computed(grid.add, await history.read(covered, kind=COUNTS, name=RECORDED))
            await self._computed(grid.add, await history.read(covered, kind=kind, name=name))
        if kept is not None:
            kept.keep(grid, due=due)

    async def _of_unused(self, end: int) -> list[Insight]:
        declared = [each() for each in self._routes]
        start = _whole(end - ENOUGH_DAYS * DAY, DAY)
        if not any(declared):
            return []
        history = self._kept
        spans = cover(start, end, due={each[:2] for each in await history.due()}, coarsest=DAY)
        marks = await history.read(spans, kind=COUNTS, name=RECORDED)
        asked = [*await history.read(spans, kind=REQUESTS), *await history.read(spans, kind=STREAMS)]
        return await self._computed(_of_routes, declared, marks, asked, start, end)

    async def _of_quota(self, kind: str, name: str | None, quota: Quota, now: float) -> list[Insight]:
        begin = _whole(now, quota.period)
        used = (
            (await self.traffic(Range(float(begin), now), by=cast("By", kind))).groups if begin < now - MINUTE else {}
        )
        names = [name] if name is not None else [each for each in used if each != REST][:MOST_NEAR_QUOTA]
        near = [each for each in names if each in used and used[each].requests >= LEAST_USED * quota.limit]
        end = _whole(now - SETTLED, FIVE)
        start = _whole(begin - 2 * DAY, FIVE)
        if not near or start >= end:
            return []
        grid = Grid(start, end, FIVE, only={((kind, each),) for each in near})
        await self._collect(grid, [(start, end)], USAGE, name=kind)
        return await self._computed(_of_use, grid, quota)


def _check_routes(routes: int) -> None:
    if isinstance(routes, bool) or not isinstance(routes, int) or not 1 <= routes <= MOST_ROUTES:
        raise ConfigurationError(f"routes={routes!r}: how many are looked at one by one, from 1 to {MOST_ROUTES}")


def _whole(moment: float, step: int) -> int:
    return int(moment // step) * step


def _looked_at(since: int, end: int, *, oldest: int) -> Sequence[Span]:
    """What a look reads, oldest first."""
    margin = 900
    spans = [(since - BEFORE, end)]
    spans += [(since - BEFORE - margin - week * WEEK, end + margin - week * WEEK) for week in range(1, WEEKS + 1)]
    spans += [(since - SAME_HOUR - day * DAY, end + HOUR - day * DAY) for day in range(1, DAYS + 1)]
    found: list[Span] = []
    for first, last in sorted((max(0, oldest, first), min(last, end)) for first, last in spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        elif first < last:
            found.append((first, last))
    return found


def _of_requests(grid: Grid, since: int, most: int, *, pause: Callable[[], None]) -> list[Insight]:
    grid.trimmed()
    every = grid.series(most, since=since, pause=pause)
    total = grid.total(pause=pause)
    found = []
    for each in (total, *every) if len(every) > 1 else every:
        found += unusual(each, since=since)
        pause()
    found += slower(every, since=since, pause=pause)
    pause()
    for each in every:
        found += failing(each, since=since)
        pause()
    return found + _moved(every, since)


def _moved(every: Sequence[Series], since: int) -> list[Insight]:
    """What moved most against a week ago, or where that is not known, a day ago."""
    after = [_cut(each, since, each.end) for each in every]
    for back in (WEEK, DAY):
        before = [_cut(each, since - back, each.end - back) for each in every]
        if all(map(_is_known, (*before, *after))):
            return movers(before, after)
    return []


def _cut(series: Series, start: float, end: float) -> Series:
    first, last = series.index(start), series.index(end)
    first = last if series.time(first) != start else first  # it was not there yet
    return replace(series, start=series.time(first), counts=series.counts[first:last], errors=(), durations=())


def _is_known(series: Series) -> bool:
    return bool(series.counts) and all(count is not None for count in series.counts)


def _of_upstreams(grid: Grid, weights: Mapping[str, float] | None, *, pause: Callable[[], None]) -> list[Insight]:
    by_route: dict[str, list[Series]] = {}
    for each in grid.series(MOST_ROUTES, since=grid.start, pause=pause):
        by_route.setdefault(each.labels["route"], []).append(each)
    found: list[Insight] = []
    for instances in by_route.values():
        told = imbalanced(instances, weights=weights)
        # Shares differ by design: by weights, sticky sessions, latency. Only who says what is fair hears of it.
        found += [each for each in told if each.kind != "uneven" or weights is not None]
    return found


def _of_routes(
    declared: Sequence[Declared],
    marks: Sequence[Past],
    asked: Sequence[Past],
    start: int,
    end: int,
    *,
    pause: Callable[[], None],
) -> list[Insight]:
    requests = Counter[Route]()
    for _, row in asked:
        requests[row.name, row.method] += _count_of(row)
        pause()
    minutes = sum(_count_of(row) for _, row in marks)
    routes = {(name, method) for each in declared for name, methods in each.items() for method in methods or [""]}
    return unused(routes, requests, start=start, end=end, days=minutes * MINUTE / DAY)


def _count_of(row: HistoryRow) -> int:
    try:
        counts, _ = first_numbers(row.value, timed=())
    except ValueError as exc:
        left_out(exc)
        return 0
    return sum(count for _, count in counts)


def _of_use(grid: Grid, quota: Quota, *, pause: Callable[[], None]) -> list[Insight]:
    found: list[Insight] = []
    grid.trimmed()
    for each in grid.series(MOST_NEAR_QUOTA, since=grid.start, pause=pause):
        found += exhaustion(each, quota, now=each.end)
    return found


def _patterns(grid: Grid, routes: int, most: int, *, pause: Callable[[], None]) -> Patterns:
    return patterns(grid.total(timed=True, pause=pause), grid.series(routes, since=grid.start, pause=pause), most=most)
