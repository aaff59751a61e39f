"""One cop, or one `memory://name`, that several event loops use at once, each in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.adapters.load import poll, started
from tests.adapters.test_foreign_tokens import ES, FULL, NOW, Clock, JwksServer, issuers_at, token_of
from tests.asgi import http_scope, send_through, status
from tests.loops.crew import Crew, at_once
from tests.servers import RedisServer
from traffic_cop_middleware import BusinessMetric, TrafficCop
from traffic_cop_middleware.middleware.session_socket import News

LOOPS = 3
TURNS = 10


async def ok(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


@pytest.fixture(params=["memory://", "sqlite"])
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory://" else f"sqlite:///{tmp_path}/state.db"


def cop_with(documents: str, **settings: Any) -> TrafficCop:
    return TrafficCop(documents=documents, documents_deadline=20, **settings)


@pytest.mark.parametrize("ask", ["live", "traffic", "insights", "totals", "usage"])
def test_the_traffic_is_told_on_all_loops_at_once(ask: str, documents: str) -> None:
    cop = cop_with(documents, metrics=True, business_metrics=[BusinessMetric("orders", "count")])
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def asked() -> object:
        if ask == "usage":
            return await cop.business_metrics.usage("1h", by="route")
        return await getattr(cop.analytics, ask)()

    async def scenario(number: int) -> None:
        async with started(app):
            for _ in range(TURNS):
                assert status(await send_through(app, http_scope())) == 200
                await asked()

    at_once(LOOPS, scenario)


def test_all_that_the_loops_count_is_told(documents: str) -> None:
    cop = cop_with(documents, metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    counted = threading.Barrier(LOOPS)

    async def scenario(number: int) -> None:
        async with started(app):
            for _ in range(TURNS):
                await send_through(app, http_scope())
                await cop.analytics.live()
            await asyncio.to_thread(counted.wait, 20)
            assert (await cop.analytics.live()).last_15_minutes.total.requests == LOOPS * TURNS
            await asyncio.to_thread(counted.wait, 20)

    at_once(LOOPS, scenario)


def test_several_clients_ask_one_app_at_once(documents: str) -> None:
    cop = cop_with(documents, metrics=True, limits="100000/minute")

    async def live(request: Request) -> JSONResponse:
        return JSONResponse({"workers": (await cop.analytics.live()).workers})

    app = Starlette(routes=[Route("/", live)])
    cop.install(app)

    def visit() -> None:
        for _ in range(3):
            with TestClient(app) as client:
                for _ in range(TURNS):
                    assert client.get("/").json() == {"workers": 1}

    Crew([visit] * LOOPS)


def test_state_is_written_and_flushed_on_all_loops_at_once(documents: str) -> None:
    cop = cop_with(documents)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def scenario(number: int) -> None:
        async with started(app):
            for turn in range(TURNS):
                await cop.state.put("a", f"{number} {turn}", turn, tier="delayed" if "sqlite" in documents else "cache")
                await cop.state.update("a", "all", lambda n: (n or 0) + 1, tier="cache")
                await asyncio.gather(*(cop.state.get("a", key) for key in ("all", "nobody", "nobody")))
                if "sqlite" in documents:
                    await cop.state.flush()

    at_once(LOOPS, scenario)

    async def after() -> None:
        async with started(app):
            if "sqlite" in documents:
                found = [await cop.state.get("a", f"{each} {TURNS - 1}") for each in range(LOOPS)]
                assert [item and item.value for item in found] == [TURNS - 1] * LOOPS

    asyncio.run(after())


def test_a_loop_that_watches_hears_at_once_what_another_one_writes() -> None:
    cop = TrafficCop(documents="memory://")
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    watching, seen = threading.Event(), threading.Event()

    async def scenario(number: int) -> None:
        async with started(app):
            if number == 0:
                changes = cop.state.watch("a")
                first = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0)
                watching.set()
                assert (await first).key == "k"
                seen.set()
                await changes.aclose()  # type: ignore[attr-defined]
            else:
                await asyncio.to_thread(watching.wait, 20)
                await poll(lambda: cop._parts.opened is not None)
                await cop.state.put("a", "k", 1, tier="cache")
                assert await asyncio.to_thread(seen.wait, 20)

    at_once(2, scenario)


def test_limits_are_changed_on_all_loops_at_once() -> None:
    cop = TrafficCop("memory://", limits="100000/minute")
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    changed = threading.Barrier(LOOPS)

    async def scenario(number: int) -> None:
        async with started(app):
            for turn in range(TURNS):
                await cop.limits.put(f"of {number}", f"{turn + 100}/minute", paths=f"/{number}/*")
                await cop.limits.list()
            await asyncio.to_thread(changed.wait, 20)
            standing = {each.name: each.rate for each in await cop.limits.list() if each.live}
            assert standing == {f"of {each}": f"{TURNS + 99}/minute" for each in range(LOOPS)}
            await asyncio.to_thread(changed.wait, 20)

    at_once(LOOPS, scenario)


def test_loops_that_start_at_once_open_one_stack(documents: str) -> None:
    most = 7
    cop = cop_with(documents, limits=f"{most}/hour")
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    together, answers, opened = threading.Barrier(LOOPS), [], set()

    async def scenario(number: int) -> None:
        together.wait(20)
        async with started(app):
            opened.add(id(cop._parts.current()))
            answers.extend([status(await send_through(app, http_scope())) for _ in range(most)])
            await asyncio.to_thread(together.wait, 20)

    at_once(LOOPS, scenario)
    assert len(opened) == 1
    assert answers.count(200) == most


def test_loops_that_end_and_begin_at_once_leave_nothing_open(documents: str) -> None:
    cop = cop_with(documents, metrics=True, session_secret="s" * 32)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def scenario(number: int) -> None:
        async with started(app):
            assert status(await send_through(app, http_scope())) == 200
            await cop.analytics.live()

    def again() -> None:
        for number in range(TURNS):
            asyncio.run(asyncio.wait_for(scenario(number), 20))

    Crew([again] * LOOPS)
    assert cop._parts.opened is None
    assert not cop._parts._lifespans


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_the_loop_that_is_left_does_what_one_of_them_does_for_all(first_to_end: int, tmp_path: Path) -> None:
    cop = TrafficCop(documents=f"sqlite:///{tmp_path}/state.db", documents_deadline=20)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    began, ended = [threading.Event() for _ in range(2)], threading.Event()
    flushed: list[int] = []
    cop.subscribe(lambda event: flushed.append(threading.get_ident()) if event.kind == "state.flushed" else None)

    async def scenario(number: int) -> None:
        if number == 1:
            await asyncio.to_thread(began[0].wait, 20)
        async with started(app):
            began[number].set()
            await asyncio.to_thread(began[1].wait, 20)
            if number == first_to_end:
                return
            await asyncio.to_thread(ended.wait, 20)
            await cop.state.put("a", "k", 1, tier="delayed")
            await poll(lambda: flushed)
            assert flushed[0] == threading.get_ident()

    async def and_tell(number: int) -> None:
        try:
            await scenario(number)
        finally:
            ended.set()

    at_once(2, and_tell)


def test_one_app_may_be_used_on_one_loop_after_another(documents: str) -> None:
    cop = cop_with(documents, metrics=True, session_secret="s" * 32)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def scenario(number: int) -> None:
        async with started(app):
            assert status(await send_through(app, http_scope())) == 200
            await asyncio.gather(*(cop.analytics.live() for _ in range(3)), cop.analytics.traffic("1h"))
            await cop.state.put("a", "k", number, tier="cache")
            await cop.state.put("a", "lasts", number) if "sqlite" in documents else None

    for number in range(3):
        at_once(1, lambda _, number=number: scenario(number))  # type: ignore[misc]


def test_a_loop_that_was_left_in_the_middle_holds_up_no_other(documents: str) -> None:
    cop = cop_with(documents, metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def abandoned() -> None:
        await cop._parts.start()
        asking = [asyncio.ensure_future(cop.analytics.live()) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in asking)

    async def scenario(number: int) -> None:
        async with started(app):
            await cop.analytics.live()

    asyncio.run(abandoned())
    at_once(LOOPS, scenario)


@pytest.mark.redis_server
def test_what_is_open_on_one_loop_is_there_while_others_come_and_go(redis_server: RedisServer) -> None:
    """On Redis each loop has a stack of its own."""
    cop = TrafficCop(redis_server.url, documents="memory://", metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    begun, seen = threading.Event(), threading.Event()

    async def another() -> None:
        async with started(app):
            await cop.state.get("a", "k")
            begun.set()
            await asyncio.to_thread(seen.wait, 20)
            await cop.state.get("a", "k")

    async def scenario() -> None:
        async with started(app):
            other = threading.Thread(target=lambda: asyncio.run(another()), daemon=True)
            other.start()
            await asyncio.to_thread(begun.wait, 20)
            await cop.state.get("a", "k")
            seen.set()
            await asyncio.to_thread(other.join, 20)
            await cop.state.get("a", "k")
        assert cop._parts.current() is None

    at_once(1, lambda _: scenario())


class Served:
    """A uvicorn in a thread."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
        self.server = uvicorn.Server(config)
        self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"


