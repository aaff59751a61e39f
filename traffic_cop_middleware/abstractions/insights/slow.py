"""Routes whose answers became slower, and how much of all added latency is theirs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log, sqrt
from typing import NamedTuple

from traffic_cop_middleware.abstractions.insights.baselines import centre_and_spread, confidence_of
from traffic_cop_middleware.abstractions.insights.runs import Run, joined, runs
from traffic_cop_middleware.abstractions.insights.sentences import percent, seconds, span
from traffic_cop_middleware.abstractions.insights.values import Insight, Series, Timed, merged
from traffic_cop_middleware.abstractions.metrics.histogram import bucket_of
from traffic_cop_middleware.abstractions.metrics.pauses import never

SHARE = 0.95
FEWEST = 20
"""Requests of a bucket whose p95 says anything."""
MOST_FACTOR = 12
"""By how much buckets are widened for that, at the most."""
DAY = 86_400
DAYS = 7
"""Days that are looked back."""
AROUND = 3600
"""Seconds of the day on each side of a bucket that it is compared with."""
KNOWN = 12
"""Values that are enough; with fewer at this time of the day all of the days before count."""
LEAST_KNOWN = 6
MOST_Z = 3.5
LEAST_RATIO, LEAST_ADDED = 1.3, 0.005
"""What is told is at least so many times as slow, and so many seconds slower."""
LEAST_ABOVE = 5.0
"""The z of how many requests are above the p95 of before."""
GAP = 1800
"""Seconds between two runs that are one."""
LEAST_SPREAD = 0.08
"""Of the logarithm: what a p95 by some dozen requests spreads by itself, and the width of a histogram's bucket."""


class Times(NamedTuple):
    """How long requests took, all together."""

    requests: int
    total: float
    p95: float

    @property
    def mean(self) -> float:
        return self.total / self.requests


class Shift(NamedTuple):
    """A route that became slower, in its own (perhaps wider) buckets."""

    series: Series
    run: Run
    before: Times
    now: Times
    z: float
    values: int


def slower(routes: Sequence[Series], *, since: float, pause: Callable[[], None] = never) -> list[Insight]:
    """Routes whose p95 rose beyond what is usual, for longer than `since` (Unix seconds).

    The p95 of a bucket is compared with those at the same time of the day (an hour on each side) of the seven days
    before `since`: median and MAD of the logarithm, z > 3.5 in two of three buckets, 1.3 times and 5 ms more at least.
    Each series is one route, with `durations`, on one grid; buckets with fewer than 20 requests are widened, up to an
    hour. The share of the added latency: seconds that its requests took beyond the mean before, of those of all routes
    that became slower in that time.
    """
    found = []
    for each in routes:
        if not each.durations:
            continue
        found += _shifts(_widened(each), since, pause)
    found.sort(key=lambda shift: (-_added(shift.before, shift.now), shift.series.name))
    return [_insight(shift, routes) for shift in found]


