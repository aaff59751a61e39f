"""The traffic of all workers: each writes what it has counted now and then, and whoever asks reads all of it.

What a worker writes is absolute (`contracts/metrics.py`), so a write that failed is made good by the next one, and
nothing counts twice. Workers that ended are added up in one record; one that was only thought to be gone takes its sums
off when it comes back. Whatever is long to do runs in a thread, and no request waits for any of it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import anyio

from traffic_cop_middleware.abstractions.advisor.history import HistoryAdvice
from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.history.keeping import SETTLED, HistoryKeeper
from traffic_cop_middleware.abstractions.history.questions import PERSONS, up_to_now
from traffic_cop_middleware.abstractions.history.ranges import Window
from traffic_cop_middleware.abstractions.insights.questions import InsightQuestions
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.live import Live, Period, gauges_of, period_of
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses
from traffic_cop_middleware.abstractions.metrics.record import Gone, read, united, with_workers
from traffic_cop_middleware.abstractions.metrics.recorder import MINUTE, SLOT, Recorder
from traffic_cop_middleware.abstractions.metrics.summary import Summary
from traffic_cop_middleware.abstractions.metrics.sums import summed
from traffic_cop_middleware.abstractions.metrics.windows import Windows, left_out, tails_of, to_seal, windows_at
from traffic_cop_middleware.contracts import HistoryStore, MetricsRecord, MetricsStore, Past, Totals, WorkerTotal
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.loops import OneThread, Turns

log = logging.getLogger("traffic_cop")
T = TypeVar("T")

SILENT = 600.0
"""Seconds after which a worker that writes nothing is taken for dead."""
TURN_PERIOD = 60.0
"""Seconds between two looks for workers that are gone, over all workers together."""
SEAL_PERIOD = 5.0
"""Seconds between two looks for windows to seal, over all workers together: a slot is sealed soon after it is over."""
MOST_TURNS = 5
SHORTEST = 0.001
"""Seconds that counters are old at least, for rates."""
LATE_MINUTES = 2
"""By how many minutes who makes the history may be late before a question misses something."""
MOST_INLINE = 25
"""Series that are written without a thread: that takes about a millisecond."""


class Counted(NamedTuple):
    """What all workers have counted since the counters began, and how many of them are alive."""

    figures: Figures
    workers: int
    complete: bool


class FoundFigures(NamedTuple):
    """What there is from `start` to `end`: rows of the `past`, and the minutes after that, by their start."""

    start: int
    end: float
    past: Sequence[Past]
    live: Mapping[int, Summary]


class AnalyticsAbstraction(InsightQuestions, HistoryAdvice):
    """What the traffic does, and what it did: `await cop.analytics.live()`, `await cop.analytics.traffic("24h")`.

    `interval` is how often this worker writes what it has counted (seconds). Without a `history` nothing can be asked
    of the past.
    """

    def __init__(
        self, store: MetricsStore, recorder: Recorder, *, interval: float, history: HistoryStore | None
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._interval = interval
        self._flushing = Turns()
        self._acknowledged = ("", 0)
        """The worker, and through how many slots the store has its sum."""
        self._record: MetricsRecord | None = None
        self._heal_until = 0.0
        self._workers = 0
        """How many there are; 0 before this one has looked."""
        self._thread = OneThread()
        self._windows = Windows(store, thread=self._thread)
        past = OneThread()  # what is long about the past holds up no flush
        self._late = Windows(store, thread=past)
        self.keeper: HistoryKeeper | None = None
        """Makes the history, in the worker that leads; where each process counts for itself, in each."""
        catch_up = None
        if history is not None:
            self.keeper = HistoryKeeper(store, history, clock=recorder.clock, thread=past, flush=self.flush)
            if self.keeper.by_itself:
                catch_up = partial(self.keeper.take, token=None)
        super().__init__(history, clock=recorder.clock, thread=past, catch_up=catch_up, routes=recorder.routes)

    # Reading

    async def live(self) -> Live:
        """The traffic of the last 10 seconds, minute and 15 minutes, over all workers.

        By route, status, upstream and limit: rates, quantiles, errors, bytes, who used how much. Each period ends now
        and begins with a whole 10 seconds, so it is up to 10 seconds longer than its name (`seconds`). It flushes this
        worker and reads the others': some round trips. While the store is away it tells of this worker alone.
        """
        recorder = self._recorder
        try:
            await self.flush()
            slots, minutes = windows_at(recorder.slot)
            tails = tails_of(minutes)
            windows = await self._windows.read([*slots, *minutes, *tails], now=recorder.clock())
            totals = await answered(self._store.totals())
        except StoreError:
            recorder.turn()
            recorder.cut()
            (slots, minutes), tails = windows_at(recorder.slot), []
            windows = await self._thread.run(self._own_windows, [*minutes, *slots])
            under_way, workers, complete, age = recorder.under_way(), 1, False, 0.0
        else:
            under_way = await self._thread.run(partial(self._under_way, totals))
            workers, complete = self._alive(totals), True
            age = totals.age if self._store.shared else 0.0
        age = max(age, recorder.clock() - recorder.began, SHORTEST)
        elapsed = recorder.clock() - recorder.slot * SLOT

        def periods() -> tuple[Period, Period, Period]:
            pause = Pauses()

            def period(names: Sequence[str], seconds: float) -> Period:
                summary = Summary()
                for name in names:
                    summary.add(windows[name], pause=pause)
                return period_of(summary, min(seconds, age), pause=pause)

            in_minute = recorder.slot % (MINUTE // SLOT)
            return (
                period(slots[-2:], SLOT + elapsed),
                period(slots[-7:], MINUTE + elapsed),
                period([*minutes, *tails, *slots], len(minutes) * MINUTE + MINUTE + in_minute * SLOT + elapsed),
            )

        ten, one, fifteen = await self._thread.run(periods)
        return Live(
            last_10_seconds=ten,
            last_minute=one,
            last_15_minutes=fifteen,
            workers=workers,
            complete=complete,
            in_flight=gauges_of(under_way, families.IN_FLIGHT),
            sockets_open=gauges_of(under_way, families.SOCKETS_OPEN),
        )

    async def figures(
        self, window: Window, *, kinds: Sequence[tuple[str, str | None]], step: int | None = None
    ) -> FoundFigures:
        """The rows of these kinds (and names) of a stretch up to this moment, from the history and the live windows.

        It flushes this worker. Two round trips to the documents for each kind, and some to the backend for each minute
        that was written into since the last look.

        Raises:
            ConfigurationError: no such stretch; more than 3,000 steps, or none that is still kept.
            StoreUnavailable: the backend or the documents are away.
        """
        now = self._recorder.clock()
        start, end = up_to_now(window, now, step=step, persons=not PERSONS.isdisjoint(kinds))
        settled = int((now - SETTLED) // MINUTE - (LATE_MINUTES if self._store.shared else 0)) * MINUTE
        split = min(max(settled, start), end)
        past = [each for kind, name in kinds for each in await self.past(start, split, kind=kind, name=name, step=step)]
        live = await self._minutes(split // MINUTE, end // MINUTE) if split < end else {}
        return FoundFigures(start, min(float(end), max(now, float(start))), past, live)

    async def _minutes(self, first: int, last: int) -> Mapping[int, Summary]:
        """Minutes as all workers have counted them by now, by their start."""
        await self.flush()
        names = [f"1m:{minute}" for minute in range(first, last)]
        windows = await self._late.read([*names, *tails_of(names)], now=self._recorder.clock())

        def minutes() -> Mapping[int, Summary]:
            pause, found = Pauses(), {}
            for minute, name, tail in zip(range(first, last), names, tails_of(names), strict=True):
                found[minute * MINUTE] = summary = Summary()
                summary.add(windows[name], pause=pause)
                summary.add(windows[tail], pause=pause)
            return found

        return await self._thread.run(minutes)

    async def totals(self) -> Counted:
        """All that was counted since the counters began, over all workers, and what is under way.

        No counter of it ever falls. Some round trips.

        Raises:
            StoreUnavailable: the store is away; or it has lost everything a moment ago, and not all workers have
                written again.
        """
        await self.flush()
        totals = await answered(self._store.totals())
        if time.monotonic() < self._heal_until:
            raise StoreUnavailable("the store has lost its counters, and the workers are writing them again")
        await self._retire(totals)
        figures = await self._thread.run(partial(self._summed, totals))
        return Counted(figures, self._alive(totals), self._store.shared)

    def _alive(self, totals: Totals) -> int:
        self._workers = max(1, sum(not each.final and each.age < self._fresh for each in totals.workers.values()))
        return self._workers

    @property
    def _fresh(self) -> float:
        """Seconds since its last write for which a worker is alive."""
        return max(10.0, 3 * self._interval)

    def _summed(self, totals: Totals) -> Figures:
        gone = read(totals.record.value, totals.record.epoch)
        blobs = [(gone.figures, False)]
        for each in totals.workers.values():
            blobs += [(each.total, False), (each.now, not each.final and each.age < self._fresh)]
        return summed([pair for pair in blobs if pair[0]], unreadable=left_out)

    def _under_way(self, totals: Totals) -> Figures:
        alive = [each.now for each in totals.workers.values() if not each.final and each.age < self._fresh]
        return summed([(blob, True) for blob in alive if blob], unreadable=left_out)

    def _own_windows(self, names: Sequence[str]) -> Mapping[str, Summary]:
        self._recorder.fold(pause=Pauses())
        return {name: self._recorder.window(name) for name in names}

    # Writing

    async def flush(self) -> None:
        """Write what this worker has counted, so that the others can read it. One round trip, or two.

        It is written by itself at every interval, and at the end.

        Raises:
            StoreUnavailable: the store is away; what was counted is kept, and written later.
        """
        recorder = self._recorder
        async with self._flushing:
            recorder.forked()
            await self._write_last()
            whole = False
            for _ in range(MOST_TURNS):
                recorder.turn()
                recorder.cut()
                make = partial(recorder.flush, self._acknowledged, whole=whole)
                # Who writes in a thread may hold up the others.
                busy = self._thread.busy
                long = whole or busy or recorder.behind or recorder.unsent or recorder.size > MOST_INLINE
                worker, flush = await self._thread.run(partial(make, pause=Pauses())) if long else make()
                flushed = await answered(self._store.flush(worker, flush))
                if worker != recorder.worker:
                    continue  # on another event loop it was ended meanwhile
                if flushed.retired is not None:
                    await self._thread.run(recorder.reborn, *flushed.retired)
                elif flushed.accepted:
                    self._acknowledged = (worker, flush.through)
                    recorder.sent(flush.windows, through=flush.through)
                    await self._learn(flushed.epoch, flushed.version)
                    return
                whole = True
            raise StoreError("what was counted can't be written: the store wants it whole again and again")

    async def end(self) -> None:
        """Write all there is, for the last time. A store that is away is let be.

        A process that goes on all the same, as after another start of its app, counts as another worker. What could
        not be written, or of which that is not known, it writes again.
        """
        recorder = self._recorder
        try:
            async with self._flushing:
                recorder.forked()
                await self._write_last()  # of an end before this one
                recorder.turn(early=True)
                await self._thread.run(recorder.end)
                await self._write_last()
        except StoreError as exc:
            log.warning("what this worker has counted since its last flush is lost if its process ends now: %s", exc)

    async def _write_last(self) -> None:
        """Write the last flushes of workers that this one was before, if they are not known to have come."""
        recorder = self._recorder
        for _ in range(MOST_TURNS):
            if not recorder.last:
                return
            last = recorder.last[0]
            flushed = await answered(self._store.flush(*last))
            if flushed.retired is not None:
                await self._thread.run(recorder.reborn_last, last, *flushed.retired)
            else:
                recorder.came(last)
                await self._learn(flushed.epoch, flushed.version)
        raise StoreError("what was counted before the last end can't be written: the store has it as another's")

    async def keep_flushing(self) -> None:
        """Write at every interval, until cancelled."""
        while True:
            await anyio.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, no secret
            try:
                await self.flush()
                if self._has_turn(TURN_PERIOD):
                    totals = await answered(self._store.totals())
                    self._alive(totals)
                    await self._retire(totals)
                if self._workers and self._has_turn(SEAL_PERIOD):
                    recorder = self._recorder
                    await self._windows.seal(to_seal(recorder.slot), now=recorder.clock())
            except StoreError as exc:  # the store has told of its loss; the next time will do
                log.debug("not flushed: %s", exc)
            except Exception:
                log.exception("the metrics were not flushed; they will be the next time")

    def _has_turn(self, period: float) -> bool:
        """Whether this worker is the one of all that does something now which one of them does in every `period`."""
        return random.random() * period * max(1, self._workers) < self._interval  # noqa: S311 - by turns

    # Workers that are gone

    async def _learn(self, epoch: int, version: int) -> None:
        """Know the record as it stands, and bring back one that the store has lost."""
        known = self._record
        if known is not None and (known.epoch, known.version) == (epoch, version):
            return
        found = await answered(self._store.record())
        if known is not None and known.epoch != found.epoch:
            self._heal_until = time.monotonic() + self._fresh
            whole = await self._thread.run(
                lambda: united(read(found.value, found.epoch), read(known.value, known.epoch))
            )
            if whole is not None:
                if not await answered(self._store.retire(found, whole.text(), {})):
                    return  # another was faster: the next flush looks again
                found = MetricsRecord(found.epoch, found.version + 1, whole.text())
        self._record = found

    async def _retire(self, totals: Totals) -> None:
        """Add the workers that are gone to the record."""
        gone = {
            name: each
            for name, each in totals.workers.items()
            if (each.final or each.age > SILENT) and name != self._recorder.worker
        }
        if gone:
            try:
                value = await self._thread.run(partial(_retired, totals.record, gone))
            except ValueError as exc:
                log.warning("workers that are gone stay apart: %s", exc)  # a newer version can read them
                return
            sequences = {name: each.sequence for name, each in gone.items()}
            await answered(self._store.retire(totals.record, value.text(), sequences))


def _retired(record: MetricsRecord, gone: Mapping[str, WorkerTotal]) -> Gone:
    blobs = [blob for each in gone.values() for blob in (each.total, each.now) if blob]
    return with_workers(read(record.value, record.epoch), blobs)
