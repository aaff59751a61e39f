"""Calls of drivers that block, in threads of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from traffic_cop_middleware.adapters.threads import Call, Threads, one_by_one
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable

DEADLINE = 0.1


class AtOnce:
    """A worker that does each call as it comes."""

    def run(self, calls: Sequence[Call[None, Any]]) -> None:
        one_by_one(calls, lambda call: call.work(None))

    def close(self) -> None: ...


@pytest.mark.asyncio
async def test_a_call_past_its_deadline_is_not_done_though_its_task_could_not_give_it_up_yet() -> None:
    threads = Threads[None](AtOnce, name="a store", count=1, deadline=DEADLINE, notify=lambda event: None)
    done, free = list[str](), threading.Event()

    def hang(driver: None) -> None:
        free.wait(60)
        done.append("hung")

    first = asyncio.ensure_future(threads.ask(hang))
    second = asyncio.ensure_future(threads.ask(lambda driver: done.append("late")))
    await asyncio.sleep(0)  # both are asked for
    time.sleep(2 * DEADLINE)  # noqa: ASYNC251 - the loop is busy, and can give up nothing
    free.set()
    time.sleep(2 * DEADLINE)  # noqa: ASYNC251 - and the thread comes to the second
    await threads.close()
    await asyncio.wait([first])
    assert done == ["hung"]
    with pytest.raises(StoreTimeout, match=r"a store: no answer within the deadline of 0\.1 s"):
        await second


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.asyncio
async def test_a_thread_that_could_not_be_started_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads[None](AtOnce, name="a store", count=1, deadline=5, notify=lambda event: None)
    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(StoreUnavailable, match="a store: can't start new thread"):
            await threads.ask(lambda driver: done.append("refused"))
    await threads.ask(lambda driver: done.append("asked"))
    await asyncio.wait_for(threads.close(), 5)
    assert done == ["asked"]


@pytest.mark.asyncio
async def test_a_thread_that_can_not_be_started_beside_others_leaves_the_call_to_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = Threads[None](AtOnce, name="a store", count=2, deadline=5, notify=lambda event: None)
    began, go_on, done = threading.Event(), threading.Event(), list[str]()

    def first(driver: None) -> None:
        began.set()
        go_on.wait(5)

    asking = asyncio.ensure_future(threads.ask(first))
    await asyncio.to_thread(began.wait, 5)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        second = asyncio.ensure_future(threads.ask(lambda driver: done.append("asked")))
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(asking, second)
    await asyncio.wait_for(threads.close(), 5)
    assert done == ["asked"]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_a_thread_outlives_a_call_that_would_end_it(error: type[BaseException]) -> None:
    threads = Threads[None](AtOnce, name="a store", count=1, deadline=5, notify=lambda event: None)

    def end(driver: None) -> None:
        raise error("why")

    with pytest.raises(StoreError, match="a store: why"):
        await threads.ask(end)
    assert await threads.ask(lambda driver: "asked") == "asked"
    await asyncio.wait_for(threads.close(), 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork")
def test_a_process_that_was_forked_off_has_threads_of_its_own() -> None:
    """As by a preloading server, after a first request to warm the app up."""
    here = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=here, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout.split() == ["parent", "child", "parent"], found.stderr


FORKS = """
import asyncio, os, sys
from tests.adapters.test_threads import AtOnce
from traffic_cop_middleware.adapters.threads import Threads

threads = Threads(AtOnce, name="a store", count=1, deadline=5, notify=lambda event: None)

async def asked(who):
    print(await threads.ask(lambda driver: who), flush=True)

async def close():
    await asyncio.wait_for(threads.close(), 5)

asyncio.run(asked("parent"))
forked = os.fork()
if not forked:
    try:
        asyncio.run(asked("child"))
        asyncio.run(close())
    finally:
        os._exit(0)
os.waitpid(forked, 0)
asyncio.run(asked("parent"))
asyncio.run(close())
"""


@pytest.mark.asyncio
async def test_a_thread_that_can_not_begin_is_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    made = list[AtOnce]()

    def worker() -> AtOnce:
        made.append(AtOnce())
        if len(made) == 1:
            raise RuntimeError("out of luck")
        return made[-1]

    threads = Threads[None](worker, name="a store", count=1, deadline=DEADLINE, notify=lambda event: None)
    with pytest.raises(StoreTimeout):
        await threads.ask(lambda driver: None)
    assert "a store: a thread ended with an error that nobody expected" in caplog.text
    assert await threads.ask(lambda driver: "there") == "there"
    await threads.close()
