"""The order of the layers, as data, and what stands wrong around or inside of them.

Outermost first. Each layer counts on what those before it left in the context.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from traffic_cop_middleware.errors import OrderError

log = logging.getLogger("traffic_cop")

ORDER = ("traffic_cop", "metrics", "session", "rate_limit", "routing", "promotion")
"""`traffic_cop` is the whole stack; the others are parts that also stand alone."""

NAMES = {
    "traffic_cop": "TrafficCop",
    "metrics": "MetricsMiddleware",
    "session": "SessionMiddleware",
    "rate_limit": "RateLimitMiddleware",
    "routing": "RoutingMiddleware",
    "promotion": "PromotionMiddleware",
}
SETTINGS = {
    "metrics": "metrics=True",
    "session": "session_secret=…",
    "rate_limit": "limits=…",
    "routing": "proxy_routes=…",
    "promotion": "documents=…",
}


def middlewares_inside(app: Any) -> Iterator[type]:
    """The classes of the middlewares around an app, outermost first, as far as they can be seen."""
    for _ in range(100):
        yield type(app)
        for middleware in getattr(app, "user_middleware", ()):
            yield middleware.cls
        app = getattr(app, "app", None)
        if app is None:
            return


def check_order(layer: str, app: Any) -> None:
    """See that what stands inside of `layer` may stand there.

    Raises:
        OrderError: it may not; the message says what to change.
    """
    for inside in middlewares_inside(app):
        other = getattr(inside, "traffic_cop_layer", None)
        if other is None:
            continue
        if layer == other == "traffic_cop":
            raise OrderError(
                "TrafficCop stands inside TrafficCop, so each request would pay twice. Keep one of cop.install(app), "
                "cop.wrap(app) and app.add_middleware(TrafficCopMiddleware, …)"
            )
        if "traffic_cop" in (layer, other):
            raise OrderError(
                f"{NAMES[other]} stands inside {NAMES[layer]}, so each request would pay twice. Keep one of them: "
                + " ".join(
                    f"TrafficCop({setting}) has what {NAMES[part]} does"
                    for part, setting in SETTINGS.items()
                    if part in (layer, other)
                )
            )
        if ORDER.index(other) <= ORDER.index(layer):
            again = "twice" if other == layer else f"inside {NAMES[layer]}"
            mend = (
                ("Keep one" + (" and give it all limits: limits=['100/minute', '1000/day']" * (other == "rate_limit")))
                if other == layer
                else f"Add {NAMES[layer]} before {NAMES[other]}: what is added last stands outermost"
            )
            raise OrderError(f"{NAMES[other]} stands {again}. {mend}")


def warn_of_cors_inside(app: Any) -> None:
    """CORS inside of the limits: refusals and preflights would lack its fields."""
    if any(isinstance(inside, type) and issubclass(inside, CORSMiddleware) for inside in middlewares_inside(app)):
        log.warning(
            "CORSMiddleware stands inside Traffic Cop: a browser can't read refusals, and preflights take tokens. Call "
            "cop.install(app) before app.add_middleware(CORSMiddleware, …): what is added last stands outermost"
        )
