"""What the workers in this process have counted: as a rule there is one."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from traffic_cop_middleware.adapters.memory.locked import locked
from traffic_cop_middleware.contracts import (
    MICRO,
    SEALED,
    Flush,
    Flushed,
    MetricsRecord,
    MetricsWindow,
    Totals,
    WorkerTotal,
)

MOST_WINDOWS = 24
"""How many windows of a kind are kept, the newest ones."""
MOST_GONE = 1_000
"""Workers of which it is known that they are in the record, the latest ones."""


@dataclass(slots=True)
class Written:
    """A worker's last flush, and when it came."""

    flush: Flush
    total: bytes
    at: float


class MemoryMetrics:
    """`MetricsStore` in this process, over all of its threads. `clock` gives seconds since the epoch."""

    shared = False

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._began: int | None = None
        self._workers: dict[str, Written] = {}
        self._gone: dict[str, tuple[bytes, bytes] | None] = {}
        """Who is in the record; with what, if it may only have been away."""
        self._version = 0
        self._record = b""
        self._writes = 0
        self._windows: dict[str, dict[str, bytes]] = {}
        self._stamps: dict[str, int] = {}
        self._sealed: dict[str, bytes] = {}

    @property
    def _epoch(self) -> int:
        """When this was first asked for anything, within a second before: processes that were forked off before that
        have one each, also where they are asked in the same microsecond."""
        if self._began is None:
            self._began = max(0, int(self._clock() * MICRO) - secrets.randbelow(MICRO))
        return self._began

    @locked
    def flush(self, worker: str, flush: Flush) -> Flushed:
        if worker in self._gone:
            retired = self._gone[worker]
            return Flushed(retired is None, self._epoch, self._version, retired)
        known = self._workers.get(worker)
        if known is not None and known.flush.sequence >= flush.sequence:
            return Flushed(True, self._epoch, self._version)
        self._writes += 1
        for name, part in flush.windows.items():
            self._parts(name)[worker] = part
            self._stamps[name] = self._writes
            self._sealed.pop(name, None)
        if flush.total is None and (known is None or known.flush.through != flush.through):
            return Flushed(False, self._epoch, self._version)
        total = flush.total if flush.total is not None or known is None else known.total
        self._workers[worker] = Written(flush, total or b"", self._clock())
        return Flushed(True, self._epoch, self._version)

    def _parts(self, name: str) -> dict[str, bytes]:
        found = self._windows.get(name)
        if found is None:
            kind = name.partition(":")[0] + ":"
            for oldest in [each for each in self._windows if each.startswith(kind)][: 1 - MOST_WINDOWS]:
                del self._windows[oldest], self._stamps[oldest]
                self._sealed.pop(oldest, None)
            found = self._windows[name] = {}
        return found

    @locked
    def totals(self) -> Totals:
        now = self._clock()
        workers = {
            name: WorkerTotal(
                written.flush.sequence, now - written.at, written.flush.final, written.total, written.flush.now
            )
            for name, written in self._workers.items()
        }
        return Totals(workers, self.record(), now - self._epoch / MICRO)

    @locked
    def record(self) -> MetricsRecord:
        return MetricsRecord(self._epoch, self._version, self._record)

    @locked
    def retire(self, at: MetricsRecord, value: bytes, workers: Mapping[str, int]) -> bool:
        if (at.epoch, at.version) != (self._epoch, self._version):
            return False
        if any(
            name not in self._workers or self._workers[name].flush.sequence != sequence
            for name, sequence in workers.items()
        ):
            return False
        for name in workers:
            gone = self._workers.pop(name)
            self._gone[name] = None if gone.flush.final else (gone.total, gone.flush.now)
        for name in [*self._gone][:-MOST_GONE]:
            del self._gone[name]
        self._version += 1
        self._record = value
        return True

    @locked
    def stamps(self, names: Sequence[str]) -> Sequence[int]:
        return [self._stamps.get(name, 0) for name in names]

    @locked
    def window(self, name: str) -> MetricsWindow:
        sealed = self._sealed.get(name)
        parts = {SEALED: sealed} if sealed is not None else dict(self._windows.get(name, {}))
        return MetricsWindow(self._stamps.get(name, 0), parts)

    @locked
    def seal(self, name: str, value: bytes, stamp: int) -> None:
        if stamp and stamp == self._stamps.get(name):
            self._sealed[name] = value