@contextlib.contextmanager
def served_twice(app: Any) -> Iterator[list[Served]]:
    served = [Served(app) for _ in range(2)]
    try:
        for each in served:
            each.thread.start()
        ends = time.monotonic() + 20
        while not all(each.server.started for each in served):
            assert time.monotonic() < ends
            time.sleep(0.01)
        yield served
    finally:
        for each in served:
            each.server.should_exit = True
        for each in served:
            each.thread.join(20)
        assert not any(each.thread.is_alive() for each in served), "a shutdown hangs"


def test_two_servers_in_one_process_serve_one_app(documents: str) -> None:
    cop = cop_with(documents, metrics=True, limits="100000/minute")

    async def live(request: Request) -> JSONResponse:
        await cop.state.update("a", "visits", lambda n: (n or 0) + 1, tier="cache")
        return JSONResponse({"workers": (await cop.analytics.live()).workers})

    app = Starlette(routes=[Route("/", live)])
    cop.install(app)
    with served_twice(app) as served:

        def visit(url: str) -> None:
            with httpx.Client(timeout=20) as client:
                for _ in range(20):
                    assert client.get(url).json() == {"workers": 1}

        Crew([lambda each=each: visit(each.url) for each in served * 2])  # type: ignore[misc]


def test_two_cops_share_a_named_memory_on_several_loops() -> None:
    cops = [TrafficCop("memory://shared-by-loops", limits="100000/minute", metrics=True) for _ in range(2)]
    apps = [cop.wrap(Starlette(routes=[Route("/", ok)])) for cop in cops]

    async def scenario(number: int) -> None:
        cop, app = cops[number % 2], apps[number % 2]
        async with started(app):
            for turn in range(TURNS):
                assert status(await send_through(app, http_scope())) == 200
                await cop.limits.put(f"of {number}", f"{turn + 100}/minute", paths=f"/{number}/*")
                await cop.analytics.live()

    at_once(4, scenario)


