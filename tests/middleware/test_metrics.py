"""What is counted of requests and WebSockets, and under which route."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from tests.asgi import http_scope, send_through, status, websocket_scope
from traffic_cop_middleware import (
    ConfigurationError,
    FixedResponse,
    MetricsMiddleware,
    RateLimitMiddleware,
    TrafficCop,
    by_api_key,
    by_ip,
    by_user,
    limit,
    session_of,
)
from traffic_cop_middleware.abstractions.metrics.live import Live, Period
from traffic_cop_middleware.abstractions.metrics.recorder import MOST_SERIES
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, UNMATCHED
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.middleware.keys import Key
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.fixtures import OpenClient

SECRET = "0123456789abcdef0123456789abcdef"


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def live(cop: TrafficCop, *requests: Callable[[], Coroutine[Any, Any, Any]]) -> Live:
    """What the cop tells after these requests, which may fail."""

    async def scenario() -> Live:
        for request in requests:
            await asyncio.gather(request(), return_exceptions=True)
        return await cop.analytics.live()

    return asyncio.run(scenario())


def period(cop: TrafficCop, app: Any, *scopes: dict[str, Any]) -> Period:
    """The last minute after these requests to an app."""
    return live(cop, *(lambda scope=scope: send_through(app, scope) for scope in scopes)).last_minute


def keys(period: Period) -> dict[str, int]:
    return {route: traffic.requests for route, traffic in period.routes.items()}


# Under which route


def all_kinds_of_routes() -> FastAPI:
    """Direct, included, nested, mounted, of a host, and plain Starlette's inside FastAPI."""
    app = FastAPI()

    @app.get("/direct/{id}")
    async def direct(id: int) -> int:
        return id

    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    @inner.get("/{name}")
    async def nested(name: str) -> str:
        return name

    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/again")
    app.mount("/mounted/{tenant}", Starlette(routes=[Route("/deep/{x}", ok), Mount("/more", routes=[Route("/y", ok)])]))
    sub = FastAPI()

    @sub.get("/items/{id}")
    async def in_sub(id: int) -> int:
        return id

    app.mount("/sub", sub)
    app.router.routes.append(Route("/plain/{x}", ok))
    app.router.routes.append(Host("api.example.org", Router([Route("/of-host/{x}", ok)])))
    return app


PLACES = {
    "/direct/1": "/direct/{id}",
    "/direct/not-a-number": "/direct/{id}",
    "/outer/inner/x": "/outer/inner/{name}",
    "/again/inner/x": "/again/inner/{name}",
    "/mounted/acme/deep/1": "/mounted/{tenant}/deep/{x}",
    "/mounted/acme/more/y": "/mounted/{tenant}/more/y",
    "/mounted/acme/nothing": "/mounted/{tenant}/{path}",
    "/sub/items/3": "/sub/items/{id}",
    "/plain/x": "/plain/{x}",
    "/of-host/x": "/of-host/{x}",
    "/nowhere": UNMATCHED,
}


@pytest.mark.parametrize("limits", [None, "10000/minute"])
@pytest.mark.parametrize("path", PLACES)
def test_a_request_counts_under_the_template_that_it_reached(path: str, limits: str | None) -> None:
    cop, app = TrafficCop(metrics=True, limits=limits), all_kinds_of_routes()
    cop.install(app)
    host = b"api.example.org" if "of-host" in path else b"testserver"
    scopes = [http_scope(path, headers=[(b"host", host)]) for _ in range(3)]
    assert keys(period(cop, app, *scopes)) == {PLACES[path]: 3}


def test_a_root_path_changes_no_template() -> None:
    cop, app = TrafficCop(metrics=True), all_kinds_of_routes()
    cop.install(app)
    scopes = [http_scope(f"/proxy{path}", root_path="/proxy") for path in ("/plain/x", "/again/inner/x", "/nowhere")]
    assert set(keys(period(cop, app, *scopes))) == {"/plain/{x}", "/again/inner/{name}", UNMATCHED}


