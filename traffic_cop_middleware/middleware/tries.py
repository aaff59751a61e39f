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
    this calls `ended` in a `finally`. `timed` as in `BalancedPool.began`.
    """

    def __init__(self, pool: BalancedPool, key: BalancingKey | None = None, *, timed: bool = True) -> None:
        self._pool = pool
        self._key = key
        self._timed = timed
        self._tried: list[Instance] = []
        self._unreached = 0
        self._most = pool.most_unreached
        self._attempt: Attempt | None = None
        total = pool.settings.total_deadline
        self.cut = False
        """Whether the last attempt ended because its time was over."""
        self._until = None if total is None else monotonic() + total

    async def next(self) -> Instance | Answer:
        """The instance that is asked next; the answer for the client where there is none.

        Where all are full it waits in line. The attempt has begun when this returns.
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
            return self._begin(found)
        if found is Nobody.FULL:
            return await self._wait()
        return UNREACHABLE

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
        return self._begin(found)

    async def within(self, asked: Awaitable[T]) -> T:
        """What `asked` gives, in the time that an attempt has.

        Raises:
            UpstreamTimeout: it took longer.
        """
        seconds = self._pool.settings.try_deadline
        if self._until is not None:
            left = max(0.0, self._until - monotonic())
            seconds = left if seconds is None else min(seconds, left)
        if seconds is None:
            return await asked
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

    def _begin(self, instance: Instance) -> Instance:
        return self._take(self._pool.began(instance, timed=self._timed))

    def _take(self, attempt: Attempt) -> Instance:
        before, self._attempt = self._attempt, attempt
        self.cut = False
        if before is not None:
            before.ended(Outcome.CANCELLED)
        self._tried.append(attempt.instance)
        return attempt.instance

    async def _wait(self) -> Instance | Answer:
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
