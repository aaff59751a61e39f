"""The contract suite of `SessionStore` on every adapter: memory, fakeredis, real Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.adapters.ageing import age
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import SessionStore
from traffic_cop_middleware.testing import FakeClock, SessionStoreContract

DEADLINE = 30.0
"""Seconds: generous, for this suite asks what a store decides, not how fast."""


class TestMemory(SessionStoreContract):
    @pytest.fixture
    def store(self) -> SessionStore:
        self.clock = FakeClock()
        return MemoryBackend(clock=self.clock).sessions

    async def advance(self, store: SessionStore, seconds: float) -> None:
        self.clock.advance(seconds)


class OnRedis(SessionStoreContract):
    backends: list[RedisBackend]
    namespace: str

    async def opened(self, url: str) -> AsyncIterator[SessionStore]:
        self.namespace = f"contract-{secrets.token_hex(4)}[*]"
        self.backends = [
            open_redis(url, namespace=self.namespace, deadline=DEADLINE, notify=lambda event: None) for _ in range(2)
        ]
        for backend in self.backends:
            await backend.connect(patience=DEADLINE)
        yield self.backends[0].sessions
        await asyncio.gather(*(backend.close() for backend in self.backends))

    async def advance(self, store: SessionStore, seconds: float) -> None:
        await age(self.backends[0].link, self.namespace, seconds)

    async def elsewhere(self, store: SessionStore) -> SessionStore:
        return self.backends[1].sessions


class TestFakeRedis(OnRedis):
    trials = 50

    @pytest_asyncio.fixture
    async def store(self, fake_redis_url: str) -> AsyncIterator[SessionStore]:
        async for store in self.opened(fake_redis_url):
            yield store


class TestRedis(OnRedis):
    @pytest_asyncio.fixture
    async def store(self, redis_server: RedisServer) -> AsyncIterator[SessionStore]:
        async for store in self.opened(redis_server.url):
            yield store