def test_a_wrong_method_counts_under_the_route_that_refused_it() -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))
    found = period(cop, app, http_scope("/a", "DELETE"), http_scope("/a", "NONSENSE"), http_scope("/a", "HEAD"))
    assert keys(found) == {"/a": 3}
    assert found.statuses == {200: 1, 405: 2}


def test_a_route_that_was_added_later_is_known_from_its_first_request_on() -> None:
    cop = TrafficCop(metrics=True)
    starlette = Starlette(routes=[Route("/a", ok)])
    app = cop.wrap(starlette)

    async def scenario() -> Period:
        await send_through(app, http_scope("/a"))

        async def late(request: Request) -> Response:
            return PlainTextResponse("late")

        starlette.router.routes.append(Route("/late/{x}", late))
        await send_through(app, http_scope("/late/1"))
        return (await cop.analytics.live()).last_minute

    assert keys(asyncio.run(scenario())) == {"/a": 1, "/late/{x}": 1}


def test_an_endpoint_behind_two_templates_counts_under_each() -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(
        Starlette(routes=[Route("/one/{x}", ok), Route("/two", ok), Mount("/three", routes=[Route("/z", ok)])])
    )
    found = period(cop, app, http_scope("/one/1"), http_scope("/two"), http_scope("/three/z"), http_scope("/one/2"))
    assert keys(found) == {"/one/{x}": 2, "/two": 1, "/three/z": 1}


def test_what_a_gateway_route_answers_counts_under_its_pattern() -> None:
    cop = TrafficCop(metrics=True)
    cop.route("/fixed/*", to=FixedResponse(410, "gone"))
    cop.route("/mounted/*", to=Starlette(routes=[Route("/mounted/{x}", ok)]))
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))
    found = period(cop, app, http_scope("/fixed/1"), http_scope("/fixed/2"), http_scope("/mounted/x"), http_scope("/a"))
    assert keys(found) == {"/fixed/*": 2, "/mounted/*": 1, "/a": 1}


def test_what_a_limit_refuses_counts_under_the_route_that_it_was_for() -> None:
    cop = TrafficCop(metrics=True, limits=limit("2/minute", name="few"))
    cop.route("/up/*", to="http://127.0.0.1:9")
    app = cop.wrap(Starlette(routes=[Route("/a/{x}", ok)]))
    found = period(cop, app, *(http_scope(path) for path in ("/a/1", "/a/2", "/a/3", "/up/x")))
    assert keys(found) == {"/a/{x}": 3, "/up/*": 1}
    assert found.statuses == {200: 2, 429: 2}
    assert (found.total.refused, found.limits) == (2, {"few": 2})


def test_ten_thousand_random_methods_and_paths_add_no_series() -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a/{x}", ok, methods=["GET", "POST"])]))
    source = random.Random(3)

    def scope() -> dict[str, Any]:
        path = source.choice(["/", "/a/"]) + source.randbytes(6).hex() + source.choice(["", "/more"])
        method = "".join(source.choices("ABCDEFGHIJ-", k=6))
        return http_scope(path, source.choice(["GET", method]))

    async def scenario() -> tuple[int, int, int]:
        for one in ("GET", "X"):
            for path in ("/a/1", "/nothing"):
                await send_through(app, http_scope(path, one))
        before = await cop.analytics.totals()
        for _ in range(10_000):
            await send_through(app, scope())
        after = await cop.analytics.totals()
        requests = sum(series.count for series in after.figures.requests.values())
        return len(before.figures.requests), len(after.figures.requests), requests

    assert asyncio.run(scenario()) == (4, 4, 10_004)


def test_series_are_capped_and_the_rest_is_one_route() -> None:
    cop = TrafficCop(metrics=True, metrics_series=5)
    app = cop.wrap(Starlette(routes=[Route(f"/r{number}", ok) for number in range(20)]))
    found = period(cop, app, *(http_scope(f"/r{number}") for number in range(20)))
    assert len(found.routes) == 6
    assert keys(found)[OVERFLOW] == 15
    assert MOST_SERIES >= 100


