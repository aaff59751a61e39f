"""The cop: every part that is configured, as one object that is installed into an app or wrapped around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Never, Unpack, cast

from starlette.applications import Starlette
from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.business.costs import Costs
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.business_metrics import BusinessMetricsAbstraction
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.insights.quotas import Quotas
from traffic_cop_middleware.abstractions.insights.webhooks import Webhook
from traffic_cop_middleware.abstractions.promotion.hooks import PromotionHook
from traffic_cop_middleware.abstractions.promotion.settings import (
    CRITICAL_FIELDS,
    CRITICAL_TYPES,
    Preset,
    PromotionSettings,
)
from traffic_cop_middleware.abstractions.rate_limiting import OnOutage
from traffic_cop_middleware.abstractions.session_policy import OnLimit, SessionPolicy
from traffic_cop_middleware.abstractions.state.synchronisation import Service
from traffic_cop_middleware.composition.files_settings import FilesSettings
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.composition.otlp import OtlpExport
from traffic_cop_middleware.composition.parts import Parts
from traffic_cop_middleware.composition.session_settings import Secret
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.composition.telling import OnInsight
from traffic_cop_middleware.contracts import Backend, DocumentStore, FileMetadataStore, ObjectStore, Observer, Tier
from traffic_cop_middleware.cop.additions import Additions
from traffic_cop_middleware.cop.counting import Counting
from traffic_cop_middleware.cop.from_kwargs import (
    backend_settings,
    checked_hooks,
    metrics_settings,
    rate_limit_settings,
    session_layer_settings,
    session_settings,
)
from traffic_cop_middleware.cop.layers import Layers
from traffic_cop_middleware.cop.live import KINDS, Live
from traffic_cop_middleware.cop.management import Management
from traffic_cop_middleware.cop.needs import Needs, warn_of_untrusted
from traffic_cop_middleware.cop.settings import CopSettings, refuse_unknown, refuse_useless
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.client_address import ClientAddress, TrustedProxies
from traffic_cop_middleware.middleware.cookies import SameSite
from traffic_cop_middleware.middleware.csrf import Csrf
from traffic_cop_middleware.middleware.plans import Planner
from traffic_cop_middleware.middleware.refusals import OnRefusal
from traffic_cop_middleware.middleware.routes import Limits
from traffic_cop_middleware.middleware.stack import Stack

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

    from traffic_cop_middleware.adapters.jwt import Issuer

DEFAULT_POLICY = SessionPolicy()
DEFAULT_STATE = StateSettings()
DEFAULT_FILES = FilesSettings()
DEFAULT_PROMOTION = PromotionSettings()
DEFAULT_METRICS = MetricsSettings()


class TrafficCop(Management, Additions):
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
        metrics_quotas: who may use how many requests (`{"tenant": "10000/day"}`, as `cop.analytics.insights` takes
            them): then both are told who is about to use theirs up, and who has.
        business_metrics: what the app counts of its own, for `cop.business_metrics`: `[BusinessMetric("orders",
            "count", attributes=["plan"])]`.
        business_metrics_cost: what a request costs: a plain function of its route, method ("WEBSOCKET" for those),
            status, seconds and bytes of the response, or a table by route template, `{"/report": 0.002, "*": 0.0001}`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
        MissingExtra: the backend's driver is not installed; the message has the `pip install` line.
    """

    _needs_of_part = Needs
    _keeps_state = True
    _kinds = KINDS
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
        metrics_quotas: Quotas | None = None,
        business_metrics: Iterable[BusinessMetric] = (),
        business_metrics_cost: Costs | None = None,
        **unknown: Never,
    ) -> None:
        given = cast(CopSettings, locals())  # before anything else is local: the kwargs, each with its default
        refuse_unknown("TrafficCop", CopSettings.__annotations__, unknown)
        self._observers = Observers()
        if observer is not None:
            self.subscribe(observer)
        rate_limits = rate_limit_settings(given)
        session_layer = session_layer_settings(given)
        sessions = session_settings(given)
        self._needs = self._needs_of_part(sessions=sessions is not None)
        self._needs.check_keys(rate_limits.limits, "")
        self._planner = Planner(rate_limits.limits)
        client_address = ClientAddress(trusted_proxies)
        self._live = Live(
            self._needs,
            self._planner,
            observers=self._observers,
            opened=self._open,
            backend=self._opened_backend,
            proxy_routes=proxy_routes,
            cors=cors,
        )
        self._gateway = self._live.gateway
        if sessions is not None:
            warn_of_untrusted(cors or {}, session_layer)
        self._hooks = checked_hooks(given)
        settings = backend_settings(given, hooks=self._hooks, keeps_state=self._keeps_state)
        counted = metrics_settings(given)
        refuse_useless(given, signature(TrafficCop))
        counting = None
        if counted is not None:
            counting = Counting(
                counted,
                path=metrics_path,
                token=metrics_token,
                public=metrics_public,
                analytics=self._opened_analytics,
            )
        self._parts = Parts(
            settings, self._observers, sessions, watched=self._live.tables(self._kinds), metrics=counted
        )
        self._live.run_with(self._parts)
        self._business_metrics = None
        if counted is not None and self._parts.recorder is not None:
            self._business_metrics = BusinessMetricsAbstraction(
                counted.business, self._parts.recorder, analytics=lambda: self._open("business_metrics").analytics
            )
        self._layers = Layers(
            limits=rate_limits,
            session_layer=session_layer,
            counting=counting,
            needs=self._needs,
            planner=self._planner,
            live=self._live,
            parts=self._parts,
            observers=self._observers,
            client_address=client_address,
        )

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
        (cop or TrafficCop(**given))._layers.set_up(self, app, self.traffic_cop_layer)
