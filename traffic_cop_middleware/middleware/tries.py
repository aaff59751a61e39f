"""The attempts of one request: at which instances, how many, and how long they may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import TypeVar

from traffic_cop_middleware.abstractions.balancing.attempts import Attempt, Nobody
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.errors import UpstreamTimeout
from traffic_cop_middleware.middleware.refusals import Answer, Refusal, answer_with

T = TypeVar("T")

BUSY = answer_with(
    Refusal(503, (), "", 1, "The service behind this route has as much to do as it may. Try again in 1 second.")
)
UNREACHABLE = answer_with(
    Refusal(503, (), "", 1, "No instance of the service behind this route can be reached. Try again in 1 second.")
)
TOO_LATE = answer_with(
    Refusal(504, (), "", 1, "The service behind this route did not answer in time."), title="Gateway Timeout"
)


class Tries:
    """One request's attempts, one after the other: `next` for the first and after each that found no connection.

    An instance is asked once, but for `retry(same=True)`; as many may be out of reach as the pool says. Whoever makes
    this calls `ended` in a `finally`. `timed` as in `BalancedPool.began`. What nearly always is known at once is no
    coroutine: on each request that would cost as much as the choice.
    """

    __slots__ = ("_attempt", "_key", "_most", "_pool", "_timed", "_tried", "_unreached", "_until", "cut")

    def __init__(self, pool: BalancedPool, key: BalancingKey | None = None, *, timed: bool = True) -> None:
        self._pool = pool
        self._key = key
        self._timed = timed
        self._tried: list[Instance] = []
        self._unreached = 0
        self._most = pool.most_unreached
        self._attempt: Attempt | None = None
        self.cut = False
        """Whether the last attempt ended because its time was over."""
        total = pool.settings.total_deadline
        self._until = None if total is None else monotonic() + total

    def next(self) -> Instance | Answer | None:
        """The instance that is asked next; the answer for the client where there is none.

        `None` where that is not known at once, for all are full: `tries.next() or await tries.wait()`. The attempt has
        begun when this returns an instance.
        """
        if self._until is not None and monotonic() >= self._until:
            return TOO_LATE
        if self._tried:
            self._unreached += 1
            self._most = max(self._most, self._pool.most_unreached)  # the pool's falls while others find out the same
            if self._unreached >= self._most:
                return UNREACHABLE
        found = self._pool.pick(self._tried, self._key)
        if isinstance(found, Instance):
            return self._take(self._pool.began(found, timed=self._timed))
        return None if found is Nobody.FULL else UNREACHABLE

    def retry(self, *, same: bool = False) -> Instance | None:
        """Another instance for a request that one may have seen, if there is one and the retry budget allows it.

        `same`: the one before will do too, where there is no other, or the request belongs there.
        """
        last = self._tried[-1]
        settings = self._pool.settings
        at_home = settings.affinity and self._key is not None and self._key.owner == last.name
        found = Nobody.TRIED if same and at_home else self._pool.pick(self._tried, self._key)
        if same and found is Nobody.TRIED and last.candidate:
            most = settings.most_in_flight
            found = last if most is None or last.in_flight < most else Nobody.FULL
        if not isinstance(found, Instance) or not self._pool.may_retry():
            return None
        return self._take(self._pool.began(found, timed=self._timed))

    def within(self, asked: Awaitable[T]) -> Awaitable[T]:
        """What `asked` gives, in the time that an attempt has: `asked` itself where that has no end.

        Raises:
            UpstreamTimeout: it took longer.
        """
        seconds = self._pool.settings.try_deadline
        if self._until is not None:
            left = max(0.0, self._until - monotonic())
            seconds = left if seconds is None else min(seconds, left)
        return asked if seconds is None else self._cut_after(seconds, asked)

    async def _cut_after(self, seconds: float, asked: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError as exc:
            self.cut = True
            raise UpstreamTimeout("the instance did not answer in the time that an attempt has") from exc

    def answered(self, outcome: Outcome) -> None:
        """The head of the answer is here."""
        if self._attempt is not None:
            self._attempt.answered(outcome)

    def ended(self, outcome: Outcome = Outcome.CANCELLED) -> None:
        """Nothing is under way any more. After an answer only TIMEOUT and BROKEN say something new."""
        if self._attempt is not None:
            self._attempt.ended(outcome)

    def _take(self, attempt: Attempt) -> Instance:
        before, self._attempt = self._attempt, attempt
        if before is not None:
            self.cut = False
            before.ended(Outcome.CANCELLED)
        instance = attempt.instance
        self._tried.append(instance)
        return instance

    async def wait(self) -> Instance | Answer:
        """Stand in line for an instance, where all are full; the answer for the client where there is none in time."""
        woken = asyncio.Event()
        pending = self._pool.wait(woken.set, self._tried, self._key, timed=self._timed)
        if pending is None:
            return BUSY
        seconds = self._pool.settings.pending_deadline
        if self._until is not None:
            seconds = min(seconds, max(0.0, self._until - monotonic()))
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
            attempt, pending.attempt = pending.attempt, None
        except TimeoutError:
            return BUSY
        finally:
            self._pool.leave(pending)
        return BUSY if attempt is None else self._take(attempt)
