"""Leaders on a fake time: one job at a time, stopped before its lease ends, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import anyio
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.leader import Job, Leader
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Lease, LeaseStore
from traffic_cop_middleware.errors import StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing import FakeClock

TTL = 10.0
FOLLOWED = 0.12 * TTL
"""Seconds within which a lease that is free is taken: who waits asks after a tenth, give or take a tenth of that."""


def after(now: float, seconds: float) -> float:
    """The time then, in whole nanoseconds as a `FakeClock` counts them, and not before it."""
    return ceil(now * 1e9 + seconds * 1e9) / 1e9


class Time:
    """A clock that is told to go on, and sleeps that end by it. A process has one of its own, to be frozen by."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._sleeping: list[tuple[float, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        entry = (after(self.clock(), seconds), awake)
        self._sleeping.append(entry)
        try:
            await awake.wait()
        finally:
            self._sleeping.remove(entry)

    @property
    def due(self) -> float:
        return min((due for due, awake in self._sleeping if not awake.is_set()), default=float("inf"))

    def advance_to(self, now: float) -> None:
        self.clock.advance(max(0.0, now - self.clock()))
        for due, awake in self._sleeping:
            if due <= self.clock():
                awake.set()


async def settle() -> None:
    """Whatever can go on now does."""
    for _ in range(30):
        await asyncio.sleep(0)


class Store:
    """A worker's way to the leases: it may be cut (`down`), say nothing (`silent`), or lose the answers (`deaf`).

    What comes of an acquisition is told after `late` seconds.
    """

    shared = True

    def __init__(self, leases: LeaseStore, time: Time) -> None:
        self._leases = leases
        self._time = time
        self.late = 0.0
        self.state = "up"
        self.asked = 0

    def _through(self, ask: Any) -> Any:
        self.asked += 1
        if self.state == "down":
            raise StoreUnavailable("down")
        if self.state == "silent":
            return asyncio.get_running_loop().create_future()
        answer = ask()
        if self.state == "deaf":
            raise StoreTimeout("the answer was lost")
        return answer

    def acquire(self, name: str, holder: str, *, ttl: float) -> Lease | Awaitable[Lease | None] | None:
        answer = self._through(lambda: self._leases.acquire(name, holder, ttl=ttl))
        return self._told_late(answer) if self.late else answer

    async def _told_late(self, answer: Lease | None) -> Lease | None:
        await self._time.sleep(self.late)
        return answer

    def release(self, lease: Lease) -> bool | Awaitable[bool]:
        return self._through(lambda: self._leases.release(lease))


@dataclass
class Worker:
    """A process with a leader. Of its job: since when it runs, how often it began, when it was stopped."""

    store: Store
    time: Time
    lease: Lease | None = None
    tokens: list[int] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    frozen: bool = False

    @property
    def leads(self) -> bool:
        return self.lease is not None

    async def work(self, lease: Lease) -> None:
        self.lease = lease
        self.tokens.append(lease.token)
        try:
            await asyncio.Event().wait()
        finally:
            self.lease = None
            self.stopped.append(self.time.clock())

    def start(self, job: Job | None = None) -> None:
        leader = Leader(self.store, "sweep", job or self.work, ttl=TTL, clock=self.time.clock, sleep=self.time.sleep)
        self.task = asyncio.get_running_loop().create_task(leader.run())

    async def close(self) -> None:
        assert self.task is not None
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await self.task


class Cluster:
    """Some workers, and the store that they share. Its time passes for all of them but those that are frozen."""

    def __init__(self, workers: int = 2) -> None:
        self.clock = FakeClock()
        self.backend = MemoryBackend(clock=self.clock)
        times = [Time() for _ in range(workers)]
        self.workers = [Worker(Store(self.backend.leases, time), time) for time in times]
        self.most_at_once = 0

    async def passes(self, seconds: float) -> None:
        end = after(self.clock(), seconds)
        for _ in range(10_000):
            await settle()
            self.see()
            awake = [worker.time for worker in self.workers if not worker.frozen]
            now = min(end, *(time.due for time in awake)) if awake else end
            self.clock.advance(max(0.0, now - self.clock()))
            for time in awake:
                time.advance_to(self.clock())
            if now == end and all(time.due > end for time in awake):
                await settle()
                self.see()
                return
        raise AssertionError("time does not pass")

    def see(self) -> None:
        """No two jobs run that could be stopped. The frozen one does nothing."""
        leading = [worker for worker in self.workers if worker.leads and not worker.frozen]
        self.most_at_once = max(self.most_at_once, len(leading))

    @property
    def leading(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.leads]

    async def first(self) -> tuple[Worker, Worker]:
        """All workers have started: who leads, and who does not."""
        for worker in self.workers:
            worker.start()
        await self.passes(1)
        (leader,) = self.leading
        return leader, next(worker for worker in self.workers if worker is not leader)


