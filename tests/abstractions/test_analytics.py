"""Workers that come, go, come back and can't be read: on one store in memory, under a fake clock."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import poll, started
from tests.asgi import http_scope, send_through
from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.abstractions import analytics
from traffic_cop_middleware.abstractions.analytics import SILENT, AnalyticsAbstraction
from traffic_cop_middleware.abstractions.metrics.live import period_of
from traffic_cop_middleware.abstractions.metrics.recorder import MINUTE, SLOT, Recorder
from traffic_cop_middleware.abstractions.metrics.summary import Summary, encode, summed_up
from traffic_cop_middleware.abstractions.metrics.sums import strict, summed
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.adapters.memory.metrics import MemoryMetrics
from traffic_cop_middleware.contracts import SEALED, Flush, Flushed, MetricsStore, MetricsWindow
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio


class Worker:
    """A worker without an app."""

    def __init__(self, backend: MemoryBackend, store: MetricsStore | None = None) -> None:
        self.recorder = Recorder(clock=backend.clock)
        self.analytics = AnalyticsAbstraction(
            store or backend.metrics, self.recorder, interval=1.0, history=MemoryHistory()
        )

    def serve(self, number: int, *, path: str = "/a", user: str = "") -> None:
        self.recorder.turn()
        self.recorder.series((path, "GET", 200)).pending.extend([(0.01, 0.01, 1, 1)] * number)
        if user:
            for _ in range(number):
                self.recorder.running.usage.add("user", user, 200, 1, 1)

    async def total(self) -> int:
        counted = await self.analytics.totals()
        return sum(series.count for series in counted.figures.requests.values())

    async def windows(self) -> tuple[int, int, int]:
        live = await self.analytics.live()
        periods = (live.last_10_seconds, live.last_minute, live.last_15_minutes)
        ten, one, fifteen = (period.total.requests for period in periods)
        return ten, one, fifteen


@pytest.fixture
def crew(fake_clock: FakeClock, memory_backend: MemoryBackend) -> list[Worker]:
    fake_clock.advance(600_000 - fake_clock() % 60)
    return [Worker(memory_backend) for _ in range(3)]


async def test_workers_add_up_over_slots_and_minutes(crew: list[Worker], fake_clock: FakeClock) -> None:
    served = 0
    for turn in range(40):
        for at, worker in enumerate(crew):
            worker.serve(turn + at)
            served += turn + at
            await worker.analytics.flush()
        assert await crew[turn % 3].total() == served
        fake_clock.advance(7)
    ten, one, fifteen = await crew[0].windows()
    assert fifteen == served
    assert 0 < ten < one < fifteen


async def test_all_of_fifteen_minutes_is_in_the_fifteen_minutes(crew: list[Worker], fake_clock: FakeClock) -> None:
    for _ in range(14 * MINUTE // SLOT):
        for worker in crew:
            worker.serve(1)
            await worker.analytics.flush()
        fake_clock.advance(SLOT)
    for worker in crew:
        await worker.analytics.flush()
    expected = 3 * 14 * MINUTE // SLOT
    assert 14 * MINUTE <= (await crew[0].analytics.live()).last_15_minutes.seconds <= 15 * MINUTE + SLOT
    assert (await crew[0].windows())[2] == expected
    assert (await crew[0].windows())[2] == expected  # from what was kept of it
    assert (await crew[1].windows())[2] == expected  # and sealed
    fake_clock.advance(20 * MINUTE)
    assert await crew[2].windows() == (0, 0, 0)


async def test_what_killed_workers_had_flushed_stays_in_the_fifteen_minutes(
    memory_backend: MemoryBackend, fake_clock: FakeClock
) -> None:
    fake_clock.advance(600_000 - fake_clock() % MINUTE)
    readers = [Worker(memory_backend) for _ in range(2)]
    served = 0
    for turn in range(13 * MINUTE // 7):  # of 7 s: a worker dies at every place of a slot, and of a minute
        killed = Worker(memory_backend)
        for _ in range(2):
            killed.serve(3)
            readers[0].serve(1)
            for worker in (killed, readers[0]):
                await worker.analytics.flush()
            fake_clock.advance(3.5)
        served += 8
        for reader in readers[turn % 2 :]:
            assert (await reader.windows())[2] == served
    fake_clock.advance(MINUTE)
    assert [(await reader.windows())[2] for reader in readers] == [served, served]


class Watched(MemoryMetrics):
    """A store that notes which windows are read."""

    def __init__(self, *, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.read: list[str] = []

    def window(self, name: str) -> MetricsWindow:
        self.read.append(name)
        return super().window(name)


async def test_a_look_reads_what_was_written_since_the_one_before(
    memory_backend: MemoryBackend, fake_clock: FakeClock
) -> None:
    fake_clock.advance(600_000 - fake_clock() % MINUTE)
    store = Watched(clock=fake_clock)
    reader, other = (Worker(memory_backend, store) for _ in range(2))
    slot = int(fake_clock()) // SLOT
    for _ in range(3):
        other.serve(1)
        await other.analytics.flush()
        fake_clock.advance(SLOT)
    assert (await reader.windows())[2] == 3
    assert store.read == [f"10s:{each}" for each in range(slot, slot + 4)]
    store.read.clear()
    assert (await reader.windows())[2] == 3
    assert store.read == [f"10s:{slot + 3}"]  # of this reader's own flush
    other.serve(1)
    await other.analytics.flush()  # and so the slot before is written again, as it was in the end
    store.read.clear()
    assert (await reader.windows())[2] == 4
    assert store.read == [f"10s:{slot + 2}", f"10s:{slot + 3}"]


async def test_windows_are_sealed_also_where_nobody_looks(
    crew: list[Worker], memory_backend: MemoryBackend, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3 * MINUTE // SLOT):
        for worker in crew:
            worker.serve(1)
            await worker.analytics.flush()
        fake_clock.advance(SLOT)
    store, minute = memory_backend.metrics, int(fake_clock()) // MINUTE - 2
    assert set(store.window(f"1m:{minute}").parts) == {worker.recorder.worker for worker in crew}
    for period in ("TURN_PERIOD", "SEAL_PERIOD"):
        monkeypatch.setattr(analytics, period, 0.0)  # it is this worker's turn
    crew[0].analytics = AnalyticsAbstraction(store, crew[0].recorder, interval=0.01, history=MemoryHistory())
    flushing = asyncio.create_task(crew[0].analytics.keep_flushing())
    slot = int(fake_clock()) // SLOT
    names = [f"1m:{minute}", f"tail:{minute}", *(f"10s:{each}" for each in range(slot - 6, slot - 1))]
    await poll(lambda: all(set(store.window(name).parts) == {SEALED} for name in names))
    assert SEALED not in store.window(f"10s:{slot - 1}").parts  # who is a bit late would break the seal
    flushing.cancel()
    await asyncio.wait([flushing])
    assert (await crew[1].windows())[2] == 3 * 3 * MINUTE // SLOT


async def test_a_worker_that_does_not_know_how_many_there_are_seals_nothing(
    crew: list[Worker], memory_backend: MemoryBackend, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worker in crew[:2]:
        worker.serve(1)
        await worker.analytics.flush()
    name = f"10s:{int(fake_clock()) // SLOT}"
    fake_clock.advance(2 * SLOT)
    monkeypatch.setattr(analytics, "SEAL_PERIOD", 0.0)
    monkeypatch.setattr(analytics, "TURN_PERIOD", float("inf"))
    store = memory_backend.metrics
    lone = AnalyticsAbstraction(store, crew[2].recorder, interval=0.01, history=MemoryHistory())
    flushing = asyncio.create_task(lone.keep_flushing())
    flushes = crew[2].recorder.sequence + 5
    await poll(lambda: crew[2].recorder.sequence >= flushes)
    assert SEALED not in store.window(name).parts
    await lone.totals()  # and now it knows
    await poll(lambda: set(store.window(name).parts) == {SEALED})
    flushing.cancel()
    await asyncio.wait([flushing])


async def test_what_comes_between_a_cut_and_its_flush_is_in_the_next_one(fake_clock: FakeClock) -> None:
    fake_clock.advance(600_000 - fake_clock() % MINUTE)
    recorder = Recorder(clock=fake_clock)
    slot = int(fake_clock()) // SLOT

    def serve() -> None:
        recorder.turn()
        recorder.series(("/a", "GET", 200)).pending.append((0.01, 0.01, 1, 1))

    def flushed() -> tuple[int, int, dict[str, int]]:
        """Requests of the sum, of what came after it, and of each window."""
        flush = recorder.flush(("", 0), whole=True).flush
        assert flush.total is not None
        total, now = (summed([(blob, False)], unreadable=strict).requests for blob in (flush.total, flush.now))
        windows = {
            name: period_of(summed_up(filter(None, [blob]), unreadable=strict), SLOT).total.requests
            for name, blob in flush.windows.items()
        }
        return sum(each.count for each in total.values()), sum(each.count for each in now.values()), windows

    serve()
    recorder.cut()
    serve()
    minute = slot * SLOT // MINUTE
    assert flushed() == (0, 1, {f"10s:{slot}": 1, f"tail:{minute}": 1})
    recorder.cut()
    fake_clock.advance(SLOT)
    serve()  # the slot of the cut is over before its flush is made
    assert flushed() == (2, 0, {f"10s:{slot}": 2, f"1m:{minute}": 2, f"tail:{minute}": 0})
    recorder.cut()
    both = {f"10s:{slot}": 2, f"10s:{slot + 1}": 1}
    assert flushed() == (2, 1, {**both, f"1m:{minute}": 2, f"tail:{minute}": 1})
    recorder.turn(early=True)
    serve()
    recorder.cut()
    assert flushed() == (3, 1, {f"10s:{slot}": 2, f"10s:{slot + 1}": 2, f"1m:{minute}": 3, f"tail:{minute}": 1})


async def test_a_worker_that_was_taken_for_dead_comes_back_and_counts_once(
    crew: list[Worker], fake_clock: FakeClock
) -> None:
    away, other = crew[:2]
    away.serve(100)
    await away.analytics.flush()
    away.serve(7)  # and of this nobody knows yet
    fake_clock.advance(SILENT + 60)
    other.serve(20)
    assert await other.total() == 120
    assert await other.total() == 120
    former = away.recorder.worker
    away.serve(3)
    assert await away.total() == 130
    assert away.recorder.worker != former
    away.serve(5)
    fake_clock.advance(SLOT)
    await away.analytics.flush()
    assert await other.total() == 135


async def test_a_worker_that_ended_goes_into_the_record_at_once(crew: list[Worker]) -> None:
    crew[0].serve(9)
    await crew[0].analytics.end()
    assert await crew[1].total() == 9
    crew[0].serve(4)  # the process goes on all the same
    assert await crew[0].total() == 13
    assert await crew[1].total() == 13
    assert (await crew[1].windows())[2] == 13


async def test_what_a_worker_counts_after_its_end_is_there_when_the_slot_is_over(
    crew: list[Worker], fake_clock: FakeClock
) -> None:
    crew[0].serve(9)
    await crew[0].analytics.end()
    for served in (13, 17):
        crew[0].serve(4)
        assert await crew[0].total() == served
    for _ in range(2):
        fake_clock.advance(SLOT)
        assert await crew[0].total() == await crew[1].total() == 17
    assert (await crew[1].windows())[2] == 17


class Line(MemoryMetrics):
    """A store on a line that may lose flushes, or the replies to them."""

    loses = ""

    def flush(self, worker: str, flush: Flush) -> Flushed:
        if self.loses == "flushes":
            raise StoreUnavailable("the flush was lost")
        flushed = super().flush(worker, flush)
        if self.loses == "replies":
            raise StoreUnavailable("the reply was lost")
        return flushed


@pytest.fixture
def line(crew: list[Worker], memory_backend: MemoryBackend, fake_clock: FakeClock) -> Line:
    """The store of a crew, by such a line."""
    line = Line(clock=fake_clock)
    crew[:] = [Worker(memory_backend, line) for _ in crew]
    return line


@pytest.mark.parametrize("known", [0, 5])
async def test_a_last_flush_whose_reply_was_lost_counts_once_when_the_process_goes_on(
    known: int, crew: list[Worker], line: Line, fake_clock: FakeClock
) -> None:
    worker, other = crew[:2]
    if known:
        worker.serve(known)
        await worker.analytics.flush()
    worker.serve(100 - known)
    line.loses = "replies"
    await worker.analytics.end()
    line.loses = ""
    assert await other.total() == 100  # it came, and went into the record
    assert await other.total() == 100
    worker.serve(7)
    line.loses = "replies"
    await worker.analytics.end()
    line.loses = ""
    for _ in range(3):
        worker.serve(1)
        await worker.analytics.flush()
        fake_clock.advance(SLOT)
    assert await worker.total() == await other.total() == 110
    assert (await other.windows())[2] == 110


async def test_a_last_flush_that_never_came_is_made_good_when_the_process_goes_on(
    crew: list[Worker], line: Line, fake_clock: FakeClock
) -> None:
    worker, other = crew[:2]
    worker.serve(5)
    await worker.analytics.flush()
    worker.serve(95)
    line.loses = "flushes"
    await worker.analytics.end()
    line.loses = ""
    assert await other.total() == 5
    worker.serve(7)
    line.loses = "flushes"
    await worker.analytics.end()
    worker.serve(1)
    line.loses = ""
    assert await worker.total() == 108
    assert await other.total() == 108
    fake_clock.advance(SLOT)
    assert await worker.total() == await other.total() == 108
    assert (await other.windows())[2] == 108


@pytest.mark.parametrize("ticks", range(10))
async def test_a_worker_whose_end_is_cancelled_counts_on(ticks: int, crew: list[Worker], fake_clock: FakeClock) -> None:
    worker, other = crew[:2]
    worker.serve(100)
    await worker.analytics.flush()
    ending = asyncio.create_task(worker.analytics.end())
    for _ in range(ticks):
        await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    for served in (101, 102, 103):
        worker.serve(1)
        assert await worker.total() == await other.total() == served
        fake_clock.advance(SLOT)
        assert await worker.total() == await other.total() == served


async def test_a_worker_that_was_taken_for_dead_before_it_ends_counts_once(
    crew: list[Worker], fake_clock: FakeClock
) -> None:
    away, other = crew[:2]
    away.serve(100)
    await away.analytics.flush()
    fake_clock.advance(SILENT + 60)
    away.serve(7)
    assert await other.total() == 100
    await away.analytics.end()
    assert await other.total() == 107
    assert await other.total() == 107


async def test_figures_that_this_version_can_not_read_are_left_out_and_never_retired(
    crew: list[Worker], memory_backend: MemoryBackend, fake_clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    window = b"9" + encode(Summary())[1:]
    name = f"10s:{int(fake_clock()) // SLOT}"
    memory_backend.metrics.flush("newer", Flush(1, 0, b"2 total", b"2 now", {name: window}, final=True))
    crew[0].serve(3)
    with caplog.at_level(logging.WARNING, "traffic_cop"):
        assert await crew[0].total() == 3
        assert (await crew[0].windows())[2] == 3
    assert "figures of the form b'9'" in caplog.text
    assert "newer" in memory_backend.metrics.totals().workers


async def test_usage_of_all_workers_is_told_by_name(crew: list[Worker]) -> None:
    crew[0].serve(2, user="alice")
    crew[1].serve(3, user="alice")
    crew[1].serve(1, user="bob")
    for worker in crew:
        await worker.analytics.flush()
    usage = (await crew[2].analytics.live()).last_15_minutes.usage["user"]
    assert {name: used.requests for name, used in usage.items()} == {"alice": 5, "bob": 1}


async def test_an_app_that_is_started_twice_in_one_process_counts_once() -> None:
    async def ok(request: Request) -> Response:
        return PlainTextResponse("ok")

    cop = TrafficCop("memory://started-twice", metrics=True)
    app: Any = cop.wrap(Starlette(routes=[Route("/a", ok)]))
    other = TrafficCop("memory://started-twice", metrics=True)
    async with started(other.wrap(Starlette())):
        for expected in (2, 4, 6):
            async with started(app):
                for _ in range(2):
                    await send_through(app, http_scope("/a"))
            counted = await other.analytics.totals()
            assert sum(series.count for series in counted.figures.requests.values()) == expected
