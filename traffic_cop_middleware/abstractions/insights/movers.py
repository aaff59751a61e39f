"""What changed most between two stretches of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from traffic_cop_middleware.abstractions.insights.baselines import confidence_of
from traffic_cop_middleware.abstractions.insights.sentences import HOUR, MINUTE, number, percent
from traffic_cop_middleware.abstractions.insights.values import Insight, Series, name_of

LEAST_CHANGE = 0.1
"""The share of itself by which something moves at least."""
LEAST_REQUESTS = 20
MOST_Z = 3.5
MOODS = 0.05
"""What traffic moves by itself, as a share."""
ENOUGH = 100


class _Rate(NamedTuple):
    requests: int
    seconds: float

    @property
    def each(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


def movers(before: Sequence[Series], after: Sequence[Series], *, most: int = 5) -> list[Insight]:
    """What gained or lost most requests from one stretch of time to another, the most first.

    The series of both are matched by their labels; what is missing in one had no request there. They are compared by
    requests per second of what is known, so the stretches may differ in length.
    """
    was, now = _rates(before), _rates(after)
    lengths = [max((rate.seconds for rate in rates.values()), default=0.0) for rates in (was, now)]
    if not all(lengths):
        return []
    changes = []
    for key in sorted({*was, *now}):
        one = was.get(key, _Rate(0, lengths[0]))
        other = now.get(key, _Rate(0, lengths[1]))
        if one.seconds and other.seconds:
            changes.append((key, one, other))
    total = sum(abs(other.each - one.each) for _, one, other in changes)
    start = min(series.start for series in after)
    moved = [(key, one, other, _z(one, other)) for key, one, other in changes if _told(one, other)]
    moved.sort(key=lambda each: (-abs(each[2].each - each[1].each), each[0]))
    return [_insight(dict(key), one, other, z, total=total, start=start) for key, one, other, z in moved[:most]]


def _rates(series: Iterable[Series]) -> Mapping[tuple[tuple[str, str], ...], _Rate]:
    found: dict[tuple[tuple[str, str], ...], _Rate] = {}
    for each in series:
        known = [count for count in each.counts if count is not None]
        key = tuple(sorted(each.labels.items()))
        requests, seconds = found.get(key, (0, 0.0))
        found[key] = _Rate(requests + sum(known), max(seconds, len(known) * float(each.step)))
    return found


def _z(one: _Rate, other: _Rate) -> float:
    """The change in standard deviations of chance and moods."""
    chance = one.requests / one.seconds**2 + other.requests / other.seconds**2
    moods = (MOODS * max(one.each, other.each)) ** 2
    spread = sqrt(chance + moods)
    return (other.each - one.each) / spread if spread else 0.0


def _told(one: _Rate, other: _Rate) -> bool:
    change = abs(other.each - one.each)
    enough = one.requests + other.requests >= LEAST_REQUESTS
    return enough and change >= LEAST_CHANGE * max(one.each, other.each) and abs(_z(one, other)) >= MOST_Z


def _insight(labels: dict[str, str], one: _Rate, other: _Rate, z: float, *, total: float, start: float) -> Insight:
    share = abs(other.each - one.each) / total
    if not one.requests:
        change = "new"
    elif not other.requests:
        change = "gone"
    else:
        change = f"{(other.each / one.each - 1) * 100:+.0f} %"
    length, word = (MINUTE, "a minute") if max(one.each, other.each) * MINUTE >= 10 else (HOUR, "an hour")
    rates = " -> ".join(number(round(rate.each * length, 1)) for rate in (one, other))
    return Insight(
        kind="mover",
        sentence=f"{name_of(labels)} {rates} requests {word} ({change}), {percent(share)} of all change",
        severity="info",
        start=start,
        labels=labels,
        evidence={
            "requests": float(other.requests),
            "per_second": round(other.each, 6),
            "share_of_change": round(share, 4),
        },
        baseline={"requests": float(one.requests), "per_second": round(one.each, 6)},
        confidence=confidence_of(abs(z), one.requests + other.requests, enough=ENOUGH),
    )
