"""Many who take from one Redis at the same time: within one tick of an event loop, and in four worker processes."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.servers import RedisServer
from traffic_cop_middleware.adapters import redis
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import MICRO, Guard, Take, Taken
from traffic_cop_middleware.errors import StoreError

DEADLINE = 30.0
SLOW = 1e-9
"""Tokens per second of a bucket that gains nothing while a test runs."""


def opened(server: RedisServer, namespace: str = "ticks") -> RedisBackend:
    return redis.open(server.url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)


@pytest_asyncio.fixture
async def backend(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    """Connected, without its census: nothing but what a test asks goes over the line."""
    backend = opened(redis_server)
    await backend.link.connect(DEADLINE)
    yield backend
    await backend.link.close()


@pytest.fixture
def writes(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written to the socket, write by write."""
    transport: Any = backend.link._transport
    write = transport.write
    seen: list[bytes] = []

    def counted(data: bytes) -> None:
        seen.append(data)
        write(data)

    monkeypatch.setattr(transport, "write", counted)
    return seen


def calls(server: RedisServer, command: str) -> int:
    """How often the server ran a command so far."""
    found = re.search(rb"cmdstat_%b:calls=(\d+)" % command.encode(), server.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


def bucket(name: str = "a", cost: float = 1) -> Take:
    return Take(f"{{s}}{name}", 1000, SLOW, cost)


async def debt(backend: RedisBackend, name: str = "a") -> int:
    """Whole tokens that are missing of a bucket."""
    return round((await backend.buckets.take([bucket(name, 0)])).answers[0] / MICRO)


# One tick


@pytest.mark.asyncio
async def test_concurrent_takes_of_one_tick_are_one_script_call_in_one_write(
    redis_server: RedisServer, backend: RedisBackend, writes: list[bytes]
) -> None:
    await backend.buckets.take([bucket()])
    writes.clear()
    before = calls(redis_server, "evalsha")

    async def request(number: int) -> Taken:
        return await backend.buckets.take([bucket(), bucket(f"own-{number}")])

    taken = await asyncio.gather(*(request(number) for number in range(64)))
    assert calls(redis_server, "evalsha") - before == 1
    assert len(writes) == 1
    assert [round(one.answers[0] / MICRO) for one in taken] == list(range(2, 66))
    assert {round(one.answers[1] / MICRO) for one in taken} == {1}


@pytest.mark.asyncio
async def test_more_than_a_call_holds_and_other_commands_still_travel_in_one_write(
    redis_server: RedisServer, backend: RedisBackend, writes: list[bytes]
) -> None:
    await backend.buckets.take([bucket()])
    writes.clear()
    before = calls(redis_server, "evalsha")
    *taken, pong = await asyncio.gather(
        *(backend.buckets.take([bucket()]) for _ in range(200)), backend.link.ask("PING")
    )
    assert (len(taken), pong, len(writes)) == (200, b"PONG", 1)
    assert calls(redis_server, "evalsha") - before == 4
    assert await debt(backend) == 201


@pytest.mark.asyncio
async def test_what_is_cancelled_before_it_is_sent_takes_nothing(backend: RedisBackend, writes: list[bytes]) -> None:
    kept, dropped = backend.buckets.take([bucket("kept")]), backend.buckets.take([bucket("dropped")])
    dropped.cancel()
    assert (await kept).admitted
    assert b"dropped" not in b"".join(writes)
    writes.clear()
    backend.buckets.take([bucket("dropped")]).cancel()
    await asyncio.sleep(0)
    assert writes == []
    assert [await debt(backend, "kept"), await debt(backend, "dropped")] == [1, 0]


@pytest.mark.asyncio
async def test_a_request_cancelled_while_its_take_is_under_way_leaves_its_neighbours_alone(
    backend: RedisBackend,
) -> None:
    async def request(name: str) -> Taken:
        return await backend.buckets.take([bucket(name)])

    requests = [asyncio.create_task(request(f"{number}")) for number in range(30)]
    while not backend.link._awaiting:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0)
    for cancelled in requests[::3]:
        cancelled.cancel()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 3:
            assert outcome == (True, [1_000_000], True)
        else:
            assert isinstance(outcome, asyncio.CancelledError)
    assert await debt(backend, "1") == 1


