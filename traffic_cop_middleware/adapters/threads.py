"""Drivers that block, in threads of their own, for tasks on asyncio and on trio.

Theory of operation. A task puts a `Call` on a queue and waits for it, at most until its deadline. A thread takes calls
off the queue, and wakes the task by its event loop; it never waits for a loop. Invariants: a call ends for its task
once, answered or given up; what was given up or is past its deadline when a thread comes to it is not done at all; the
queue and the number of threads have a bound, so that a product that hangs holds up nobody but those that ask it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import anyio

from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.loops import waker

log = logging.getLogger("traffic_cop.documents")

Driver = TypeVar("Driver")
Answer = TypeVar("Answer")

MOST_WAITING = 10_000
"""Calls that wait for a thread; one more is refused at once."""
CLOSING = 10.0
"""Seconds that `close` waits for what was asked for before."""
MISSED = 3
"""Deadlines missed in a row that count as a loss (docs/decisions/0004-three-missed-deadlines.md)."""


_forked = threading.Lock()
"""Held in a process that was forked off, by the first thread that sees it."""


class Call(Generic[Driver, Answer]):
    """Something for a thread to do with its driver. `ends` is when the task gives up (seconds, `time.monotonic`)."""

    def __init__(self, work: Callable[[Driver], Answer], *, ends: float, writes: bool) -> None:
        self.work = work
        self.ends = ends
        self.writes = writes
        self.given_up = False
        self.answered = False
        self._answers: list[Answer] = []
        self._error: Exception | None = None
        self._event = anyio.Event()
        self._wake = waker()

    def answer(self, value: Answer) -> None:
        """What came of it; from a thread."""
        self._answers.append(value)
        self._end()

    def fail(self, error: Exception) -> None:
        """Why nothing came of it; from a thread."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self.answered = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._wake(self._event.set)

    @property
    def wanted(self) -> bool:
        """Whether anybody may still use an answer. A busy loop gives up late, so the deadline counts by itself."""
        return not self.given_up and time.monotonic() < self.ends

    async def wait(self) -> Answer:
        """What came of it.

        Raises:
            StoreTimeout: nothing by its deadline.
        """
        try:
            with anyio.move_on_after(self.ends - time.monotonic()):
                await self._event.wait()
        finally:
            self.given_up = not self.answered
        if self._error is not None:
            raise self._error
        if not self._answers:
            raise StoreTimeout("no answer within the deadline")
        return self._answers[0]


class Worker(Protocol[Driver]):
    """What a thread has of its own: a connection. All of it happens in that thread."""

    def run(self, calls: Sequence[Call[Driver, Any]]) -> None:
        """Do these, and answer or fail each."""
        ...

    def close(self) -> None: ...


def one_by_one(calls: Sequence[Call[Driver, Any]], attempt: Callable[[Call[Driver, Any]], Any]) -> None:
    """Do calls one after the other: what `attempt` gives is the answer, what it raises of our errors the failure."""
    for call in calls:
        try:
            answer = attempt(call)
        except (StoreError, ConfigurationError) as exc:
            call.fail(exc)
        else:
            call.answer(answer)


