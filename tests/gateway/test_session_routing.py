"""Sessions find the instance that owns them, through every worker; where it is gone they get another, all together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.adapters.load import poll, started
from tests.asgi import http_scope
from tests.gateway.raw import OK, upstream
from tests.middleware.test_session_round_trips import Wire
from tests.middleware.upstreams import Service as Answering
from tests.middleware.upstreams import services
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import (
    BalancingSettings,
    ConfigurationError,
    Registration,
    RoutingMiddleware,
    Service,
    SessionMiddleware,
    TrafficCop,
    Upstream,
    route,
    session_of,
)
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import sessions as sessions_store
from traffic_cop_middleware.adapters.redis.buckets import SHA as TAKE
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.session_routes import INDEX, ROUTE
from traffic_cop_middleware.errors import StoreUnavailable

pytestmark = pytest.mark.asyncio
NUMBERS = itertools.count()
SECRET = "a secret of this test, of 32 bytes or more"
BY_SESSION = BalancingSettings(policy="round-robin", affinity="session", slow_start=0.0)
BY_COOKIE = BalancingSettings(policy="round-robin", affinity="cookie", slow_start=0.0)


class Worker:
    """A cop with a route to the service "cart", and requests through it."""

    def __init__(self, backend: Any, balancing: BalancingSettings = BY_SESSION, **settings: Any) -> None:
        self.events: list[Any] = []
        to = settings.pop("to", Service("cart"))
        given = {"deadline": 2.0, "session_secret": SECRET, **settings}
        self.cop = TrafficCop(backend, observer=self.events.append, **given)
        self.cop.route("/x", to=to, name="all", keep_host=False, balancing=balancing)
        self.do: Any = None
        self.app = self.cop.wrap(Starlette(routes=[Route("/do", self._do)]))

    async def _do(self, request: Request) -> PlainTextResponse:
        await self.do(session_of(request))
        return PlainTextResponse("done")

    async def session(self, user: str | None = "ada", **claims: Any) -> str:
        """The cookie of a new session."""
        house = self.cop.sessions
        identity = await house.create(house.new_owner(user, claims), {})
        return f"__Host-session={house.cookie_token(identity, left=3600)}"

    async def does(self, cookie: str, what: Any) -> str:
        """The session cookie after `what` was done with the session."""
        self.do = what
        sent = await self.ask(cookie, path="/do")
        [set_cookie] = set_cookies(sent)
        return set_cookie.partition(";")[0]

    async def ask(self, cookie: str = "", *, path: str = "/x", **headers: str) -> list[Any]:
        """What a request gets whose client stays."""
        body, sent = iter([{"type": "http.request", "body": b"", "more_body": False}]), list[Any]()
        fields = [(b"host", b"shop.test"), *((name.encode(), value.encode()) for name, value in headers.items())]
        if cookie:
            fields.append((b"cookie", cookie.encode()))

        async def receive() -> Any:
            return next(body, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(http_scope(path, headers=fields), receive, send)
        return sent

    async def who(self, cookie: str = "", **headers: str) -> str:
        """Which instance answers; the status where none does."""
        messages = await self.ask(cookie, **headers)
        found = dict(messages[0]["headers"]).get(b"x-from")
        return found.decode() if found is not None else str(messages[0]["status"])

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.attributes) for event in self.events if event.kind == kind]

    async def knows(self, *names: str) -> None:
        """Wait until it has these instances."""

        def known() -> bool:
            [pool] = self.cop.balancing.pools()
            return {each.name for each in pool.instances} == set(names)

        await poll(known)


def set_cookies(sent: list[Any]) -> list[str]:
    return [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]


@contextlib.asynccontextmanager
async def workers(backend: str, balancing: BalancingSettings = BY_SESSION, **settings: Any) -> AsyncIterator[Any]:
    one, other = Worker(backend, balancing, **settings), Worker(backend, balancing, **settings)
    async with started(one.app) as first, started(other.app) as second:
        assert [first["type"], second["type"]] == ["lifespan.startup.complete"] * 2
        yield one, other


class Carts:
    """The instances that are there now, announced by name."""

    def __init__(self, backend: str, found: Sequence[Answering]) -> None:
        self._backend = backend
        self._there = {each.name: each for each in found}
        self._announced: dict[str, Registration] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            announced = Registration("cart", url=self._there[name].url, instance=name, backend=self._backend)
            await announced.__aenter__()
            self._announced[name] = announced

    async def go(self, *names: str) -> None:
        for name in names:
            await self._announced.pop(name).__aexit__(None, None, None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._announced)


@contextlib.asynccontextmanager
async def carts(backend: str, *names: str, later: Sequence[str] = ()) -> AsyncIterator[Carts]:
    async with services(*names, *later) as found:
        there = Carts(backend, found)
        try:
            await there.come(*names)
            yield there
        finally:
            await there.go(*there.names)


async def test_a_session_stays_with_the_instance_it_was_first_at_through_every_worker(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        cookies = [await both[0].session(f"user-{at}") for at in range(9)]
        first = [await both[0].who(cookie) for cookie in cookies]
        assert Counter(first) == {"a": 3, "b": 3, "c": 3}
        for each in (both[1], both[0]):
            assert [await each.who(cookie) for cookie in cookies] == first
        assert await both[1].cop.session_management.route_figures() == {"cart": {"a": 3, "b": 3, "c": 3}}
        assert both[0].told("session.rerouted") == both[1].told("session.rerouted") == []


async def sessions(worker: Worker, count: int) -> list[str]:
    return [await worker.session(f"user-{at}") for at in range(count)]


async def all_of(askers: Sequence[Worker], cookie: str, times: int = 1) -> list[str]:
    """Who answers a session's requests that are all under way at once."""
    return await asyncio.gather(*(each.who(cookie) for each in askers for _ in range(times)))


