"""The contract suite of `BucketStore` on every adapter: memory, fakeredis, real Redis."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import BucketStore
from traffic_cop_middleware.testing import BucketStoreContract, FakeClock

DEADLINE = 30.0
"""Seconds: generous, for this suite asks what a store decides, not how fast."""


class TestMemory(BucketStoreContract):
    @pytest.fixture
    def store(self) -> BucketStore:
        self.backend = MemoryBackend(clock=FakeClock())
        return self.backend.buckets

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        self.backend.keyspace[key] = value


class OnRedis(BucketStoreContract):
    backend: RedisBackend
    namespace: str

    async def opened(self, url: str) -> AsyncIterator[BucketStore]:
        self.namespace = f"contract-{secrets.token_hex(4)}"
        self.backend = open_redis(url, namespace=self.namespace, deadline=DEADLINE, notify=lambda event: None)
        await self.backend.connect(patience=DEADLINE)
        yield self.backend.buckets
        await self.backend.close()

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        await self.backend.link.ask("SET", f"{self.namespace}:{key}", value)


class TestFakeRedis(OnRedis):
    @pytest_asyncio.fixture
    async def store(self, fake_redis_url: str) -> AsyncIterator[BucketStore]:
        async for store in self.opened(fake_redis_url):
            yield store


class TestRedis(OnRedis):
    @pytest_asyncio.fixture
    async def store(self, redis_server: RedisServer) -> AsyncIterator[BucketStore]:
        async for store in self.opened(redis_server.url):
            yield store
