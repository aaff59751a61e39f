"""Questions to the history of the traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar, get_args

from traffic_cop_middleware.abstractions.history.groups import KIND_OF, grouped
from traffic_cop_middleware.abstractions.history.keeping import SETTLED
from traffic_cop_middleware.abstractions.history.ranges import (
    DAY,
    HOUR,
    MINUTE,
    Range,
    Window,
    aligned,
    bounds_of,
    cover,
    kept_from,
    step_of,
)
from traffic_cop_middleware.abstractions.history.results import (
    By,
    Change,
    Comparison,
    Order,
    Percentiles,
    Ranked,
    TrafficHistory,
    TrafficPoint,
)
from traffic_cop_middleware.abstractions.history.rows import PERSONAL, Uncapped, summary_of_rows
from traffic_cop_middleware.abstractions.metrics.histogram import SCALE
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets
from traffic_cop_middleware.abstractions.metrics.live import Traffic
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses
from traffic_cop_middleware.abstractions.metrics.summary import FIRST_BYTE, REQUESTS, USAGE, Summary
from traffic_cop_middleware.contracts import HistoryStore, Past
from traffic_cop_middleware.contracts.history import MOST_WORD, RESOLUTIONS
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.loops import OneThread

T = TypeVar("T")

MOST_POINTS = 3_000
"""Steps of an answer: two days by the minute."""


class Found(NamedTuple):
    """Rows of a stretch, oldest first, and where it begins and ends."""

    start: int
    end: int
    complete: bool
    rows: Sequence[Past]

    @property
    def first(self) -> int | None:
        """When the first bucket begins that has something."""
        return self.rows[0].start if self.rows else None


class HistoryQuestions:
    """What the traffic was. With `catch_up` the history is brought up to date before each question."""

    def __init__(
        self,
        history: HistoryStore | None,
        *,
        clock: Callable[[], float],
        thread: OneThread,
        catch_up: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._history = history
        self._clock = clock
        self._history_thread = thread
        self._catch_up = catch_up

    @property
    def _kept(self) -> HistoryStore:
        """The history.

        Raises:
            ConfigurationError: none is made.
        """
        if self._history is None:
            raise ConfigurationError("no history of the traffic is kept: leave metrics_history=False out")
        return self._history

    async def traffic(
        self,
        range: Window = "24h",
        *,
        by: By = "route",
        step: str | timedelta | None = None,
        route: str | None = None,
    ) -> TrafficHistory:
        """The traffic of a stretch of the past: `await cop.analytics.traffic("7d", by="tenant", step="1d")`.

        `range` is how long ago it began ("15m", "24h", "7d", a timedelta) or a `Range`; by "route", "status", "user",
        "tenant", "plan", "api_key" or "upstream" (along a `route` of the gateway, or of the app for "route" and
        "status", where one is given); with a `step` ("1m", "5m", "1h", "1d" of UTC) as points, too. A minute is there
        about 15 seconds after its end. Minutes are kept for 48 hours, 5 minutes for 35 days, hours for 13 months, days
        for ever, but users and API keys for 13 months at most: where that cuts off a part of the range, the answer
        begins later, and is not `complete`. Two round trips to the documents.

        Raises:
            ConfigurationError: no such range, group or step; more than 3,000 steps, or none that is still kept; no
                history is made (`metrics_history=False`).
            StoreUnavailable: the documents are away.
        """
        kind, name = _kind_of(by, route)
        seconds = None if step is None else step_of(step)
        found = await self._find(range, kind=kind, name=name, step=seconds)
        return await self._computed(_traffic_history, found, by, seconds)

    async def percentiles(
        self, range: Window = "24h", *, route: str | None = None, method: str | None = None
    ) -> Percentiles:
        """How long requests took: all, or those of a route, or of a method. As `traffic`, without the long streams.

        The durations of all buckets are added up, so the percentiles are those of the whole stretch.
        """
        found = await self._find(range, kind=REQUESTS, name=_kind_of("route", route)[1], step=None)
        rows = [past for past in found.rows if method in (None, past.row.method)]
        return await self._computed(_percentiles, found._replace(rows=rows))

    async def top(
        self, n: int = 10, *, by: By = "route", range: Window = "24h", order: Order = "requests"
    ) -> Sequence[Ranked]:
        """The first `n` routes, users, tenants, … by their requests, errors, refusals, bytes or times. As `traffic`.

        Those that have none of it are left out.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigurationError(f"top({n!r}): how many are to be given, a whole number from 1")
        if order not in get_args(Order):
            raise ConfigurationError(f"order={order!r}: there are {', '.join(map(repr, get_args(Order)))}")
        history = await self.traffic(range, by=by)
        whole = 0 if order in TIMES else getattr(history.total, order)
        groups = [(name, each, getattr(each, order)) for name, each in history.groups.items()]
        ranked = sorted((group for group in groups if group[2]), key=lambda group: (-group[2], group[0]))
        return [Ranked(name=name, traffic=each, share=of / whole if whole else None) for name, each, of in ranked[:n]]

    async def compare(self, window: Window = "24h", baseline: Window | None = None, *, by: By = "route") -> Comparison:
        """What has changed from the `baseline` to the `window`, in all and by group. As `traffic`.

        Without a baseline it is the stretch of the same length right before. Two stretches of different lengths are
        compared by their rates.
        """
        start, end = bounds_of(window, self._clock())
        before = await self.traffic(Range(max(0.0, 2 * start - end), start) if baseline is None else baseline, by=by)
        after = await self.traffic(Range(start, end), by=by)
        names = {**before.groups, **after.groups}
        none = Traffic()
        changes = [_change(name, before.groups.get(name, none), after.groups.get(name, none)) for name in names]
        changes.sort(key=lambda each: (-abs(each.after.rate - each.before.rate), each.name))
        return Comparison(before=before, after=after, total=_change("", before.total, after.total), changes=changes)

    async def _find(self, window: Window, *, kind: str, name: str | None, step: int | None) -> Found:
        """The rows that make up a stretch."""
        now = self._clock()
        through = int((now - SETTLED) // MINUTE) * MINUTE
        asked, until = bounds_of(window, now)
        start, end = aligned(asked, until, now=now, through=through)
        check_steps(start, end, step)
        start = _kept_from(start, end, now=now, step=step, persons=(kind, name) in PERSONS)
        complete = start - asked < (step or DAY)
        return Found(start, end, complete, await self.past(start, end, kind=kind, name=name, step=step))

    async def past(self, start: int, end: int, *, kind: str, name: str | None, step: int | None) -> Sequence[Past]:
        """The rows of an aligned stretch. Two round trips to the documents.

        Raises:
            ConfigurationError: no history is made.
            StoreUnavailable: the documents are away.
        """
        history = self._kept
        if self._catch_up is not None:
            await self._catch_up()
        due = {each[:2] for each in await history.due()}
        spans = cover(start, end, due=due, coarsest=step or RESOLUTIONS[-1])
        return await history.read(spans, kind=kind, name=name) if spans else []

    async def _computed(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._history_thread.run(partial(work, *arguments, pause=Pauses()))


TIMES = ("p50", "p95", "p99")
PERSONS = frozenset((USAGE, name) for name in PERSONAL)


def up_to_now(window: Window, now: float, *, step: int | None, persons: bool = False) -> tuple[int, int]:
    """The minutes around a stretch, the running one too, as far back as its steps (and `persons`) are kept.

    Raises:
        ConfigurationError: no such stretch; more than 3,000 steps, or none that is still kept.
    """
    through = (int(now // MINUTE) + 1) * MINUTE
    begin, finish = bounds_of(window, now)
    start, end = aligned(begin, finish, now=now, through=through)
    end = through if finish >= now else end  # on the minute too
    check_steps(start, end, step)
    return _kept_from(start, end, now=now, step=step, persons=persons), end


def _kept_from(start: int, end: int, *, now: float, step: int | None, persons: bool) -> int:
    """Where what is kept of a stretch begins.

    Raises:
        ConfigurationError: nothing of it is kept by such steps.
    """
    kept = kept_from(step or DAY, now, step=step or DAY)
    if start < end <= kept:
        raise ConfigurationError(f"step={step} s: no such steps are kept of this range. Take a longer step")
    if persons:
        kept = max(kept, kept_from(HOUR, now, step=DAY))
    return min(max(start, kept), max(start, end))


def check_steps(start: int, end: int, step: int | None) -> None:
    """Refuse more points than anybody reads.

    Raises:
        ConfigurationError: there are too many.
    """
    if step is not None and (end - start) // step > MOST_POINTS:
        raise ConfigurationError(
            f"{(end - start) // step} steps of {step} s: {MOST_POINTS} are the most. Take a longer step"
        )


def _kind_of(by: By, route: str | None) -> tuple[str, str | None]:
    if by not in KIND_OF:
        raise ConfigurationError(f"by={by!r}: there are {', '.join(map(repr, KIND_OF))}")
    kind, name = KIND_OF[by]
    if route is not None and name is not None:
        raise ConfigurationError(f"by={by!r}, route={route!r}: use is not counted by route; leave one of them out")
    return kind, name if route is None else route[:MOST_WORD]


def _summary(rows: Sequence[Past], pause: Callable[[], None]) -> Summary:
    return summary_of_rows((past.row for past in rows), pause=pause)


def _traffic_history(found: Found, by: By, step: int | None, *, pause: Callable[[], None]) -> TrafficHistory:
    points: Sequence[TrafficPoint] = ()
    if step is None:
        whole = _summary(found.rows, pause)
    else:
        points, whole = _points(found, by, step, pause)
    total, groups = grouped(whole, by, found.end - found.start, pause=pause)
    return TrafficHistory(
        start=found.start,
        end=found.end,
        complete=found.complete,
        first=found.first,
        by=by,
        total=total,
        groups=groups,
        points=points,
    )


def _points(found: Found, by: By, step: int, pause: Callable[[], None]) -> tuple[Sequence[TrafficPoint], Summary]:
    """The steps, and what they come to together."""
    of: dict[int, list[Past]] = {at: [] for at in range(found.start // step * step, found.end, step)}
    for past in found.rows:
        of[past.start // step * step].append(past)
    points, whole = [], Uncapped()
    for at, rows in of.items():
        summary = _summary(rows, pause)
        whole.add(summary, pause=pause)
        start = max(at, found.start)
        seconds = min(at + step, found.end) - start
        total, groups = grouped(summary, by, seconds, pause=pause)
        points.append(TrafficPoint(start=start, seconds=seconds, total=total, groups=groups))
    return points, whole


def _percentiles(found: Found, *, pause: Callable[[], None]) -> Percentiles:
    durations, first_byte = Buckets(), Buckets()
    for name, buckets in _summary(found.rows, pause).durations.items():
        if name[0] == REQUESTS:
            durations.add(buckets.low, buckets.lanes)
        elif name[0] == FIRST_BYTE[REQUESTS]:
            first_byte.add(buckets.low, buckets.lanes)
    p50, p75, p90, p95, p99, p999 = durations.quantiles(0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
    first_byte_p50, first_byte_p95 = first_byte.quantiles(0.5, 0.95)
    return Percentiles(
        start=found.start,
        end=found.end,
        first=found.first,
        requests=durations.count,
        p50=p50,
        p75=p75,
        p90=p90,
        p95=p95,
        p99=p99,
        p999=p999,
        first_byte_p50=first_byte_p50,
        first_byte_p95=first_byte_p95,
        buckets={2.0 ** ((index + 1) / (1 << SCALE)): count for index, count in durations.bins().items()},
    )


def _change(name: str, before: Traffic, after: Traffic) -> Change:
    return Change(
        name=name,
        before=before,
        after=after,
        rate_ratio=after.rate / before.rate if before.rate else None,
        p95_ratio=after.p95 / before.p95 if after.p95 and before.p95 else None,
        error_share=_error_share(after) - _error_share(before),
    )


def _error_share(traffic: Traffic) -> float:
    return traffic.errors / traffic.requests if traffic.requests else 0.0
