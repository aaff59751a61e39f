"""An app behaves with the cop around it as it does bare."""

from __future__ import annotations

import asyncio
import gc
import traceback
import weakref
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.asgi import Message, Scope, http_scope, send_through, status
from traffic_cop_middleware import TrafficCop, context_of


def limited(app: Any) -> Any:
    return TrafficCop(limits="1000/minute").wrap(app)


@pytest.mark.asyncio
async def test_a_streamed_response_starts_once() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            yield chunk

    async def stream(request: Request) -> StreamingResponse:
        return StreamingResponse(chunks())

    sent = await send_through(limited(Starlette(routes=[Route("/", stream)])), http_scope())
    assert [message["type"] for message in sent] == ["http.response.start", *["http.response.body"] * 4]
    assert b"".join(message["body"] for message in sent[1:]) == b"abc"


@pytest.mark.asyncio
async def test_trailers_early_hints_and_unknown_messages_pass_untouched() -> None:
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]},
        {"type": "http.response.debug", "info": {"x": 1}},
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")], "trailers": True},
        {"type": "http.response.body", "body": b"x", "more_body": False},
        {"type": "http.response.trailers", "headers": [(b"checksum", b"1")], "more_trailers": False},
        {"type": "http.response.pathsend", "path": "/etc/hostname"},
    ]

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    sent = await send_through(limited(app), http_scope())
    assert [m for m in sent if m["type"] != "http.response.start"] == [
        m for m in messages if m["type"] != "http.response.start"
    ]
    assert sent[2]["headers"][0] == (b"x", b"y")
    assert sent[2]["trailers"] is True
    assert messages[2]["headers"] == [(b"x", b"y")], "the app's own list was changed"


@pytest.mark.asyncio
async def test_a_response_object_used_twice_gathers_no_fields() -> None:
    response = PlainTextResponse("same")
    app = limited(Starlette(routes=[Route("/", lambda request: response)]))
    for _ in range(2):
        sent = await send_through(app, http_scope())
        assert [name for name, _ in sent[0]["headers"]].count(b"ratelimit") == 1


def test_background_tasks_run() -> None:
    done: list[str] = []

    async def task(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(done.append, "done"))

    assert TestClient(limited(Starlette(routes=[Route("/", task)]))).get("/").status_code == 200
    assert done == ["done"]


def test_an_exception_keeps_its_traceback() -> None:
    async def boom(request: Request) -> None:
        raise ZeroDivisionError("from the app")

    with pytest.raises(ZeroDivisionError, match="from the app") as caught:
        TestClient(limited(Starlette(routes=[Route("/", boom)]))).get("/")
    assert "boom" in [frame.name for frame in traceback.extract_tb(caught.tb)]


@pytest.mark.asyncio
async def test_a_client_that_leaves_is_told_to_the_app() -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        heard.append((await receive())["type"])

    await send_through(limited(app), http_scope())
    assert heard == ["http.disconnect"]


@pytest.mark.asyncio
async def test_cancellation_reaches_the_app_and_leaves_nothing_behind() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks_before = asyncio.all_tasks()
    task = asyncio.create_task(send_through(limited(app), http_scope()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert asyncio.all_tasks() == tasks_before


@pytest.mark.asyncio
async def test_a_finished_request_leaves_no_cycle_for_the_garbage_collector() -> None:
    contexts: list[weakref.ref[Any]] = []

    class Held:
        pass

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        scope["held"] = held = Held()
        contexts.append(weakref.ref(held))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    wrapped = limited(app)
    gc.disable()
    try:
        await send_through(wrapped, http_scope())
        assert contexts[0]() is None
    finally:
        gc.enable()


@pytest.mark.asyncio
async def test_a_bare_scope_is_enough() -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    scope = {"type": "http", "method": "GET", "path": "/"}
    assert status(await send_through(limited(app), scope)) == 200


@pytest.mark.asyncio
async def test_other_scopes_pass_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "mqtt"}
    await send_through(limited(app), scope)
    assert seen == [{"type": "mqtt"}]


def test_the_context_tells_request_id_trace_client_and_route() -> None:
    async def show(request: Request) -> PlainTextResponse:
        context = context_of(request.scope)
        decision = context.decision
        assert decision is not None
        return PlainTextResponse(
            "\n".join(
                [context.request_id, context.traceparent, context.client, context.route.template, decision.source]
            )
        )

    client = TestClient(limited(Starlette(routes=[Route("/show/{x}", show)])), client=("192.0.2.9", 5))
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    told = client.get("/show/1", headers={"x-request-id": "abc-1", "traceparent": trace}).text.splitlines()
    assert told == ["abc-1", trace, "192.0.2.9", "/show/{x}", "store"]
    for forged in ("x" * 129, "a b", "a\x00b"):
        request_id = client.get("/show/1", headers={"x-request-id": forged}).text.splitlines()[0]
        assert len(request_id) == 32
    for forged in ("ff" + trace[2:], trace.upper(), "00-" + "0" * 32 + trace[35:], "garbage"):
        new = client.get("/show/1", headers={"traceparent": forged}).text.splitlines()[1]
        assert new.startswith("00-")
        assert new != forged


def test_no_context_is_told_with_the_mend() -> None:
    with pytest.raises(LookupError, match=r"cop\.install\(app\)"):
        context_of({"type": "http"})


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_memory_stack_runs_on_asyncio_and_on_trio(backend: Any) -> None:
    async def slow(request: Request) -> PlainTextResponse:
        await anyio.lowlevel.checkpoint()
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", slow)])
    TrafficCop(limits="2/minute").install(app)
    with TestClient(app, backend=backend) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]


def test_one_app_may_be_run_on_one_loop_after_another() -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
    TrafficCop(limits="2/minute").install(app)
    loops: list[Any] = ["asyncio", "trio", "asyncio"]
    assert [TestClient(app, backend=loop).get("/").status_code for loop in loops] == [200, 200, 429]


def test_without_limits_the_app_alone_is_asked() -> None:
    asked = 0

    class Counting(Route):
        def matches(self, scope: Any) -> Any:
            nonlocal asked
            asked += 1
            return super().matches(scope)

    app = Starlette(routes=[Counting("/", lambda request: PlainTextResponse("ok"))])
    TrafficCop().install(app)
    answer = TestClient(app).get("/")
    assert asked == 1
    assert "ratelimit" not in answer.headers


@pytest.mark.parametrize("settings", [{}, {"limits": "100/minute"}])
def test_the_first_request_takes_no_turn_of_the_event_loop_that_the_app_does_not(settings: dict[str, Any]) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    request = TrafficCop(**settings).wrap(app)(http_scope(), None, send)
    with pytest.raises(StopIteration):
        request.send(None)  # runs to its end at once, where nothing is waited for
    assert len(sent) == 2
