"""Each part by itself, as a middleware with kwargs of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

from starlette.types import ASGIApp

from traffic_cop_middleware.abstractions.balancing.checks import HEALTH
from traffic_cop_middleware.abstractions.balancing.management import BALANCING
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.opened import LIMITS
from traffic_cop_middleware.cop.needs import Needs
from traffic_cop_middleware.cop.settings import (
    BackendKwargs,
    MetricsKwargs,
    PromotionKwargs,
    RateLimitKwargs,
    RoutingKwargs,
    SessionKwargs,
    refuse_unknown,
)
from traffic_cop_middleware.cop.traffic_cop import TrafficCop
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.live_routes import ROUTES
from traffic_cop_middleware.middleware.stack import Stack


class _LimitsNeeds(Needs):
    sessions_may_be_outside = True


class _LimitsAlone(TrafficCop):
    _needs_of_part = _LimitsNeeds
    _keeps_state = False
    _kinds = frozenset({LIMITS})


class _SessionsAlone(TrafficCop):
    _keeps_state = False
    _kinds: frozenset[str] = frozenset()


class _RoutesNeeds(Needs):
    sessions_may_be_outside = True

    def check_route(self, route: GatewayRoute) -> None:
        action = action_of(route)
        wants = "limits=…" if action.limits else "cors=…" if action.cors is not None else ""
        if wants:
            raise ConfigurationError(
                f"route {route.name!r}: {wants} is not for RoutingMiddleware alone. Write TrafficCop(proxy_routes=[…])"
            )
        self.check_balancing(action.balancing, f"route {route.name!r}")


class _RoutesAlone(TrafficCop):
    _needs_of_part = _RoutesNeeds
    _keeps_state = False
    _kinds = frozenset({ROUTES, BALANCING, HEALTH})


class _MetricsAlone(TrafficCop):
    _keeps_state = False
    _kinds: frozenset[str] = frozenset()


class RateLimitMiddleware(Stack):
    """The limits alone: `app.add_middleware(RateLimitMiddleware, limits="100/minute", backend="redis://…")`.

    Takes the kwargs of `TrafficCop`; those of the limits go without their prefix: `fields`, `x_headers`, `on_refusal`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "rate_limit"

    def __init__(self, app: ASGIApp, **settings: Unpack[RateLimitKwargs]) -> None:
        refuse_unknown("RateLimitMiddleware", RateLimitKwargs.__annotations__, settings)
        prefixed: Any = {
            f"limits_{name}" if name in ("fields", "x_headers", "on_refusal") else name: value
            for name, value in settings.items()
        }
        with own_names("limits", RateLimitKwargs.__annotations__):
            _LimitsAlone(**prefixed)._layers.set_up(self, app, self.traffic_cop_layer)


class SessionMiddleware(Stack):
    """Sessions alone: `app.add_middleware(SessionMiddleware, secret=os.environ["SESSION_SECRET"], backend="redis://…")`.

    Takes the kwargs of `TrafficCop` that concern sessions, without their prefix `session_`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "session"

    def __init__(self, app: ASGIApp, **settings: Unpack[SessionKwargs]) -> None:
        refuse_unknown("SessionMiddleware", SessionKwargs.__annotations__, settings)
        if settings.get("secret") is None:
            raise ConfigurationError(
                "SessionMiddleware: secret is missing. Make one with python -c 'import secrets; "
                "print(secrets.token_urlsafe(32))' and keep it out of the code: secret=os.environ['SESSION_SECRET']"
            )
        with own_names("session", SessionKwargs.__annotations__):
            _SessionsAlone(**_prefixed("session", settings))._layers.set_up(self, app, self.traffic_cop_layer)


class RoutingMiddleware(Stack):
    """The gateway alone: `app.add_middleware(RoutingMiddleware, routes=[route("/billing/*", to="http://billing:8080")])`.

    Takes the kwargs of `TrafficCop` that concern the gateway, without their prefix `proxy_`.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "routing"

    def __init__(self, app: ASGIApp, **settings: Unpack[RoutingKwargs]) -> None:
        refuse_unknown("RoutingMiddleware", RoutingKwargs.__annotations__, settings)
        with own_names("proxy", RoutingKwargs.__annotations__):
            _RoutesAlone(**_prefixed("proxy", settings))._layers.set_up(self, app, self.traffic_cop_layer)


class MetricsMiddleware(Stack):
    """The metrics alone: `app.add_middleware(MetricsMiddleware, path="/metrics", token=os.environ["METRICS_TOKEN"])`.

    Takes the kwargs of `TrafficCop` that concern metrics, without their prefix `metrics_`. Added last, so that it
    stands outermost, it also counts what other parts of ours inside do.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "metrics"

    def __init__(self, app: ASGIApp, **settings: Unpack[MetricsKwargs]) -> None:
        refuse_unknown("MetricsMiddleware", MetricsKwargs.__annotations__, settings)
        # Nobody could ask for a history, there is no cop at hand; but insights come out of it.
        told = settings.get("on_insight") is not None or settings.get("webhook") is not None
        prefixed = _prefixed("metrics", settings)
        with own_names("metrics", MetricsKwargs.__annotations__):
            _MetricsAlone(metrics=True, metrics_history=told, **prefixed)._layers.set_up(
                self, app, self.traffic_cop_layer
            )


class _PromotionAlone(TrafficCop):
    _kinds: frozenset[str] = frozenset()


class PromotionMiddleware(Stack):
    """State and its promotion alone: `app.add_middleware(PromotionMiddleware, documents="sqlite:///state.db")`.

    Gives requests whose session is one of ours (`SessionMiddleware`, added later so that it stands outside) their state
    (`state_of`), writes what they changed when the response starts, and judges it off the request path. Takes the
    kwargs of `TrafficCop` that concern state, files and promotion; those of promotion go without their prefix.

    Raises:
        ConfigurationError: a setting can't be used; the message says what to write.
    """

    traffic_cop_layer = "promotion"

    def __init__(self, app: ASGIApp, **settings: Unpack[PromotionKwargs]) -> None:
        refuse_unknown("PromotionMiddleware", PromotionKwargs.__annotations__, settings)
        own = ("hooks", "preset", "critical_fields", "critical_types", "preferences", "file_bytes", "hook_timeout")
        prefixed: Any = {f"promotion_{name}" if name in own else name: value for name, value in settings.items()}
        with own_names("promotion", own):
            _PromotionAlone(**prefixed)._layers.set_up(self, app, self.traffic_cop_layer)


def _prefixed(part: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A part's settings under the names that `TrafficCop` has for them; those of the backend have no prefix."""
    shared = BackendKwargs.__annotations__
    return {name if name in shared else f"{part}_{name}": value for name, value in settings.items()}


@contextmanager
def own_names(part: str, names: Iterable[str]) -> Iterator[None]:
    """Errors speak of a part's settings by the names that it has for them, where `TrafficCop` has a prefix."""
    try:
        yield
    except ConfigurationError as exc:
        text = re.sub(rf"\b(?<!TrafficCop\(){part}_({'|'.join(names)})\b", r"\1", str(exc))
        if text == str(exc):
            raise
        raise type(exc)(text) from exc
