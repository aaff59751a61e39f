"""Routes and limits that are changed while apps run: on one cop, and on two that share a backend."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.adapters.load import poll, started
from tests.asgi import headers, http_scope, send_through, status
from tests.servers import RedisServer
from traffic_cop_middleware import (
    ConfigurationError,
    FixedResponse,
    RateLimitMiddleware,
    RecordConflict,
    Redirect,
    TrafficCop,
    by_api_key,
    by_user,
    limit,
    route,
)
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.errors import StoreUnavailable

pytestmark = pytest.mark.asyncio
SECRET = "the secret of the tests of live records"
NUMBERS = itertools.count()


class Worker:
    """A cop around an app with two routes, the one marked, and requests to it."""

    def __init__(self, backend: Any, **settings: Any) -> None:
        self.events: list[Any] = []
        settings = {"deadline": 2.0, "limits": [limit("100/minute", name="all")], **settings}
        self.cop = TrafficCop(backend, observer=self.events.append, **settings)

        @limit("3/hour", name="search", burst=4)
        async def search(request: Request) -> PlainTextResponse:
            return PlainTextResponse("found")

        async def page(request: Request) -> PlainTextResponse:
            return PlainTextResponse("the app's own")

        self.app = self.cop.wrap(Starlette(routes=[Route("/search", search), Route("/{path:path}", page)]))

    async def get(self, path: str, **scope: Any) -> list[Any]:
        return await send_through(self.app, http_scope(path, **scope))

    async def status(self, path: str, **scope: Any) -> int:
        return status(await self.get(path, **scope))


Both = tuple[Worker, Worker]


@contextlib.asynccontextmanager
async def two(backend: str, **settings: Any) -> AsyncIterator[Both]:
    one, other = Worker(backend, **settings), Worker(backend, **settings)
    async with started(one.app), started(other.app):
        yield one, other


@pytest_asyncio.fixture(params=["memory", "redis"])
async def workers(request: pytest.FixtureRequest) -> AsyncIterator[Both]:
    """Two workers that share a backend."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        backend = server.url
    else:
        backend = f"memory://records-{next(NUMBERS)}"
    async with two(backend) as both:
        yield both


async def until(worker: Worker, path: str, code: int) -> None:
    """Wait until a worker answers a path like that."""
    async with asyncio.timeout(10):
        while await worker.status(path) != code:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.005)


# Routes


async def test_a_route_is_put_changed_and_removed_on_all_workers(workers: Both) -> None:
    one, other = workers
    assert await one.status("/old/x") == 200
    first = await one.cop.routes.put("/old/*", to=Redirect("/new"), name="old")
    assert await one.status("/old/x") == 308, "the worker that put it goes by it at once"
    await until(other, "/old/x", 308)
    assert await other.cop.routes.put("/old/*", to=FixedResponse(410), name="old", at=first) > first
    await until(one, "/old/x", 410)
    assert [each.name for each in await one.cop.routes.list()] == ["old"]
    assert await one.cop.routes.remove("old")
    assert not await one.cop.routes.remove("old")
    await until(other, "/old/x", 200)
    assert one.cop.routes.version == other.cop.routes.version


async def test_a_record_takes_the_place_of_a_route_of_the_start_until_it_is_removed(workers: Both) -> None:
    one, other = workers
    for worker in workers:
        worker.cop.route("/shop/*", to=FixedResponse(503), name="shop", limits="5/hour")
    assert await one.status("/shop/x") == 503
    await one.cop.routes.put("/shop/*", to=FixedResponse(204), name="shop")
    await until(other, "/shop/x", 204)
    await one.cop.routes.remove("shop")
    await until(other, "/shop/x", 503)
    assert "5/hour" in headers(await other.get("/shop/x"))["ratelimit-policy"]


