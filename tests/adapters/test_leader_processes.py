"""Leaders on a real Redis: processes are killed, frozen and ended, and Redis is frozen, killed and emptied."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.adapters.crews import workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import MICRO, Lease

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Process:
    """A worker process, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said.append(line.decode().strip())

    def tokens(self, word: str) -> list[int]:
        return [int(line.split()[1]) for line in self.said if line.startswith(f"{word} ")]

    async def says(self, word: str) -> None:
        await poll(lambda: any(line.split()[0] == word for line in self.said), PATIENCE)

    def tell(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._listening


@contextlib.asynccontextmanager
async def processes(server: RedisServer, *, ttl: float) -> AsyncIterator[tuple[Process, Process]]:
    """Two of them: the one that leads, and the other one."""
    said = json.dumps({"url": server.url, "ttl": ttl, "deadline": 1.0})
    found: list[Process] = []
    try:
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.adapters.lease_worker", said), cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            found.append(Process(process))
            await found[-1].says("ready")
            await found[0].says("leading")
        yield found[0], found[1]
    finally:
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                process.tell(signal.SIGCONT)
            await process.end()


class Watcher:
    """What Redis has of it all."""

    def __init__(self, backend: RedisBackend) -> None:
        self._link = backend.link

    async def lease(self) -> tuple[int, int]:
        """Its token, and when it ends."""
        token, ends, *_ = (await self._link.ask("GET", "leading:{lease:job}")).split()
        return int(token), int(ends)

    async def now(self) -> int:
        seconds, micros = await self._link.ask("TIME")
        return int(seconds) * MICRO + int(micros)

    async def written(self) -> list[int]:
        """The tokens of all writes that were made. They never fall."""
        tokens = [int(token) for token in await self._link.ask("LRANGE", "{w}:log", 0, -1)]
        assert tokens == sorted(tokens)
        return tokens

    async def has_written(self, token: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while token not in await self.written():  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watching(server: RedisServer) -> AsyncIterator[Watcher]:
    async with workers(server.url) as backends:
        yield Watcher(backends[0])


@pytest.mark.asyncio
async def test_a_leader_that_is_killed_is_followed_when_its_lease_ends(redis_server: RedisServer) -> None:
    ttl = 4.0
    async with watching(redis_server) as watcher, processes(redis_server, ttl=ttl) as (leader, other):
        (token,) = leader.tokens("leading")
        await watcher.has_written(token)
        assert other.tokens("leading") == []
        _, ends = await watcher.lease()
        leader.tell(signal.SIGKILL)
        killed = await watcher.now()
        await other.says("leading")
        (followed,) = other.tokens("leading")  # a token is the time when it was given
        assert followed >= ends
        assert followed <= killed + 1.2 * ttl * MICRO + 10 * MICRO  # so slow a machine may be
        await watcher.has_written(followed)
        assert set(await watcher.written()) == {token, followed}


@pytest.mark.asyncio
async def test_a_leader_that_was_frozen_writes_nothing_after_the_one_that_followed(redis_server: RedisServer) -> None:
    async with watching(redis_server) as watcher, processes(redis_server, ttl=3.0) as (leader, other):
        token = leader.tokens("leading")[-1]
        await watcher.has_written(token)
        leader.tell(signal.SIGSTOP)
        await other.says("leading")
        followed = other.tokens("leading")[-1]
        await watcher.has_written(followed)
        leader.tell(signal.SIGCONT)
        await leader.says("stopped")
        assert token in leader.tokens("stopped")
        written = await watcher.written()
        assert followed > token
        assert written.index(followed) > len(written) - 1 - written[::-1].index(token)


@pytest.mark.asyncio
async def test_a_leader_that_is_told_to_end_hands_over_before_its_lease_ends(redis_server: RedisServer) -> None:
    async with watching(redis_server) as watcher, processes(redis_server, ttl=30.0) as (leader, other):
        token, ends = await watcher.lease()
        leader.tell(signal.SIGTERM)
        await leader.says("ended")
        assert leader.tokens("stopped") == [token]
        await other.says("leading")
        (followed,) = other.tokens("leading")
        assert token < followed < ends


class Job:
    """A job in this process: the tokens of its runs, and which one goes on."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.running: int | None = None

    async def __call__(self, lease: Lease) -> None:
        self.tokens.append(lease.token)
        self.running = lease.token
        try:
            await asyncio.Event().wait()
        finally:
            self.running = None


@pytest.mark.asyncio
async def test_the_job_is_stopped_while_redis_is_frozen_or_killed_and_runs_anew_when_it_is_back(
    own_redis: RedisServer,
) -> None:
    job = Job()
    async with workers(own_redis.url, deadline=0.2) as backends:
        leading = asyncio.create_task(Leader(backends[0].leases, "job", job, ttl=1.5).run())
        await poll(lambda: job.running)
        own_redis.freeze()
        await poll(lambda: job.running is None)
        assert own_redis.frozen
        own_redis.thaw()
        await poll(lambda: job.running, PATIENCE)

        own_redis.kill()
        await poll(lambda: job.running is None)
        own_redis.start()
        await poll(lambda: job.running, PATIENCE)

        own_redis.command("FLUSHALL")
        runs = len(job.tokens)
        await poll(lambda: len(job.tokens) > runs and job.running, PATIENCE)
        assert job.tokens == sorted(set(job.tokens))

        leading.cancel()
        await asyncio.wait([leading])
        assert job.running is None
        lease = await backends[1].leases.acquire("job", "another", ttl=1)  # it was given back
        assert lease is not None
        assert lease.token > job.tokens[-1]
