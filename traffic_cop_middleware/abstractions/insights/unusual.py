"""More or less traffic than usual at this time of the week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from traffic_cop_middleware.abstractions.insights.baselines import Baseline, LastHours, SlotsOfTheWeek, confidence_of
from traffic_cop_middleware.abstractions.insights.runs import NEEDED, WITHIN, runs
from traffic_cop_middleware.abstractions.insights.sentences import MINUTE, number, percent, rate, span
from traffic_cop_middleware.abstractions.insights.values import WEEK, Insight, Series, Severity

MOST_Z = 3.5
WIDTHS = {1: MOST_Z, 3: 3.65}
"""Buckets that are judged together, each with the z that is off: what is small and lasts shows in sums."""
LEAN = 1.0
"""The z of a bucket that leans to one side."""
LEAST_OFF = 5
"""Requests by which a bucket is off at least: less is nobody's trouble."""
HISTORY = 2 * WEEK
"""Seconds before the slots of the week are believed; until then it is the last hours."""
ENOUGH = 12


class Stretch(NamedTuple):
    """Buckets with too much traffic (`up`) or too little.

    It was known when bucket `known` had ended; `z` is the furthest.
    """

    first: int
    end: int
    known: int
    up: bool
    z: float


class Judge:
    """How far off the buckets of a series are."""

    def __init__(self, series: Series, *, slots: bool) -> None:
        kind = SlotsOfTheWeek if slots else LastHours
        self.slots = slots
        self._judged: list[tuple[int, Series, Baseline]] = [
            (width, summed, kind(summed)) for width in WIDTHS for summed in [_summed(series, width)]
        ]
        self.baseline = self._judged[0][2]

    def single(self, index: int) -> float:
        """The z of one bucket; 0 where nobody knows."""
        _, series, baseline = self._judged[0]
        count, usual = series.counts[index], baseline.usual(index)
        return 0.0 if count is None or usual is None else usual.z(count)

    def worst(self, index: int) -> float:
        """The z of a bucket, or of the sum that ends with it, whichever is further off; 0 where neither is.

        A sum is off where two of its buckets lean that way: one alone is in three sums, and would pass for a stretch.
        """
        worst = 0.0
        for width, series, baseline in self._judged:
            count, usual = series.counts[index], baseline.usual(index)
            if count is None or usual is None or abs(count - usual.centre) < LEAST_OFF:
                continue
            z = usual.z(count)
            if abs(z) > max(WIDTHS[width], abs(worst)) and (width == 1 or self._leans(index, width, z > 0)):
                worst = z
        return worst

    def _leans(self, index: int, width: int, up: bool) -> bool:
        leaning = [self.single(each) * (1 if up else -1) > LEAN for each in range(index - width + 1, index + 1)]
        return sum(leaning) >= NEEDED

    def stretches(self, begin: int) -> list[Stretch]:
        """Where traffic was off for two of three buckets, from bucket `begin` on."""
        series = self._judged[0][1]
        zs = [self.worst(index) for index in range(begin, len(series))]
        found = []
        for up in (True, False):
            for first, end, known in runs([z > 0 if up else z < 0 for z in zs], begin=begin):
                z = max((zs[each - begin] for each in range(first, end)), key=abs)
                if (z > 0) == up:
                    found.append(Stretch(*self._trimmed(first, end, z), known, up, z))
        return sorted(found)

    def _trimmed(self, first: int, end: int, z: float) -> tuple[int, int]:
        """The same without what only a sum made part of it, and with what began within a sum's first bucket."""
        least = max(MOST_Z / 2, abs(z) / 4)
        sign = 1 if z > 0 else -1
        widest = max(WIDTHS)
        inside = [each for each in range(max(0, first - widest + 1), end) if self.single(each) * sign > least]
        return (inside[0], inside[-1] + 1) if inside else (first, end)


def unusual(series: Series, *, since: float) -> list[Insight]:
    """Spikes and drops that lasted beyond `since` (Unix seconds).

    Against the same slots of the weeks before where the series has two weeks before `since`, else against its last
    hours. `series` has up to four weeks before, in buckets of 5 minutes for what was measured; others work.
    """
    begin = series.index(since)
    judge = Judge(series, slots=begin * series.step >= HISTORY)
    stretches, reach = list[Stretch](), WITHIN
    while reach < 8 * len(series) + WITHIN:
        early = max(0, begin - reach)
        stretches = judge.stretches(early)
        if not early or not any(each.first <= early + WITHIN for each in stretches):
            break
        reach *= 8  # what goes on now began before that: since when?
    return [
        _insight(series, judge, each)
        for each in stretches
        if each.end > begin and any(count is not None for count in series.counts[each.first : each.end])
    ]


def _insight(series: Series, judge: Judge, stretch: Stretch) -> Insight:
    counted = expected = 0.0
    known, values = 0, ENOUGH
    for index in range(stretch.first, stretch.end):
        count, usual = series.counts[index], judge.baseline.usual(index)
        if count is not None and usual is not None:
            counted, expected, known = counted + count, expected + usual.centre, known + 1
            values = min(values, usual.values)
    length = known * series.step
    ratio = counted / expected if expected else 0.0
    against = "usual at this time of the week" if judge.slots else "usual in the hours before"
    happened = span(series, stretch.first, stretch.end)
    goes_on = happened.startswith("since")
    what = f"{series.name} {'has' if goes_on else 'had'} {rate(counted, length)} {happened}"
    usual_rate = rate(expected, length)
    if not stretch.up and not counted:
        told = f"{what}, where {usual_rate} are {against}"
    elif not stretch.up:
        told = f"{what}, {percent(ratio)} of the {usual_rate} that are {against}"
    elif expected >= 1:
        told = f"{what}, {number(round(ratio, 1))} times the {usual_rate} that are {against}"
    else:
        told = f"{what}, where next to none are {against}"
    return Insight(
        kind="spike" if stretch.up else "drop",
        sentence=told,
        severity=_severity(stretch.up, ratio),
        start=series.time(stretch.first),
        labels=dict(series.labels),
        evidence={
            "requests": counted,
            "per_minute": round(counted / length * MINUTE, 3) if length else 0.0,
            "z": round(stretch.z, 2),
            "until": series.time(stretch.end),
        },
        baseline={
            "requests": round(expected, 1),
            "per_minute": round(expected / length * MINUTE, 3) if length else 0.0,
            "values": float(values),
        },
        confidence=confidence_of(abs(stretch.z), values, enough=ENOUGH),
    )


def _severity(up: bool, ratio: float) -> Severity:
    if up:
        return "warning" if ratio >= 2 or ratio == 0 else "info"
    return "critical" if ratio <= 0.5 else "warning"


def _summed(series: Series, width: int) -> Series:
    """Each bucket with those before it, `width` in all; unknown where one of them is."""
    if width == 1:
        return series
    sums = [0, *accumulate([count or 0 for count in series.counts])]
    holes = [0, *accumulate([count is None for count in series.counts])]
    counts: Sequence[int | None] = [
        sums[at] - sums[at - width] if at >= width and holes[at] == holes[at - width] else None
        for at in range(1, len(series) + 1)
    ]
    return replace(series, counts=counts, errors=(), durations=())
