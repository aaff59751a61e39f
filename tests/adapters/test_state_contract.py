"""The contract suites of `StateStore` and `Outbox` on memory and on real Redis.

Not on fakeredis: it has no CLIENT TRACKING, and hangs up where a script hears that a consumer group is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.crews import workers
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import state as redis_state
from traffic_cop_middleware.contracts import Item, StateStore
from traffic_cop_middleware.testing import FakeClock, OutboxContract, StateStoreContract
from traffic_cop_middleware.testing.outbox_contract import Filling
from traffic_cop_middleware.testing.state_asking import Elapse


class TestMemory(StateStoreContract):
    @pytest.fixture
    def stores(self, fake_clock: FakeClock) -> Sequence[StateStore]:
        return [MemoryBackend(clock=fake_clock).state]

    @pytest.fixture
    def elapse(self, fake_clock: FakeClock) -> Elapse:
        async def elapse(seconds: float) -> None:
            fake_clock.advance(seconds)

        return elapse


class TestRedis(StateStoreContract):
    more_than_remembered = 1_500

    @pytest.fixture(autouse=True)
    def forgetful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_state, "MOST_CHANGES", 1_000)

    @pytest_asyncio.fixture
    async def stores(self, redis_server: RedisServer) -> AsyncIterator[Sequence[StateStore]]:
        async with workers(redis_server.url) as backends:
            yield [backend.state for backend in backends]


class RedisFilling:
    """The outbox of several workers; what is written is in it."""

    def __init__(self, backends: Sequence[RedisBackend]) -> None:
        self.outboxes = [backend.state.outbox for backend in backends]
        self._state = backends[0].state

    async def put(self, item: Item) -> Item:
        written = await self._state.write(item.key, item.value, tier=item.tier, expires_at=item.expires_at)
        assert written.item is not None
        return written.item


class TestRedisOutbox(OutboxContract):
    @pytest_asyncio.fixture
    async def filling(self, redis_server: RedisServer) -> AsyncIterator[Filling]:
        async with workers(redis_server.url) as backends:
            yield RedisFilling(backends)
