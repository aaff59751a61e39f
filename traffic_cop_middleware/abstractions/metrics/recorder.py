"""What one worker counts: the slot of 10 seconds that runs, those before it, and the sum since the worker began.

Theory of operation. A request is counted once, into the figures of the running slot. When the slot is over (`turn`)
they are put aside untouched, and `fold` adds them to their minute and to the sum; so whatever is long to do works on
figures that no request writes to any more, and may run in a thread.

Invariant: the sum, the slots put aside and the running slot together hold each request once.

A window is written when it is over, a minute after each of its slots. So that a worker which is killed takes along no
more than what came after its last flush, the running slot is written as a window of its own, and as the *tail* of its
minute, too. Each flush that adds a slot to its minute replaces the tail, so a minute and its tail hold each request of
the worker once.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.metrics.families import counted_by
from traffic_cop_middleware.abstractions.metrics.figures import Figures, Name, encode
from traffic_cop_middleware.abstractions.metrics.series import OTHER_METHOD, OVERFLOW, Key, Series
from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed
from traffic_cop_middleware.contracts import Event, Flush

SLOT, MINUTE = 10, 60
"""Seconds."""
SLOTS_KEPT, MINUTES_KEPT = 12, 16
MOST_SERIES = 1_000
"""How many (route, method, status) one worker tells apart; the rest is one route."""
MOST_ASIDE = 6
"""Slots that are put aside before they are folded in any case, where nobody flushes."""


class Now(NamedTuple):
    """The running slot as it is at a moment: as sums (a blob), and packed. The sum goes `through` so many before it."""

    worker: str
    slot: int
    through: int
    sums: bytes
    packed: list[Any]


class WorkerFlush(NamedTuple):
    """What is to be written, and under which worker's name."""

    worker: str
    flush: Flush