def _widened(series: Series) -> Series:
    """In buckets whose p95 says something."""
    known = [count for count in series.counts if count]
    typical = sorted(known)[len(known) // 2] if known else 0
    factor = 1
    while factor < MOST_FACTOR and typical * factor < FEWEST and 3600 % (series.step * factor * 2) == 0:
        factor *= 2
    return series.coarser(factor) if factor > 1 else series


def _shifts(series: Series, since: float, pause: Callable[[], None]) -> list[Shift]:
    begin = series.index(since)
    oldest = max(0, begin - DAYS * DAY // series.step)
    early = max(oldest, begin - AROUND // series.step)
    tails: dict[int, float] = {}
    for index in range(oldest, len(series)):
        each = series.durations[index]
        if each is not None and each.count >= FEWEST:
            tails[index] = log(each.quantile(SHARE) or 1e-7)
            pause()
    before = [index for index in tails if index < early]
    zs, values = [0.0] * len(series), [0] * len(series)
    for index in range(early, len(series)):
        pause()
        compared = _same_time(before, index, series.step)
        if index not in tails or len(compared) < LEAST_KNOWN:
            continue
        centre, spread = centre_and_spread([tails[each] for each in compared])
        z = (tails[index] - centre) / max(spread, LEAST_SPREAD)
        # A hiccup of a millisecond half an hour before would be told as the beginning.
        if tails[index] - centre > log(LEAST_RATIO) and exp(tails[index]) - exp(centre) >= LEAST_ADDED:
            zs[index], values[index] = z, len(compared)
    found = []
    for run in joined(runs([z > MOST_Z for z in zs[early:]], begin=early), gap=GAP // series.step):
        usual = [each for index in range(run.first, run.end) for each in _same_time(before, index, series.step)]
        was, now = (
            times_of(series.durations[each] for each in set(usual)),
            times_of(series.durations[run.first : run.end]),
        )
        if run.end <= begin or not was or not now:
            continue
        enough = now.p95 - was.p95 >= LEAST_ADDED and now.p95 >= LEAST_RATIO * was.p95
        if enough and z_above(series.durations[run.first : run.end], was.p95) >= LEAST_ABOVE:
            found.append(Shift(series, run, was, now, max(zs[run.first : run.end]), max(values[run.first : run.end])))
    return found


def _same_time(indices: Sequence[int], index: int, step: int) -> list[int]:
    """Those at the same time of the day; all where they are few. They are in order, and before `index`."""
    day, around = DAY // step, max(1, AROUND // step)
    near: list[int] = []
    for days in range((index - indices[0]) // day + 1, -1, -1) if indices else ():
        same = index - days * day
        near += indices[bisect_left(indices, same - around) : bisect_right(indices, same + around)]
    return near if len(near) >= KNOWN else list(indices)


def times_of(histograms: Iterable[Timed | None]) -> Times | None:
    """Durations as figures; `None` where nothing was timed."""
    both = merged(histograms)
    if both is None:
        return None
    return Times(both.count, both.total, both.quantile(SHARE) or 0.0)


def z_above(histograms: Iterable[Timed | None], usual: float) -> float:
    """How surely more than a twentieth took longer than `usual`, a p95: in standard deviations of chance.

    A p95 by some dozen requests jumps where the tail is long, in a way that no MAD knows of; how many are above the
    usual one does not.
    """
    both = merged(histograms)
    if both is None:
        return 0.0
    limit, tail = bucket_of(usual, both.scale), 1 - SHARE
    above = sum(count for index, count in both.bins.items() if index > limit)
    return (above - tail * both.count) / sqrt(tail * SHARE * both.count)


def _added(before: Times, now: Times) -> float:
    """Seconds that requests took beyond what they would have taken before."""
    return max(0.0, (now.mean - before.mean) * now.requests)


def _share(shift: Shift, routes: Sequence[Series]) -> float:
    """The part of one route in what all of them added meanwhile."""
    start, end = shift.series.time(shift.run.first), shift.series.time(shift.run.end)
    own, others = _added(shift.before, shift.now), 0.0
    for each in routes:
        if not each.durations or each.labels == shift.series.labels:
            continue
        first = each.index(start)
        now = times_of(each.durations[first : each.index(end)])
        before = times_of(each.durations[max(0, first - DAY // each.step) : first])
        if now is not None and before is not None:
            others += _added(before, now)
    return own / (own + others) if own else 0.0


def _insight(shift: Shift, routes: Sequence[Series]) -> Insight:
    series, run, was, now = shift.series, shift.run, shift.before, shift.now
    share, ratio = _share(shift, routes), now.p95 / was.p95
    happened = span(series, run.first, run.end)
    return Insight(
        kind="slow",
        sentence=f"{series.name} p95 {seconds(was.p95, now.p95)} {happened}, {percent(share)} of added latency",
        severity="critical" if ratio >= 3 and share >= 0.3 else "warning" if ratio >= 1.5 else "info",
        start=series.time(run.first),
        labels=dict(series.labels),
        evidence=_figures(now, share_of_added=round(share, 4), z=round(shift.z, 2), until=series.time(run.end)),
        baseline=_figures(was),
        confidence=confidence_of(shift.z, shift.values, enough=KNOWN),
    )


def _figures(times: Times, **more: float) -> Mapping[str, float]:
    return {"requests": float(times.requests), "p95": round(times.p95, 6), "mean": round(times.mean, 6), **more}
