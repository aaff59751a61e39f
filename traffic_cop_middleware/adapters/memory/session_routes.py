"""Session routes in a dict, bounded.

What ran out is passed over, and taken out by `sweep`. At `max_routes` the one that would end soonest, of the 64 oldest,
makes room: its session is given an owner anew when it comes back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from traffic_cop_middleware.adapters.memory.locked import locked
from traffic_cop_middleware.contracts import SessionRoute

LOOKED_AT_WHEN_CROWDED = 64
MOST_SECONDS = 100 * 366 * 86_400
Key = tuple[str, str]


class Entry:
    """A route; `made` and `ends` are on the backend's clock."""

    __slots__ = ("ends", "instance", "made", "version")

    def __init__(self, instance: str, made: float, ends: float) -> None:
        self.instance = instance
        self.version = 1
        self.made = made
        self.ends = ends


class MemorySessionRoutes:
    """`SessionRouteStore` over a dict. One call at a time, over all threads, so each is atomic."""

    def __init__(self, *, clock: Callable[[], float], max_routes: int = 100_000) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._max_routes = max_routes
        self._entries: dict[Key, Entry] = {}
        """By id and service, oldest first."""
        self._services: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @locked
    def create(self, id: str, *, service: str, instance: str, ttl: float) -> SessionRoute:
        check_ttl(ttl)
        now = self._clock()
        entry = self._find((id, service), now)
        if entry is None:
            self._drop((id, service))
            if len(self._entries) >= self._max_routes:
                oldest = islice(self._entries.items(), LOOKED_AT_WHEN_CROWDED)
                self._drop(min(oldest, key=lambda item: item[1].ends)[0])
            entry = self._entries[id, service] = Entry(instance, now, now + ttl)
            self._services.setdefault(id, set()).add(service)
        return _route((id, service), entry, now)

    @locked
    def validate(self, id: str, *, service: str, ttl: float | None = None) -> SessionRoute | None:
        check_ttl(ttl)
        now = self._clock()
        entry = self._find((id, service), now)
        if entry is None:
            return None
        if ttl is not None:
            entry.ends = now + ttl
        return _route((id, service), entry, now)

    @locked
    def update(self, id: str, *, service: str, instance: str, version: int, ttl: float) -> SessionRoute | None:
        check_ttl(ttl)
        now = self._clock()
        entry = self._find((id, service), now)
        if entry is None or entry.version != version:
            return None
        entry.instance = instance
        entry.version += 1
        entry.ends = now + ttl
        return _route((id, service), entry, now)

    @locked
    def end(self, id: str, *, service: str | None = None) -> int:
        now = self._clock()
        keys = [(id, name) for name in self._services.get(id, ()) if service in (None, name)]
        live = [key for key in keys if self._find(key, now) is not None]
        for key in live:
            self._drop(key)
        return len(live)

    @locked
    def of(self, id: str) -> Sequence[SessionRoute]:
        now = self._clock()
        keys = [(id, service) for service in sorted(self._services.get(id, ()))]
        return [_route(key, entry, now) for key in keys if (entry := self._find(key, now)) is not None]

    @locked
    def active(
        self, *, service: str | None = None, instance: str | None = None, most: int = 1000
    ) -> Sequence[SessionRoute]:
        now = self._clock()
        found = (
            _route(key, entry, now)
            for key, entry in self._live(reversed(self._entries.items()), now)
            if service in (None, key[1]) and instance in (None, entry.instance)
        )
        return list(islice(found, most))

    @locked
    def sweep(self, *, most: int = 1000) -> int:
        now = self._clock()
        spent = list(islice((key for key, entry in self._entries.items() if entry.ends <= now), most))
        for key in spent:
            self._drop(key)
        return len(spent)

    @locked
    def figures(self) -> Mapping[str, Mapping[str, int]]:
        counted: dict[str, dict[str, int]] = {}
        for (_, service), entry in self._live(self._entries.items(), self._clock()):
            instances = counted.setdefault(service, {})
            instances[entry.instance] = instances.get(entry.instance, 0) + 1
        return counted

    def _find(self, key: Key, now: float) -> Entry | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.ends <= now else entry

    @staticmethod
    def _live(items: Iterable[tuple[Key, Entry]], now: float) -> Iterator[tuple[Key, Entry]]:
        return ((key, entry) for key, entry in items if entry.ends > now)

    def _drop(self, key: Key) -> None:
        if self._entries.pop(key, None) is None:
            return
        services = self._services[key[0]]
        services.discard(key[1])
        if not services:
            del self._services[key[0]]


def check_ttl(ttl: float | None) -> None:
    """Refuse what is no time to live.

    Raises:
        ValueError: it is not above 0 seconds, or above 100 years.
    """
    if ttl is not None and not 0 < ttl <= MOST_SECONDS:
        raise ValueError(f"ttl={ttl!r}: the seconds that a route lives, above 0 and at most {MOST_SECONDS}")


def _route(key: Key, entry: Entry, now: float) -> SessionRoute:
    id, service = key
    return SessionRoute(id, service, entry.instance, entry.version, entry.ends - now, now - entry.made)
