"""A backend of one's own: token buckets in a SQLite file that all workers of one host share.

    uvicorn examples.custom_backend:app --workers 2 --lifespan on

It passes the same contract suite as memory and Redis (`tests/test_examples.py`). To give it a URL scheme, export a
function with the signature of `traffic_cop_middleware.contracts.Opener` as an entry point:

    [project.entry-points."traffic_cop_middleware.backends"]
    sqlite-buckets = "my_package:open"
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI

from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.contracts import MICRO, SLACK, Guard, Take, Taken

TABLES = """
create table if not exists buckets (key text primary key, stamp real not null, debt real not null);
create table if not exists guards (key text primary key, generation integer not null);
"""


class SqliteBuckets:
    """`BucketStore` on a SQLite file: one immediate transaction a take, so all or none across processes."""

    shared = True

    def __init__(self, path: Path) -> None:
        self.path = path
        link = self.connect()
        link.executescript("pragma journal_mode=wal;" + TABLES)  # both stay in the file
        link.close()

    def connect(self) -> sqlite3.Connection:
        link = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        link.execute("pragma synchronous=off")
        return link

    async def take(self, requests: Sequence[Take], *, guard: Guard | None = None, now: float | None = None) -> Taken:
        return await anyio.to_thread.run_sync(self._take, requests, guard, now)

    def _take(self, requests: Sequence[Take], guard: Guard | None, now: float | None) -> Taken:
        at = round((time.time() if now is None else now) * MICRO)
        link = self.connect()
        try:
            link.execute("begin immediate")
            guard_held = guard is None or self._holds(link, guard)
            if guard is not None and not guard_held:
                requests = guard.otherwise
            debts = [self._debt(link, take, at) for take in requests]
            waits = [
                max(1, ceil((debt + take.cost - take.burst) * MICRO / take.rate))
                if debt + take.cost > take.burst + SLACK + take.burst * SLACK / 1000
                else 0
                for take, debt in zip(requests, debts, strict=True)
            ]
            admitted = not any(waits)
            if admitted:
                debts = [debt + take.cost for take, debt in zip(requests, debts, strict=True)]
                rows = [(take.key, at, debt) for take, debt in zip(requests, debts, strict=True)]
                link.executemany("insert or replace into buckets values (?, ?, ?)", rows)
            link.execute("commit")
        finally:
            link.close()
        answers = [-wait if wait else ceil(debt * MICRO) for wait, debt in zip(waits, debts, strict=True)]
        return Taken(admitted, answers, guard_held)

    def forget(self, keys: Sequence[str]) -> None:
        link = self.connect()
        try:
            link.executemany("delete from buckets where key = ?", [(key,) for key in keys])
            link.commit()
        finally:
            link.close()

    def _debt(self, link: sqlite3.Connection, take: Take, at: int) -> float:
        row = link.execute("select stamp, debt from buckets where key = ?", (take.key,)).fetchone()
        if row is None:
            return 0.0
        stamp, debt = row
        if at < stamp:  # the clock went back: the debt stays, and drains on from the new time
            link.execute("update buckets set stamp = ? where key = ?", (at, take.key))
            return float(debt)
        return max(0.0, debt - (at - stamp) * take.rate / MICRO)

    def _holds(self, link: sqlite3.Connection, guard: Guard) -> bool:
        find = "select generation from guards where key = ?"
        record = link.execute(find, (guard.record,)).fetchone()
        generation = link.execute(find, (guard.generation_key,)).fetchone()
        return record is not None and (generation[0] if generation else 0) == guard.generation


class SqliteBackend:
    """`Backend` with buckets and nothing else."""

    live_workers: int | None = None
    sessions = session_routes = records = metrics = bus = leases = state = None
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, path: str) -> None:
        self.name = f"sqlite-buckets:///{path}"
        self.buckets = SqliteBuckets(Path(path))

    async def connect(self, *, patience: float = 1.0) -> None:
        self.buckets.connect().close()

    async def close(self) -> None: ...


cop = TrafficCop(SqliteBackend("buckets.db"), limits="10/minute")
app = FastAPI()
cop.install(app)


@app.get("/")
async def index() -> dict[str, str]:
    return {"hello": "world"}
