"""What one worker counts: the slot of 10 seconds that runs, those before it, and the sum since the worker began.

Theory of operation. A request is counted once, into the figures that run. When their slot is over (`turn`), and before
each flush (`cut`), they are put aside untouched, and new ones begin; `fold` adds those of a slot that is over to its
minute and to the sum, and those of the slot that goes on to what is `open` of it. So whatever is long to do works on
figures that no request writes to any more, and may run in a thread.

Invariant: the sum, what is open, what is aside and what runs together hold each request once. Requests take no lock,
so where several event loops count, each in a thread of its own, one that is between the look for its series and its
count when another loop puts the figures aside may come too late for them, and is not counted.

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
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics.families import counted_by
from traffic_cop_middleware.abstractions.metrics.figures import Figures, Name
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import OTHER_METHOD, OVERFLOW, Key, Series
from traffic_cop_middleware.abstractions.metrics.summary import Summary, encode, summary_of
from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed
from traffic_cop_middleware.contracts import Event, Flush

SLOT, MINUTE = 10, 60
"""Seconds."""
SLOTS_KEPT, MINUTES_KEPT = 12, 16
MOST_SERIES = 1_000
"""How many (route, method, status) one worker tells apart; the rest is one route."""
MOST_ASIDE = 6
"""Slots that are put aside before they are folded in any case, where nobody flushes."""


class Piece(NamedTuple):
    """Figures of a slot that nobody writes to any more. `over`: nothing of the slot comes after it."""

    slot: int
    figures: Figures
    over: bool


class Open(NamedTuple):
    """What was counted of a slot that goes on, up to a cut: for the sum, and for the windows."""

    slot: int
    sums: Figures
    summary: Summary


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
        self.counting = threading.RLock()
        """Held by who counts from any thread (`business_metrics.py`), or anything but a request, and while the figures
        that run are put aside."""
        self.thread = 0
        """The one that turns the slots: that of the event loop. 0 before it is known."""
        self.gauges: list[Callable[[], Mapping[Name, int]]] = []
        """Those who know what is under way."""
        self.routes: list[Callable[[], Mapping[str, Collection[str]]]] = []
        """Those who know which routes there are, each with its methods; none where it takes any."""
        self._pid = os.getpid()
        self._most = most_series
        self._keeps_whole = keeps_whole
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self.began = self.clock()
        self.running = Figures()
        """Of the running slot since the last cut."""
        self.fast: dict[tuple[int, str, int], Series] = {}
        """Series of `running` by endpoint's identity, method and status: what most requests need of it. Who adds one
        has this before it looks for the series, so that none of other figures gets in."""
        self.slot = int(self.began // SLOT)
        self.ends = float((self.slot + 1) * SLOT)
        """When the running slot is over, by `clock`."""
        self._set_due(self.began)
        self._known: set[Key] = set()
        self._aside: list[Piece] = []
        self._open = Open(self.slot, Figures(), Summary())
        """Of the slot of the last cut, what was counted before it."""
        self._under_way: dict[Name, int] = {}
        """The gauges at the last cut."""
        self._sum = Figures()
        self._whole = Figures() if self._keeps_whole else None
        self.through = 0
        """How many slots are in the sum. One that was ended early, and went on, counts twice."""
        self._slots: dict[int, Summary] = {}
        self._minutes: dict[int, Summary] = {}
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
            self.counting = threading.RLock()
            self._begin()

    # Counting

    def turn(self, *, early: bool = False) -> None:
        """Begin a new slot if the running one is over, or is to be. A clock that went back changes nothing."""
        self.thread = threading.get_ident()
        with self.counting:  # nobody puts aside figures of a slot that is over as if it went on
            now = max(self.clock(), float(self.slot * SLOT))
            if now < self.ends and not early:
                return
            self._put_aside(over=True)
            self.slot = int(now // SLOT)
            self.ends = float((self.slot + 1) * SLOT)
            self._set_due(now)
        if len(self._aside) > MOST_ASIDE:
            self.fold()

    def cut(self) -> None:
        """Put aside what was counted of the running slot so far: for `flush`. What is under way is noted."""
        self._under_way = self.under_way().gauges
        self._put_aside(over=False)

    def _put_aside(self, *, over: bool) -> None:
        with self.counting:
            piece = Piece(self.slot, self.running, over)
            self._aside.append(piece)
            self.running = Figures()
            self.fast = {}

    def _set_due(self, now: float) -> None:
        # A request has read this clock anyway. One that a test gives says itself how late it is.
        self.due = time.perf_counter() + self.ends - now if self.clock is time.time else 0.0
        """When `turn` has something to do, by `time.perf_counter`; always under another clock than `time.time`."""

    def series(self, key: Key, *, stream: bool = False) -> Series:
        """The series of a key that runs, or of what stands for all that are too many."""
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
                found = of.setdefault(key, Series())  # of another loop, if that was faster
        return found

    def hear(self, event: Event) -> None:
        """Count what another part tells."""
        count = counted_by(event.kind)
        if count is not None:
            with self.counting:
                count(self.running, event.attributes)

    # Keeping

    @property
    def size(self) -> int:
        """How many series the next flush goes through, about."""
        every = [self._open.sums, *(piece.figures for piece in [*self._aside])]
        return sum(len(figures.requests) + len(figures.business) for figures in every)

    @property
    def behind(self) -> bool:
        """Whether there are slots that are over and not in the sum."""
        return any(piece.over for piece in [*self._aside])

    def fold(self, *, pause: Callable[[], None] = never) -> None:
        """Add the slots that are over to their minutes and to the sum. May run in a thread."""
        with self._lock:
            aside = []
            while self._aside:  # others may append: nothing of it may get lost between a look and a replacement
                aside.append(self._aside.pop(0))
            over: list[Open] = []
            for slot, figures, is_over in aside:
                summary = summary_of(figures, pause=pause)
                opened = Open(slot, figures, summary)
                if slot == self._open.slot:
                    opened = self._open
                    opened.summary.add(summary, pause=pause)
                    opened.sums.merge(figures, buckets=self._keeps_whole, pause=pause)
                if is_over:
                    over.append(opened)
                    opened = Open(slot, Figures(), Summary())
                self._open = opened
            for slot, sums, summary in over:
                if slot in self._slots:  # it was ended early
                    self._slots[slot].add(summary, pause=pause)
                else:
                    self._slots[slot] = summary
                self.through += 1
                self.unsent[f"10s:{slot}"] = self.through
                self._minutes.setdefault(slot * SLOT // MINUTE, Summary()).add(summary, pause=pause)
                self._sum.merge(sums, buckets=False, pause=pause)
                if self._whole is not None:
                    self._whole.merge(sums, pause=pause)
            now_minute = self.slot * SLOT // MINUTE
            for minute in [minute for minute in self._minutes if minute < now_minute - MINUTES_KEPT]:
                del self._minutes[minute]
                self.unsent.pop(f"1m:{minute}", None)
            for slot in [slot for slot in self._slots if slot < self.slot - SLOTS_KEPT]:
                del self._slots[slot]
                self.unsent.pop(f"10s:{slot}", None)
            if over:
                first, last = over[0].slot * SLOT // MINUTE, over[-1].slot * SLOT // MINUTE
                for minute in self._minutes:
                    if first <= minute <= last:
                        self.unsent[f"1m:{minute}"] = self.through

    def flush(self, acknowledged: tuple[str, int], *, whole: bool, pause: Callable[[], None] = never) -> WorkerFlush:
        """What to write: what is open as it was at the last `cut`, what is unsent, and if need be the sum.

        There is need if it is to be `whole`, or if what was `acknowledged` is the sum of another worker, or through
        other slots. May run in a thread, and then with pauses.
        """
        with self._lock:
            self.fold(pause=pause)
            whole = whole or acknowledged != (self.worker, self.through)
            through, total = self.total(pause=pause) if whole else (self.through, None)
            self.sequence += 1
            slot, sums, summary = self._open
            sums.gauges = self._under_way
            running = encode(summary, pause=pause)
            windows = {**self.windows(pause=pause), f"tail:{slot * SLOT // MINUTE}": running}
            # A slot that was over before this was called, or was ended early, is written with all that is known of it.
            windows[f"10s:{slot}"] = encode(self.window(f"10s:{slot}")) if slot in self._slots else running
            now = encode_sums(sums, pause=pause)
            return WorkerFlush(self.worker, Flush(self.sequence, through, total, now, windows))

    def total(self, *, pause: Callable[[], None] = never) -> tuple[int, bytes]:
        """The sum as a blob, and how many slots are in it. May run in a thread."""
        with self._lock:
            if self._encoded is None or self._encoded[0] != self.through:
                self._encoded = (self.through, encode_sums(self._sum, pause=pause))
            return self._encoded

    def whole(self) -> Figures:
        """A copy of all that was counted since `began`, up to the running slot. May run in a thread."""
        copy = Figures()
        with self._lock:
            self.fold()
            if self._whole is not None:
                copy.merge(self._whole)
        return copy

    def under_way(self) -> Figures:
        """What is under way, alone."""
        figures = Figures()
        for gauges in self.gauges:
            for name, number in gauges().items():
                figures.gauges[name] = figures.gauges.get(name, 0) + number
        return figures

    def windows(self, *, pause: Callable[[], None] = never) -> Mapping[str, bytes]:
        """The windows that are over and not acknowledged, as blobs. May run in a thread.

        A minute is among them after each of its slots, and then its tail holds nothing.
        """
        with self._lock:
            found = {name: encode(self.window(name), pause=pause) for name in self.unsent}
            return found | {name.replace("1m:", "tail:"): b"" for name in found if name.startswith("1m:")}

    def sent(self, names: Iterable[str], *, through: int) -> None:
        """These windows were acknowledged, as they were when the sum went `through` so many slots."""
        with self._lock:
            for name in names:
                if name in self.unsent and self.unsent[name] <= through:
                    del self.unsent[name]

    def window(self, name: str) -> Summary:
        """A copy of a window of this worker, as far as it was folded. May run in a thread."""
        kind, _, number = name.partition(":")
        copy = Summary()
        with self._lock:
            found = (self._slots if kind == "10s" else self._minutes).get(int(number))
            if found is not None:
                copy.add(found)
            if name == f"10s:{self._open.slot}":
                copy.add(self._open.summary)
        return copy

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
