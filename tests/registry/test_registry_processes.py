"""Services in processes of their own and workers that watch them, on a real Redis: killed, frozen, ended, emptied."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.adapters.crews import workers
from tests.adapters.load import poll
from tests.adapters.test_leader_processes import PATIENCE, ROOT, Process
from tests.servers import RedisServer
from traffic_cop_middleware import Registration
from traffic_cop_middleware.abstractions.registry.watching import ServiceWatch
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import Instance

pytestmark = pytest.mark.redis_server


class Worker:
    """A worker that watches a service: what it knew, and when it came to know it (monotonic seconds)."""

    def __init__(self, backend: RedisBackend) -> None:
        self.told: list[tuple[float, list[str]]] = []
        self.watch = ServiceWatch(backend.instances, backend.bus, "billing", self._hear)

    def _hear(self, instances: Sequence[Instance]) -> None:
        self.told.append((time.monotonic(), [each.name for each in instances]))

    @property
    def known(self) -> list[str] | None:
        return self.told[-1][1] if self.told else None


@contextlib.asynccontextmanager
async def watching(server: RedisServer, **options: Any) -> AsyncIterator[tuple[str, list[Worker]]]:
    """A namespace, and two workers, each with a backend of its own, that watch a service in it."""
    async with workers(server.url, **options) as backends:
        found = [Worker(backend) for backend in backends[:2]]
        tasks = [asyncio.create_task(worker.watch.run()) for worker in found]
        try:
            await poll(lambda: all(worker.known == [] for worker in found))
            yield backends[0].instances._prefix.removesuffix(":"), found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def services(server: RedisServer, namespace: str, *names: str, ttl: float) -> AsyncIterator[list[Process]]:
    """Processes that announce themselves."""
    found: list[Process] = []
    try:
        for name in names:
            settings = {"service": "billing", "url": f"http://{name}:8080", "instance": name, "backend": server.url}
            said = json.dumps({**settings, "ttl": ttl, "namespace": namespace})
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.registry.service_worker", said), cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            found.append(Process(process))
        for each in found:
            await each.says("announced")
        yield found
    finally:
        for each in found:
            with contextlib.suppress(ProcessLookupError):
                each.tell(signal.SIGCONT)
            await each.end()


async def all_know(found: list[Worker], *names: str) -> None:
    await poll(lambda: all(worker.known == list(names) for worker in found), PATIENCE)


@pytest.mark.asyncio
async def test_one_that_is_killed_is_gone_after_its_ttl_and_its_neighbour_stays(redis_server: RedisServer) -> None:
    ttl = 3.0
    async with (
        watching(redis_server) as (namespace, found),
        services(redis_server, namespace, "a", "b", ttl=ttl) as [first, _],
    ):
        await all_know(found, "a", "b")
        first.tell(signal.SIGKILL)
        killed = time.monotonic()
        await all_know(found, "b")
        for worker in found:
            assert worker.told[-1][0] - killed > ttl / 3  # it was announced for that long at least
            assert worker.told[-1][0] - killed < ttl + 10  # so slow a machine may be


@pytest.mark.asyncio
async def test_one_that_ends_is_gone_long_before_its_ttl(redis_server: RedisServer) -> None:
    async with (
        watching(redis_server) as (namespace, found),
        services(redis_server, namespace, "a", "b", ttl=3_600.0) as [first, _],
    ):
        await all_know(found, "a", "b")
        first.tell(signal.SIGTERM)
        await first.says("withdrawn")
        await all_know(found, "b")


@pytest.mark.asyncio
async def test_one_that_is_frozen_is_gone_and_comes_back_when_it_goes_on(redis_server: RedisServer) -> None:
    async with (
        watching(redis_server) as (namespace, found),
        services(redis_server, namespace, "a", ttl=1.5) as [first],
    ):
        await all_know(found, "a")
        first.tell(signal.SIGSTOP)
        await all_know(found)
        first.tell(signal.SIGCONT)
        await all_know(found, "a")


@pytest.mark.asyncio
async def test_what_is_announced_through_one_backend_is_known_through_another_within_a_second(
    redis_server: RedisServer,
) -> None:
    async with watching(redis_server) as (namespace, found):
        took = []
        for turn in range(7):
            url = f"http://10.0.0.{turn}:80"
            async with Registration("billing", url=url, backend=redis_server.url, namespace=namespace):
                begun = time.monotonic()
                await all_know(found, f"10.0.0.{turn}:80")
                took += [worker.told[-1][0] - begun for worker in found]
            await all_know(found)
        assert statistics.median(took) < 1.0


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", ["frozen", "killed"])
async def test_while_redis_is_away_what_was_known_goes_on_and_nobody_is_missed_when_it_is_back(
    own_redis: RedisServer, trouble: str
) -> None:
    ttl = 2.0
    async with (
        watching(own_redis, deadline=0.2) as (namespace, found),
        services(own_redis, namespace, "a", "b", ttl=ttl) as [first, _],
    ):
        await all_know(found, "a", "b")
        told = [list(worker.told) for worker in found]
        if trouble == "frozen":
            own_redis.freeze()
        else:
            own_redis.kill()
        await poll(lambda: all((worker.watch.age or 0) > 2 * ttl for worker in found), PATIENCE)
        if trouble == "frozen":
            own_redis.thaw()
        else:
            own_redis.start()
        await poll(lambda: all((worker.watch.age or 0) < ttl for worker in found), PATIENCE)
        await poll(lambda: not any(worker.watch.unconfirmed for worker in found), PATIENCE)
        assert [worker.told for worker in found] == told
        first.tell(signal.SIGKILL)
        await all_know(found, "b")
