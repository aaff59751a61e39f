"""The gateway's table and its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec

from traffic_cop_middleware.abstractions.balancing.owners import StoredOwners
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.destinations import Service, is_forwarded
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_matching import GatewayTable
from traffic_cop_middleware.abstractions.route_policies import MIRRORED, action_of
from traffic_cop_middleware.abstractions.upstreams import Pool
from traffic_cop_middleware.composition.checking import Checking
from traffic_cop_middleware.composition.pools import LivePools
from traffic_cop_middleware.composition.static_pools import Emit, StaticPools, mirror_name
from traffic_cop_middleware.contracts import Backend, SessionRouteStore
from traffic_cop_middleware.contracts.transport import Transport
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

EXTRA = "traffic-cop-middleware[proxy]"
DRIVER = "aiohttp"
ASYNCIO_ONLY = (
    "routes to upstreams need asyncio, and this app runs on trio: aiohttp has no support for it. Run the app on "
    "asyncio (uvicorn does), or have routes to apps, redirects and fixed responses only"
)
FIRST_LOOK = 1.0
"""Seconds that a start waits to know the instances of its services; then it goes on without."""


class OnLoop:
    """What there is on one event loop, each thing made when it is first asked for."""

    __slots__ = ("live", "pools", "routed", "transport")

    def __init__(self) -> None:
        self.live: LivePools | None = None
        self.pools: StaticPools | None = None
        self.routed: dict[str, tuple[GatewayRoute, BalancedPool]] = {}
        """The pools of routes of the present table, by the route's name."""
        self.transport: Transport | None = None