@contextlib.asynccontextmanager
async def cluster(workers: int = 2) -> AsyncIterator[Cluster]:
    opened = Cluster(workers)
    try:
        yield opened
    finally:
        for worker in opened.workers:
            if worker.task is not None and not worker.task.done():
                worker.task.cancel()
                worker.store.state = "up"
                await asyncio.wait([worker.task], timeout=30)
                assert worker.task.done()
        assert opened.most_at_once <= 1


@pytest.mark.asyncio
async def test_one_of_three_leads_for_as_long_as_it_lives_under_one_token() -> None:
    async with cluster(3) as some:
        leader, _ = await some.first()
        await some.passes(50 * TTL)
        assert some.leading == [leader]
        assert sum(len(worker.tokens) for worker in some.workers) == 1
        asked = leader.store.asked
        await some.passes(TTL * 30)
        assert 30 * 3 / 1.1 - 2 <= leader.store.asked - asked <= 30 * 3 / 0.9 + 2


@pytest.mark.asyncio
async def test_a_killed_leader_is_followed_when_its_lease_ends_and_not_before() -> None:
    async with cluster() as some:
        leader, other = await some.first()
        await some.passes(4 * TTL)
        leader.frozen = True  # and it never goes on
        await some.passes(TTL * (1 - 0.37))  # the last renewal was that long ago at most
        assert not other.leads
        await some.passes(TTL * 0.37 + FOLLOWED)
        assert other.leads
        assert other.tokens[-1] > leader.tokens[-1]


@pytest.mark.asyncio
async def test_the_late_write_of_a_frozen_leader_is_refused_by_its_token_and_then_it_is_stopped() -> None:
    documents = sqlite3.connect(":memory:", isolation_level=None)
    documents.execute("create table summary (value text, fence integer)")
    documents.execute("insert into summary values ('', 0)")

    def write(value: str, lease: Lease | None) -> bool:
        assert lease is not None
        change = "update summary set value = ?, fence = ? where fence <= ?"
        return documents.execute(change, (value, lease.token, lease.token)).rowcount == 1

    async with cluster() as some:
        leader, other = await some.first()
        assert write("of the first", leader.lease)
        leader.frozen = True
        await some.passes(2 * TTL)
        assert leader.leads
        assert other.leads
        assert write("of the second", other.lease)
        assert not write("late", leader.lease)
        assert documents.execute("select value from summary").fetchone() == ("of the second",)
        leader.time.advance_to(some.clock())  # it goes on
        await settle()
        assert not leader.leads
        leader.frozen = False
        await some.passes(5 * TTL)
        assert some.leading == [other]
    documents.close()


@pytest.mark.asyncio
async def test_one_that_closes_hands_over_at_once() -> None:
    async with cluster() as some:
        leader, other = await some.first()
        await leader.close()
        await some.passes(FOLLOWED)
        assert other.leads
        assert other.tokens[-1] > leader.tokens[-1]


@pytest.mark.asyncio
async def test_one_that_closes_gives_back_a_lease_whose_answer_was_lost() -> None:
    async with cluster() as some:
        deaf, other = some.workers
        deaf.store.state = "deaf"
        deaf.start()
        await some.passes(0)
        other.start()
        await some.passes(0)
        assert some.leading == []
        deaf.store.state = "up"
        await deaf.close()
        await some.passes(FOLLOWED)
        assert other.leads


