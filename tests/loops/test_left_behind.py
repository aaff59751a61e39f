"""Tasks that nobody ends: collected with their loop while a lock is taken, or cancelled while a thread works."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette

from tests.adapters.load import poll, started
from tests.loops.crew import Crew
from traffic_cop_middleware import TrafficCop, loops
from traffic_cop_middleware.loops import OneThread, Turns


def leave(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Begin this on a loop that is closed in the middle of it; only the collection of garbage ends it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.fixture
def collected_while_waiting_begins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python may collect garbage wherever something is made: have it do so where a task begins to wait."""
    waker = loops.waker

    def collect_first() -> Any:
        gc.collect()
        return waker()

    gc.disable()
    monkeypatch.setattr(loops, "waker", collect_first)
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_while_waiting_begins")
def test_a_turn_may_come_back_by_the_collection_of_garbage_while_another_task_asks_for_it() -> None:
    turns, had = Turns(), []

    async def hold() -> None:
        async with turns:
            await asyncio.get_running_loop().create_future()

    async def ask() -> None:
        async with turns:
            had.append(1)

    leave(hold)
    assert turns.held
    Crew([lambda: asyncio.run(asyncio.wait_for(ask(), 5))], deadline=10)
    assert had == [1]
    assert not turns.held


def test_who_is_passed_over_as_its_loop_has_ended_gives_no_turn_back_that_it_never_had() -> None:
    turns, inside, most = Turns(), [0], [0]

    async def ask() -> None:
        async with turns:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await asyncio.sleep(0)
            gc.collect()  # of those that were passed over
            await asyncio.sleep(0)
            inside[0] -= 1

    async def scenario() -> None:
        async with turns:
            thread = threading.Thread(target=leave, args=(ask,))
            thread.start()
            thread.join(20)
            leave_here = asyncio.new_event_loop()
            waiting = leave_here.create_task(ask())
            waiting._log_destroy_pending = False  # type: ignore[attr-defined]
            await asyncio.to_thread(leave_here.run_until_complete, asyncio.sleep(0))
            leave_here.close()
            del waiting, leave_here
            asking = [asyncio.ensure_future(ask()) for _ in range(3)]
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*asking), 20)

    asyncio.run(scenario())
    assert most == [1]
    assert not turns.held


def test_who_is_given_up_by_asyncio_keeps_the_thread_until_it_is_done() -> None:
    """Unlike a scope of anyio, `Task.cancel` (`asyncio.wait_for`) ends a wait for a thread at once."""
    thread, running, most, go_on = OneThread(), [0], [0], threading.Event()

    def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        assert go_on.wait(20)
        running[0] -= 1

    async def scenario() -> None:
        first = asyncio.ensure_future(thread.run(work))
        await poll(lambda: running[0])
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(first), 0.05)
        second = asyncio.ensure_future(thread.run(work))
        await asyncio.sleep(0.05)
        assert running == most == [1]
        assert thread.busy
        go_on.set()
        await asyncio.wait_for(second, 20)

    asyncio.run(scenario())
    assert most == [1]
    assert not thread.busy


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("turns_of_the_loop", range(6))
def test_a_thread_is_free_again_whenever_who_asked_is_cancelled(backend: str, turns_of_the_loop: int) -> None:
    done: list[int] = []

    async def scenario() -> None:
        thread = OneThread()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(thread.run, done.append, 1)
                for _ in range(turns_of_the_loop):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            await thread.run(done.append, 2)
        assert not thread.busy

    anyio.run(scenario, backend=backend)
    assert done.count(2) == 1


@pytest.mark.parametrize("turns_of_the_loop", range(6))
def test_a_thread_is_free_again_whenever_a_task_of_asyncio_is_cancelled(turns_of_the_loop: int) -> None:
    done: list[int] = []

    async def scenario() -> None:
        thread = OneThread()
        first = asyncio.ensure_future(thread.run(done.append, 1))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        await asyncio.wait_for(thread.run(done.append, 2), 20)
        await poll(lambda: not thread.busy)

    asyncio.run(scenario())
    assert done.count(2) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_lifespan_that_is_cancelled_by_its_scope_leaves_nothing_open(backend: str, tmp_path: Path) -> None:
    file = f"{tmp_path}/state.db"
    cop = TrafficCop(documents=f"sqlite:///{file}", documents_deadline=20, metrics=True, session_secret="s" * 32)
    app = cop.wrap(Starlette())

    async def scenario() -> None:
        began = anyio.Event()
        messages = [{"type": "lifespan.startup"}]

        async def receive() -> Any:
            if not messages:
                await anyio.sleep_forever()
            return messages.pop()

        async def send(message: Any) -> None:
            began.set()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
                await began.wait()
                await cop.state.put("a", "k", 1, tier="delayed")
                tasks.cancel_scope.cancel()
        assert cop._parts.opened is None
        for thread in threading.enumerate():
            if file in thread.name:
                thread.join(5)  # it has told that it closed the file, and ends
                assert not thread.is_alive()

    async def again() -> None:
        async with started(app):
            found = await cop.state.get("a", "k")
            assert found is not None
            assert found.value == 1

    anyio.run(scenario, backend=backend)
    asyncio.run(again())