async def test_first_requests_of_a_session_that_come_at_once_are_not_split(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        owners = Counter[str]()
        for cookie in await sessions(both[0], 12):
            [owner] = set(await all_of(both, cookie, 5))
            owners[owner] += 1
        assert set(owners) == {"a", "b", "c"}
        [pool] = both[0].cop.balancing.pools()
        assert {each.in_flight for each in pool.instances} == {0}, "places that were given back"
        assert both[0].told("session.rerouted") == both[1].told("session.rerouted") == []


async def test_when_the_owner_is_gone_all_requests_agree_on_another_and_it_is_told_once(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        [cookie, other] = await sessions(both[0], 2)
        first, others = [await both[0].who(each) for each in (cookie, other)]
        await there.go(first)
        for each in both:
            await each.knows(*there.names)
        [owner] = set(await all_of(both, cookie, 5))
        assert owner in there.names
        [told] = [*both[0].told("session.rerouted"), *both[1].told("session.rerouted")]
        management = both[0].cop.session_management
        [listed] = await management.sessions_of("user-0")
        assert told == {
            "session": listed.id,
            "service": "cart",
            "from": first,
            "to": owner,
            "reason": "it is no longer in the pool",
            "recorded": True,
        }
        [found] = await management.routes_of(listed.id)
        assert (found.service, found.instance, found.version) == ("cart", owner, 2)
        await there.come(first)
        for each in both:
            await each.knows("a", "b", "c")
        assert set(await all_of(both, cookie)) == {owner}, "it does not go back"
        assert set(await all_of(both, other)) == {others}


async def test_sessions_of_a_drained_owner_go_elsewhere_and_its_reason_is_told(backend: str) -> None:
    async with carts(backend, "a", "b") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        [cookie] = await sessions(both[0], 1)
        owner = await both[0].who(cookie)
        [other] = {"a", "b"} - {owner}
        await both[1].cop.balancing.drain("cart", owner, reason="a new version")
        await poll(lambda: all(len(each.told("instance.draining")) == 1 for each in both))
        assert set(await all_of(both, cookie, 3)) == {other}
        told = [*both[0].told("session.rerouted"), *both[1].told("session.rerouted")]
        assert [(each["from"], each["to"], each["reason"]) for each in told] == [(owner, other, "a new version")]


async def test_an_owner_that_cannot_be_reached_is_followed_by_one_other_for_all_requests(backend: str) -> None:
    async with services("b", "c", "d") as found:
        dead = f"http://127.0.0.1:{free_port()}"
        to = [Upstream(dead), *(Upstream(each.url) for each in found)]
        async with workers(backend, to=to) as both:
            [cookie] = await sessions(both[0], 1)
            management = both[0].cop.session_management
            [listed] = await management.sessions_of("user-0")
            await management.assign(listed.id, "all", dead)
            [owner] = set(await all_of(both, cookie, 4))
            told = [*both[0].told("session.rerouted"), *both[1].told("session.rerouted")]
            url = {each.name: each.url for each in found}[owner]
            assert [(each["from"], each["to"], each["reason"]) for each in told] == [(dead, url, "it can't be reached")]
            asked = len(both[0].told("upstream.failed"))
            assert set(await all_of(both, cookie, 2)) == {owner}
            assert len(both[0].told("upstream.failed")) == asked


async def test_what_the_owner_may_have_seen_is_asked_of_no_other(backend: str) -> None:
    settings = BalancingSettings(policy="round-robin", affinity="session", retry_statuses=(503,), slow_start=0.0)
    async with services("a", "b") as [a, b], workers(backend, settings, to=[Upstream(a.url), Upstream(b.url)]) as both:
        [cookie] = await sessions(both[0], 1)
        owner = {"a": a, "b": b}[await both[0].who(cookie)]
        other = b if owner is a else a
        owner.status = 503
        assert [await both[0].who(cookie) for _ in range(3)] == [owner.name] * 3
        assert other.asked == []
        assert await both[0].who() == other.name, "a request of no session is tried elsewhere"


async def test_requests_without_a_session_are_placed_by_the_policy_and_nothing_is_kept(backend: str) -> None:
    async with carts(backend, "a", "b") as there, workers(backend) as both:
        await both[0].knows(*there.names)
        assert Counter([await both[0].who() for _ in range(6)]) == {"a": 3, "b": 3}
        assert await both[0].who("__Host-session=forged") in ("a", "b")
        assert await both[0].cop.session_management.routes() == []
        anonymous = await both[0].session(None)
        assert len({await both[0].who(anonymous) for _ in range(4)}) == 1, "somebody who is not logged in has one"


async def test_a_session_is_listed_moved_and_ended(backend: str) -> None:
    async with carts(backend, "a", "b") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        management = both[0].cop.session_management
        [cookie] = await sessions(both[0], 1)
        [listed] = await management.sessions_of("user-0")
        assert await management.routes_of(listed.id) == []
        moved = await management.move(listed.id, "cart", to="b")
        assert (moved.instance, moved.version) == ("b", 1)
        assert set(await all_of(both, cookie)) == {"b"}
        moved = await management.move(listed.id, "cart", to="a")
        assert (moved.instance, moved.version) == ("a", 2)
        assert await management.move(listed.id, "cart", to="a") == moved._replace(
            expires_in=pytest.approx(moved.expires_in, abs=5), age=pytest.approx(moved.age, abs=5)
        )
        assert set(await all_of(both, cookie)) == {"a"}
        [told] = both[0].told("session.rerouted")
        assert (told["from"], told["to"], told["reason"]) == ("b", "a", "it was moved")
        assert [each.service for each in await management.routes_of(listed.id)] == ["cart"]
        await management.assign(listed.id, "search", "s1")
        assert await management.release(listed.id, "cart") == 1
        assert [each.service for each in await management.routes_of(listed.id)] == ["search"]
        assert await management.release(listed.id) == 1
        assert await management.routes_of(listed.id) == []


async def test_a_route_follows_its_session_to_a_new_id_and_ends_with_it(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend) as both:
        for each in both:
            await each.knows(*there.names)
        management = both[0].cop.session_management
        cookie = await both[0].session(None)
        owner = await both[0].who(cookie)

        async def log_in(session: Any) -> None:
            await session.login("ada")

        async def renew(session: Any) -> None:
            await session.step_up()

        async def log_out(session: Any) -> None:
            await session.logout()

        ids = set[str]()
        for what in (log_in, renew, log_in):
            before, cookie = cookie, await both[0].does(cookie, what)
            assert cookie != before
            assert set(await all_of(both, cookie)) == {owner}
            [listed] = await management.sessions_of("ada")
            assert listed.id not in ids
            ids.add(listed.id)
            [found] = await management.routes()
            assert (found.id, found.instance) == (listed.id, owner)
        await both[0].does(cookie, log_out)
        await eventually_none(management)
        cookie = await both[0].session("eve")
        await both[0].who(cookie)
        assert len(await management.routes()) == 1
        await management.revoke_user("eve")
        await eventually_none(management)


async def eventually_none(management: Any) -> None:
    async with asyncio.timeout(30):
        while await management.routes():  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.005)


async def test_the_clean_up_that_workers_do_ends_routes_that_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from traffic_cop_middleware.composition import parts

    monkeypatch.setattr(parts, "CLEAN_UP_PERIOD", 0.01)
    now = 1_000_000.0
    backend = MemoryBackend(clock=lambda: now)
    async with services("a") as [a]:
        worker = Worker(backend, to=a.url)
        async with started(worker.app):
            cookie = await worker.session()
            await worker.who(cookie)
            assert len(backend.session_routes) == 1
            now += 40 * 86_400
            await poll(lambda: not len(backend.session_routes))


class Away:
    """Routes that can't be asked for while `away`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.away = True
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **more: Any) -> Any:
            self.asked += 1
            if self.away:
                raise StoreUnavailable("it is away")
            return getattr(self._inner, name)(*arguments, **more)

        return ask


async def test_while_routes_cannot_be_asked_for_workers_agree_by_hash_or_go_by_what_they_saw() -> None:
    backend = MemoryBackend()
    backend.session_routes = routes = Away(backend.session_routes)  # type: ignore[assignment]
    async with services("a", "b", "c", "d") as found:
        one, other = (Worker(backend, to=[Upstream(each.url) for each in found]) for _ in range(2))
        async with started(one.app), started(other.app):
            cookies = await sessions(one, 30)
            first = [await one.who(cookie) for cookie in cookies]
            assert set(first) == {"a", "b", "c", "d"}
            assert [await other.who(cookie) for cookie in cookies] == first
            routes.away = False
            kept = [await one.who(cookie) for cookie in cookies]
            routes.away = True
            assert [await one.who(cookie) for cookie in cookies] == kept, "the last known owner"
            routes.asked = 0
            assert await one.who(cookies[0]) == kept[0]
            assert routes.asked == 1, "it is not asked again for the same request"


@pytest.mark.redis_server
async def test_while_redis_hangs_nobody_is_sent_elsewhere_and_nothing_is_a_500(redis_server: RedisServer) -> None:
    async with services("a", "b") as found:
        worker = Worker(redis_server.url, to=[Upstream(each.url) for each in found], deadline=0.2, metrics=True)
        async with started(worker.app):
            cookies = await sessions(worker, 4)
            owners = [await worker.who(cookie) for cookie in cookies]
            redis_server.freeze()
            try:
                hung = await asyncio.gather(*(worker.who(cookie) for cookie in cookies))
                assert set(hung) == {"503"}, "a session that can't be checked is nobody's"
                assert await worker.who() in ("a", "b")
            finally:
                redis_server.thaw()

            async def back() -> bool:
                return [await worker.who(cookie) for cookie in cookies] == owners

            async with asyncio.timeout(30):
                while not await back():  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.05)
            assert worker.told("session.rerouted") == []


async def test_sessions_that_are_rerouted_are_counted() -> None:
    async with services("a", "b") as found:
        counted = {"metrics": True, "metrics_path": "/metrics", "metrics_public": True}
        worker = Worker("memory://", to=[Upstream(each.url) for each in found], **counted)
        async with started(worker.app):
            [cookie] = await sessions(worker, 1)
            owner = await worker.who(cookie)
            await worker.cop.balancing.drain("all", next(each.url for each in found if each.name == owner))
            assert await worker.who(cookie) != owner
            sent = await worker.ask(path="/metrics")
            page = b"".join(each.get("body", b"") for each in sent).decode()
            assert 'traffic_cop_session_events_total{event="rerouted",kind=""} 1' in page


async def test_an_owner_that_is_gone_while_routes_are_away_is_told_as_not_recorded() -> None:
    backend = MemoryBackend()
    backend.session_routes = routes = Away(backend.session_routes)  # type: ignore[assignment]
    routes.away = False
    async with services("a", "b") as found:
        worker = Worker(backend, to=[Upstream(each.url) for each in found])
        async with started(worker.app):
            [cookie] = await sessions(worker, 1)
            owner = await worker.who(cookie)
            [url] = [each.url for each in found if each.name == owner]
            routes.away = True
            await worker.cop.balancing.drain("all", url)
            assert len({await worker.who(cookie) for _ in range(3)} - {owner}) == 1
            [told] = worker.told("session.rerouted")
            assert (told["from"], told["recorded"]) == (url, False)


async def test_the_owner_of_a_websockets_session_gets_the_websocket_and_keeps_its_route() -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import ServerConnection

    from tests.gateway.socket_servers import gateway, websocket_server

    def named(name: str) -> Any:
        async def say(connection: ServerConnection) -> None:
            await connection.send(name)
            await connection.wait_closed()

        return say

    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(websocket_server(named(name))) for name in "abc"]
        dead = f"http://127.0.0.1:{free_port()}"
        worker = Worker("memory://", to=[Upstream(url) for url in (dead, *urls)], session_idle=1.0)
        running = await stack.enter_async_context(gateway(worker.app))
        management = worker.cop.session_management
        cookie = await worker.session("ada")
        [listed] = await management.sessions_of("ada")
        await management.move(listed.id, "all", to=dead, ttl=1.0)
        said = set[str]()
        for _ in range(3):
            async with connect(running.url("/x"), additional_headers={"cookie": cookie}) as client:
                said.add(str(await client.recv()))
        assert len(said) == 1
        [told] = worker.told("session.rerouted")
        assert (told["from"], told["reason"]) == (dead, "it can't be reached")
        async with connect(running.url("/x"), additional_headers={"cookie": cookie}) as client:
            assert str(await client.recv()) in said
            [before] = await management.routes_of(listed.id)
            async with asyncio.timeout(30):
                while (await management.routes_of(listed.id))[0].age < 1.5:  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.02)
            [after] = await management.routes_of(listed.id)
            assert after.version == before.version


# Cookies


async def test_a_browser_stays_by_a_cookie_that_says_nothing_of_the_instance(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend, BY_COOKIE) as both:
        for each in both:
            await each.knows(*there.names)
        owners = Counter[str]()
        for _ in range(6):
            sent = await both[0].ask()
            [cookie] = set_cookies(sent)
            pair, *attributes = cookie.split("; ")
            assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax", "Secure"]
            name, _, token = pair.partition("=")
            assert name.startswith("__Host-affinity-")
            assert len(token) == 22
            owner = dict(sent[0]["headers"])[b"x-from"].decode()
            assert dict(sent[0]["headers"])[b"cache-control"] == b"no-store"
            owners[owner] += 1
            for each in (*both, *both):
                again = await each.ask(pair)
                assert dict(again[0]["headers"])[b"x-from"].decode() == owner
                assert set_cookies(again) == [], "it has it"
        assert owners == {"a": 2, "b": 2, "c": 2}
        assert await both[0].cop.session_management.routes() == []


@pytest.mark.parametrize("token", ["", "forged", "a", "é", "x" * 5000, "a; __Host-affinity=b"])
async def test_a_forged_cookie_is_none(token: str) -> None:
    async with services("a", "b") as found:
        worker = Worker("memory://", BY_COOKIE, to=[Upstream(each.url) for each in found])
        async with started(worker.app):
            name = set_cookies(await worker.ask())[0].partition("=")[0]
            sent = await worker.ask(f"{name}={token}")
            assert sent[0]["status"] == 200
            assert len(set_cookies(sent)) == 1
            assert worker.told("session.rerouted") == []


async def test_a_cookie_of_an_owner_that_can_take_nothing_is_replaced_and_that_is_told() -> None:
    async with services("a", "b") as found:
        dead = f"http://127.0.0.1:{free_port()}"
        worker = Worker("memory://", BY_COOKIE, to=[Upstream(url) for url in (dead, *(each.url for each in found))])
        async with started(worker.app):
            [pool] = worker.cop._gateway.pools()
            tokens = next(layer for layer in layers(worker.app) if hasattr(layer, "_cookies"))._cookies
            pair = tokens.settings_of("all").set(tokens._tokens.token(pool, dead), age=None).partition(b";")[0]
            session = await worker.session("ada")
            sent = await worker.ask(f"{session}; {pair.decode()}")
            [cookie] = [each for each in set_cookies(sent) if "affinity" in each]
            [told] = worker.told("session.rerouted")
            [listed] = await worker.cop.session_management.sessions_of("ada")
            assert (told["session"], told["from"], told["reason"]) == (listed.id, dead, "it can't be reached")
            owner = dict(sent[0]["headers"])[b"x-from"].decode()
            assert {await worker.who(cookie.partition(";")[0]) for _ in range(4)} == {owner}
            assert pool.unfit(dead) == ""


async def test_it_is_told_whose_owner_a_record_took_out_of_its_route() -> None:
    async with services("a", "b") as [first, second]:
        worker = Worker("memory://", BY_COOKIE, to=[Upstream(first.url)])
        async with started(worker.app):
            [cookie] = set_cookies(await worker.ask())
            await worker.cop.routes.change(route("/x", to=second.url, name="all", keep_host=False, balancing=BY_COOKIE))
            assert await worker.who(cookie.partition(";")[0]) == "b"
            [told] = worker.told("session.rerouted")
            assert (told["from"], told["to"]) == (first.url, second.url)
            assert told["reason"] == "it is no longer in the pool"


def layers(app: Any) -> Any:
    """The layers of ours around an app."""
    app = app._layers
    while app is not None:
        yield app
        app = getattr(app, "app", None)


async def test_cookies_last_while_secrets_overlap_and_are_plain_names_without_https() -> None:
    async with services("a", "b", "c") as found:
        to = [Upstream(each.url) for each in found]
        old = Worker("memory://", BY_COOKIE, to=to, session_secure=False)
        secrets = ["another secret of 32 bytes, or more", SECRET]
        both = Worker("memory://", BY_COOKIE, to=to, session_secure=False, session_secret=secrets)
        new = Worker("memory://", BY_COOKIE, to=to, session_secure=False, session_secret=secrets[0])
        async with started(old.app), started(both.app), started(new.app):
            for _ in range(3):
                sent = await old.ask()
                pair = set_cookies(sent)[0].partition(";")[0]
                assert pair.startswith("affinity-")
                assert "Secure" not in set_cookies(sent)[0]
                owner = dict(sent[0]["headers"])[b"x-from"].decode()
                sent = await both.ask(pair)
                assert dict(sent[0]["headers"])[b"x-from"].decode() == owner
                [newer] = [each.partition(";")[0] for each in set_cookies(sent)]
                assert [await new.who(newer) for _ in range(4)] == [owner] * 4, "the old secret is gone"
                assert set_cookies(await new.ask(newer)) == []


# What "hash" goes by


@pytest.mark.parametrize("by", ["header:X-Cart", "attribute:shard", "session", "client"])
async def test_what_is_hashed_can_be_chosen(by: str) -> None:
    settings = BalancingSettings(policy="hash", hash_by=by, bound=1000.0)
    async with services("a", "b", "c", "d") as found:
        worker = Worker("memory://", settings, to=[Upstream(each.url) for each in found])
        async with started(worker.app):
            cookies = [await worker.session(f"user-{at}", shard=at // 4) for at in range(40)]
            at_carts = [{await worker.who(cookies[at], **{"x-cart": str(at // 4)})} for at in range(40)]
            again = [{await worker.who(cookies[at], **{"x-cart": str(at // 4)})} for at in range(40)]
            assert again == at_carts
            together = [set.union(*at_carts[at : at + 4]) for at in range(0, 40, 4)]
            if by == "session":
                assert max(map(len, together)) > 1
            else:
                assert set(map(len, together)) == {1}
            assert (len(set.union(*at_carts)) == 1) == (by == "client")
            assert await worker.who() == await worker.who(), "by the client where there is nothing else"


# Settings


async def test_affinity_is_set_while_the_app_runs_on_all_workers(backend: str) -> None:
    async with carts(backend, "a", "b", "c") as there, workers(backend, BalancingSettings(slow_start=0.0)) as both:
        for each in both:
            await each.knows(*there.names)
        await both[0].cop.balancing.configure("cart", BY_SESSION)
        await poll(lambda: all(len(each.told("pool.configured")) == 1 for each in both))
        for cookie in await sessions(both[0], 6):
            assert len(set(await all_of(both, cookie, 2))) == 1
        assert sum((await both[0].cop.session_management.route_figures())["cart"].values()) == 6


async def test_an_affinity_needs_what_it_goes_by() -> None:
    cop = TrafficCop()
    with pytest.raises(ConfigurationError, match="affinity='session' needs sessions"):
        cop.route("/x", to="http://127.0.0.1:1", balancing=BY_SESSION)
    by_attribute = BalancingSettings(policy="hash", hash_by="attribute:shard")
    with pytest.raises(ConfigurationError, match="hash_by='attribute:shard' needs sessions"):
        cop.route("/x", to="http://127.0.0.1:1", balancing=by_attribute)
    with pytest.raises(ConfigurationError, match="affinity='cookie' needs a secret that all workers share"):
        cop.route("/x", to="http://127.0.0.1:1", balancing=BY_COOKIE)
    with pytest.raises(ConfigurationError, match="affinity='cookie' needs a secret"):
        RoutingMiddleware(Starlette(), routes=[route("/x", to="http://127.0.0.1:1", balancing=BY_COOKIE)])


async def test_a_record_with_an_affinity_that_has_nothing_to_go_by_is_refused() -> None:
    async with services("a") as [a]:
        cop = TrafficCop()
        cop.route("/x", to=a.url, name="all")
        async with started(cop.wrap(Starlette())):
            with pytest.raises(ConfigurationError, match=r"configure\('all'\): affinity='cookie' needs a secret"):
                await cop.balancing.configure("all", BY_COOKIE)


async def test_an_attribute_of_the_session_chooses_the_service(backend: str) -> None:
    """Sessions go to the pillar that owns them by what is known of them, and there to their instance."""
    async with (
        services("p") as [p],
        Registration("premium", url=p.url, instance="p", backend=backend),
        carts(backend, "a", "b"),
        workers(backend) as both,
    ):
        for each in both:
            each.cop.route("/x", to=Service("premium"), name="pro", session={"plan": "pro"}, balancing=BY_SESSION)

        def known() -> bool:
            return all(pool.instances for each in both for pool in each.cop.balancing.pools())

        await poll(known)
        pro, free = await both[0].session("ada", plan="pro"), await both[0].session("bob", plan="free")
        assert set(await all_of(both, pro, 2)) == {"p"}
        assert set(await all_of(both, free, 2)) < {"a", "b"}
        figures = await both[0].cop.session_management.route_figures()
        assert figures["premium"] == {"p": 1}
        assert sum(figures["cart"].values()) == 1


# What it costs


def commands_of(writes: list[list[str]]) -> list[list[str]]:
    """Writes with the scripts' names in place of their hashes, without what notes and tallies."""
    names = {ROUTE.sha: "route", INDEX.sha: "index", sessions_store.LOAD.sha: "session", TAKE: "take"}
    found = [[names.get(each, each) for each in write] for write in writes]
    return [kept for write in found if (kept := [each for each in write if each != "index"])]


@pytest.mark.redis_server
@pytest.mark.parametrize(
    ("settings", "limits", "cost"),
    [
        (BalancingSettings(), None, [["session"]]),
        (BY_SESSION, None, [["session", "route"]]),
        (BY_SESSION, "1000/minute", [["session", "route", "take"]]),
        (BY_COOKIE, None, [["session"]]),
    ],
)
async def test_the_owner_is_asked_for_in_the_round_trip_of_the_session_and_limits(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    settings: BalancingSettings,
    limits: str | None,
    cost: list[list[str]],
) -> None:
    wire = Wire()
    plain = Link._transport_of
    monkeypatch.setattr(Link, "_transport_of", lambda link, connection: wire.wrap(link, plain(link, connection)))
    async with services("a", "b") as found:
        to = [Upstream(each.url) for each in found]
        worker = Worker(redis_server.url, settings, to=to, limits=limits)
        async with started(worker.app):
            cookie = await worker.session()
            for _ in range(3):  # scripts are loaded, the owner is found, and that owners are asked for is known
                await worker.who(cookie)
            await wire.still()
            wire.writes.clear()
            await worker.who(cookie)
            await wire.still()
            assert commands_of(wire.writes) == cost
            wire.writes.clear()
            await worker.who()
            await wire.still()
            assert commands_of(wire.writes) == ([["take"]] if limits else []), "a request without a session"


async def test_the_gateway_alone_finds_owners_by_the_sessions_of_another_middleware() -> None:
    backend = f"memory://owners-{next(NUMBERS)}"
    async with services("a", "b", "c") as found:
        routes = [route("/x", to=[Upstream(each.url) for each in found], balancing=BY_SESSION)]
        worker = Worker(backend, to=found[0].url)
        app = Starlette()
        app.add_middleware(RoutingMiddleware, routes=routes, backend=backend)
        app.add_middleware(SessionMiddleware, secret=SECRET, backend=backend)
        async with started(worker.app), started(app):
            cookies = await sessions(worker, 6)
            worker.app = app
            owners = [{await worker.who(cookie) for _ in range(3)} for cookie in cookies]
            assert set(map(len, owners)) == {1}
            assert set.union(*owners) == {"a", "b", "c"}


async def test_a_connection_that_the_owner_had_closed_is_no_reason_to_go_elsewhere() -> None:
    """The first request of a session, too, is asked again of the instance that owns it since a moment ago."""

    async def closing(peer: Any) -> None:
        await peer.message()
        await peer.send(OK)
        await peer.message()

    async with upstream(closing) as a, upstream(closing) as b:
        settings = BalancingSettings(policy="round-robin", affinity="session", slow_start=0.0, retry_floor=1000.0)
        worker = Worker("memory://", settings, to=[Upstream(a.url), Upstream(b.url)])
        async with started(worker.app):
            for _ in range(4):
                await worker.ask()
            worker.events.clear()
            for cookie in await sessions(worker, 4):
                for _ in range(2):
                    assert (await worker.ask(cookie))[0]["status"] == 200
            assert worker.told("session.rerouted") == []
            forwarded = [each for each in worker.told("route.forwarded") if each["attempts"] == 2]
            failed = worker.told("upstream.failed")
            assert len(forwarded) == len(failed) > 0
            assert [each["upstream"] for each in forwarded] == [each["upstream"] for each in failed]


async def test_an_instance_that_a_worker_has_yet_to_hear_of_keeps_its_new_session(backend: str) -> None:
    async with carts(backend, "a", later=["b"]) as there, workers(backend) as both:
        for each in both:
            await each.knows("a")
        [cookie] = await sessions(both[0], 1)
        management = both[0].cop.session_management
        [listed] = await management.sessions_of("user-0")
        await management.move(listed.id, "cart", to="b", ttl=both[0].cop.sessions.policy.idle)
        asking = asyncio.create_task(both[1].who(cookie))
        await asyncio.sleep(0.02)  # the news of it is late
        await there.come("b")
        assert await asking == "b"
        assert both[1].told("session.rerouted") == []


# 1,000 sessions

MANY = 1000
TEN = [f"i{at}" for at in range(10)]
BY_HASH = BalancingSettings(policy="hash", bound=1000.0, slow_start=0.0)
EXPECTED = MANY / 10
DEVIATION = 1.6
"""Times the expected share that an instance may own by chance, by hash or by turns."""


@pytest.mark.parametrize("settings", [BY_SESSION, BY_COOKIE, BY_HASH], ids=["session", "cookie", "hash"])
async def test_of_1000_sessions_on_ten_instances_only_the_share_moves_and_none_is_split(
    backend: str, settings: BalancingSettings
) -> None:
    async with carts(backend, *TEN, later=["new"]) as there, workers(backend, settings) as both:
        for each in both:
            await each.knows(*TEN)
        cookies = (
            [await both[0].session(f"user-{at}") for at in range(MANY)] if settings is not BY_COOKIE else [""] * MANY
        )
        at_once = asyncio.Semaphore(20)

        async def owner_of(at: int) -> str:
            """The one instance that answers a session, whichever worker it comes by."""
            async with at_once:
                found: set[str] = set()
                for each in both if settings is BY_COOKIE else ():  # a browser keeps what it got last
                    sent = await each.ask(cookies[at])
                    found.add(dict(sent[0]["headers"])[b"x-from"].decode())
                    for cookie in set_cookies(sent):
                        cookies[at] = cookie.partition(";")[0]
                if settings is not BY_COOKIE:
                    found.update(await all_of(both, cookies[at]))
                [owner] = found
                return owner

        async def owners() -> list[str]:
            return await asyncio.gather(*(owner_of(at) for at in range(MANY)))

        first = await owners()
        gone = TEN[3]
        owned = first.count(gone)
        assert 0 < owned <= DEVIATION * EXPECTED
        await there.go(gone)
        for each in both:
            await each.knows(*there.names)
        second = await owners()
        assert gone not in second
        assert {before for before, after in zip(first, second, strict=True) if before != after} == {gone}
        assert sum(before != after for before, after in zip(first, second, strict=True)) == owned
        await there.come("new")
        for each in both:
            await each.knows(*there.names)
        third = await owners()
        moved = [after for before, after in zip(second, third, strict=True) if before != after]
        if settings is BY_HASH:
            assert set(moved) == {"new"}
            assert len(moved) <= DEVIATION * EXPECTED
        else:
            assert moved == [], "owners that are there keep what they have"
            told = [*both[0].told("session.rerouted"), *both[1].told("session.rerouted")]
            assert len(told) == owned, "each is told of once"
