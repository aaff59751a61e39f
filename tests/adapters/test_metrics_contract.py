"""The contract suite of `MetricsStore` on every adapter (memory, fakeredis, real Redis), and what holds for Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.crews import workers
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import metrics as redis_metrics
from traffic_cop_middleware.contracts import Flush, MetricsStore
from traffic_cop_middleware.testing import MetricsStoreContract
from traffic_cop_middleware.testing.metrics_contract import flush


class TestMemory(MetricsStoreContract):
    @pytest.fixture
    def stores(self) -> Sequence[MetricsStore]:
        return [MemoryBackend().metrics]


class TestFakeRedis(MetricsStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, fake_redis_url: str) -> AsyncIterator[Sequence[MetricsStore]]:
        async with workers(fake_redis_url) as backends:
            yield [backend.metrics for backend in backends]


class TestRedis(MetricsStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_server: RedisServer) -> AsyncIterator[Sequence[MetricsStore]]:
        async with workers(redis_server.url) as backends:
            yield [backend.metrics for backend in backends]


@pytest_asyncio.fixture
async def backend(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    async with workers(redis_server.url) as backends:
        yield backends[0]


@pytest.mark.asyncio
async def test_every_key_is_in_one_slot_and_runs_out_by_itself(backend: RedisBackend) -> None:
    await backend.metrics.flush("a", flush(1, windows={"10s:5": b"w", "1m:0": b"w", "tail:0": b""}))
    await backend.metrics.flush("b", flush(1, final=True))
    assert await backend.metrics.retire((await backend.metrics.totals()).record, b"record", {"a": 1, "b": 1})
    await backend.metrics.seal("1m:0", b"sealed", 1)
    await backend.metrics.seal("1m:1", b"of nobody", 0)
    found = {key: await backend.link.ask("TTL", key) for key in await backend.link.ask("KEYS", "crew-*{metrics}*")}
    names = {key.decode().partition("{metrics}:")[2] for key in found}
    assert names == {"live", "gone:a", "gone:b", "10s:5", "1m:0", "tail:0"}
    assert all(ttl > 0 for ttl in found.values())


@pytest.mark.asyncio
async def test_an_emptied_store_begins_a_new_epoch_and_asks_for_the_total(
    backend: RedisBackend, redis_server: RedisServer
) -> None:
    store = backend.metrics
    first = await store.flush("a", flush(1, 3))
    redis_server.command("FLUSHALL")
    second = await store.flush("a", flush(2, 3, total=None))
    assert not second.accepted
    assert second.epoch > first.epoch
    assert (await store.flush("a", flush(3, 3))).accepted


@pytest.mark.asyncio
async def test_a_worker_is_forgotten_among_the_gone_in_the_end(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.metrics
    for name in ("a", "b"):
        await store.flush(name, flush(1))
    assert await store.retire((await store.totals()).record, b"r", {"a": 1})
    monkeypatch.setattr(redis_metrics, "GONE_KEPT", -1)
    assert await store.retire((await store.totals()).record, b"r", {"b": 1})
    assert (await store.flush("a", Flush(2, 0, b"", b"", {}))).retired == (b"total", b"now")
    assert (await store.flush("b", Flush(2, 0, b"", b"", {}))).accepted
