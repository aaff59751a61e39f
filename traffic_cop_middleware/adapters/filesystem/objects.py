"""`file:///absolute/folder`: objects as files.

Theory of operation. An object is written to a file of another name, synchronised, and linked to its own name, which
fails where something is; then the folder is synchronised. What is known of it is the first line of the same file. So it
is there whole or not at all, and what a process that died left behind is a file in `.uploads` that `sweep` removes.
Objects never change, so the file under a name is the same until a deletion; deletions hold a lock, and thereby what one
has looked at is what it removes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from traffic_cop_middleware.adapters.filesystem.folder import READING, UPLOADS, Folder, sync, understood
from traffic_cop_middleware.adapters.filesystem.form import MOST_HEAD, Damaged, Head, file_name, head_of, read_head
from traffic_cop_middleware.adapters.filesystem.walk import paths
from traffic_cop_middleware.adapters.threads import Call, OnThreads, Threads, one_by_one
from traffic_cop_middleware.contracts import Event, ObjectPage, StoredObject
from traffic_cop_middleware.contracts.objects import MOST_OBJECT, check_about, check_content, check_path
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable

log = logging.getLogger("traffic_cop.files")

TRIES = 5
"""Times that a folder may be swept away under an object that is put into it."""
READ_FIRST = 4096
"""Bytes of a file that are read first: mostly they have all that is known of the object."""


class FileObjects(OnThreads[Folder]):
    """`ObjectStore` in a folder of this host, shared by its processes.

    A generation is a random number below 2**53. `clock` gives the seconds since the epoch.
    """

    def __init__(
        self,
        root: str,
        *,
        namespace: str,
        deadline: float,
        notify: Callable[[Event], None],
        threads: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"file://{root}"
        self._clock = clock
        set_up = SetUp()
        super().__init__(
            Threads(
                lambda: FolderWorker(Folder(root, namespace), set_up),
                name=self.name,
                count=threads,
                deadline=deadline,
                notify=notify,
            )
        )

    async def create(
        self, path: str, content: bytes, *, sha256: str, about: Mapping[str, str] | None = None
    ) -> StoredObject | None:
        check_path(path)
        check_content(path, content)
        check_about(path, about or {})
        generation = secrets.randbelow(2**53 - 1) + 1
        stored = StoredObject(path, generation, len(content), self._clock(), sha256, dict(about or {}))
        kept = await self._threads.ask(lambda folder: put(folder, stored, content), writes=True)
        return stored if kept else None

    async def read(self, path: str, *, most: int = MOST_OBJECT) -> bytes | None:
        check_path(path)
        return await self._threads.ask(lambda folder: content_of(folder, path, most))

    async def stat(self, path: str) -> StoredObject | None:
        check_path(path)
        return await self._threads.ask(lambda folder: known_of(folder, path))

    async def delete(self, path: str, *, generation: int) -> bool:
        check_path(path)
        return await self._threads.ask(lambda folder: remove(folder, path, generation), writes=True)

    async def list(self, prefix: str = "", *, after: str | None = None, most: int = 500) -> ObjectPage:
        return await self._threads.ask(lambda folder: page_of(folder, prefix, after, max(1, most)))

    async def sweep(self, *, older_than: float) -> int:
        """As `ObjectStore.sweep`. Folders without objects that are as old go too, and are not counted."""
        before = time.time() - older_than  # the time of the file system, and so that of this host
        return await self._threads.ask(lambda folder: swept(folder, before), writes=True)


class SetUp:
    """Whether the folders are there, as all threads know it."""

    done = False


class FolderWorker:
    """A worker of `Threads`."""

    def __init__(self, folder: Folder, set_up: SetUp) -> None:
        self._folder = folder
        self._set_up = set_up

    def run(self, calls: Sequence[Call[Folder, Any]]) -> None:
        one_by_one(calls, self._asked)

    def _asked(self, call: Call[Folder, Any]) -> Any:
        self._folder.call = call
        try:
            if not self._set_up.done:
                self._folder.prepare()
                self._set_up.done = True
            return call.work(self._folder)
        except OSError as exc:
            raise understood(exc, root=self._folder.root) from exc

    def close(self) -> None:
        self._folder.close()


# What is done in a thread


def put(folder: Folder, stored: StoredObject, content: bytes) -> bool:
    """Keep an object where nothing is. What is found there is made durable, for it may have been linked just now."""
    *parts, last = stored.path.split("/")
    name = file_name(last)
    with folder.durable(parts) as there, contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=there, follow_symlinks=False)
        sync(there)
        return False
    with folder.uploaded(head_of(stored, content), content) as (uploads, upload):
        for _ in range(TRIES):
            folder.check_time()
            # The folder may be swept away before it has a file, or the upload by somebody whose clock is ahead.
            with folder.durable(parts) as there, contextlib.suppress(FileNotFoundError):
                try:
                    os.link(upload, name, src_dir_fd=uploads, dst_dir_fd=there, follow_symlinks=False)
                    kept = True
                except FileExistsError:
                    kept = False
                sync(there)
                return kept
    raise StoreUnavailable(f"{folder.root}: {stored.path} was swept away while it was written")


@contextlib.contextmanager
def opened(folder: Folder, path: str) -> Iterator[tuple[int, Head] | None]:
    """An object's file, open, and what it says; `None` where there is none.

    Raises:
        Damaged: it is not whole, or another object's.
    """
    *parts, last = path.split("/")
    with folder.opened(parts) as there:
        fd = None
        if there is not None:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(file_name(last), READING, dir_fd=there)
    if fd is None:
        yield None
        return
    try:
        yield fd, _head(fd, path)
    except Damaged as exc:
        raise StoreError(
            f"{folder.root}: the file of {path} can't be used: {exc}. Bring back a backup, or remove it"
        ) from exc
    finally:
        os.close(fd)


def _head(fd: int, path: str) -> Head:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("it is no regular file")
    beginning = os.pread(fd, READ_FIRST, 0)
    if b"\n" not in beginning:
        beginning = os.pread(fd, MOST_HEAD, 0)
    head = read_head(beginning)
    if head.object.path != path:
        raise Damaged(
            f"it holds {head.object.path}: it was moved, or this file system does not tell 'A' from 'a', which objects "
            "need"
        )
    if head.start + head.object.size != status.st_size:
        raise Damaged(f"it has {status.st_size} bytes in place of {head.start + head.object.size}")
    return head


def known_of(folder: Folder, path: str) -> StoredObject | None:
    with opened(folder, path) as found:
        return None if found is None else found[1].object


def content_of(folder: Folder, path: str, most: int) -> bytes | None:
    with opened(folder, path) as found:
        if found is None:
            return None
        fd, (stored, start, crc32) = found
        if stored.size > most:
            raise StoreError(f"{folder.root}: {path} has {stored.size} bytes, and {most} were to be read at most")
        os.lseek(fd, start, os.SEEK_SET)
        pieces, left = [], stored.size
        while left and (piece := os.read(fd, left)):
            pieces.append(piece)
            left -= len(piece)
        content = b"".join(pieces)
        if left or zlib.crc32(content) != crc32:
            raise Damaged("its content is not what was written (CRC-32)")
        return content


def remove(folder: Folder, path: str, generation: int) -> bool:
    *parts, last = path.split("/")
    with folder.locked(), folder.opened(parts) as there:
        with opened(folder, path) as found:
            if there is None or found is None or found[1].object.generation != generation:
                return False
        folder.check_time()
        os.unlink(file_name(last), dir_fd=there)
        sync(there)
    return True


def page_of(folder: Folder, prefix: str, after: str | None, most: int) -> ObjectPage:
    found: list[StoredObject] = []
    last = None
    for number, path in enumerate(paths(folder, prefix, after)):
        if number == most:
            return ObjectPage(found, last)
        last = path
        try:
            stored = known_of(folder, path)
        except StoreUnavailable:
            raise
        except StoreError as exc:
            log.warning("left out of a list: %s", exc)
            continue
        if stored is not None:
            found.append(stored)
    return ObjectPage(found, None)


def swept(folder: Folder, before: float) -> int:
    """Remove uploads and empty folders that were last changed before then. How many uploads went."""
    gone = 0
    with folder.opened() as base:
        if base is None:
            return 0
        uploads = os.open(UPLOADS, READING | os.O_DIRECTORY, dir_fd=base)
        try:
            for name in os.listdir(uploads):
                with contextlib.suppress(FileNotFoundError):  # it ended meanwhile, or another one sweeps too
                    if os.stat(name, dir_fd=uploads, follow_symlinks=False).st_mtime < before:
                        os.unlink(name, dir_fd=uploads)
                        gone += 1
        finally:
            os.close(uploads)
        _prune(folder, base, before)
    return gone


def _prune(folder: Folder, base: int, before: float) -> None:
    """Remove empty folders while there is time: it goes on the next time."""
    for _, names, _, fd in os.fwalk(topdown=False, dir_fd=base):
        for name in names:
            with contextlib.suppress(OSError):  # it has something in it, or is gone
                if name != UPLOADS and os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime < before:
                    os.rmdir(name, dir_fd=fd)
        with contextlib.suppress(StoreTimeout):
            folder.check_time()
            continue
        return
