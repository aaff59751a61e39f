"""Traffic Cop: token-bucket rate limits for any ASGI app, in memory on one machine, in Redis across many.

Three lines wrap an app::

    cop = TrafficCop(limits="100/minute")
    app = FastAPI()
    cop.install(app)
"""

from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.cop import RateLimitMiddleware, TrafficCop, TrafficCopMiddleware
from traffic_cop_middleware.errors import (
    ConfigurationError,
    MissingExtra,
    OrderError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TrafficCopError,
)
from traffic_cop_middleware.middleware.context import TrafficContext, context_of
from traffic_cop_middleware.middleware.keys import by_api_key, by_everyone, by_ip, by_route
from traffic_cop_middleware.middleware.marks import Limit, exempt, limit
from traffic_cop_middleware.middleware.refusals import Refusal

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Event",
    "Limit",
    "MissingExtra",
    "OrderError",
    "RateLimitMiddleware",
    "Refusal",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "TrafficContext",
    "TrafficCop",
    "TrafficCopError",
    "TrafficCopMiddleware",
    "by_api_key",
    "by_everyone",
    "by_ip",
    "by_route",
    "context_of",
    "exempt",
    "limit",
]
