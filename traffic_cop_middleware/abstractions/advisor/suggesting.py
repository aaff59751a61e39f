"""Suggests a limit for each route, and says why.

The limit is one that nearly all keys would never have noticed, with headroom. Few keys that need many times what others
do (a script, a scraper) are not to set it: those that need more than `OUTLIER` times what nine of ten keys do are left
out of the reckoning, as long as there are ten keys to tell what is usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from traffic_cop_middleware.abstractions.advisor.needs import Needs, needs_of_usage
from traffic_cop_middleware.abstractions.advisor.simulation import SHOWN, LimitSimulation, printable
from traffic_cop_middleware.abstractions.advisor.usage import simulate_usage
from traffic_cop_middleware.contracts.usage import UsageCount
from traffic_cop_middleware.errors import ConfigurationError

KEEP = 0.99
HEADROOM = 1.5
OUTLIER = 5
FEW = 10
"""Keys from which on it can be told what is usual."""
ROUND = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""Numbers that people choose, times powers of ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A limit for a route, and why.

    `limit` is written as `limit(…)` takes it. `usual` is the need of those who set it and `most` that of the busiest
    key, in requests a minute that are never refused. `above` are the keys that need more than the limit, the busiest
    first, of `keys` in all. `by_whole`: what all keys together need sets it. `simulation`: what it would have refused
    of the traffic that it was found from.
    """

    route: str
    limit: str
    by: str
    reason: str
    keys: int
    requests: int
    usual: int
    most: int
    above: tuple[str, ...] = ()
    by_whole: bool = False
    simulation: LimitSimulation | None = None

    def __str__(self) -> str:
        lines = [f"{self.route or 'all routes'}: {self.limit} by {self.by}", f"  {self.reason}"]
        if self.simulation is not None:
            told = self.simulation
            lines.append(
                f"  would have refused {told.refused} of {told.requests:,} requests, of {told.keys_refused} of "
                f"{told.keys:,} keys"
            )
            lines += [f"    {each}" for each in told.who[:SHOWN]]
        return "\n".join(map(printable, lines))


def suggest(
    needs: Needs, *, by: str, keep: float = KEEP, headroom: float = HEADROOM, most: int = 50
) -> tuple[Suggestion, ...]:
    """A suggestion for each of the `most` busiest routes, the busiest first.

    `keep` is the share of usual keys that are never to be refused, `headroom` how many times their need the limit is.

    Raises:
        ConfigurationError: `keep` is not above 0 and at most 1, or `headroom` below 1.
    """
    check_settings(keep, headroom)
    found = [_suggestion(route, keys, by, keep, headroom) for route, keys in needs.items() if keys]
    found.sort(key=lambda each: (-each.requests, each.route))
    return tuple(found[:most])


def check_settings(keep: float, headroom: float) -> None:
    """Refuse what makes no suggestion.

    Raises:
        ConfigurationError: `keep` is not above 0 and at most 1, or `headroom` not from 1 to 100.
    """
    if not 0 < keep <= 1:
        raise ConfigurationError(f"keep={keep!r}: a share of keys is above 0 and at most 1, as in 0.99")
    if not 1 <= headroom <= 100:
        raise ConfigurationError(f"headroom={headroom!r}: how many times what is needed, from 1 to 100")


def of_route_totals(
    routes: Mapping[str, tuple[int, int]],
    users: Mapping[str, tuple[int, int]],
    *,
    by: str,
    keep: float = KEEP,
    headroom: float = HEADROOM,
    most: int = 50,
    told_as: Callable[[str], str] = str,
) -> Sequence[Suggestion]:
    """Suggestions where it is known what each route needs in all, and each key over all routes, but not who asks which.

    No key needs more of a route than the whole route does, nor than it needs in all: the lower one sets the limit.
    """
    needs = sorted(need for need, _ in users.values())
    usual = _usual(needs)
    kept = _quantile(usual, keep) if usual else 0
    found = []
    for route, (whole, requests) in sorted(routes.items(), key=lambda each: (-each[1][1], each[0]))[:most]:
        by_whole = not kept or whole <= kept
        set_by = whole if by_whole else kept
        count = rounded_up(set_by * headroom)
        above = sorted(((need, key) for key, (need, _) in users.items() if need > count), key=lambda each: -each[0])
        found.append(
            Suggestion(
                route=route,
                limit=f"{count}/minute",
                by=by,
                reason=_reason_of_totals(whole, kept, usual, needs, by=by, keep=keep, headroom=headroom),
                keys=1 if by == "route" else len(users),
                requests=requests,
                usual=set_by,
                most=min(whole, needs[-1]) if needs else whole,
                above=() if by_whole else tuple(told_as(key) for _, key in above),
                by_whole=by_whole,
            )
        )
    return found


