"""Traffic Cop: sessions, rate limits and routes to other services for any ASGI app.

Three lines wrap an app::

    cop = TrafficCop(limits="100/minute")
    app = FastAPI()
    cop.install(app)
"""

from typing import TYPE_CHECKING, Any

from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation, Refusals, RefusalTimes
from traffic_cop_middleware.abstractions.advisor.suggesting import Suggestion, suggest_from_usage
from traffic_cop_middleware.abstractions.advisor.usage import simulate_usage
from traffic_cop_middleware.abstractions.balancing.checks import HealthCheck
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.cors import CorsPolicy
from traffic_cop_middleware.abstractions.destinations import THE_APP, FixedResponse, Redirect, Service
from traffic_cop_middleware.abstractions.files.garbage import Collected
from traffic_cop_middleware.abstractions.files.lineage import Branch, Lineage, StoredFile
from traffic_cop_middleware.abstractions.files.management import Restored
from traffic_cop_middleware.abstractions.files.reconciling import Reconciled, Reconciliation
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.history.ranges import Range
from traffic_cop_middleware.abstractions.insights.notifying import Notification
from traffic_cop_middleware.abstractions.insights.values import Insight
from traffic_cop_middleware.abstractions.insights.webhooks import Webhook
from traffic_cop_middleware.abstractions.promotion.explanation import Explanation
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.session import Session
from traffic_cop_middleware.abstractions.session_management import SessionInfo
from traffic_cop_middleware.abstractions.sessions import Tokens
from traffic_cop_middleware.abstractions.state.items import (
    StateChange,
    StateItem,
    StatePage,
    StateRevision,
    StateSnapshot,
)
from traffic_cop_middleware.abstractions.state.request_state import RequestState
from traffic_cop_middleware.abstractions.state.synchronisation import Push
from traffic_cop_middleware.abstractions.state.taking_over import Pushed
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.advisor import simulate_log, suggest_limits
from traffic_cop_middleware.composition.otlp import OtlpExport
from traffic_cop_middleware.composition.registration import Registration, registered
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.contracts.usage import UsageCount
from traffic_cop_middleware.cop import (
    MetricsMiddleware,
    PromotionMiddleware,
    RateLimitMiddleware,
    RoutingMiddleware,
    SessionMiddleware,
    TrafficCop,
    TrafficCopMiddleware,
)
from traffic_cop_middleware.errors import (
    ConfigurationError,
    FileCorrupt,
    FileQuarantined,
    InvalidToken,
    KeysUnavailable,
    MissingExtra,
    NobodysState,
    NoFile,
    NoRecord,
    NoSnapshot,
    NotDurable,
    OrderError,
    RecordConflict,
    SessionNotReady,
    SessionTooLarge,
    StateConflict,
    StateCursorLost,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TokenTooLarge,
    TooManySessions,
    TrafficCopError,
    UpstreamError,
)
from traffic_cop_middleware.middleware.context import TrafficContext, context_of
from traffic_cop_middleware.middleware.keys import (
    by_api_key,
    by_everyone,
    by_ip,
    by_route,
    by_session,
    by_tenant,
    by_user,
    reads_session,
)
from traffic_cop_middleware.middleware.marks import Limit, exempt, limit, uses_state
from traffic_cop_middleware.middleware.refusals import Refusal
from traffic_cop_middleware.middleware.request_state import state_of
from traffic_cop_middleware.middleware.routes import route
from traffic_cop_middleware.middleware.sessions import require_session, session_of

if TYPE_CHECKING:
    from traffic_cop_middleware.adapters.jwt import Issuer, Key

__version__ = "0.1.0"

__all__ = [
    "THE_APP",
    "BalancingSettings",
    "Between",
    "BusinessMetric",
    "Branch",
    "Collected",
    "ConfigurationError",
    "CorsPolicy",
    "Event",
    "Explanation",
    "FileCorrupt",
    "FileQuarantined",
    "FixedResponse",
    "GatewayRoute",
    "HealthCheck",
    "Insight",
    "InvalidToken",
    "Issuer",
    "Key",
    "KeysUnavailable",
    "Limit",
    "LimitSimulation",
    "Lineage",
    "MetricsMiddleware",
    "MissingExtra",
    "NoFile",
    "NoRecord",
    "NoSnapshot",
    "NobodysState",
    "NotDurable",
    "Notification",
    "OrderError",
    "OtlpExport",
    "PromotionMiddleware",
    "Push",
    "Pushed",
    "Range",
    "RateLimitMiddleware",
    "Reconciled",
    "Reconciliation",
    "RecordConflict",
    "Redirect",
    "Refusal",
    "RefusalTimes",
    "Refusals",
    "Registration",
    "RequestState",
    "Restored",
    "RoutingMiddleware",
    "Service",
    "Session",
    "SessionInfo",
    "SessionMiddleware",
    "SessionNotReady",
    "SessionTooLarge",
    "StateChange",
    "StateConflict",
    "StateCursorLost",
    "StateItem",
    "StatePage",
    "StateRevision",
    "StateSnapshot",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "StoredFile",
    "Suggestion",
    "TokenTooLarge",
    "Tokens",
    "TooManySessions",
    "TrafficContext",
    "TrafficCop",
    "TrafficCopError",
    "TrafficCopMiddleware",
    "Upstream",
    "UpstreamError",
    "UsageCount",
    "Verdict",
    "Webhook",
    "by_api_key",
    "by_everyone",
    "by_ip",
    "by_route",
    "by_session",
    "by_tenant",
    "by_user",
    "context_of",
    "exempt",
    "limit",
    "reads_session",
    "registered",
    "require_session",
    "route",
    "session_of",
    "simulate_log",
    "simulate_usage",
    "state_of",
    "suggest_from_usage",
    "suggest_limits",
    "uses_state",
]


def __getattr__(name: str) -> Any:
    if name in ("Issuer", "Key"):  # they bring cryptography with them, which an app without sessions need not load
        from traffic_cop_middleware.adapters import jwt

        return getattr(jwt, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
