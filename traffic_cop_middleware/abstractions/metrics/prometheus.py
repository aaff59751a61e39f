"""Figures as Prometheus reads them: its text format 0.0.4, or OpenMetrics 1.0 with exemplars.

Names, units and labels are those of OpenTelemetry's semantic conventions for HTTP where there are any
(`http.server.request.duration`, `http.route`, …), written as its Prometheus exporters write them; the others begin with
`traffic_cop_`. Nothing that a client chooses is a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram
from traffic_cop_middleware.abstractions.metrics.series import Exemplar, Key, Series

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BOUND_LABELS = (*(repr(bound) for bound in BOUNDS), "+Inf")
T = TypeVar("T")
ROUTE_LABELS = ("http_request_method", "http_route", "http_response_status_code")


class Family(NamedTuple):
    """A family of `figures`: its name without suffix, what it tells, and which of the figures it is."""

    name: str
    help: str
    of: str


COUNTERS = (
    Family("traffic_cop_limit_refusals", "Requests refused by a limit.", families.REFUSED),
    Family("traffic_cop_session_events", "Sessions created, ended, and what else happened to them.", families.SESSIONS),
    Family("traffic_cop_upstream_failures", "Attempts that failed, by upstream.", families.UPSTREAM_FAILED),
    Family("traffic_cop_websocket_messages", "Messages of WebSockets that have ended.", families.SOCKET_MESSAGES),
    Family("traffic_cop_websocket_closes", "WebSockets that have ended, by close code.", families.SOCKET_CLOSED),
    Family("traffic_cop_websocket_refusals", "Handshakes that were refused.", families.SOCKET_REFUSED),
    Family("traffic_cop_store_losses", "How often a worker lost its backend.", families.STORE_LOST),
)
TIMINGS = (
    Family("traffic_cop_upstream_request_duration", "Requests that were sent to an upstream.", families.UPSTREAM),
    Family("traffic_cop_websocket_duration", "How long WebSockets were open that have ended.", families.SOCKET),
)
GAUGES = (
    Family("http_server_active_requests", "Requests under way.", families.IN_FLIGHT),
    Family("traffic_cop_websockets_open", "WebSockets that are open.", families.SOCKETS_OPEN),
)
SUMS: Sequence[tuple[str, str, Callable[[Series], int]]] = (
    ("traffic_cop_request_body_bytes", "Bytes of request bodies.", lambda series: series.bytes_in),
    ("traffic_cop_response_body_bytes", "Bytes of response bodies.", lambda series: series.bytes_out),
    ("traffic_cop_exceptions", "Exceptions that passed through.", lambda series: series.exceptions),
    ("traffic_cop_disconnects", "Clients that left before the response ended.", lambda series: series.disconnects),
)


def exposition(figures: Figures, *, workers: int, openmetrics: bool) -> str:
    """The text of a scrape."""
    return "\n".join([*_Writer(openmetrics=openmetrics).lines(figures, workers), ""])


class _Writer:
    def __init__(self, *, openmetrics: bool) -> None:
        self._open = openmetrics

    def lines(self, figures: Figures, workers: int) -> Iterator[str]:
        requests = _labelled(figures.requests)
        for name, what, of in (
            ("http_server_request_duration", "Requests, from their start to the last byte.", _duration),
            ("traffic_cop_first_byte_duration", "Requests, from their start to the head of the response.", _first_byte),
        ):
            yield from self._timing_head(name, what)
            for labels, series in requests:
                yield from self._histogram(name, labels, of(series), series.slow if of is _duration else {})
        name = "traffic_cop_stream_duration"
        yield from self._timing_head(name, "Long streams that have ended; they are not among the requests.")
        for labels, series in _labelled(figures.streams):
            yield from self._histogram(name, labels, series.duration, {})
        everything = [*requests, *_labelled(figures.streams)]
        for name, what, number in SUMS:
            unit = "bytes" if name.endswith("_bytes") else ""
            yield from self._head(name, "counter", what, unit)
            summed: dict[str, int] = {}
            for labels, series in everything:
                if unit or number(series):
                    summed[labels] = summed.get(labels, 0) + number(series)
            yield from (f"{name}_total{{{labels}}} {count}" for labels, count in summed.items())
        for family in COUNTERS:
            yield from self._head(family.name, "counter", family.help)
            for labels, count in _named(family.of, figures.counts):
                yield f"{family.name}_total{{{labels}}} {count}"
        for family in TIMINGS:
            yield from self._timing_head(family.name, family.help)
            for labels, histogram in _named(family.of, figures.timings):
                yield from self._histogram(family.name, labels, histogram, {})
        for family in GAUGES:
            yield from self._head(family.name, "gauge", family.help)
            for labels, count in _named(family.of, figures.gauges):
                yield f"{family.name}{{{labels}}} {count}"
        yield from self._head("traffic_cop_workers", "gauge", "Workers that write what they count.")
        yield f"traffic_cop_workers {workers}"
        if self._open:
            yield "# EOF"

    def _timing_head(self, name: str, what: str) -> Iterator[str]:
        return self._head(f"{name}_seconds", "histogram", what, "seconds")

    def _head(self, name: str, kind: str, what: str, unit: str = "") -> Iterator[str]:
        if kind == "counter" and not self._open:
            name = f"{name}_total"  # the older format calls a counter by its sample
        yield f"# HELP {name} {what}"
        yield f"# TYPE {name} {kind}"
        if unit and self._open:
            yield f"# UNIT {name} {unit}"

    def _histogram(self, name: str, labels: str, histogram: Histogram, slow: Mapping[int, Exemplar]) -> Iterator[str]:
        upto = 0
        for at, (bound, count) in enumerate(zip(BOUND_LABELS, histogram.bounded, strict=True)):
            upto += count
            line = f'{name}_seconds_bucket{{{labels},le="{bound}"}} {upto}'
            if self._open and count and at in slow:
                seconds, trace, time = slow[at]
                line = f'{line} # {{trace_id="{trace}"}} {seconds!r} {time:.3f}'
            yield line
        yield f"{name}_seconds_count{{{labels}}} {upto}"
        yield f"{name}_seconds_sum{{{labels}}} {histogram.total!r}"


def _duration(series: Series) -> Histogram:
    return series.duration


def _first_byte(series: Series) -> Histogram:
    return series.first_byte


def _labelled(series: Mapping[Key, Series]) -> Sequence[tuple[str, Series]]:
    return [
        (_labels(ROUTE_LABELS, (method, template, str(status))), series[template, method, status])
        for template, method, status in sorted(series)
    ]


def _named(family: str, things: Mapping[tuple[str, ...], T]) -> Iterator[tuple[str, T]]:
    for name in sorted(name for name in things if name[0] == family):
        yield _labels(families.LABELS[family], name[1:]), things[name]


def _labels(names: Sequence[str], values: Iterable[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    value = value.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no text
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
