"""Bursts of errors."""

from __future__ import annotations

from math import sqrt

from traffic_cop_middleware.abstractions.insights.baselines import centre_and_spread, confidence_of
from traffic_cop_middleware.abstractions.insights.runs import Run, joined, runs
from traffic_cop_middleware.abstractions.insights.sentences import number, percent, span
from traffic_cop_middleware.abstractions.insights.values import Insight, Series

DAYS = 7
MOST_Z = 3.5
FEWEST_ERRORS = 3
"""Errors of a bucket that count as off at all; of a stretch it is twice as many."""
LEAST_RATIO, LEAST_SHARE = 3.0, 0.01
"""What is told is at least so many times the usual share, and so much of the requests."""
GAP = 1800
"""Seconds between two bursts that are one."""
HOUR = 3600
ENOUGH = 1000


def failing(series: Series, *, since: float) -> list[Insight]:
    """Bursts of failed requests that lasted beyond `since` (Unix seconds).

    The errors of a bucket are compared with what the share of the seven days before would make of its requests. Their
    spread is that of chance (a Poisson's), or that of those days where it is more; z > 3.5 in two of three buckets,
    three times the usual share, and 1 % of the requests at least.
    """
    begin = series.index(since)
    early = max(0, begin - HOUR // series.step)
    oldest = max(0, early - DAYS * 86_400 // series.step)
    if not series.errors:
        return []
    pairs = [(series.errors[each], series.counts[each] or 0) for each in range(oldest, early) if series.counts[each]]
    requests = sum(count for _, count in pairs)
    usual = _usual_share(pairs)
    noise = _noise(pairs, usual)
    zs = []
    for index in range(early, len(series)):
        count, errors = series.counts[index] or 0, series.errors[index]
        expected = usual * count
        z = (errors - expected) / sqrt(max(expected, 1.0) + noise * expected * expected)
        off = errors >= FEWEST_ERRORS and errors > LEAST_RATIO * expected and errors >= LEAST_SHARE * count
        zs.append(z if off else 0.0)
    found = []
    bad = [z > MOST_Z or (z > 0 and _half_fail(series, early + at)) for at, z in enumerate(zs)]
    for run in joined(runs(bad, begin=early), gap=GAP // series.step):
        failed = sum(series.errors[run.first : run.end])
        if run.end > begin and failed >= 2 * FEWEST_ERRORS:
            found.append(_insight(series, run, usual, requests, max(zs[run.first - early : run.end - early])))
    return found


def _half_fail(series: Series, index: int) -> bool:
    """Whether half of what came failed: of so few requests that z alone would not say it."""
    return 2 * series.errors[index] >= (series.counts[index] or 0)


def _usual_share(pairs: list[tuple[int, int]]) -> float:
    """The share that fails, without the worst twentieth of the buckets: bursts of the past are not usual."""
    kept = sorted(pairs, key=lambda pair: pair[0] / pair[1])
    kept = kept[: len(kept) - len(kept) // 20]
    requests = sum(count for _, count in kept)
    return sum(errors for errors, _ in kept) / requests if requests else 0.0


def _noise(pairs: list[tuple[int, int]], share: float) -> float:
    """The relative variance of the errors beyond chance."""
    busy = [errors / (share * count) for errors, count in pairs if share * count >= 4]
    if len(busy) < 6:
        return 0.0
    _, spread = centre_and_spread(busy)
    chance = sum(1 / (share * count) for errors, count in pairs if share * count >= 4) / len(busy)
    return max(0.0, spread * spread - chance)


def _insight(series: Series, run: Run, usual: float, known: int, z: float) -> Insight:
    failed = sum(series.errors[run.first : run.end])
    count = max(failed, sum(each or 0 for each in series.counts[run.first : run.end]))
    share = failed / count
    happened = span(series, run.first, run.end)
    verb = "fails" if happened.startswith("since") else "failed"
    return Insight(
        kind="errors",
        sentence=(
            f"{series.name} {verb} for {percent(share)} of its requests {happened} "
            f"({number(failed)} of {number(count)}), usual is {percent(usual) if usual else 'next to none'}"
        ),
        severity="critical" if share >= 0.1 else "warning",
        start=series.time(run.first),
        labels=dict(series.labels),
        evidence={
            "errors": float(failed),
            "requests": float(count),
            "share": round(share, 5),
            "z": round(z, 2),
            "until": series.time(run.end),
        },
        baseline={"share": round(usual, 6), "requests": float(known)},
        confidence=confidence_of(max(z, MOST_Z), known, enough=ENOUGH),
    )
