"""What questions to the history give. All of it is frozen; times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from traffic_cop_middleware.abstractions.metrics.live import Traffic

By = Literal["route", "status", "user", "tenant", "upstream", "plan", "api_key"]
Order = Literal["requests", "errors", "refused", "disconnects", "bytes_in", "bytes_out", "p50", "p95", "p99"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPoint:
    """The traffic of a step that begins at `start` and goes on for `seconds`, in all and by what was asked for."""

    start: int
    seconds: int
    total: Traffic
    groups: Mapping[str, Traffic]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficHistory:
    """The traffic from `start` to `end`: in `total`, and in `groups` by what was asked for, the busiest first.

    Both ends are those of the buckets that were there to answer with, so a little off what was asked for: the last
    minute that is over at the latest, and a long time ago whole hours or days. `points` are the steps, oldest first,
    those without traffic too; empty where no step was asked for.

    `total` is of HTTP requests but the long streams; by user, tenant, plan, API key and upstream of those that had one.
    By status and by whom there are no times; by upstream no bytes. What a group without a name of its own is called:
    `__other__` (users beyond 2,000 in a bucket), `__unmatched__`, `__overflow__`.

    `complete` is whether all of what was asked for is still kept: `False` where the answer begins later, since the
    buckets of the step, or users and API keys, are kept for less. `first` is when the first bucket begins that has any
    of this traffic (`None`: none has): before it there was none, or nobody counted yet.
    """

    start: int
    end: int
    complete: bool = True
    first: int | None = None
    by: By
    total: Traffic
    groups: Mapping[str, Traffic]
    points: Sequence[TrafficPoint] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How long requests took from `start` to `end`, in seconds, within 1.1 %; `None` where there were none.

    `buckets` says how many durations were up to each upper bound and above the one before, the lowest first. `first` is
    as in `TrafficHistory`.
    """

    start: int
    end: int
    first: int | None = None
    requests: int
    p50: float | None
    p75: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    first_byte_p50: float | None
    first_byte_p95: float | None
    buckets: Mapping[float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One of the first: its traffic, and its share of all that was ordered by (0 to 1; `None` for times)."""

    name: str
    traffic: Traffic
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The traffic of a group before and after; of one that was not there, with no requests.

    The ratios are after / before, of the rate of requests and of p95; `None` where there is nothing to compare with.
    `error_share` is the share of errors after less that before (-1 to 1).
    """

    name: str
    before: Traffic
    after: Traffic
    rate_ratio: float | None
    p95_ratio: float | None
    error_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two stretches of the past side by side. `changes` are by what was asked for, the largest change of rate first."""

    before: TrafficHistory
    after: TrafficHistory
    total: Change
    changes: Sequence[Change]