@pytest.mark.asyncio
async def test_one_whose_answer_was_lost_has_the_lease_when_it_asks_again() -> None:
    async with cluster() as some:
        deaf, other = some.workers
        deaf.store.state = "deaf"
        deaf.start()
        await some.passes(0)
        other.start()
        deaf.store.state = "up"
        await some.passes(FOLLOWED)
        assert some.leading == [deaf]


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["down", "silent", "deaf"])
async def test_in_an_outage_the_job_is_stopped_before_its_lease_ends_and_led_again_afterwards(state: str) -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        worker.start()
        await some.passes(3 * TTL)
        began = some.clock()
        worker.store.state = state
        await some.passes(0.9 * TTL - 0.37 * TTL - 0.01)
        assert worker.leads  # the last renewal was a third ago at most
        await some.passes(0.37 * TTL + 0.02)
        assert not worker.leads
        (stopped,) = worker.stopped
        assert stopped <= began + 0.9 * TTL + 0.001
        await some.passes(3 * TTL)
        worker.store.state = "up"
        if state != "silent":  # a store that keeps its deadline
            await some.passes(TTL + FOLLOWED + 0.4 * TTL)
            assert worker.leads
            assert worker.tokens == sorted(set(worker.tokens))
            assert len(worker.tokens) == 2


@pytest.mark.asyncio
async def test_a_lease_that_is_told_late_is_used_until_its_end_as_of_the_asking() -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        began = some.clock()
        worker.store.late = 0.6 * TTL
        worker.start()
        await some.passes(0.6 * TTL + 0.01)
        assert worker.leads
        worker.store.state = "down"
        await some.passes(TTL)
        assert worker.stopped == [pytest.approx(began + 0.9 * TTL)]


@pytest.mark.asyncio
async def test_a_lease_that_is_told_too_late_begins_nothing() -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        worker.store.late = 0.95 * TTL
        worker.start()
        await some.passes(5 * TTL)
        assert worker.tokens == []
        worker.store.late = 0
        await some.passes(TTL + FOLLOWED)
        assert worker.leads


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["down", "deaf"])
async def test_an_outage_that_is_shorter_than_the_lease_interrupts_nothing(state: str) -> None:
    async with cluster() as some:
        leader, _ = await some.first()
        for _ in range(10):
            leader.store.state = state
            await some.passes(0.4 * TTL)
            leader.store.state = "up"
            await some.passes(0.5 * TTL)
        assert leader.stopped == []
        assert some.leading == [leader]


@pytest.mark.asyncio
async def test_a_lease_that_another_one_has_got_stops_the_job_at_the_next_renewal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        worker.start()
        await some.passes(TTL)
        some.backend.leases._held.clear()  # a fail-over that lost it
        assert some.backend.leases.acquire("sweep", "another", ttl=5 * TTL) is not None
        await some.passes(0.37 * TTL)
        assert not worker.leads
        assert "was lost, and its job is stopped" in caplog.text
        await some.passes(5 * TTL)
        assert worker.leads


@pytest.mark.asyncio
async def test_who_gets_the_lost_lease_back_runs_the_job_anew_under_the_larger_token() -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        worker.start()
        await some.passes(TTL)
        some.backend.leases._held.clear()
        await some.passes(TTL)
        assert len(worker.stopped) == 1
        assert worker.leads
        assert worker.tokens == sorted(set(worker.tokens))


@pytest.mark.asyncio
async def test_a_store_that_lost_everything_gives_the_job_a_new_run_with_a_larger_token() -> None:
    async with cluster() as some:
        leader, other = await some.first()
        for turn in range(5):
            some.backend.leases._held.clear()
            await some.passes(0.37 * TTL)  # until the one before asks again there may be two
            assert len(some.leading) <= 1
            await some.passes(TTL)
            assert len(some.leading) == 1
            tokens = [*leader.tokens, *other.tokens]
            assert len(set(tokens)) == len(tokens) == turn + 2
        some.most_at_once = 1


