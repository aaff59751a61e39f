"""The three doors: `cop.install(app)`, `cop.wrap(app)`, and middlewares with kwargs."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never, TypedDict, Unpack

from starlette.applications import Starlette
from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.rate_limiting import OnOutage
from traffic_cop_middleware.composition.parts import BackendSettings, Parts
from traffic_cop_middleware.contracts import Backend, Observer
from traffic_cop_middleware.errors import ConfigurationError, UnknownSetting
from traffic_cop_middleware.middleware.client_address import ClientAddress, TrustedProxies
from traffic_cop_middleware.middleware.marks import Limit, limits_of
from traffic_cop_middleware.middleware.plans import Planner, Subtree
from traffic_cop_middleware.middleware.rate_limit import RateLimitLayer, RateLimitSettings
from traffic_cop_middleware.middleware.refusals import OnRefusal
from traffic_cop_middleware.middleware.route_table import RouteTable
from traffic_cop_middleware.middleware.stack import Stack

Limits = str | Limit | Iterable[str | Limit] | None


class BackendKwargs(TypedDict, total=False):
    """The kwargs that every middleware of ours takes, as `TrafficCop` explains them."""

    backend: str | Backend
    on_outage: OnOutage | Mapping[str, OnOutage]
    trusted_proxies: TrustedProxies
    observer: Observer | None
    namespace: str
    deadline: float
    expected_workers: int
    limits: Limits
    strict_routes: bool


class CopSettings(BackendKwargs, total=False):
    """The kwargs of `TrafficCop`."""

    limits_fields: bool
    limits_x_headers: bool
    limits_on_refusal: OnRefusal | None


class RateLimitKwargs(BackendKwargs, total=False):
    """The kwargs of `RateLimitMiddleware`."""

    fields: bool
    x_headers: bool
    on_refusal: OnRefusal | None


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

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
        MissingExtra: the backend's driver is not installed; the message has the `pip install` line.
    """

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
        **unknown: Never,
    ) -> None:
        _refuse_unknown("TrafficCop", CopSettings.__annotations__, unknown)
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
        self._planner = Planner(self._settings.limits)
        self._client_address = ClientAddress(trusted_proxies)
        self._parts = Parts(
            BackendSettings(
                backend=backend,
                namespace=namespace,
                deadline=deadline,
                on_outage=on_outage,
                expected_workers=expected_workers,
            ),
            self._observers,
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

    def limit(self, pattern: str, limits: Limits) -> None:
        """Limit a whole subtree of paths: `cop.limit("/admin/*", "10/minute")`, added to the stack's limits.

        One bucket per key over the subtree.

        Raises:
            ConfigurationError: the pattern or a limit can't be used.
        """
        self._planner.add(Subtree(pattern, limits_of(limits, "limits")))

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

    def _layers(self, app: ASGIApp, table: RouteTable) -> ASGIApp:
        return RateLimitLayer(
            app,
            settings=self._settings,
            planner=self._planner,
            table=table,
            parts=self._parts,
            observers=self._observers,
            trusting=self._client_address.trusting,
        )

    def _stack(self, stack: Stack, app: ASGIApp, layer: str) -> None:
        """Set up a middleware as this cop's stack around an app."""
        table = RouteTable(app, strict=self._settings.strict_routes)
        Stack.__init__(
            stack,
            app,
            layer=layer,
            parts=self._parts,
            client_address=self._client_address,
            table=table,
            build=lambda inner: self._layers(inner, table),
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


class RateLimitMiddleware(Stack):
    """The limits alone: `app.add_middleware(RateLimitMiddleware, limits="100/minute", backend="redis://…")`.

    Takes the kwargs of `TrafficCop`; those of the limits go without their prefix: `fields`, `x_headers`, `on_refusal`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "rate_limit"

    def __init__(self, app: ASGIApp, **settings: Unpack[RateLimitKwargs]) -> None:
        _refuse_unknown("RateLimitMiddleware", RateLimitKwargs.__annotations__, settings)
        prefixed: Any = {
            f"limits_{name}" if name in ("fields", "x_headers", "on_refusal") else name: value
            for name, value in settings.items()
        }
        TrafficCop(**prefixed)._stack(self, app, self.traffic_cop_layer)


def _refuse_unknown(what: str, known: Iterable[str], given: Mapping[str, object]) -> None:
    """A mistyped setting, with the one that was meant."""
    known = list(known)
    for name in given:
        if name not in known:
            bare = name.removeprefix("limits_")
            near = [bare] if bare in known else difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}=?" if near else f"there are {', '.join(known)}"
            raise UnknownSetting(f"{what} has no setting {name!r}: {meant}")