def _reason_of_totals(
    whole: int, kept: int, usual: Sequence[int], needs: Sequence[int], *, by: str, keep: float, headroom: float
) -> str:
    who = by.replace("_", " ")
    if by == "route":
        return f"all of its clients together needed {whole:,}/minute at the most; {headroom:g} times that is the limit"
    if not kept or whole <= kept:
        return (
            f"all of its clients together needed {whole:,}/minute at the most, so none needs more; {headroom:g} times "
            "that is the limit" + ("" if kept else f"; no {who} was recorded")
        )
    share = f"{100 * keep:g} % of {len(usual):,} usual {who}s need" if len(needs) >= FEW else f"the busiest {who} needs"
    said = [
        f"{share} at most {kept:,}/minute over all routes together; {headroom:g} times that is the limit",
        f"how much of it is on this route is not recorded, so less may do (the whole route needed {whole:,}/minute)",
    ]
    if len(usual) < len(needs):
        said.append(f"{_keys(len(needs) - len(usual))} left out that need up to {needs[-1]:,}/minute")
    return "; ".join(said)


def suggest_from_usage(
    usage: Iterable[UsageCount], *, by: str, keep: float = KEEP, headroom: float = HEADROOM, most: int = 50
) -> tuple[Suggestion, ...]:
    """Suggestions from recorded use, each with the bounds of what it would have refused of it.

    Raises:
        ConfigurationError: a setting or a count can't be used.
    """
    counts = tuple(usage)
    found = suggest(needs_of_usage(counts), by=by, keep=keep, headroom=headroom, most=most)
    of_route: dict[str, list[UsageCount]] = {each.route: [] for each in found}
    for count in counts:
        if count.route in of_route:
            of_route[count.route].append(count)
    return tuple(
        replace(each, simulation=simulate_usage(of_route[each.route], each.limit, by=by, route=each.route))
        for each in found
    )


def rounded_up(number: float) -> int:
    """The next number that people would choose: 7 stays, 73 is 80, 130 is 150."""
    whole = ceil(number - 1e-9)
    if whole <= 10:
        return max(1, whole)
    step: int = 10 ** (len(str(whole)) - 2)
    return next(step * each for each in ROUND if step * each >= whole)


def _suggestion(route: str, keys: Mapping[str, tuple[int, int]], by: str, keep: float, headroom: float) -> Suggestion:
    needs = sorted(need for need, _ in keys.values())
    usual = _usual(needs)
    kept = _quantile(usual, keep)
    count = rounded_up(kept * headroom)
    busiest = sorted(((need, name) for name, (need, _) in keys.items() if need > count), key=lambda each: -each[0])
    above = tuple(name for _, name in busiest)
    return Suggestion(
        route=route,
        limit=f"{count}/minute",
        by=by,
        reason=_reason(needs, usual, kept, keep=keep, headroom=headroom, above=len(above)),
        keys=len(keys),
        requests=sum(requests for _, requests in keys.values()),
        usual=kept,
        most=needs[-1],
        above=above,
    )


def _usual(needs: Sequence[int]) -> Sequence[int]:
    """Those that are not outliers, of some in order."""
    if len(needs) < FEW:
        return needs
    bound = OUTLIER * _quantile(needs, 0.9)
    return [need for need in needs if need <= bound]


def _reason(needs: Sequence[int], usual: Sequence[int], kept: int, *, keep: float, headroom: float, above: int) -> str:
    said = []
    if len(needs) < FEW:
        said.append(f"only {_keys(len(needs))} seen, so the busiest sets it: {kept}/minute would never refuse it")
    else:
        said.append(f"{kept}/minute would never refuse {100 * keep:g} % of {len(usual):,} usual keys")
    said.append(f"{headroom:g} times that is the limit")
    outliers = len(needs) - len(usual)
    if outliers:
        said.append(
            f"{_keys(outliers)} left out that would need up to {needs[-1]:,}/minute, "
            f"over {OUTLIER} times what 9 of 10 do"
        )
    if not above:
        said.append(f"no key would have been refused: the busiest needs {needs[-1]:,}/minute")
    elif above > outliers:
        said.append(f"{_keys(above)} need more than the limit")
    return "; ".join(said)


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count:,} keys"


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, ceil(share * len(ordered)) - 1)]