async def test_several_routes_are_changed_at_once_or_not_at_all(workers: Both) -> None:
    one, other = workers
    version = await one.cop.routes.change([route("/a", to=FixedResponse(201)), route("/b", to=FixedResponse(202))])
    await until(other, "/b", 202)
    assert await other.status("/a") == 201
    with pytest.raises(RecordConflict):
        await other.cop.routes.change([route("/a", to=FixedResponse(500))], remove=["/b"], at=version - 1)
    await other.cop.routes.change([route("/c", to=FixedResponse(203))], remove=["/a", "/b"], at=version)
    await until(one, "/c", 203)
    assert [await one.status(path) for path in ("/a", "/b", "/c")] == [200, 200, 203]


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda cop: cop.routes.put("/a/*", to="ftp://x"), "Upstream"),
        (lambda cop: cop.routes.put("no path", to="http://x"), "begins with"),
        (lambda cop: cop.routes.put("/a", to=lambda scope, receive, send: None), "ASGI app"),
        (lambda cop: cop.routes.put("/a", to="http://x", limits=limit("1/s", cost=lambda c: 1)), "function"),
        (lambda cop: cop.routes.put("/a", to="http://x", stirp_prefix="/a"), "stirp_prefix"),
        (lambda cop: cop.limits.put("search", "10 per fortnight"), "fortnight"),
        (lambda cop: cop.limits.put("saerch", "10/minute"), "no limit of the code has that name"),
        (lambda cop: cop.limits.put("search", "10/minute", key="user"), "stay as they are"),
        (lambda cop: cop.limits.put("x", "10/minute", paths="/a"), "subtree"),
        (lambda cop: cop.limits.put("x", "10/minute", paths="/a/*", key="shoe size"), "shoe size"),
        (lambda cop: cop.limits.put("search", "10/minute", cost=11), "cost=11"),
        (lambda cop: cop.limits.put('"', "10/minute", paths="/*"), "quotes"),
        (lambda cop: cop.limits.show("saerch", "203.0.113.7"), "'search'"),
        (lambda cop: cop.limits.show("search"), "whose bucket"),
    ],
)
async def test_what_can_not_be_used_is_refused_and_the_old_table_stays(
    put: Callable[[TrafficCop], Any], message: str
) -> None:
    worker = Worker("memory://")
    async with started(worker.app):
        await worker.cop.routes.put("/a/*", to=FixedResponse(201), name="/a/*")
        version = worker.cop.routes.version
        with pytest.raises(ConfigurationError, match=message):
            await put(worker.cop)
        assert await worker.status("/a/x") == 201
        assert worker.cop.routes.version == version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"put": ["/a"]}, "is no route"),
        ({"put": [route("/a", to=FixedResponse(), name="n"), route("/b", to=FixedResponse(), name="n")]}, "twice"),
        ({"put": [route("/a", to=FixedResponse(), name="n")], "remove": ["n"]}, "twice"),
        ({"remove": [5]}, "names of routes"),
        ({}, "of 0 records"),
        ({"remove": ["a"], "at": True}, "at=True"),
        ({"remove": ["a"], "at": "1"}, "at='1'"),
    ],
)
async def test_a_change_that_says_nothing_clear_is_an_error(arguments: dict[str, Any], message: str) -> None:
    worker = Worker("memory://")
    async with started(worker.app):
        with pytest.raises(ValueError, match=message):
            await worker.cop.routes.change(**arguments)


async def test_a_cop_hears_each_change_once_and_one_that_never_ran_hears_none() -> None:
    backend = f"memory://heard-{next(NUMBERS)}"
    running, idle = Worker(backend), Worker(backend)
    async with started(running.app):
        opened = running.cop._parts.opened
        assert opened is not None
        bus: Any = opened.backend.bus
        assert {topic: len(heard) for topic, heard in bus._subscriptions.items()} == {"limits.reset": 1, "records": 1}
        await running.cop.routes.put("/put", to=FixedResponse(204))
    assert bus._subscriptions == {}
    assert not idle.cop._gateway.table


async def test_one_route_and_one_name_may_stand_without_a_list() -> None:
    worker = Worker("memory://")
    async with started(worker.app):
        await worker.cop.routes.change(route("/a", to=FixedResponse(204), name="first"))
        await worker.cop.routes.change(route("/b", to=FixedResponse(204), name="second"), remove="first")
        assert [each.name for each in await worker.cop.routes.list()] == ["second"]


async def test_a_limit_of_its_own_does_not_go_away_by_a_change_without_its_place() -> None:
    worker = Worker("memory://")
    async with started(worker.app):
        await worker.cop.limits.put("night", "5/minute", paths="/*")
        with pytest.raises(ConfigurationError, match=r"Write paths='/\*' as well"):
            await worker.cop.limits.put("night", "3/minute")
        assert ("night", "5/minute") in [(each.name, each.rate) for each in await worker.cop.limits.list()]


@pytest.mark.parametrize("wrong", [{"key": ["ip"]}, {"methods": 5}, {"key": "nobody"}, {"methods": "GET"}])
async def test_a_limit_that_can_not_be_used_is_refused(wrong: dict[str, Any]) -> None:
    worker = Worker("memory://")
    async with started(worker.app):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            await worker.cop.limits.put("night", "5/minute", paths="/*", **wrong)
        with pytest.raises(ConfigurationError, match="of=5"):
            await worker.cop.limits.show("all", 5)  # type: ignore[arg-type]


