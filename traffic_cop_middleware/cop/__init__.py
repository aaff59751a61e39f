"""The three doors: `cop.install(app)`, `cop.wrap(app)`, and middlewares with kwargs."""

from traffic_cop_middleware.cop.alone import (
    MetricsMiddleware,
    PromotionMiddleware,
    RateLimitMiddleware,
    RoutingMiddleware,
    SessionMiddleware,
)
from traffic_cop_middleware.cop.settings import (
    CopSettings,
    MetricsKwargs,
    PromotionKwargs,
    RateLimitKwargs,
    RoutingKwargs,
    SessionKwargs,
)
from traffic_cop_middleware.cop.traffic_cop import TrafficCop, TrafficCopMiddleware

__all__ = [
    "CopSettings",
    "MetricsKwargs",
    "MetricsMiddleware",
    "PromotionKwargs",
    "PromotionMiddleware",
    "RateLimitKwargs",
    "RateLimitMiddleware",
    "RoutingKwargs",
    "RoutingMiddleware",
    "SessionKwargs",
    "SessionMiddleware",
    "TrafficCop",
    "TrafficCopMiddleware",
]
