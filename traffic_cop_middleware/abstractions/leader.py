"""One worker at a time: runs a job wherever its lease is held, and stops it before the lease ends.

Theory of operation. A *term* is one try at leading, under a holder's name of its own: asking until the lease is given,
running the job beside the renewals, and giving the lease back. So a token belongs to one run of the job, and an answer
that was lost is had by asking again. The lease's end is counted on this process's monotonic clock from the moment of
*asking*, so it is never later than the store's; a tenth of the lease before it the job is cancelled, whatever the
renewals do meanwhile: that leaves room for clocks that differ in speed, and for the job to clean up.

What this can't do is stop a process that is held up (frozen, suspended, or its event loop blocked by the job): when it
goes on, its job may write before it is stopped. That write is refused by its token.

Invariants. The job of a term has ended before its lease is given back. A term's `ends` is before its lease's end in the
store, as long as the two clocks' speeds differ by less than a tenth.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NoReturn

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.contracts import Lease, LeaseStore
from traffic_cop_middleware.contracts.leases import check_lease
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

RENEWED = 1 / 3
"""Share of a lease after which it is renewed, and that a worker rests between two terms."""
ASKED = 1 / 10
"""Share of a lease after which it is asked for again: by who waits for it, or got no answer."""
LEFT = 1 / 10
"""Share of a lease that is left when the job is cancelled."""

PATIENCE = 1.0
"""Seconds that giving the lease back may take; a store has a deadline that is far shorter."""

Job = Callable[[Lease], Awaitable[None]]


@dataclass(slots=True)
class Term:
    """`ends`: when the job is to stop, on the local clock. `unsure`: something was asked, and no answer has come."""

    holder: str = field(default_factory=lambda: os.urandom(8).hex())
    lease: Lease | None = None
    ends: float = 0.0
    unsure: bool = False


class Leader:
    """Runs `job` in one worker at a time, over all that share the store.

    `job` is called with the lease, whose `token` it hands on to what it writes to (`contracts/leases.py`), and goes on
    until it is cancelled. One that returns or fails gives the lease back, and whoever has it next runs it anew. `ttl`
    (seconds) is how long a lease lasts: who is killed is followed when the lease ends, within about a tenth of it.
    `clock` and `sleep` are the local monotonic clock, and how to wait on it.

    Raises:
        ValueError: the name or `ttl` can't be used.
    """

    def __init__(
        self,
        leases: LeaseStore,
        name: str,
        job: Job,
        *,
        ttl: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        check_lease(name, "nobody yet", ttl)
        self._leases = leases
        self._name = name
        self._job = job
        self._ttl = ttl
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> NoReturn:
        """Lead whenever nobody else does, until cancelled; then the job is stopped, and the lease given back at once.

        An outage of the store ends a term and no more than that.
        """
        while True:
            term = Term()
            try:
                await self._win(term)
                await self._serve(term)
            finally:
                await self._hand_over(term)
            await self._rest(RENEWED)

    async def _win(self, term: Term) -> None:
        """Ask until the lease is given, and the answer came early enough to do something with it."""
        while True:
            with contextlib.suppress(StoreError):  # the backend has told of its loss
                term.lease = await self._ask(term)
            if term.lease is not None and self._clock() < term.ends:
                return
            await self._rest(ASKED)

    async def _serve(self, term: Term) -> None:
        async with anyio.create_task_group() as tasks:
            for each in (self._keep_renewing, self._stop_in_time, self._work):
                tasks.start_soon(each, term, tasks.cancel_scope)

    async def _work(self, term: Term, serving: anyio.CancelScope) -> None:
        """Run the job in a task of its own: what it makes of a cancellation is not what this worker makes of it."""
        try:
            if term.lease is not None:
                await self._job(term.lease)
        except Exception:
            log.exception("the job of %r failed; whoever has the lease next begins anew", self._name)
        serving.cancel()

    async def _keep_renewing(self, term: Term, serving: anyio.CancelScope) -> None:
        share = RENEWED
        while True:
            await self._rest(share)
            share = ASKED
            with contextlib.suppress(StoreError):  # there is time to ask again; if there is not, the job is stopped
                lease = await self._ask(term)
                if lease is None or term.lease is None or lease.token != term.lease.token:
                    log.warning("the lease %r was lost, and its job is stopped", self._name)
                    term.lease = lease
                    serving.cancel()
                    return
                share = RENEWED

    async def _stop_in_time(self, term: Term, serving: anyio.CancelScope) -> None:
        while (left := term.ends - self._clock()) > 0:
            await self._sleep(left)
        log.warning("the lease %r could not be renewed, and its job is stopped before it ends", self._name)
        serving.cancel()

    async def _ask(self, term: Term) -> Lease | None:
        asked = self._clock()
        term.unsure = True
        lease = await answered(self._leases.acquire(self._name, term.holder, ttl=self._ttl))
        term.unsure = False
        if lease is not None:
            term.ends = asked + lease.ends_in * (1 - LEFT)
        return lease

    async def _hand_over(self, term: Term) -> None:
        """Give the lease back. Where that can't be told to the store, it ends by itself."""
        with anyio.move_on_after(PATIENCE, shield=True), contextlib.suppress(StoreError):
            if term.lease is None and term.unsure:  # it may have been given: asking again tells
                term.lease = await self._ask(term)
            if term.lease is not None:
                await answered(self._leases.release(term.lease))

    async def _rest(self, share: float) -> None:
        await self._sleep(self._ttl * share * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, no secret
