"""Figures of some stretch of the past, grouped by what was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from traffic_cop_middleware.abstractions.history.results import By
from traffic_cop_middleware.abstractions.history.rows import UPSTREAMS
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets, numbers_in
from traffic_cop_middleware.abstractions.metrics.live import Traffic, traffic_of
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, REQUESTS, TIMINGS, USAGE, WIDTHS, Summary
from traffic_cop_middleware.abstractions.metrics.usage import KINDS, Used


class Grouped(NamedTuple):
    """The traffic in all, and by group, the busiest first."""

    total: Traffic
    groups: Mapping[str, Traffic]


KIND_OF: Mapping[By, tuple[str, str | None]] = {
    "route": (REQUESTS, None),
    "status": (REQUESTS, None),
    "upstream": (UPSTREAMS, None),
    "user": (USAGE, "user"),
    "tenant": (USAGE, "tenant"),
    "plan": (USAGE, "plan"),
    "api_key": (USAGE, "api_key"),
}
"""The kind, and the name if there is one, of the rows that answer a question."""


def grouped(summary: Summary, by: By, seconds: float, *, pause: Callable[[], None] = never) -> Grouped:
    """What rows of the right kind came to in so many seconds."""
    if by in KINDS:
        return _by_user(summary, by, seconds)
    if by == "upstream":
        return _by_upstream(summary, seconds)
    if by == "status":
        summary = _without_routes(summary)
    total, routes, _ = traffic_of(summary, REQUESTS, seconds, pause)
    return Grouped(total, busiest(routes if by == "route" else _by_status(summary, seconds)))


def busiest(groups: Mapping[str, Traffic]) -> Mapping[str, Traffic]:
    """In the order of their requests."""
    return dict(sorted(groups.items(), key=lambda each: (-each[1].requests, each[0])))


def _without_routes(summary: Summary) -> Summary:
    """Its requests as those of one route, of which no quantiles are worked out by themselves."""
    whole = Summary()
    for name, row in summary.rows.items():
        whole.add_row((name[0], "", "", *name[3:]), row)
    for name, buckets in summary.durations.items():
        whole.add_durations((name[0], "", ""), buckets.low, buckets.lanes)
    return whole


def _by_status(summary: Summary, seconds: float) -> Mapping[str, Traffic]:
    found: dict[str, list[int]] = {}
    for name, row in summary.rows.items():
        if name[0] == REQUESTS:
            numbers = numbers_in(row, WIDTHS[REQUESTS])
            known = found.get(name[3], [0] * len(numbers))
            found[name[3]] = [mine + more for mine, more in zip(known, numbers, strict=True)]
    return {
        status: Traffic(
            requests=requests,
            rate=requests / seconds if seconds else 0.0,
            errors=requests if int(status) >= 500 else 0,
            refused=requests if status == "429" else 0,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            exceptions=exceptions,
            disconnects=disconnects,
        )
        for status, (requests, bytes_in, bytes_out, exceptions, disconnects) in found.items()
    }


def _by_user(summary: Summary, kind: str, seconds: float) -> Grouped:
    used = {
        name[2]: Used(*numbers_in(row, WIDTHS[USAGE]))
        for name, row in summary.rows.items()
        if name[:2] == (USAGE, kind)
    }
    total = Used(*map(sum, zip(*used.values(), strict=True))) if used else Used()
    return Grouped(_used(total, seconds), busiest({name: _used(each, seconds) for name, each in used.items()}))


def _used(used: Used, seconds: float) -> Traffic:
    rate = used.requests / seconds if seconds else 0.0
    return Traffic(rate=rate, **{name: number for name, number in used._asdict().items() if name != "cost"})


class _Upstream:
    def __init__(self) -> None:
        self.timed = Buckets()
        self.errors = self.refused = self.gone = self.failures = 0

    def add(self, other: _Upstream) -> None:
        self.timed.add(other.timed.low, other.timed.lanes)
        self.errors += other.errors
        self.refused += other.refused
        self.gone += other.gone
        self.failures += other.failures

    def traffic(self, seconds: float) -> Traffic:
        p50, p95, p99, p999 = self.timed.quantiles(0.5, 0.95, 0.99, 0.999)
        count = self.timed.count
        return Traffic(
            requests=count,
            rate=count / seconds if seconds else 0.0,
            errors=self.errors,
            refused=self.refused,
            disconnects=self.gone,
            exceptions=self.failures,
            p50=p50,
            p95=p95,
            p99=p99,
            p999=p999,
        )


def _by_upstream(summary: Summary, seconds: float) -> Grouped:
    """Answers of an upstream along all routes; `exceptions` are attempts that failed."""
    found = defaultdict[str, _Upstream](_Upstream)
    for name, buckets in summary.durations.items():
        if name[:2] == (TIMINGS, families.UPSTREAM):
            upstream, status = found[name[3]], name[4]
            upstream.timed.add(buckets.low, buckets.lanes)
            if status == "429":
                upstream.refused += buckets.count
            elif status == "499":
                upstream.gone += buckets.count
            elif not status.isdecimal() or int(status) >= 500:
                upstream.errors += buckets.count
    for name, number in summary.rows.items():
        if name[:2] == (COUNTS, families.UPSTREAM_FAILED):
            found[name[3]].failures += number
    total = _Upstream()
    for each in found.values():
        total.add(each)
    return Grouped(total.traffic(seconds), busiest({name: each.traffic(seconds) for name, each in found.items()}))
