"""What is told of figures outside: each family with its name, unit, labels and rows. Every way out reads this table.

Names, units and labels are those of OpenTelemetry's semantic conventions for HTTP where there are any
(`http.server.request.duration`, `http.route`, …); the others begin with `traffic_cop.`. Nothing that a client chooses
is a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.series import Exemplar, Key, Series

ROUTE, METHOD, STATUS = "http.route", "http.request.method", "http.response.status_code"
DURATION, ACTIVE = "http.server.request.duration", "http.server.active_requests"
"""The two that frameworks record as well."""
Values = Sequence[str]
"""Of the labels, in their order."""
TimedRow = tuple[Values, Histogram, Mapping[int, Exemplar]]
"""A histogram, with its slow requests by the place of their bound."""
T = TypeVar("T")


class Timing(NamedTuple):
    """A family of histograms of seconds."""

    name: str
    help: str
    labels: Sequence[str]
    rows: Callable[[Figures], Iterable[TimedRow]]
    unit: str = "s"


class Number(NamedTuple):
    """A family of numbers: they only grow, or (`grows` is false) tell what is at this moment.

    `unit` is UCUM's; what is counted stands in braces.
    """

    name: str
    unit: str
    help: str
    labels: Sequence[str]
    rows: Callable[[Figures], Iterable[tuple[Values, float]]]
    grows: bool = True


def text(value: str) -> str:
    """A label's value as text that can be encoded: a lone surrogate is none."""
    return value.encode("utf-8", "backslashreplace").decode()


def _by_series(series: Mapping[Key, Series]) -> Iterator[tuple[Values, Series]]:
    for template, method, status in sorted(series):
        yield (method, template, str(status)), series[template, method, status]


def _durations(figures: Figures) -> Iterator[TimedRow]:
    for values, series in _by_series(figures.requests):
        yield values, series.duration, series.slow


def _first_bytes(figures: Figures) -> Iterator[TimedRow]:
    for values, series in _by_series(figures.requests):
        yield values, series.first_byte, {}


def _streams(figures: Figures) -> Iterator[TimedRow]:
    for values, series in _by_series(figures.streams):
        yield values, series.duration, {}


def _of_all(name: str, unit: str, what: str, number: Callable[[Series], int], *, sparse: bool = False) -> Number:
    """Summed over requests and streams; where it is `sparse`, what is 0 has no row."""

    def rows(figures: Figures) -> Iterable[tuple[Values, int]]:
        summed: dict[Values, int] = {}
        for values, series in [*_by_series(figures.requests), *_by_series(figures.streams)]:
            if not sparse or number(series):
                summed[values] = summed.get(values, 0) + number(series)
        return summed.items()

    return Number(name, unit, what, _LABELS, rows)


def _named(family: str, things: Mapping[tuple[str, ...], T]) -> Iterator[tuple[Values, T]]:
    for name in sorted(name for name in things if name[0] == family):
        yield name[1:], things[name]


def _counted(name: str, unit: str, what: str, family: str) -> Number:
    return Number(name, unit, what, families.LABELS[family], lambda figures: _named(family, figures.counts))


def _timed(name: str, what: str, family: str) -> Timing:
    def rows(figures: Figures) -> Iterator[TimedRow]:
        for values, histogram in _named(family, figures.timings):
            yield values, histogram, {}

    return Timing(name, what, families.LABELS[family], rows)


def _now(name: str, unit: str, what: str, family: str) -> Number:
    labels = families.LABELS[family]
    return Number(name, unit, what, labels, lambda figures: _named(family, figures.gauges), grows=False)


_LABELS = (METHOD, ROUTE, STATUS)
INSTRUMENTS: Sequence[Timing | Number] = (
    Timing(DURATION, "Requests, from their start to the last byte.", _LABELS, _durations),
    Timing(
        "traffic_cop.first_byte.duration",
        "Requests, from their start to the head of the response.",
        _LABELS,
        _first_bytes,
    ),
    Timing(
        "traffic_cop.stream.duration",
        "Long streams that have ended; they are not among the requests.",
        _LABELS,
        _streams,
    ),
    _of_all("traffic_cop.request_body", "By", "Bytes of request bodies.", lambda series: series.bytes_in),
    _of_all("traffic_cop.response_body", "By", "Bytes of response bodies.", lambda series: series.bytes_out),
    _of_all(
        "traffic_cop.exceptions",
        "{exception}",
        "Exceptions that passed through.",
        lambda series: series.exceptions,
        sparse=True,
    ),
    _of_all(
        "traffic_cop.disconnects",
        "{request}",
        "Clients that left before the response ended.",
        lambda series: series.disconnects,
        sparse=True,
    ),
    _counted("traffic_cop.limit.refusals", "{request}", "Requests refused by a limit.", families.REFUSED),
    _counted(
        "traffic_cop.session.events",
        "{event}",
        "Sessions created, ended, and what else happened to them.",
        families.SESSIONS,
    ),
    _counted(
        "traffic_cop.upstream.failures", "{attempt}", "Attempts that failed, by upstream.", families.UPSTREAM_FAILED
    ),
    _counted(
        "traffic_cop.websocket.messages",
        "{message}",
        "Messages of WebSockets that have ended.",
        families.SOCKET_MESSAGES,
    ),
    _counted(
        "traffic_cop.websocket.closes", "{socket}", "WebSockets that have ended, by close code.", families.SOCKET_CLOSED
    ),
    _counted("traffic_cop.websocket.refusals", "{handshake}", "Handshakes that were refused.", families.SOCKET_REFUSED),
    _counted("traffic_cop.store.losses", "{loss}", "How often a worker lost its backend.", families.STORE_LOST),
    _timed("traffic_cop.upstream.request.duration", "Requests that were sent to an upstream.", families.UPSTREAM),
    _timed("traffic_cop.websocket.duration", "How long WebSockets were open that have ended.", families.SOCKET),
    _now(ACTIVE, "{request}", "Requests under way.", families.IN_FLIGHT),
    _now("traffic_cop.websockets.open", "{socket}", "WebSockets that are open.", families.SOCKETS_OPEN),
)
