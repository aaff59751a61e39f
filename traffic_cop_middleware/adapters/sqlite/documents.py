"""`sqlite:///relative.db`, `sqlite:////absolute/path.db`: documents, their history, and an outbox, in one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cached_property

from traffic_cop_middleware.adapters.spans import span
from traffic_cop_middleware.adapters.sqlite.outbox import SqliteOutbox
from traffic_cop_middleware.adapters.sqlite.rows import item_of, newest, row_of, where
from traffic_cop_middleware.adapters.sqlite.statements import (
    ENDED,
    FORGET_HISTORY,
    HISTORY,
    LIST,
    REMEMBER,
    RESHAPE,
    STORE,
    TRIM,
    VERSION,
)
from traffic_cop_middleware.adapters.sqlite.store import SqliteStore
from traffic_cop_middleware.adapters.sqlite.urls import place_of
from traffic_cop_middleware.contracts import Event, Item, Page, Revision, StateKey
from traffic_cop_middleware.contracts.documents import KEPT_VERSIONS, as_of, newest_of, shapes_of
from traffic_cop_middleware.contracts.state import WHOLE, check_key

CLEANED_AT_ONCE = 500
"""Items that one transaction of `clean_up` removes."""

PAGE_CHARACTERS = 16 * 1024 * 1024
"""A page of a list ends with the item that brings its values to so many characters: what waits may be large."""


class SqliteDocuments(SqliteStore):
    """`DocumentStore` in a SQLite file, with an outbox.

    Durable: what a method has answered is on the disk (a write-ahead log and `synchronous=FULL`) and outlives `kill -9`
    and the loss of power, where the disk does what it says. `clock` gives the seconds since the epoch.
    """

    durable = True

    @cached_property
    def outbox(self) -> SqliteOutbox:
        """The same file, for a backend that has none of its own."""
        return SqliteOutbox(self._threads, app=self._app, clock=self._clock)

    async def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None]:
        for key in keys:
            check_key(key)
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[Item | None]:
            found = [newest(connection, self._app, key) for key in keys]
            return [None if item is None else as_of(item, now) for item in found]

        return await self._threads.ask(work)

    async def store(self, items: Sequence[Item]) -> Sequence[int]:
        newer = newest_of(items)

        def work(connection: sqlite3.Connection) -> list[int]:
            versions = {item.key: self._store(connection, item) for item in newer.values()}
            return [versions[item.key] for item in items]

        return await self._threads.ask(work, writes=True)

    def _store(self, connection: sqlite3.Connection, item: Item) -> int:
        place = where(self._app, item.key)
        present = connection.execute(VERSION, place).fetchone()
        if present is not None:
            version: int = present[0]
            comes_back = version == item.version and present[1] and item.value is not None
            if version >= item.version and not comes_back:
                return version
        row = row_of(self._app, item) | {"stored_at": self._clock()}
        connection.execute(STORE, row)
        connection.execute(REMEMBER, row)
        connection.execute(TRIM, place | {"kept": KEPT_VERSIONS})
        return item.version

    async def reshape(self, items: Sequence[Item]) -> Sequence[bool]:
        shapes = shapes_of(items)
        now = self._clock()

        def work(connection: sqlite3.Connection) -> list[bool]:
            there = {place for place, shape in shapes.items() if self._reshape(connection, shape, now)}
            return [item.value is not None and (item.key, item.version) in there for item in items]

        return await self._threads.ask(work, writes=True)

    def _reshape(self, connection: sqlite3.Connection, item: Item, now: float) -> bool:
        there = newest(connection, self._app, item.key)
        if there is None or there.version != item.version or as_of(there, now).value is None:
            return False
        row = row_of(self._app, item)
        for statement in RESHAPE:
            connection.execute(statement, row)
        return True

    async def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page:
        check_key(StateKey(tenant, namespace, "-"))
        first, last = span(prefix, after)
        question = where(self._app, StateKey(tenant, namespace, "-")) | {
            "first": first,
            "last": last,
            "now": self._clock(),
            "most": max(1, most) + 1,
        }

        def work(connection: sqlite3.Connection) -> Page:
            items: list[Item] = []
            size = 0
            for item in map(item_of, connection.execute(LIST, question)):
                if len(items) >= max(1, most) or size >= PAGE_CHARACTERS:
                    return Page(items, items[-1].key.key)
                items.append(item)
                size += len(item.value or "")
            return Page(items, None)

        return await self._threads.ask(work)

    async def history(self, key: StateKey, *, before: int | None = None, most: int = 20) -> Sequence[Revision]:
        check_key(key)
        question = where(self._app, key) | {"before": WHOLE if before is None else before, "most": max(1, most)}

        def work(connection: sqlite3.Connection) -> list[Revision]:
            return [Revision(item_of(row), row[9]) for row in connection.execute(HISTORY, question)]

        return await self._threads.ask(work)

    async def clean_up(self, *, now: float, tombstones_before: float) -> int:
        question = {
            "app": self._app,
            "now": now,
            "tombstones_before": tombstones_before,
            "most": CLEANED_AT_ONCE,
        }

        def work(connection: sqlite3.Connection) -> int:
            ended = connection.execute(ENDED, question).fetchall()
            connection.executemany(FORGET_HISTORY, ended)
            connection.executemany("DELETE FROM documents WHERE rowid = ?", ended)
            return len(ended)

        gone = 0
        while True:
            some = await self._threads.ask(work, writes=True)
            gone += some
            if some < CLEANED_AT_ONCE:
                return gone


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> SqliteDocuments:
    """`sqlite:///relative.db` (to the working directory of the start) or `sqlite:////absolute/path.db`.

    `?deadline=2` is the seconds of a call, `?max_mb=1000` bounds the file.
    """
    path, options = place_of(url, setting="documents")
    return SqliteDocuments(
        path,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        max_mb=options["max_mb"],
    )
