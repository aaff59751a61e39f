"""Records in dicts, one per kind, in the order in which they were changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from itertools import takewhile

from traffic_cop_middleware.contracts import MICRO, Changes, Record
from traffic_cop_middleware.contracts.records import check_change, check_kind

MOST_GONE = 1_000
"""How many removals of a kind are remembered."""


class Collection:
    """The records of a kind. Invariant: `records` is in order of version, what was removed included."""

    __slots__ = ("forgotten", "gone", "records", "version")

    def __init__(self) -> None:
        self.version = 0
        self.records: dict[str, Record] = {}
        self.gone: dict[str, int] = {}
        """The versions of what was removed, oldest first."""
        self.forgotten = 0
        """The version of the newest removal that is no longer remembered."""

    def write(self, record: Record) -> None:
        before = self.records.get(record.name)
        if record.value is None and (before is None or before.value is None):
            return  # it is gone already
        self.records.pop(record.name, None)
        self.records[record.name] = record
        if record.value is not None:
            self.gone.pop(record.name, None)
            return
        self.gone[record.name] = record.version
        if len(self.gone) > MOST_GONE:
            name = next(iter(self.gone))
            self.forgotten = self.gone.pop(name)
            del self.records[name]

    def since(self, version: int) -> Changes:
        if version > 0 and self.forgotten <= version <= self.version:
            changed = list(takewhile(lambda record: record.version > version, reversed(self.records.values())))
            return Changes(self.version, changed[::-1], False)
        return Changes(self.version, [record for record in self.records.values() if record.value is not None], True)


class MemoryRecords:
    """`RecordStore` in one process, over all of its threads. `clock` gives the seconds since the epoch."""

    shared = False

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._collections: dict[str, Collection] = {}

    def read(self, kind: str, *, since: int = 0) -> Changes:
        check_kind(kind)
        with self._lock:
            collection = self._collections.get(kind)
            return Changes(0, [], True) if collection is None else collection.since(since)

    def change(self, kind: str, values: Mapping[str, str | None], *, at: int | None) -> int | None:
        check_change(kind, values)
        with self._lock:
            collection = self._collections.get(kind) or Collection()
            if at is not None and at != collection.version:
                return None
            self._collections[kind] = collection
            collection.version = max(collection.version + 1, int(self._clock() * MICRO))
            for name, value in values.items():
                collection.write(Record(name, collection.version, value))
            return collection.version
