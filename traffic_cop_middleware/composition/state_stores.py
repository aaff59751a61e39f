"""From URLs to the stores behind the state: documents, files, and the files' metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.composition.sharing import Given, Handle, Open
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.contracts import DocumentStore, Event, FileMetadataStore, ObjectStore

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
}
"""By kwarg: the modules under `adapters` for the schemes of ours, and an example. Of others there are entry points."""


def opener(kind: str, url: str) -> Open[Any]:
    """The adapter for a URL's scheme.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    ours, example = KINDS[kind]
    group = f"traffic_cop_middleware.{kind}"
    return cast("Open[Any]", adapter_for(url, kwarg=kind, group=group, ours=ours, example=example))


class StateStores:
    """The stores behind the state, on one event loop: opened for URLs, shared with those who named the same ones, or
    given by their owners.

    Raises:
        ConfigurationError: a URL can't be used.
    """

    def __init__(
        self, settings: StateSettings, *, loop: object, namespace: str, notify: Callable[[Event], None]
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
