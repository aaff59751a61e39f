"""What rows of the history and live minutes come to: the computing part of the answers, done in a thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import NamedTuple

from traffic_cop_middleware.abstractions.analytics import FoundFigures
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.business.results import (
    BusinessChange,
    BusinessFigure,
    BusinessHistory,
    BusinessPoint,
    BusinessTrend,
    BusinessUsage,
    UsageBy,
    UsageFigure,
)
from traffic_cop_middleware.abstractions.history.rows import Uncapped, summary_of_rows
from traffic_cop_middleware.abstractions.metrics.business import COST, MILLION, Level, fitted
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets, numbers_in
from traffic_cop_middleware.abstractions.metrics.summary import BUSINESS, REQUESTS, STREAMS, USAGE, WIDTHS, Summary
from traffic_cop_middleware.abstractions.metrics.usage import Used
from traffic_cop_middleware.contracts import HistoryRow

Pause = Callable[[], None]
Series = tuple[str, ...]
"""The values of a metric's attributes."""


class Step(NamedTuple):
    """What there is of a step."""

    start: int
    seconds: float
    summary: Summary


def steps_of(found: FoundFigures, step: int, pause: Pause) -> Iterator[Step]:
    """The steps of a stretch, oldest first, each added up when it is asked for."""
    rows: dict[int, list[HistoryRow]] = defaultdict(list)
    for past in found.past:
        rows[past.start // step * step].append(past.row)
    # On the minute the running one is there, though it has no length yet.
    last = max((start for start, minute in found.live.items() if minute.rows or minute.levels), default=0)
    for at in range(found.start // step * step, max(ceil(found.end), last + 1), step):
        summary = summary_of_rows(rows.pop(at, ()), pause=pause)
        for start, minute in found.live.items():
            if at <= start < at + step:
                summary.add(minute, pause=pause)
        begin = max(at, found.start)
        yield Step(begin, max(min(at + step, found.end) - begin, 0.0), summary)


def whole_of(found: FoundFigures, pause: Pause) -> Summary:
    """All of a stretch together."""
    summary = summary_of_rows((past.row for past in found.past), pause=pause)
    for minute in found.live.values():
        summary.add(minute, pause=pause)
    return summary


class _Sum:
    """What series of a metric come to together."""

    __slots__ = ("buckets", "level", "number", "there")

    def __init__(self) -> None:
        self.number = 0
        self.there = False
        self.buckets = Buckets()
        self.level: Level | None = None

    def figure(self, metric: BusinessMetric) -> BusinessFigure:
        if metric.kind == "gauge":
            if self.level is None:
                return BusinessFigure()
            time, last, low, high = self.level
            return BusinessFigure(value=last, low=low, high=high, at=time)
        if metric.kind == "count":
            return BusinessFigure(value=self.number)
        count, total = self.buckets.count, self.number / MILLION
        p50, p95, p99 = self.buckets.quantiles(0.5, 0.95, 0.99)
        return BusinessFigure(
            value=total, observations=count, mean=total / count if count else None, p50=p50, p95=p95, p99=p99
        )


def figures_by(
    metric: BusinessMetric, summary: Summary, key: Callable[[Series], str | Series]
) -> tuple[BusinessFigure, Mapping[str | Series, BusinessFigure]]:
    """A metric in all, and by what `key` makes of the values of its attributes, the largest first."""
    total, groups, width = _Sum(), defaultdict[str | Series, _Sum](_Sum), len(metric.attributes)
    for name, number in summary.rows.items():
        if name[:2] == (BUSINESS, metric.name):
            for each in (total, groups[key(fitted(name[2:], width))]):
                each.number += number
    for name, buckets in summary.durations.items():
        if name[:2] == (BUSINESS, metric.name):
            for each in (total, groups[key(fitted(name[2:], width))]):
                each.buckets.add(buckets.low, buckets.lanes)
    for name, level in summary.levels.items():
        if name[:2] == (BUSINESS, metric.name):
            for each in (total, groups[key(fitted(name[2:], width))]):
                each.level = level if each.level is None else each.level.with_(level)
    figures = {name: each.figure(metric) for name, each in groups.items()}
    return total.figure(metric), dict(sorted(figures.items(), key=lambda each: (-(each[1].value or 0), each[0])))


def history_of(
    metric: BusinessMetric, found: FoundFigures, by: str | None, step: int | None, *, pause: Pause
) -> BusinessHistory:
    """A metric in a stretch."""
    at = [*metric.attributes].index(by) if by is not None else None

    def figures(summary: Summary) -> tuple[BusinessFigure, Mapping[str, BusinessFigure]]:
        total, groups = figures_by(metric, summary, lambda values: "" if at is None else values[at])
        return total, {} if at is None else {str(name): figure for name, figure in groups.items()}

    points = []
    if step is None:
        whole = whole_of(found, pause)
    else:
        whole = Uncapped()
        for start, seconds, summary in steps_of(found, step, pause):
            total, groups = figures(summary)
            points.append(BusinessPoint(start=start, seconds=seconds, total=total, groups=groups))
            whole.add(summary, pause=pause)
    total, groups = figures(whole)
    return BusinessHistory(
        name=metric.name,
        kind=metric.kind,
        unit=metric.unit,
        start=found.start,
        end=found.end,
        by=by,
        total=total,
        groups=groups,
        points=points,
    )


def trend_of(now: BusinessHistory, before: BusinessHistory, week_before: BusinessHistory) -> BusinessTrend:
    """Three stretches side by side."""
    none = BusinessFigure()

    def change(name: str, each: Sequence[BusinessFigure]) -> BusinessChange:
        rates = [_rate(figure, history) for figure, history in zip(each, (now, before, week_before), strict=True)]
        return BusinessChange(
            name=name,
            now=each[0],
            before=each[1],
            week_before=each[2],
            change=_share(rates[0], rates[1]),
            week_change=_share(rates[0], rates[2]),
        )

    names = {**now.groups, **before.groups, **week_before.groups}
    groups = {
        name: change(name, [history.groups.get(name, none) for history in (now, before, week_before)]) for name in names
    }
    total = change("", (now.total, before.total, week_before.total))
    return BusinessTrend(now=now, before=before, week_before=week_before, total=total, groups=groups)


def _rate(figure: BusinessFigure, history: BusinessHistory) -> float | None:
    if history.kind == "gauge":
        return figure.value
    seconds = history.end - history.start
    return (figure.value or 0.0) / seconds if seconds else None


def _share(now: float | None, then: float | None) -> float | None:
    return None if now is None or not then else (now - then) / abs(then)


def usage_of(found: FoundFigures, by: UsageBy, *, pause: Pause) -> BusinessUsage:
    """Who used how much in a stretch."""
    summary = whole_of(found, pause)
    used = _routes(summary) if by == "route" else _users(summary, by)
    total = Used(*map(sum, zip(*used.values(), strict=True))) if used else Used()
    ordered = sorted(used.items(), key=lambda each: (-each[1].requests, each[0]))
    groups = {name: _usage(each) for name, each in ordered}
    return BusinessUsage(start=found.start, end=found.end, by=by, total=_usage(total), groups=groups)


def _usage(used: Used) -> UsageFigure:
    *counts, cost = used
    requests, errors, refused, bytes_in, bytes_out = counts
    return UsageFigure(
        requests=requests,
        errors=errors,
        refused=refused,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        cost=cost / MILLION,
    )


def _users(summary: Summary, kind: str) -> Mapping[str, Used]:
    return {
        name[2]: Used(*numbers_in(row, WIDTHS[USAGE]))
        for name, row in summary.rows.items()
        if name[:2] == (USAGE, kind)
    }


def _routes(summary: Summary) -> Mapping[str, Used]:
    found: dict[str, Used] = defaultdict(Used)
    for name, row in summary.rows.items():
        if name[0] in (REQUESTS, STREAMS):
            requests, bytes_in, bytes_out, _, _ = numbers_in(row, WIDTHS[name[0]])
            status = int(name[3])
            more = Used(
                requests, requests if status >= 500 else 0, requests if status == 429 else 0, bytes_in, bytes_out
            )
        elif name[:2] == (BUSINESS, COST):
            more = Used(cost=row)
        else:
            continue
        route = name[1] if name[0] != BUSINESS else name[2]
        found[route] = Used(*map(sum, zip(found[route], more, strict=True)))
    return found
