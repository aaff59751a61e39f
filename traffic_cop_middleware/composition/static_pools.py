"""Pools of the upstreams that routes name, for one event loop."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.balancing.instances import MOST_NAME, Member
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Pool, Upstream

LONGEST_NAME = MOST_NAME - 10
"""Characters of a URL that go into a name, which leaves room for a number."""


Emit = Callable[[str, Mapping[str, Any]], None]


class Named(NamedTuple):
    """The pool that requests of a route went by last, and where its upstreams are."""

    places: frozenset[object]
    pool: BalancedPool


class StaticPools:
    """The pools of one event loop. A pool is there for as long as its destination.

    A route that is put anew has another destination. If that has the same upstreams, but for their weights, it takes
    over the pool of the one before, so that an instance that was out stays out. With other upstreams it gets a pool of
    its own: requests of the old route, which are still on their way, may not come to instances of the new one.
    `emit` hears of the instances, `changed` of each pool that is new or taken over, and of the code's settings for it.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        changed: Callable[[BalancedPool, BalancingSettings | None], None] = lambda pool, own: None,
    ) -> None:
        self._emit = emit
        self._changed = changed
        self._pools: weakref.WeakKeyDictionary[Pool, BalancedPool] = weakref.WeakKeyDictionary()
        self._named: dict[str, Named] = {}

    def of(self, destination: Pool, settings: BalancingSettings, name: str) -> BalancedPool:
        """The pool of a destination, made when it is first asked for."""
        found = self._pools.get(destination)
        if found is None:
            found = self._pools[destination] = self._taken_over(destination, settings, name)
        return found

    def _taken_over(self, destination: Pool, settings: BalancingSettings, name: str) -> BalancedPool:
        members = members_of(destination.upstreams)
        places = frozenset((each.name, each.upstream.origin) for each in members)
        before = self._named.get(name)
        if before is not None and before.places == places:
            before.pool.change(members)
            before.pool.configure(settings)
            self._changed(before.pool, settings)
            return before.pool
        pool = BalancedPool(name, members, settings, emit=self._emit)
        self._named[name] = Named(places, pool)
        self._changed(pool, settings)
        return pool

    def __iter__(self) -> Iterator[BalancedPool]:
        return iter(list(dict.fromkeys(self._pools.values())))

    def forget(self, names: Iterable[str]) -> None:
        """Routes of these names are no more."""
        for name in names:
            self._named.pop(name, None)
            self._named.pop(mirror_name(name), None)


def mirror_name(name: str) -> str:
    """What the pool is called that gets copies of a route's requests."""
    return f"{name} (mirror)"


def members_of(upstreams: Sequence[Upstream]) -> list[Member]:
    """Upstreams as members of a pool, named by their URL; of two with one URL the second is "URL #2"."""
    seen: Counter[str] = Counter()
    found: list[Member] = []
    for each in upstreams:
        name = each.url[:LONGEST_NAME]
        seen[name] += 1
        found.append(Member(each, name if seen[name] == 1 else f"{name} #{seen[name]}"))
    return found
