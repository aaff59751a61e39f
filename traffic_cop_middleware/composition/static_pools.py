"""Pools of the upstreams that routes name, for one event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.balancing.checks import HealthCheck
from traffic_cop_middleware.abstractions.balancing.instances import MOST_NAME, Member
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Pool, Upstream
from traffic_cop_middleware.composition.checking import Checking, key_of_route

LONGEST_NAME = MOST_NAME - 10
"""Characters of a URL that go into a name, which leaves room for a number."""


Emit = Callable[[str, Mapping[str, Any]], None]


class Named(NamedTuple):
    """The pool that requests of a route go by, for which destination, and where its upstreams are."""

    destination: Pool
    places: frozenset[object]
    pool: BalancedPool


class Checked(NamedTuple):
    """A pool whose instances are asked for their health, as long as the task runs."""

    pool: BalancedPool
    check: HealthCheck
    task: asyncio.Task[None]


class StaticPools:
    """The pools of one event loop. A pool is there for as long as its destination.

    A route that is put anew has another destination. If that has the same upstreams, but for their weights, it takes
    over the pool of the one before, so that an instance that was out stays out. With other upstreams it gets a pool of
    its own, since requests of the old route, which are still on their way, may not come to instances of the new one;
    that pool follows the one before and begins with what is known of the instances that stay.
    `emit` hears of the instances, `changed` of each pool that is new or taken over, and of the code's settings for it.
    `checking` makes what checks a pool.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        changed: Callable[[BalancedPool, BalancingSettings | None], None] = lambda pool, own: None,
        checking: Checking | None = None,
    ) -> None:
        self._emit = emit
        self._changed = changed
        self._checking = checking
        self._made: weakref.WeakKeyDictionary[Pool, BalancedPool] = weakref.WeakKeyDictionary()
        self._named: dict[str, Named] = {}
        self._checks: dict[str, Checked] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def of(
        self,
        destination: Pool,
        settings: BalancingSettings,
        name: str,
        *,
        check: HealthCheck | None = None,
        stands: bool = True,
    ) -> BalancedPool:
        """The pool of a destination, made when it is first asked for, and checked while its route stands.

        `stands`: the route does. One that was put anew, or is gone, has requests left that need a pool, and no more.

        Raises:
            ConfigurationError: it is to be checked, and the backend can't.
        """
        before = self._named.get(name)
        if not stands:
            found = self._made.get(destination)
            if found is not None:
                return found
            found = BalancedPool(name, members_of(destination.upstreams), settings)
        elif before is not None and before.destination is destination:
            return before.pool
        else:  # it is new; or stands again after another one, which may have changed its pool, or has followed that
            if check is not None and self._checking is not None:
                self._checking.leases(name)  # before the pool is there, or it would stand unchecked
            found = self._taken_over(destination, settings, name, before)
            self._check(name, found, check)
        self._made[destination] = found
        self._changed(found, settings)
        return found

    def _taken_over(
        self, destination: Pool, settings: BalancingSettings, name: str, before: Named | None
    ) -> BalancedPool:
        members = members_of(destination.upstreams)
        places = frozenset((each.name, each.upstream.origin) for each in members)
        if before is not None and before.places == places:
            pool = before.pool
            pool.change(members)
            pool.configure(settings)
        else:
            pool = BalancedPool(name, members, settings, emit=self._emit, after=before and before.pool)
        self._named[name] = Named(destination, places, pool)
        return pool

    def _check(self, name: str, pool: BalancedPool, check: HealthCheck | None) -> None:
        """Check a pool as is said now, and as was said before no longer."""
        before = self._checks.get(name)
        if self._checking is None or (before is not None and (before.pool, before.check) == (pool, check)):
            return
        self._end(name)
        if check is None:
            self._checking.marks.unchecked(pool)
        else:
            leader = self._checking.of(pool, check, key_of_route(name))
            self._checks[name] = Checked(pool, check, asyncio.get_running_loop().create_task(leader.run()))

    def _end(self, name: str) -> None:
        checked = self._checks.pop(name, None)
        if checked is not None and not (loop := checked.task.get_loop()).is_closed():
            self._ending.add(checked.task)
            checked.task.add_done_callback(self._ending.discard)
            loop.call_soon_threadsafe(checked.task.cancel)  # the table is changed by another loop's thread, maybe

    def __iter__(self) -> Iterator[BalancedPool]:
        return iter(dict.fromkeys([*self._made.values(), *(each.pool for each in self._named.values())]))

    def __contains__(self, name: str) -> bool:
        """Whether a route of that name has a pool."""
        return name in self._named

    def forget(self, names: Iterable[str]) -> None:
        """Routes of these names are no more, or lead to no upstreams."""
        for name in names:
            self._named.pop(name, None)
            self._named.pop(mirror_name(name), None)
            self._end(name)

    async def close(self) -> None:
        """Check no longer."""
        tasks = {*self._ending, *(each.task for each in self._checks.values())}
        self._checks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


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
