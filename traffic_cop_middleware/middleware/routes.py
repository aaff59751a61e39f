"""`route(…)`: a gateway route as a user writes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from traffic_cop_middleware.abstractions.balancing.checks import HealthCheck
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings, balancing_of
from traffic_cop_middleware.abstractions.destinations import FixedResponse, Service, TheApp, destination, is_forwarded
from traffic_cop_middleware.abstractions.forwarding import ForwardedStyle
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute, Scalar, gateway_route
from traffic_cop_middleware.abstractions.route_policies import BALANCED, Action, Headers, RoutePolicy
from traffic_cop_middleware.abstractions.upstreams import Pool
from traffic_cop_middleware.contracts.balancing import BalancingPolicy
from traffic_cop_middleware.errors import ConfigurationError, UnknownSetting
from traffic_cop_middleware.middleware.marks import Limit, limits_of

Limits = str | Limit | Iterable[str | Limit] | None
PREDICATES = ("methods", "hosts", "headers", "query", "session", "weight", "priority")


class RouteKwargs(TypedDict, total=False):
    """What can be set on a route, beside its pattern and destination."""

    name: str
    methods: str | Iterable[str] | None
    hosts: str | Iterable[str]
    headers: Mapping[str, str | bytes] | None
    query: Mapping[str, str] | None
    session: Mapping[str, Scalar] | None
    weight: int
    priority: int
    strip_prefix: str
    rewrite: str
    keep_host: bool
    forwarded: ForwardedStyle
    request_headers: Headers
    response_headers: Headers
    remove_request_headers: Iterable[str]
    remove_response_headers: Iterable[str]
    identity: bool | str
    connect_deadline: float
    head_deadline: float
    idle_deadline: float
    max_body: int | None
    max_headers: int
    balancing: str | BalancingPolicy | BalancingSettings
    check: HealthCheck | None
    mirror: Any
    limits: Limits
    cors: str


def route(pattern: str, *, to: Any, **settings: Unpack[RouteKwargs]) -> GatewayRoute:
    """A gateway route: requests whose path matches `pattern` go `to` a destination.

    Patterns: "/exact", "/prefix/*", "/users/{id}/orders". `to`: a URL, `Upstream(…)` or a list of them, `Service(…)`,
    `Redirect(…)`, `FixedResponse(…)`, `THE_APP`, or an ASGI app. Which requests: `methods`, `hosts`, `headers`, `query`
    and `session` (attributes or claims of who is logged in) narrow it; of several routes the more exact one is taken,
    or the one with the higher `priority`; those that tie share by `weight`. How: see `RoutePolicy`; `balancing` chooses
    among the instances ("p2c", or `BalancingSettings(…)`); `check` asks upstreams that are listed here for their health
    (`HealthCheck("/health")`); `limits` as in `TrafficCop`; `mirror` names upstreams that get a copy of each request,
    and whose answers are dropped; `cors` names the CORS policy that applies in place of the path's. `name` is what
    events and the run-time table call it, by default the pattern.

    Raises:
        ConfigurationError: a value can't be used.
    """
    given: dict[str, Any] = dict(settings)
    unknown = [name for name in given if name not in RouteKwargs.__annotations__]
    if unknown:
        raise UnknownSetting(f"route({pattern!r}, {unknown[0]}=…): there are {', '.join(RouteKwargs.__annotations__)}")
    name = given.pop("name", pattern)
    predicates = {each: given.pop(each) for each in PREDICATES if each in given}
    where = f"route({pattern!r})"
    mirror = given.pop("mirror", None)
    given_balancing = given.pop("balancing", None)
    check = given.pop("check", None)
    beside = [each for each in ("mirror", "balancing", "check") if settings.get(each) is not None]
    limits = limits_of(given.pop("limits", None), "limits")
    cors = given.pop("cors", None)
    if cors is not None and (not isinstance(cors, str) or not cors):
        raise ConfigurationError(f"{where}: cors={cors!r} is the name of a CORS policy: TrafficCop(cors={{'name': …}})")
    try:
        policy = RoutePolicy(**given)
        found = gateway_route(name, pattern, to=None, **predicates)
        policy.check(found.pattern)
        found_to = destination(to, where)
        _check_use(found_to, [*given, *beside])
        _check_health(found_to, check)
        balancing = balancing_of(given_balancing) if given_balancing is not None else BALANCED
        action = Action(found_to, policy, _mirror(mirror), limits, cors, balancing, check)
    except ConfigurationError as exc:
        raise type(exc)(str(exc) if str(exc).startswith(("route", "Upstream")) else f"{where}: {exc}") from exc
    return replace(found, to=action)


def _check_use(to: object, settings: Iterable[str]) -> None:
    """See that the settings mean something for a destination: an upstream has them all."""
    if is_forwarded(to):
        return
    known = () if isinstance(to, (FixedResponse, TheApp)) else ("strip_prefix",)
    for name in settings:
        if name not in known:
            raise ConfigurationError(f"{name}=… is for routes to upstreams, and to={to!r} is none. Leave it out")


def _check_health(to: object, check: object) -> None:
    if check is not None and not isinstance(check, HealthCheck):
        raise ConfigurationError(f"check={check!r}: write HealthCheck('/health')")
    if check is not None and isinstance(to, Service):
        raise ConfigurationError(f"check=… is for upstreams that a route lists; write Service({to.name!r}, check=…)")


def _mirror(mirror: object) -> Pool | None:
    if mirror is None:
        return None
    found = destination(mirror, "mirror")
    if not isinstance(found, Pool):
        raise ConfigurationError(f"mirror={mirror!r}: a URL, Upstream(…) or a list of them")
    return found
