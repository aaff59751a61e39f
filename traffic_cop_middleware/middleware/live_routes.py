"""`cop.routes`: gateway routes that are changed while the app runs, on all workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import MessagingAbstraction
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.opened import Opened
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.route_records import route_from, route_record
from traffic_cop_middleware.middleware.routes import RouteKwargs, route

ROUTES = "routes"
"""The kind of these records."""


class LiveRoutes:
    """Routes in records that all workers share, beside those that were added at start.

    A record takes the place of a route of its name that was added at start; when it is removed, that one stands again.
    Changes are checked first: a bad one is an error here, and changes nothing anywhere. All workers go by a change
    within a second; while the backend is away they go on by what they know.
    """

    def __init__(self, gateway: Gateway, opened: Callable[[str], Opened], *, observers: Observers) -> None:
        self._gateway = gateway
        self._opened = opened
        self.live: LiveTable[GatewayRoute] = LiveTable(
            ROUTES, parse=self._parse, swap=gateway.change, emit=observers.emit
        )

    def _parse(self, name: str, record: Mapping[str, Any]) -> GatewayRoute:
        found = route_from(name, record)
        self._gateway.check(found)
        return found

    @property
    def _messaging(self) -> MessagingAbstraction:
        return self._opened("routes").records("routes")

    async def put(self, pattern: str, *, to: Any, at: int | None = None, **settings: Unpack[RouteKwargs]) -> int:
        """Add a route, or change the one of that name; arguments as in `route`. Gives the table's new version.

        With `at` the table must still have that version. Three round trips.

        Raises:
            ConfigurationError: a value can't be used, or can't be told to other workers (an ASGI app, a function).
            RecordConflict: with `at`, the table has another version.
            StoreUnavailable: the backend is away.
        """
        return await self.change([route(pattern, to=to, **settings)], at=at)

    async def remove(self, name: str, *, at: int | None = None) -> bool:
        """Remove the route of that name from the records; whether it was there.

        Raises:
            RecordConflict, StoreUnavailable: as in `put`.
        """
        await self._messaging.converge(ROUTES)
        known = name in self.live.values or name in self.live.refused
        if known:
            await self.change(remove=[name], at=at)
        return known

    async def change(
        self,
        put: GatewayRoute | Iterable[GatewayRoute] = (),
        *,
        remove: str | Iterable[str] = (),
        at: int | None = None,
    ) -> int:
        """Put and remove several routes at once: no request sees a part of it. Gives the table's new version.

        Raises:
            ConfigurationError: as in `put`; or a name stands in it twice.
            RecordConflict, StoreUnavailable: as in `put`.
            ValueError: none, more than 1,000 routes, or 1 MB, at once.
        """
        values: dict[str, str | None] = {}
        names = [remove] if isinstance(remove, str) else list(remove)
        for each in [put] if isinstance(put, GatewayRoute) else put:
            if not isinstance(each, GatewayRoute):
                raise ConfigurationError(
                    f"cop.routes.change: {each!r} is no route: write [route('/billing/*', to='http://billing:8080')]"
                )
            self._gateway.check(each, running=True)
            if each.name in values or each.name in names:
                raise ConfigurationError(f"cop.routes.change: {each.name!r} stands in it twice: put or remove it once")
            values[each.name] = dumps(route_record(each))
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise ConfigurationError(f"cop.routes.change: remove={wrong[0]!r}: the names of routes")
        values.update(dict.fromkeys(names))
        return await self._messaging.publish(ROUTES, values, at=at)

    async def list(self) -> Sequence[GatewayRoute]:
        """All routes that requests go by, those that were added at start included; by name. One round trip.

        Raises:
            StoreUnavailable: the backend is away.
        """
        await self._messaging.converge(ROUTES)
        return sorted(self._gateway.table, key=lambda each: each.name)

    @property
    def version(self) -> int:
        """The version of the records that this worker goes by; 0 where there never was one."""
        return self._messaging.version(ROUTES)

    @property
    def refused(self) -> Mapping[str, str]:
        """Records that can't be used, with the reason; while there is one, the table before it goes on."""
        return self.live.refused