class Threads(Generic[Driver]):
    """Up to `count` threads, started as they are needed, each with a worker of its own that takes `at_once` calls.

    `name` is the store's, as it may be printed.
    """

    def __init__(
        self,
        worker: Callable[[], Worker[Driver]],
        *,
        name: str,
        count: int,
        at_once: int = 1,
        deadline: float,
        notify: Callable[[Event], None],
    ) -> None:
        self.name = name
        self._new_worker = worker
        self._count = count
        self._at_once = at_once
        self._deadline = deadline
        self._notify = notify
        self._closed = False
        self._begin()
        self._when_ended: Callable[[], None] = lambda: None
        self._missed = 0
        self._lost = False

    def _begin(self) -> None:
        self._calls: deque[Call[Driver, Any]] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._running = 0
        self._pid = os.getpid()  # last: whoever sees it uses what stands above

    def _see_fork(self) -> None:
        """A process that was forked off has none of its parent's threads, and its calls are not for it to do."""
        if self._pid != os.getpid():
            with _forked:
                if self._pid != os.getpid():
                    self._begin()

    async def reach(self, *, patience: float) -> None:
        """See whether it can be had, for up to `patience` seconds; the first call that needs it tries again.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        with contextlib.suppress(StoreError):  # told of as an event, and the next call says it too
            await self._ask(lambda driver: None, writes=False, patience=patience)

    async def ask(self, work: Callable[[Driver], Answer], *, writes: bool = False) -> Answer:
        """What `work` gives when a thread does it.

        Raises:
            StoreUnavailable: not reached, not within the deadline, or no room left.
            StoreError: the product answered with an error.
        """
        try:
            return await self._ask(work, writes=writes, patience=self._deadline)
        except ConfigurationError as exc:
            raise StoreError(str(exc)) from exc

    async def _ask(self, work: Callable[[Driver], Answer], *, writes: bool, patience: float) -> Answer:
        call = Call(work, ends=time.monotonic() + patience, writes=writes)
        self._put(call)
        try:
            answer = await call.wait()
        except StoreTimeout as exc:
            self._missed += 1
            self._tell_of_loss(exc, sure=self._missed >= MISSED)
            raise StoreTimeout(f"{self.name}: {exc} of {patience:g} s") from exc  # a worker's own has no name yet
        except StoreUnavailable as exc:
            self._tell_of_loss(exc, sure=True)
            raise
        self._missed = 0
        if self._lost:
            self._lost = False
            self._notify(Event("store.recovered", time.time(), {"store": self.name}))
        return answer

    def _tell_of_loss(self, cause: StoreUnavailable, *, sure: bool) -> None:
        if sure and not self._lost:
            self._lost = True
            self._notify(Event("store.lost", time.time(), {"store": self.name, "reason": str(cause)}))

    def _put(self, call: Call[Driver, Any]) -> None:
        self._see_fork()
        with self._changed:
            if self._closed:
                raise StoreUnavailable(f"{self.name} is closed")
            if len(self._calls) >= MOST_WAITING:
                raise StoreUnavailable(f"{self.name}: {MOST_WAITING} calls wait for it already")
            self._calls.append(call)
            if self._idle < len(self._calls) and len(self._threads) < self._count:
                self._start_thread(call)
            self._changed.notify()

    def _start_thread(self, call: Call[Driver, Any]) -> None:
        thread = threading.Thread(target=self._work, name=f"traffic-cop {self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # the system has none left at this moment
            if not self._threads:
                self._calls.remove(call)
                raise StoreUnavailable(f"{self.name}: {exc}") from exc
        else:
            self._threads.append(thread)
            self._running += 1

    def _take(self) -> list[Call[Driver, Any]]:
        """The next calls; none at the end."""
        with self._changed:
            self._idle += 1
            while not self._calls and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return [self._calls.popleft() for _ in range(min(len(self._calls), self._at_once))]

    def _work(self) -> None:
        worker: Worker[Driver] | None = None
        try:
            worker = self._new_worker()
            while calls := self._take():
                wanted = [call for call in calls if call.wanted]
                try:
                    worker.run(wanted)
                except BaseException as exc:  # also what ends a thread: nobody would start another
                    log.exception("%s: a call ended with an error that nobody expected", self.name)
                    for call in wanted:
                        if not call.answered:
                            call.fail(StoreError(f"{self.name}: {exc}"))
        except Exception:  # what waits is given up by its deadline; the next call starts another thread
            log.exception("%s: a thread ended with an error that nobody expected", self.name)
        finally:
            if worker is not None:
                worker.close()
            with self._changed:
                self._running -= 1
                self._threads.remove(threading.current_thread())
                if not self._running:
                    self._when_ended()

    async def close(self) -> None:
        """End the threads, when they have done what was asked for."""
        ended, wake = anyio.Event(), waker()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                wake(ended.set)

        self._see_fork()
        with self._changed:
            self._closed = True
            self._when_ended = tell
            self._changed.notify_all()
            if not self._running:
                ended.set()
        with anyio.move_on_after(CLOSING, shield=True) as waiting:
            await ended.wait()
        if waiting.cancelled_caught:
            log.warning("%s did not end what it was doing within %g s", self.name, CLOSING)


class OnThreads(Generic[Driver]):
    """A store that is asked by `threads`, which live as long as it."""

    def __init__(self, threads: Threads[Driver]) -> None:
        self._threads = threads

    async def connect(self, *, patience: float = 1.0) -> None:
        """See whether it can be had, for up to `patience` seconds.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        await self._threads.reach(patience=patience)

    async def close(self) -> None:
        """Let go of everything, when what was asked for is done."""
        await self._threads.close()
