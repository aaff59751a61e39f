"""`sqlite:///relative.db`, `sqlite:////absolute/path.db`: metadata of files, also in the file of the documents."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from traffic_cop_middleware.adapters.sqlite import files_statements as statements
from traffic_cop_middleware.adapters.sqlite.file import raw_of
from traffic_cop_middleware.adapters.sqlite.files_rows import (
    edge_binds,
    file_binds,
    line_binds,
    line_of,
    relatives,
    row_binds,
    row_of,
)
from traffic_cop_middleware.adapters.sqlite.rows import where
from traffic_cop_middleware.adapters.sqlite.store import SqliteStore
from traffic_cop_middleware.adapters.sqlite.urls import place_of
from traffic_cop_middleware.contracts import (
    Access,
    Edge,
    Event,
    FileKind,
    FileRow,
    FileStatus,
    Promotion,
    Relative,
    StateKey,
    Usage,
)
from traffic_cop_middleware.contracts.file_checks import (
    check_access,
    check_counts,
    check_finish,
    check_one_of,
    check_promotion,
    check_row,
    check_tenant,
    check_times,
    check_word,
    plain,
)
from traffic_cop_middleware.contracts.files import FILE_STATUSES, MOST_RELATIVES
from traffic_cop_middleware.contracts.state import WHOLE, check_key
from traffic_cop_middleware.errors import StoreError

SCHEMA = files("traffic_cop_middleware.adapters.sqlite").joinpath("files.sql").read_text()


class SqliteFiles(SqliteStore):
    """`FileMetadataStore` in a SQLite file, as durable as `SqliteDocuments`."""

    setting = "file_metadata"
    schema = SCHEMA

    @property
    def migration(self) -> str:
        return ""

    @property
    def name(self) -> str:
        return f"sqlite:///{self._threads.name}"

    # Rows

    async def announce(self, row: FileRow) -> FileRow:
        check_row(row)
        binds = row_binds(self._app, row._replace(status="pending", done_at=None, reason=""))

        def work(connection: sqlite3.Connection) -> FileRow:
            connection.execute(statements.ANNOUNCE, binds)
            return row_of(connection.execute(statements.LOAD, binds).fetchone())

        return await self._threads.ask(work, writes=True)

    async def finish(self, row: FileRow, promotion: Promotion | None, edges: Sequence[Edge]) -> FileRow:
        check_finish(row, promotion, edges)
        done_at = self._clock() if row.done_at is None else row.done_at
        binds = row_binds(self._app, row._replace(status="done", done_at=done_at, reason=""))
        ends = {end for edge in edges for end in (edge.child, edge.parent)}

        def work(connection: sqlite3.Connection) -> FileRow:
            connection.execute(statements.FINISH, binds)
            for end in ends:
                if connection.execute(statements.LOAD, file_binds(self._app, row.key.tenant, end)).fetchone() is None:
                    raise StoreError(f"{self.name}: an edge names the file {end!r}, and its tenant has none of that id")
            if promotion is not None:
                connection.execute(statements.NOTE, line_binds(self._app, promotion))
            for edge in edges:
                connection.execute(statements.JOIN, edge_binds(self._app, row.key.tenant, edge))
            return row_of(connection.execute(statements.LOAD, binds).fetchone())

        return await self._threads.ask(work, writes=True)

    async def set_status(
        self, tenant: str, id: str, status: FileStatus, *, reason: str, unless: FileStatus, at: float
    ) -> bool:
        check_tenant(tenant)
        check_times(at=at)
        check_word("id", id)
        check_one_of("status", status, FILE_STATUSES)
        check_one_of("status", unless, FILE_STATUSES)
        binds = file_binds(self._app, tenant, id)
        binds |= {"status": status, "reason": plain(reason), "unless": unless, "at": at}
        changed = await self._threads.ask(
            lambda connection: connection.execute(statements.SET_STATUS, binds).rowcount, writes=True
        )
        return changed > 0

    async def load(self, tenant: str, ids: Sequence[str]) -> Sequence[FileRow | None]:
        check_tenant(tenant)
        for id in ids:
            check_word("id", id)

        def work(connection: sqlite3.Connection) -> list[FileRow | None]:
            found = [connection.execute(statements.LOAD, file_binds(self._app, tenant, id)).fetchone() for id in ids]
            return [None if row is None else row_of(row) for row in found]

        return await self._threads.ask(work)

    async def of_item(
        self, key: StateKey, *, kind: FileKind | None = None, before: int | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        check_key(key)
        binds = where(self._app, key) | {"kind": kind, "before": WHOLE if before is None else before}
        return await self._rows(statements.OF_ITEM, binds, most)

    async def list(
        self, tenant: str, *, kind: FileKind | None = None, after: str | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        check_tenant(tenant)
        binds = {"app": self._app, "tenant": raw_of(tenant), "kind": kind, "after": raw_of(after or "")}
        return await self._rows(statements.LIST, binds, most)

    async def pending(self, *, before: float, after: str | None = None, most: int = 100) -> Sequence[FileRow]:
        check_times(before=before)
        binds = {"app": self._app, "before": before, "after": raw_of(after or "")}
        return await self._rows(statements.PENDING, binds, most)

    async def _rows(self, statement: str, binds: dict[str, Any], most: int) -> Sequence[FileRow]:
        question = binds | {"most": max(1, most)}
        return await self._threads.ask(
            lambda connection: [row_of(row) for row in connection.execute(statement, question)]
        )

    async def referred(self, paths: Sequence[str], *, gone_since: float) -> set[str]:
        check_times(gone_since=gone_since)

        def work(connection: sqlite3.Connection) -> set[str]:
            return {
                path
                for path in paths
                if connection.execute(statements.REFERRED, (self._app, raw_of(path), gone_since)).fetchone() is not None
            }

        return await self._threads.ask(work)

    # History

    async def note(self, promotion: Promotion) -> None:
        check_promotion(promotion)
        binds = line_binds(self._app, promotion)
        await self._threads.ask(lambda connection: connection.execute(statements.NOTE, binds), writes=True)

    async def history(self, key: StateKey, *, most: int = 100) -> Sequence[Promotion]:
        check_key(key)
        question = where(self._app, key) | {"most": max(1, most)}

        def work(connection: sqlite3.Connection) -> list[Promotion]:
            return [line_of(key, row) for row in connection.execute(statements.HISTORY, question)]

        return await self._threads.ask(work)

    # Lineage

    async def ancestors(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        return await self._relatives(statements.PARENTS, tenant, id, most)

    async def descendants(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        return await self._relatives(statements.CHILDREN, tenant, id, most)

    async def _relatives(self, neighbours: str, tenant: str, id: str, most: int) -> Sequence[Relative]:
        check_tenant(tenant)
        check_word("id", id)
        most = max(1, min(most, MOST_RELATIVES))
        return await self._threads.ask(
            lambda connection: relatives(connection, neighbours, file_binds(self._app, tenant, id), most)
        )

    # Use

    async def saw(self, accesses: Sequence[Access]) -> None:
        for access in accesses:
            check_access(access)
        rows = [
            where(self._app, access.key)
            | {"hour": access.hour, "worker": raw_of(access.worker), "last_at": access.last_at}
            | {"reads": access.reads, "writes": access.writes}
            for access in accesses
        ]
        if rows:
            await self._threads.ask(lambda connection: connection.executemany(statements.SAW, rows), writes=True)

    async def usage(self, key: StateKey, *, since_hour: int) -> Usage:
        check_key(key)
        question = where(self._app, key) | {"since_hour": since_hour}
        return await self._threads.ask(
            lambda connection: Usage(*connection.execute(statements.USAGE, question).fetchone())
        )

    async def forget_usage(self, *, before_hour: int) -> int:
        check_counts(before_hour=before_hour)
        return await self._threads.ask(
            lambda connection: connection.execute(statements.FORGET_USAGE, (self._app, before_hour)).rowcount,
            writes=True,
        )


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> SqliteFiles:
    """`sqlite:///relative.db` (to the working directory of the start) or `sqlite:////absolute/path.db`; it may be the
    file that the documents are in.

    `?deadline=2` is the seconds of a call, `?max_mb=1000` bounds the file.
    """
    path, options = place_of(url, setting="file_metadata")
    return SqliteFiles(
        path,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        max_mb=options["max_mb"],
    )
