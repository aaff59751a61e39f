"""Documents that are away, full or slow, and workers that were forked: what the history makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.history.crew import DAY, MIDNIGHT, SharedMetrics, Worker, requests_in
from traffic_cop_middleware.abstractions.history import keeping
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.adapters.memory.metrics import MemoryMetrics
from traffic_cop_middleware.adapters.sqlite.documents import open as open_documents
from traffic_cop_middleware.adapters.sqlite.history import open as open_sqlite
from traffic_cop_middleware.contracts import HistoryBucket, HistoryRow, Item, Span, StateKey
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio

WHOLE = Span(60, MIDNIGHT - DAY, MIDNIGHT + 2 * DAY)


class Troubled(MemoryHistory):
    """A history whose writes fail while there is an `error`, or those of the buckets that are `broken`."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.broken: Sequence[int] = ()
        self.asked = 0

    async def write(self, bucket: HistoryBucket, rows: Sequence[HistoryRow], **how: Any) -> bool:
        self.asked += 1
        if self.error is not None:
            raise self.error
        if bucket.start in self.broken:
            raise StoreError("this one can't be written")
        return await super().write(bucket, rows, **how)


async def an_hour_away(history: Troubled, worker: Worker, clock: FakeClock) -> int:
    """Serve for 61 minutes without the documents; gives how many requests."""
    history.error, served = StoreUnavailable("away"), 0
    clock.advance(16)
    for minute in range(61):
        worker.serve([0.01] * (minute + 1))
        served += minute + 1
        clock.advance(60)
        await worker.analytics.flush()
        with pytest.raises(StoreUnavailable):
            await worker.analytics.keeper.take(token=1)
    history.error = None
    return served


async def test_nothing_is_missing_after_the_documents_were_away_for_an_hour() -> None:
    clock, history = FakeClock(MIDNIGHT), Troubled()
    worker = Worker(SharedMetrics(clock=clock), history, clock)
    served = await an_hour_away(history, worker, clock)
    clock.advance(20)
    assert await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE) == served
    clock.advance(DAY)
    assert await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE._replace(resolution=DAY)) == served


async def test_what_waits_for_the_documents_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, history = FakeClock(MIDNIGHT), Troubled()
    worker = Worker(SharedMetrics(clock=clock), history, clock)
    monkeypatch.setattr(keeping, "MOST_WAITING", 40 * 450)
    await an_hour_away(history, worker, clock)
    clock.advance(20)
    assert await worker.analytics.keeper.take(token=1)
    found = sorted({past.start for past in await history.read([WHOLE])})
    assert 20 < len(found) < 60
    assert found[-1] == MIDNIGHT + 60 * 60  # the oldest are left out


async def test_a_new_term_does_not_write_what_waited_in_an_earlier_one() -> None:
    clock, history = FakeClock(MIDNIGHT), Troubled()
    metrics = SharedMetrics(clock=clock)
    old, new = (Worker(metrics, history, clock) for _ in range(2))
    await an_hour_away(history, old, clock)
    clock.advance(20)
    assert await new.analytics.keeper.take(token=2)
    before = await requests_in(history, WHOLE)
    assert before > 0
    assert not await old.analytics.keeper.take(token=1)
    history.asked = 0
    assert await old.analytics.keeper.take(token=3)
    assert history.asked <= 2 * keeping.LOOKED_AT + 10  # marks too; of 61 minutes, of which others may know more
    assert await requests_in(history, WHOLE) == before


async def test_a_minute_that_cannot_be_written_holds_up_no_other() -> None:
    clock, history = FakeClock(MIDNIGHT), Troubled()
    worker = Worker(SharedMetrics(clock=clock), history, clock)
    for _ in range(3):
        worker.serve()
        clock.advance(60)
    await worker.analytics.flush()
    clock.advance(20)
    history.broken = [MIDNIGHT]
    for _ in range(2):
        with pytest.raises(StoreError, match="this one"):
            await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE) == 2
    history.broken = []
    assert await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE) == 3


async def test_processes_that_begin_in_the_same_microsecond_are_sources_of_their_own() -> None:
    clock, history = FakeClock(MIDNIGHT), MemoryHistory()
    crew = [Worker(MemoryMetrics(clock=clock), history, clock) for _ in range(5)]
    for worker in crew:
        worker.serve()
        await worker.analytics.flush()
    clock.advance(80)
    for worker in crew:
        await worker.analytics.flush()
        assert await worker.analytics.keeper.take(token=None)
    assert await requests_in(history, WHOLE) == 5


async def test_a_history_leaves_room_for_the_documents(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db?max_mb=2"
    history = open_sqlite(url, namespace="tc", deadline=10.0, notify=lambda event: None)
    documents = open_documents(url, namespace="tc", deadline=10.0, notify=lambda event: None)
    await documents.connect(patience=10.0)
    await history.connect(patience=10.0)
    try:
        rows = [HistoryRow("requests", "/a", "GET", bytes(20_000))]
        writes = (history.write(HistoryBucket(60, MIDNIGHT + minute * 60), rows) for minute in range(1_000))
        with pytest.raises(StoreUnavailable, match="full"):
            [await write for write in writes]
        key = StateKey("t", "n", "k")
        assert list(await documents.store([Item(key, 1, '"' + "x" * 100_000 + '"', "immediate", 0.0)])) == [1]
        assert await history.prune({60: MIDNIGHT + DAY}) == 0  # all of it is still to be rolled up
        for due in await history.due():
            if due.resolution == 300:
                assert await history.write(HistoryBucket(300, due.start), [], stamp=due.stamp)
        assert await history.prune({60: MIDNIGHT + DAY}) > 10
        assert await history.write(HistoryBucket(60, MIDNIGHT), rows)
    finally:
        await history.close()
        await documents.close()


async def test_what_is_too_old_makes_room_before_the_next_minute_is_written() -> None:
    clock, history = FakeClock(MIDNIGHT), Troubled()
    worker = Worker(SharedMetrics(clock=clock), history, clock)
    worker.serve()
    clock.advance(60)
    await worker.analytics.flush()
    clock.advance(600)
    await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE._replace(end=MIDNIGHT + 60)) == 1
    history.error = StoreUnavailable("full")
    clock.advance(3 * DAY)
    worker.serve()
    clock.advance(60)
    await worker.analytics.flush()
    clock.advance(16)
    with pytest.raises(StoreUnavailable):
        await worker.analytics.keeper.take(token=1)
    assert await requests_in(history, WHOLE._replace(end=MIDNIGHT + 60)) == 0


async def test_names_without_end_take_no_room_without_end() -> None:
    clock, history = FakeClock(MIDNIGHT), MemoryHistory()
    worker = Worker(SharedMetrics(clock=clock), history, clock)
    for _ in range(2):
        worker.serve(user="u" * 10_000)
        worker.serve(user="ada")
    clock.advance(60)
    await worker.analytics.flush()
    clock.advance(20)
    assert await worker.analytics.keeper.take(token=1)
    users = (await worker.analytics.traffic("1h", by="user")).groups
    assert {name: each.requests for name, each in users.items()} == {"u" * 200: 2, "ada": 2}
