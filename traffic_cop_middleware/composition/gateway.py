"""The gateway's table and its connections."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable

from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_matching import GatewayTable
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.contracts.transport import Transport
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

EXTRA = "traffic-cop-middleware[proxy]"


class Gateway:
    """Routes that were added at start and those of the records; one immutable table at a time.

    Connections belong to an event loop: there is one transport for each.
    """

    def __init__(self) -> None:
        self.table: GatewayTable = GatewayTable(())
        self.limited = False
        """Whether a route has limits of its own."""
        self._own: dict[str, GatewayRoute] = {}
        self._transports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = weakref.WeakKeyDictionary()

    def __bool__(self) -> bool:
        return bool(self._own)

    def add(self, route: GatewayRoute) -> None:
        """Add a route at start.

        Raises:
            ConfigurationError: there is one of that name.
        """
        if not isinstance(route, GatewayRoute):
            raise ConfigurationError(f"{route!r} is no route: write route('/billing/*', to='http://billing:8080')")
        if route.name in self._own:
            raise ConfigurationError(f"cop.route: there is a route {route.name!r} already. Give each its own name=")
        self._own[route.name] = route
        self.limited = self.limited or bool(action_of(route).limits)
        self.table = self.table.changed({route.name: route})

    def transport(self) -> Transport:
        """The connections of the running event loop.

        Raises:
            ConfigurationError: it is not asyncio's.
            MissingExtra: the driver is not installed.
        """
        loop = asyncio.get_running_loop()
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

    def routes(self) -> Iterable[GatewayRoute]:
        """All routes, in no order."""
        return self._own.values()


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
