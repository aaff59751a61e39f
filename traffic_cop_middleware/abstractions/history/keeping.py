"""Who makes the history: minutes that are over go from the live windows into it, and are rolled up.

Theory of operation. A pass takes the minutes of the last 20 whose windows have other stamps than at the pass before,
and writes each as a whole: so a worker that writes late is still counted, and a leader that begins anew writes again
what is there already. Writing a minute makes its 5 minutes due, these the hour, and that the day
(`contracts/history.py`); what is due and over is added up from the finer buckets, and written as a whole too. Last,
what is too old goes, but for what is still to be rolled up; and of the days that are for ever, users and API keys go
when their hours do.

While the documents are away, what was taken waits here: for hours, bounded by its size, the oldest is left out. What
waited in an earlier term is let go: since then another leader may have written more.

Invariant: the history of a minute is what the windows held when they were last seen changed. Windows are kept for 25
minutes after a write, all parts at once, and only the last 20 minutes are looked at: none is seen half gone.

A minute that was *recorded* has a mark beside its rows, in a bucket of the source 0: without requests there are no
rows, and what nobody has counted is not a minute without requests. Recorded is a minute with windows, and one in which
whoever makes the history now began a pass. The mark is the same whoever writes it, so it counts once.

Where the live figures are shared one worker does this, the leader, whose token keeps out one that was held up and has
lost its lease meanwhile. Where each process has its own, each is a source of its own, and its rows stand beside the
others'.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.history.ranges import DAY, HOUR, KEPT
from traffic_cop_middleware.abstractions.history.rows import (
    PERSONAL,
    is_personal,
    mark_of_a_minute,
    rolled_up,
    rows_of,
)
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses
from traffic_cop_middleware.abstractions.metrics.recorder import MINUTE
from traffic_cop_middleware.abstractions.metrics.summary import USAGE, Summary
from traffic_cop_middleware.abstractions.metrics.windows import Windows, tails_of
from traffic_cop_middleware.contracts import HistoryBucket, HistoryRow, HistoryStore, MetricsStore, Span
from traffic_cop_middleware.contracts.history import RESOLUTIONS
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.loops import OneThread, Turns

log = logging.getLogger("traffic_cop")
T = TypeVar("T")

LOOKED_AT = 20
"""Minutes whose windows may still change."""
SETTLED = 15.0
"""Seconds after its end from which on a minute is taken: by then all workers have flushed what they had of it."""
AGAIN = 5.0
"""Seconds until the next try where a store was away."""
PRUNE_PERIOD = 3_600.0
MOST_PRUNES = 1_000
"""Rounds of one pruning."""
MOST_WAITING = 32 * 1024 * 1024
"""Bytes of minutes that wait for the documents: with 50 routes and 200 users those of 19 hours."""
BESIDE = 250
"""Bytes that a row takes beside its value, about."""


class HistoryKeeper:
    """Makes the history of `metrics`. `clock` gives seconds since the epoch; what is long is done in that `thread`.

    `flush` writes what this process has counted, so that it is in the windows. Others do that by themselves.
    """

    def __init__(
        self,
        metrics: MetricsStore,
        history: HistoryStore,
        *,
        clock: Callable[[], float],
        thread: OneThread,
        flush: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._metrics = metrics
        self._history = history
        self._clock = clock
        self._thread = thread
        self._flush = flush
        self._sleep = sleep
        self._windows = Windows(metrics, thread=thread)
        self._taking = Turns()
        self._taken: dict[int, tuple[int, ...]] = {}
        """The stamps of the windows of a minute when it was taken, with the store's epoch."""
        self._waiting: dict[HistoryBucket, Sequence[HistoryRow]] = {}
        """Minutes that were taken, and are to be written."""
        self._token: int | None = None
        self._mark = mark_of_a_minute()
        self._awake: set[int] = set()
        """Minutes in which a pass was begun."""
        self._marked: set[int] = set()
        self._pruned = 0.0

    @property
    def by_itself(self) -> bool:
        """Whether each process makes a history for itself: its figures are nobody else's, or its history is not."""
        return not (self._metrics.shared and self._history.durable)

    @property
    def lasts(self) -> bool:
        return self._history.durable

    async def keep(self, token: int | None) -> None:
        """Make a pass after each minute, until cancelled; with a token also until a higher one has written."""
        self._taken.clear()  # another leader may have written less since
        self._marked.clear()
        while True:
            rest = MINUTE - (self._clock() - SETTLED) % MINUTE
            try:
                if not await self.take(token=token):
                    if token is not None:
                        log.warning("another worker has taken over the history of the traffic")
                        return
                    rest = AGAIN  # another process has rolled up the same
            except StoreError as exc:
                log.debug("the history of the traffic waits for its stores: %s", exc)
                rest = AGAIN
            except Exception:
                log.exception("the history of the traffic was not written; the next pass tries again")
            await self._sleep(rest)

    async def take(self, *, token: int | None, ending: bool = False) -> bool:
        """Make a pass. With `ending`, when all is flushed that there will be, also the minute that is not over.

        False where another leader has written.

        Some round trips to the metrics for each minute that has changed, and some to the history for each bucket.

        Raises:
            StoreError: a store is away, or answers with an error; the next pass makes it good.
        """
        self._awake.add(int(self._clock() // MINUTE))
        async with self._taking:
            if token != self._token:
                self._begin_term(token)
            if not ending and not self._metrics.shared:
                await self._flush()
            await self._take_minutes(ending=ending)
            try:
                leads = await self._write(token) and await self._roll_up(token)
            except StoreTimeout:
                raise
            except StoreError:
                await self._prune(token)  # it may be full
                raise
            return leads and await self._prune(token)

    def _begin_term(self, token: int | None) -> None:
        for bucket in self._waiting:
            self._taken.pop(bucket.start // MINUTE, None)
            self._marked.discard(bucket.start // MINUTE)
        self._waiting.clear()
        self._token = token

    async def _take_minutes(self, *, ending: bool) -> None:
        """Have the minutes that have changed wait to be written."""
        epoch = (await answered(self._metrics.record())).epoch
        last = int((self._clock() - (0 if ending else SETTLED)) // MINUTE) + ending
        minutes = range(max(0, last - LOOKED_AT), last)
        names = [f"1m:{minute}" for minute in minutes]
        stamps = await answered(self._metrics.stamps([*names, *tails_of(names)]))
        self._taken = {minute: known for minute, known in self._taken.items() if minute in minutes}
        self._awake = {minute for minute in self._awake if minute >= minutes.start}
        self._marked.intersection_update(minutes)
        for at, minute in enumerate(minutes):
            seen = (epoch, stamps[at], stamps[at + len(names)])
            if (any(seen[1:]) or minute in self._awake) and minute not in self._marked:
                self._waiting[HistoryBucket(MINUTE, minute * MINUTE)] = self._mark
                self._marked.add(minute)
            if any(seen[1:]) and self._taken.get(minute) != seen:
                summary = await self._minute(names[at])
                if (await answered(self._metrics.record())).epoch != epoch:
                    return  # the store has lost everything meanwhile: the next pass knows what it has now
                rows = await self._thread.run(partial(rows_of, summary, pause=Pauses()))
                if rows:
                    self._waiting[HistoryBucket(MINUTE, minute * MINUTE, epoch)] = rows
                self._taken[minute] = seen

    async def _write(self, token: int | None) -> bool:
        """Write what waits, the oldest first. One that the store does not take holds up no other."""
        self._bound_waiting()
        failed: StoreError | None = None
        for bucket in sorted(self._waiting):
            try:
                if not await self._history.write(bucket, self._waiting[bucket], token=token):
                    return False
            except StoreUnavailable:
                raise
            except StoreError as exc:
                failed = exc
                continue
            del self._waiting[bucket]
        if failed is not None:
            raise failed
        return True

    def _bound_waiting(self) -> None:
        sizes = {bucket: sum(BESIDE + len(row.value) for row in rows) for bucket, rows in self._waiting.items()}
        over = sum(sizes.values()) - MOST_WAITING
        for bucket in sorted(sizes):
            if over <= 0:
                return
            log.warning("a minute of the traffic is left out of the history: the documents have been away for too long")
            del self._waiting[bucket]
            over -= sizes[bucket]

    async def _minute(self, name: str) -> Summary:
        """A minute over all workers."""
        summary = Summary()
        for window in (await self._windows.read([name, *tails_of([name])], now=self._clock())).values():
            await self._thread.run(partial(summary.add, window, pause=Pauses()))
        return summary

    async def _roll_up(self, token: int | None) -> bool:
        for finer, resolution in pairwise(RESOLUTIONS):
            for due in await self._history.due():
                if due.resolution == resolution and due.start + resolution + SETTLED <= self._clock():
                    found = await self._history.read([Span(finer, due.start, due.start + resolution)])
                    rows = await self._thread.run(partial(rolled_up, [past.row for past in found], pause=Pauses()))
                    bucket = HistoryBucket(resolution, due.start)
                    if not await self._history.write(bucket, rows, token=token, stamp=due.stamp):
                        return False
        return True

    async def _prune(self, token: int | None) -> bool:
        now = self._clock()
        if self._pruned <= now < self._pruned + PRUNE_PERIOD:
            return True
        before = {resolution: int(now - kept) for resolution, kept in KEPT.items()}
        for _ in range(MOST_PRUNES):
            if not await self._history.prune(before, token=token):
                break
        if not await self._forget_persons(before[HOUR], token):
            return False
        self._pruned = now
        return True

    async def _forget_persons(self, before: int, token: int | None) -> bool:
        """Leave out of the days what names persons, once their hours are not kept any more."""
        starts: set[int] = set()
        for name in PERSONAL:
            found = await self._history.read([Span(DAY, 0, before)], kind=USAGE, name=name)
            starts.update(past.start for past in found)
        for start in sorted(starts):
            found = await self._history.read([Span(DAY, start, start + DAY)])
            rows = [past.row for past in found if not is_personal(past.row)]
            if not await self._history.write(HistoryBucket(DAY, start), rows, token=token):
                return False
        return True
