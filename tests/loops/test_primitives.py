"""Turns, signals, one thread and one loop for all: over asyncio, trio and several threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.loops.crew import Crew, at_once
from traffic_cop_middleware.loops import OneLoop, OneThread, Signal, Turns

BACKENDS = ["asyncio", "trio", "asyncio", "trio"]


def mixed(scenario: Callable[[int], Coroutine[Any, Any, object]]) -> None:
    """Run it on two loops of asyncio and two of trio at once."""

    async def bounded(number: int) -> None:
        with anyio.fail_after(20):
            await scenario(number)

    Crew([lambda n=n: anyio.run(bounded, n, backend=BACKENDS[n]) for n in range(len(BACKENDS))])  # type: ignore[misc]


def test_one_at_a_time_has_the_turn() -> None:
    turns, inside, counted = Turns(), [], [0]

    async def scenario(number: int) -> None:
        async def task() -> None:
            for _ in range(100):
                async with turns:
                    inside.append(number)
                    before = counted[0]
                    await anyio.lowlevel.checkpoint()
                    counted[0] = before + 1
                    assert len(inside) == 1
                    inside.pop()

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(task)

    mixed(scenario)
    assert counted == [len(BACKENDS) * 300]
    assert not turns.held


def test_who_is_cancelled_while_waiting_keeps_nobody_waiting() -> None:
    turns = Turns()

    async def scenario(number: int) -> None:
        for turn in range(100):
            with anyio.move_on_after(0.0005 * (turn % 3)):
                async with turns:
                    await anyio.sleep(0.0005 if turn % 5 == 0 else 0)
        async with turns:
            pass

    mixed(scenario)
    assert not turns.held


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_turn_that_came_with_the_cancellation_is_handed_on(backend: str) -> None:
    async def scenario() -> None:
        turns, told = Turns(), []

        async def waits(scope: anyio.CancelScope) -> None:
            with scope:
                async with turns:
                    told.append("had it")

        first = anyio.CancelScope()
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks, turns:
                tasks.start_soon(waits, first)
                await anyio.sleep(0.01)
                tasks.start_soon(waits, anyio.CancelScope())
                await anyio.sleep(0.01)
                first.cancel()
        assert told == ["had it"]
        assert not turns.held

    anyio.run(scenario, backend=backend)


def test_a_loop_that_ended_while_it_waited_is_passed_over() -> None:
    turns = Turns()
    loop = asyncio.new_event_loop()

    async def hold() -> None:
        async with turns:
            waiting = loop.create_task(turns.__aenter__())
            await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))
            assert not waiting.done()
            loop.close()
            waiting._log_destroy_pending = False  # type: ignore[attr-defined]
            alive.append(waiting)

    alive: list[Any] = []
    asyncio.run(hold())
    assert not turns.held
    at_once(1, lambda _: turns.__aenter__())
    alive[0].get_coro().close()


def test_a_signal_wakes_all_loops_and_stays() -> None:
    signal, waiting = Signal(), threading.Barrier(len(BACKENDS) + 1)

    async def scenario(number: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(signal.wait)
            with anyio.move_on_after(0.001):
                await signal.wait()
            await anyio.to_thread.run_sync(waiting.wait, 20)
        await signal.wait()

    def set_it() -> None:
        waiting.wait(20)
        signal.set()

    setter = threading.Thread(target=set_it, daemon=True)
    setter.start()
    mixed(scenario)
    setter.join(20)


def test_one_thing_at_a_time_is_done_in_a_thread() -> None:
    thread, running, most = OneThread(), [0], [0]

    def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.0005)
        running[0] -= 1

    async def scenario(number: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(thread.run, work)

    mixed(scenario)
    assert most == [1]
    assert not thread.busy


def test_one_loop_works_for_all_and_another_takes_over_when_it_rests() -> None:
    one, at_work, worked = OneLoop(), [0], []
    began = threading.Barrier(len(BACKENDS))

    async def scenario(number: int) -> None:
        mine = anyio.Event()

        async def work() -> None:
            at_work[0] += 1
            assert at_work == [1]
            worked.append(number)
            mine.set()
            try:
                await anyio.sleep_forever()
            finally:
                at_work[0] -= 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run, work)
            await anyio.to_thread.run_sync(began.wait, 20)
            await mine.wait()
            await one.rest()

    mixed(scenario)
    assert sorted(worked) == list(range(len(BACKENDS)))


def test_the_work_is_ended_from_another_loop_and_nobody_begins_it_again() -> None:
    one, at_work, ended, worked = OneLoop(), threading.Event(), threading.Event(), []

    async def scenario(number: int) -> None:
        async def work() -> None:
            worked.append(number)
            at_work.set()
            await anyio.sleep_forever()

        if number == 0:
            await one.run(work)
            assert ended.is_set() or one._over
        else:
            await anyio.to_thread.run_sync(at_work.wait, 20)
            await one.end(within=10)
            ended.set()
            await one.run(work)

    mixed(scenario)
    assert worked == [0]
