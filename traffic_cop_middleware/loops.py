"""What tasks of several event loops have in common, each loop in a thread of its own: a turn, a signal, a thread.

Theory of operation. The locks and events of asyncio, trio and anyio belong to one event loop: set from another loop's
thread they wake nobody. Here a `threading.Lock` is held for a moment to look and to note who waits, never while
anything is awaited; who waits does so on an event of its own loop, which is woken as it allows it from another thread.

Invariants. A turn is one task's. It goes to whoever has waited longest and can still be woken; a task that is given it
while it is cancelled hands it on. A loop that has ended holds up nobody. The locks are reentrant, and nothing that they
guard is half done where something is made: there Python may collect a task that was left behind, which gives back what
it holds.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import current_token

T = TypeVar("T")


def waker() -> Callable[[Callable[[], object]], object]:
    """A function by which another thread lets the running event loop call something, without waiting for it.

    It raises `RuntimeError` where that loop has ended.
    """
    loop: Any = current_token().native_token
    wake: Callable[[Callable[[], object]], object] = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    return wake


class Waiting:
    """A task that waits, on its event loop."""

    __slots__ = ("_event", "_thread", "_wake", "gave_back", "passed_over")

    def __init__(self) -> None:
        self.gave_back = False
        """Whether it gave back the turn that it was given while it ended."""
        self.passed_over = False
        """Whether it could not be woken, and another one was given its turn."""
        self._event = anyio.Event()
        self._thread = threading.get_ident()
        self._wake = waker()

    def wake(self) -> bool:
        """Let it go on; from any thread. False where its loop has ended."""
        try:
            if threading.get_ident() == self._thread:
                self._event.set()
            else:
                self._wake(self._event.set)
        except RuntimeError:
            return False
        return True

    async def wait(self) -> None:
        await self._event.wait()


class Signal:
    """An event that any thread may set, and tasks of any event loops wait for. It may be made where no loop runs."""

    __slots__ = ("_guard", "_is_set", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._is_set = False
        self._waiting: list[Waiting] = []

    def set(self) -> None:
        """Wake those that wait; who comes later does not wait."""
        with self._guard:
            self._is_set = True
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.wake()

    async def wait(self) -> None:
        """Wait until it is set."""
        with self._guard:
            if self._is_set:
                return
            here = Waiting()
            self._waiting.append(here)
        try:
            await here.wait()
        finally:
            with self._guard:
                if here in self._waiting:
                    self._waiting.remove(here)


class Turns:
    """A lock for tasks of any event loops, in the order in which they came: `async with turns: …`.

    One that is free is had without a turn of the event loop.
    """

    __slots__ = ("_guard", "_held", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._held = False
        self._waiting: deque[Waiting] = deque()

    @property
    def held(self) -> bool:
        return self._held

    async def __aenter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
        here = Waiting()
        with self._guard:
            self._waiting.append(here)  # first: then whoever gives it back meanwhile finds somebody
            free, self._held = not self._held, True
        if free:
            self.give_back()
        try:
            await here.wait()
        except BaseException:
            with self._guard:
                if here in self._waiting:
                    self._waiting.remove(here)
                else:  # it was given the turn meanwhile
                    here.gave_back = not here.passed_over
            if here.gave_back:
                self.give_back()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Let the next one have it; from any thread."""
        while True:
            with self._guard:
                if not self._waiting:
                    self._held = False
                    return
                following = self._waiting.popleft()
            if following.wake():
                return
            with self._guard:
                if following.gave_back:  # it was collected as it was woken
                    return
                following.passed_over = True


class OneThread:
    """Does what is long in a thread, one thing at a time, for tasks of any event loops.

    It is none of those that the app has for its endpoints: these may all be busy.
    """

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns = Turns()

    @property
    def busy(self) -> bool:
        return self._turns.held

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` gives. A task that is cancelled meanwhile waits for its end.

        One that is cancelled by asyncio (`Task.cancel`) does not; the next one waits for it all the same.
        """
        await self._turns.__aenter__()
        begins = threading.Lock()  # whoever has it gives the turn back: the thread, or the task if that never begins

        def work_and_give_back() -> T:
            if not begins.acquire(blocking=False):
                raise RuntimeError("the task was cancelled before the thread began")
            try:
                return work(*arguments)
            finally:
                self._turns.give_back()

        try:
            return await anyio.to_thread.run_sync(work_and_give_back, limiter=anyio.CapacityLimiter(1))
        finally:
            if begins.acquire(blocking=False):
                self._turns.give_back()


class Working(NamedTuple):
    """What one event loop does for all: how another thread ends it, and what tells that it has ended."""

    token: object
    wake: Callable[[Callable[[], object]], object]
    scope: anyio.CancelScope
    ended: Signal


class OneLoop:
    """Lets one event loop at a time do what is to be done once for all; when that one rests, another takes over."""

    __slots__ = ("_over", "_turns", "_working")

    def __init__(self) -> None:
        self._turns = Turns()
        self._working: Working | None = None
        self._over = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this as soon as no other loop does, until it is cancelled, or `rest` or `end` is called."""
        async with self._turns:
            here = self._working = Working(current_token(), waker(), anyio.CancelScope(), Signal())
            try:
                if not self._over:  # looked at after it was said what is to be cancelled, as `end` does it in reverse
                    with here.scope:
                        await work()
            finally:
                self._working = None
                here.ended.set()

    async def rest(self) -> None:
        """Have what this event loop does come to its end."""
        here = self._working
        if here is not None and here.token == current_token():
            here.scope.cancel()
            await here.ended.wait()

    async def end(self, *, within: float) -> None:
        """Have it come to its end wherever it is done, for good. `within` is how long another loop may take for that
        (seconds)."""
        self._over = True
        await self.rest()
        elsewhere = self._working
        if elsewhere is not None:
            with contextlib.suppress(RuntimeError), anyio.move_on_after(within):  # that loop may have ended
                elsewhere.wake(elsewhere.scope.cancel)
                await elsewhere.ended.wait()
