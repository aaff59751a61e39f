"""The registry in dicts, one list per service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from traffic_cop_middleware.contracts import MICRO, Instance, Instances
from traffic_cop_middleware.contracts.registry import MOST_HOLDERS, MOST_INSTANCES, check_instance, check_word
from traffic_cop_middleware.errors import StoreError


class Listing:
    """The instances of a service. Invariant: `holders` has those of `instances`, and each has one at least."""

    __slots__ = ("begun", "holders", "instances", "version")

    def __init__(self) -> None:
        self.version = 0
        self.begun = 0
        self.instances: dict[str, Instance] = {}
        self.holders: dict[str, dict[str, float]] = {}
        """When the announcement of each holder of each instance ends, in seconds on the store's clock."""

    def drop(self, name: str, holder: str) -> bool:
        """Forget a holder; whether the instance has none left, and is gone."""
        holders = self.holders.get(name, {})
        if holders.pop(holder, None) is None or holders:
            return False
        del self.holders[name], self.instances[name]
        return True


class MemoryInstances:
    """`InstanceStore` in one process, over all of its threads.

    `clock` gives seconds that never go back, `wall_clock` the seconds since the epoch.
    """

    shared = False

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._listings: dict[str, Listing] = {}
        self._last = 0

    def register(self, instance: Instance, *, holder: str) -> bool:
        check_instance(instance, holder)
        service, name = instance.service, instance.name
        with self._lock:
            listing = self._live(service)
            before = listing.instances.get(name)
            holders = listing.holders.get(name, {})
            if before is None and len(listing.instances) >= MOST_INSTANCES:
                raise StoreError(f"the service {service!r} has {MOST_INSTANCES} instances already, which is the most")
            if holder not in holders and sum(map(len, listing.holders.values())) >= MOST_HOLDERS:
                raise StoreError(f"the instances of {service!r} have {MOST_HOLDERS} holders, which is the most")
            holders[holder] = self._clock() + instance.ttl
            listing.holders[name] = holders
            if before == instance:
                return False
            listing.instances[name] = instance._replace(metadata=dict(instance.metadata))
            self._changed(service, listing)
            return True

    def unregister(self, service: str, name: str, *, holder: str) -> bool:
        _check_words(service, name, holder)
        with self._lock:
            listing = self._live(service)
            changed = listing.drop(name, holder)
            if changed:
                self._changed(service, listing)
            return changed

    def read(self, service: str, *, since: int = 0) -> Instances | None:
        check_word("a service's name", service)
        with self._lock:
            listing = self._live(service)
            if since and listing.version == since:
                return None
            found = [listing.instances[name] for name in sorted(listing.instances)]
            return Instances(listing.version, listing.begun, found)

    def figures(self) -> Mapping[str, int]:
        with self._lock:
            counted = {service: len(self._live(service).instances) for service in self._listings}
            return {service: number for service, number in counted.items() if number}

    def _live(self, service: str) -> Listing:
        """The list, without what has run out."""
        listing = self._listings.get(service)
        if listing is None:
            return Listing()
        now = self._clock()
        spent = [(name, each) for name, held in listing.holders.items() for each, ends in held.items() if ends <= now]
        gone = [name for name, holder in spent if listing.drop(name, holder)]
        if gone:
            self._changed(service, listing)
        return listing

    def _changed(self, service: str, listing: Listing) -> None:
        self._last = listing.version = max(self._last + 1, int(self._wall_clock() * MICRO))
        listing.begun = listing.begun or listing.version
        self._listings[service] = listing


def _check_words(service: str, name: str, holder: str) -> None:
    check_word("a service's name", service)
    check_word("an instance's name", name)
    check_word("an instance's holder", holder)