def test_the_keys_of_an_issuer_are_waited_for_on_all_loops_at_once() -> None:
    server = JwksServer()
    server.hanging = True
    issuers = issuers_at(server, Clock())
    waiting = threading.Barrier(LOOPS, action=server.go_on.set)

    async def scenario(number: int) -> None:
        asked = asyncio.ensure_future(issuers.verify(token_of(ES), now=NOW))
        assert await asyncio.to_thread(server.asked.wait, 20)
        await asyncio.to_thread(waiting.wait, 20)
        assert await asked == FULL

    try:
        at_once(LOOPS, scenario)
    finally:
        server.close()
    assert server.fetches == 1


def test_sockets_of_two_loops_hear_of_each_other_at_once() -> None:
    """As when on each of two loops a session ends at the same time that has a socket on the other."""
    both: list[News] = []
    made, told = threading.Barrier(2), threading.Barrier(2)

    async def scenario(number: int) -> None:
        news = News()
        both.append(news)
        await asyncio.to_thread(made.wait, 20)
        waiting = asyncio.ensure_future(news.wait(None))
        await asyncio.sleep(0)
        told.wait(20)  # on the event loop: neither is free while it tells the other
        next(each for each in both if each is not news).tell(True)
        await waiting
        assert news.surely

    at_once(2, scenario, within=10)
