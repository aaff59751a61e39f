"""Minutes taken out of the live windows, and rolled up: under a fake clock, whatever becomes of the workers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history.crew import DAY, MIDNIGHT, SharedMetrics, Worker, requests_in
from traffic_cop_middleware.abstractions.history import keeping
from traffic_cop_middleware.abstractions.history.ranges import Range
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.adapters.memory.metrics import MemoryMetrics
from traffic_cop_middleware.contracts import Span
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio

WHOLE = (MIDNIGHT - DAY, MIDNIGHT + 2 * DAY)


def shared(start: float) -> tuple[FakeClock, SharedMetrics, MemoryHistory]:
    clock = FakeClock(start)
    return clock, SharedMetrics(clock=clock), MemoryHistory()


async def at_each(history: MemoryHistory, *resolutions: int) -> list[int]:
    """The requests in all buckets of these resolutions."""
    return [await requests_in(history, Span(resolution, *WHOLE)) for resolution in resolutions]


async def test_minutes_are_rolled_up_to_days() -> None:
    clock, metrics, history = shared(MIDNIGHT - 7 * 60)
    crew = [Worker(metrics, history, clock) for _ in range(3)]
    served = 0
    for turn in range(20 * 60 // 7):
        for at, worker in enumerate(crew):
            worker.serve([0.01] * (turn % 5 + at), path=f"/{at}")
            served += turn % 5 + at
            await worker.analytics.flush()
        assert await crew[turn % 3].analytics.keeper.take(token=turn % 3 + 1 if turn > 100 else None) or turn > 100
        clock.advance(7)
    for seconds in (80, DAY):
        clock.advance(seconds)
        assert await crew[2].analytics.keeper.take(token=9)
    assert await at_each(history, 60, 300, 3_600, DAY) == [served] * 4
    assert list(await history.due()) == []
    days = await history.read([Span(DAY, *WHOLE)], kind="requests")
    assert {(past.start, past.row.name) for past in days} == {
        (day, f"/{at}") for day in (MIDNIGHT - DAY, MIDNIGHT) for at in range(3)
    }


async def test_who_was_late_is_counted_in_all_that_was_rolled_up() -> None:
    clock, metrics, history = shared(MIDNIGHT - 60)
    crew = [Worker(metrics, history, clock) for _ in range(2)]
    for worker in crew:
        worker.serve([0.01] * 3)
    await crew[0].analytics.flush()
    clock.advance(15 * 60)
    assert await crew[0].analytics.keeper.take(token=1)
    assert await at_each(history, 60, 300, 3_600, DAY) == [3] * 4
    await crew[1].analytics.flush()
    assert await crew[0].analytics.keeper.take(token=1)
    assert await at_each(history, 60, 300, 3_600, DAY) == [6] * 4


async def test_a_pass_that_is_repeated_changes_nothing_and_a_quiet_one_writes_nothing() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    crew = [Worker(metrics, history, clock) for _ in range(3)]
    crew[0].serve([0.01] * 5, user="ada")
    await crew[0].analytics.flush()
    clock.advance(400)
    for token, worker in enumerate(crew):
        assert await worker.analytics.keeper.take(token=token)
    before = sorted(await history.read([Span(60, *WHOLE), Span(300, *WHOLE)]))
    due = await history.due()
    assert await crew[2].analytics.keeper.take(token=3)
    assert sorted(await history.read([Span(60, *WHOLE), Span(300, *WHOLE)])) == before
    assert await history.due() == due


async def test_a_leader_that_was_followed_writes_nothing_any_more() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    old, new = (Worker(metrics, history, clock) for _ in range(2))
    old.serve([0.01] * 5)
    await old.analytics.flush()
    clock.advance(80)
    assert await new.analytics.keeper.take(token=2)
    assert not await old.analytics.keeper.take(token=1)
    await old.analytics.keeper.keep(1)  # and so its term ends
    assert await at_each(history, 60) == [5]


async def test_a_minute_that_a_dead_leader_took_in_part_is_taken_whole() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    worker = Worker(metrics, history, clock)
    worker.serve([0.01] * 5)
    clock.advance(10)
    await worker.analytics.flush()
    assert await worker.analytics.keeper.take(token=1, ending=True)
    assert await at_each(history, 60) == [5]
    worker.serve([0.01] * 2)
    clock.advance(70)
    await worker.analytics.flush()
    assert await Worker(metrics, history, clock).analytics.keeper.take(token=2)
    assert await at_each(history, 60) == [7]


async def test_windows_that_are_half_gone_are_left_alone() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    worker = Worker(metrics, history, clock)
    worker.serve([0.01] * 5)
    clock.advance(61)
    await worker.analytics.flush()
    clock.advance(20)
    assert await worker.analytics.keeper.take(token=1)
    minute = MIDNIGHT // 60
    metrics._windows[f"1m:{minute}"].clear()
    metrics._stamps[f"1m:{minute}"] = 99
    clock.advance((keeping.LOOKED_AT + 1) * 60)
    assert await worker.analytics.keeper.take(token=1)
    assert await at_each(history, 60) == [5]


async def test_a_store_that_lost_everything_is_another_source() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    worker = Worker(metrics, history, clock)
    worker.serve([0.01] * 5)
    clock.advance(61)
    await worker.analytics.flush()
    clock.advance(15)
    assert await worker.analytics.keeper.take(token=1)
    emptied = SharedMetrics(clock=clock)
    late = Worker(emptied, history, clock)
    late.recorder.running.usage.add("user", "ada", 200, 1, 1)
    late.serve([0.01] * 2)
    await late.analytics.flush()
    clock.advance(75)
    assert await late.analytics.keeper.take(token=2)
    assert await at_each(history, 60) == [7]


async def test_each_process_on_a_memory_of_its_own_adds_to_the_history() -> None:
    clock, history = FakeClock(MIDNIGHT), MemoryHistory()
    served = 0
    for turn in range(12):  # one after another within minutes, as after restarts
        worker = Worker(MemoryMetrics(clock=clock), history, clock)
        worker.serve([0.01] * (turn + 1))
        served += turn + 1
        clock.advance(25)
        await worker.analytics.end()
        assert await worker.analytics.keeper.take(token=None, ending=True)
    clock.advance(DAY)
    assert (await Worker(MemoryMetrics(clock=clock), history, clock).analytics.traffic("2d")).total.requests == served
    assert await at_each(history, 60, 300, 3_600) == [served] * 3


async def test_what_is_too_old_goes_once_it_is_rolled_up() -> None:
    clock, metrics, history = shared(MIDNIGHT)
    worker = Worker(metrics, history, clock)
    for _ in range(3):
        worker.serve([0.01] * 5)
        await worker.analytics.flush()
        clock.advance(80)
        assert await worker.analytics.keeper.take(token=1)
    for days, kept in ((1, [15] * 4), (3, [0, 15, 15, 15]), (36, [0, 0, 15, 15]), (500, [0, 0, 0, 15])):
        clock.advance(MIDNIGHT + days * DAY + 60 - clock())
        assert await worker.analytics.keeper.take(token=1)
        assert await at_each(history, 60, 300, 3_600, DAY) == kept
        bounds = Range(MIDNIGHT, MIDNIGHT + 600)
        assert (await worker.analytics.traffic(bounds)).total.requests == 15


async def test_a_minute_is_taken_15_seconds_after_its_end_and_soon_again_where_a_store_was_away() -> None:
    clock, metrics, history = shared(MIDNIGHT + 5)
    worker = Worker(metrics, history, clock)
    worker.serve([0.01] * 3)
    rests: list[float] = []
    seen: list[list[int]] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        seen.append(await at_each(history, 60))
        clock.advance(seconds)
        await worker.analytics.flush()
        if len(rests) == 2:
            history.write = refused  # type: ignore[method-assign]
        elif len(rests) == 3:
            del history.write
        elif len(rests) == 5:
            raise Enough

    async def refused(*args: Any, **kwargs: Any) -> bool:
        raise StoreUnavailable("away")

    worker.analytics.keeper._sleep = sleep
    with pytest.raises(Enough):
        await worker.analytics.keeper.keep(1)
    assert rests == [10.0, 60.0, keeping.AGAIN, 55.0, 60.0]
    assert seen == [[0], [0], [0], [3], [3]]


class Enough(Exception):
    """The test has seen what it wants."""


@given(st.lists(st.tuples(st.sampled_from(["serve", "flush", "take", "die"]), st.integers(0, 2), st.integers(1, 200))))
async def test_nothing_is_missing_and_nothing_twice_whoever_leads(steps: list[tuple[str, int, int]]) -> None:
    clock, metrics, history = shared(MIDNIGHT - 400)
    crew = [Worker(metrics, history, clock) for _ in range(3)]
    served = token = 0
    for step, at, number in steps:
        worker = crew[at]
        if step == "serve":
            worker.serve([0.01] * number)
            served += number
        elif step == "flush":
            await worker.analytics.flush()
        elif step == "take":
            token += number % 2
            await worker.analytics.keeper.take(token=token)
        else:
            await worker.analytics.end()
        clock.advance(number % 9)
    for worker in crew:
        await worker.analytics.end()
    clock.advance(300)
    assert await crew[0].analytics.keeper.take(token=token)
    assert await at_each(history, 60) == [served]
    clock.advance(DAY)
    assert await crew[1].analytics.keeper.take(token=token + 1)
    assert await at_each(history, 300, 3_600, DAY) == [served] * 3
