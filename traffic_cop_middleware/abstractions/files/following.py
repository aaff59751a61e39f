"""Reading what pointers point to.

Content never changes under its hash, so what was read once is right for good: a bounded cache of texts by hash stands
in front.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import anyio
from anyio.lowlevel import current_token

from traffic_cop_middleware.abstractions.files.naming import digest_of
from traffic_cop_middleware.abstractions.files.pointers import Pointer, pointer_of
from traffic_cop_middleware.contracts import Item, ObjectStore
from traffic_cop_middleware.errors import FileCorrupt

MOST_TURNS = 10
MOST_KEPT = 32 * 1024 * 1024
"""Bytes of content that this worker keeps of files that pointers led to."""


class Read:
    """A file that is being read, for which several wait."""

    __slots__ = ("ended", "text")

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.text: str | None = None


class FileReader:
    """Reads files, and sees that they are what was kept. Readers of one file at a time share one question."""

    def __init__(self, objects: ObjectStore, *, most_kept: int = MOST_KEPT) -> None:
        self._objects = objects
        self._most = most_kept
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        self._keeping = threading.Lock()
        self._reads: dict[tuple[str, str, object], Read] = {}

    async def content(self, path: str, *, sha256: str, size: int) -> bytes:
        """The content of an object. One round trip.

        Raises:
            FileCorrupt: it is not there, or not what was kept.
            StoreUnavailable: the store is away.
        """
        content = await self._objects.read(path)
        if content is None:
            raise FileCorrupt(f"{self._objects.name}: the object {path} is not there, and a file says that it is")
        digest = await digest_of(content)
        if len(content) != size or digest != sha256:
            raise FileCorrupt(
                f"{self._objects.name}: the object {path} has {len(content)} bytes of sha256 {digest}, and {size} "
                f"bytes of {sha256} were kept. Nothing of it was used"
            )
        return content

    async def follow(self, item: Item) -> Item:
        """The item with the value that its pointer points to; any other item as it is.

        Raises:
            FileCorrupt, StoreUnavailable: as `content`.
        """
        pointer = pointer_of(item.value)
        return item if pointer is None else item._replace(value=await self._text(pointer))

    async def _text(self, pointer: Pointer) -> str:
        with self._keeping:  # another event loop's thread may let it go
            kept = self._texts.get(pointer.sha256)
            if kept is not None:
                self._texts.move_to_end(pointer.sha256)
                return kept
        place = (pointer.path, pointer.sha256, current_token())  # nobody waits for another event loop
        for _ in range(MOST_TURNS):
            under_way = self._reads.get(place)
            if under_way is None:
                break
            await under_way.ended.wait()
            if under_way.text is not None:  # else who asked gave up, or failed
                return under_way.text
        read = self._reads[place] = Read()
        try:
            read.text = await self._read(pointer)
        finally:
            if self._reads.get(place) is read:
                del self._reads[place]
            read.ended.set()
        return read.text

    async def _read(self, pointer: Pointer) -> str:
        text = (await self.content(pointer.path, sha256=pointer.sha256, size=pointer.size)).decode()
        if pointer.size <= self._most // 4:
            with self._keeping:
                if pointer.sha256 not in self._texts:
                    self._size += pointer.size
                self._texts[pointer.sha256] = text
                while self._size > self._most:
                    _, gone = self._texts.popitem(last=False)
                    self._size -= len(gone.encode())
        return text