@pytest.mark.asyncio
async def test_a_flushed_script_is_loaded_again_by_the_next_take(
    redis_server: RedisServer, backend: RedisBackend
) -> None:
    for number in range(1, 5):
        redis_server.command("SCRIPT", "FLUSH")
        assert round((await backend.buckets.take([bucket()])).answers[0] / MICRO) == number


@pytest.mark.asyncio
async def test_takes_in_flight_while_the_script_is_flushed_are_all_answered_and_charged_once(
    backend: RedisBackend,
) -> None:
    flushes = []
    asked: list[asyncio.Future[Taken]] = []
    for _ in range(16):
        asked += [backend.buckets.take([bucket()]) for _ in range(4)]
        flushes.append(backend.link.ask("SCRIPT", "FLUSH"))
        await asyncio.sleep(0)
    taken = await asyncio.gather(*asked)
    await asyncio.gather(*flushes)
    assert sorted(round(one.answers[0] / MICRO) for one in taken) == list(range(1, 65))
    assert await debt(backend) == 64


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "spoilt",
    [("RPUSH", "ticks:b:{s}spoilt", "x"), ("SET", "ticks:b:{s}spoilt", "hello"), ("RPUSH", "ticks:generation", "x")],
)
async def test_a_key_that_holds_something_else_fails_its_own_request_only(
    backend: RedisBackend, spoilt: tuple[str, ...]
) -> None:
    await backend.link.ask(*spoilt)
    await backend.link.ask("SET", "ticks:record", "x")
    guard = Guard("record", "generation", 0, (bucket("unused"),))
    outcomes = await asyncio.gather(
        backend.buckets.take([bucket("before")]),
        backend.buckets.take([bucket("beside"), bucket("spoilt")], guard=guard),
        backend.buckets.take([bucket("after"), bucket("after too", 2)]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], StoreError)
    assert [outcomes[0], outcomes[2]] == [(True, [1_000_000], True), (True, [1_000_000, 2_000_000], True)]
    assert [await debt(backend, "beside"), await debt(backend, "unused")] == [0, 0]


@pytest.mark.asyncio
async def test_a_spoilt_bucket_behind_a_broken_guard_fails_its_own_request_only(backend: RedisBackend) -> None:
    await backend.link.ask("RPUSH", "ticks:b:{s}spoilt", "x")
    guard = Guard("no record", "generation", 0, (bucket("spoilt"), bucket("beside"), bucket("too")))
    outcomes = await asyncio.gather(
        backend.buckets.take([bucket("mine")], guard=guard),
        backend.buckets.take([bucket("after", 2)]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], StoreError)
    assert outcomes[1] == (True, [2_000_000], True)
    assert [await debt(backend, "mine"), await debt(backend, "beside")] == [0, 0]


# Four processes

WORKER = Path(__file__).with_name("worker.py")
HAMMERED = Take("{all}1000/s", 500, 1000)
USED_AT_LEAST = 0.97
"""Of what the bucket gained while at least one worker could take. It is full after half a second without."""


