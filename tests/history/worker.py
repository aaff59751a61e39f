"""Leaders that make the history, and kill or stop themselves before or after one of their external calls.

    python -m tests.history.worker < JOBS

As `tests/files/saga_worker.py`, whose recorder stands in front of every store here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from tests.files.saga_worker import Log, Recorder, serve
from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.metrics import recorder as metrics_recorder
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.adapters.sqlite.history import SqliteHistory
from traffic_cop_middleware.adapters.sqlite.history import open as open_sqlite
from traffic_cop_middleware.composition.history_keeping import LEASE

DEADLINE = 20.0
TTL = 0.1
"""Seconds of a lease: a dead leader is soon followed."""


@contextlib.asynccontextmanager
async def opened(redis: str, documents: str, namespace: str) -> AsyncIterator[tuple[RedisBackend, SqliteHistory]]:
    backend = open_redis(redis, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
    history = open_sqlite(documents, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
    async with contextlib.AsyncExitStack() as stack:
        for each in (backend, history):
            await each.connect(patience=DEADLINE)
            stack.push_async_callback(each.close)
        yield backend, history


async def lead(job: Mapping[str, Any]) -> None:
    """Get the lease, and make one pass."""
    async with opened(*job["stores"], job["namespace"]) as (backend, history):
        log = Log(Path(job["log"]), job["number"], job["when"], job["end"])
        metrics: Any = Recorder(backend.metrics, "metrics", log)
        recorded: Any = Recorder(history, "history", log)
        recorder = metrics_recorder.Recorder(clock=lambda: float(job["now"]))
        keeper = AnalyticsAbstraction(metrics, recorder, interval=1.0, history=recorded).keeper
        ends = time.monotonic() + DEADLINE
        while (lease := await backend.leases.acquire(LEASE, os.urandom(8).hex(), ttl=TTL)) is None:
            if time.monotonic() > ends:
                raise TimeoutError("the lease was never given")
            await asyncio.sleep(TTL / 10)
        written = await keeper.take(token=lease.token)
        if job["gives"] not in (None, written):
            raise AssertionError(f"the pass gave {written}")


if __name__ == "__main__":
    serve(lead)
