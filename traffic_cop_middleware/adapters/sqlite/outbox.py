"""The outbox of a backend that has none of its own, in the same file as the documents."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from traffic_cop_middleware.adapters.sqlite.rows import item_of, newest, row_of
from traffic_cop_middleware.adapters.sqlite.statements import APPEND, BURY, CLAIMABLE, COUNT, DEAD, REVIVE, SPAN
from traffic_cop_middleware.adapters.threads import Threads
from traffic_cop_middleware.contracts import Item, Pending, StateKey
from traffic_cop_middleware.contracts.documents import newest_of
from traffic_cop_middleware.contracts.state import MOST_HOT
from traffic_cop_middleware.errors import StoreUnavailable

MOST_WAITING = 100_000
"""Entries that wait at most; then `append` is refused."""
CLOCK_BACK = 60.0
"""A claim that lies further ahead than these seconds was made by a clock that has been set back since."""

CLAIM_CHARACTERS = 16 * 1024 * 1024
"""A claim ends with the item that brings its values to so many characters."""


class SqliteOutbox:
    """`DocumentOutbox` for the processes that share the file. A revived entry's tries begin anew."""

    def __init__(
        self, threads: Threads[sqlite3.Connection], *, app: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._threads = threads
        self._app = app
        self._clock = clock

    async def append(self, items: Sequence[Item]) -> None:
        newest_of(items, most=MOST_HOT)  # checks each
        rows = [row_of(self._app, item) for item in items]

        def work(connection: sqlite3.Connection) -> None:
            first, last = connection.execute(SPAN).fetchone()
            if first is not None and last - first + 1 + len(rows) > MOST_WAITING:  # only then is it worth counting
                count = connection.execute(COUNT, {"app": self._app, "most": MOST_WAITING}).fetchone()[0]
                if count + len(rows) > MOST_WAITING:
                    raise StoreUnavailable(
                        f"{self._threads.name}: the outbox is full, {MOST_WAITING} writes wait: they come faster than "
                        "they are taken from it. Try again later"
                    )
            connection.executemany(APPEND, rows)

        await self._threads.ask(work, writes=True)

    async def claim(self, worker: str, *, most: int, idle: float) -> Sequence[Pending]:
        def work(connection: sqlite3.Connection) -> list[Pending]:
            now = self._clock()
            question = {"app": self._app, "now": now, "idle": idle, "ahead": CLOCK_BACK, "most": max(1, most)}
            claimed = []
            found: dict[StateKey, Item | None] = {}
            size = 0
            for id, claims, *words in connection.execute(CLAIMABLE, question).fetchall():
                key = StateKey(*words)
                if key not in found:
                    if size >= CLAIM_CHARACTERS:
                        break
                    item = found[key] = newest(connection, self._app, key)
                    size += 0 if item is None else len(item.value or "")
                if (item := found[key]) is not None:
                    claimed.append(Pending(str(id), item, claims))
            connection.executemany(
                "UPDATE outbox SET claims = claims + 1, worker = ?, claimed_at = ? WHERE id = ?",
                [(worker, now, int(entry.id)) for entry in claimed],
            )
            return claimed

        return await self._threads.ask(work, writes=True)

    async def settle(self, done: Sequence[Pending]) -> None:
        entries = [(id_of(entry.id), self._app, entry.item.version) for entry in done]
        await self._threads.ask(
            lambda connection: connection.executemany(
                "DELETE FROM outbox WHERE id = ? AND app = ? AND version <= ?", entries
            ),
            writes=True,
        )

    async def bury(self, entry: Pending, reason: str) -> None:
        question = {
            "id": id_of(entry.id),
            "app": self._app,
            "reason": reason.encode("utf-8", "replace").decode(),
            "now": self._clock(),
        }

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(BURY, question)
            connection.execute("DELETE FROM outbox WHERE id = :id AND app = :app", question)

        await self._threads.ask(work, writes=True)

    async def dead(self, *, most: int = 100) -> Sequence[tuple[Pending, str]]:
        def work(connection: sqlite3.Connection) -> list[tuple[Pending, str]]:
            rows = connection.execute(DEAD, {"app": self._app, "most": max(1, most)})
            return [(Pending(str(row[9]), item_of(row), max(0, row[10] - 1)), row[11]) for row in rows]

        return await self._threads.ask(work)

    async def revive(self, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            revived = 0
            for id in ids:
                question = {"id": id_of(id), "app": self._app}
                revived += connection.execute(REVIVE, question).rowcount
                connection.execute("DELETE FROM dead WHERE id = :id AND app = :app", question)
            return revived

        return await self._threads.ask(work, writes=True)

    async def waiting(self) -> int:
        def work(connection: sqlite3.Connection) -> int:
            count: int = connection.execute("SELECT count(*) FROM outbox WHERE app = ?", (self._app,)).fetchone()[0]
            return count

        return await self._threads.ask(work)


def id_of(text: str) -> int:
    """The number of an entry; -1, which none has, for what is no entry of this outbox."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1
