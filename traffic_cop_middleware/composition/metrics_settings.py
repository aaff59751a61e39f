"""What the settings `metrics_*` say, checked when made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.business.costs import CostOf
from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.business.instruments import instruments_of
from traffic_cop_middleware.abstractions.metrics.instruments import Number
from traffic_cop_middleware.abstractions.metrics.recorder import MOST_SERIES
from traffic_cop_middleware.composition.otlp import OtlpExport, is_number
from traffic_cop_middleware.composition.telling import TellingSettings
from traffic_cop_middleware.errors import ConfigurationError

LONGEST_INTERVAL = 10.0
"""Seconds: a slot of the live figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """How often a worker writes what it has counted (seconds), how many series it tells apart, where it exports,
    whether the past is kept, and who is told of insights.

    `business` are the app's own metrics, `cost` says what a request costs.
    """

    interval: float = 1.0
    series: int = MOST_SERIES
    access_log: float = 0.0
    history: bool = True
    otlp: OtlpExport | None = None
    telling: TellingSettings = field(default_factory=TellingSettings)
    business: Sequence[BusinessMetric] = ()
    cost: CostOf | None = None
    instruments: Sequence[Number] = field(default=(), init=False, compare=False)
    """How the app's own metrics are told outside."""

    def __post_init__(self) -> None:
        if not is_number(self.interval) or not 0.05 <= self.interval <= LONGEST_INTERVAL:
            raise ConfigurationError(
                f"metrics_interval={self.interval!r}: seconds between two flushes, from 0.05 to {LONGEST_INTERVAL:g}; "
                "what a killed worker has counted since its last one is lost"
            )
        if isinstance(self.series, bool) or not isinstance(self.series, int) or not 1 <= self.series <= 10_000:
            raise ConfigurationError(
                f"metrics_series={self.series!r}: how many (route, method, status) are told apart, from 1 to 10000"
            )
        if not isinstance(self.history, bool):
            raise ConfigurationError(f"metrics_history={self.history!r} must be True or False")
        if self.telling.on and not self.history:
            raise ConfigurationError(
                "metrics_on_insight and metrics_webhook look into the history of the traffic, and none is kept: leave "
                "metrics_history=False out"
            )
        share: object = self.access_log
        if not isinstance(share, bool) and (not is_number(share) or not 0 <= self.access_log <= 1):
            raise ConfigurationError(
                f"metrics_access_log={share!r}: True, or the share of the requests that is logged, from 0 to 1"
            )
        object.__setattr__(self, "instruments", instruments_of(self.business, costs=self.cost is not None))
