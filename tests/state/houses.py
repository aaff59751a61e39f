"""State on each backend and documents that there are, for tests of what decides above them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RedisServer
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.synchronisation import Service, StatePushes
from traffic_cop_middleware.adapters import redis as redis_adapter
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.adapters.sqlite.documents import SqliteDocuments
from traffic_cop_middleware.contracts import DocumentStore, StateStore


class House:
    """State that is open, and what happened in it."""

    def __init__(
        self,
        store: StateStore,
        documents: DocumentStore,
        *,
        services: dict[str, Service] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.told: list[tuple[str, Any]] = []
        self.store = store
        self.documents = documents
        self.house = StateHouse(
            store,
            documents,
            emit=lambda kind, attributes: self.told.append((kind, attributes)),
            now=now,
            clock=time.monotonic,
        )
        self.pushes = StatePushes(self.house, services or {}, emit=lambda *_: None)
        self.state = StateManagementAbstraction(self.house, self.pushes)

    async def lose_everything(self) -> None:
        """The server forgets all that it has."""
        store: Any = self.store
        await store._link.ask("FLUSHALL")

    async def flush(self) -> int:
        """What waits goes to the documents now."""
        assert self.house.flusher is not None
        return await self.house.flusher.flush()


def sqlite_at(path: Path) -> SqliteDocuments:
    return SqliteDocuments(str(path), namespace="tc", deadline=10.0, notify=lambda _: None)


@contextlib.asynccontextmanager
async def on_memory(path: Path | None = None, **settings: Any) -> AsyncIterator[House]:
    """On a memory backend, with documents in a file or without."""
    documents: DocumentStore = MemoryDocuments() if path is None else sqlite_at(path)
    await documents.connect()
    house = House(MemoryBackend().state, documents, **settings)
    try:
        yield house
    finally:
        house.house.close()
        await documents.close()


@contextlib.asynccontextmanager
async def on_redis(url: str, path: Path | None = None, **settings: Any) -> AsyncIterator[House]:
    """On a real Redis, with documents in a file or without."""
    backend = redis_adapter.open(url, namespace="tc", deadline=5.0, notify=lambda _: None)
    await backend.connect(patience=30.0)
    documents: DocumentStore = MemoryDocuments() if path is None else sqlite_at(path)
    await documents.connect()
    house = House(backend.state, documents, **settings)
    try:
        yield house
    finally:
        house.house.close()
        await documents.close()
        await backend.close()


Open = Callable[..., contextlib.AbstractAsyncContextManager[House]]
KINDS = ["memory", "memory and sqlite", pytest.param("redis and sqlite", marks=pytest.mark.redis_server)]


def opener(request: pytest.FixtureRequest, path: Path) -> Open:
    """Opens a house of the kind that a fixture has as its parameter; every time on the same file."""
    kind: str = request.param
    file = path / "state.db" if "sqlite" in kind else None
    if kind.startswith("memory"):
        return lambda **settings: on_memory(file, **settings)
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda **settings: on_redis(server.url, file, **settings)
