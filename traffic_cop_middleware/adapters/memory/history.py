"""The history of the traffic in dicts, bounded: where no documents last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from traffic_cop_middleware.contracts import Due, Event, HistoryBucket, HistoryRow, Past, Span
from traffic_cop_middleware.contracts.history import RESOLUTIONS, around, check_rows
from traffic_cop_middleware.contracts.leases import passes

DEFAULT_MAX_MB = 64
MEGABYTE = 1024 * 1024
BESIDE = 250
"""Bytes that a row takes beside its words and its value, about."""
FULL = 0.95
"""Share of what may be kept that is left when there was too much: so that room is not looked for at each write."""


class MemoryHistory:
    """`HistoryStore` in this process. `max_mb` bounds what is kept: the oldest buckets of the finest resolution go
    first, those that are still to be rolled up last."""

    durable = False

    def __init__(self, *, max_mb: float = DEFAULT_MAX_MB) -> None:
        self._most = max_mb * MEGABYTE
        self._lock = threading.Lock()
        """`memory://name` is shared by the event loops of several threads."""
        self._rows: dict[int, dict[HistoryBucket, Sequence[HistoryRow]]] = {each: {} for each in RESOLUTIONS}
        self._size = 0
        self._due: dict[tuple[int, int], int] = {}
        self._fence: int | None = None
        self._count = 0

    async def connect(self, *, patience: float = 1.0) -> None:
        """Nothing to reach."""

    async def close(self) -> None:
        """Nothing to let go of: the history lives as long as this object."""

    async def write(
        self, bucket: HistoryBucket, rows: Sequence[HistoryRow], *, token: int | None = None, stamp: int | None = None
    ) -> bool:
        check_rows(bucket, rows)
        place = (bucket.resolution, bucket.start)
        with self._lock:
            if not self._passes(token) or (stamp is not None and self._due.get(place) != stamp):
                return False
            if stamp is not None:
                del self._due[place]
            self._forget(bucket)
            if rows:
                self._rows[bucket.resolution][bucket] = tuple(rows)
                self._size += size_of(rows)
            self._count += 1
            coarser = around(*place)
            if coarser is not None:
                self._due[coarser] = self._count
            self._make_room()
        return True

    def _passes(self, token: int | None) -> bool:
        if token is not None:
            if not passes(token, highest=self._fence):
                return False
            self._fence = token
        return True

    def _forget(self, bucket: HistoryBucket) -> None:
        self._size -= size_of(self._rows[bucket.resolution].pop(bucket, ()))

    def _make_room(self) -> None:
        if self._size <= self._most:
            return
        for needed in (False, True):
            for buckets in self._rows.values():
                for bucket in sorted(each for each in buckets if self._is_needed(each) is needed):
                    self._forget(bucket)
                    if self._size <= self._most * FULL:
                        return

    def _is_needed(self, bucket: HistoryBucket) -> bool:
        """Whether it is still to be rolled up."""
        return around(bucket.resolution, bucket.start) in self._due

    async def read(self, spans: Sequence[Span], *, kind: str | None = None, name: str | None = None) -> Sequence[Past]:
        with self._lock:
            found = [
                (bucket.start, rows)
                for span in spans
                for bucket, rows in self._rows[span.resolution].items()
                if span.start <= bucket.start < span.end
            ]
        return [
            Past(start, row)
            for start, rows in sorted(found, key=lambda each: each[0])
            for row in rows
            if (kind is None or row.kind == kind) and (name is None or row.name == name)
        ]

    async def due(self) -> Sequence[Due]:
        with self._lock:
            return [Due(*place, stamp) for place, stamp in sorted(self._due.items())]

    async def prune(self, before: Mapping[int, int], *, token: int | None = None) -> int:
        with self._lock:
            if not self._passes(token):
                return 0
            gone = [
                bucket
                for resolution, end in before.items()
                for bucket in self._rows[resolution]
                if bucket.start < end and not self._is_needed(bucket)
            ]
            for bucket in gone:
                self._forget(bucket)
        return len(gone)


def size_of(rows: Sequence[HistoryRow]) -> int:
    """Bytes that rows take, about."""
    return sum(BESIDE + sum(map(len, row)) for row in rows)


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> MemoryHistory:
    """For `memory://` and `memory://name`, as they name documents; what those are bounded by is no bound of this."""
    return MemoryHistory()