class Recorder:
    """Counts for one worker. `clock` gives seconds since the epoch.

    With `keeps_whole` there is a second sum beside the one for the store, from which nothing is ever taken off: what
    is exported must not fall where the store keeps a worker's sum for it (`reborn`).
    """

    def __init__(
        self, *, clock: Callable[[], float], most_series: int = MOST_SERIES, keeps_whole: bool = False
    ) -> None:
        self.clock = clock
        self.worker = secrets.token_hex(8)
        """This worker's incarnation: under that name it writes."""
        self.sequence = 0
        """Counts what it has written."""
        self.gauges: list[Callable[[], Mapping[Name, int]]] = []
        """Those who know what is under way."""
        self._pid = os.getpid()
        self._most = most_series
        self._keeps_whole = keeps_whole
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self.began = self.clock()
        self.running = Figures()
        """Of the running slot; replaced when it is over."""
        self.fast: dict[tuple[int, str, int], Series] = {}
        """Series of the running slot by endpoint's identity, method and status: what most requests need of it."""
        self.slot = int(self.began // SLOT)
        self.ends = float((self.slot + 1) * SLOT)
        """When the running slot is over, by `clock`."""
        self._set_due(self.began)
        self._known: set[Key] = set()
        self._aside: list[tuple[int, Figures]] = []
        self._sum = Figures()
        self._whole = Figures() if self._keeps_whole else None
        self.through = 0
        """How many slots are in the sum. One that was ended early, and went on, counts twice."""
        self._slots: dict[int, Figures] = {}
        self._minutes: dict[int, Figures] = {}
        self._encoded: tuple[int, bytes] | None = None
        self.unsent: dict[str, int] = {}
        """The windows that are over and not acknowledged as they are, and the `through` that they go to."""
        self.last: list[WorkerFlush] = []
        """The last flushes of workers that this one was before, which are not known to have come."""

    def forked(self) -> None:
        """A process that was forked off counts for itself: what its parent has counted is the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.worker = secrets.token_hex(8)
            self.sequence = 0
            self._lock = threading.RLock()
            self._begin()

    # Counting

    def turn(self, *, early: bool = False) -> None:
        """Begin a new slot if the running one is over, or is to be. A clock that went back changes nothing."""
        now = max(self.clock(), float(self.slot * SLOT))
        if now < self.ends and not early:
            return
        self._aside.append((self.slot, self.running))
        self.running = Figures()
        self.fast.clear()
        self.slot = int(now // SLOT)
        self.ends = float((self.slot + 1) * SLOT)
        self._set_due(now)
        if len(self._aside) > MOST_ASIDE:
            self.fold()

    def _set_due(self, now: float) -> None:
        # A request has read this clock anyway. One that a test gives says itself how late it is.
        self.due = time.perf_counter() + self.ends - now if self.clock is time.time else 0.0
        """When `turn` has something to do, by `time.perf_counter`; always under another clock than `time.time`."""

    def series(self, key: Key, *, stream: bool = False) -> Series:
        """The running slot's series of a key, or of what stands for all that are too many."""
        of = self.running.streams if stream else self.running.requests
        found = of.get(key)
        if found is None:
            if key not in self._known:
                if len(self._known) >= self._most:
                    key = (OVERFLOW, OTHER_METHOD, key[2] // 100 * 100)
                else:
                    self._known.add(key)
            found = of.get(key)
            if found is None:
                found = of[key] = Series()
        return found

    def hear(self, event: Event) -> None:
        """Count what another part tells."""
        count = counted_by(event.kind)
        if count is not None:
            count(self.running, event.attributes)

    # Keeping

    @property
    def behind(self) -> bool:
        """Whether there are slots that are over and not in the sum."""
        return bool(self._aside)

    def fold(self) -> None:
        """Add the slots that are over to their minutes and to the sum. May run in a thread."""
        with self._lock:
            aside, self._aside = self._aside, []
            for slot, figures in aside:
                if slot in self._slots:  # it was ended early
                    self._slots[slot].merge(figures)
                else:
                    self._slots[slot] = figures
                self.through += 1
                self.unsent[f"10s:{slot}"] = self.through
                minute = slot * SLOT // MINUTE
                known = self._minutes.get(minute)
                if known is None:
                    known = self._minutes[minute] = Figures()
                known.merge(figures)
                self._sum.merge(figures, usage=False)
                if self._whole is not None:
                    self._whole.merge(figures, usage=False)
            now_minute = self.slot * SLOT // MINUTE
            for minute in [minute for minute in self._minutes if minute < now_minute - MINUTES_KEPT]:
                del self._minutes[minute]
                self.unsent.pop(f"1m:{minute}", None)
            for slot in [slot for slot in self._slots if slot < self.slot - SLOTS_KEPT]:
                del self._slots[slot]
                self.unsent.pop(f"10s:{slot}", None)
            if aside:
                first, last = aside[0][0] * SLOT // MINUTE, aside[-1][0] * SLOT // MINUTE
                for minute in self._minutes:
                    if first <= minute <= last:
                        self.unsent[f"1m:{minute}"] = self.through

    def flush(self, now: Now, *, whole: bool) -> WorkerFlush:
        """What to write: the running slot as it was `now`, what is unsent, and if it is to be `whole`, the sum.

        It is of no use where its worker and `through` are no longer those of `now`. May run in a thread.
        """
        with self._lock:
            through, total = self.total() if whole else (self.through, None)
            self.sequence += 1
            running = encode(now.packed)
            windows = {**self.windows(), f"10s:{now.slot}": running, f"tail:{now.slot * SLOT // MINUTE}": running}
            return WorkerFlush(self.worker, Flush(self.sequence, through, total, now.sums, windows))

    def total(self) -> tuple[int, bytes]:
        """The sum as a blob, and how many slots are in it. May run in a thread."""
        with self._lock:
            if self._encoded is None or self._encoded[0] != self.through:
                self._encoded = (self.through, encode_sums(self._sum))
            return self._encoded

    def whole(self) -> Figures:
        """A copy of all that was counted since `began`, up to the running slot. May run in a thread."""
        copy = Figures()
        with self._lock:
            self.fold()
            if self._whole is not None:
                copy.merge(self._whole, usage=False)
        return copy

    def now(self) -> Now:
        """What is not in the sum yet, the running slot, and what is under way."""
        with self._lock:  # while somebody folds, a slot is neither aside nor in the sum
            self.running.gauges = self.under_way().gauges
            return Now(self.worker, self.slot, self.through, encode_sums(self.running), self.running.packed())

    def under_way(self) -> Figures:
        """What is under way, alone."""
        figures = Figures()
        for gauges in self.gauges:
            for name, number in gauges().items():
                figures.gauges[name] = figures.gauges.get(name, 0) + number
        return figures

    def windows(self) -> Mapping[str, bytes]:
        """The windows that are over and not acknowledged, as blobs. May run in a thread.

        A minute is among them after each of its slots, and then its tail holds nothing.
        """
        with self._lock:
            own = {name: self.own(name) for name in self.unsent}
            found = {name: encode(figures.packed()) for name, figures in own.items() if figures is not None}
            return found | {name.replace("1m:", "tail:"): b"" for name in found if name.startswith("1m:")}

    def sent(self, names: Iterable[str], *, through: int) -> None:
        """These windows were acknowledged, as they were when the sum went `through` so many slots."""
        with self._lock:
            for name in names:
                if name in self.unsent and self.unsent[name] <= through:
                    del self.unsent[name]

    def own(self, name: str) -> Figures | None:
        """A window of this worker that is over, by its name."""
        kind, _, number = name.partition(":")
        with self._lock:
            return (self._slots if kind == "10s" else self._minutes).get(int(number))

    # Becoming another worker

    def reborn(self, total: bytes, now: bytes) -> None:
        """What this worker had written stays where it is without it: count on without that, as another worker."""
        with self._lock:
            self.fold()
            self._sum = _rest(self._sum, total, now)
            self._begin_anew()

    def end(self) -> None:
        """Make a `last` flush of all that was counted before this slot, and count on as another worker.

        It may be written as often as need be, and under its name nothing else will be: so it does not matter whether a
        reply was lost, nor whether others have put it into the record since. May run in a thread.
        """
        with self._lock:
            self.fold()
            through, total = self.total()
            nothing = encode_sums(Figures())
            flush = Flush(self.sequence + 1, through, total, nothing, self.windows(), final=True)
            self.last.append(WorkerFlush(self.worker, flush))
            self._sum = Figures()
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._encoded = None
        self._slots.clear()
        self._minutes.clear()
        self.unsent.clear()
        self.worker = secrets.token_hex(8)
        self.sequence = 0

    def came(self, last: WorkerFlush) -> None:
        """This last flush is where others read it."""
        with self._lock:
            if last in self.last:  # another event loop may have been faster
                self.last.remove(last)

    def reborn_last(self, last: WorkerFlush, total: bytes, now: bytes) -> None:
        """What the worker of this last flush had written stays where it is: the rest is another's. Not its windows."""
        with self._lock:
            if last in self.last:
                rest = _rest(summed([(last.flush.total or b"", False)], unreadable=strict), total, now)
                flush = last.flush._replace(sequence=1, total=encode_sums(rest), windows={})
                self.last[self.last.index(last)] = WorkerFlush(secrets.token_hex(8), flush)


def _rest(whole: Figures, total: bytes, now: bytes) -> Figures:
    whole.merge(summed([(blob, False) for blob in (total, now) if blob], unreadable=strict), sign=-1)
    return whole
