"""State in dicts: items and tombstones by key, the keys of a namespace in order, and the last changes."""

from __future__ import annotations

import re
import secrets
import threading
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile

from traffic_cop_middleware.adapters.memory.deadlines import Deadlines
from traffic_cop_middleware.contracts import MICRO, Change, Changed, Item, Page, StateKey, Tier, Written
from traffic_cop_middleware.contracts.state import MOST_HOT, check_end, check_key, check_value

MOST_ITEMS = 100_000
"""How many items are kept; then the one that was not used for the longest time goes."""
MOST_TOMBSTONES = 10_000
MOST_CHANGES = 10_000
"""How many changes are remembered, of all tenants and namespaces together."""
SWEPT = 8
"""How many items that have an end each write looks at."""


class Held:
    """An item in its place. `second` belongs to `Deadlines`."""

    __slots__ = ("expires", "item", "second")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.expires = item.expires_at or 0.0
        self.second = 0


class MemoryState:
    """`StateStore` in one process, over all of its threads; it answers at once, and has no outbox.

    `clock` gives the seconds since the epoch. At most `MOST_ITEMS` items are kept, the least recently used go first: a
    tier other than `cache` is a promise that only who has documents can keep.

    Invariants. `_items` has what has a value, least recently used first, and `_names` the keys of exactly those, in
    order. `_gone` has tombstones, oldest first. A key is in one of the two at most.
    """

    shared = False
    outbox = None

    def __init__(self, *, clock: Callable[[], float], most_items: int = MOST_ITEMS) -> None:
        self._clock = clock
        self._most_items = most_items
        self._lock = threading.Lock()
        self._items: OrderedDict[StateKey, Held] = OrderedDict()
        self._gone: OrderedDict[StateKey, Item] = OrderedDict()
        self._names: dict[tuple[str, str], list[str]] = {}
        self._ends: Deadlines[Held] = Deadlines()
        self._changes: deque[tuple[int, StateKey, int, bool]] = deque(maxlen=MOST_CHANGES)
        self._changed = 0
        self._latest = 0
        """The clock as the last write saw it, and more than the write before: what was forgotten stays used."""
        self._epoch = secrets.token_hex(8)

    # One item

    def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None]:
        for key in keys:
            check_key(key)
        with self._lock:
            now = self._clock()
            return [self._look(key, now) for key in keys]

    def write(
        self,
        key: StateKey,
        value: str | None,
        *,
        tier: Tier | None,
        if_version: int | None = None,
        expires_at: float | None = None,
        missing: bool = False,
        judge: bool = False,
    ) -> Written:
        check_key(key)
        check_value(key, value, most=MOST_HOT)
        check_end(expires_at)
        with self._lock:
            now = self._clock()
            self._sweep(now)
            there = self._look(key, now)
            if there is None and not missing and (if_version is not None or tier is None):
                return Written("unknown")
            alive = there is not None and there.value is not None
            if if_version is not None and if_version != (there.version if there is not None and alive else 0):
                return Written("conflict", there)
            named = tier is not None or (there is not None and there.named)
            if tier is None and judge and not named:
                tier = "delayed"
            elif tier is None:
                tier = "cache" if there is None else there.tier
            if value is None or (expires_at is not None and expires_at <= now):
                value = expires_at = None
            self._latest = max(int(now * MICRO), self._latest + 1)
            version = max(self._latest, 0 if there is None else there.version + 1)
            item = Item(key, version, value, tier, now, expires_at, named)
            self._put(item)
            self._changed += 1
            self._changes.append((self._changed, key, version, value is None))
            return Written("written", item)

    def warm(self, items: Sequence[Item]) -> None:
        for item in items:
            check_key(item.key)
            check_value(item.key, item.value, most=MOST_HOT)
            check_end(item.expires_at)
        with self._lock:
            now = self._clock()
            self._sweep(now)
            for item in items:
                there = self._look(item.key, now)
                if there is None or there.version < item.version:
                    self._put(as_seen(item, now))

    def reshape(self, items: Sequence[Item]) -> Sequence[bool]:
        for item in items:
            check_key(item.key)
            check_value(item.key, item.value, most=MOST_HOT)
        with self._lock:
            now = self._clock()
            return [self._reshape(item, now) for item in items]

    def forget(self, key: StateKey, *, version: int) -> None:
        check_key(key)
        with self._lock:
            there = self._look(key, self._clock())
            if there is not None and there.version == version:
                self._remove(key)

    # Many

    def list(self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100) -> Page:
        check_place(tenant, namespace, prefix)
        with self._lock:
            now = self._clock()
            names = self._names.get((tenant, namespace), [])
            start = bisect_left(names, prefix)
            if after is not None:
                start = max(start, bisect_right(names, after))
            items: list[Item] = []
            for name in islice(names, start, None):
                if not name.startswith(prefix):
                    break
                item = self._items[StateKey(tenant, namespace, name)].item
                if item.expires_at is not None and item.expires_at <= now:
                    continue
                if len(items) >= most:
                    return Page(items, items[-1].key.key if items else after)
                items.append(item)
            return Page(items, None)

    def changes(
        self, tenant: str, namespace: str, *, prefix: str = "", since: str | None = None, most: int = 1000
    ) -> Changed:
        check_place(tenant, namespace, prefix)
        with self._lock:
            now = self._cursor(self._changed)
            if since is None:
                return Changed([], now)
            epoch, seen = read_cursor(since)
            if epoch != self._epoch or not self._changed - len(self._changes) <= seen <= self._changed:
                return Changed([], now, lost=True)
            newer = list(takewhile(lambda change: change[0] > seen, reversed(self._changes)))
        found = []
        for number, key, version, deleted in reversed(newer):
            if key[:2] == (tenant, namespace) and key.key.startswith(prefix):
                found.append(Change(key, version, deleted, self._cursor(number)))
                if len(found) >= most:
                    return Changed(found, found[-1].cursor)
        return Changed(found, now)

    def invalidations(self, heard: Callable[[Sequence[StateKey] | None], None]) -> None:
        """It answers at once, so nothing is to be kept in front of it."""

    def _cursor(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    # Under the lock

    def _look(self, key: StateKey, now: float) -> Item | None:
        """What there is, as it is answered. An item that has ended becomes its tombstone."""
        held = self._items.get(key)
        if held is None:
            return self._gone.get(key)
        item = as_seen(held.item, now)
        if item.value is None:
            self._put(item)
        else:
            self._items.move_to_end(key)
        return item

    def _reshape(self, item: Item, now: float) -> bool:
        """In its place, so that it was not used by that."""
        held = self._items.get(item.key)
        if held is None or item.value is None or held.item.version != item.version:
            return False
        if as_seen(held.item, now).value is None:
            return False
        held.item = held.item._replace(value=item.value, tier=item.tier)
        return True

    def _put(self, item: Item) -> None:
        if item.value is None:
            self._remove(item.key)
            self._gone[item.key] = item
            if len(self._gone) > MOST_TOMBSTONES:
                self._gone.popitem(last=False)
            return
        self._gone.pop(item.key, None)
        before = self._items.get(item.key)
        if before is None:
            insort(self._names.setdefault((item.key.tenant, item.key.namespace), []), item.key.key)
        elif before.item.expires_at is not None:
            self._ends.discard(before)
        self._items[item.key] = held = Held(item)
        self._items.move_to_end(item.key)
        if item.expires_at is not None:
            self._ends.put(held)
        if len(self._items) > self._most_items:
            self._remove(next(iter(self._items)))

    def _remove(self, key: StateKey) -> None:
        self._gone.pop(key, None)
        held = self._items.pop(key, None)
        if held is None:
            return
        if held.item.expires_at is not None:
            self._ends.discard(held)
        place = (key.tenant, key.namespace)
        names = self._names[place]
        del names[bisect_left(names, key.key)]
        if not names:
            del self._names[place]

    def _sweep(self, now: float) -> None:
        for held in self._ends.over(now, SWEPT):
            self._put(as_seen(held.item, now))


def as_seen(item: Item, now: float) -> Item:
    """An item as it is answered at `now`: a tombstone from its end on."""
    if item.expires_at is None or item.expires_at > now:
        return item
    return item._replace(value=None, expires_at=None)


def check_place(tenant: str, namespace: str, prefix: str) -> None:
    """Refuse what no key can begin with."""
    check_key(StateKey(tenant, namespace, prefix or "-"))


def read_cursor(text: str) -> tuple[str, int]:
    """The epoch of a store, and the number of a change.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9a-f]{16})-([0-9]{1,16})", text[:40])
    if found is None:
        raise ValueError(f"{text[:40]!r} is no cursor of this store: give the one that `changes` gave, or None")
    return found[1], int(found[2])
