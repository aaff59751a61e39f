"""What can be changed while the app runs: routes, limits, CORS policies and pools, each as its table says it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from traffic_cop_middleware.abstractions.balancing.checks import HEALTH, HealthMarks
from traffic_cop_middleware.abstractions.balancing.management import BALANCING, LoadBalancingAbstraction
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.composition.checking import Checking
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.opened import LIMITS, Opened
from traffic_cop_middleware.composition.parts import Parts
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.cop.needs import Needs
from traffic_cop_middleware.cop.settings import listed
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.cors_policies import CORS, CorsPolicies
from traffic_cop_middleware.middleware.live_limits import LiveLimits
from traffic_cop_middleware.middleware.live_routes import ROUTES, LiveRoutes
from traffic_cop_middleware.middleware.plans import Planner

KINDS = frozenset({ROUTES, LIMITS, CORS, BALANCING, HEALTH})
"""The kinds of records that there are."""


class Live:
    """The gateway, and the tables that it, the limits and CORS go by.

    `opened` gives what is open to the part that asks, `backend` the opened backend, or `None` while there is none.

    Raises:
        ConfigurationError: one of `proxy_routes` or `cors` can't be used.
    """

    def __init__(
        self,
        needs: Needs,
        planner: Planner,
        *,
        observers: Observers,
        opened: Callable[[str], Opened],
        backend: Callable[[], Backend | None],
        proxy_routes: Iterable[GatewayRoute],
        cors: Mapping[str, CorsPolicy] | None,
    ) -> None:
        self.gateway = Gateway(needs.check_route, backend=backend, emit=observers.emit)
        self.balancing = LoadBalancingAbstraction(
            self.gateway.pools,
            self.gateway.made_pools,
            lambda: opened("balancing").records("balancing"),
            emit=observers.emit,
            check=needs.check_balancing,
        )
        self._health = HealthMarks(
            self.gateway.made_pools,
            lambda: opened("balancing").records("balancing"),
            emit=observers.emit,
        )
        self.gateway.checking = Checking(self.gateway.transport, backend, self._health)
        self.gateway.pool_changed = self._pool_changed
        for each in listed("proxy_routes", proxy_routes):
            self.gateway.add(each)
        self.routes = LiveRoutes(self.gateway, opened, observers=observers)
        self.limits = LiveLimits(planner, self.gateway, opened, observers=observers)
        if cors is not None and not isinstance(cors, Mapping):
            raise ConfigurationError(f"cors={cors!r}: policies by name, {{'app': CorsPolicy(origins=[…])}}")
        self.cors = CorsPolicies(cors or {}, self.gateway, opened, observers=observers)

    def _pool_changed(self, pool: BalancedPool, own: BalancingSettings | None) -> None:
        self.balancing.obey(pool, own)
        self._health.obey(pool)

    def tables(self, kinds: frozenset[str]) -> Mapping[str, LiveTable[Any]]:
        """The tables of those kinds of records."""
        tables: dict[str, LiveTable[Any]] = {
            ROUTES: self.routes.live,
            LIMITS: self.limits.live,
            CORS: self.cors.live,
            BALANCING: self.balancing.live,
            HEALTH: self._health.live,
        }
        return {kind: table for kind, table in tables.items() if kind in kinds}

    def run_with(self, parts: Parts) -> None:
        """Let the gateway begin and end with the other parts."""
        parts.also_start.append(self.gateway.start)
        parts.also_begin.append(self.gateway.begin)
        parts.also_begin.append(self.cors.begin)
        parts.also_close.append(self.gateway.close)
