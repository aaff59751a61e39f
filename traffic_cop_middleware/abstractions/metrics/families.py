"""The families of counters and timings, and which event of another part counts into which of them.

A name is the family's and then the values of its labels, in the order of `LABELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from traffic_cop_middleware.abstractions.metrics.figures import Figures

REFUSED = "limit.refused"
SESSIONS = "session"
UPSTREAM = "upstream"
UPSTREAM_FAILED = "upstream.failed"
SOCKET = "socket"
SOCKET_MESSAGES = "socket.messages"
SOCKET_BYTES = "socket.bytes"
SOCKET_CLOSED = "socket.closed"
SOCKET_REFUSED = "socket.refused"
STORE_LOST = "store.lost"
IN_FLIGHT = "in_flight"
IN_FLIGHT_ELSEWHERE = "in_flight.elsewhere"
"""Those among `IN_FLIGHT` that the app's framework reports by itself."""
SOCKETS_OPEN = "sockets_open"

LABELS: Mapping[str, tuple[str, ...]] = {
    REFUSED: ("limit", "decided_by"),
    SESSIONS: ("event", "kind"),
    UPSTREAM: ("route", "upstream", "status"),
    UPSTREAM_FAILED: ("route", "upstream", "error"),
    SOCKET: ("http.route",),
    SOCKET_MESSAGES: ("http.route", "direction"),
    SOCKET_BYTES: ("http.route", "direction"),
    SOCKET_CLOSED: ("http.route", "code"),
    SOCKET_REFUSED: ("http.route", "status"),
    STORE_LOST: ("store",),
    IN_FLIGHT: ("http.route", "http.request.method"),
    IN_FLIGHT_ELSEWHERE: ("http.route", "http.request.method"),
    SOCKETS_OPEN: ("http.route",),
}
SESSION_EVENTS = {
    "session.created": "created",
    "session.revoked": "revoked",
    "session.expired": "expired",
    "session.refused": "refused",
    "session.rejected": "rejected",
    "session.reuse_detected": "reuse_detected",
    "session.write_dropped": "write_dropped",
    "session.rerouted": "rerouted",
}

Told = Mapping[str, Any]
Count = Callable[[Figures, Told], None]


def counted_by(kind: str) -> Count | None:
    """What counts an event of this kind; `None` where nothing does."""
    return _COUNTED.get(kind)


def close_code(code: int | None) -> str:
    """A WebSocket's close code as a label: those of RFC 6455 as they are, the 4,000 that anybody may use by class."""
    if code is None or not 1000 <= code <= 4999:
        return "none"
    return str(code) if code <= 1015 else f"{code // 1000}xxx"


def _refused(figures: Figures, told: Told) -> None:
    for name in told["limits"] or ("unavailable",):
        figures.count((REFUSED, str(name), str(told["source"])))


def _session(event: str) -> Count:
    def count(figures: Figures, told: Told) -> None:
        figures.count((SESSIONS, event, str(told.get("kind", ""))))

    return count


def _forwarded(figures: Figures, told: Told) -> None:
    upstream = told["upstream"] or "none"
    status = "499" if told.get("gone") else str(told["status"] or told.get("error") or "none")
    if status != "101":  # a WebSocket's life is no answer's time
        figures.timing((UPSTREAM, told["route"], upstream, status)).add(told["seconds"])


def _failed(figures: Figures, told: Told) -> None:
    figures.count((UPSTREAM_FAILED, told["route"], told["upstream"], told["error"]))


def _lost(figures: Figures, told: Told) -> None:
    figures.count((STORE_LOST, str(told["store"])))


_COUNTED: Mapping[str, Count] = {
    "limit.refused": _refused,
    "route.forwarded": _forwarded,
    "upstream.failed": _failed,
    "store.lost": _lost,
    **{kind: _session(event) for kind, event in SESSION_EVENTS.items()},
}
