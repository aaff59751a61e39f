"""`sqlite:///relative.db`, `sqlite:////absolute/path.db`: the history of the traffic, in the file of the documents."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from traffic_cop_middleware.adapters.sqlite.file import raw_of
from traffic_cop_middleware.adapters.sqlite.store import SqliteStore
from traffic_cop_middleware.adapters.sqlite.urls import place_of
from traffic_cop_middleware.contracts import Due, Event, HistoryBucket, HistoryRow, Past, Span
from traffic_cop_middleware.contracts.history import around, check_rows
from traffic_cop_middleware.contracts.leases import passes

SCHEMA = files("traffic_cop_middleware.adapters.sqlite").joinpath("history.sql").read_text()
PRUNED_AT_ONCE = 50
"""Buckets that one transaction of `prune` removes of a resolution: whoever stores documents waits for it."""
SHARE = 0.5
"""What the history may take of a file whose size is bounded: the rest is for the documents."""

WRITES = "SELECT fence, count FROM traffic_writes WHERE app = ?"
WROTE = "INSERT OR REPLACE INTO traffic_writes (app, fence, count) VALUES (?, ?, ?)"
IS_DUE = "SELECT 1 FROM traffic_due WHERE app = ? AND resolution = ? AND start = ? AND stamp = ?"
DONE = "DELETE FROM traffic_due WHERE app = ? AND resolution = ? AND start = ?"
NOW_DUE = "INSERT OR REPLACE INTO traffic_due (app, resolution, start, stamp) VALUES (?, ?, ?, ?)"
DUE = "SELECT resolution, start, stamp FROM traffic_due WHERE app = ? ORDER BY resolution, start"
EMPTY = """
DELETE FROM traffic WHERE (app, resolution, kind, start, source, name, method) IN (
    SELECT app, resolution, kind, start, source, name, method FROM traffic INDEXED BY traffic_buckets
    WHERE app = ? AND resolution = ? AND start = ? AND source = ?)
"""
INSERT = """
INSERT INTO traffic (app, resolution, start, source, kind, name, method, value)
VALUES (?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?)
"""
READ = """
SELECT start, kind, name, method, value FROM traffic
WHERE app = :app AND resolution = :resolution AND start >= :start AND start < :end
"""
READ_KIND = READ + "AND kind = CAST(:kind AS TEXT) "
NAMED = "AND name = CAST(:name AS TEXT) "
ORDER = "ORDER BY start, kind, name, method, source"
OLD = """
SELECT DISTINCT start, source FROM traffic INDEXED BY traffic_buckets
WHERE app = :app AND resolution = :resolution AND start < :before AND NOT EXISTS (
    SELECT 1 FROM traffic_due AS due
    WHERE due.app = :app AND due.resolution = :coarser AND due.start = traffic.start / :coarser * :coarser)
LIMIT :most
"""


class SqliteHistory(SqliteStore):
    """`HistoryStore` in a SQLite file, as durable as `SqliteDocuments`. In a file of half of `max_mb` or more it writes
    only where there is room left by what was removed."""

    durable = True
    schema = SCHEMA
    share = SHARE

    async def write(
        self, bucket: HistoryBucket, rows: Sequence[HistoryRow], *, token: int | None = None, stamp: int | None = None
    ) -> bool:
        check_rows(bucket, rows)
        place = (self._app, bucket.resolution, bucket.start)
        bucket_is = (self._app, bucket.resolution, bucket.start, bucket.source)
        binds = [(*bucket_is, raw_of(row.kind), raw_of(row.name), raw_of(row.method), row.value) for row in rows]

        def work(connection: sqlite3.Connection) -> bool:
            execute = connection.execute
            fence, count = self._writes(connection)
            if token is not None and not passes(token, highest=fence):
                return False
            if stamp is not None:
                if execute(IS_DUE, (*place, stamp)).fetchone() is None:
                    return False
                execute(DONE, place)
            execute(EMPTY, bucket_is)
            connection.executemany(INSERT, binds)
            coarser = around(bucket.resolution, bucket.start)
            if coarser is not None:
                execute(NOW_DUE, (self._app, *coarser, count + 1))
            execute(WROTE, (self._app, fence if token is None else token, count + 1))
            return True

        return await self._threads.ask(work, writes=True)

    def _writes(self, connection: sqlite3.Connection) -> tuple[int | None, int]:
        """The highest token that has written, and how often anybody has."""
        fence, count = connection.execute(WRITES, (self._app,)).fetchone() or (None, 0)
        return fence, count

    async def read(self, spans: Sequence[Span], *, kind: str | None = None, name: str | None = None) -> Sequence[Past]:
        statement = (READ if kind is None else READ_KIND) + (NAMED if name is not None else "") + ORDER
        words = {"app": self._app, "kind": raw_of(kind), "name": raw_of(name)}

        def work(connection: sqlite3.Connection) -> list[Past]:
            found = [
                Past(start, HistoryRow(*row))
                for span in spans
                for start, *row in connection.execute(statement, words | span._asdict())
            ]
            return sorted(found, key=lambda past: past.start)

        return await self._threads.ask(work)

    async def due(self) -> Sequence[Due]:
        return await self._threads.ask(lambda connection: [Due(*row) for row in connection.execute(DUE, (self._app,))])

    async def prune(self, before: Mapping[int, int], *, token: int | None = None) -> int:
        def work(connection: sqlite3.Connection) -> int:
            fence, count = self._writes(connection)
            if token is not None:
                if not passes(token, highest=fence):
                    return 0
                connection.execute(WROTE, (self._app, token, count + 1))
            gone = [
                (self._app, resolution, start, source)
                for resolution, end in before.items()
                for start, source in connection.execute(OLD, self._old(resolution, end))
            ]
            connection.executemany(EMPTY, gone)
            return len(gone)

        return await self._threads.ask(work, writes=True)

    def _old(self, resolution: int, before: int) -> dict[str, str | int]:
        coarser, _ = around(resolution, 0) or (resolution, 0)
        words: dict[str, str | int] = {"app": self._app, "resolution": resolution, "before": before}
        words |= {"coarser": coarser, "most": PRUNED_AT_ONCE}
        return words


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> SqliteHistory:
    """As `sqlite.documents.open`: the same URL is the same file."""
    path, options = place_of(url, setting="documents")
    return SqliteHistory(
        path,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        max_mb=options["max_mb"],
    )
