"""A registry in a test's hands: away, emptied, and back; and what runs beside it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

from traffic_cop_middleware.adapters.memory.instances import MemoryInstances
from traffic_cop_middleware.contracts import Instance, Instances
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock


class Registry:
    """`InstanceStore` on a fake clock, which can be `away`, and lose everything."""

    shared = True

    def __init__(self, clock: FakeClock) -> None:
        self.away = False
        self.reads = 0
        self._clock = clock
        self.lose()

    def lose(self) -> None:
        self._store = MemoryInstances(clock=self._clock, wall_clock=self._clock)

    def _reached(self) -> MemoryInstances:
        if self.away:
            raise StoreUnavailable("the registry is away")
        return self._store

    async def register(self, instance: Instance, *, holder: str) -> bool:
        return self._reached().register(instance, holder=holder)

    async def unregister(self, service: str, name: str, *, holder: str) -> bool:
        return self._reached().unregister(service, name, holder=holder)

    async def read(self, service: str, *, since: int = 0) -> Instances | None:
        self.reads += 1
        return self._reached().read(service, since=since)

    async def figures(self) -> dict[str, int]:
        return dict(self._reached().figures())


class Runs(Protocol):
    """What watches or announces."""

    async def run(self) -> None: ...


@contextlib.asynccontextmanager
async def running(job: Runs) -> AsyncIterator[None]:
    task = asyncio.create_task(job.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
