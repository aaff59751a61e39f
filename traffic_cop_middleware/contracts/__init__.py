"""What the layers say to each other: Protocols and frozen values, standard library only."""

from traffic_cop_middleware.contracts.backend import Backend, Opener
from traffic_cop_middleware.contracts.buckets import MICRO, SLACK, BucketStore, Guard, Take, Taken
from traffic_cop_middleware.contracts.bus import Listener, Message, MessageBus
from traffic_cop_middleware.contracts.events import Event, Observer
from traffic_cop_middleware.contracts.metrics import (
    SEALED,
    Flush,
    Flushed,
    MetricsRecord,
    MetricsStore,
    MetricsWindow,
    Totals,
    WorkerTotal,
)
from traffic_cop_middleware.contracts.records import Changes, Record, RecordStore
from traffic_cop_middleware.contracts.session_routes import SessionRoute, SessionRouteStore
from traffic_cop_middleware.contracts.sessions import (
    Created,
    Listed,
    Loaded,
    Rotated,
    SessionFigures,
    SessionKey,
    SessionStore,
)
from traffic_cop_middleware.contracts.tokens import ForeignTokens, TokenCodec

__all__ = [
    "MICRO",
    "SEALED",
    "SLACK",
    "Backend",
    "BucketStore",
    "Changes",
    "Created",
    "Event",
    "Flush",
    "Flushed",
    "ForeignTokens",
    "Guard",
    "Listed",
    "Listener",
    "Loaded",
    "Message",
    "MessageBus",
    "MetricsRecord",
    "MetricsStore",
    "MetricsWindow",
    "Observer",
    "Opener",
    "Record",
    "RecordStore",
    "Rotated",
    "SessionFigures",
    "SessionKey",
    "SessionRoute",
    "SessionRouteStore",
    "SessionStore",
    "Take",
    "Taken",
    "TokenCodec",
    "Totals",
    "WorkerTotal",
]