async def test_a_worker_whose_first_request_is_cancelled_while_it_reads_finds_the_records(
    redis_server: RedisServer,
) -> None:
    one, late = Worker(redis_server.url, namespace="late"), Worker(redis_server.url, namespace="late")
    async with started(one.app):
        await one.cop.routes.put("/put", to=FixedResponse(204))
        opening = asyncio.create_task(late.cop._parts.open())
        while not late.cop._parts._by_loop:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await until(late, "/put", 204)
        await late.cop._parts.stop()


async def test_a_record_that_this_worker_can_not_read_leaves_its_table_as_it_was(workers: Both) -> None:
    one, other = workers
    await one.cop.routes.put("/a/*", to=FixedResponse(201), name="a")
    await until(other, "/a/x", 201)
    newer = {"a": None, "b": '{"pattern":"/b","to":{"teleport":"there"}}'}
    messaging = one.cop._open("routes").records("routes")
    version = await messaging.publish("routes", newer)
    await poll(lambda: other.cop.routes.version == version)
    for worker in workers:
        assert await worker.status("/a/x") == 201
        assert "teleport" in worker.cop.routes.refused["b"]
        assert [event.kind for event in worker.events if event.kind == "records.refused"] == ["records.refused"]
    assert await other.cop.routes.remove("b")
    await until(one, "/a/x", 200)


# Limits


async def test_a_limit_of_the_code_is_changed_by_its_name_on_all_workers(workers: Both) -> None:
    one, other = workers
    assert [await one.status("/search") for _ in range(3)] == [200] * 3
    await one.cop.limits.put("search", "2/hour")
    await until(other, "/search", 429)
    assert await one.status("/search") == 429, "what was used counts on"
    assert headers(await one.get("/search"))["ratelimit-policy"].endswith('"search";q=2;w=3600')
    await other.cop.limits.put("search", "60/hour", burst=50)
    await until(one, "/search", 200)
    found = {each.name: each for each in await one.cop.limits.list()}
    assert found["search"] == ("search", "60/hour", 50, "ip", "/search", True)
    assert found["all"] == ("all", "100/minute", 100, "ip", "", False)
    assert await one.cop.limits.remove("search")
    await poll(lambda: not other.cop.limits.live.values)
    assert headers(await other.get("/search"))["ratelimit-policy"].endswith('"search";q=4;w=4800')


async def test_a_new_limit_holds_on_a_subtree_or_everywhere(workers: Both) -> None:
    one, other = workers
    await one.cop.limits.put("api", "2/hour", paths="/api/*")
    await poll(lambda: "api" in other.cop.limits.live.values)
    assert [await other.status("/api/x") for _ in range(3)] == [200, 200, 429]
    assert await other.status("/else") == 200
    await other.cop.limits.put("brake", "1/hour", paths="/*", key="everyone")
    await until(one, "/else", 200)
    await until(one, "/else", 429)
    assert [(each.name, each.where) for each in await one.cop.limits.list()] == [
        ("all", ""),
        ("brake", ""),
        ("api", "/api/*"),
        ("search", "/search"),
    ]
    await one.cop.limits.remove("brake")
    await until(other, "/else", 200)


async def test_a_bucket_is_looked_at_and_filled_up_on_all_workers(workers: Both) -> None:
    one, other = workers
    client = "203.0.113.7"
    for worker in (one, one, other, other):
        assert await worker.status("/search") == 200
    assert [await worker.status("/search") for worker in workers] == [429, 429]
    (level,) = await other.cop.limits.show("search", client)
    assert level[:3] == ("search", 4, 0)
    assert 0 < level.next_in <= 1200
    assert (await other.cop.limits.show("search", "198.51.100.1"))[0][1:] == (4, 4, 0)
    assert (await other.cop.limits.show("all", client))[0].remaining >= 96
    await one.cop.limits.reset("search", client)
    assert await one.status("/search") == 200
    await until(other, "/search", 200)
    assert (await one.cop.limits.show("search", client))[0].remaining == 2


