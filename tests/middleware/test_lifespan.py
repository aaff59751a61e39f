"""The outermost callable owns the start and the stop; the app's own are untouched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.asgi import Message, Scope, http_scope, send_through
from tests.middleware.session_apps import until
from tests.servers import RedisServer
from traffic_cop_middleware import ConfigurationError, TrafficCop
from traffic_cop_middleware.adapters.memory import MemoryBackend

ROOT = Path(__file__).parents[2]
STARTUP_AND_SHUTDOWN: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]


class CountedBackend(MemoryBackend):
    """Tells when it is connected and closed."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    async def connect(self, *, patience: float = 1.0) -> None:
        self.log.append("connect")

    async def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A log of what happens to the backend behind `memory://`."""
    log: list[str] = []
    monkeypatch.setattr("traffic_cop_middleware.adapters.memory.open", lambda url, **options: CountedBackend(log))
    return log


async def ok(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def test_ours_opens_first_and_closes_last_and_the_state_is_the_apps(counted: list[str]) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        counted.append("app starts")
        yield {"database": "open"}
        counted.append("app stops")

    async def state(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.database)

    app = Starlette(routes=[Route("/", state)], lifespan=lifespan)
    TrafficCop(limits="9/minute").install(app)
    with TestClient(app) as client:
        assert client.get("/").text == "open"
    assert counted == ["connect", "app starts", "app stops", "close"]


@pytest.mark.asyncio
async def test_it_closes_before_the_server_hears_of_the_end(counted: list[str]) -> None:
    app = TrafficCop(limits="9/minute").wrap(Starlette())
    incoming = iter(STARTUP_AND_SHUTDOWN)

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        counted.append(message["type"])

    await app({"type": "lifespan", "state": {}}, receive, send)
    assert counted == ["connect", "lifespan.startup.complete", "close", "lifespan.shutdown.complete"]


def test_it_opens_with_the_first_request_where_no_lifespan_is_sent(counted: list[str]) -> None:
    app = Starlette(routes=[Route("/", ok)])
    TrafficCop(limits="9/minute").install(app)
    client = TestClient(app)
    assert [client.get("/").status_code for _ in range(2)] == [200, 200]
    assert counted == ["connect"]


def test_what_fails_in_the_apps_start_closes_ours(counted: list[str]) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    app = Starlette(lifespan=lifespan)
    TrafficCop(limits="9/minute").install(app)
    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass
    assert counted == ["connect", "close"]


@pytest.mark.asyncio
async def test_what_fails_in_our_start_goes_out_as_a_failed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(MemoryBackend):
        async def connect(self, *, patience: float = 1.0) -> None:
            raise ConfigurationError("the password is wrong")

    monkeypatch.setattr("traffic_cop_middleware.adapters.memory.open", lambda url, **options: Refusing())
    app = TrafficCop(limits="9/minute").wrap(Starlette())
    sent: list[Any] = []
    with pytest.raises(ConfigurationError, match="the password is wrong"):
        await send_through(app, {"type": "lifespan", "state": {}}, STARTUP_AND_SHUTDOWN, sent)
    assert sent == [{"type": "lifespan.startup.failed", "message": "Traffic Cop: the password is wrong"}]
    with pytest.raises(ConfigurationError, match="the password is wrong"), TestClient(app):
        raise AssertionError("it has started")


@pytest.mark.asyncio
async def test_an_app_without_a_lifespan_raises_as_it_does_bare(counted: list[str]) -> None:
    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    wrapped = TrafficCop(limits="9/minute").wrap(app)
    with pytest.raises(NotImplementedError):
        await send_through(wrapped, {"type": "lifespan"}, STARTUP_AND_SHUTDOWN)
    assert counted == ["connect", "close"]
    assert TestClient(wrapped).get("/").status_code == 200


def test_one_cop_around_two_apps_closes_with_the_last(counted: list[str]) -> None:
    cop = TrafficCop(limits="2/minute")
    one, two = (TestClient(cop.wrap(Starlette(routes=[Route("/", ok)]))) for _ in range(2))
    with one:
        with two:
            assert two.get("/").status_code == 200
        assert counted == ["connect"]
        assert [one.get("/").status_code for _ in range(2)] == [200, 429]
    assert counted == ["connect", "close"]


@pytest.mark.redis_server
@pytest.mark.parametrize("first_to_stop", [0, 1])
def test_one_cop_on_two_event_loops_closes_on_each_what_it_opened_there(
    first_to_stop: int, own_redis: RedisServer
) -> None:
    cop = TrafficCop(own_redis.url, limits="2/minute", deadline=10)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    def connections() -> int:
        return own_redis.command("CLIENT", "LIST").count(b"traffic-cop")

    async def status() -> int:
        incoming: list[Message] = [{"type": "http.request"}]
        return int((await send_through(app, http_scope("/"), incoming))[0]["status"])

    with asyncio.Runner() as one, asyncio.Runner() as two:
        runners = [one, two]
        for runner in runners:
            runner.run(cop._parts.start())
            assert runner.run(status()) == 200
        opened = connections()
        first, last = runners[first_to_stop], runners[1 - first_to_stop]
        first.run(cop._parts.stop())
        until(lambda: connections() == opened // 2)
        assert last.run(status()) == 429, "the other loop goes on"
        last.run(cop._parts.stop())
        until(lambda: connections() == 0)


def test_what_belongs_to_a_loop_ends_with_the_last_lifespan_of_that_loop(counted: list[str]) -> None:
    cop = TrafficCop(limits="9/minute")
    ended: list[int] = []

    async def end() -> None:
        ended.append(threading.get_ident())

    cop._parts.also_close.append(end)
    one, two = (TestClient(cop.wrap(Starlette(routes=[Route("/", ok)]))) for _ in range(2))
    with two:
        with one:
            assert one.get("/").status_code == 200
        assert (len(ended), counted) == (1, ["connect"])
        assert two.get("/").status_code == 200
    assert len(set(ended)) == 2, "each on its own loop"
    assert counted == ["connect", "close"]


def test_a_loop_that_was_closed_without_a_stop_keeps_nothing_open(counted: list[str]) -> None:
    cop = TrafficCop(limits="9/minute")
    asyncio.run(cop._parts.start())
    with TestClient(cop.wrap(Starlette(routes=[Route("/", ok)]))) as client:
        assert client.get("/").status_code == 200
    assert counted == ["connect", "close"]


def test_an_opened_backend_stays_its_owners() -> None:
    log: list[str] = []
    app = Starlette(routes=[Route("/", ok)])
    TrafficCop(CountedBackend(log), limits="9/minute").install(app)
    with TestClient(app) as client:
        assert client.get("/").status_code == 200
    assert log == []


def test_a_named_memory_backend_is_shared_in_the_process() -> None:
    apps = [Starlette(routes=[Route("/", ok)]) for _ in range(2)]
    for app in apps:
        TrafficCop("memory://shared-by-two", limits="1/minute").install(app)
    with TestClient(apps[0]) as one, TestClient(apps[1]) as two:
        assert [one.get("/").status_code, two.get("/").status_code] == [200, 429]


def test_each_unnamed_memory_backend_is_its_own() -> None:
    apps = [Starlette(routes=[Route("/", ok)]) for _ in range(2)]
    for app in apps:
        TrafficCop(limits="1/minute").install(app)
    assert [TestClient(app).get("/").status_code for app in apps] == [200, 200]


@pytest.mark.asyncio
async def test_an_app_that_raises_before_it_gives_anything_to_wait_for_has_no_lifespan_either() -> None:
    def app(scope: Scope, receive: Any, send: Any) -> Any:
        raise NotImplementedError(scope["type"])

    cop = TrafficCop(metrics=True).wrap(app)
    with pytest.raises(NotImplementedError, match="lifespan"):
        async with asyncio.timeout(20):
            await send_through(cop, {"type": "lifespan"}, STARTUP_AND_SHUTDOWN)


INTERRUPTED = """
from starlette.applications import Starlette
from traffic_cop_middleware import TrafficCop

app = TrafficCop(session_secret="a secret of 32 bytes, for a test", metrics=True, documents="sqlite:///{folder}/s.db").wrap(
    Starlette()
)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_interrupted_has_nothing_to_tell_of(tmp_path: Path, loop: str, sign: signal.Signals) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED.format(folder=tmp_path))
    command = [sys.executable, "-m", "uvicorn", "interrupted:app", "--port", "0", "--lifespan", "on", "--loop", loop]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        watchdog = threading.Timer(60, server.kill)
        watchdog.start()
        try:
            assert server.stderr is not None
            started = next(line for line in server.stderr if "running on" in line or "rror" in line)
            assert "running on" in started, started
            server.send_signal(sign)
            told = server.stderr.read()
        finally:
            server.kill()
            watchdog.cancel()
    assert "Application shutdown complete" in told
    assert "Exception" not in told, told
