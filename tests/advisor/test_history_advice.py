"""What the advisor says of an app's recorded traffic, and what the limiter did on that same traffic."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import started
from tests.advisor.test_bounds import truth
from tests.asgi import headers, http_scope, send_through, status
from tests.history.crew import MIDNIGHT
from traffic_cop_middleware import ConfigurationError, Range, TrafficCop, by_user, limit, session_of
from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts.usage import REST
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio
SECRET = "a secret of more than thirty-two bytes"
LIMIT = "20/minute"


class Answered(NamedTuple):
    time: float
    user: str
    path: str
    status: int


class Shop:
    """An app with users, and a real limit by user."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock(MIDNIGHT)
        self.cop = TrafficCop(
            MemoryBackend(clock=self.clock),
            metrics=True,
            session_secret=SECRET,
            limits=limit(LIMIT, key=by_user),
            **settings,
        )
        routes = [Route("/login/{name}", self.log_in), Route("/search", self.ok), Route("/items/{id}", self.ok)]
        self.app: Any = self.cop.wrap(Starlette(routes=routes))
        self.cookies: dict[str, bytes] = {}
        self.answered: list[Answered] = []

    async def log_in(self, request: Request) -> Response:
        name = request.path_params["name"]
        await session_of(request).login(name, claims={"tenant": f"t{int(name[1:]) % 5}"})
        return PlainTextResponse("welcome")

    async def ok(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def log_in_all(self, users: Iterable[str]) -> None:
        """Each from an address of its own; afterwards a minute begins."""
        for at, user in enumerate(users):
            sent = await send_through(
                self.app, http_scope(f"/login/{user}", client=(f"10.0.{at // 250}.{at % 250}", 4711))
            )
            assert status(sent) == 200
            self.cookies[user] = headers(sent)["set-cookie"].partition(";")[0].encode()
        self.clock.advance(120 - self.clock() % 60)

    async def ask(self, user: str, path: str = "/search") -> None:
        fields = [(b"host", b"testserver"), (b"cookie", self.cookies[user])]
        sent = await send_through(self.app, http_scope(path, headers=fields))
        self.answered.append(Answered(self.clock(), user, path, status(sent)))

    async def serve(self, requests: Sequence[tuple[float, str, str]]) -> None:
        """Requests at their times, seconds from now on; the history is made meanwhile."""
        begin, taken = self.clock(), 0.0
        for time, user, path in sorted(requests):
            self.clock.advance(begin + time - self.clock())
            await self.ask(user, path)
            if time - taken > 300:
                assert await self.cop.analytics.keeper.take(token=None)
                taken = time
        self.clock.advance(120 - self.clock() % 60)


def busy_day(users: Sequence[str], minutes: int, seed: int = 1) -> list[tuple[float, str, str]]:
    """Most ask now and then and in bunches, some are near the limit, one is a script."""
    rng = random.Random(seed)
    found = []
    for at, user in enumerate(users):
        per_minute = 60.0 if at == 0 else 18.0 if at < 6 else 2.0
        time = rng.expovariate(per_minute / 60)
        while time < 60 * minutes:
            path = rng.choice(["/search", "/search", "/items/1", "/items/2"])
            for _ in range(rng.randrange(10, 30) if rng.random() < 0.005 else 1):
                found.append((round(time, 3), user, path))
                time += rng.choice([0.0, 0.001])
            time += rng.expovariate(per_minute / 60)
    return found


def assert_within(
    found: LimitSimulation, answered: Sequence[Answered], refused: Sequence[Answered], key: Callable[[Answered], str]
) -> None:
    assert found.requests == len(answered)
    assert found.refused.low <= len(refused) <= found.refused.high
    low, high = found.share_refused
    assert low <= len(refused) / len(answered) <= high
    keys, touched = {key(each) for each in answered}, {key(each) for each in refused}
    assert found.keys_refused.low <= len(touched) <= found.keys_refused.high
    least, most = found.share_of_keys_refused
    assert least <= len(touched) / len(keys) <= most
    assert found.keys <= len(keys) <= found.keys + found.keys_hidden
    told = {each.name: each for each in found.who}
    if REST not in told:
        asked, denied = Counter(map(key, answered)), Counter(map(key, refused))
        for name in keys:
            bound = told[name].refused if name in told else Between(0, 0)
            assert bound.low <= denied[name] <= bound.high
            assert name not in told or told[name].requests == asked[name]
    seen = 0
    for span in found.when:
        inside = sum(span.start <= each.time < span.start + span.step for each in refused)
        assert span.refused.low <= inside <= span.refused.high
        seen += inside
    assert seen == len(refused)  # no other span had any


def replayed(answered: Sequence[Answered], rate: str, key: Callable[[Answered], str]) -> list[Answered]:
    """Those that another limit would have refused."""
    arrivals: dict[str, list[float]] = {}
    for each in answered:
        arrivals.setdefault(key(each), []).append(each.time)
    left = {name: Counter(times) for name, times in truth(arrivals, rate, None, 1).items()}
    refused = []
    for each in reversed(answered):  # of the same moment the last are refused
        if left[key(each)][each.time]:
            left[key(each)][each.time] -= 1
            refused.append(each)
    return refused


def route_of(each: Answered) -> str:
    return "/items/{id}" if each.path.startswith("/items") else each.path


@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_what_the_limiter_refused_is_within_the_bounds(kept: str, tmp_path: Path) -> None:
    shop = Shop(**({"documents": f"sqlite:///{tmp_path}/state.db"} if kept == "sqlite" else {}))
    users = [f"u{number}" for number in range(40)]
    async with started(shop.app):
        await shop.log_in_all(users)
        began = shop.clock()
        await shop.serve(busy_day(users, 30))
        advice, answered = shop.cop.analytics, shop.answered
        refused = [each for each in answered if each.status == 429]
        since = Range(began)
        found = await advice.simulate_limit(LIMIT, by="user", range=since)
        assert_within(found, answered, refused, lambda each: each.user)
        assert found.refused.low > 0.8 * len(refused) > 0
        assert found.who[0].name == "u0"
        assert "bounds" in str(found)
        assert found.refused.high < 0.75 * len(answered)

        def tenant(each: Answered) -> str:
            return f"t{int(each.user[1:]) % 5}"

        for rate in ("5/minute", "90/minute", "1/second", "300/hour"):
            for by, key in (
                ("user", lambda each: each.user),
                ("tenant", tenant),
                ("route", route_of),
                ("everyone", lambda _: "everyone"),
            ):
                found = await advice.simulate_limit(rate, by=by, range=since)  # type: ignore[arg-type]
                assert_within(found, answered, replayed(answered, rate, key), key)  # type: ignore[arg-type]


async def test_the_truth_is_within_the_bounds_where_a_cap_has_hidden_users() -> None:
    shop = Shop()
    users = [f"u{number}" for number in range(2100)]
    rng = random.Random(3)
    requests = [(rng.uniform(0, 110), user, "/search") for user in users]
    for user in ("u0", "u7", "u2099"):
        requests += [(rng.uniform(0, 110), user, "/search") for _ in range(80)]
    async with started(shop.app):
        await shop.log_in_all(users)
        began = shop.clock()
        await shop.serve(requests)
        refused = [each for each in shop.answered if each.status == 429]
        assert {each.user for each in refused} == {"u0", "u7", "u2099"}
        found = await shop.cop.analytics.simulate_limit(LIMIT, range=Range(began))
        assert_within(found, shop.answered, refused, lambda each: each.user)


async def test_a_minute_in_which_more_users_came_than_are_told_apart() -> None:
    shop = Shop()
    users = [f"u{number}" for number in range(2100)]
    requests = [(0.02 * at, user, "/search") for at, user in enumerate(users)]
    requests += [(43 + 0.1 * each, user, "/search") for user in ("u1", "u2098", "u2099") for each in range(60)]
    async with started(shop.app):
        await shop.log_in_all(users)
        began = shop.clock()
        await shop.serve(requests)
        refused = [each for each in shop.answered if each.status == 429]
        found = await shop.cop.analytics.simulate_limit(LIMIT, range=Range(began))
        assert found.keys_hidden == 100 + 2 * 60
        assert found.keys == 2000
        assert_within(found, shop.answered, refused, lambda each: each.user)
        assert found.keys_refused.low == 1
        assert found.keys_refused.high < 30
        assert "cap" in str(found)


async def test_of_long_ago_there_are_coarser_counts_and_wider_bounds(tmp_path: Path) -> None:
    shop = Shop(documents=f"sqlite:///{tmp_path}/state.db")
    users = [f"u{number}" for number in range(20)]
    async with started(shop.app):
        await shop.log_in_all(users)
        began = shop.clock()
        await shop.serve(busy_day(users, 20))
        end = shop.clock()
        refused = [each for each in shop.answered if each.status == 429]
        before = await shop.cop.analytics.simulate_limit(LIMIT, range=Range(began, end))
        shop.clock.advance(3 * 86_400)
        assert await shop.cop.analytics.keeper.take(token=None)
        first = began // 300 * 300  # whole buckets
        found = await shop.cop.analytics.simulate_limit(LIMIT, range=Range(first, end))
        assert {span.step for span in found.when} == {300}
        assert any("only counts of 5 min" in note for note in found.notes)
        assert found.refused.low <= len(refused) <= found.refused.high
        assert found.refused.low <= before.refused.low
        assert before.refused.high <= found.refused.high


async def test_what_memory_has_dropped_of_the_minutes_is_in_what_was_made_of_them() -> None:
    shop = Shop()
    users = [f"u{number}" for number in range(20)]
    async with started(shop.app):
        await shop.log_in_all(users)
        began = shop.clock()
        await shop.serve(busy_day(users, 40))
        history = shop.cop.analytics._history
        whole = history._size  # type: ignore[attr-defined]
        history._most = whole * 0.7  # type: ignore[attr-defined]
        assert await shop.cop.analytics.keeper.take(token=None)
        history._make_room()  # type: ignore[attr-defined]
        refused = [each for each in shop.answered if each.status == 429]
        found = await shop.cop.analytics.simulate_limit(LIMIT, range=Range(began))
        assert len(shop.answered) <= found.requests <= len(shop.answered) + len(users)  # the minute of the logins
        assert found.refused.low <= len(refused) <= found.refused.high
        assert {span.step for span in found.when} == {60, 300}


async def test_each_route_gets_a_limit_and_a_reason() -> None:
    shop = Shop()
    users = [f"u{number}" for number in range(30)]
    rng = random.Random(5)
    requests = [(rng.uniform(0, 1200), user, "/search") for user in users for _ in range(40)]
    requests += [(each, "u3", "/search") for each in range(1200)]
    requests += [(300.0 * each, "u4", "/items/1") for each in range(4)]
    async with started(shop.app):
        await shop.log_in_all(users)
        await shop.serve(requests)
        found = await shop.cop.analytics.suggest_limits(Range(shop.clock() - 1500))
        of = {each.route: each for each in found}
        search, items = of["/search"], of["/items/{id}"]
        assert found[0].route == "/search"
        assert "97" not in search.limit
        assert search.above == ("u3",)
        assert "over all routes together" in search.reason
        assert "not recorded" in search.reason
        assert items.limit == "2/minute"
        assert "all of its clients together" in items.reason
        for each in (search, items):
            answered = [one for one in shop.answered if route_of(one) == each.route]
            refused = replayed(answered, each.limit, lambda one: one.user)
            assert each.simulation is not None
            assert each.simulation.requests == len(answered)
            assert each.simulation.refused.low <= len(refused) <= each.simulation.refused.high
            assert each.simulation.refused.high < len(answered)
            assert each.limit in str(each)
        hashed = await shop.cop.analytics.suggest_limits("1h", hash_keys=True)
        assert "u3" not in "".join(map(str, hashed))
        whole = await shop.cop.analytics.suggest_limits("1h", by="route")
        assert whole[0].simulation is not None
        assert whole[0].simulation.refused.low == 0
        assert "user" not in whole[0].reason


async def test_where_nobody_is_logged_in_the_whole_route_sets_the_limit() -> None:
    shop = Shop()
    async with started(shop.app):
        for _ in range(8):
            await send_through(shop.app, http_scope("/search"))
        shop.clock.advance(180)
        (search,) = await shop.cop.analytics.suggest_limits("1h")
        assert search.limit == "12/minute"
        assert "no user was recorded" in search.reason
        found = await shop.cop.analytics.simulate_limit("1/minute", range="1h")
        assert (found.requests, found.refused, found.share_of_keys_refused) == (0, (0, 0), (0.0, 0.0))
        assert any("verified user" in note for note in found.notes)


async def test_a_login_does_not_make_the_lower_bound_too_high() -> None:
    shop = Shop()
    async with started(shop.app):
        await shop.log_in_all(["u1"])
        shop.clock.advance(60)
        found = await shop.cop.analytics.simulate_limit("1/hour", range="1h")
        assert (found.requests, found.refused) == (1, (0, 0))
        await shop.log_in_all(["u1"])
        found = await shop.cop.analytics.simulate_limit("1/hour", range="1h")
        assert found.requests == 2
        assert found.refused.low == 0  # both took from the address


@pytest.mark.parametrize(
    ("rate", "settings", "said"),
    [
        ("often", {}, "not a rate"),
        ("1/second; 10/minute", {}, "each of 2"),
        ("1/minute", {"by": "ip"}, "Addresses are not recorded"),
        ("1/minute", {"by": "moon"}, "by='moon'"),
        ("1/minute", {"range": "often"}, "stretch of the past"),
        ("1/minute", {"cost": 2}, "cost=2"),
    ],
)
async def test_what_cannot_be_asked_is_said(rate: str, settings: dict[str, Any], said: str) -> None:
    shop = Shop()
    async with started(shop.app):
        with pytest.raises(ConfigurationError, match=said):
            await shop.cop.analytics.simulate_limit(rate, **settings)


@pytest.mark.parametrize("settings", [{"by": "everyone"}, {"by": "ip"}, {"keep": 0}, {"headroom": 0.5}])
async def test_what_cannot_be_suggested_is_said(settings: dict[str, Any]) -> None:
    shop = Shop()
    async with started(shop.app):
        with pytest.raises(ConfigurationError, match=r"by=|keep=|headroom="):
            await shop.cop.analytics.suggest_limits(**settings)