@pytest.mark.asyncio
@pytest.mark.parametrize("failing", [False, True])
async def test_a_job_that_ends_gives_the_lease_back_and_does_not_spin(
    failing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(1) as some:
        (worker,) = some.workers
        runs: list[Lease] = []

        async def job(lease: Lease) -> None:
            runs.append(lease)
            if failing:
                raise RuntimeError("of the job")

        worker.start(job)
        await some.passes(0.01)
        lease = some.backend.leases.acquire("sweep", "another", ttl=1)
        assert lease is not None
        assert lease.token > runs[0].token
        assert some.backend.leases.release(lease)
        with caplog.at_level(logging.CRITICAL):
            await some.passes(10 * TTL)
        assert 20 <= len(runs) <= 40
        assert ("the job of 'sweep' failed" in caplog.text) == failing


@pytest.mark.asyncio
async def test_the_lease_is_given_back_only_when_the_job_has_cleaned_up() -> None:
    async with cluster() as some:
        first, other = some.workers
        cleaned = asyncio.Event()

        async def slow_to_stop(lease: Lease) -> None:
            try:
                await first.work(lease)
            finally:
                with anyio.CancelScope(shield=True):
                    await cleaned.wait()

        first.start(slow_to_stop)
        await some.passes(0)
        other.start()
        assert first.task is not None
        first.task.cancel()
        await some.passes(0.3 * TTL)
        assert not other.leads
        cleaned.set()
        await some.passes(FOLLOWED)
        assert other.leads


@pytest.mark.asyncio
async def test_a_job_that_fails_when_it_is_stopped_hinders_no_close(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster() as some:
        first, other = some.workers

        async def failing(lease: Lease) -> None:
            try:
                await first.work(lease)
            finally:
                raise RuntimeError("of the cleaning up")

        first.start(failing)
        await some.passes(0)
        other.start()
        with caplog.at_level(logging.CRITICAL, "traffic_cop"):
            await first.close()
        await some.passes(FOLLOWED)
        assert other.leads


@pytest.mark.asyncio
async def test_closing_while_the_store_is_away_ends_the_job_all_the_same() -> None:
    async with cluster() as some:
        leader, other = await some.first()
        leader.store.state = "down"
        await leader.close()
        assert len(leader.stopped) == 1
        await some.passes(TTL + FOLLOWED)
        assert other.leads


@pytest.mark.parametrize(("name", "ttl"), [("", 10), ("a{b", 10), ("sweep", 0), ("sweep", 1e6)])
def test_a_name_and_a_time_that_no_store_takes_are_refused_at_once(name: str, ttl: float) -> None:
    async def job(lease: Lease) -> None:
        raise AssertionError("never")

    with pytest.raises(ValueError, match="lease"):
        Leader(MemoryBackend().leases, name, job, ttl=ttl)


def test_it_leads_on_trio_and_gives_the_lease_back_when_it_is_cancelled() -> None:
    leases = MemoryBackend().leases

    async def scenario() -> None:
        async def job(lease: Lease) -> None:
            assert leases.acquire("sweep", "another", ttl=TTL) is None
            serving.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as serving:
            await Leader(leases, "sweep", job, ttl=TTL).run()
        assert leases.acquire("sweep", "another", ttl=TTL) is not None

    trio.run(scenario)


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["down", "deaf", "up", "freeze", "thaw", "close"]), st.integers(0, 2)),
        st.tuples(st.just("pass"), st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.5])),
        st.tuples(st.just("lose"), st.just(0)),
    ),
    min_size=5,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(trace=steps)
def test_whatever_happens_no_two_jobs_run_and_each_run_has_a_larger_token(trace: list[tuple[str, Any]]) -> None:
    """Over outages, lost answers, freezes and closes. A store that loses a lease gives it twice: tokens alone help."""

    async def scenario() -> None:
        some = Cluster(3)
        begun: list[int] = []
        lost = False

        def worked(worker: Worker) -> Job:
            async def job(lease: Lease) -> None:
                begun.append(lease.token)
                await worker.work(lease)

            return job

        for worker in some.workers:
            worker.start(worked(worker))
        for step, value in trace:
            match step:
                case "pass":
                    await some.passes(value * TTL)
                case "lose":
                    some.backend.leases._held.clear()
                    lost = True
                case "close":
                    worker = some.workers[value]
                    if not worker.frozen and worker.task is not None and not worker.task.done():
                        await worker.close()
                        worker.start(worked(worker))
                case "freeze":
                    some.workers[value].frozen = True
                case "thaw":
                    some.workers[value].time.advance_to(some.clock())
                    await settle()  # what is over its time is stopped before anything else is looked at
                    some.workers[value].frozen = False
                case _:
                    some.workers[value].store.state = step
            await settle()
            some.see()
            assert lost or some.most_at_once <= 1
        for worker in some.workers:
            worker.store.state = "up"
            worker.time.advance_to(some.clock())
            await settle()
            worker.frozen = False
        await some.passes(3 * TTL)
        assert len(some.leading) == 1
        assert begun == sorted(set(begun))
        for worker in some.workers:
            await worker.close()

    asyncio.run(scenario())
