"""One SQLite file and the thread that asks it.

Theory of operation. A thread with a connection of its own takes all calls that wait. Those that read go first, one by
one; those that write go into one transaction, so that they share one write to the disk (group commit). Where that
fails, all of it is undone, and each has a transaction of its own and hears its own result. Invariants: a call that
writes is answered after its commit, and a part of it is never there; a connection that has met an error of the disk is
not used again.

Several processes may have the file open. Who finds it locked waits until its deadline.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sqlite3
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from traffic_cop_middleware.adapters.threads import Call
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

log = logging.getLogger("traffic_cop.documents")

SCHEMA = files("traffic_cop_middleware.adapters.sqlite").joinpath("schema.sql").read_text()
SCHEMA_VERSION = 1
OURS = 0x54436F70
"""`application_id`, "TCop": so that no other program's file is taken for one of ours."""
STEPS = 10_000
"""Instructions of SQLite's machine between two looks at the deadline: about a millisecond."""
MOST_LOG = 64 * 1024 * 1024
"""Bytes of write-ahead log that are left lying about."""
AT_ONCE = 256
"""Calls that share a transaction at most."""


class File:
    """A worker of `Threads`: a connection to the file at `path`, opened when first needed, and again after a loss.

    `max_mb` bounds the file (megabytes). `setting` is what names it, for messages. `schema` has the statements, each of
    which may be run again, that make the tables that a file has beside those of the documents.
    """

    def __init__(self, path: str, *, max_mb: float | None, setting: str = "documents", schema: str = "") -> None:
        self._path = path
        self._max_mb = max_mb
        self._what = f"{setting}: {path}"
        self._schema = schema
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._ends = 0.0

    def run(self, calls: Sequence[Call[sqlite3.Connection, Any]]) -> None:
        writing = [call for call in calls if call.writes]
        for call in calls:
            if not call.writes:
                self._attempt([call])
        if writing and not (len(writing) > 1 and self._attempt(writing)):
            for call in writing:
                self._attempt([call])

    def _attempt(self, calls: Sequence[Call[sqlite3.Connection, Any]]) -> bool:
        """Do these in one transaction. Where it fails a call that is alone hears why; of several nobody does, yet."""
        try:
            answers = self._transaction(calls)
        except (sqlite3.Error, StoreError, ConfigurationError, OverflowError) as exc:
            error = self._understood(exc)
            if len(calls) == 1:
                calls[0].fail(error)
            return False
        for call, answer in zip(calls, answers, strict=True):
            call.answer(answer)
        return True

    def _transaction(self, calls: Sequence[Call[sqlite3.Connection, Any]]) -> list[Any]:
        self._ends = max(call.ends for call in calls)
        connection = self._opened()
        connection.execute(f"PRAGMA busy_timeout = {self._milliseconds()}")
        connection.execute("BEGIN IMMEDIATE" if calls[0].writes else "BEGIN")
        try:
            answers = [None if call.given_up else call.work(connection) for call in calls]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return answers

    def _milliseconds(self) -> int:
        return max(0, int((self._ends - time.monotonic()) * 1000))

    def _over(self) -> bool:
        return time.monotonic() > self._ends

    # The connection

    def _opened(self) -> sqlite3.Connection:
        """The connection; a new one where there is none, or where the file is no longer the one that was opened."""
        if self._connection is not None and self._identity() != self._inode:
            log.warning("%s was removed or replaced while it was open: what is there now goes on", self._path)
            self.close()
        while self._connection is None:
            self._check_folder()
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            try:
                self._prepare(connection)
            except BaseException as exc:
                connection.close()
                if getattr(exc, "sqlite_errorname", "").startswith("SQLITE_BUSY") and not self._over():
                    time.sleep(random.uniform(0.002, 0.02))  # noqa: S311 - another process makes the file right now
                    continue
                raise
            self._connection, self._inode = connection, self._identity()
        return self._connection

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _check_folder(self) -> None:
        folder = os.path.dirname(self._path)
        if not os.path.isdir(folder):
            raise ConfigurationError(
                f"{self._what} can't be made: there is no folder {folder}. Make it, or write another path "
                "(sqlite:///relative.db, sqlite:////absolute/path.db)"
            )
        if os.path.isdir(self._path):
            raise ConfigurationError(f"{self._what} is a folder. Name a file in it")
        if not os.access(folder, os.W_OK) or (os.path.exists(self._path) and not os.access(self._path, os.W_OK)):
            raise ConfigurationError(
                f"{self._what} or its folder can't be written to by this user, and SQLite needs both. "
                "Change the owner or the permissions, or write another path"
            )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(self._over, STEPS)
        connection.text_factory = text_of
        execute = connection.execute
        execute(f"PRAGMA busy_timeout = {self._milliseconds()}")
        execute("BEGIN")
        version = self._version(connection)
        execute("COMMIT")
        if version == 0:
            mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise ConfigurationError(
                    f"{self._what} can't have a write-ahead log (it stays {mode!r}), as on network file "
                    "systems. Put it on a disk of this host"
                )
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = ON")  # macOS: its fsync alone does not reach the disk
        execute(f"PRAGMA journal_size_limit = {MOST_LOG}")
        if self._max_mb is not None:
            page = execute("PRAGMA page_size").fetchone()[0]
            execute(f"PRAGMA max_page_count = {int(self._max_mb * 1024 * 1024 / page)}")
        execute("BEGIN IMMEDIATE")  # also says whether the file can be written to
        try:
            if self._version(connection) == 0:
                for statement in SCHEMA.split(";\n"):
                    execute(statement)
                execute(f"PRAGMA application_id = {OURS}")
                execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            for statement in self._schema.split(";\n") if self._schema else ():
                execute(statement)
            execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the file's schema; 0 where the file is empty."""
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if owner not in (0, OURS) or (owner == 0 and (tables or version)):
            raise ConfigurationError(
                f"{self._what} is the SQLite file of another program. Give Traffic Cop a file of its own"
            )
        if version > SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self._what} was written by a newer Traffic Cop (its schema is {version}, this one knows "
                f"{SCHEMA_VERSION}). Run that release, or give another file"
            )
        return version

    def _understood(self, exc: Exception) -> Exception:
        """What a caller hears of an error. An error of the disk or of the file ends the connection."""
        if isinstance(exc, OverflowError):
            return StoreError(f"{self._path}: {exc}")
        if not isinstance(exc, sqlite3.Error):
            return exc
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        error, says, ends = MEANINGS.get(code, (StoreError, "", False))
        if ends:
            self.close()
        heard = error(f"{exc}{says}" if error is StoreTimeout else f"{self._path}: {exc}{says}")
        heard.__cause__ = exc
        return heard

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # an error of the disk: what was acknowledged is in the log
                connection.close()


