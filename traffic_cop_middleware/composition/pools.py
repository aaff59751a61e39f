"""Pools of live instances, for one event loop: who is announced, or has an address, gets requests.

A pool is made, and its service watched, when it is first asked for, and for the routes that are known at the start of a
lifespan. What the watch hears changes the pool; while the registry is away the last known instances go on. Before the
first answer a pool is empty, so that its requests are answered 503.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from traffic_cop_middleware.abstractions.balancing.instances import Member
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.destinations import Service
from traffic_cop_middleware.abstractions.registry.names import DnsWatch
from traffic_cop_middleware.abstractions.registry.watching import InstanceWatch, ServiceWatch
from traffic_cop_middleware.abstractions.route_policies import BALANCED
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.adapters.resolving import SystemResolver
from traffic_cop_middleware.composition.checking import Checking
from traffic_cop_middleware.composition.static_pools import Emit
from traffic_cop_middleware.contracts import Backend, Instance, InstanceStore, Resolver
from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")

Wanted = tuple[Service, BalancingSettings]


class LivePools:
    """The pools of services on the running event loop.

    `backend` gives what is open on it, if anything. `changed` is told of a pool whenever it has other instances than
    before, at first when it is made. `checking` makes what checks a pool. `emit` hears of the instances
    (`BalancedPool`), and as `instance.refused` of those that announce what can't be used.
    """

    def __init__(
        self,
        backend: Callable[[], Backend | None],
        *,
        emit: Emit,
        changed: Callable[[BalancedPool, BalancingSettings | None], None] = lambda pool, own: None,
        checking: Checking | None = None,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._emit = emit
        self._changed = changed
        self._checking = checking
        self._resolver = resolver or SystemResolver()
        self._clock = clock
        self._live: dict[Wanted, Live] = {}
        self._former: dict[Wanted, BalancedPool] = {}
        """What was wanted before the last change, by the pools that those requests still go by."""

    def pool(self, service: Service, settings: BalancingSettings = BALANCED) -> BalancedPool:
        """The pool of a service, which is watched from then on; another one for other settings.

        Raises:
            ConfigurationError: nothing is open here, or the backend keeps no instances.
        """
        live = self._live.get((service, settings))
        if live is None:
            live = self._live[service, settings] = self._watched(service, settings)
        return live.pool

    def former(self, service: Service, settings: BalancingSettings) -> BalancedPool:
        """The pool for what is left of the requests of a route that is no more: nothing is watched for them."""
        known = {**self._former, **{wanted: live.pool for wanted, live in self._live.items()}}
        found = known.get((service, settings))
        if found is None:
            places = ((pool, (other.name, other.dns)) for (other, _), pool in reversed(known.items()))
            found = next((pool for pool, place in places if place == (service.name, service.dns)), None)
        return BalancedPool(service.name, (), settings) if found is None else found

    def _watched(self, service: Service, settings: BalancingSettings) -> Live:
        pool = BalancedPool(service.name, (), settings, clock=self._clock, emit=self._emit)
        live = Live(pool, service, self._emit, self._changed)
        if service.dns is None:
            backend, store = self.registry(service)
            live.watch = ServiceWatch(store, backend.bus, service.name, live.heard, clock=self._clock)
            if not store.shared and isinstance(found := store.read(service.name), tuple):
                live.heard(found.instances)  # a store in this process has no round trip to wait for
        else:
            live.watch = DnsWatch(self._resolver, service.dns, live.heard, service=service.name, clock=self._clock)
        self._changed(pool, None)
        self._tell_what_is_known(live, service)
        runs = [live.watch.run]
        if service.check is not None and self._checking is not None:
            runs.append(self._checking.of(pool, service.check, service.name).run)
        live.tasks = [asyncio.get_running_loop().create_task(run()) for run in runs]
        return live

    def _tell_what_is_known(self, live: Live, service: Service) -> None:
        """Begin with what another pool of the service knows: its requests come before the watch has an answer."""
        for (other, _), known in self._live.items():
            if (other.name, other.dns) == (service.name, service.dns) and known.watch.instances and not len(live.pool):
                live.heard(known.watch.instances)

    def registry(self, service: Service) -> tuple[Backend, InstanceStore]:
        """Where a service's instances are announced.

        Raises:
            ConfigurationError: as in `pool`.
        """
        backend = self._backend()
        if backend is None:
            raise ConfigurationError(
                f"Service({service.name!r}): nothing is open on this event loop. Send requests while the app's "
                "lifespan runs"
            )
        store: InstanceStore | None = getattr(backend, "instances", None)  # one of a third party may be older than that
        if store is None:
            raise ConfigurationError(
                f"Service({service.name!r}): the backend {backend.name} keeps no instances of services. Use redis:// "
                "or memory://, or write where they are: "
                f"Service({service.name!r}, dns='http://{service.name}.internal:8080')"
            )
        return backend, store

    def __iter__(self) -> Iterator[BalancedPool]:
        return iter([live.pool for live in self._live.values()])

    def keep(self, services: Iterable[Wanted]) -> None:
        """Have pools of these services, with their settings, and no others.

        A pool whose service is wanted with other settings goes on with them: who is ejected stays so, and what is under
        way counts.

        Raises:
            ConfigurationError: as in `pool`; then nothing has ended.
        """
        wanted = set(services)
        going = self._live.keys() - wanted
        handed_on: dict[Wanted, Wanted] = {}
        for service, settings in wanted - self._live.keys():
            before = next((each for each in going if each[0] == service), None)
            if before is None:
                self.pool(service, settings)
            else:
                going.discard(before)
                handed_on[before] = (service, settings)
        self._former = {each: self._live[each].pool for each in (*going, *handed_on)}
        for before, (service, settings) in handed_on.items():
            live = self._live[service, settings] = self._live.pop(before)
            live.pool.configure(settings)
            self._changed(live.pool, settings)
        for gone in going:
            for task in self._live.pop(gone).tasks:
                task.cancel()

    async def known(self, *, within: float) -> None:
        """Wait until each source has answered once, and no longer than so many seconds."""
        waiting = [asyncio.ensure_future(live.first.wait()) for live in self._live.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=within)
            for each in late:
                each.cancel()

    async def close(self) -> None:
        """Watch no longer."""
        tasks = [task for live in self._live.values() for task in live.tasks]
        self._live.clear()
        self._former.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Live:
    """A pool, and the watch that changes it."""

    watch: InstanceWatch
    tasks: Sequence[asyncio.Task[None]]

    def __init__(
        self,
        pool: BalancedPool,
        service: Service,
        emit: Emit,
        changed: Callable[[BalancedPool, BalancingSettings | None], None],
    ) -> None:
        self.pool = pool
        self.first = asyncio.Event()
        self._emit = emit
        self._changed = changed
        self._named = service.place
        self._refused: dict[str, str] = {}

    def heard(self, instances: Sequence[Instance]) -> None:
        """These are the instances now; one that can't be used is left out, and told of once."""
        members: list[Member] = []
        refused: dict[str, str] = {}
        for each in instances:
            try:
                members.append(self._member(each))
            except ConfigurationError as exc:
                refused[each.name] = str(exc)
        for name, reason in refused.items():
            if self._refused.get(name) != reason:
                log.error("the instance %r of %s can't be used: %s", name, self.pool.name, reason)
                self._emit("instance.refused", {"pool": self.pool.name, "instance": name, "reason": reason})
        self._refused = refused
        self.pool.change(members)
        self._changed(self.pool, None)
        self.first.set()

    def _member(self, instance: Instance) -> Member:
        url, weight = instance.url, instance.weight
        upstream = Upstream(url, weight) if self._named is None else self._named.at(url, weight)
        return Member(upstream, instance.name, metadata=instance.metadata)
