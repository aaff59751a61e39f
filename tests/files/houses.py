"""State with files on real stores, for tests of what decides above them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.management import FileManagementAbstraction
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.uses import StateUses
from traffic_cop_middleware.abstractions.state.flusher import StateFlusher
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.synchronisation import StatePushes
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.composition.backends import opener as backend_opener
from traffic_cop_middleware.composition.state_stores import opener
from traffic_cop_middleware.contracts import DocumentStore, FileMetadataStore, ObjectStore, StateStore

DEADLINE = 20.0


class Died(Exception):
    """A maker of files was killed, in a way."""


class Stores:
    """The four stores behind state with files, each open."""

    def __init__(
        self, state: StateStore, documents: DocumentStore, objects: ObjectStore, metadata: FileMetadataStore
    ) -> None:
        self.state = state
        self.documents = documents
        self.objects = objects
        self.metadata = metadata


class FileState:
    """State with files, and what happened in it."""

    def __init__(
        self,
        stores: Stores,
        *,
        promotion: PromotionSettings | None = None,
        hooks: list[Any] | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.told: list[tuple[str, Any]] = []
        self.stores = stores
        emit = lambda kind, attributes: self.told.append((kind, attributes))  # noqa: E731
        self.files_house = FileHouse(stores.objects, stores.metadata, now=now, emit=emit)
        judge = None
        if promotion is not None:
            judge = StatePromotionAbstraction(
                promotion,
                hooks=hooks if hooks is not None else [],
                files=True,
                now=now,
                emit=emit,
            )
        self.uses = StateUses(stores.metadata, now=now)
        self.house = StateHouse(
            stores.state,
            stores.documents,
            emit=emit,
            now=now,
            clock=clock,
            judge=judge,
            files=self.files_house,
            uses=self.uses,
        )
        self.state = StateManagementAbstraction(self.house, StatePushes(self.house, {}, emit=emit))
        self.files = FileManagementAbstraction(self.files_house, self.state)

    async def flush(self) -> int:
        """What waits goes where it belongs now, also what somebody else had claimed."""
        outbox = self.stores.state.outbox or self.stores.documents.outbox
        promoter = self.house.promoter
        assert outbox is not None
        assert promoter is not None
        return await StateFlusher(outbox, self.stores.documents, promoter, emit=self.emit, idle=0.0).flush()

    def emit(self, kind: str, attributes: Any) -> None:
        self.told.append((kind, attributes))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]


@contextlib.asynccontextmanager
async def stores(
    state: str, documents: str, objects: str, metadata: str, *, namespace: str = "tc"
) -> AsyncIterator[Stores]:
    """Opened for URLs; `memory://` state and documents are this process's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(kind: str, url: str) -> Any:
            store = opener(kind, url)(url, namespace=namespace, deadline=DEADLINE, notify=lambda _: None)
            await store.connect(patience=DEADLINE)
            stack.push_async_callback(store.close)
            return store

        if state == "memory://":
            backend: Any = MemoryBackend()
        else:
            backend = backend_opener(state)(state, namespace=namespace, deadline=5.0, notify=lambda _: None)
            await backend.connect(patience=DEADLINE)
            stack.push_async_callback(backend.close)
        kept: Any = MemoryDocuments() if documents == "memory://" else await opened("documents", documents)
        yield Stores(backend.state, kept, await opened("files", objects), await opened("file_metadata", metadata))


@contextlib.asynccontextmanager
async def file_state(
    state: str, documents: str, objects: str, metadata: str, *, namespace: str = "tc", **settings: Any
) -> AsyncIterator[FileState]:
    async with stores(state, documents, objects, metadata, namespace=namespace) as each:
        house = FileState(each, **settings)
        try:
            yield house
        finally:
            house.house.close()


def local(folder: Any) -> tuple[str, str, str]:
    """Documents, files and metadata under a folder."""
    return f"sqlite:///{folder}/state.db", f"file://{folder}/files", f"sqlite:///{folder}/files.db"


async def begun(house: FileState, key: str, step: str = "finish") -> str:
    """A file of the new item order/`key` whose maker died before `step`; where its object is to be."""

    async def dies(*_: Any, **__: Any) -> Any:
        raise Died

    await house.state.put("order", key, key, tier="immediate")
    of: Any = house.stores.objects if step == "create" else house.stores.metadata
    whole = getattr(of, step)
    setattr(of, step, dies)
    with contextlib.suppress(Died):
        await house.files.promote("order", key)
    setattr(of, step, whole)
    rows = await house.stores.metadata.pending(before=2**40)
    return next(row.path for row in rows if row.key.key == key)
