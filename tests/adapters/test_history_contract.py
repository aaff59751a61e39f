"""The contract suite of `HistoryStore` on every adapter: memory, SQLite, ArangoDB (a double, over HTTP)."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.arangodb_double import running_double
from traffic_cop_middleware.adapters.arangodb.history import open as open_arangodb
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.adapters.sqlite.history import open as open_sqlite
from traffic_cop_middleware.contracts import HistoryBucket, HistoryOpener, HistoryRow, HistoryStore, Span
from traffic_cop_middleware.testing import HistoryStoreContract

DEADLINE = 20.0
"""Seconds: generous, for this suite asks what is kept, not how fast."""


@contextlib.asynccontextmanager
async def opened(open_store: HistoryOpener, url: str, namespace: str = "tc") -> AsyncIterator[Sequence[HistoryStore]]:
    """The stores of two workers."""
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for _ in range(2):
            store = open_store(url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
            await store.connect(patience=DEADLINE)
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


class TestMemory(HistoryStoreContract):
    @pytest.fixture
    def stores(self) -> Sequence[HistoryStore]:
        return [MemoryHistory()]


class TestSqlite(HistoryStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Sequence[HistoryStore]]:
        async with opened(open_sqlite, f"sqlite:///{tmp_path}/state.db") as stores:
            yield stores


class TestArangoDouble(HistoryStoreContract):
    @pytest_asyncio.fixture
    async def stores(self) -> AsyncIterator[Sequence[HistoryStore]]:
        with running_double() as double:
            async with opened(open_arangodb, double.url, f"contract-{secrets.token_hex(4)}") as stores:
                yield stores


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["conflicts", "lost_replies"])
async def test_a_write_to_arangodb_is_repeated_and_counts_once(fault: str) -> None:
    with running_double() as double:
        async with opened(open_arangodb, double.url) as (store, other):
            rows = [HistoryRow("requests", "/a", "GET", b"x")]
            await store.write(HistoryBucket(60, 0), rows, token=1)
            setattr(double, fault, 1)
            assert await store.write(HistoryBucket(60, 0), rows, token=2)
            (due,) = await other.due()
            setattr(double, fault, 1)
            assert await store.write(HistoryBucket(300, 0), rows, token=2, stamp=due.stamp)
            assert len(await other.read([Span(60, 0, 60), Span(300, 0, 300)])) == 2


@pytest.mark.asyncio
async def test_a_history_in_memory_is_bounded_and_the_oldest_minutes_go_first() -> None:
    store = MemoryHistory(max_mb=1)
    row = HistoryRow("requests", "/a", "GET", b"x" * 10_000)
    for number in range(0, 1_000, 5):
        await store.write(HistoryBucket(60, number * 60), [row])
        for due in await store.due():
            if due.resolution == 300:
                await store.write(HistoryBucket(300, due.start), [row], stamp=due.stamp)
    minutes = [past.start for past in await store.read([Span(60, 0, 60_000)])]
    assert len(minutes) <= 6
    found = await store.read([Span(300, 0, 60_000), Span(3_600, 0, 60_000)])
    assert 85 < len(found) < 105
    assert found[-1].start == 995 * 60
