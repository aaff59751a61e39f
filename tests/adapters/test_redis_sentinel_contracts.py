"""The contract suites of buckets, sessions, messages and instances, through real sentinels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters import test_buckets_contract as buckets
from tests.adapters import test_bus_contract as buses
from tests.adapters import test_instances_contract as instances
from tests.adapters import test_sessions_contract as sessions
from tests.sentinels import running_sentinels
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import BucketStore, MessageBus, SessionStore

pytestmark = pytest.mark.redis_server

PATIENT = 60_000
"""Milliseconds: nothing happens to the master, and nobody may think so on a slow machine."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_sentinels(tmp_path_factory.mktemp("sentinels"), down_after=PATIENT) as watched:
        yield watched.url


class TestBuckets(buckets.OnRedis):
    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[BucketStore]:
        async for store in self.opened(url):
            yield store


class TestSessions(sessions.OnRedis):
    trials = 20

    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[SessionStore]:
        async for store in self.opened(url):
            yield store


class TestBus(buses.OnRedis):
    @pytest_asyncio.fixture
    async def buses(self, url: str) -> AsyncIterator[Sequence[MessageBus]]:
        async for found in self.opened(url):
            yield found


class TestInstances(instances.OnRedis):
    @pytest_asyncio.fixture
    async def backends(self, url: str) -> AsyncIterator[list[RedisBackend]]:
        async with instances.workers(url) as opened:
            yield opened