class Gateway:
    """Routes that were added at start and those of the records; one immutable table at a time.

    Connections, and what is known of instances, belong to an event loop: there is one transport for each, and a pool
    for each destination. `backend` gives what is open on the running one, `emit` hears of the instances
    (`BalancedPool`).
    """

    def __init__(
        self,
        check: Callable[[GatewayRoute], None] = lambda route: None,
        *,
        backend: Callable[[], Backend | None] = lambda: None,
        emit: Emit = lambda kind, attributes: None,
    ) -> None:
        self._check = check
        self._backend = backend
        self._emit = emit
        self.pool_changed: Callable[[BalancedPool, BalancingSettings | None], None] = lambda pool, own: None
        """Told of a pool that is new, or has other instances or other settings of the code."""
        self.checking: Checking | None = None
        """Makes what checks a pool's instances."""
        self.table: GatewayTable = GatewayTable(())
        self.active = False
        """Whether there is any route."""
        self.limited: set[str] = set()
        """The names of the routes that have limits of their own."""
        self.owners = StoredOwners(emit)
        self.keeps_sessions = False
        """Whether a request was seen whose session has an owner: then owners are asked for as early as can be."""
        self._own: dict[str, GatewayRoute] = {}
        self._loops: dict[asyncio.AbstractEventLoop, OnLoop] = {}
        self._last: tuple[asyncio.AbstractEventLoop, OnLoop] | None = None
        """Where the last request was: nearly always where the next one is, and a look there is cheaper."""

    def add(self, route: GatewayRoute) -> None:
        """Add a route at start.

        Raises:
            ConfigurationError: there is one of that name, or it needs what is not there.
            MissingExtra: it leads to an upstream, and the driver is not installed.
        """
        if not isinstance(route, GatewayRoute):
            raise ConfigurationError(f"{route!r} is no route: write route('/billing/*', to='http://billing:8080')")
        if route.name in self._own:
            raise ConfigurationError(f"cop.route: there is a route {route.name!r} already. Give each its own name=")
        self.check(route)
        self._own[route.name] = route
        self.change({route.name: route})

    def check(self, route: GatewayRoute, *, running: bool = False) -> None:
        """See that there is what a route needs; on the event loop too, where it is `running`.

        Raises:
            ConfigurationError: it needs a part that is not there, or asyncio.
            MissingExtra: it leads to an upstream, and the driver is not installed.
        """
        self._check(route)
        if is_forwarded(action_of(route).destination):
            if find_spec(DRIVER) is None:
                raise MissingExtra(
                    f"route {route.name!r} leads to an upstream and needs a driver: pip install '{EXTRA}'"
                )
            if running:
                self._here()
                if isinstance(to := action_of(route).destination, Service) and to.dns is None:
                    self._live_pools().registry(to)
                self._see_checks([route])

    def change(self, puts: Mapping[str, GatewayRoute | None]) -> None:
        """Take over routes from records, all at once; where one is gone, the one that was added at start stands again.

        Requests go by the table before or by the one after.
        """
        standing = {name: route or self._own.get(name) for name, route in puts.items()}
        table = self.table.changed(standing)
        _refuse_two_places(table)
        here = self._loops.get(loop) if (loop := _loop_or_none()) is not None else None
        live = None if here is None else here.live
        if live is not None:  # first: a service that can't be watched leaves all as it was
            self._see_checks(standing.values())
            live.keep(services_of(table))
        for name, route in standing.items():
            if route is not None and action_of(route).limits:
                self.limited.add(name)
            else:
                self.limited.discard(name)
        self.table = table
        self.active = bool(table)
        gone = [
            name
            for name, route in standing.items()
            if route is None or not isinstance(action_of(route).destination, Pool)
        ]
        for each in tuple(self._loops.values()):
            each.routed = {}
            if each.pools is not None:
                each.pools.forget(gone)
        if live is not None:
            self._follow([route for route in standing.values() if route is not None])

    def start(self) -> None:
        """See that requests can be forwarded on the running event loop.

        Raises:
            ConfigurationError: there is a route to an upstream, and the loop is not asyncio's.
        """
        if any(is_forwarded(action_of(route).destination) for route in self._own.values()):
            self._here()

    async def begin(self) -> None:
        """Watch the services that routes lead to, and wait a second at most until their instances are known.

        Raises:
            ConfigurationError: the backend keeps no instances.
        """
        if _loop_or_none() is not None:  # also where there is no such route yet: one may come with the records
            live = self._live_pools()
            live.keep(services_of(self.table))
            self._follow(self.table)
            await live.known(within=FIRST_LOOK)

    def _see_checks(self, routes: Iterable[GatewayRoute | None]) -> None:
        """See that what is to be checked can be.

        Raises:
            ConfigurationError: the backend keeps no leases or records.
        """
        for route in routes:
            if self.checking is not None and route is not None and action_of(route).check is not None:
                self.checking.leases(route.name)

    def _follow(self, routes: Iterable[GatewayRoute]) -> None:
        """Have the pools of routes that are checked, or that took the place of others, before somebody asks."""
        pools = self._static_pools()
        for route in routes:
            action = action_of(route)
            if isinstance(action.destination, Pool) and (action.check is not None or route.name in pools):
                self.pool_of(route)

    def _here(self) -> OnLoop:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(ASYNCIO_ONLY) from None
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        here = self._loops.get(loop)
        if here is None:
            for each in tuple(self._loops):
                if each.is_closed():  # without a lifespan nobody said that it ended
                    self._loops.pop(each, None)
            here = self._loops[loop] = OnLoop()
        self._last = (loop, here)
        return here

    def _live_pools(self) -> LivePools:
        here = self._here()
        if here.live is None:
            here.live = LivePools(self._backend, emit=self._emit, changed=self.pool_changed, checking=self.checking)
        return here.live

    def _static_pools(self) -> StaticPools:
        here = self._here()
        if here.pools is None:
            here.pools = StaticPools(self._emit, changed=self.pool_changed, checking=self.checking)
        return here.pools

    def pool_of(self, route: GatewayRoute) -> BalancedPool:
        """The instances that a route to a service or upstreams leads to, with what the event loop knows of them.

        Where its upstreams are exchanged, what is known of those that stay does. A service's pool has the service's
        name, the others their route's.

        Raises:
            ConfigurationError: the loop is not asyncio's; or the backend keeps no instances of services, or can't check
                what is to be checked.
        """
        routed = self._here().routed
        known = routed.get(route.name)
        if known is not None and known[0] is route:
            return known[1]
        found = self._find_pool(route)
        if self._stands(route):
            routed[route.name] = (route, found)
        return found

    def _find_pool(self, route: GatewayRoute) -> BalancedPool:
        action = action_of(route)
        to = action.destination
        if isinstance(to, Service):
            live = self._live_pools()
            return (live.pool if self._stands(route) else live.former)(to, action.balancing)
        return self._static_pools().of(to, action.balancing, route.name, check=action.check, stands=self._stands(route))

    def mirror_of(self, route: GatewayRoute) -> BalancedPool | None:
        """The instances that get copies of a route's requests.

        Raises:
            ConfigurationError: the loop is not asyncio's.
        """
        to = action_of(route).mirror
        if to is None:
            return None
        return self._static_pools().of(to, MIRRORED, mirror_name(route.name), stands=self._stands(route))

    def _stands(self, route: GatewayRoute) -> bool:
        return self.table.named(route.name) is route

    def pools(self) -> Iterator[BalancedPool]:
        """The pools of the running event loop that routes lead to, each once, also where nothing was sent yet.

        Raises:
            ConfigurationError: as in `pool_of`.
        """
        found: dict[BalancedPool, None] = {}
        for route in self.table:
            if is_forwarded(action_of(route).destination):
                found[self.pool_of(route)] = None
            if (mirror := self.mirror_of(route)) is not None:
                found[mirror] = None
        yield from found

    def made_pools(self) -> Iterator[BalancedPool]:
        """The pools of the running event loop that have been asked for so far."""
        loop = _loop_or_none()
        here = None if loop is None else self._loops.get(loop)
        if here is not None:
            yield from here.live or ()
            yield from here.pools or ()

    def session_routes(self) -> SessionRouteStore | None:
        """Where owners of sessions are kept, if anything that keeps them is open on the running event loop."""
        return getattr(self._backend(), "session_routes", None)

    def transport(self) -> Transport:
        """The connections of the running event loop.

        Raises:
            ConfigurationError: it is not asyncio's.
            MissingExtra: the driver is not installed.
        """
        here = self._here()
        if here.transport is None:
            here.transport = open_transport()
        return here.transport

    async def close(self) -> None:
        """Close the connections of the running event loop, and forget what it knows of instances."""
        loop = _loop_or_none()
        here = None if loop is None else self._loops.get(loop)
        if loop is None or here is None:
            return
        # A check that is under way may ask for the connections until it has ended: these, and no others that stay open.
        if here.pools is not None:
            await here.pools.close()
        if here.live is not None:
            await here.live.close()
        self._loops.pop(loop, None)
        self._last = None
        if here.transport is not None:
            await here.transport.close()


def _refuse_two_places(table: GatewayTable) -> None:
    """See that a name leads to one service: its pools are known, drained and checked by it."""
    places: dict[str, str | None] = {}
    for service, _ in services_of(table):
        if places.setdefault(service.name, service.dns) != service.dns:
            raise ConfigurationError(
                f"Service({service.name!r}): another route leads to a service of that name, with another dns=. Give "
                "one of them another name"
            )


def services_of(table: GatewayTable) -> Iterator[tuple[Service, BalancingSettings]]:
    """The services that routes lead to, and how their instances are chosen."""
    for route in table:
        if isinstance(to := action_of(route).destination, Service):
            yield to, action_of(route).balancing


def _loop_or_none() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def open_transport() -> Transport:
    """A transport.

    Raises:
        MissingExtra: the driver is not installed.
    """
    try:
        from traffic_cop_middleware.adapters.http.aiohttp_transport import AiohttpTransport
    except ImportError as exc:
        raise MissingExtra(f"routes to upstreams need a driver: pip install '{EXTRA}'") from exc
    return AiohttpTransport()