def text_of(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def raw_of(text: str | None) -> bytes | None:
    """A text as it is bound: as bytes, that the statement casts to TEXT, since SQLite's text has no lone surrogates."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


BUSY = ": another process has been writing to it, or the question took longer than the deadline"
CORRUPT = ". The file is damaged: bring back a backup, or save what there is with `sqlite3 FILE .recover`"
MEANINGS: dict[int, tuple[type[Exception], str, bool]] = {
    sqlite3.SQLITE_BUSY: (StoreTimeout, BUSY, False),
    sqlite3.SQLITE_LOCKED: (StoreTimeout, BUSY, False),
    sqlite3.SQLITE_INTERRUPT: (StoreTimeout, BUSY, False),
    sqlite3.SQLITE_FULL: (
        *(StoreUnavailable, ". Nothing was written. Make room on the disk, or raise ?max_mb= of the URL", False),
    ),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, ": the disk. See the system's log, and whether it is full", True),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, ". See its folder, its permissions and the limit of open files", True),
    sqlite3.SQLITE_READONLY: (StoreUnavailable, ". See the permissions of the file, its folder and its mount", True),
    sqlite3.SQLITE_PERM: (StoreUnavailable, ". See the permissions of the file and its folder", True),
    sqlite3.SQLITE_CORRUPT: (ConfigurationError, CORRUPT, True),
    sqlite3.SQLITE_NOTADB: (ConfigurationError, ". It is no SQLite file: name another one, or remove it", True),
}
