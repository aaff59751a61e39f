"""Session affinity by stored routes: which instance of a pool owns a session, as all workers agree.

Theory of operation. A session's first request goes where the policy says, and is written down as a route before it is
sent. The store's answer decides: of two first requests at the same time one makes the route, and the other goes where
that leads. Where the owner can take no requests (it is gone, drained, unhealthy, ejected, or can't be reached) the
policy chooses another one, and the route is changed at the version that was read, so that of several who find the owner
gone one decides for all.
While the store is away nobody is refused for that: a session goes to the owner that this worker saw last, or where the
consistent hash of its id leads, which is the same instance for all workers that see the same ones fit.
Invariant. While the store answers, a request is sent to the instance that the session's route names at that time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from traffic_cop_middleware.abstractions.asking import answered, aside, heard
from traffic_cop_middleware.abstractions.balancing.consistent_hash import ConsistentHash
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.contracts import SessionRoute, SessionRouteStore
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

MOST_SEEN = 10_000
"""Owners that a worker remembers for while the store is away."""
RENEW_AFTER = 0.25
"""The part of its time after which a route's use is worth a write."""
FRESH = 0.5
"""Seconds in which the news of an instance comes to all workers, as a rule."""
LOOKS = 20
UNBOUNDED = 1e9
"""So many times its share: a hash that leads each session to one instance, whatever that has to do."""
NOT_REACHED = "it can't be reached"

Emit = Callable[[str, Mapping[str, Any]], None]


class StoredOwners:
    """Owners of sessions in one process, over whatever store is open. `emit` hears `session.rerouted`."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self._seen: dict[tuple[str, str], str] = {}
        self._warned = False
        self._rings: WeakKeyDictionary[BalancedPool, tuple[Sequence[Instance], ConsistentHash]] = WeakKeyDictionary()

    def remember(self, id: str, service: str, instance: str | None) -> None:
        """An owner was seen; or (`None`) there is none."""
        self._seen.pop((id, service), None)
        if instance is not None:
            if len(self._seen) >= MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[id, service] = instance

    def seen(self, id: str, service: str) -> str | None:
        """The owner that was seen last."""
        return self._seen.get((id, service))

    def warn(self) -> None:
        """Tell once that the backend keeps no routes."""
        if not self._warned:
            self._warned = True
            log.warning(
                "affinity='session': the backend keeps no session routes, so sessions go where a hash of their id "
                "leads. Use memory:// or redis://, or write policy='hash' for that"
            )

    def hashed(self, id: str, pool: BalancedPool) -> str | None:
        """Where the hash of a session's id leads among those that are fit; `None` where nobody is."""
        fit = pool.fit()
        if not fit:
            return None
        known = self._rings.get(pool)
        if known is None or known[0] is not fit:
            ring = known[1] if known is not None else ConsistentHash(Random(), bound=UNBOUNDED)  # noqa: S311 - no secret
            ring.changed(fit)
            self._rings[pool] = known = fit, ring
        return known[1].pick(fit, BalancingKey(id), now=0.0, in_flight=0).name


