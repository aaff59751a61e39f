"""What the Redis tests share: a server in the test's own hands, load, and how much the event loop itself lagged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import hiredis
import uvloop
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.asgi import headers, http_scope, send_through, status
from tests.servers import RedisServer
from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import Event

Command = list[bytes]
Run = Callable[[Coroutine[Any, Any, None]], None]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


def run_on(loop_factory: Callable[[], asyncio.AbstractEventLoop], scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario to its end, and see that it left no task behind."""

    async def checked() -> None:
        await scenario
        for _ in range(100):  # what was told to end gets a few ticks to do so
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(checked())


async def poll(condition: Callable[[], object], deadline: float = 30.0, *, tick: float = 0.005) -> None:
    """Wait until `condition` holds, at most `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"did not come about within {deadline} s"
        await asyncio.sleep(tick)


NAP, TICK = 0.002, 0.001


def lag_of(nap: float) -> float:
    """By how much a nap was too long. An idle loop's timers are late by up to a tick."""
    return max(0.0, nap - NAP - TICK)


class Gate:
    """Where callers stand between two requests while it is closed."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._standing = 0

    async def passed(self) -> None:
        self._standing += 1
        await self._open.wait()
        self._standing -= 1

    @contextlib.asynccontextmanager
    async def closed(self, callers: int) -> AsyncIterator[None]:
        """All of so many callers stand here, and none asks anything; at the end all go on in one tick."""
        self._open.clear()
        try:
            await poll(lambda: self._standing == callers)
            yield
        finally:
            self._open.set()


async def ticks_until(condition: Callable[[], object], ticks: int = 100) -> None:
    """Wait until `condition` holds, not a tick longer than needed."""
    for _ in range(ticks):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"did not come about within {ticks} ticks")


class LoopLag:
    """How long the event loop kept tasks waiting: a sleeper that notes by how much it overslept, and when."""

    def __init__(self) -> None:
        self._naps: list[tuple[float, float, float]] = []
        self._lain_down = float("inf")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sleep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _sleep(self) -> None:
        while True:
            self._lain_down = start = time.monotonic()
            await asyncio.sleep(NAP)
            end = time.monotonic()
            self._naps.append((start, end, lag_of(end - start)))

    def between(self, start: float, end: float) -> float:
        """Seconds of lag in all naps that touch the window, the one that is not over yet included."""
        lasting = lag_of(time.monotonic() - self._lain_down) if self._lain_down <= end else 0.0
        return lasting + sum(lag for begun, ended, lag in self._naps if ended >= start and begun <= end)


class Talk(asyncio.Protocol):
    """One connection of a `FakeRedis`."""

    transport: asyncio.Transport

    def __init__(self, server: FakeRedis) -> None:
        self._server = server
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.talks.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.talks.remove(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        asked: list[Command] = []
        replies = b""
        while (command := self._reader.gets()) is not False:
            if command[0] in (b"CLIENT", b"SELECT", b"AUTH", b"PING", b"HELLO"):
                replies += self._server.greet(command) or b""
            else:
                asked.append(command)
                replies += self._server.answer(command) or b""
        if asked:
            self._server.writes.append(asked)
        if replies and not self.transport.is_closing():
            self.transport.write(replies)


def greet(command: Command) -> bytes | None:
    return b"+PONG\r\n" if command[0] == b"PING" else b"+OK\r\n"


def echo(command: Command) -> bytes | None:
    return b"$%d\r\n%b\r\n" % (len(command[-1]), command[-1])


class FakeRedis:
    """A server on the test's own loop, which answers what the test says: `None` is silence.

    `writes` has the commands of each read of its socket, those of a handshake left out; `talks` its open connections.
    """

    def __init__(self, answer: Callable[[Command], bytes | None] = echo) -> None:
        self.answer = answer
        self.greet: Callable[[Command], bytes | None] = greet
        self.writes: list[list[Command]] = []
        self.talks: list[Talk] = []
        self.accepted = 0

    def _accept(self) -> Talk:
        self.accepted += 1
        return Talk(self)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for talk in list(self.talks):
            talk.transport.abort()
        await poll(lambda: not self.talks)

    def say(self, data: bytes) -> None:
        for talk in self.talks:
            talk.transport.write(data)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class OpenLink:
    """A connected `Link`, its events, and its end."""

    def __init__(self, port: int, *, deadline: float = 10.0, patience: float = 30.0, **options: Any) -> None:
        self.events: list[Event] = []
        self._patience = patience
        self.link = Link(
            lambda: Connection(host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0), **{"protocol": 2, **options}),
            name=f"redis://127.0.0.1:{port}",
            deadline=deadline,
            notify=self.events.append,
        )

    @property
    def told(self) -> list[str]:
        return [event.kind for event in self.events]

    async def __aenter__(self) -> Self:
        await self.link.connect(self._patience)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.link.close()


async def home(request: Request) -> PlainTextResponse:
    decision = request.scope["traffic_cop"].decision
    return PlainTextResponse("home", headers={"x-source": decision.source})


def limited(cop: TrafficCop) -> Any:
    return cop.wrap(Starlette(routes=[Route("/", home)]))


SERVED_DEADLINE = 0.2


def served_app() -> Any:
    """For uvicorn: the app on the Redis of TEST_REDIS_URL, telling how much its loop lagged around each request."""
    lag = LoopLag()
    told: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with lag:
            yield

    async def here(request: Request) -> PlainTextResponse:
        source = request.scope["traffic_cop"].decision.source
        await asyncio.sleep(0.003)  # until the nap that the request fell into has ended
        lagged = lag.between(request.scope["arrived"] - 0.3, time.monotonic())
        return PlainTextResponse("", headers={"x-source": source, "x-lag": str(lagged), "x-told": ",".join(told)})

    app = Starlette(routes=[Route("/", here)], lifespan=lifespan)
    cop = TrafficCop(os.environ["TEST_REDIS_URL"], limits="100000/minute", deadline=SERVED_DEADLINE)
    cop.subscribe(lambda event: told.append(event.kind) if event.kind.startswith("store.") else None)
    cop.install(app)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "arrived": time.monotonic()}, receive, send)

    return served


@contextlib.asynccontextmanager
async def started(app: Any) -> AsyncIterator[dict[str, Any]]:
    """An app through its lifespan, as a server does; gives the answer to the start."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.ensure_future(app({"type": "lifespan", "asgi": {"version": "3.0"}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    answering = asyncio.ensure_future(from_app.get())
    await asyncio.wait({answering, life}, return_when=asyncio.FIRST_COMPLETED)
    if not answering.done():
        answering.cancel()
        await life
        raise RuntimeError("the app answers no lifespan")
    answer = answering.result()
    try:
        yield answer
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await life