# What of a request


def test_bytes_are_counted_as_they_passed() -> None:
    async def echo(request: Request) -> Response:
        return Response(b"12345" * len(await request.body()))

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", echo, methods=["POST"])]))
    body = [
        {"type": "http.request", "body": b"x" * 10, "more_body": True},
        {"type": "http.request", "body": b"y" * 7, "more_body": False},
    ]
    total = live(cop, lambda: send_through(app, http_scope("/a", "POST"), body)).last_minute.total
    assert (total.bytes_in, total.bytes_out) == (17, 85)


def test_an_exception_counts_as_one_and_as_a_500_and_passes_as_it_came() -> None:
    async def fails(request: Request) -> Response:
        raise ZeroDivisionError("on purpose")

    for install in (True, False):
        cop, starlette = TrafficCop(metrics=True), Starlette(routes=[Route("/a", fails)])
        app: Any = starlette
        if install:
            cop.install(starlette)
        else:
            app = cop.wrap(starlette)

        async def scenario(app: Any = app, cop: TrafficCop = cop) -> Live:
            with pytest.raises(ZeroDivisionError):
                await send_through(app, http_scope("/a"))
            return await cop.analytics.live()

        total = asyncio.run(scenario()).last_minute.total
        assert (total.requests, total.exceptions, total.errors, total.disconnects) == (1, 1, 1, 0)


def test_an_app_that_gives_no_response_counts_as_a_500() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    cop = TrafficCop(metrics=True)
    found = period(cop, cop.wrap(silent), http_scope("/a"))
    assert (found.statuses, found.total.exceptions) == ({500: 1}, 0)


