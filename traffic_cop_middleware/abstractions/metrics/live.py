"""What `cop.analytics.live()` gives: the traffic of the last 10 seconds, minute and 15 minutes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import Key, Series
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


def period_of(figures: Figures, seconds: float, *, pause: Callable[[], None] = never) -> Period:
    """Figures of a stretch of time, as people and programs read them."""
    by_route: dict[str, list[tuple[Key, Series]]] = defaultdict(list)
    statuses: dict[int, int] = defaultdict(int)
    for key, series in figures.requests.items():
        by_route[key[0]].append((key, series))
        statuses[key[2]] += series.count
    streams: dict[str, list[tuple[Key, Series]]] = defaultdict(list)
    for key, series in figures.streams.items():
        streams[key[0]].append((key, series))
    return Period(
        seconds=seconds,
        total=traffic_of(figures.requests.items(), seconds, pause=pause),
        routes={route: traffic_of(parts, seconds, pause=pause) for route, parts in sorted(by_route.items())},
        statuses=dict(sorted(statuses.items())),
        streams={route: traffic_of(parts, seconds, pause=pause) for route, parts in sorted(streams.items())},
        upstreams=_upstreams(figures),
        limits=_summed(figures, families.REFUSED),
        sessions=_summed(figures, families.SESSIONS),
        sockets=_sockets(figures),
        usage=figures.usage.table(),
    )


def traffic_of(parts: Iterable[tuple[Key, Series]], seconds: float, *, pause: Callable[[], None] = never) -> Traffic:
    """Series as one."""
    whole = Series()
    errors = refused = 0
    for (_, _, status), series in parts:
        whole.merge(series)
        pause()
        if status >= 500:
            errors += series.count
        elif status == 429:
            refused += series.count
    duration = whole.duration
    return Traffic(
        requests=whole.count,
        rate=whole.count / seconds if seconds else 0.0,
        errors=errors,
        refused=refused,
        disconnects=whole.disconnects,
        exceptions=whole.exceptions,
        bytes_in=whole.bytes_in,
        bytes_out=whole.bytes_out,
        p50=duration.quantile(0.5),
        p95=duration.quantile(0.95),
        p99=duration.quantile(0.99),
        p999=duration.quantile(0.999),
        first_byte_p95=whole.first_byte.quantile(0.95),
    )


def gauges_of(figures: Figures, family: str) -> Mapping[str, int]:
    """What is under way of a family, by its first label."""
    found: dict[str, int] = defaultdict(int)
    for name, number in figures.gauges.items():
        if name[0] == family:
            found[name[1]] += number
    return dict(found)


def _summed(figures: Figures, family: str) -> Mapping[str, int]:
    found: dict[str, int] = defaultdict(int)
    for name, number in figures.counts.items():
        if name[0] == family:
            found[name[1]] += number
    return dict(found)


def _upstreams(figures: Figures) -> Mapping[tuple[str, str], UpstreamTraffic]:
    timed: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
    statuses: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    failures: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, histogram in figures.timings.items():
        if name[0] == families.UPSTREAM:
            _, route, upstream, status = name
            timed[route, upstream].merge(histogram)
            statuses[route, upstream][status] = histogram.count
    for name, number in figures.counts.items():
        if name[0] == families.UPSTREAM_FAILED:
            _, route, upstream, error = name
            failures[route, upstream][error] = number
    return {
        place: UpstreamTraffic(
            requests=timed[place].count,
            statuses=statuses[place],
            failures=failures[place],
            p50=timed[place].quantile(0.5),
            p95=timed[place].quantile(0.95),
            p99=timed[place].quantile(0.99),
        )
        for place in sorted({*statuses, *failures})
    }


def _sockets(figures: Figures) -> Mapping[str, SocketTraffic]:
    counted: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for name, number in figures.counts.items():
        if name[0].startswith(f"{families.SOCKET}."):
            counted[name[1]][name[0]][name[2]] = number
    opened = {name[1]: timed for name, timed in figures.timings.items() if name[0] == families.SOCKET}
    return {
        route: SocketTraffic(
            ended=opened[route].count if route in opened else 0,
            p50=opened[route].quantile(0.5) if route in opened else None,
            p95=opened[route].quantile(0.95) if route in opened else None,
            messages=counted[route][families.SOCKET_MESSAGES],
            bytes=counted[route][families.SOCKET_BYTES],
            closes=counted[route][families.SOCKET_CLOSED],
            refused=counted[route][families.SOCKET_REFUSED],
        )
        for route in sorted({*counted, *opened})
    }
