"""From URLs to the stores behind the state: documents, files, and the files' metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, cast

from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.composition.sharing import Given, Handle, Open
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.contracts import DocumentStore, Event, FileMetadataStore, HistoryStore, ObjectStore

GROUP = "traffic_cop_middleware"
KINDS: Mapping[str, tuple[Mapping[str, str], str]] = {
    "documents": (
        {
            "memory": "memory.documents",
            "sqlite": "sqlite.documents",
            "arangodb": "arangodb.documents",
            "arangodb+https": "arangodb.documents",
        },
        "'sqlite:///state.db' or 'arangodb://user:password@localhost:8529/database'",
    ),
    "files": ({"file": "filesystem", "gs": "gcs"}, "'file:///var/lib/app/files' or 'gs://bucket/prefix'"),
    "file_metadata": (
        {"sqlite": "sqlite.files", "supabase+https": "supabase", "supabase+http": "supabase"},
        "'sqlite:///files.db' or 'supabase+https://key@project.supabase.co'",
    ),
    "history": (
        {
            "memory": "memory.history",
            "sqlite": "sqlite.history",
            "arangodb": "arangodb.history",
            "arangodb+https": "arangodb.history",
        },
        "'sqlite:///state.db' or 'arangodb://user:password@localhost:8529/database'",
    ),
}
"""By kwarg: the modules under `adapters` for the schemes of ours, and an example. Of others there are entry points."""


HISTORY_DEADLINE = 10.0
"""Seconds that a question to the history may take at least: a month of it is read at once."""


def _keeps_history(documents: object) -> bool:
    """Whether documents of this scheme keep a history too: those of a third party may not."""
    if not isinstance(documents, str):
        return False
    scheme = documents.partition("://")[0].lower()
    return scheme in KINDS["history"][0] or bool(entry_points(group=f"{GROUP}.history", name=scheme))


def opener(kind: str, url: str) -> Open[Any]:
    """The adapter for a URL's scheme.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    ours, example = KINDS[kind]
    return cast("Open[Any]", adapter_for(url, kwarg=kind, group=f"{GROUP}.{kind}", ours=ours, example=example))


class StateStores:
    """The stores behind the state, on one event loop: opened for URLs, shared with those who named the same ones, or
    given by their owners. With `history`, that of the traffic too.

    Raises:
        ConfigurationError: a URL can't be used.
    """

    def __init__(
        self,
        settings: StateSettings,
        *,
        loop: object,
        namespace: str,
        notify: Callable[[Event], None],
        history: bool = False,
    ) -> None:
        def handle(kind: str, given: Any, deadline: float) -> Handle[Any] | Given[Any]:
            if not isinstance(given, str):
                return Given(given)
            return Handle(
                given,
                kind=kind,
                opener=lambda url: opener(kind, url),
                loop=loop,
                namespace=namespace,
                deadline=deadline,
                notify=notify,
            )

        files: FilesSettings = settings.files
        self._documents = handle("documents", settings.documents, settings.deadline)
        self._handles = [self._documents]
        self._objects = self._metadata = None
        self._history = None
        if history:
            past = settings.documents if _keeps_history(settings.documents) else MemoryHistory()
            self._history = handle("history", past, max(settings.deadline, HISTORY_DEADLINE))
            self._handles.append(self._history)
        if files.metadata is not None:
            self._metadata = handle("file_metadata", files.metadata, files.deadline)
            self._handles.append(self._metadata)
        if files.objects is not None:
            self._objects = handle("files", files.objects, files.deadline)
            self._handles.append(self._objects)
        self._open: list[Handle[Any] | Given[Any]] = []

    @property
    def documents(self) -> DocumentStore:
        return cast("DocumentStore", self._documents.product)

    @property
    def history(self) -> HistoryStore | None:
        """Where the history of the traffic is: with the documents, or in this process where these keep none."""
        return None if self._history is None else cast("HistoryStore", self._history.product)

    @property
    def objects(self) -> ObjectStore | None:
        """Where files are; `None`: nowhere."""
        return None if self._objects is None else cast("ObjectStore", self._objects.product)

    @property
    def metadata(self) -> FileMetadataStore | None:
        """What is known of files; `None`: nothing."""
        return None if self._metadata is None else cast("FileMetadataStore", self._metadata.product)

    async def connect(self, *, patience: float) -> None:
        """Connect to each.

        Raises:
            ConfigurationError: one will never work as configured; the others are closed again.
        """
        for handle in self._handles:
            try:
                await handle.connect(patience=patience)
            except BaseException:
                await self.close()
                raise
            self._open.append(handle)

    async def close(self) -> None:
        """Let go of them."""
        while self._open:
            await self._open.pop().close()
