"""What the files of all tenants have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio.to_thread

from traffic_cop_middleware.abstractions.files.following import FileReader
from traffic_cop_middleware.abstractions.files.naming import content_of
from traffic_cop_middleware.abstractions.files.saga import FileSaga, Parent, Why
from traffic_cop_middleware.abstractions.patience import Patience
from traffic_cop_middleware.contracts import FileKind, FileMetadataStore, FileRow, Item, ObjectStore, Promotion
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

log = logging.getLogger("traffic_cop.files")

LARGE = 32 * 1024
"""Bytes of a text from which on it is brought into its canonical form in a thread: that takes about 1 ms for each."""


WITHIN, PAUSE = 2.0, 30.0
"""Seconds that a line of history may take, and for which none is kept after that failed."""


class FileHouse:
    """The parts of the files on one object store and its metadata. `now` gives seconds since the epoch."""

    def __init__(
        self,
        objects: ObjectStore,
        metadata: FileMetadataStore,
        *,
        now: Callable[[], float],
        emit: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self.objects = objects
        self.metadata = metadata
        self.now = now
        self.emit = emit
        self.saga = FileSaga(objects, metadata, now=now, emit=emit)
        self.reader = FileReader(objects)
        self._patience = Patience(within=WITHIN, pause=PAUSE, now=now)

    async def keep_item(self, item: Item, *, kind: FileKind, why: Why, parents: Sequence[Parent] = ()) -> FileRow:
        """The file of an item's value. Round trips as `FileSaga.keep`.

        Raises:
            FileQuarantined, StoreUnavailable, StoreError: as `FileSaga.keep`.
        """
        text = item.value or "null"
        content = await anyio.to_thread.run_sync(content_of, text) if len(text) >= LARGE else content_of(text)
        about = {"tier": item.tier if item.named else None}
        row = await self.saga.keep(item.key, item.version, content, kind=kind, why=why, parents=parents, about=about)
        if row.status != "done":
            raise StoreUnavailable(f"the file {row.id} was deleted while it was made: asked again, it is made anew")
        return row

    async def note(self, promotion: Promotion) -> None:
        """Keep a line of history. Where the metadata is away that is told of, and nobody waits long: what the line is
        about stands."""
        try:
            await self._patience.ask(partial(self.metadata.note, promotion))
        except (StoreError, ValueError) as exc:
            key = promotion.key
            log.info("the promotion of %s/%s is not in the history (%s)", key.namespace, key.key, exc)
            self.emit("promotion.not_noted", {"namespace": key.namespace, "key": key.key, "reason": str(exc)})
