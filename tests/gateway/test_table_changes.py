"""The table is changed under load: no request is lost, none sees a part of a change, and four workers agree."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.adapters.load import started
from tests.asgi import headers, http_scope, send_through, status
from tests.gateway.raw import eventually
from tests.middleware.upstreams import ask, body_of, services
from tests.servers import RedisServer
from traffic_cop_middleware import FixedResponse, TrafficCop, limit, route

CHANGES = 300
PERIOD = 0.01
"""Seconds from one change to the next."""
START_DEADLINE = 30.0


@contextlib.asynccontextmanager
async def callers(count: int, call: Any) -> AsyncIterator[None]:
    """So many who call again and again until the context ends."""
    ended = False

    async def again() -> None:
        while not ended:
            await call()
            await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(again()) for _ in range(count)]
    try:
        yield
    finally:
        ended = True
        await asyncio.gather(*tasks)


@pytest.mark.asyncio
@pytest.mark.parametrize("backend", ["memory", "redis"])
async def test_no_request_is_lost_or_on_a_half_changed_table(backend: str, request: pytest.FixtureRequest) -> None:
    """Each change puts one of two routes for a path and removes the other: between the two there would be none."""
    url = request.getfixturevalue("redis_server").url if backend == "redis" else "memory://"
    cop = TrafficCop(url, deadline=5.0)
    app = cop.wrap(Starlette())
    found: Counter[tuple[int, str]] = Counter()

    async def call() -> None:
        sent = await send_through(app, http_scope("/a/b"))
        found[status(sent), headers(sent).get("x-by", "")] += 1

    by = {
        "prefix": route("/a/*", to=FixedResponse(200, headers={"x-by": "prefix"}), name="prefix"),
        "pattern": route("/a/{id}", to=FixedResponse(200, headers={"x-by": "pattern"}), name="pattern"),
    }
    async with started(app):
        await cop.routes.change([by["prefix"]])
        async with callers(16, call):
            begun = time.monotonic()
            for number in range(CHANGES):
                put, remove = ("pattern", "prefix") if number % 2 else ("prefix", "pattern")
                await cop.routes.change([by[put]], remove=[remove])
                await asyncio.sleep(max(0.0, begun + PERIOD * (number + 1) - time.monotonic()))
    assert {answer for answer in found if answer[0] != 200} == set()
    assert set(found) == {(200, "prefix"), (200, "pattern")}


@pytest.mark.asyncio
async def test_requests_that_are_under_way_end_as_they_began() -> None:
    """Services are exchanged a hundred times a second; each request is answered whole by the one that it began with."""
    async with services("a", "b") as [a, b]:
        cop = TrafficCop()
        app = cop.wrap(Starlette())
        said: Counter[str] = Counter()

        async def call() -> None:
            length = [(b"host", b"x"), (b"content-length", b"6")]
            sent = await ask(app, http_scope("/x", "POST", headers=length), b"abc", b"def")
            assert status(sent) == 200
            said[body_of(sent)["from"]] += 1

        async with started(app):
            await cop.routes.put("/*", to=a.url, name="service")
            async with callers(8, call):
                for number in range(CHANGES):
                    await cop.routes.put("/*", to=(b if number % 2 else a).url, name="service")
                    await asyncio.sleep(PERIOD)
        assert set(said) == {"a", "b"}
        assert {asked["body"] for service in (a, b) for asked in service.asked} == {"abcdef"}
        assert len(a.asked) + len(b.asked) == said.total()


class Worker:
    """A process with a cop of its own."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.table_worker", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate("end\n", timeout=START_DEADLINE)
        self._process.kill()
        self._process.wait()


@pytest.fixture
def four(redis_server: RedisServer) -> Iterator[list[Worker]]:
    workers = [Worker(redis_server.url) for _ in range(4)]
    try:
        assert [worker.read() for worker in workers] == ["ready"] * 4
        yield workers
    finally:
        for worker in workers:
            worker.end()


@pytest.mark.redis_server
def test_four_workers_agree_within_a_second(four: list[Worker]) -> None:
    """Each in turn changes a route and a limit. The middle one of the times counts: this machine may stand still."""
    took = []
    for number in range(1, 10):
        expected = f'{number} "all";q={1000 + number};w=3600'
        assert four[number % 4].ask(f"put {number}") == expected
        begun = time.monotonic()
        while {worker.ask("see") for worker in four} != {expected}:
            assert time.monotonic() < begun + 30
        took.append(time.monotonic() - begun)
    assert sorted(took)[len(took) // 2] < 1, took


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_a_change_that_was_never_told_of_is_found(redis_server: RedisServer) -> None:
    """As when the worker that made it was killed before it told the others."""
    cops = [TrafficCop(redis_server.url, limits=[limit("9/hour", name="all")], deadline=5.0) for _ in range(2)]
    async with started(cops[0].wrap(Starlette())), started(cops[1].wrap(Starlette())):
        records = cops[0]._open("routes").backend.records
        assert records is not None
        changed: Any = records.change("routes", {"a": '{"pattern":"/a","to":{"status":204}}'}, at=None)
        await changed
        await eventually(lambda: len(cops[1]._gateway.table) == 1)
