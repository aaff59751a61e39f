"""From the outbox to the documents.

Theory of operation. Entries are claimed, the newest version of each item is judged and goes where it deserves
(`promotion/promoter.py`), and only then the entries are settled. A flusher that dies between two steps leaves claimed
entries, which another one claims after a while: what is stored again does no harm, for the documents keep the highest
version. So every item gets there at least once, and ends at its newest version.

An entry that the documents or the files refuse by itself, again and again, is buried among the dead letters with the
reason; an outage buries nothing, however long it lasts, and neither does a store that lets nobody in. An item that came
down to the tier `cache` leaves the documents. While the files are away, what becomes no file goes on.
"""

from __future__ import annotations

import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from traffic_cop_middleware.abstractions.promotion.promoter import Shaped, StatePromoter
from traffic_cop_middleware.contracts import DocumentStore, Item, Outbox, Pending, StateKey
from traffic_cop_middleware.errors import ConfigurationError, FileQuarantined, StoreError, StoreUnavailable
from traffic_cop_middleware.loops import Signal, Turns

log = logging.getLogger("traffic_cop.state")

AT_ONCE = 200
"""Entries that are claimed at once."""
IDLE = 30.0
"""Seconds after which an entry is another flusher's, whose owner said nothing more of it."""
PERIOD = 5.0
"""Seconds between two looks into the outbox while nothing kicks: only what a killed worker left is found by them."""
LINGER = 0.05
"""The part of that period for which a kicked flusher waits: what is written often goes to the documents once."""
PAUSE_FIRST, PAUSE_LONGEST = 0.1, 30.0
TRIES = 5
"""How often a flusher finds an entry refused by itself before it buries it."""
MOST_REFUSED = 10_000
MOST_BATCHES = 10_000
"""How many claims one `flush` makes."""


