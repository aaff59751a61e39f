"""The contract suite of `DocumentStore` on every adapter: memory, SQLite, ArangoDB.

ArangoDB is a double here (`tests/arangodb_double.py`); `test_arangodb_server.py` asks a real one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.arangodb_double import running_double
from traffic_cop_middleware.adapters.arangodb.documents import open as open_arangodb
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.adapters.sqlite.documents import open as open_sqlite
from traffic_cop_middleware.contracts import DocumentStore
from traffic_cop_middleware.testing import DocumentStoreContract

DEADLINE = 20.0
"""Seconds: generous, for this suite asks what is kept, not how fast."""


class TestMemory(DocumentStoreContract):
    @pytest.fixture
    def stores(self) -> Sequence[DocumentStore]:
        return [MemoryDocuments()]


class TestSqlite(DocumentStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Sequence[DocumentStore]]:
        async with contextlib.AsyncExitStack() as stack:
            opened = []
            for _ in range(2):
                store = open_sqlite(
                    f"sqlite:///{tmp_path}/state.db", namespace="tc", deadline=DEADLINE, notify=lambda event: None
                )
                await store.connect(patience=DEADLINE)
                stack.push_async_callback(store.close)
                opened.append(store)
            yield opened


@contextlib.asynccontextmanager
async def arangodb(url: str) -> AsyncIterator[Sequence[DocumentStore]]:
    """The stores of several workers, on items of their own."""
    namespace = f"contract-{secrets.token_hex(4)}"
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            store = open_arangodb(url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
            await store.connect(patience=DEADLINE)
            stack.push_async_callback(store.close)
            opened.append(store)
        yield opened


class TestArangoDouble(DocumentStoreContract):
    @pytest_asyncio.fixture
    async def stores(self) -> AsyncIterator[Sequence[DocumentStore]]:
        with running_double() as double:
            async with arangodb(double.url) as opened:
                yield opened
