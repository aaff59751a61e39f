"""What a limit would have refused of an access log's traffic, and which limits would fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

from traffic_cop_middleware.abstractions.advisor.needs import MOST_KEYS as MOST_NEEDS
from traffic_cop_middleware.abstractions.advisor.needs import NeedsOfArrivals
from traffic_cop_middleware.abstractions.advisor.pseudonyms import pseudonyms
from traffic_cop_middleware.abstractions.advisor.replay import Replay, ReplayClock
from traffic_cop_middleware.abstractions.advisor.simulation import LimitSimulation
from traffic_cop_middleware.abstractions.advisor.suggesting import HEADROOM, KEEP, Suggestion, suggest
from traffic_cop_middleware.abstractions.advisor.tally import Tally
from traffic_cop_middleware.abstractions.rate_limiting import Bill, Charge, RateLimitAbstraction, bill
from traffic_cop_middleware.adapters.access_logs.reading import LogFormat
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.advisor.keys import SubjectOf, named_key, subject_in_log
from traffic_cop_middleware.advisor.log_traffic import LogTraffic, Seen
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.client_address import TrustedProxies
from traffic_cop_middleware.middleware.keys import Key, by_everyone, by_ip, by_route
from traffic_cop_middleware.middleware.marks import Limit, limit, limits_of
from traffic_cop_middleware.middleware.plans import Applied, Plan, Planner

MAX_KEYS = 1_000_000
"""Buckets that a replay keeps, of those that are not full."""
MOST_BILLS = 32_768

Ways = tuple[tuple[SubjectOf, ...], dict[str, Bill]]
"""Where the subjects of a plan come from, and bills that were made by it."""
Limits = str | Limit | Iterable[str | Limit]


class LogKwargs(TypedDict, total=False):
    """How a log is read."""

    format: LogFormat
    fields: Mapping[str, str]
    trusted_proxies: TrustedProxies
    app: Any
    templates: Iterable[str]
    window: float


def simulate_log(
    log: str | Path,
    limits: Limits | None = None,
    *,
    by: str | Key = "ip",
    burst: float | None = None,
    cost: float = 1,
    routes: Mapping[str, Limits] | None = None,
    marks: bool = False,
    hash_keys: bool = False,
    most_shown: int = 100,
    **reading: Unpack[LogKwargs],
) -> LimitSimulation:
    """What limits would have refused of an access log's requests: an exact replay through the limiter itself.

    Each request is asked of the limiter that `RateLimitMiddleware` has, on a clock that is set to the request's time,
    with full buckets at the beginning. The log streams by once; memory grows with the keys, up to a million of them.

    Args:
        log: the path of a log, gzip or not: the common or combined format, or JSON lines. Not uvicorn's own, which has
            no time.
        limits: as in `TrafficCop`: "100/minute", `limit(…)`, or several, of which a request takes from all or none.
        by: whose buckets, for limits that are written as a string, and of which kind the keys are that are told: "ip",
            "user" (who is not logged in counts by address), "route", "everyone", or "field:tenant" of JSON lines.
        burst, cost: of limits that are written as a string, in tokens.
        routes: limits on routes, by template, as `@limit` would set them: `{"/search": "10/minute"}`.
        marks: the `@limit` marks on the endpoints of `app` count too. `@exempt` always does.
        hash_keys: tell keys by names that only this simulation has: a keyed hash, whose key is kept nowhere.
        most_shown: keys, routes and spans of time that are told at the most.
        format: "auto", "combined" or "json".
        fields: where JSON lines have what: `{"time": "ts", "client": "remote_ip", "user": "auth.name"}`; also "path",
            "method", "forwarded" and "route". Caddy's, nginx's usual ones and our own are found without.
        trusted_proxies: as in `TrafficCop`, for logs that have `X-Forwarded-For`.
        app, templates: an app whose routes give paths their templates, or templates; without them a line's own route
            counts, or its path with what looks like an id folded ("/items/{id}").
        window: seconds by which lines may be out of order.

    Raises:
        ConfigurationError: a setting can't be used, or the log can't be read; the message says what to write instead.
    """
    key = named_key(by)

    def made(given: Limits | None, where: str) -> tuple[Limit, ...]:
        each = given if isinstance(given, Iterable) and not isinstance(given, str) else [given] if given else []
        return limits_of(
            [limit(one, burst=burst, cost=cost, key=key) if isinstance(one, str) else one for one in each], where
        )

    if marks and reading.get("app") is None:
        raise ConfigurationError("marks=True takes the @limit marks of an app: write app=… too (--app module:app)")
    everywhere = made(limits, "limits")
    on_routes = {template: made(given, f"routes[{template!r}]") for template, given in (routes or {}).items()}
    if not everywhere and not any(on_routes.values()) and not marks:
        raise ConfigurationError("there is no limit to simulate: write one like '100/minute', or routes={…}")
    listed = [each for several in on_routes.values() for each in several]
    for each in (*everywhere, *listed):
        _check(each)
    return _replayed(
        LogTraffic(log, limits=on_routes, marks=marks, **reading),
        everywhere,
        key,
        routes=on_routes,
        told=_told(everywhere, on_routes, key),
        by_limit=marks or len(on_routes) > 1 or sum(len(each.rates) for each in (*everywhere, *listed)) > 1,
        hash_keys=hash_keys,
        most_shown=most_shown,
    )


def suggest_limits(
    log: str | Path,
    *,
    by: str | Key = "ip",
    keep: float = KEEP,
    headroom: float = HEADROOM,
    most: int = 50,
    hash_keys: bool = False,
    **reading: Unpack[LogKwargs],
) -> tuple[Suggestion, ...]:
    """A limit for each of the `most` busiest routes of an access log, the busiest first, with its reason.

    `keep` is the share of usual keys that are never to be refused, `headroom` how many times what they need the limit
    is. The log is read twice: to find what each key needs, and to replay it under each route's limit by itself, so that
    the suggestion tells what it would have refused. The other settings are those of `simulate_log`.

    Raises:
        ConfigurationError: a setting can't be used, or the log can't be read.
    """
    key = named_key(by)
    subject_of = subject_in_log(key, "by")
    if Path(log).exists() and not Path(log).is_file() and not Path(log).is_dir():
        raise ConfigurationError(f"{str(log)!r} is read twice: give a file that is kept, not a pipe")
    needs = NeedsOfArrivals()
    first = LogTraffic(log, **reading)
    for request, client, route in first:
        needs.add(request.time, route.template, subject_of(request, client, route.template))
    found = suggest(needs.needs(), by=key.kind, keep=keep, headroom=headroom, most=most)
    on_routes = {each.route: (limit(each.limit, key=key),) for each in found}
    traffic = first.under(on_routes)
    tallies = {each.route: Tally() for each in found}
    replay_of = {route: _replay(tally, by_limit=False) for route, tally in tallies.items()}
    bills = Bills(())
    for seen in traffic:
        replay = replay_of.get(seen.route.template)
        if replay is not None:
            subject = subject_of(seen.request, seen.client, seen.route.template)
            replay.request(seen.request.time, bills.of(seen), subject, seen.route.template)
    told_as = pseudonyms() if hash_keys else None
    whole = all(tally.whole_seconds for tally in tallies.values())
    notes = traffic.notes(whole_seconds=whole)
    if needs.left_out:
        notes.append(f"{needs.left_out:,} requests of keys beyond {MOST_NEEDS:,} set no limit")
    return tuple(
        replace(
            each,
            above=each.above if told_as is None else tuple(map(told_as, each.above)),
            simulation=tallies[each.route].simulation(each.limit, each.by, notes=notes, told_as=told_as),
        )
        for each in found
    )


def _replayed(
    traffic: LogTraffic,
    limits: tuple[Limit, ...],
    key: Key,
    *,
    routes: Iterable[str],
    told: str,
    by_limit: bool,
    hash_keys: bool,
    most_shown: int,
) -> LimitSimulation:
    tally = Tally()
    replay = _replay(tally, by_limit=by_limit)
    subject_of = subject_in_log(key, "by")
    bills = Bills(limits)
    for seen in traffic:
        request, client, route = seen
        replay.request(request.time, bills.of(seen), subject_of(request, client, route.template), route.template)
    notes = [*_missed(tally, key, routes), *traffic.notes(whole_seconds=tally.whole_seconds)]
    told_as = pseudonyms() if hash_keys else None
    return tally.simulation(told, key.kind, notes=notes, told_as=told_as, most_shown=most_shown)


def _missed(tally: Tally, key: Key, routes: Iterable[str]) -> Iterator[str]:
    """What was asked for, and is not in the log."""
    if key not in (by_ip, by_route, by_everyone) and not any(each.startswith(f"{key.kind}:") for each in tally.keys):
        yield f"no line tells its {key.kind}, so all counted by their address"
    for route in routes:
        if route not in tally.routes:
            there = ", ".join(islice(tally.routes, 5))
            yield f"no request was of the route {route}, so its limit was not asked. There are {there}"


def _replay(tally: Tally, *, by_limit: bool) -> Replay:
    clock = ReplayClock()
    store = MemoryBackend(clock=clock, max_keys=MAX_KEYS).buckets
    return Replay(RateLimitAbstraction(store, clock=clock, local=store), clock, tally, by_limit=by_limit)


class Bills:
    """What requests owe, by the plans that the middleware makes; the last ones are kept."""

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self._planner = Planner(limits)
        self._plans: dict[Plan, Ways] = {}
        self._alike: dict[tuple[Applied, ...], Ways] = {}
        """Most routes have the same limits."""

    def of(self, seen: Seen) -> Bill:
        """The bill of a request.

        Raises:
            ConfigurationError: a limit's key or cost can't be told from a log.
        """
        request, client, route = seen
        plan: Plan = route.plans.get(request.method) or self._planner.plan(route, request.method, request.path)
        subjects_of, known = self._plans.get(plan) or self._new(plan)
        if len(subjects_of) != 1:
            return _bill(plan, [each(request, client, route.template) for each in subjects_of])
        subject = subjects_of[0](request, client, route.template)
        owed = known.get(subject)
        if owed is None:
            if len(known) >= MOST_BILLS:
                known.clear()
            owed = known[subject] = _bill(plan, [subject] * len(plan.applied))
        return owed

    def _new(self, plan: Plan) -> Ways:
        """Of its subjects there is one, where all of its limits have the same key."""
        keys = [each.key for each in plan.applied]
        found = [
            subject_in_log(key, f"limit {each.policy.name!r}") for key, each in zip(keys, plan.applied, strict=True)
        ]
        one = len(set(keys)) == 1
        ways = self._alike.setdefault(plan.applied, (tuple(found[:1] if one else found), {}))
        self._plans[plan] = ways
        return ways


def _bill(plan: Plan, subjects: Sequence[str]) -> Bill:
    return bill(
        [
            Charge(each.policy, subject, _cost(each.cost, each.policy.name))
            for each, subject in zip(plan.applied, subjects, strict=True)
            if each.cost
        ]
    )


def _check(each: Limit) -> None:
    subject_in_log(each.key, f"limit {each.text!r}")
    _cost(each.cost, each.text)


def _cost(cost: float | Callable[..., Any], name: str) -> float:
    if callable(cost):
        raise ConfigurationError(
            f"limit {name!r}: its cost is a function of the connection, which no log has. Simulate it with a number"
        )
    return cost


def _told(everywhere: tuple[Limit, ...], on_routes: Mapping[str, tuple[Limit, ...]], key: Key) -> str:
    said = [_written(each, key) for each in everywhere]
    said += [f"{template} {_written(each, key)}" for template, several in on_routes.items() for each in several]
    return ", ".join(said) or "the marks of the app"


def _written(each: Limit, by: Key) -> str:
    more = f" burst {each.burst:g}" if each.burst is not None else ""
    more += f" cost {each.cost:g}" if not callable(each.cost) and each.cost != 1 else ""
    return each.text + more + (f" by {each.key.kind}" if each.key is not by else "")