async def test_every_kind_of_key_is_named_as_people_name_it() -> None:
    worker = Worker("memory://", session_secret=SECRET)
    worker.cop.limit("/user/*", limit("5/hour", key=by_user, name="user"))
    worker.cop.limit("/key/*", limit("5/hour", key=by_api_key(verify=lambda key: "acme"), name="key"))
    worker.cop.limit("/any/*", limit("5/hour", key=by_api_key, name="any"))
    worker.cop.limit("/own/*", limit("5/hour; 9/day", key=lambda connection: "me", name="own"))
    async with started(worker.app):
        tokens = []

        async def login(scope: Any, receive: Any, send: Any) -> None:
            tokens.append(await scope["traffic_cop"].session.login("älice"))
            await PlainTextResponse("")(scope, receive, send)

        worker.cop.route("/login", to=login)
        assert await worker.status("/login") == 200
        bearer = [(b"authorization", b"Bearer " + tokens[0].access_token.encode())]
        for path, given in (
            ("/user/x", bearer),
            ("/key/x", [(b"x-api-key", b"k")]),
            ("/any/x", [(b"x-api-key", b"k")]),
        ):
            assert await worker.status(path, headers=given) == 200
        assert await worker.status("/own/x") == 200
        show = worker.cop.limits.show
        found = [
            await show("user", "älice"),
            await show("key", "acme"),
            await show("any", "k"),
            await show("own", "me"),
        ]
        assert [[level.remaining for level in levels] for levels in found] == [[4], [4], [4], [4, 8]]
        assert [level.name for level in found[3]] == ["own 5/hour", "own 9/day"]


async def test_the_limits_of_a_route_can_be_changed_too() -> None:
    worker = Worker("memory://")
    worker.cop.route("/svc/*", to=FixedResponse(200), limits=limit("9/hour", name="svc"))
    async with started(worker.app):
        await worker.cop.limits.put("svc", "1/hour")
        assert [await worker.status("/svc/x") for _ in range(2)] == [200, 429]
        assert (await worker.cop.limits.show("svc", "203.0.113.7"))[0].remaining == 0


async def test_the_limits_alone_go_by_the_records_too() -> None:
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse(""))])
    app.add_middleware(RateLimitMiddleware, backend="memory://live-alone", limits=[limit("9/hour", name="all")])
    async with two("memory://live-alone", limits=[limit("9/hour", name="all")]) as (one, _):
        assert status(await send_through(app, http_scope("/x"))) == 200
        await one.cop.limits.put("all", "1/hour")
        assert status(await send_through(app, http_scope("/x"))) == 429


# Outages, and who comes late


@pytest.mark.redis_server
async def test_while_redis_is_away_the_last_table_goes_on_and_changes_fail(own_redis: RedisServer) -> None:
    async with two(own_redis.url, deadline=0.1) as (one, other):
        await one.cop.routes.put("/a/*", to=FixedResponse(201), name="a")
        await one.cop.limits.put("search", "1/hour")
        await until(other, "/a/x", 201)
        own_redis.kill()
        await poll(lambda: any(event.kind == "store.lost" for event in other.events), 10)
        assert await other.status("/a/x") == 201
        with pytest.raises(StoreUnavailable):
            await other.cop.routes.put("/a/*", to=FixedResponse(500), name="a")
        with pytest.raises(StoreUnavailable):
            await other.cop.routes.list()
        assert await other.status("/a/x") == 201
        own_redis.start()
        late = Worker(own_redis.url)
        async with started(late.app):
            await until(late, "/a/x", 201)
            assert [each.name for each in await late.cop.routes.list()] == ["a"], "an empty Redis got its table back"
            await until(other, "/a/x", 201)
            await poll(lambda: "search" in late.cop.limits.live.values, 10)


@pytest.mark.redis_server
async def test_a_worker_that_starts_has_the_table_before_its_first_request(redis_server: RedisServer) -> None:
    async with two(redis_server.url) as (one, _):
        await one.cop.routes.change([route(f"/r{number}", to=FixedResponse(201)) for number in range(500)])
        late = Worker(redis_server.url)
        async with started(late.app):
            assert await late.status("/r499") == 201
        without_lifespan = Worker(redis_server.url)
        assert await without_lifespan.status("/r499") == 201
        await without_lifespan.cop._parts.stop()


class BucketsAlone:
    """A backend that keeps buckets and nothing else."""

    name = "buckets-alone://"
    live_workers = None
    sessions = session_routes = records = metrics = bus = leases = None

    def __init__(self) -> None:
        inner = MemoryBackend()
        self.buckets, self.clock = inner.buckets, inner.clock


async def test_a_backend_without_records_says_so() -> None:
    worker = Worker(BucketsAlone())
    async with started(worker.app):
        assert await worker.status("/search") == 200
        with pytest.raises(ConfigurationError, match="buckets-alone:// keeps no records"):
            await worker.cop.routes.put("/a", to=FixedResponse(200))
        assert (await worker.cop.limits.show("search", "203.0.113.7"))[0].remaining == 3


async def test_outside_of_a_request_and_the_lifespan_nothing_is_open() -> None:
    with pytest.raises(ConfigurationError, match="nothing is open"):
        await TrafficCop().routes.put("/a", to=FixedResponse(200))