async def _reads(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("never")


async def _streams(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"piece"
            await asyncio.sleep(0)

    return StreamingResponse(pieces())


@pytest.mark.parametrize("endpoint", [_reads, _streams])
def test_a_client_that_leaves_before_the_end_counts_as_499_and_not_as_an_error(endpoint: Any) -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", endpoint)]))
    gone = [{"type": "http.disconnect"}]
    total = live(cop, lambda: send_through(app, http_scope("/a"), gone)).last_minute
    assert total.statuses == {499: 1}
    assert (total.total.disconnects, total.total.errors, total.total.exceptions) == (1, 0, 0)


def test_a_client_that_leaves_after_the_end_was_served() -> None:
    cop = TrafficCop(metrics=True)

    async def lingers(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all"})
        assert (await receive())["type"] == "http.disconnect"

    found = live(cop, lambda: send_through(cop.wrap(lingers), http_scope("/a"), [{"type": "http.disconnect"}]))
    assert found.last_minute.statuses == {200: 1}


@pytest.mark.parametrize("at", ["http.response.start", "http.response.body"])
def test_a_server_that_says_by_an_oserror_that_the_client_is_gone_is_believed(at: str) -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == at:
            raise OSError("gone")

    total = live(cop, lambda: app(http_scope("/a"), receive, send)).last_minute
    assert (total.statuses, total.total.exceptions) == ({499: 1}, 0)


def test_an_oserror_of_the_app_is_an_exception() -> None:
    async def no_file(request: Request) -> Response:
        raise FileNotFoundError("settings.toml")

    cop = TrafficCop(metrics=True)
    found = period(cop, cop.wrap(Starlette(routes=[Route("/a", no_file)])), http_scope("/a"))
    assert (found.statuses, found.total.exceptions) == ({500: 1}, 1)


def test_a_cancelled_request_counts_as_given_up() -> None:
    entered = asyncio.Event()

    async def hangs(request: Request) -> Response:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", hangs)]))

    async def scenario() -> tuple[Live, Live]:
        task = asyncio.create_task(send_through(app, http_scope("/a")))
        await entered.wait()
        before = await cop.analytics.live()
        task.cancel()
        await asyncio.wait([task])
        return before, await cop.analytics.live()

    before, after = asyncio.run(scenario())
    assert before.in_flight == {"/a": 1}
    assert before.last_minute.total.requests == 0
    assert after.in_flight == {}
    assert after.last_minute.statuses == {499: 1}


def test_event_streams_have_figures_of_their_own() -> None:
    async def events(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            yield b"data: 2\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    cop = TrafficCop(metrics=True)
    found = period(cop, cop.wrap(Starlette(routes=[Route("/events", events)])), http_scope("/events"))
    assert found.total.requests == 0
    assert found.streams["/events"].requests == 1
    assert found.streams["/events"].bytes_out == 18


def test_the_first_byte_comes_before_the_last() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        entered.set()
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b""})
        await go.wait()  # a background task

    cop = TrafficCop(metrics=True)

    async def scenario() -> Live:
        task = asyncio.create_task(send_through(cop.wrap(slow), http_scope("/a")))
        await entered.wait()
        go.set()
        await task
        return await cop.analytics.live()

    total = asyncio.run(scenario()).last_minute.total
    assert total.p50 is not None
    assert total.first_byte_p95 is not None
    assert total.first_byte_p95 < total.p50
    assert total.p50 >= 0.05 / 1.011


def test_a_slow_request_leaves_its_trace() -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = [(b"traceparent", f"00-{trace}-b7ad6b7169203331-01".encode())]

    async def scenario() -> str:
        await send_through(app, http_scope("/a", headers=fields))
        (series,) = (await cop.analytics.totals()).figures.requests.values()
        (exemplar,) = series.slow.values()
        return exemplar.trace

    assert asyncio.run(scenario()) == trace


# WebSockets


async def _talks(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("grüß")
    assert await socket.receive_bytes() == b"12345678"
    await socket.close(4321)


def test_a_websocket_is_counted_with_its_messages_and_close_code() -> None:
    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[WebSocketRoute("/ws/{room}", _talks)]))
    messages = [{"type": "websocket.connect"}, {"type": "websocket.receive", "bytes": b"12345678"}]
    found = live(cop, lambda: send_through(app, websocket_scope("/ws/1"), messages)).last_minute
    socket = found.sockets["/ws/{room}"]
    assert (socket.ended, socket.messages, socket.bytes) == (1, {"in": 1, "out": 1}, {"in": 8, "out": 6})
    assert socket.closes == {"4xxx": 1}
    assert found.total.requests == 0


def test_a_websocket_that_its_client_leaves_or_that_fails_or_is_refused() -> None:
    async def waits(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()

    async def fails(socket: WebSocket) -> None:
        await socket.accept()
        raise ZeroDivisionError

    async def refuses(socket: WebSocket) -> None:
        await socket.close()

    cop = TrafficCop(metrics=True)
    routes = [WebSocketRoute(f"/{each.__name__}", each) for each in (waits, fails, refuses)]
    app = cop.wrap(Starlette(routes=routes))
    left = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}]
    found = live(
        cop,
        *(
            lambda path=path: send_through(app, websocket_scope(path), left)
            for path in ("/waits", "/fails", "/refuses")
        ),
    ).last_minute.sockets
    assert found["/waits"].closes == {"1001": 1}
    assert found["/fails"].closes == {"1011": 1}
    assert (found["/refuses"].ended, found["/refuses"].refused) == (0, {"403": 1})


def test_an_open_websocket_is_under_way() -> None:
    opened, go = asyncio.Event(), asyncio.Event()

    async def stays(socket: WebSocket) -> None:
        await socket.accept()
        opened.set()
        await go.wait()
        await socket.close()

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[WebSocketRoute("/ws", stays)]))

    async def scenario() -> tuple[Live, Live]:
        messages = [{"type": "websocket.connect"}]
        task = asyncio.create_task(send_through(app, websocket_scope("/ws"), messages))
        await opened.wait()
        before = await cop.analytics.live()
        go.set()
        await task
        return before, await cop.analytics.live()

    before, after = asyncio.run(scenario())
    assert (before.sockets_open, before.in_flight) == ({"/ws": 1}, {})
    assert after.sockets_open == {}
    assert after.last_minute.sockets["/ws"].closes == {"1000": 1}