@dataclass
class Answered:
    """One request of the load, on the monotonic clock."""

    start: float
    end: float
    status: int
    headers: dict[str, str]
    source: str
    caller: int = 0


@dataclass
class Load:
    """Callers that ask again and again, each from an address of its own, until stopped."""

    app: Any
    callers: int = 64
    answers: list[Answered] = field(default_factory=list)
    in_flight: int = 0
    pause: float = 0.004
    gate: Gate = field(default_factory=Gate)
    _stopped: bool = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self.callers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _call(self, number: int) -> None:
        while not self._stopped:
            await self.gate.passed()
            scope = http_scope(client=(f"198.51.100.{number}", 4711))
            self.in_flight += 1
            start = time.monotonic()
            try:
                sent = await send_through(self.app, scope)
            finally:
                self.in_flight -= 1
            source = scope["traffic_cop"].decision.source
            self.answers.append(Answered(start, time.monotonic(), status(sent), headers(sent), source, number))
            await asyncio.sleep(self.pause)

    async def all_hang_on(self, server: RedisServer) -> None:
        """Freeze the server, and let each caller ask something that nobody answers."""
        async with self.gate.closed(self.callers):
            server.freeze()
        await ticks_until(lambda: self.in_flight == self.callers)

    def since(self, moment: float) -> list[Answered]:
        return [answer for answer in self.answers if answer.start >= moment]

    async def decided_by(self, source: str, deadline: float = 30.0) -> None:
        """Wait for a decision from `source` on a request that begins after this call."""
        moment = time.monotonic()
        await poll(lambda: any(answer.source == source for answer in self.since(moment)), deadline)
