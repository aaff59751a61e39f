"""Event loops in threads, at once, with a deadline: what hangs fails, and blocks nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

DEADLINE = 30.0
"""Seconds within which all of it is over."""


class Crew:
    """Runs each of these in a thread of its own, and has what came of it.

    Raises:
        AssertionError: one is not over within the deadline, or failed.
    """

    def __init__(self, works: list[Callable[[], object]], *, deadline: float = DEADLINE) -> None:
        self._failures: list[BaseException] = []
        threads = [threading.Thread(target=self._do, args=(work,), daemon=True) for work in works]
        ends = time.monotonic() + deadline
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
        assert not self._failures, self._failures
        late = [thread.name for thread in threads if thread.is_alive()]
        assert not late, f"{len(late)} of {len(threads)} were not over within {deadline} s"

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - the test's thread has it
            self._failures.append(exc)


def at_once(count: int, scenario: Callable[[int], Coroutine[Any, Any, object]], *, within: float = DEADLINE) -> None:
    """Run a scenario on so many event loops at once; each has to be over `within` so many seconds."""

    def work(number: int) -> None:
        asyncio.run(asyncio.wait_for(scenario(number), within))

    Crew([lambda number=number: work(number) for number in range(count)], deadline=within + 5.0)  # type: ignore[misc]