class StateFlusher:
    """Takes what waits in an outbox to the documents, until `stop`."""

    def __init__(
        self,
        outbox: Outbox,
        documents: DocumentStore,
        promoter: StatePromoter,
        *,
        emit: Callable[[str, Mapping[str, Any]], None],
        period: float = PERIOD,
        idle: float = IDLE,
    ) -> None:
        self._outbox = outbox
        self._documents = documents
        self._promoter = promoter
        self._emit = emit
        self._period = period
        self._idle = idle
        self._worker = os.urandom(8).hex()
        self._kicked = Signal()
        self._turn = Turns()
        self._failing = False
        self._refusals: OrderedDict[str, int] = OrderedDict()
        """How often an entry was refused by itself: not how often it was claimed, for an outage refuses nothing."""

    def kick(self) -> None:
        """Something waits."""
        self._kicked.set()

    async def run(self) -> None:
        """Flush now and then, and soon after something was written; until cancelled."""
        pause = PAUSE_FIRST
        while True:
            try:
                await self.flush()
            except StoreError as exc:
                self._tell_failing(exc)
                await anyio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                pause = min(PAUSE_LONGEST, pause * 2)
                continue
            except Exception:
                log.exception("the outbox could not be flushed; this worker tries again in %g s", PAUSE_LONGEST)
                await anyio.sleep(PAUSE_LONGEST)
                continue
            pause = PAUSE_FIRST
            self._tell_flushing()
            with anyio.move_on_after(self._period * random.uniform(0.5, 1.5)):  # noqa: S311 - the workers take turns
                await self._kicked.wait()
                await anyio.sleep(self._period * LINGER)
            self._kicked = Signal()

    async def flush(self) -> int:
        """Take to the documents what waits by now. Gives how many entries were settled.

        Raises:
            StoreError: a store is away, or failed; what was not settled waits on.
        """
        settled = 0
        async with self._turn:  # who comes second finds in its place what the first had claimed
            for _ in range(MOST_BATCHES):
                claimed = await self._outbox.claim(self._worker, most=AT_ONCE, idle=self._idle)
                if not claimed:
                    break
                settled += await self._take(claimed)
        return settled

    async def _take(self, claimed: Sequence[Pending]) -> int:
        """What takes no file first: it does not wait for files that are slow, or hang."""
        large = {entry.item.key for entry in claimed if self._promoter.needs_file(entry.item)}
        done, failures = 0, []
        for some in (
            [entry for entry in claimed if entry.item.key not in large],
            [entry for entry in claimed if entry.item.key in large],
        ):
            if some:
                settled, failed = await self._take_some(some)
                done += settled
                failures += failed
        if failures and not done:
            raise failures[0]
        return done

    async def _take_some(self, claimed: Sequence[Pending]) -> tuple[int, list[StoreError]]:
        """How many entries were settled, and why others were not."""
        newest: dict[StateKey, Item] = {}
        for entry in claimed:
            known = newest.get(entry.item.key)
            if known is None or known.version < entry.item.version:
                newest[entry.item.key] = entry.item
        shaped, failed = await self._shape(newest)
        lasting = [(key, each.lasting) for key, each in shaped.items() if each.lasting is not None]
        try:
            await self._documents.store([item for _, item in lasting])
        except StoreUnavailable:
            raise
        except (StoreError, ValueError):
            failed |= await self._one_by_one(lasting)
        done = [entry for entry in claimed if entry.item.key not in failed]
        if done:
            kept = {entry.item.key: None for entry in done}
            await self._promoter.settle([(newest[key], shaped[key].item) for key in kept])
            await self._outbox.settle(done)
            self._emit("state.flushed", {"items": len(kept), "entries": len(done)})
        for entry in claimed:
            if entry.item.key in failed:
                await self._see_to(entry, failed[entry.item.key])
        return len(done), list(failed.values())

    async def _shape(
        self, newest: Mapping[StateKey, Item]
    ) -> tuple[dict[StateKey, Shaped], dict[StateKey, StoreError]]:
        """How each item is to be kept, and why some can't be kept now: the others are not to wait for them."""
        shaped: dict[StateKey, Shaped] = {}
        failed: dict[StateKey, StoreError] = {}
        outcomes = await self._promoter.shape(list(newest.values()), provisional=True)
        for key, outcome in zip(newest, outcomes, strict=True):
            if isinstance(outcome, StoreError):
                failed[key] = outcome
            elif isinstance(outcome, Exception):
                log.error("%s/%s can't be judged", key.namespace, key.key, exc_info=outcome)
                failed[key] = StoreError(f"{type(outcome).__name__}: {outcome}")
            else:
                shaped[key] = outcome
        return shaped, failed

    async def _one_by_one(self, lasting: Sequence[tuple[StateKey, Item]]) -> dict[StateKey, StoreError]:
        """Find the items that the documents refuse: the others are not to wait for them."""
        failed: dict[StateKey, StoreError] = {}
        for key, item in lasting:
            try:
                await self._documents.store((item,))
            except StoreUnavailable:
                raise
            except StoreError as exc:
                failed[key] = exc
            except ValueError as exc:
                failed[key] = StoreError(str(exc))
                failed[key].__cause__ = exc
        return failed

    async def _see_to(self, entry: Pending, why: StoreError) -> None:
        """An entry whose item can't be kept waits until it is claimed again; one that never will be is buried."""
        if isinstance(why, StoreUnavailable) or isinstance(why.__cause__, ConfigurationError):
            return  # a key that has expired, a bucket that is gone: no entry is to blame
        refusals = self._refusals[entry.id] = self._refusals.pop(entry.id, 0) + 1
        if refusals < TRIES and not isinstance(why, FileQuarantined):
            if len(self._refusals) > MOST_REFUSED:
                self._refusals.popitem(last=False)
            return
        await self._outbox.bury(entry, str(why))
        del self._refusals[entry.id]
        key = entry.item.key
        log.error("%s/%s can't be kept: %s", key.namespace, key.key, why)
        self._emit("state.buried", {"namespace": key.namespace, "key": key.key, "reason": str(why)})

    def _tell_failing(self, exc: StoreError) -> None:
        if not self._failing:
            self._failing = True
            log.warning("the outbox can't be flushed (%s); it is kept, and this worker tries again", exc)

    def _tell_flushing(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the outbox is flushed again")
