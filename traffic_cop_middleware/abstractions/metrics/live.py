"""What `cop.analytics.live()` gives: the traffic of the last 10 seconds, minute and 15 minutes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures, Name
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets, numbers_in
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.summary import (
    COUNTS,
    FIRST_BYTE,
    REQUESTS,
    STREAMS,
    TIMINGS,
    USAGE,
    WIDTHS,
    Summary,
)
from traffic_cop_middleware.abstractions.metrics.usage import Used


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests of some kind within a period.

    `rate` is requests a second; `errors` are those answered 5xx; `refused` those answered 429; `disconnects` those
    whose client left before the end. Times are in seconds, `None` where nothing was timed; bytes are those of bodies.
    """

    requests: int = 0
    rate: float = 0.0
    errors: int = 0
    refused: int = 0
    disconnects: int = 0
    exceptions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    first_byte_p95: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTraffic:
    """Requests to one upstream along one route: how often it was answered with each status, how fast, what failed.

    `failures` counts attempts by the name of their error.
    """

    requests: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketTraffic:
    """WebSockets of one route: those that ended, how long they were open, their messages and bytes by direction.

    `closes` counts by close code, `refused` handshakes by status.
    """

    ended: int = 0
    p50: float | None = None
    p95: float | None = None
    messages: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    closes: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The traffic of the last `seconds`.

    `total` is all HTTP requests but the long streams, which are in `streams`; `routes` the same by template, `statuses`
    requests by status. `limits` counts refusals by limit, `sessions` what happened to sessions. `usage` tells who used
    how much, by kind ("user", "tenant", "plan", "api_key") and name.
    """

    seconds: float
    total: Traffic
    routes: Mapping[str, Traffic]
    statuses: Mapping[int, int]
    streams: Mapping[str, Traffic]
    upstreams: Mapping[tuple[str, str], UpstreamTraffic]
    limits: Mapping[str, int]
    sessions: Mapping[str, int]
    sockets: Mapping[str, SocketTraffic]
    usage: Mapping[str, Mapping[str, Used]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The traffic at this moment.

    `workers` says how many have told of theirs; where the store is away it is this one alone, and `complete` is false.
    `in_flight` are requests under way by route, `sockets_open` WebSockets.
    """

    last_10_seconds: Period
    last_minute: Period
    last_15_minutes: Period
    workers: int
    complete: bool
    in_flight: Mapping[str, int]
    sockets_open: Mapping[str, int]


def period_of(summary: Summary, seconds: float, *, pause: Callable[[], None] = never) -> Period:
    """A stretch of time, as people and programs read it."""
    total, routes, statuses = traffic_of(summary, REQUESTS, seconds, pause)
    _, streams, _ = traffic_of(summary, STREAMS, seconds, pause)
    return Period(
        seconds=seconds,
        total=total,
        routes=routes,
        statuses=statuses,
        streams=streams,
        upstreams=_upstreams(summary, pause),
        limits=_summed(summary, families.REFUSED),
        sessions=_summed(summary, families.SESSIONS),
        sockets=_sockets(summary, pause),
        usage=_usage(summary, pause),
    )


class _Route:
    """Numbers of the rows of a route (or of all), and its buckets."""

    def __init__(self) -> None:
        self.numbers = [0] * WIDTHS[REQUESTS]
        self.errors = self.refused = 0
        self.durations, self.first_byte = Buckets(), Buckets()

    def add(self, numbers: Sequence[int], status: int) -> None:
        self.numbers = [known + more for known, more in zip(self.numbers, numbers, strict=True)]
        if status >= 500:
            self.errors += numbers[0]
        elif status == 429:
            self.refused += numbers[0]

    def traffic(self, seconds: float) -> Traffic:
        requests, bytes_in, bytes_out, exceptions, disconnects = self.numbers
        p50, p95, p99, p999 = self.durations.quantiles(0.5, 0.95, 0.99, 0.999)
        (first_byte_p95,) = self.first_byte.quantiles(0.95)
        return Traffic(
            requests=requests,
            rate=requests / seconds if seconds else 0.0,
            errors=self.errors,
            refused=self.refused,
            disconnects=disconnects,
            exceptions=exceptions,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            p50=p50,
            p95=p95,
            p99=p99,
            p999=p999,
            first_byte_p95=first_byte_p95,
        )


