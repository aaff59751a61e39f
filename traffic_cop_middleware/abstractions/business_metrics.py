"""`BusinessMetricsAbstraction`: what an app counts of its own, who used how much, and what that cost.

Theory of operation. Counting writes into the figures of this worker that run (`metrics/recorder.py`), under a lock that
is held for a microsecond, so it may be done in any thread. From there they go the way of the requests: they are flushed
at every interval, added up over all workers, told to Prometheus, and kept in the history. What a worker that is killed
has counted since its last flush is lost, and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from math import inf, nextafter
from threading import get_ident
from time import perf_counter
from typing import Any, Literal, TypeVar, get_args

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction, FoundFigures
from traffic_cop_middleware.abstractions.business.costs import in_millionths, is_finite
from traffic_cop_middleware.abstractions.business.declarations import Attribute, BusinessMetric, Kind, SeriesOf
from traffic_cop_middleware.abstractions.business.export import (
    USAGE_COLUMNS,
    Row,
    Writing,
    columns_of,
    row_of,
    usage_rows,
)
from traffic_cop_middleware.abstractions.business.figures import (
    Step,
    figures_by,
    history_of,
    steps_of,
    trend_of,
    usage_of,
    whole_of,
)
from traffic_cop_middleware.abstractions.business.results import (
    BusinessHistory,
    BusinessTrend,
    BusinessUsage,
    UsageBy,
)
from traffic_cop_middleware.abstractions.history.questions import up_to_now
from traffic_cop_middleware.abstractions.history.ranges import DAY, MINUTE, Range, Window, bounds_of, step_of
from traffic_cop_middleware.abstractions.metrics.business import COST, Business, Level
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.summary import BUSINESS, REQUESTS, STREAMS, USAGE
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.loops import OneThread

T = TypeVar("T")
Format = Literal["csv", "json"]

MOST_COUNTED = 10**15
"""By one call; of what is observed too."""
SAME = 0.001
"""Seconds: within it a clock that did not go on is a coarse one, and what was said later stands all the same."""


class BusinessMetricsAbstraction:
    """Counts and tells what the app has declared (`business_metrics=[BusinessMetric("orders", "count"), …]`).

    `count`, `gauge` and `observe` do no I/O, take a microsecond or two, and may be called in any thread; the questions
    are open as `cop.analytics` is. Figures go up to this moment.
    """

    def __init__(
        self,
        metrics: Sequence[BusinessMetric],
        recorder: Recorder,
        *,
        analytics: Callable[[], AnalyticsAbstraction],
    ) -> None:
        self._series = {metric.name: SeriesOf(metric) for metric in metrics}
        self._recorder = recorder
        self._analytics = analytics
        self._thread = OneThread()
        self._said = 0.0
        """When a gauge was said last in this process."""

    # Counting

    def count(self, name: str, value: int = 1, /, **attributes: Attribute) -> None:
        """Add to a count: `cop.business_metrics.count("orders", plan="pro")`.

        `value` is a whole number from 0 to 10**15; money goes in its smallest unit, or into `observe`.

        Raises:
            ConfigurationError: no count of that name, or no such attribute, is declared; or the value can't be counted.
        """
        series = self._declared(name, "count")
        if type(value) is not int or not 0 <= value <= MOST_COUNTED:
            raise ConfigurationError(
                f"cop.business_metrics.count({name!r}, {value!r}): a whole number from 0 to {MOST_COUNTED}; what goes "
                "up and down is a gauge, what has a fraction is observed"
            )
        self._turn()
        with self._recorder.counting:
            self._running.add(series.of(attributes), value)

    def gauge(self, name: str, value: float, /, **attributes: Attribute) -> None:
        """Say what something is at this moment: `cop.business_metrics.gauge("queue_length", 17, queue="mails")`.

        Over all workers that stands which was said last, by their clocks: so a gauge is for what is one thing for all
        of them. What each worker has for itself needs an attribute that tells the workers apart.

        Raises:
            ConfigurationError: no gauge of that name, or no such attribute, is declared; or the value is not finite.
        """
        series = self._declared(name, "gauge")
        number = self._finite("gauge", name, value)
        self._turn()
        with self._recorder.counting:
            now = self._recorder.clock()
            if 0 <= self._said - now < SAME:
                now = nextafter(self._said, inf)
            self._said = now
            self._running.set(series.of(attributes), Level(now, number, number, number))

    def observe(self, name: str, value: float | Decimal, /, **attributes: Attribute) -> None:
        """Note a value, for sums and percentiles: `cop.business_metrics.observe("basket", 49.90, plan="pro")`.

        Sums are exact to a millionth, whatever is added up. Percentiles are of values from 1e-7 to 1e7: what is less or
        more counts as that.

        Raises:
            ConfigurationError: no observation of that name, or no such attribute, is declared; or the value is not
                from 0 to 10**15.
        """
        series = self._declared(name, "observe")
        number = self._finite("observe", name, value)
        if not 0 <= number <= MOST_COUNTED:
            raise ConfigurationError(
                f"cop.business_metrics.observe({name!r}, {value!r}): from 0 to {MOST_COUNTED}; what may be negative is "
                "a gauge"
            )
        self._turn()
        with self._recorder.counting:
            labelled, running = series.of(attributes), self._running
            running.add(labelled, in_millionths(value))
            running.histogram(labelled).add(number)

    @property
    def _running(self) -> Business:
        return self._recorder.running.business

    def _turn(self) -> None:
        """Begin a new slot where no request has: only the event loop's thread may."""
        recorder = self._recorder
        if perf_counter() >= recorder.due and get_ident() == recorder.thread:
            recorder.turn()

    def _declared(self, name: str, kind: Kind | None = None) -> SeriesOf:
        found = self._series.get(name)
        if found is None or (kind is not None and found.metric.kind != kind):
            known = ", ".join(f"{each.metric.name!r} ({each.metric.kind})" for each in self._series.values()) or "none"
            raise ConfigurationError(
                f"cop.business_metrics: no {kind or 'metric'} {name!r} is declared; there are: {known}. Write "
                f"TrafficCop(business_metrics=[BusinessMetric({name!r}, {kind or 'count'!r})])"
            )
        return found

    def _finite(self, how: str, name: str, value: object) -> float:
        if not is_finite(value):
            raise ConfigurationError(f"cop.business_metrics.{how}({name!r}, {value!r}): a finite number")
        return float(value)

    # Reading

    async def read(
        self, name: str, range: Window = "24h", *, by: str | None = None, step: str | timedelta | None = None
    ) -> BusinessHistory:
        """A metric over all workers: `await cop.business_metrics.read("orders", "7d", by="plan", step="1d")`.

        `range` and `step` as in `cop.analytics.traffic`, but up to this moment; `by` is one of its attributes. Two
        round trips to the documents, and some to the backend.

        Raises:
            ConfigurationError: no such metric, attribute, range or step.
            StoreUnavailable: the backend or the documents are away.
        """
        metric = self._declared(name).metric
        if by is not None and by not in metric.attributes:
            known = ", ".join(map(repr, metric.attributes)) or "none"
            raise ConfigurationError(f"cop.business_metrics: {name!r} has no attribute {by!r}; declared are {known}")
        seconds = None if step is None else step_of(step)
        found = await self._analytics().figures(range, kinds=[(BUSINESS, name)], step=seconds)
        return await self._computed(partial(history_of, metric, found, by, seconds))

    async def trends(self, name: str, range: Window = "24h", *, by: str | None = None) -> BusinessTrend:
        """How a metric changes: against the stretch of the same length right before, and the same one a week ago.

        Counts and sums are compared by the second, up to the last whole minute; gauges by their last values. As `read`.
        """
        start, end = bounds_of(range, self._recorder.clock())
        start, end = start // MINUTE * MINUTE, max(end // MINUTE, start // MINUTE + 1) * MINUTE
        week = 7 * DAY
        now, before, week_before = [
            await self.read(name, Range(max(0.0, begin), max(finish, MINUTE)), by=by)  # before 1970 nothing was counted
            for begin, finish in ((start, end), (2 * start - end, start), (start - week, end - week))
        ]
        return trend_of(now, before, week_before)

    async def usage(self, range: Window = "24h", *, by: UsageBy = "tenant") -> BusinessUsage:
        """Who used how much: requests, errors, refusals, bytes and cost.

        `by` is "user", "tenant", "plan", "api_key" or "route".

        Of what `metrics=True` counts; costs are those of `business_metrics_cost`. Users and API keys are kept for 13
        months: the answer begins no earlier (`start`). As `read`.
        """
        _check_usage(by)
        kinds = [(REQUESTS, None), (STREAMS, None), (BUSINESS, COST)] if by == "route" else [(USAGE, by)]
        found = await self._analytics().figures(range, kinds=kinds)
        return await self._computed(partial(usage_of, found, by))

    def export(
        self,
        range: Window = "24h",
        *,
        format: Format = "csv",
        names: Iterable[str] | None = None,
        step: str | timedelta | None = None,
        usage: UsageBy | None = None,
    ) -> AsyncIterator[str]:
        """All declared metrics (or those of `names`) by all their attributes, as text in pieces, one row a series:
        `StreamingResponse(cop.business_metrics.export("30d", step="1d"), media_type="text/csv")`.

        With `usage` ("user", "tenant", …) it is that instead. CSV is that of RFC 4180, its first line the columns;
        cells that a spreadsheet would take for a formula begin with an apostrophe. JSON is an array of objects. The
        columns depend on the declarations alone. No more than one metric's rows are in memory at once. As `read`.
        """
        if format not in get_args(Format):
            raise ConfigurationError(f"format={format!r}: there are 'csv' and 'json'")
        if isinstance(names, str) or not isinstance(names, Iterable | None):
            raise ConfigurationError(f"names={names!r}: a list of names")
        if usage is not None and (names is not None or step is not None):
            raise ConfigurationError("usage=… is exported by itself, over the whole range: leave out names and step")
        metrics = [self._declared(name).metric for name in (self._series if names is None else names)]
        seconds = None if step is None else step_of(step)
        if usage is not None:
            _check_usage(usage)
        up_to_now(range, self._recorder.clock(), step=seconds)  # now, and not when half of a response is sent
        as_csv = format == "csv"
        if usage is not None:
            return self._export_usage(Writing(USAGE_COLUMNS, as_csv=as_csv), range, usage)
        return self._export(Writing(columns_of(metrics), as_csv=as_csv), metrics, range, seconds)

    async def _export_usage(self, writing: Writing, window: Window, by: UsageBy) -> AsyncIterator[str]:
        usage = await self.usage(window, by=by)
        yield writing.head() + writing.rows(usage_rows(usage)) + writing.tail()

    async def _export(
        self, writing: Writing, metrics: Sequence[BusinessMetric], window: Window, step: int | None
    ) -> AsyncIterator[str]:
        start, end = bounds_of(window, self._recorder.clock())
        yield writing.head()
        ends = inf
        for metric in metrics:
            found = await self._analytics().figures(Range(start, end), kinds=[(BUSINESS, metric.name)], step=step)
            ends = min(ends, found.end)  # rows of one stretch have one name for it, however long the export takes
            steps = _steps(found._replace(end=ends), step)
            while (text := await self._computed(partial(_next_rows, writing, metric, steps))) is not None:
                if text:
                    yield text
        yield writing.tail()

    async def _computed(self, work: Callable[..., T]) -> T:
        return await self._thread.run(partial(work, pause=Pauses()))


def _check_usage(by: object) -> None:
    if by not in get_args(UsageBy):
        raise ConfigurationError(f"by={by!r}: there are {', '.join(map(repr, get_args(UsageBy)))}")


def _steps(found: FoundFigures, step: int | None) -> Any:
    pause = Pauses()
    if step is not None:
        return steps_of(found, step, pause)
    return (Step(found.start, found.end - found.start, whole_of(each, pause)) for each in (found,))


def _next_rows(writing: Writing, metric: BusinessMetric, steps: Any, *, pause: Callable[[], None]) -> str | None:
    """The rows of the next step as text; `None` where there is none."""
    step = next(steps, None)
    if step is None:
        return None
    start, seconds, summary = step
    _, series = figures_by(metric, summary, lambda values: values)
    rows: list[Mapping[str, Any]] = []
    for values, figure in series.items():
        row: Row = row_of(metric, tuple(values), figure, start, start + seconds)
        rows.append(row)
        pause()
    return writing.rows(rows)
