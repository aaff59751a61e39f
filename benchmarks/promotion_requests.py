"""What promotion adds to a request that changes 1 KB of state: an app with the whole stack, with it and without.

Each turn has `CLIENTS` requests, of as many users; each changes 1 KB of its user's state. What is used from the first
request to the last response is the request path's, as is a thread of SQLite's meanwhile; what is used after that, until
all of it has left the outbox, is the background's: judging, documents, history. A flusher waits a quarter of a second
for more before it begins, and a turn is to take less: one that a flush came into is left out, and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import report
from harness import BenchmarkError, RedisServer
from redis.asyncio import Redis
from session_apps import BROWSER, SECRET, Headers, ask, lifespan, receive, request, send
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from traffic_cop_middleware import TrafficCop, session_of, state_of, uses_state

CLIENTS = 128
SETTLED = 0.5
"""Seconds for which the background is watched at least."""
MOST_CPU = 60.0
"""Microseconds that promotion may add to a request."""
MARKER = "the turn is over"


class Turn(NamedTuple):
    """CPU in microseconds per request: of the event loop's thread and of the process until the last response, and of
    the process after that."""

    loop: float
    process: float
    after: float


class App:
    """An app whose "/change" changes 1 KB of the user's state, and what has left its outbox."""

    def __init__(self, url: str, folder: Path, *, promotion: bool) -> None:
        self.flushed = 0
        self.promotion = promotion
        self.headers: list[Headers] = []
        name = "with" if promotion else "without"
        self.cop = TrafficCop(
            url,
            namespace=name,
            session_secret=SECRET,
            deadline=5.0,
            documents=f"sqlite:///{folder}/{name}.db",
            files=f"file://{folder}/{name}",
            file_metadata=f"sqlite:///{folder}/{name}-files.db",
            promotion=promotion,
            observer=self.heard,
        )
        numbers = itertools.count()

        async def login(request: Request) -> Response:
            await session_of(request).login(f"user-{next(numbers)}")
            return Response("ok")

        @uses_state("user")
        async def change(request: Request) -> Response:
            number = next(numbers)
            state_of(request).user["order"] = {**ORDER, "number": number}
            return Response("ok")

        self.app = Starlette(routes=[Route("/login", login), Route("/change", change)])
        self.cop.install(self.app)

    def heard(self, event: Any) -> None:
        if event.kind == "state.flushed":
            self.flushed += event.attributes["entries"]

    async def turn(self, at_once: int, redis: RedisServer | None = None) -> Turn:
        """Change the state of every client once."""
        waiting = iter(random.sample(self.headers, len(self.headers)))
        flushed = self.flushed

        async def client() -> None:
            for headers in waiting:
                await self.app(request("/change", headers), receive, send)

        thread, process = time.thread_time(), time.process_time()
        await asyncio.gather(*(client() for _ in range(at_once)))
        thread, process = time.thread_time() - thread, time.process_time() - process
        if redis is not None:
            await mark(redis)
        early = self.flushed - flushed
        after = time.process_time()
        await asyncio.sleep(SETTLED)
        end = time.monotonic() + 20
        while self.promotion and self.flushed < flushed + CLIENTS:
            if time.monotonic() > end:
                raise BenchmarkError(f"{self.flushed - flushed} of {CLIENTS} changes have left the outbox")
            await asyncio.sleep(0.02)
        after = time.process_time() - after
        figures = Turn(*(seconds / CLIENTS * 1e6 for seconds in (thread, process, after)))
        return figures if not early else figures._replace(loop=float("nan"))


def order() -> dict[str, Any]:
    """About 1 KB of JSON."""
    line = {"sku": "sku-000017", "title": "A thing that people buy", "count": 2, "price": 12.5, "gift": False}
    return {"type": "order", "lines": [line] * 9, "tags": ["web"], "importance": 4}


ORDER = order()


async def mark(redis: RedisServer) -> None:
    """Let who watches the commands know that the turn is over."""
    client = Redis.from_url(redis.url)
    await client.echo(MARKER)
    await client.aclose()


