"""What the layers say to each other: Protocols and frozen values, standard library only."""

from traffic_cop_middleware.contracts.backend import Backend, Opener
from traffic_cop_middleware.contracts.buckets import MICRO, SLACK, BucketStore, Guard, Take, Taken
from traffic_cop_middleware.contracts.bus import Listener, Message, MessageBus
from traffic_cop_middleware.contracts.documents import DocumentOpener, DocumentOutbox, DocumentStore, Revision
from traffic_cop_middleware.contracts.events import Event, Observer
from traffic_cop_middleware.contracts.leases import Lease, LeaseStore
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
from traffic_cop_middleware.contracts.state import (
    Change,
    Changed,
    Item,
    Outbox,
    Page,
    Pending,
    StateKey,
    StateStore,
    Tier,
    Written,
)
from traffic_cop_middleware.contracts.telemetry import Distribution, Example, Kind, Point, Reading, TelemetryExporter
from traffic_cop_middleware.contracts.tokens import ForeignTokens, TokenCodec

__all__ = [
    "MICRO",
    "SEALED",
    "SLACK",
    "Backend",
    "BucketStore",
    "Change",
    "Changed",
    "Changes",
    "Created",
    "DocumentOpener",
    "DocumentOutbox",
    "DocumentStore",
    "Distribution",
    "Event",
    "Example",
    "Flush",
    "Flushed",
    "ForeignTokens",
    "Guard",
    "Item",
    "Kind",
    "Lease",
    "LeaseStore",
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
    "Outbox",
    "Page",
    "Pending",
    "Point",
    "Reading",
    "Record",
    "RecordStore",
    "Revision",
    "Rotated",
    "SessionFigures",
    "SessionKey",
    "SessionRoute",
    "SessionRouteStore",
    "SessionStore",
    "StateKey",
    "StateStore",
    "Take",
    "Taken",
    "Tier",
    "TelemetryExporter",
    "TokenCodec",
    "Totals",
    "WorkerTotal",
    "Written",
]
