"""Calls of drivers that block, in threads of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from traffic_cop_middleware.adapters.threads import Call, Threads, one_by_one
from traffic_cop_middleware.errors import StoreTimeout

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