@contextlib.asynccontextmanager
async def apps(url: str) -> AsyncIterator[dict[bool, App]]:
    """The app with promotion and without, and their clients logged in."""
    with tempfile.TemporaryDirectory(prefix="traffic-cop-bench-") as folder:
        found = {promotion: App(url, Path(folder), promotion=promotion) for promotion in (True, False)}
        async with contextlib.AsyncExitStack() as stack:
            for each in found.values():
                await stack.enter_async_context(lifespan(each.app))
                each.headers = [await ask(each.app, "/login", BROWSER) for _ in range(CLIENTS)]
            yield found


async def commands(redis: RedisServer, app: App) -> tuple[float, float]:
    """Commands that the server gets for a request, and those of the background per request; what scripts do inside is
    not counted, nor what opens a connection."""
    async with Redis.from_url(redis.url) as client, client.monitor() as monitor:
        await app.turn(1, redis)
        last = "that is all"
        watching = Redis.from_url(redis.url)
        await watching.echo(last)
        await watching.aclose()
        counts = [0, 0]
        over = 0
        while True:
            said = await asyncio.wait_for(monitor.next_command(), 10)
            command = str(said["command"])
            if MARKER in command:
                over = 1
            elif last in command:
                return counts[0] / CLIENTS, counts[1] / CLIENTS
            elif said["client_type"] != "lua" and command.upper().startswith(("EVAL", "FCALL")):
                counts[over] += 1


async def measured(url: str, at_once: int, rounds: int) -> dict[bool, list[Turn]]:
    """Turns of both, in pairs, after one that warms up."""
    async with apps(url) as both:
        found: dict[bool, list[Turn]] = {True: [], False: []}
        for number in range(-2, rounds):
            if number == 0:
                gc.collect()
                gc.freeze()
            for promotion in random.sample([True, False], 2):
                turn = await both[promotion].turn(at_once)
                if number >= 0:
                    found[promotion].append(turn)
        gc.unfreeze()
    return found


async def requests(rounds: int) -> tuple[str, list[tuple[bool, str]]]:
    """The table, and the bars."""
    lines, bars = [], []
    with RedisServer() as redis:
        for name, url in (("Redis", redis.url), ("memory", "memory://")):
            for at_once in (1, 64):
                found = await measured(url, at_once, rounds)
                pairs = [
                    Turn(*(mine - other for mine, other in zip(with_it, without, strict=True)))
                    for with_it, without in zip(found[True], found[False], strict=True)
                ]
                row = f"{name}, {at_once} at once"
                calm = [pair for pair in pairs if pair.loop == pair.loop]
                if len(calm) < 2:
                    raise BenchmarkError(f"{row}: a flush came into {len(pairs) - len(calm)} of {len(pairs)} turns")
                added = median(pair.process for pair in calm)
                low, _, high = quantiles([pair.process for pair in calm], n=4)
                lines.append(
                    [
                        row,
                        f"{median(turn.process for turn in found[False]):.0f}",
                        f"{median(pair.loop for pair in calm):+.1f}",
                        f"{added:+.1f} ({low:.0f} to {high:.0f})",
                        f"{median(pair.after for pair in calm):+.1f}",
                        f"{len(pairs) - len(calm)} of {len(pairs)}",
                    ]
                )
                bars.append((added <= MOST_CPU, f"{row}: adds at most {MOST_CPU:g} us of CPU: {added:.1f}"))
        async with apps(redis.url) as both:
            asked = {}
            for promotion, app in both.items():
                await app.turn(1)
                asked[promotion] = await commands(redis, app)
    extra = asked[True][0] - asked[False][0]
    bars.append(
        (
            abs(extra) < 0.05,
            f"no round trip beyond the state's own: {asked[False][0]:.2f} commands without it, "
            f"{asked[True][0]:.2f} with it (and {asked[True][1]:.2f} per request in the background)",
        )
    )
    header = ["CPU us per request", "without", "+ loop", "+ process (quartiles)", "+ background", "left out"]
    return report.grid(header, lines), bars
