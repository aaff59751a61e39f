"""What questions about business figures give. All of it is frozen; times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from traffic_cop_middleware.abstractions.business.declarations import Kind

UsageBy = Literal["user", "tenant", "plan", "api_key", "route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessFigure:
    """What a metric came to.

    `value` is the sum of what was counted or observed, and of a gauge what was said last, at the time `at` (`None`:
    nothing was). Of observations there are `observations`, how many, and `mean`, `p50`, `p95`, `p99` (within 1.1 %, of
    values from 1e-7 to 1e7); of a gauge `low` and `high`: the extremes of what was said.
    """

    value: float | None = None
    observations: int | None = None
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    low: float | None = None
    high: float | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessPoint:
    """A step that begins at `start` and goes on for `seconds`."""

    start: int
    seconds: float
    total: BusinessFigure
    groups: Mapping[str, BusinessFigure]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessHistory:
    """A metric from `start` to `end`: in `total`, and in `groups` by the attribute `by`, the largest first.

    Of a gauge the `total` is what was said last of any group. `points` are the steps, oldest first; empty where none
    were asked for. What was not declared, or one too many, is the group `__overflow__`.
    """

    name: str
    kind: Kind
    unit: str
    start: int
    end: float
    by: str | None
    total: BusinessFigure
    groups: Mapping[str, BusinessFigure]
    points: Sequence[BusinessPoint] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessChange:
    """A figure now, in the stretch before and in the same stretch a week ago, and by which share it has changed.

    0.25 is a quarter more, -1 is nothing left; `None` where there was nothing. Of counts and observations it is the
    change of their sum by the second, of a gauge that of its last value.
    """

    name: str
    now: BusinessFigure
    before: BusinessFigure
    week_before: BusinessFigure
    change: float | None
    week_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessTrend:
    """How a metric changes: in `total`, and in `groups` by the attribute asked for, the largest first."""

    now: BusinessHistory
    before: BusinessHistory
    week_before: BusinessHistory
    total: BusinessChange
    groups: Mapping[str, BusinessChange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFigure:
    """What one of them used: requests, those answered 5xx, those refused with 429, bytes of the bodies, their cost."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BusinessUsage:
    """Who used how much from `start` to `end`, those with the most requests first.

    By user, tenant, plan or API key of the requests and WebSockets that had one; `__other__` stands for those beyond
    2,000. By route of HTTP requests and long streams; the cost is of WebSockets too.
    """

    start: int
    end: float
    by: UsageBy
    total: UsageFigure
    groups: Mapping[str, UsageFigure]