# Sessions and usage


def test_usage_is_told_by_verified_user_tenant_plan_and_api_key(open_client: OpenClient) -> None:
    async def log_in(request: Request) -> Response:
        await session_of(request).login("alice", claims={"tenant": "acme", "plan": "pro"})
        return PlainTextResponse("welcome")

    cop = TrafficCop(
        metrics=True,
        session_secret=SECRET,
        limits=limit("100/minute", key=by_api_key(verify=lambda key: "robot" if key == "k" * 20 else None)),
    )
    app = Starlette(routes=[Route("/login", log_in), Route("/a", ok)])
    cop.install(app)
    client = open_client(app)
    client.get("/a")
    client.get("/login")
    for _ in range(3):
        client.get("/a")
    client.cookies.clear()
    client.get("/a", headers={"x-api-key": "k" * 20})
    client.get("/a", headers={"x-api-key": "invented"})

    found = asyncio.run(cop.analytics.live()).last_minute
    assert {kind: {name: used.requests for name, used in names.items()} for kind, names in found.usage.items()} == {
        "user": {"alice": 4},
        "tenant": {"acme": 4},
        "plan": {"pro": 4},
        "api_key": {"robot": 1},
    }
    assert found.usage["user"]["alice"].bytes_out == len("welcome") + 3 * len("ok")
    assert found.sessions["created"] == 1


@pytest.mark.parametrize("key", [by_user, by_ip])
def test_what_a_limit_refuses_counts_for_the_user_that_the_token_names(open_client: OpenClient, key: Key) -> None:
    async def log_in(request: Request) -> Response:
        await session_of(request).login("alice", claims={"tenant": "acme"})
        return PlainTextResponse("welcome")

    cop = TrafficCop(metrics=True, session_secret=SECRET, limits=limit("2/minute", key=key, methods=["GET"]))
    app = Starlette(routes=[Route("/login", log_in, methods=["POST"]), Route("/a", ok)])
    cop.install(app)
    client = open_client(app)
    client.post("/login")
    assert [client.get("/a").status_code for _ in range(5)] == [200, 200, 429, 429, 429]
    found = asyncio.run(cop.analytics.live()).last_minute
    for kind, name in (("user", "alice"), ("tenant", "acme")):
        assert (found.usage[kind][name].requests, found.usage[kind][name].refused) == (6, 3)


# Windows


def test_each_period_forgets_what_is_older(fake_clock: FakeClock, memory_backend: MemoryBackend) -> None:
    fake_clock.advance(1_000_000 - fake_clock() % 60)
    cop = TrafficCop(memory_backend, metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))

    async def scenario() -> list[tuple[int, int, int]]:
        seen = []
        await send_through(app, http_scope("/a"))
        for pause in (5, 25, 60, 1_000, 900):
            fake_clock.advance(pause)
            found = await cop.analytics.live()
            periods = (found.last_10_seconds, found.last_minute, found.last_15_minutes)
            before = tuple(each.total.requests for each in periods)
            await send_through(app, http_scope("/a"))
            seen.append(before)
        total = await cop.analytics.totals()
        assert sum(series.count for series in total.figures.requests.values()) == 6
        return seen

    assert asyncio.run(scenario()) == [(1, 1, 1), (0, 2, 2), (0, 1, 3), (0, 0, 0), (0, 0, 1)]


