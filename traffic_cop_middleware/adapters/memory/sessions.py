"""Sessions in dicts, bounded.

A record is found by its key, stands in the order of use among the anonymous ones or among the others (the first is
the least recently used), and stands in `Deadlines` by its end. Every new session takes out two that ran out, so the
dicts shrink by themselves, with no pause for a sweep. At `max_sessions` the least recently used anonymous session makes
room, for anybody can make those; the least recently used of the others only where there is no anonymous one.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import count
from typing import Any

from traffic_cop_middleware.adapters.memory.deadlines import Deadlines
from traffic_cop_middleware.adapters.memory.locked import locked
from traffic_cop_middleware.contracts import (
    Created,
    Listed,
    Loaded,
    Rotated,
    SessionFigures,
    SessionKey,
)
from traffic_cop_middleware.contracts.sessions import generation_key
from traffic_cop_middleware.errors import SessionTooLarge, StoreError

log = logging.getLogger("traffic_cop.memory")

ANONYMOUS = "anonymous"
"""The kind of session that makes room first."""
SWEPT_PER_NEW_SESSION = 2
LONGEST = 1e9
"""Seconds that anything lasts at most: 31 years."""
WHOLE = 2**53
WHOLE_NUMBER = re.compile(r"-?[1-9][0-9]{0,15}|-?0")
_new = tuple.__new__


class Record:
    """A session. `data` is never changed but replaced, so that it can be handed out as it is."""

    __slots__ = (
        *("key", "kind", "kin", "number", "generation", "meta", "data", "size", "version"),
        *("created", "ends", "expires", "second", "rotation", "rotated"),
    )

    def __init__(
        self,
        key: SessionKey,
        *,
        kind: str,
        kin: OrderedDict[Record, None],
        number: int,
        generation: int,
        meta: str,
        data: Mapping[str, str],
        now: float,
        lifetime: float,
    ) -> None:
        self.key = key
        self.kind = kind
        self.kin = kin
        self.number = number
        self.generation = generation
        self.meta = meta
        self.data = dict(data)
        self.size = sum(size_of(name) + size_of(text) for name, text in data.items())
        self.version = 1
        self.created = self.rotated = now
        self.ends = now + min(lifetime, LONGEST)
        self.expires = now
        self.second = 0
        self.rotation = 0


class MemorySessions:
    """`SessionStore` over dicts. One operation at a time, over all threads of the process, so each is atomic.

    A generation is never used twice, so none need be remembered of a tag that has no sessions. `keyspace` gets the
    records and generations, for guards.
    """

    shared = False

    def __init__(
        self, *, clock: Callable[[], float], max_sessions: int = 100_000, keyspace: MutableMapping[str, Any]
    ) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._max_sessions = max_sessions
        self._keyspace = keyspace
        self._records: dict[SessionKey, Record] = {}
        self._tags: dict[str, dict[str, Record]] = {}
        self._anonymous: OrderedDict[Record, None] = OrderedDict()
        self._others: OrderedDict[Record, None] = OrderedDict()
        self._deadlines: Deadlines[Record] = Deadlines()
        self._ran_out: deque[tuple[SessionKey, str]] = deque(maxlen=max_sessions)
        self._counts: dict[str, int] = {}
        self._numbers = count(1)
        self._told_full = False

    def __len__(self) -> int:
        return len(self._records)

    # One session

    @locked
    def create(
        self,
        key: SessionKey,
        *,
        kind: str,
        meta: str,
        data: Mapping[str, str],
        idle: float,
        lifetime: float,
        limit: int | None = None,
        end_oldest: bool = True,
        replaces: str | None = None,
    ) -> Created:
        now = self._clock()
        self._clear(key, now)
        former = self._records.get(SessionKey(key.tag, replaces)) if replaces is not None else None
        if former is not None and now >= former.expires:
            former = None
        ended: list[str] = []
        if limit is not None:
            others = [record for record in self._of_tag(key.tag, now) if record is not former]
            if limit < 1 or (len(others) >= limit and not end_oldest):
                return Created(False, self._keyspace.get(key.generation, 0))
            for record in others[: max(0, len(others) - limit + 1)]:
                ended.append(record.key.id)
                self._drop(record)
        if former is not None:
            self._drop(former)
        for record in self._deadlines.over(now, SWEPT_PER_NEW_SESSION):
            self._run_out(record)
        if len(self._records) >= self._max_sessions:
            self._make_room()
        number = next(self._numbers)
        record = Record(
            key,
            kind=kind,
            kin=self._anonymous if kind == ANONYMOUS else self._others,
            number=number,
            generation=self._keyspace.setdefault(key.generation, number),
            meta=meta,
            data=data,
            now=now,
            lifetime=lifetime,
        )
        record.kin[record] = None
        self._place(record)
        record.expires = min(now + idle, record.ends)
        self._deadlines.put(record)
        return Created(True, record.generation, ended, former is not None)

    def load(self, key: SessionKey, *, generation: int) -> Loaded | None:
        with self._lock:  # as `locked`, which costs as much as all of it
            record = self._records.get(key)
            if record is None or record.generation != generation:
                return None
            now = self._clock()
            expires = record.expires
            if now >= expires:
                return None
            record.kin.move_to_end(record)
            version, ends, rotation = record.version, record.ends, record.rotation
            return _new(
                Loaded, (version, now - record.created, expires - now, ends - now, rotation, record.meta, record.data)
            )

    @locked
    def merge(
        self, key: SessionKey, changes: Mapping[str, str | None], *, generation: int, idle: float, most: int
    ) -> int | None:
        record = self._find(key, generation)
        if record is None:
            return None
        if changes:
            self._write(record, changes, most)
        self._begin_idle(record, idle)
        return record.version

    @locked
    def add(self, key: SessionKey, name: str, amount: int, *, generation: int, idle: float, most: int) -> int | None:
        if abs(amount) >= WHOLE:
            raise TypeError(f"{amount} can't be added to {name!r}: whole numbers stay within 2**53 here")
        record = self._find(key, generation)
        if record is None:
            return None
        before = record.data.get(name, "0")
        total = int(before) + amount if WHOLE_NUMBER.fullmatch(before) else WHOLE
        if max(abs(total), abs(total - amount)) >= WHOLE:
            raise TypeError(f"{name!r} has no whole number within 2**53, or would not have one any more")
        self._write(record, {name: str(total)}, most)
        self._begin_idle(record, idle)
        return total

    @locked
    def swap(
        self,
        key: SessionKey,
        name: str,
        before: str | None,
        after: str | None,
        *,
        generation: int,
        idle: float,
        most: int,
    ) -> bool | None:
        record = self._find(key, generation)
        if record is None:
            return None
        swapped = record.data.get(name) == before
        if swapped:
            self._write(record, {name: after}, most)
        self._begin_idle(record, idle)
        return swapped

    @locked
    def rotate(self, key: SessionKey, presented: int, *, grace: float, generation: int, idle: float) -> Rotated:
        record = self._find(key, generation)
        if record is None:
            return Rotated("gone")
        now = self._clock()
        if presented == record.rotation:
            record.rotation += 1
            record.rotated = now
            self._begin_idle(record, idle)
            return Rotated("rotated", record.rotation, 0.0)
        age = now - record.rotated
        if presented >= 0 and presented == record.rotation - 1 and age < grace:
            self._begin_idle(record, idle)
            return Rotated("replayed", record.rotation, age)
        self._drop(record)
        return Rotated("reused")

    @locked
    def move(self, key: SessionKey, to: SessionKey, *, meta: str, generation: int, idle: float) -> bool:
        if to.tag != key.tag:
            raise ValueError(f"a session of {key.tag!r} can't move to {to.tag!r}: make a new one, and end this one")
        record = self._find(key, generation)
        if record is None:
            return False
        self._clear(to, self._clock())
        self._displace(record)
        record.key = to
        record.meta = meta
        self._place(record)
        self._begin_idle(record, idle)
        return True

    @locked
    def end(self, key: SessionKey) -> bool:
        record = self._records.get(key)
        if record is None or self._clock() >= record.expires:
            return False
        self._drop(record)
        return True

    # The sessions of a tag

    @locked
    def list(self, tag: str) -> Sequence[Listed]:
        now = self._clock()
        return [
            Listed(
                record.key.id,
                record.version,
                now - record.created,
                record.expires - now,
                record.ends - now,
                record.meta,
            )
            for record in self._of_tag(tag, now)
        ]

    @locked
    def revoke(self, tag: str, *, keep: str | None = None) -> Sequence[str]:
        ended = [record for record in self._of_tag(tag, self._clock()) if record.key.id != keep]
        for record in ended:
            self._drop(record)
        return [record.key.id for record in ended]

    # All sessions

    @locked
    def revoke_all(self) -> int:
        return sum(len(self.revoke(tag)) for tag in [*self._tags])

    @locked
    def sweep(self, *, most: int = 1000) -> Sequence[tuple[SessionKey, str]]:
        if len(self._ran_out) < most:
            for record in self._deadlines.over(self._clock(), most - len(self._ran_out)):
                self._run_out(record)
        return [self._ran_out.popleft() for _ in range(min(most, len(self._ran_out)))]

    @locked
    def tally(self, counts: Mapping[str, int]) -> None:
        for name, number in counts.items():
            self._counts[name] = self._counts.get(name, 0) + number

    @locked
    def figures(self) -> SessionFigures:
        for record in self._deadlines.over(self._clock(), 2 * len(self._records)):  # one may be found twice
            self._run_out(record)
        active = Counter(record.kind for record in self._records.values())
        return SessionFigures(dict(active), dict(self._counts))

    # Within

    def _find(self, key: SessionKey, generation: int) -> Record | None:
        """A valid session, used by that."""
        record = self._records.get(key)
        if record is None or record.generation != generation or self._clock() >= record.expires:
            return None
        record.kin.move_to_end(record)
        return record

    def _of_tag(self, tag: str, now: float) -> Sequence[Record]:
        """The valid sessions of a tag, oldest first; what ran out of it is taken out."""
        for record in [*self._tags.get(tag, {}).values()]:
            if now >= record.expires:
                self._run_out(record)
        return sorted(self._tags.get(tag, {}).values(), key=number_of)

    def _clear(self, key: SessionKey, now: float) -> None:
        """Make sure that nothing stands under a key."""
        record = self._records.get(key)
        if record is not None:
            if now < record.expires:
                raise StoreError(
                    f"there is something already under {key.record!r}, and it stays: a new session needs a new id"
                )
            self._run_out(record)

    def _write(self, record: Record, changes: Mapping[str, str | None], most: int) -> None:
        size = record.size
        data = dict(record.data)
        for name, text in changes.items():
            if name in data:
                size -= size_of(name) + size_of(data.pop(name))
            if text is not None:
                size += size_of(name) + size_of(text)
                data[name] = text
        if size > most:
            raise SessionTooLarge(f"the session would hold {size} bytes; {most} is the most. Keep less in it")
        record.data = data
        record.size = size
        record.version += 1

    def _begin_idle(self, record: Record, idle: float) -> None:
        record.expires = min(self._clock() + idle, record.ends)
        if record.expires < record.second:
            self._deadlines.discard(record)
            self._deadlines.put(record)

    def _place(self, record: Record) -> None:
        self._records[record.key] = self._keyspace[record.key.record] = record
        self._tags.setdefault(record.key.tag, {})[record.key.id] = record

    def _displace(self, record: Record) -> None:
        del self._records[record.key], self._keyspace[record.key.record], self._tags[record.key.tag][record.key.id]

    def _drop(self, record: Record) -> None:
        """Forget a session, and the generation with the last one of a tag."""
        self._displace(record)
        if not self._tags[record.key.tag]:
            del self._tags[record.key.tag], self._keyspace[generation_key(record.key.tag)]
        del record.kin[record]
        self._deadlines.discard(record)

    def _run_out(self, record: Record) -> None:
        self._drop(record)
        self._ran_out.append((record.key, record.kind))

    def _make_room(self) -> None:
        if not self._told_full:
            self._told_full = True
            log.warning("%d sessions are the most, so the least recently used make room", self._max_sessions)
        self._drop(next(iter(self._anonymous or self._others)))


def size_of(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def number_of(record: Record) -> int:
    return record.number
