"""The gateway's table and its connections."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_matching import GatewayTable
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.abstractions.upstreams import Pool
from traffic_cop_middleware.contracts.transport import Transport
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

EXTRA = "traffic-cop-middleware[proxy]"
DRIVER = "aiohttp"


class Gateway:
    """Routes that were added at start and those of the records; one immutable table at a time.

    Connections belong to an event loop: there is one transport for each.
    """

    def __init__(self, check: Callable[[GatewayRoute], None] = lambda route: None) -> None:
        self._check = check
        self.table: GatewayTable = GatewayTable(())
        self.active = False
        """Whether there is any route."""
        self.limited: set[str] = set()
        """The names of the routes that have limits of their own."""
        self._own: dict[str, GatewayRoute] = {}
        self._transports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = weakref.WeakKeyDictionary()

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
        if isinstance(action_of(route).destination, Pool):
            if find_spec(DRIVER) is None:
                raise MissingExtra(
                    f"route {route.name!r} leads to an upstream and needs a driver: pip install '{EXTRA}'"
                )
            if running:
                _asyncio_loop()

    def change(self, puts: Mapping[str, GatewayRoute | None]) -> None:
        """Take over routes from records, all at once; where one is gone, the one that was added at start stands again.

        Requests go by the table before or by the one after.
        """
        standing = {name: route or self._own.get(name) for name, route in puts.items()}
        for name, route in standing.items():
            if route is not None and action_of(route).limits:
                self.limited.add(name)
            else:
                self.limited.discard(name)
        self.table = self.table.changed(standing)
        self.active = bool(self.table)

    def start(self) -> None:
        """See that requests can be forwarded on the running event loop.

        Raises:
            ConfigurationError: there is a route to an upstream, and the loop is not asyncio's.
        """
        if any(isinstance(action_of(route).destination, Pool) for route in self._own.values()):
            _asyncio_loop()

    def transport(self) -> Transport:
        """The connections of the running event loop.

        Raises:
            ConfigurationError: it is not asyncio's.
            MissingExtra: the driver is not installed.
        """
        loop = _asyncio_loop()
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = open_transport()
        return transport

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        if self._transports:
            transport = self._transports.pop(asyncio.get_running_loop(), None)
            if transport is not None:
                await transport.close()


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "routes to upstreams need asyncio, and this app runs on trio: aiohttp has no support for it. Run the app "
            "on asyncio (uvicorn does), or have routes to apps, redirects and fixed responses only"
        ) from None


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
