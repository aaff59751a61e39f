"""The cop: every part that is configured, as one object that is installed into an app or wrapped around it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never, TypeVar, Unpack

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.balancing.affinity_tokens import AffinityTokens
from traffic_cop_middleware.abstractions.balancing.checks import HEALTH, HealthMarks
from traffic_cop_middleware.abstractions.balancing.management import BALANCING, LoadBalancingAbstraction
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.business.costs import CostOf, Costs
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric, declared
from traffic_cop_middleware.abstractions.business_metrics import BusinessMetricsAbstraction
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.files.management import FileManagementAbstraction
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.insights.webhooks import Webhook
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook, check_hook
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.settings import (
    CRITICAL_FIELDS,
    CRITICAL_TYPES,
    Preset,
    PromotionSettings,
)
from traffic_cop_middleware.abstractions.rate_limiting import OnOutage
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.session_policy import OnLimit, SessionPolicy
from traffic_cop_middleware.abstractions.sessions import SessionAbstraction
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.synchronisation import Service
from traffic_cop_middleware.composition.backend_settings import BackendSettings
from traffic_cop_middleware.composition.checking import Checking
from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.composition.opened import LIMITS, Opened
from traffic_cop_middleware.composition.otlp import OtlpExport, otlp_export
from traffic_cop_middleware.composition.parts import FIRST_OPEN_PATIENCE, Parts
from traffic_cop_middleware.composition.session_settings import Secret, SessionSettings
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.composition.telling import OnInsight, TellingSettings
from traffic_cop_middleware.contracts import Backend, DocumentStore, FileMetadataStore, ObjectStore, Observer, Tier
from traffic_cop_middleware.cop.settings import CopSettings, refuse_unknown
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.access_log import AccessLog
from traffic_cop_middleware.middleware.client_address import ClientAddress, TrustedProxies
from traffic_cop_middleware.middleware.cookies import CookieSettings, SameSite
from traffic_cop_middleware.middleware.cors import CorsLayer
from traffic_cop_middleware.middleware.cors_policies import CORS, CorsPolicies
from traffic_cop_middleware.middleware.counted_elsewhere import CountedElsewhere
from traffic_cop_middleware.middleware.csrf import Csrf, trusted_origins
from traffic_cop_middleware.middleware.exposition import Exposition
from traffic_cop_middleware.middleware.live_limits import LiveLimits
from traffic_cop_middleware.middleware.live_routes import ROUTES, LiveRoutes
from traffic_cop_middleware.middleware.marks import Limit, Marks, limits_of
from traffic_cop_middleware.middleware.metrics import MetricsLayer
from traffic_cop_middleware.middleware.owners import AffinityCookies
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.promotion import PromotionLayer
from traffic_cop_middleware.middleware.rate_limit import RateLimitLayer, RateLimitSettings
from traffic_cop_middleware.middleware.refusals import OnRefusal
from traffic_cop_middleware.middleware.route_table import RouteTable
from traffic_cop_middleware.middleware.routes import Limits, RouteKwargs, route
from traffic_cop_middleware.middleware.routing import RoutingLayer
from traffic_cop_middleware.middleware.session_endpoints import endpoints
from traffic_cop_middleware.middleware.sessions import SessionLayer, SessionLayerSettings
from traffic_cop_middleware.middleware.stack import Stack, stacks_inside
from traffic_cop_middleware.middleware.subtrees import Subtree

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

    from traffic_cop_middleware.adapters.jwt import Issuer

log = logging.getLogger("traffic_cop")

DEFAULT_POLICY = SessionPolicy()
DEFAULT_STATE = StateSettings()
DEFAULT_FILES = FilesSettings()
DEFAULT_PROMOTION = PromotionSettings()
HookFunction = TypeVar("HookFunction", bound=PromotionHook)
DEFAULT_METRICS = MetricsSettings()


class TrafficCop:
    """Rate limits for an app, as one object that is installed into it or wrapped around it.

    Args:
        backend: where buckets live: "memory://" (this process), "redis://host:6379/0" (all workers and hosts that name
            it), or an opened backend object, which stays its owner's to close.
        limits: limits on every route: "100/minute", `limit(…)`, or a list of them. None by default.
        on_outage: while the backend is away: "local" (in-process buckets at this worker's share), "allow" or "refuse",
            for all parts or as `{"limits": …}`.
        trusted_proxies: networks whose X-Forwarded-For or Forwarded is believed, or the number of proxies in front.
        observer: a function that hears of every event; `subscribe` adds more.
        namespace: prefix of every key, so that two apps can share one Redis.
        deadline: seconds that a call to the backend may take.
        expected_workers: how many workers share a quota under "local" until the backend has counted them.
        limits_fields: whether responses carry `RateLimit` and `RateLimit-Policy`.
        limits_x_headers: whether they carry `X-RateLimit-Limit`, `-Remaining` and `-Reset` as well.
        limits_on_refusal: a function of the connection and the `Refusal` that gives a response (`None`: the usual one);
            for HTTP, not for WebSocket handshakes.
        strict_routes: whether a route of a class that can't be read is an error at start instead of a warning.
        session_secret: what signs the sessions' tokens: a secret of at least 32 bytes, or keys (`Key`, PEM); of several
            the first signs and the others still verify. Without it there are no sessions.
        session_algorithm: "HS256", or for PEMs "ES256", "EdDSA", "RS256".
        session_cookie: the cookie's name; "__Host-session" by default.
        session_same_site: "lax", "strict" or "none".
        session_secure: whether the cookie needs https; off is for http://localhost.
        session_csrf: whether a request that another site made a browser send is refused where a cookie speaks for it;
            with "forms" also a form that doesn't say where it comes from, unless it has the session's token in it.
        session_trusted_origins: other sites that may send such requests ("https://app.example.com").
        session_idle: seconds without use after which a session ends.
        session_lifetime: seconds after which it ends in any case.
        session_access: seconds that an access token is good.
        session_grace: seconds that a spent refresh token is answered with its successor; 0 is strict.
        session_limit: sessions that one user may have at once. No limit by default.
        session_on_limit: what a further login does: "end_oldest", or "refuse".
        session_size: bytes that a session may hold.
        session_issuer, session_audience: `iss` and `aud` of the tokens.
        session_issuers: other issuers (`Issuer`) whose bearer tokens are taken.
        documents: where state lasts: "sqlite:///state.db", "arangodb://user:password@host:8529/db"; "memory://" (by
            default) keeps nothing, so state then is of the tier "cache" only. Or an opened store, its owner's to close.
        documents_deadline: seconds that a call to the documents may take.
        state_near_items: items of state that this worker keeps in front of a shared backend; 0 keeps none.
        state_services: who gets state that is pushed, by name: async functions of what is `Pushed`.
        files: where files of state go: "file:///var/lib/app/files", "gs://bucket/prefix"; nowhere by default. Or an
            opened store.
        file_metadata: what is known of them, the history of promotions, and how state is used: "sqlite:///files.db",
            "supabase+https://key@project.supabase.co". Needed with `files`.
        files_deadline: seconds that a call to the files or their metadata may take.
        files_grace: seconds for which an object that no file names is left alone.
        promotion: whether the tier of state that is written without one is chosen for it, where `documents` last.
        promotion_hooks: functions of the state and its verdict that have a say in it; `promotion_hook` adds more.
        promotion_preset: "balanced", or "classic".
        promotion_critical_fields: keys that make a state matter more, wherever they stand in it.
        promotion_critical_types: types of state that are always "immediate".
        promotion_preferences: the tier that a namespace or a type of state has at least.
        promotion_file_bytes: a larger value goes into a file.
        promotion_hook_timeout: seconds that an async hook may take.
        proxy_routes: routes to other services (`route(…)`); `cop.route(…)` adds more.
        cors: CORS policies by name, for paths of the app and for routes that name one; `cop.cors` changes them.
        metrics: whether requests are counted and timed, for `cop.analytics` and `metrics_path`.
        metrics_path: where Prometheus reads them ("/metrics"); nowhere by default.
        metrics_token: what it must send as `Authorization: Bearer …`; at least 16 characters.
        metrics_public: whether anybody may read them, without a token.
        metrics_interval: seconds between two writes of what this worker has counted; what a killed one may lose.
        metrics_series: how many (route, method, status) a worker tells apart.
        metrics_access_log: the share of the requests that is logged as JSON by the logger "traffic_cop.access", from 0
            to 1 (True: all). Those that failed are logged in any case, unless it is 0.
        metrics_history: whether the past is kept beyond 15 minutes, with the documents. False: nobody writes it, and
            `traffic`, `percentiles`, `top` and `compare` can't be asked.
        metrics_otlp: an exporter of OpenTelemetry's SDK (`OTLPMetricExporter()`), or an `OtlpExport` of one, to which
            each worker exports what it counts. What FastAPI records itself is left to it.
        metrics_on_insight: a function, plain or async, of a `Notification`: called in one of all workers when something
            stands out in the traffic, goes on, or is over. It is called on the event loop, so it is to be quick.
        metrics_webhook: a `Webhook` that is sent the same, signed; it needs the extra "proxy".
        business_metrics: what the app counts of its own, for `cop.business_metrics`: `[BusinessMetric("orders",
            "count", attributes=["plan"])]`.
        business_metrics_cost: what a request costs: a plain function of its route, method ("WEBSOCKET" for those),
            status, seconds and bytes of the response, or a table by route template, `{"/report": 0.002, "*": 0.0001}`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
        MissingExtra: the backend's driver is not installed; the message has the `pip install` line.
    """

    _sessions_may_be_outside = False
    _keeps_state = True
    _kinds = frozenset({ROUTES, LIMITS, CORS, BALANCING, HEALTH})
    """The records that this cop goes by."""

    def __init__(
        self,
        backend: str | Backend = "memory://",
        *,
        limits: Limits = None,
        on_outage: OnOutage | Mapping[str, OnOutage] = "local",
        trusted_proxies: TrustedProxies = (),
        observer: Observer | None = None,
        namespace: str = "tc",
        deadline: float = 0.05,
        expected_workers: int = 1,
        limits_fields: bool = True,
        limits_x_headers: bool = False,
        limits_on_refusal: OnRefusal | None = None,
        strict_routes: bool = False,
        session_secret: Secret | None = None,
        session_algorithm: str = "HS256",
        session_cookie: str | None = None,
        session_same_site: SameSite = "lax",
        session_secure: bool = True,
        session_csrf: Csrf = True,
        session_trusted_origins: Iterable[str] = (),
        session_idle: float = DEFAULT_POLICY.idle,
        session_lifetime: float = DEFAULT_POLICY.lifetime,
        session_access: float = DEFAULT_POLICY.access,
        session_grace: float = DEFAULT_POLICY.grace,
        session_limit: int | None = None,
        session_on_limit: OnLimit = "end_oldest",
        session_size: int = DEFAULT_POLICY.size,
        session_issuer: str = "traffic-cop",
        session_audience: str = "traffic-cop",
        session_issuers: Sequence[Issuer] = (),
        documents: str | DocumentStore = DEFAULT_STATE.documents,
        documents_deadline: float = DEFAULT_STATE.deadline,
        state_near_items: int = DEFAULT_STATE.near_items,
        state_services: Mapping[str, Service] | None = None,
        files: str | ObjectStore | None = None,
        file_metadata: str | FileMetadataStore | None = None,
        files_deadline: float = DEFAULT_FILES.deadline,
        files_grace: float = DEFAULT_FILES.grace,
        promotion: bool = True,
        promotion_hooks: Iterable[PromotionHook] = (),
        promotion_preset: Preset = DEFAULT_PROMOTION.preset,
        promotion_critical_fields: Iterable[str] = CRITICAL_FIELDS,
        promotion_critical_types: Iterable[str] = CRITICAL_TYPES,
        promotion_preferences: Mapping[str, Tier] | None = None,
        promotion_file_bytes: int = DEFAULT_PROMOTION.file_bytes,
        promotion_hook_timeout: float = DEFAULT_PROMOTION.hook_timeout,
        proxy_routes: Iterable[GatewayRoute] = (),
        cors: Mapping[str, CorsPolicy] | None = None,
        metrics: bool = False,
        metrics_path: str | None = None,
        metrics_token: str | None = None,
        metrics_public: bool = False,
        metrics_interval: float = DEFAULT_METRICS.interval,
        metrics_series: int = DEFAULT_METRICS.series,
        metrics_access_log: float = DEFAULT_METRICS.access_log,
        metrics_history: bool = DEFAULT_METRICS.history,
        metrics_otlp: MetricExporter | OtlpExport | None = None,
        metrics_on_insight: OnInsight | None = None,
        metrics_webhook: Webhook | None = None,
        business_metrics: Iterable[BusinessMetric] = (),
        business_metrics_cost: Costs | None = None,
        **unknown: Never,
    ) -> None:
        refuse_unknown("TrafficCop", CopSettings.__annotations__, unknown)
        self._observers = Observers()
        if observer is not None:
            self.subscribe(observer)
        self._settings = RateLimitSettings(
            limits=limits_of(limits, "limits"),
            fields=limits_fields,
            x_headers=limits_x_headers,
            on_refusal=limits_on_refusal,
            strict_routes=strict_routes,
        )
        if not isinstance(session_csrf, bool) and session_csrf != "forms":
            raise ConfigurationError(f"session_csrf={session_csrf!r} must be True or False, or 'forms'")
        self._session_layer = SessionLayerSettings(
            cookie=CookieSettings(name=session_cookie, same_site=session_same_site, secure=session_secure),
            csrf=bool(session_csrf),
            form_tokens=session_csrf == "forms",
            trusted_origins=trusted_origins(session_trusted_origins),
        )
        policy = SessionPolicy(
            idle=session_idle,
            lifetime=session_lifetime,
            access=session_access,
            grace=session_grace,
            limit=session_limit,
            on_limit=session_on_limit,
            size=session_size,
        )
        sessions = None
        if session_secret is not None:
            sessions = SessionSettings(
                secret=session_secret,
                algorithm=session_algorithm,
                issuer=session_issuer,
                audience=session_audience,
                issuers=session_issuers,
                policy=policy,
            )
        self._has_sessions = sessions is not None
        self._check_keys(self._settings.limits, "")
        self._planner = Planner(self._settings.limits)
        self._client_address = ClientAddress(trusted_proxies)
        self._gateway = Gateway(
            self._check_route,
            backend=self._opened_backend,
            emit=self._observers.emit,
        )
        self._balancing = LoadBalancingAbstraction(
            self._gateway.pools,
            self._gateway.made_pools,
            lambda: self._open("balancing").records("balancing"),
            emit=self._observers.emit,
            check=self._check_balancing,
        )
        self._health = HealthMarks(
            self._gateway.made_pools,
            lambda: self._open("balancing").records("balancing"),
            emit=self._observers.emit,
        )
        self._gateway.checking = Checking(self._gateway.transport, self._opened_backend, self._health)
        self._gateway.pool_changed = self._pool_changed
        for each in proxy_routes:
            self._gateway.add(each)
        self._live_routes = LiveRoutes(self._gateway, self._open, observers=self._observers)
        self._live_limits = LiveLimits(self._planner, self._gateway, self._open, observers=self._observers)
        if cors is not None and not isinstance(cors, Mapping):
            raise ConfigurationError(f"cors={cors!r}: policies by name, {{'app': CorsPolicy(origins=[…])}}")
        self._cors = CorsPolicies(cors or {}, self._gateway, self._open, observers=self._observers)
        self._warn_of_untrusted(cors or {})
        live: dict[str, LiveTable[Any]] = {
            ROUTES: self._live_routes.live,
            LIMITS: self._live_limits.live,
            CORS: self._cors.live,
            BALANCING: self._balancing.live,
            HEALTH: self._health.live,
        }
        if not isinstance(promotion, bool):
            raise ConfigurationError(f"promotion={promotion!r} must be True or False; hooks go into promotion_hooks")
        self._hooks: list[PromotionHook] = []
        for hook in promotion_hooks:
            self.promotion_hook(hook)
        judging = PromotionSettings(
            preset=promotion_preset,
            critical_fields=promotion_critical_fields,
            critical_types=promotion_critical_types,
            preferences=promotion_preferences if promotion_preferences is not None else {},
            file_bytes=promotion_file_bytes,
            hook_timeout=promotion_hook_timeout,
        )
        self._parts = Parts(
            BackendSettings(
                backend=backend,
                namespace=namespace,
                deadline=deadline,
                on_outage=on_outage,
                expected_workers=expected_workers,
                state=StateSettings(
                    documents=documents,
                    deadline=documents_deadline,
                    near_items=state_near_items,
                    services=state_services if state_services is not None else {},
                    files=FilesSettings(
                        objects=files, metadata=file_metadata, deadline=files_deadline, grace=files_grace
                    ),
                    promotion=judging if promotion else None,
                    hooks=self._hooks,
                    on=self._keeps_state,
                ),
            ),
            self._observers,
            sessions,
            watched={kind: table for kind, table in live.items() if kind in self._kinds},
            metrics=self._metrics_settings(
                metrics,
                MetricsSettings(
                    interval=metrics_interval,
                    series=metrics_series,
                    access_log=metrics_access_log,
                    history=metrics_history,
                    otlp=otlp_export(metrics_otlp),
                    telling=TellingSettings(on_insight=metrics_on_insight, webhook=metrics_webhook),
                    business=declared(business_metrics),
                    cost=CostOf(business_metrics_cost) if business_metrics_cost is not None else None,
                ),
                path=metrics_path,
                token=metrics_token,
                public=metrics_public,
            ),
        )
        self._business_metrics: BusinessMetricsAbstraction | None = None
        if self._parts.recorder is not None:
            self._business_metrics = BusinessMetricsAbstraction(
                self._business, self._parts.recorder, analytics=lambda: self._open("business_metrics").analytics
            )
        self._parts.also_start.append(self._gateway.start)
        self._parts.also_begin.append(self._gateway.begin)
        self._parts.also_close.append(self._gateway.close)

    def _pool_changed(self, pool: BalancedPool, own: BalancingSettings | None) -> None:
        self._balancing.obey(pool, own)
        self._health.obey(pool)

    def _opened_backend(self) -> Backend | None:
        opened = self._parts.current()
        return None if opened is None else opened.backend

    def _warn_of_untrusted(self, policies: Mapping[str, CorsPolicy]) -> None:
        """Tell of origins that may call with credentials, and whose POST with the cookie is refused all the same."""
        if not self._has_sessions or not self._session_layer.csrf:
            return
        allowed = {origin for policy in policies.values() if policy.credentials for origin in policy.origins}
        missing = sorted(allowed - self._session_layer.trusted_origins)
        if missing:
            log.warning(
                "cors lets pages of %s%s send credentials, but a POST of theirs with the session cookie is answered "
                "403, as one of another site. List them in session_trusted_origins=[…], each by itself without '*.', "
                "or leave credentials out of the policy",
                ", ".join(map(repr, missing[:5])),
                " and others" if len(missing) > 5 else "",
            )

    def _metrics_settings(
        self, on: bool, settings: MetricsSettings, *, path: str | None, token: str | None, public: bool
    ) -> MetricsSettings | None:
        self._exposition: Exposition | None = None
        if not isinstance(on, bool):
            raise ConfigurationError(f"metrics={on!r} must be True or False")
        if not on and (settings != DEFAULT_METRICS or (path, token, public) != (None, None, False)):
            raise ConfigurationError(
                "the settings metrics_… and business_metrics… need metrics=True: nothing is counted without it"
            )
        if path is None and (token is not None or public):
            raise ConfigurationError("metrics_token and metrics_public need metrics_path='/metrics'")
        if path is not None:
            self._exposition = Exposition(
                path, token=token, public=public, analytics=self._opened_analytics, business=settings.instruments
            )
        self._business, self._cost = settings.business, settings.cost
        self._access_log = AccessLog(settings.access_log) if settings.access_log else None
        self._left_to_others = settings.otlp is not None and settings.otlp.requests is None
        return settings if on else None

    async def _opened_analytics(self) -> AnalyticsAbstraction:
        if self._parts.current() is None:
            await self._parts.open(patience=FIRST_OPEN_PATIENCE)
        return self.analytics

    def _check_keys(self, limits: Iterable[Limit], where: str) -> None:
        """See that there are sessions for the keys that need them."""
        for each in limits:
            if each.key.by_session and not self._has_sessions and not self._sessions_may_be_outside:
                raise ConfigurationError(
                    f"{where}limit({each.text!r}, key={each.key!r}): {each.key!r} needs sessions. Write "
                    "TrafficCop(session_secret=…)"
                )

    def _check_route(self, route: GatewayRoute) -> None:
        """See that there is what a route needs."""
        action = action_of(route)
        self._check_keys(action.limits, f"route {route.name!r}: ")
        wants = "session=…" if route.session else "identity=…" if action.policy.identity else ""
        if wants and not self._has_sessions and not self._sessions_may_be_outside:
            raise ConfigurationError(
                f"route {route.name!r}: {wants} needs sessions. Write TrafficCop(session_secret=…)"
            )
        self._check_balancing(action.balancing, f"route {route.name!r}")

    def _check_balancing(self, settings: BalancingSettings, where: str) -> None:
        """See that there is what it goes by."""
        wanting = "affinity='session'" if settings.affinity == "session" else ""
        if settings.hash_by.startswith("attribute:"):
            wanting = f"hash_by={settings.hash_by!r}"
        if wanting and not self._has_sessions and not self._sessions_may_be_outside:
            raise ConfigurationError(f"{where}: {wanting} needs sessions. Write TrafficCop(session_secret=…)")
        if settings.affinity == "cookie" and not self._has_sessions:
            raise ConfigurationError(
                f"{where}: affinity='cookie' needs a secret that all workers share, so that the cookie tells nobody "
                "else of an instance. Write TrafficCop(session_secret=…)"
            )

    def _check_marks(self, template: str, marks: Marks) -> None:
        self._check_keys(marks.limits, f"{template}: ")
        self._planner.learn(template, marks.limits)

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

    def promotion_hook(self, hook: HookFunction) -> HookFunction:
        """Let a function of the state and its verdict, plain or async, have a say: `@cop.promotion_hook`.

        It gives a verdict (`verdict.at_least("immediate", "why")`, `at_most`, `as_file`, `veto`), or `None` for no say.
        Several are asked in the order in which they were added. One that fails is logged and left out.

        Raises:
            ConfigurationError: it can't be called with two arguments.
        """
        check_hook(hook)
        self._hooks.append(hook)
        return hook

    @property
    def routes(self) -> LiveRoutes:
        """Gateway routes while the app runs: `await cop.routes.put("/billing/*", to="http://billing:8080")`, `remove`,
        `list`, `change`. Open as `sessions` is.
        """
        return self._live_routes

    @property
    def limits(self) -> LiveLimits:
        """Limits while the app runs: `await cop.limits.put("search", "5/minute")`, `remove`, `list`, `show`, `reset`.

        Open as `sessions` is.
        """
        return self._live_limits

    @property
    def balancing(self) -> LoadBalancingAbstraction:
        """Pools while the app runs: `cop.balancing.pools()`, `await cop.balancing.drain("billing", "10.0.0.5:8080")`,
        `resume`, `configure`. Open as `sessions` is.
        """
        return self._balancing

    @property
    def cors(self) -> CorsPolicies:
        """CORS policies while the app runs: `await cop.cors.put("app", CorsPolicy(origins=[…]))`, `remove`, `list`.

        Open as `sessions` is.
        """
        return self._cors

    def _with_sessions(self, part: str) -> Opened:
        if not self._has_sessions:
            raise ConfigurationError(f"cop.{part}: this cop has no sessions. Write TrafficCop(session_secret=…)")
        return self._open(part)

    def _open(self, part: str) -> Opened:
        opened = self._parts.current()
        if opened is None:
            raise ConfigurationError(
                f"cop.{part}: nothing is open on this event loop. Use it in a request, or in the app's lifespan"
            )
        return opened

    def session_routes(self, prefix: str = "/auth") -> list[Route]:
        """Routes for clients: `POST {prefix}/refresh`, `/logout`, `/logout-all`, `GET` and `DELETE {prefix}/sessions`,
        and `GET /.well-known/jwks.json`. Add them to an app: `app.routes.extend(cop.session_routes())`.

        Raises:
            ConfigurationError: there are no sessions, or `prefix` is no path.
        """
        if not self._has_sessions:
            raise ConfigurationError(
                "cop.session_routes(): this cop has no sessions. Write TrafficCop(session_secret=…)"
            )
        return endpoints(prefix, lambda: (self.sessions, self.session_management))

    def install(self, app: Starlette) -> None:
        """Put the stack into a Starlette or FastAPI app, outermost of the middlewares added so far.

        Call it before `app.add_middleware(CORSMiddleware, …)`, which then stays outermost.

        Raises:
            ConfigurationError: `app` takes no middleware (wrap it instead), or a stack of ours is in it already.
        """
        add = getattr(app, "add_middleware", None)
        if not callable(add):
            raise ConfigurationError(
                f"cop.install({app!r}): that is no Starlette or FastAPI app. For any other ASGI app write "
                "app = cop.wrap(app)"
            )
        for middleware in app.user_middleware:
            if getattr(middleware.cls, "traffic_cop_layer", None) == TrafficCopMiddleware.traffic_cop_layer:
                raise ConfigurationError("cop.install(app): a Traffic Cop is installed in this app already")
        app.add_middleware(TrafficCopMiddleware, cop=self)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The same app with the stack around it; any ASGI app.

        Raises:
            OrderError: a stack of ours stands in it already.
        """
        return TrafficCopMiddleware(app, cop=self)

    def limit(self, pattern: str, limits: Limits) -> None:
        """Limit a whole subtree of paths: `cop.limit("/admin/*", "10/minute")`, added to the stack's limits.

        One bucket per key over the subtree.

        Raises:
            ConfigurationError: the pattern or a limit can't be used.
        """
        added = limits_of(limits, "limits")
        self._check_keys(added, f"cop.limit({pattern!r}, …): ")
        self._planner.add(Subtree(pattern, added))

    def route(self, pattern: str, *, to: Any, **settings: Unpack[RouteKwargs]) -> None:
        """Send requests that match elsewhere: `cop.route("/billing/*", to="http://billing:8080")`.

        See `route` for what there is to set. Routes stand before the app's own.

        Raises:
            ConfigurationError: a value can't be used, or there is a route of that name.
            MissingExtra: there is an upstream, and no driver for it.
        """
        self._gateway.add(route(pattern, to=to, **settings))

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of every event, synchronously; calling what this returns ends that.

        Raises:
            ConfigurationError: it can't be called, or is a coroutine function.
        """
        if not callable(observer) or inspect.iscoroutinefunction(observer):
            raise ConfigurationError(
                f"observer={observer!r} must be a plain function of one event; it is called inside the request, so it "
                "only takes note"
            )
        return self._observers.subscribe(observer)

    def _layers(self, app: ASGIApp, table: RouteTable, layer: str) -> ASGIApp:
        """The layers of a part: of the stack all that are configured."""
        inside = app
        if layer == "promotion":
            return PromotionLayer(app, parts=self._parts, table=table)
        if layer in ("traffic_cop", "routing"):
            keys = self._parts.affinity_keys
            cookies = AffinityCookies(AffinityTokens(keys), self._session_layer.cookie) if keys else None
            app = RoutingLayer(app, gateway=self._gateway, observers=self._observers, cookies=cookies)
        if layer in ("traffic_cop", "rate_limit"):
            app = self._limiter(app, table, unrouted=inside)
        if self._has_sessions:
            app = SessionLayer(app, settings=self._session_layer, parts=self._parts)
        if layer == "traffic_cop":
            app = CorsLayer(app, policies=self._cors, observers=self._observers)
        recorder = self._parts.recorder
        if recorder is not None:
            for inside in stacks_inside(app):  # a part of ours that stands alone tells its own observers
                inside.observers.subscribe(recorder.hear)
            app = MetricsLayer(
                app,
                recorder=recorder,
                table=table,
                gateway=self._gateway,
                exposition=self._exposition,
                access_log=self._access_log,
                elsewhere=CountedElsewhere(app) if self._left_to_others else None,
                cost=self._cost,
            )
        return app

    def _limiter(self, app: ASGIApp, table: RouteTable, *, unrouted: ASGIApp) -> ASGIApp:
        return RateLimitLayer(
            app,
            unrouted=unrouted,
            settings=self._settings,
            planner=self._planner,
            table=table,
            parts=self._parts,
            observers=self._observers,
            trusting=self._client_address.trusting,
            gateway=self._gateway,
        )

    def _stack(self, stack: Stack, app: ASGIApp, layer: str) -> None:
        """Set up a middleware as this cop's stack around an app."""
        table = RouteTable(
            app,
            strict=self._settings.strict_routes,
            check=self._check_marks,
        )
        Stack.__init__(
            stack,
            app,
            layer=layer,
            parts=self._parts,
            client_address=self._client_address,
            table=table,
            cors=self._cors,
            build=lambda inner: self._layers(inner, table, layer),
        )


class TrafficCopMiddleware(Stack):
    """The whole stack as a middleware: `app.add_middleware(TrafficCopMiddleware, limits="100/minute")`.

    Takes the kwargs of `TrafficCop`, or one that is made already as `cop`.
    """

    traffic_cop_layer = "traffic_cop"

    def __init__(self, app: ASGIApp, cop: TrafficCop | None = None, **settings: Unpack[CopSettings]) -> None:
        if cop is not None and not isinstance(cop, TrafficCop):
            raise ConfigurationError(
                f"TrafficCopMiddleware: cop is a TrafficCop that is made already, not a {type(cop).__name__}. For a "
                "URL write backend=…"
            )
        if cop is not None and settings:
            raise ConfigurationError(
                f"TrafficCopMiddleware: the cop has its settings already: {', '.join(settings)} can't be set here"
            )
        given: Any = settings
        (cop or TrafficCop(**given))._stack(self, app, self.traffic_cop_layer)
