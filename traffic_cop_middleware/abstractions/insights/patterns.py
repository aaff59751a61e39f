"""The shape of the traffic: busiest hours, the week, latency against load, slow routes by hour. Hours are UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from traffic_cop_middleware.abstractions.insights.baselines import median
from traffic_cop_middleware.abstractions.insights.slow import LEAST_ABOVE, z_above
from traffic_cop_middleware.abstractions.insights.values import WEEK, Series, Timed, merged

HOUR, DAY = 3600, 86_400
HOURS = 168
MONDAY = 4 * DAY
"""1970-01-05, a Monday."""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEVELS = 5
FEWEST = 100
"""Requests of an hour of the day whose p95 is told."""
SLOWER = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyHour:
    """An hour of the week: `weekday` 0 is Monday, `rate` its requests a second as a median over the weeks, `share` how
    many times the mean over the week that is."""

    weekday: int
    hour: int
    rate: float
    times_the_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLevel:
    """Times while there was so much traffic: `rate` is requests a second, from the least to the most of the level;
    times are in seconds."""

    least_rate: float
    most_rate: float
    requests: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowHour:
    """A route at the hour of the day at which it is slowest; `usual_p95` is that of all hours, in seconds."""

    route: str
    hour: int
    p95: float
    usual_p95: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """How traffic is shaped. `week` has 168 rates (requests a second, medians over the weeks), from Monday, 00:00 UTC;
    `None` where nothing is known. `busiest` are the busiest hours of it, `load` latency against load from little to
    much, `slow_hours` routes that are slow at an hour of the day, the slowest for its usual first.
    """

    week: tuple[float | None, ...]
    busiest: tuple[BusyHour, ...]
    load: tuple[LoadLevel, ...]
    slow_hours: tuple[SlowHour, ...]


def patterns(total: Series, routes: Sequence[Series] = (), *, most: int = 5) -> Patterns:
    """The shape of `total`, and of the routes of it; series with `durations` for what concerns latency."""
    week = _week(total)
    return Patterns(week=week, busiest=_busiest(week, most), load=_load(total), slow_hours=_slow_hours(routes, most))


def _week(total: Series) -> tuple[float | None, ...]:
    hours: list[list[float]] = [[] for _ in range(HOURS)]
    by_hour = total.coarser(HOUR // total.step) if total.step < HOUR else total
    for index, count in enumerate(by_hour.counts):
        if count is not None:
            hours[int((by_hour.time(index) - MONDAY) % WEEK // HOUR)].append(count / HOUR)
    return tuple(median(each) if each else None for each in hours)


def _busiest(week: Sequence[float | None], most: int) -> tuple[BusyHour, ...]:
    known = [(rate, -at) for at, rate in enumerate(week) if rate]
    mean = sum(rate for rate, _ in known) / sum(rate is not None for rate in week) if known else 0.0
    return tuple(
        BusyHour(weekday=-at // 24, hour=-at % 24, rate=rate, times_the_mean=rate / mean)
        for rate, at in sorted(known, reverse=True)[:most]
    )


def _load(total: Series) -> tuple[LoadLevel, ...]:
    """Buckets in order of their traffic, in levels of as many."""
    timed: list[tuple[int, int]] = []
    for index, each in enumerate(total.durations):
        count = total.counts[index]
        if each is not None and count:
            timed.append((count, index))
    timed.sort()
    size, found = max(1, ceil(len(timed) / LEVELS)), []
    for begin in range(0, len(timed), size):
        part = timed[begin : begin + size]
        both = merged(total.durations[index] for _, index in part)
        if both is not None:
            found.append(
                LoadLevel(
                    least_rate=part[0][0] / total.step,
                    most_rate=part[-1][0] / total.step,
                    requests=both.count,
                    p50=both.quantile(0.5) or 0.0,
                    p95=both.quantile(0.95) or 0.0,
                )
            )
    return tuple(found)


def _slow_hours(routes: Sequence[Series], most: int) -> tuple[SlowHour, ...]:
    found = []
    for series in routes:
        hours: dict[int, list[Timed | None]] = {}
        for index, each in enumerate(series.durations):
            hours.setdefault(int(series.time(index) % DAY // HOUR), []).append(each)
        usual = merged(series.durations)
        timed = [
            (both.quantile(0.95) or 0.0, -hour, both.count) for hour, each in hours.items() if (both := merged(each))
        ]
        enough = [each for each in timed if each[2] >= FEWEST]
        if usual is None or len(enough) < 2:
            continue
        p95, hour, requests = max(enough)
        usual_p95 = usual.quantile(0.95) or 0.0
        slower = p95 >= SLOWER * median([each[0] for each in enough])
        if slower and z_above(hours[-hour], usual_p95) >= LEAST_ABOVE:
            found.append(SlowHour(route=series.name, hour=-hour, p95=p95, usual_p95=usual_p95, requests=requests))
    return tuple(sorted(found, key=lambda each: (-each.p95 / each.usual_p95, each.route))[:most])