class StoredOwner:
    """The owner of one request's session. Making it asks the store; what that costs travels with the tick.

    `text` is what the policy may hash where it chooses. `ttl` is the seconds that a route lasts without use.
    """

    def __init__(
        self, owners: StoredOwners, store: SessionRouteStore | None, id: str, pool: BalancedPool, *, ttl: float
    ) -> None:
        self.id = id
        self.pool = pool
        self.text = id
        self._owners = owners
        self._store = store
        self._ttl = ttl
        self._route: SessionRoute | None = None
        self._away = store is None
        self._named: str | None = None
        """Who it is where the store can't say."""
        self._known = False
        self._asked: SessionRoute | Awaitable[SessionRoute | None] | None = None
        if store is None:
            owners.warn()
        else:
            try:
                self._asked = store.validate(id, service=pool.name)
            except StoreError as exc:
                self._lost(exc)
            else:
                heard(self._asked)  # the request may be refused before this is looked at

    async def owner(self) -> str | None:
        """The instance that owns the session; `None` for none yet. The first time it waits for the store."""
        if not self._known:
            self._known = True
            await self._look()
        return self._route.instance if self._route is not None else self._named

    async def _look(self) -> None:
        id, service = self.id, self.pool.name
        if not self._away:
            asked, self._asked = self._asked, None
            try:
                route = await answered(asked)
            except StoreError as exc:
                self._lost(exc)
            else:
                self._take(route)
                if route is not None:
                    used = self._ttl - route.expires_in
                    if used > self._ttl * RENEW_AFTER:
                        await self.renew()
                    else:
                        await self._until_known(route)
        if self._away:
            self._named = self._owners.seen(id, service) or self._owners.hashed(id, self.pool)

    async def _until_known(self, route: SessionRoute) -> None:
        """Wait a little where another worker has just sent the session to one that is yet to be heard of here."""
        if self._ttl - route.expires_in < FRESH:
            for _ in range(LOOKS):
                if route.instance in self.pool.instances:
                    return
                await asyncio.sleep(FRESH / LOOKS)

    async def claim(self, instance: str, tried: Collection[str]) -> bool:
        """Whether the request may be sent to an instance: it owns the session, or does so from now on.

        If not, somebody else has it by now: `owner` says who. `tried` ones could not be reached. One round trip, two
        where another request was faster.
        """
        before = await self.owner()
        if before == instance:
            return True
        recorded = not self._away and await self._record(instance)
        if self._away:
            self._owners.remember(self.id, self.pool.name, instance)
            self._named = instance
        elif self._route is None or self._route.instance != instance:
            if self._route is not None:
                await self._until_known(self._route)
            return False
        if before is not None and (recorded or self._away):
            tell_rerouted(self._owners.emit, self.id, self.pool, before, instance, tried=tried, recorded=recorded)
        return True

    async def _record(self, instance: str) -> bool:
        """Make or change the route; whether it was changed by this."""
        store, route, service = self._store, self._route, self.pool.name
        if store is None:
            return False
        try:
            if route is not None:
                changed = await answered(
                    store.update(self.id, service=service, instance=instance, version=route.version, ttl=self._ttl)
                )
                if changed is not None:
                    self._take(changed)
                    return True
            # There is none; or another was faster, and this tells who it is.
            self._take(await answered(store.create(self.id, service=service, instance=instance, ttl=self._ttl)))
        except StoreError as exc:
            self._lost(exc)
        return False

    async def renew(self) -> None:
        """The route was used: its time begins anew. Nobody waits for that."""
        if (store := self._store) is not None:
            await aside(lambda: store.validate(self.id, service=self.pool.name, ttl=self._ttl))

    async def keep(self) -> None:
        """Renew the route again and again, for a connection that lasts; until cancelled."""
        while True:
            await asyncio.sleep(self._ttl * RENEW_AFTER)
            await self.renew()

    def _take(self, route: SessionRoute | None) -> None:
        self._route = route
        self._owners.remember(self.id, self.pool.name, route.instance if route is not None else None)

    def _lost(self, exc: StoreError) -> None:
        log.debug("a session's owner can't be asked for: %s", exc)
        self._away = True


def tell_rerouted(
    emit: Emit,
    session: str,
    pool: BalancedPool,
    before: str,
    instance: str,
    *,
    tried: Collection[str],
    recorded: bool,
) -> None:
    """Tell that a session has another owner, and why."""
    reason = NOT_REACHED if before in tried else pool.unfit(before) or NOT_REACHED
    emit(
        "session.rerouted",
        {
            "session": session,
            "service": pool.name,
            "from": before,
            "to": instance,
            "reason": reason,
            "recorded": recorded,
        },
    )