def test_a_rate_is_what_came_over_what_passed(fake_clock: FakeClock, memory_backend: MemoryBackend) -> None:
    fake_clock.advance(1_000_000 - fake_clock() % 60)
    cop = TrafficCop(memory_backend, metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/a", ok)]))

    async def scenario() -> Live:
        for _ in range(300):
            await send_through(app, http_scope("/a"))
            fake_clock.advance(0.1)
        return await cop.analytics.live()

    found = asyncio.run(scenario())
    assert found.last_15_minutes.seconds == pytest.approx(30)
    assert found.last_15_minutes.total.rate == pytest.approx(10)
    assert found.last_10_seconds.seconds == pytest.approx(10)
    assert found.last_10_seconds.total.rate == pytest.approx(10, rel=0.02)
    assert (found.workers, found.complete) == (1, True)


# The middleware alone, settings, the log


def test_the_middleware_alone_hears_of_what_parts_inside_it_do(open_client: OpenClient) -> None:
    app = Starlette(routes=[Route("/a", ok)])
    app.add_middleware(RateLimitMiddleware, limits=limit("1/minute", name="one"))
    app.add_middleware(MetricsMiddleware, path="/metrics", public=True)
    client = open_client(app)
    assert [client.get("/a").status_code for _ in range(3)] == [200, 429, 429]
    text = client.get("/metrics").text
    assert 'traffic_cop_limit_refusals_total{limit="one",decided_by="store"} 2' in text
    assert 'http_route="/a",http_response_status_code="429"} 2' in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": "yes"}, "must be True or False"),
        ({"metrics_path": "/metrics"}, "metrics_path: nothing is counted without metrics=True"),
        ({"metrics": True, "metrics_path": "/metrics"}, "needs metrics_token"),
        ({"metrics": True, "metrics_path": "metrics", "metrics_public": True}, "begins with a slash"),
        ({"metrics": True, "metrics_path": "/m", "metrics_token": "short"}, "has 5 characters"),
        ({"metrics": True, "metrics_path": "/m", "metrics_token": SECRET, "metrics_public": True}, "contradict"),
        ({"metrics": True, "metrics_token": SECRET}, "need metrics_path"),
        ({"metrics": True, "metrics_interval": 0}, "metrics_interval=0"),
        ({"metrics": True, "metrics_interval": 60}, "metrics_interval=60"),
        ({"metrics": True, "metrics_series": 0}, "metrics_series=0"),
        ({"metrics": True, "metrics_access_log": 2}, "metrics_access_log=2"),
    ],
)
def test_a_setting_that_can_not_work_is_an_error_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TrafficCop(**settings)


def test_a_cop_that_counts_nothing_has_no_analytics() -> None:
    with pytest.raises(ConfigurationError, match="metrics=True"):
        _ = TrafficCop().analytics


def test_the_access_log_has_one_line_of_json_per_request(caplog: pytest.LogCaptureFixture) -> None:
    cop = TrafficCop(metrics=True, metrics_access_log=True)
    app = cop.wrap(Starlette(routes=[Route("/a/{x}", ok)]))
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = [(b"traceparent", f"00-{trace}-b7ad6b7169203331-01".encode()), (b"x-request-id", b"r-1")]
    with caplog.at_level(logging.INFO, "traffic_cop.access"):
        asyncio.run(send_through(app, http_scope("/a/1", headers=fields, query_string=b"token=secret")))
    (record,) = caplog.records
    line = json.loads(record.getMessage())
    assert "secret" not in record.getMessage()
    assert {name: line[name] for name in ("method", "path", "route", "status", "request_id", "trace_id")} == {
        "method": "GET",
        "path": "/a/1",
        "route": "/a/{x}",
        "status": 200,
        "request_id": "r-1",
        "trace_id": trace,
    }


def test_a_sampled_access_log_has_every_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(request: Request) -> Response:
        return Response(status_code=503)

    cop = TrafficCop(metrics=True, metrics_access_log=1e-9)
    app = cop.wrap(Starlette(routes=[Route("/a", ok), Route("/b", fails)]))

    async def scenario() -> None:
        for path in ("/a", "/b", "/a", "/b"):
            await send_through(app, http_scope(path))

    with caplog.at_level(logging.INFO, "traffic_cop.access"):
        asyncio.run(scenario())
    assert [json.loads(record.getMessage())["status"] for record in caplog.records] == [503, 503]


def test_nothing_changes_for_who_counts_nothing() -> None:
    app = TrafficCop().wrap(Starlette(routes=[Route("/metrics", ok)]))
    assert status(asyncio.run(send_through(app, http_scope("/metrics")))) == 200
