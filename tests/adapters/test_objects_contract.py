"""The contract suite of `ObjectStore` on every adapter: the file system, Cloud Storage.

Cloud Storage is a double here (`tests/gcs_double.py`); `test_gcs_server.py` asks a real bucket.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.gcs_double import running_double
from traffic_cop_middleware.adapters.filesystem import open as open_filesystem
from traffic_cop_middleware.adapters.gcs import open as open_gcs
from traffic_cop_middleware.contracts import ObjectOpener, ObjectStore
from traffic_cop_middleware.testing import ObjectStoreContract

DEADLINE = 60.0
"""Seconds: generous, for this suite asks what is kept, not how fast."""


@contextlib.asynccontextmanager
async def two_workers(
    open_store: ObjectOpener, url: str, namespace: str = "tc"
) -> AsyncIterator[Sequence[ObjectStore]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            store = open_store(url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
            await store.connect(patience=DEADLINE)
            stack.push_async_callback(store.close)
            opened.append(store)
        yield opened


@contextlib.asynccontextmanager
async def gcs(url: str) -> AsyncIterator[Sequence[ObjectStore]]:
    """The stores of two workers, on a place of their own."""
    async with two_workers(open_gcs, url, f"contract-{secrets.token_hex(4)}") as stores:
        yield stores


class TestFileSystem(ObjectStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Sequence[ObjectStore]]:
        async with two_workers(open_filesystem, (tmp_path / "objects").as_uri()) as opened:
            yield opened


class TestGcsDouble(ObjectStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sequence[ObjectStore]]:
        with running_double() as double:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", double.endpoint)
            async with gcs(double.url) as opened:
                yield opened
