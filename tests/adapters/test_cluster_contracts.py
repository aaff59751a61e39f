"""The contract suites of all stores on a real Redis Cluster of three masters."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.ageing import age
from tests.adapters.load import poll
from tests.adapters.test_instances_contract import shift as shift_instances
from tests.adapters.test_leases_contract import shift
from tests.adapters.test_state_contract import RedisFilling
from tests.redis_cluster import RedisCluster
from traffic_cop_middleware.adapters.redis import state as redis_state
from traffic_cop_middleware.adapters.redis.cluster import ClusterBackend
from traffic_cop_middleware.adapters.redis.cluster import open as open_cluster
from traffic_cop_middleware.contracts import (
    BucketStore,
    InstanceStore,
    LeaseStore,
    MessageBus,
    MetricsStore,
    RecordStore,
    SessionRouteStore,
    SessionStore,
    StateStore,
)
from traffic_cop_middleware.testing import (
    BucketStoreContract,
    InstanceStoreContract,
    LeaseStoreContract,
    MessageBusContract,
    MetricsStoreContract,
    OutboxContract,
    RecordStoreContract,
    SessionRouteStoreContract,
    SessionStoreContract,
    StateStoreContract,
)
from traffic_cop_middleware.testing.lease_contract import Elapse
from traffic_cop_middleware.testing.outbox_contract import Filling

pytestmark = pytest.mark.redis_server

DEADLINE = 30.0
"""Seconds: generous, for these suites ask what a store does, not how fast."""
WORKERS = 3


@contextlib.asynccontextmanager
async def workers(cluster: RedisCluster, number: int = WORKERS) -> AsyncIterator[list[ClusterBackend]]:
    """The backends of several workers, on keys of their own."""
    namespace = f"contract-{secrets.token_hex(4)}[*]"
    async with contextlib.AsyncExitStack() as stack:
        backends = []
        for _ in range(number):
            backend = open_cluster(cluster.url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
            await backend.connect(patience=DEADLINE)
            stack.push_async_callback(backend.close)
            backends.append(backend)
        yield backends


class TestBuckets(BucketStoreContract):
    @pytest_asyncio.fixture
    async def store(self, redis_cluster: RedisCluster) -> AsyncIterator[BucketStore]:
        async with workers(redis_cluster, 1) as [self.backend]:
            yield self.backend.buckets

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        await self.backend.link.ask("SET", f"{self.backend.sessions._prefix}{key}", value)


class TestSessions(SessionStoreContract):
    trials = 50

    @pytest_asyncio.fixture
    async def store(self, redis_cluster: RedisCluster) -> AsyncIterator[SessionStore]:
        async with workers(redis_cluster, 2) as self.backends:
            yield self.backends[0].sessions

    async def advance(self, store: SessionStore, seconds: float) -> None:
        backend = self.backends[0]
        await age(backend.link, backend.sessions._prefix, seconds)

    async def elsewhere(self, store: SessionStore) -> SessionStore:
        return self.backends[1].sessions


class TestSessionRoutes(SessionRouteStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[SessionRouteStore]]:
        async with workers(redis_cluster) as backends:
            yield [backend.session_routes for backend in backends]

    async def elapse(self, seconds: float) -> None:
        end = time.time() + seconds + 0.01
        await poll(lambda: time.time() >= end)


class TestRecords(RecordStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[RecordStore]]:
        async with workers(redis_cluster) as backends:
            yield [backend.records for backend in backends]


class TestBus(MessageBusContract):
    @pytest_asyncio.fixture
    async def buses(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[MessageBus]]:
        async with workers(redis_cluster) as backends:
            yield [backend.bus for backend in backends]


class TestMetrics(MetricsStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[MetricsStore]]:
        async with workers(redis_cluster) as backends:
            yield [backend.metrics for backend in backends]


class TestLeases(LeaseStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[LeaseStore]]:
        async with workers(redis_cluster) as self.backends:
            yield [backend.leases for backend in self.backends]

    @pytest.fixture
    def elapse(self) -> Elapse:
        async def elapse(seconds: float) -> None:
            await shift(self.backends[0], seconds)

        return elapse


class TestInstances(InstanceStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[InstanceStore]]:
        async with workers(redis_cluster) as self.backends:
            yield [backend.instances for backend in self.backends]

    @pytest.fixture
    def elapse(self) -> Elapse:
        async def elapse(seconds: float) -> None:
            await shift_instances(self.backends[0], seconds)

        return elapse


class TestState(StateStoreContract):
    more_than_remembered = 1_500

    @pytest.fixture(autouse=True)
    def forgetful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_state, "MOST_CHANGES", 1_000)

    @pytest_asyncio.fixture
    async def stores(self, redis_cluster: RedisCluster) -> AsyncIterator[Sequence[StateStore]]:
        async with workers(redis_cluster) as backends:
            yield [backend.state for backend in backends]


class TestOutbox(OutboxContract):
    @pytest_asyncio.fixture
    async def filling(self, redis_cluster: RedisCluster) -> AsyncIterator[Filling]:
        async with workers(redis_cluster) as backends:
            yield RedisFilling(backends)
