"""What the workers have counted, where all of them can read it.

Each worker writes under a name of its own and overwrites that with *absolute* figures: a write that is repeated, or
whose answer was lost, changes nothing, and a store that lost everything has it again after the next write. What the
figures are no store knows: to it they are blobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

SEALED = "="
"""In a window, in place of the workers: their figures as one. No worker has this name."""


class Flush(NamedTuple):
    """What a worker writes.

    `sequence` counts its writes; an older one never replaces a newer one. `total` is what it counted in its first
    `through` slots (`None`: as written before), `now` what came after that, `windows` its part of each by name. With
    `final` nothing will come after this, but perhaps the same again.
    """

    sequence: int
    through: int
    total: bytes | None
    now: bytes
    windows: Mapping[str, bytes]
    final: bool = False


class Flushed(NamedTuple):
    """What came of a flush.

    Not `accepted`: the store has no `total` of so many slots, so nothing but the windows was written; it is to be sent
    along. `epoch` says when the store began (microseconds), another one that it lost everything; `version` is that of
    the record. `retired`: this worker was taken for dead, and its `total` and `now` went into the record; nothing was
    written. Where its final flush went into the record, it is `accepted`, and nothing is written either.
    """

    accepted: bool
    epoch: int
    version: int
    retired: tuple[bytes, bytes] | None = None


class WorkerTotal(NamedTuple):
    """What a worker last wrote, and how many seconds ago."""

    sequence: int
    age: float
    final: bool
    total: bytes
    now: bytes


class MetricsRecord(NamedTuple):
    """What is kept of workers that are gone, changed by compare-and-set: `version` 0 where there is none."""

    epoch: int
    version: int
    value: bytes


class Totals(NamedTuple):
    """All workers' totals, and the record: of one moment. `age` is the epoch's, in seconds."""

    workers: Mapping[str, WorkerTotal]
    record: MetricsRecord
    age: float


class MetricsWindow(NamedTuple):
    """The `parts` of a window by worker; under `SEALED` alone where it was sealed, and nobody has written since.

    `stamp` is another one after each write into the window; 0 where nobody has written.
    """

    stamp: int
    parts: Mapping[str, bytes]


class MetricsStore(Protocol):
    """Keeps what workers have counted. One in this process answers at once; a shared one gives something to await.

    Every method raises `StoreUnavailable` where the store is not reached or not within the deadline, and `StoreError`
    where it answers with an error; what was to be written then may or may not have been.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes write here too."""
        ...

    def flush(self, worker: str, flush: Flush) -> Flushed | Awaitable[Flushed]:
        """Write what a worker has counted. One round trip."""
        ...

    def totals(self) -> Totals | Awaitable[Totals]:
        """What all workers have counted. Some round trips where they are many."""
        ...

    def record(self) -> MetricsRecord | Awaitable[MetricsRecord]:
        """The record alone. One round trip."""
        ...

    def retire(self, at: MetricsRecord, value: bytes, workers: Mapping[str, int]) -> bool | Awaitable[bool]:
        """Write the record's next version, and forget these workers (with the sequence that is in it) in one operation.

        False, and nothing done, where the record is no longer `at` that epoch and version, or a worker has written
        since. That they are in the record is known for a day, should one of them come back or repeat its final flush.
        """
        ...

    def stamps(self, names: Sequence[str]) -> Sequence[int] | Awaitable[Sequence[int]]:
        """The windows' stamps. One round trip."""
        ...

    def window(self, name: str) -> MetricsWindow | Awaitable[MetricsWindow]:
        """A window. Some round trips where the workers are many: a part may then be newer than the stamp."""
        ...

    def seal(self, name: str, value: bytes, stamp: int) -> object:
        """Keep a window's figures as one, made of its parts as they were at that stamp.

        Gives something to await where it is shared. Nothing is kept where somebody has written since.
        """
        ...