def traffic_of(
    summary: Summary, kind: str, seconds: float, pause: Callable[[], None]
) -> tuple[Traffic, Mapping[str, Traffic], Mapping[int, int]]:
    """Of requests, or of long streams: all of them, by route, and their number by status."""
    whole, routes = _Route(), defaultdict[str, _Route](_Route)
    statuses: dict[int, int] = defaultdict(int)
    for name, row in summary.rows.items():
        if name[0] == kind:
            numbers, status = numbers_in(row, WIDTHS[kind]), int(name[3])
            whole.add(numbers, status)
            routes[name[1]].add(numbers, status)
            statuses[status] += numbers[0]
            pause()
    for name, buckets in summary.durations.items():
        if name[0] == kind:
            whole.durations.add(buckets.low, buckets.lanes)
            routes[name[1]].durations.add(buckets.low, buckets.lanes)
        elif name[0] == FIRST_BYTE[kind]:
            whole.first_byte.add(buckets.low, buckets.lanes)
            routes[name[1]].first_byte.add(buckets.low, buckets.lanes)
    by_route = {}
    for route in sorted(routes):
        by_route[route] = routes[route].traffic(seconds)
        pause()
    return whole.traffic(seconds), by_route, dict(sorted(statuses.items()))


def gauges_of(figures: Figures, family: str) -> Mapping[str, int]:
    """What is under way of a family, by its first label."""
    found: dict[str, int] = defaultdict(int)
    for name, number in figures.gauges.items():
        if name[0] == family:
            found[name[1]] += number
    return dict(found)


def _counts(summary: Summary) -> Iterator[tuple[Name, int]]:
    """Counters by family and labels."""
    return ((name[1:], number) for name, number in summary.rows.items() if name[0] == COUNTS)


def _timings(summary: Summary, family: str) -> Iterator[tuple[Name, Buckets]]:
    """Durations of a family by its labels."""
    return ((name[2:], timed) for name, timed in summary.durations.items() if name[:2] == (TIMINGS, family))


def _summed(summary: Summary, family: str) -> Mapping[str, int]:
    found: dict[str, int] = defaultdict(int)
    for name, number in _counts(summary):
        if name[0] == family:
            found[name[1]] += number
    return dict(found)


def _upstreams(summary: Summary, pause: Callable[[], None]) -> Mapping[tuple[str, str], UpstreamTraffic]:
    timed = defaultdict[tuple[str, str], Buckets](Buckets)
    statuses: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    failures: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for (route, upstream, status), buckets in _timings(summary, families.UPSTREAM):
        timed[route, upstream].add(buckets.low, buckets.lanes)
        statuses[route, upstream][status] = buckets.count
        pause()
    for name, number in _counts(summary):
        if name[0] == families.UPSTREAM_FAILED:
            _, route, upstream, error = name
            failures[route, upstream][error] = number
    found = {}
    for place in sorted({*statuses, *failures}):
        p50, p95, p99 = timed[place].quantiles(0.5, 0.95, 0.99)
        found[place] = UpstreamTraffic(
            requests=timed[place].count,
            statuses=statuses[place],
            failures=failures[place],
            p50=p50,
            p95=p95,
            p99=p99,
        )
        pause()
    return found


def _sockets(summary: Summary, pause: Callable[[], None]) -> Mapping[str, SocketTraffic]:
    counted: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for name, number in _counts(summary):
        if name[0].startswith(f"{families.SOCKET}."):
            counted[name[1]][name[0]][name[2]] = number
    opened = {name[0]: timed for name, timed in _timings(summary, families.SOCKET)}
    found = {}
    for route in sorted({*counted, *opened}):
        buckets = opened.get(route) or Buckets()
        p50, p95 = buckets.quantiles(0.5, 0.95)
        found[route] = SocketTraffic(
            ended=buckets.count,
            p50=p50,
            p95=p95,
            messages=counted[route][families.SOCKET_MESSAGES],
            bytes=counted[route][families.SOCKET_BYTES],
            closes=counted[route][families.SOCKET_CLOSED],
            refused=counted[route][families.SOCKET_REFUSED],
        )
        pause()
    return found


def _usage(summary: Summary, pause: Callable[[], None]) -> Mapping[str, Mapping[str, Used]]:
    """By kind, the ones with the most requests first."""
    found: dict[str, dict[str, Used]] = defaultdict(dict)
    for name, row in summary.rows.items():
        if name[0] == USAGE:
            found[name[1]][name[2]] = Used(*numbers_in(row, WIDTHS[USAGE]))
            pause()
    return {
        kind: dict(sorted(names.items(), key=lambda each: (-each[1].requests, each[0])))
        for kind, names in found.items()
    }
