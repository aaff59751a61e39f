"""What is asked of a cop, and changed in it, while its app runs."""

from __future__ import annotations

from starlette.routing import Route

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.balancing.management import LoadBalancingAbstraction
from traffic_cop_middleware.abstractions.business_metrics import BusinessMetricsAbstraction
from traffic_cop_middleware.abstractions.files.management import FileManagementAbstraction
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.sessions import SessionAbstraction
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.composition.opened import Opened
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.cop.live import Live
from traffic_cop_middleware.cop.needs import Needs
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.cors_policies import CorsPolicies
from traffic_cop_middleware.middleware.live_limits import LiveLimits
from traffic_cop_middleware.middleware.live_routes import LiveRoutes
from traffic_cop_middleware.middleware.session_endpoints import endpoints


class Management:
    """The parts of a cop by name, as each is open on the running event loop."""

    _parts: Parts
    _needs: Needs
    _live: Live
    _business_metrics: BusinessMetricsAbstraction | None

    @property
    def sessions(self) -> SessionAbstraction:
        """Sessions by their tokens: `await cop.sessions.verify(token)`. Inside of a request, or of the app's lifespan.

        Raises:
            ConfigurationError: there are no sessions (`session_secret`), or nothing is open on this event loop.
        """
        return self._with_sessions("sessions").sessions

    @property
    def session_management(self) -> SessionManagementAbstraction:
        """All sessions: lists, revocation, which service owns one, figures. Open as `sessions` is.

        Raises:
            ConfigurationError: as in `sessions`.
        """
        return self._with_sessions("session_management").session_management

    @property
    def analytics(self) -> AnalyticsAbstraction:
        """The traffic as all workers count it: `await cop.analytics.live()`. Open as `sessions` is.

        Raises:
            ConfigurationError: nothing is counted (`metrics=True`), or nothing is open on this event loop.
        """
        if self._parts.recorder is None:
            raise ConfigurationError("cop.analytics: this cop counts nothing. Write TrafficCop(metrics=True)")
        return self._open("analytics").analytics

    @property
    def business_metrics(self) -> BusinessMetricsAbstraction:
        """What the app counts of its own: `cop.business_metrics.count("orders", plan="pro")`.

        It counts at any time in any thread; questions (`read`, `trends`, `usage`, `export`) are open as `sessions` is.

        Raises:
            ConfigurationError: nothing is counted (`metrics=True`).
        """
        if self._business_metrics is None:
            raise ConfigurationError(
                "cop.business_metrics: this cop counts nothing. Write TrafficCop(metrics=True, business_metrics=[…])"
            )
        return self._business_metrics

    @property
    def state(self) -> StateManagementAbstraction:
        """The app's own state, versioned and in tiers: `await cop.state.put("order", "7", {"paid": True})`.

        Open as `sessions` is. Another tenant's is `cop.state.of_tenant("acme")`.

        Raises:
            ConfigurationError: the backend keeps no state, or nothing is open on this event loop.
        """
        opened = self._open("state")
        if opened.state is None:
            raise ConfigurationError(
                f"cop.state: the backend {opened.backend.name} keeps no state. Use memory:// or redis://"
            )
        return opened.state

    @property
    def files(self) -> FileManagementAbstraction:
        """The app's own files: `await cop.files.backup(["order"])`, `restore`, `lineage`. Open as `sessions` is.

        Raises:
            ConfigurationError: there are none (`files=`), or nothing is open on this event loop.
        """
        opened = self._open("files")
        if opened.files is None:
            raise ConfigurationError(
                "cop.files: this cop has no files. Write TrafficCop(files='file:///var/lib/app/files', "
                "file_metadata='sqlite:///files.db')"
            )
        return opened.files

    @property
    def promotion(self) -> StatePromotionAbstraction:
        """What judges states. Why an item is where it is tells `cop.state.explain`. Open as `sessions` is.

        Raises:
            ConfigurationError: nothing is judged (`promotion=False`, no state), or nothing is open on this event loop.
        """
        opened = self._open("promotion")
        if opened.promotion is None:
            raise ConfigurationError("cop.promotion: this cop judges nothing. Leave out promotion=False")
        return opened.promotion

    @property
    def routes(self) -> LiveRoutes:
        """Gateway routes while the app runs: `await cop.routes.put("/billing/*", to="http://billing:8080")`, `remove`,
        `list`, `change`. Open as `sessions` is.
        """
        return self._live.routes

    @property
    def limits(self) -> LiveLimits:
        """Limits while the app runs: `await cop.limits.put("search", "5/minute")`, `remove`, `list`, `show`, `reset`.

        Open as `sessions` is.
        """
        return self._live.limits

    @property
    def balancing(self) -> LoadBalancingAbstraction:
        """Pools while the app runs: `cop.balancing.pools()`, `await cop.balancing.drain("billing", "10.0.0.5:8080")`,
        `resume`, `configure`. Open as `sessions` is.
        """
        return self._live.balancing

    @property
    def cors(self) -> CorsPolicies:
        """CORS policies while the app runs: `await cop.cors.put("app", CorsPolicy(origins=[…]))`, `remove`, `list`.

        Open as `sessions` is.
        """
        return self._live.cors

    def session_routes(self, prefix: str = "/auth") -> list[Route]:
        """Routes for clients: `POST {prefix}/refresh`, `/logout`, `/logout-all`, `GET` and `DELETE {prefix}/sessions`,
        and `GET /.well-known/jwks.json`. Add them to an app: `app.routes.extend(cop.session_routes())`.

        Raises:
            ConfigurationError: there are no sessions, or `prefix` is no path.
        """
        if not self._needs.sessions:
            raise ConfigurationError(
                "cop.session_routes(): this cop has no sessions. Write TrafficCop(session_secret=…)"
            )
        return endpoints(prefix, lambda: (self.sessions, self.session_management))

    def _with_sessions(self, part: str) -> Opened:
        if not self._needs.sessions:
            raise ConfigurationError(f"cop.{part}: this cop has no sessions. Write TrafficCop(session_secret=…)")
        return self._open(part)

    def _open(self, part: str) -> Opened:
        opened = self._parts.current()
        if opened is None:
            raise ConfigurationError(
                f"cop.{part}: nothing is open on this event loop. Use it in a request, or in the app's lifespan"
            )
        return opened

    def _opened_backend(self) -> Backend | None:
        opened = self._parts.current()
        return None if opened is None else opened.backend

    async def _opened_analytics(self) -> AnalyticsAbstraction:
        if self._parts.current() is None:
            await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        return self.analytics
