"""The folder that objects lie in, as a thread has it: every step goes from an open folder to what lies in it.

Layout: `root/namespace/` holds the objects, a folder for each part of their paths but the last; `.uploads` beside them
what is being written, and `.lock` whom a deletion waits for. Invariants: no step follows a symbolic link below `root`;
folders get 0700 and files 0600; a folder that an object is put into has been synchronised into all those above it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from traffic_cop_middleware.adapters.filesystem.form import folder_name
from traffic_cop_middleware.adapters.threads import Call
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

UPLOADS, LOCK = ".uploads", ".lock"
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
AT_ONCE = 1024 * 1024
"""Bytes that are written between two looks at the deadline."""
HELD_OPEN = 32
"""Folders that a thread holds open, since it knows of them that they are durable."""
NAP = 0.005


class Folder:
    """What a call is given: the folder of a namespace, and the steps that are made in it."""

    def __init__(self, root: str, namespace: str) -> None:
        self.root = root
        self._namespace = namespace.split("/")
        self._held: dict[str, int] = {}
        self.call: Call[Folder, Any] | None = None

    def check_time(self) -> None:
        """End what nobody waits for any more, before it has done something.

        Raises:
            StoreTimeout: the call's deadline has passed, or it was given up.
        """
        if self.call is not None and not self.call.wanted:
            raise StoreTimeout("the disk took too long: nothing was done within the deadline")

    # Folders

    @contextlib.contextmanager
    def opened(self, parts: Sequence[str] = ()) -> Iterator[int | None]:
        """The folder of these parts of a path, open; `None` where there is none."""
        fd = self._descended(parts, make=False)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    @contextlib.contextmanager
    def durable(self, parts: Sequence[str]) -> Iterator[int]:
        """The folder of these parts, open, made where it was missing, and synchronised into all those above it.

        Of those that are known to be so one is held open too, since only that keeps the system from giving its number
        to another one.
        """
        key = "/".join(parts)
        fd, held = self._descended(parts, make=False), self._held.pop(key, None)
        if fd is None or held is None or not os.path.samestat(os.fstat(fd), os.fstat(held)):
            for old in (fd, held):
                if old is not None:
                    os.close(old)
            fd = self._descended(parts, make=True)
            if fd is None:  # made, and removed before it was opened
                raise StoreUnavailable(f"{self.root}: somebody removes the folders in it right now")
            held = os.dup(fd)
        self._held[key] = held
        if len(self._held) > HELD_OPEN:
            os.close(self._held.pop(next(iter(self._held))))
        try:
            yield fd
        finally:
            os.close(fd)

    def _descended(self, parts: Sequence[str], *, make: bool) -> int | None:
        fd: int | None = self._base()
        for part in parts:
            if fd is not None:
                fd = self._below(fd, folder_name(part), make=make)
        return fd

    def _base(self) -> int:
        """The folder of the namespace, open. It was there at the start, so a disk that is gone is no empty store."""
        fd: int | None = None
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in self._namespace:
            if fd is not None:
                fd = self._below(fd, part, make=False)
        if fd is None:
            raise StoreUnavailable(
                f"{self.root}/{'/'.join(self._namespace)} is gone. Is its disk mounted? If the folder was removed on "
                "purpose, start anew"
            )
        return fd

    def _below(self, above: int, name: str, *, make: bool) -> int | None:
        """A folder in the open one, which is closed; where it may be made, what it is in is synchronised."""
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=above)
                sync(above)
            return os.open(name, FOLDER, dir_fd=above)
        except FileNotFoundError:
            return None
        finally:
            os.close(above)

    # Files

    @contextlib.contextmanager
    def uploaded(self, *pieces: bytes) -> Iterator[tuple[int, str]]:
        """A file of these pieces, on the disk: the folder that it is in, open, and its name there. It goes afterwards,
        and what was linked to it stays."""
        uploads = self._below(self._base(), UPLOADS, make=False)
        if uploads is None:
            raise StoreUnavailable(f"{self.root}/{'/'.join(self._namespace)}/{UPLOADS} is gone: start anew")
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            fd = os.open(name, WRITING, 0o600, dir_fd=uploads)
            try:
                try:
                    for piece in pieces:
                        self._write(fd, piece)
                    sync(fd)
                finally:
                    os.close(fd)
                yield uploads, name
            finally:
                with contextlib.suppress(OSError):  # what stays is no object, and is swept
                    os.unlink(name, dir_fd=uploads)
        finally:
            os.close(uploads)

    def _write(self, fd: int, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            self.check_time()
            rest = rest[os.write(fd, rest[:AT_ONCE]) :]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The right to remove objects: one at a time, over all processes. It ends with the process that has it."""
        base = self._base()
        try:
            fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=base)
        finally:
            os.close(base)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self.check_time()
                    time.sleep(NAP)
            yield
        finally:
            os.close(fd)

    # The start

    def prepare(self) -> None:
        """Make the folders that are missing, and see whether files can be written and linked here.

        Raises:
            ConfigurationError: they can't.
        """
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.root, 0o700)
                above = os.open(os.path.dirname(self.root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    sync(above)
                finally:
                    os.close(above)
            fd: int | None = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in (*self._namespace, UPLOADS):
                if fd is not None:
                    fd = self._below(fd, part, make=True)
            if fd is not None:
                os.close(fd)
            with self.uploaded() as (uploads, name):
                os.link(name, f"{name}-linked", src_dir_fd=uploads, dst_dir_fd=uploads, follow_symlinks=False)
                os.unlink(f"{name}-linked", dir_fd=uploads)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):  # what is there can be read
                return
            mend = MENDS.get(exc.errno or 0)
            if mend is None:
                raise
            raise ConfigurationError(f"files: {self.root} can't be used ({exc.strerror}): {mend}") from exc

    def close(self) -> None:
        while self._held:
            os.close(self._held.popitem()[1])


MENDS = {
    errno.ENOENT: "there is no folder around it. Make it, or write another path",
    errno.ENOTDIR: "it, or something on the way to it, is no folder. Write another path",
    errno.ELOOP: "a symbolic link is in the way. Write the path that it leads to",
    errno.EACCES: "this user can't write to it. Change its owner or permissions, or write another path",
    errno.EROFS: "it is mounted read-only. Mount it for writing, or write another path",
    errno.EPERM: "this file system has no hard links (or this user may not make them). Put it on one that has",
    errno.EOPNOTSUPP: "this file system has no hard links. Put it on one that has",
    errno.ENAMETOOLONG: "its name is too long. Write another path",
}


def sync(fd: int) -> None:
    """Wait until a file or folder is on the disk."""
    whole: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync alone does not reach the disk
    if whole is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, whole)


def understood(exc: OSError, *, root: str) -> StoreError:
    """What a caller hears of an error of the system."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"{root}: {exc.strerror}. Nothing was written. Make room on the disk")
    if exc.errno in (errno.ELOOP, errno.ENOTDIR):
        return StoreError(
            f"{root}: a symbolic link, or something else that is none of ours, is in the way of an object. Remove it"
        )
    if exc.errno in (errno.EXDEV, errno.ENAMETOOLONG):
        return StoreError(f"{root}: {exc.strerror}. All folders below it have to lie on one file system of long names")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreUnavailable(f"{root}: {exc.strerror}. See the permissions of its folders and files, and its mount")
    return StoreUnavailable(f"{root}: {exc.strerror}. See the disk, the system's log, and the limit of open files")