class Worker:
    """A worker process, how many of its takes were admitted as far as it could tell, and how long it could not take."""

    idle = float("inf")

    def __init__(self, server: RedisServer, *, ahead: float, batch: int) -> None:
        settings = {
            "url": server.url,
            "bucket": HAMMERED,
            "batch": batch,
            "ahead": ahead,
            "heartbeat": redis.HEARTBEAT,
            "dead_after": redis.DEAD_AFTER,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def say(self, moment: float) -> None:
        """Go, and the next time stop; as of a moment on the monotonic clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{moment}\n")
        self._process.stdin.flush()

    def finish(self) -> int:
        """How many were admitted, once it has ended."""
        output, _ = self._process.communicate(timeout=DEADLINE)
        lines = output.splitlines()
        if lines and lines[-1].startswith("idle "):  # it was not killed
            self.idle = float(lines[-1].removeprefix("idle "))
        return sum(int(line) for line in lines if line.isdecimal())

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        with suppress(ValueError, OSError):
            self._process.kill()
            self._process.communicate(timeout=DEADLINE)


StartWorkers = Callable[..., list[Worker]]


@pytest.fixture
def start_workers(own_redis: RedisServer) -> Iterator[StartWorkers]:
    """`start_workers(ahead=[0, 3600])`: connected worker processes, one for each number of seconds ahead."""
    workers: list[Worker] = []

    def start(*, ahead: list[float], batch: int = 32) -> list[Worker]:
        workers.extend(Worker(own_redis, ahead=seconds, batch=batch) for seconds in ahead)
        for worker in workers:
            worker.wait_ready()
        return workers

    yield start
    for worker in workers:
        worker.end()


async def server_time(backend: RedisBackend) -> float:
    seconds, microseconds = await backend.link.ask("TIME")
    return int(seconds) + int(microseconds) / MICRO


async def hammer(server: RedisServer, workers: list[Worker], *, seconds: float, killed: Worker | None = None) -> None:
    """Let workers hammer one bucket; what they were granted keeps to the bound and uses it up.

    We empty the bucket first: from then on it gains `rate`, and loses nothing to a worker that is slow to start.
    """
    backend = opened(server, "workers")
    await backend.link.connect(DEADLINE)
    began = await server_time(backend)
    assert (await backend.buckets.take([HAMMERED._replace(cost=HAMMERED.burst)])).admitted
    start = time.monotonic()
    emptied = await server_time(backend)
    for worker in workers:
        worker.say(start)
    await asyncio.sleep(seconds / 2)
    if killed is not None:
        killed.kill()
    await asyncio.sleep(seconds / 2)
    stopping = await server_time(backend)
    stop = time.monotonic()
    for worker in workers:
        with suppress(BrokenPipeError):
            worker.say(stop)
    granted = HAMMERED.burst + sum([await asyncio.to_thread(worker.finish) for worker in workers])
    ended = await server_time(backend)
    await backend.link.close()
    assert granted <= HAMMERED.burst + HAMMERED.rate * (ended - began)
    taking = stopping - emptied - min(worker.idle for worker in workers)
    assert granted >= USED_AT_LEAST * (HAMMERED.burst + HAMMERED.rate * taking)


@pytest.mark.asyncio
async def test_four_workers_are_granted_what_the_bucket_gains_and_no_more(
    own_redis: RedisServer, start_workers: StartWorkers
) -> None:
    await hammer(own_redis, start_workers(ahead=[0, 0, 0, 0]), seconds=3)


@pytest.mark.asyncio
async def test_a_worker_whose_clock_is_an_hour_off_changes_nothing(
    own_redis: RedisServer, start_workers: StartWorkers
) -> None:
    await hammer(own_redis, start_workers(ahead=[0, 3600, 0, -3600]), seconds=2)


@pytest.mark.asyncio
async def test_a_worker_killed_in_the_middle_changes_nothing(
    own_redis: RedisServer, start_workers: StartWorkers
) -> None:
    workers = start_workers(ahead=[0, 0, 0, 0])
    await hammer(own_redis, workers, seconds=2, killed=workers[1])


@pytest.mark.asyncio
async def test_live_workers_are_counted_and_a_killed_one_is_soon_forgotten(
    own_redis: RedisServer, start_workers: StartWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "HEARTBEAT", 0.1)
    monkeypatch.setattr(redis, "DEAD_AFTER", 1.5)
    backend = opened(own_redis, "workers")
    assert backend.live_workers is None
    await backend.connect(patience=DEADLINE)

    async def counts(expected: int) -> bool:
        deadline = time.monotonic() + DEADLINE
        while backend.live_workers != expected and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.02)
        return backend.live_workers == expected

    assert await counts(1)
    others = start_workers(ahead=[0, 0, 3600], batch=0)
    assert await counts(4)
    others[0].kill()
    assert await counts(3)
    for _ in ("go", "stop"):
        others[1].say(time.monotonic())
    assert await counts(2)
    await backend.close()
