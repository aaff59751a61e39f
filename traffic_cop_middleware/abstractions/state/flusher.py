"""From the outbox to the documents.

Theory of operation. Entries are claimed, the newest version of each item goes to the documents, and only then the
entries are settled. A flusher that dies between two steps leaves claimed entries, which another one claims after a
while: what is stored again does no harm, for the documents keep the highest version. So every item gets there at least
once, and ends at its newest version.

An entry that the documents refuse by itself, again and again, is buried among the dead letters with the reason; an
outage buries nothing, however long it lasts. An item that came down to the tier `cache` leaves the documents.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from traffic_cop_middleware.contracts import DocumentStore, Item, Outbox, Pending, StateKey
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

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
"""How often an entry is refused by itself before it is buried."""
MOST_BATCHES = 10_000
"""How many claims one `flush` makes."""


class StateFlusher:
    """Takes what waits in an outbox to the documents, until `stop`."""

    def __init__(
        self,
        outbox: Outbox,
        documents: DocumentStore,
        *,
        emit: Callable[[str, Mapping[str, Any]], None],
        period: float = PERIOD,
        idle: float = IDLE,
    ) -> None:
        self._outbox = outbox
        self._documents = documents
        self._emit = emit
        self._period = period
        self._idle = idle
        self._worker = os.urandom(8).hex()
        self._kicked = anyio.Event()
        self._failing = False

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
            self._kicked = anyio.Event()

    async def flush(self) -> int:
        """Take to the documents what waits by now. Gives how many entries were settled.

        Raises:
            StoreError: a store is away, or failed; what was not settled waits on.
        """
        settled = 0
        for _ in range(MOST_BATCHES):
            claimed = await self._outbox.claim(self._worker, most=AT_ONCE, idle=self._idle)
            if not claimed:
                break
            settled += await self._take(claimed)
        return settled

    async def _take(self, claimed: Sequence[Pending]) -> int:
        newest: dict[StateKey, Item] = {}
        for entry in claimed:
            known = newest.get(entry.item.key)
            if known is None or known.version < entry.item.version:
                newest[entry.item.key] = entry.item
        try:
            await self._documents.store([_lasting(item) for item in newest.values()])
        except StoreUnavailable:
            raise
        except (StoreError, ValueError) as exc:
            return await self._one_by_one(claimed, exc)
        await self._outbox.settle(claimed)
        self._emit("state.flushed", {"items": len(newest), "entries": len(claimed)})
        return len(claimed)

    async def _one_by_one(self, claimed: Sequence[Pending], why: Exception) -> int:
        """Find the entry that the documents refuse: the others are not to wait for it."""
        done: list[Pending] = []
        refused = 0
        for entry in claimed:
            try:
                await self._documents.store((_lasting(entry.item),))
            except StoreUnavailable:
                raise
            except (StoreError, ValueError) as exc:
                refused += 1
                if entry.tries + 1 >= TRIES:
                    await self._outbox.bury(entry, str(exc))
                    key = entry.item.key
                    log.error("%s/%s can't be kept in the documents: %s", key.namespace, key.key, exc)  # noqa: TRY400
                    self._emit("state.buried", {"namespace": key.namespace, "key": key.key, "reason": str(exc)})
            else:
                done.append(entry)
        if done:
            await self._outbox.settle(done)
        if refused and not done:
            raise StoreError(f"the documents refuse what is flushed: {why}") from why
        return len(done)

    def _tell_failing(self, exc: StoreError) -> None:
        if not self._failing:
            self._failing = True
            log.warning("the outbox can't be flushed (%s); it is kept, and this worker tries again", exc)

    def _tell_flushing(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("the outbox is flushed again")


def _lasting(item: Item) -> Item:
    """What the documents are to have of an item: of one that came down to the tier `cache`, that it is gone."""
    return item._replace(value=None) if item.tier == "cache" else item
