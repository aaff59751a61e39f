"""Instances of a service that stand out among their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import NamedTuple

from traffic_cop_middleware.abstractions.insights.baselines import confidence_of, median
from traffic_cop_middleware.abstractions.insights.sentences import clock, number, percent, seconds
from traffic_cop_middleware.abstractions.insights.slow import times_of
from traffic_cop_middleware.abstractions.insights.values import Insight, Series, Severity, name_of

MOST_Z = 3.5
FEWEST = 50
"""Requests that an instance was to get, before anything is said of it."""
MOST_SHARE, LEAST_SHARE = 1.5, 0.5
"""Times its fair share: what is between is even enough."""
SLOWER = 2.0
LEAST_ADDED = 0.005
FAILS, LEAST_FAILS = 3.0, 0.02
MOODS = 0.1
"""What shares differ by where a policy goes by load and latency."""
ENOUGH = 200


class _Seen(NamedTuple):
    labels: Mapping[str, str]
    requests: int
    errors: int
    p95: float | None
    fair: float


@dataclass(frozen=True, slots=True)
class _About:
    kind: str
    start: float
    severity: Severity
    labels: Mapping[str, str]
    requests: int
    z: float
    evidence: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)

    def insight(self, sentence: str) -> Insight:
        return Insight(
            kind=self.kind,
            sentence=sentence,
            severity=self.severity,
            start=self.start,
            labels=dict(self.labels),
            evidence={"requests": float(self.requests), **self.evidence},
            baseline=self.baseline,
            confidence=confidence_of(self.z, self.requests, enough=ENOUGH),
        )


def imbalanced(instances: Sequence[Series], *, weights: Mapping[str, float] | None = None) -> list[Insight]:
    """Which instances of one service get more or less than their share, are slower, or fail more than the others.

    Each series is one instance (label `upstream`) over the same stretch of time; `weights` by that label, 1 by default.
    A share is told from 1.5 times or below half of the fair one, a p95 from twice the median of the others, errors from
    three times the share of the others and 2 %: each only where chance does not explain it (z > 3.5).
    """
    of = weights or {}
    weight = {series.labels.get("upstream", ""): of.get(series.labels.get("upstream", ""), 1.0) for series in instances}
    whole = sum(weight.values())
    if len(weight) < 2 or len(weight) != len(instances) or whole <= 0:
        return []
    seen = [_seen(series, weight[series.labels.get("upstream", "")] / whole) for series in instances]
    total = sum(each.requests for each in seen)
    start = min(series.start for series in instances)
    found = []
    uneven = [insight for each in seen for insight in _uneven(each, total, start)]
    # Where one gets nothing the others get more: the one that is furthest from its share is the news.
    found += sorted(uneven, key=lambda insight: -insight.confidence)[:1]
    for each in seen:
        others = [other for other in seen if other is not each]
        found += _slow(each, others, start)
        found += _fails(each, others, start)
    return found


def _seen(series: Series, fair: float) -> _Seen:
    times = times_of(series.durations)
    requests = sum(count or 0 for count in series.counts)
    return _Seen(series.labels, requests, sum(series.errors), times.p95 if times else None, fair)


def _uneven(each: _Seen, total: int, start: float) -> list[Insight]:
    expected = total * each.fair
    if expected < FEWEST:
        return []
    share = each.requests / total
    z = (each.requests - expected) / sqrt(expected * (1 - each.fair) + (MOODS * expected) ** 2)
    if abs(z) < MOST_Z or LEAST_SHARE <= share / each.fair <= MOST_SHARE:
        return []
    about = _About(
        "uneven", start, "warning", each.labels, each.requests, abs(z), {"share": round(share, 4)}, {"share": each.fair}
    )
    told = f"{name_of(each.labels)} gets {percent(share)} of the requests since {clock(start)} UTC"
    return [
        about.insight(f"{told} ({number(each.requests)} of {number(total)}), its fair share is {percent(each.fair)}")
    ]


def _slow(each: _Seen, others: Sequence[_Seen], start: float) -> list[Insight]:
    theirs = [other.p95 for other in others if other.p95 is not None and other.requests >= FEWEST]
    if each.p95 is None or not theirs or each.requests < FEWEST:
        return []
    usual = median(theirs)
    if each.p95 < SLOWER * usual or each.p95 - usual < LEAST_ADDED:
        return []
    about = _About(
        "slow_upstream",
        start,
        "warning",
        each.labels,
        each.requests,
        MOST_Z * each.p95 / usual / SLOWER,
        {"p95": round(each.p95, 6)},
        {"p95": round(usual, 6)},
    )
    return [
        about.insight(
            f"{name_of(each.labels)} p95 {seconds(each.p95)} since {clock(start)} UTC, the others {seconds(usual)}"
        )
    ]


def _fails(each: _Seen, others: Sequence[_Seen], start: float) -> list[Insight]:
    requests = sum(other.requests for other in others)
    if each.requests < FEWEST or not requests:
        return []
    share, usual = each.errors / each.requests, sum(other.errors for other in others) / requests
    expected = usual * each.requests
    z = (each.errors - expected) / sqrt(max(expected, 1.0))
    if z < MOST_Z or share < LEAST_FAILS or share < FAILS * usual:
        return []
    severity: Severity = "critical" if share >= 0.1 else "warning"
    about = _About(
        "failing_upstream",
        start,
        severity,
        each.labels,
        each.requests,
        z,
        {"share": round(share, 5), "errors": float(each.errors)},
        {"share": round(usual, 6)},
    )
    told = f"{name_of(each.labels)} fails {percent(share)} of its requests since {clock(start)} UTC"
    return [about.insight(f"{told} ({number(each.errors)} of {number(each.requests)}), the others {percent(usual)}")]
