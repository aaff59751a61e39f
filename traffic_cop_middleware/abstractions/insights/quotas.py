"""When a quota will be used up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from traffic_cop_middleware.abstractions.insights.baselines import median
from traffic_cop_middleware.abstractions.insights.sentences import clock, number, percent, short
from traffic_cop_middleware.abstractions.insights.values import WEEK, Insight, Series
from traffic_cop_middleware.abstractions.metrics.usage import KINDS
from traffic_cop_middleware.abstractions.policies import parse_rates
from traffic_cop_middleware.errors import ConfigurationError

Quotas = Mapping[str, str | Mapping[str, str]]
"""By kind of use: a quota for each of that kind, or by name."""

HOUR, DAY = 3600, 86_400
WORDS = {HOUR: "hour", DAY: "day", WEEK: "week"}
RECENT = 7200
"""Seconds whose rate is gone on with where the days before say nothing."""
SHORTEST = 1800
"""Seconds that must be known of a period before it is forecast by its own rate."""
LEAST_USED = 0.05
"""The share of a quota that is used before anything is said: of little, nothing follows."""


class Quota(NamedTuple):
    """What may be used in a period of so many seconds; periods are counted from 1970, as days in UTC are."""

    limit: float
    period: int = DAY


def quotas_of(written: Quotas | None, *, setting: str = "quotas") -> Sequence[tuple[str, str | None, Quota]]:
    """Kind, name (`None`: each) and quota of all that is written in `setting`.

    Raises:
        ConfigurationError: there is no such kind, or a quota can't be used.
    """
    if written is None:
        return []
    if not isinstance(written, Mapping):
        raise ConfigurationError(f"{setting}={written!r}: by kind, {{'tenant': '10000/day'}}")
    found: list[tuple[str, str | None, Quota]] = []
    for kind, each in written.items():
        if kind not in KINDS:
            raise ConfigurationError(f"{setting}={{{kind!r}: …}}: there are {', '.join(map(repr, KINDS))}")
        of_names = [*each.items()] if isinstance(each, Mapping) else [(None, each)]
        for name, text in of_names:
            if name is not None and not isinstance(name, str):
                raise ConfigurationError(f"{setting}={{{kind!r}: {{{name!r}: …}}}}: names are written as strings")
            try:
                rates = parse_rates(text)
            except ConfigurationError as exc:
                raise ConfigurationError(f"{setting}={{{kind!r}: …}}: {exc}") from exc
            if any(not HOUR <= rate.seconds <= WEEK for rate in rates):
                raise ConfigurationError(f"{setting}={{{kind!r}: {text!r}}}: a period from an hour to a week")
            found += [(kind, name, Quota(rate.count, rate.seconds)) for rate in rates]
    return found


def exhaustion(used: Series, quota: Quota, *, now: float) -> list[Insight]:
    """Whether a quota is used up before its period ends, and at about what time: one insight, or none.

    `used` has in `counts` what was used, whatever the unit, of this period and, the better, of up to four weeks
    before. The rest of the period is forecast by the median of what the same time of the same weekday used (with less
    than two such weeks: of the same time of all days), in the proportion that this period has used so far; without a
    whole day before, by the rate of the last two hours.
    """
    begin = now // quota.period * quota.period
    first, upto = used.index(begin), used.index(now)
    mine = [each or 0 for each in used.counts[first:upto]]
    total = sum(mine)
    if total >= quota.limit:
        return [_used_up(used, quota, begin, mine)]
    left = int((begin + quota.period - now) // used.step)
    if total < LEAST_USED * quota.limit or len(mine) * used.step < min(SHORTEST, quota.period // 4):
        return []
    rates, days = _forecast(used, first, upto, left, quota)
    at, sum_then = now, float(total)
    for each in rates:
        if each > 0 and sum_then + each >= quota.limit:
            at += (quota.limit - sum_then) / each * used.step
            return [_insight(used, quota, now, at, total=total, by_end=total + sum(rates), days=days)]
        sum_then, at = sum_then + each, at + used.step
    return []


def _forecast(used: Series, first: int, upto: int, left: int, quota: Quota) -> tuple[list[float], int]:
    """What each of the next buckets will use, and by how many days before that is known (0: by the last hours)."""
    for length, least in ((WEEK // used.step, 2), (DAY // used.step, 1)):
        backs = [back * length for back in range(1, 29) if first - back * length >= 0][:7]
        if len(backs) >= least and quota.period <= DAY:
            usual = [median([used.counts[each - back] or 0 for back in backs]) for each in range(first, upto + left)]
            so_far = sum(usual[: upto - first])
            if so_far > 0:
                ratio = sum(each or 0 for each in used.counts[first:upto]) / so_far
                return [each * ratio for each in usual[upto - first :]], len(backs)
    recent = [each or 0 for each in used.counts[max(first, upto - RECENT // used.step) : upto]]
    return [sum(recent) / len(recent)] * left, 0


def _named(quota: Quota) -> str:
    period = WORDS.get(quota.period)
    return f"{short(quota.limit)}/{period}" if period else f"{short(quota.limit)} in {number(quota.period)} s"


def _used_up(used: Series, quota: Quota, begin: float, mine: Sequence[int]) -> Insight:
    total, at, so_far = sum(mine), begin, 0
    for index, each in enumerate(mine):
        so_far += each
        if so_far >= quota.limit:
            at = begin + (index + 1) * used.step
            break
    return Insight(
        kind="quota",
        sentence=(
            f"{used.name} has used up {_named(quota)} since {clock(at, day=used.end - 1)} UTC ({number(total)} so far)"
        ),
        severity="critical",
        start=at,
        labels=dict(used.labels),
        evidence={"used": float(total), "exhausted_at": at},
        baseline={"limit": float(quota.limit), "period": float(quota.period)},
        confidence=1.0,
    )


def _insight(used: Series, quota: Quota, now: float, at: float, *, total: float, by_end: float, days: int) -> Insight:
    share = total / quota.limit
    # The nearer, and the more days it is known by, the surer.
    confidence = round(min(0.95, 0.4 + 0.35 * share + 0.05 * min(days, 4)), 2)
    return Insight(
        kind="quota",
        sentence=(
            f"{used.name} exhausts {_named(quota)} at about {clock(round(at / 600) * 600, day=now)} UTC: "
            f"{percent(share)} is used, {number(round(by_end))} would be by the end"
        ),
        severity="warning",
        start=now,
        labels=dict(used.labels),
        evidence={"used": float(total), "exhausted_at": round(at), "forecast": round(by_end, 1)},
        baseline={"limit": float(quota.limit), "period": float(quota.period), "days": float(days)},
        confidence=confidence,
    )
