"""What the settings `metrics_*` say, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from traffic_cop_middleware.abstractions.metrics.recorder import MOST_SERIES
from traffic_cop_middleware.errors import ConfigurationError

LONGEST_INTERVAL = 10.0
"""Seconds: a slot of the live figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """How often a worker writes what it has counted (seconds), and how many series it tells apart."""

    interval: float = 1.0
    series: int = MOST_SERIES
    access_log: float = 0.0

    def __post_init__(self) -> None:
        if not _number(self.interval) or not 0.05 <= self.interval <= LONGEST_INTERVAL:
            raise ConfigurationError(
                f"metrics_interval={self.interval!r}: seconds between two flushes, from 0.05 to {LONGEST_INTERVAL:g}; "
                "what a killed worker has counted since its last one is lost"
            )
        if isinstance(self.series, bool) or not isinstance(self.series, int) or not 1 <= self.series <= 10_000:
            raise ConfigurationError(
                f"metrics_series={self.series!r}: how many (route, method, status) are told apart, from 1 to 10000"
            )
        share: object = self.access_log
        if not isinstance(share, bool) and (not _number(share) or not 0 <= self.access_log <= 1):
            raise ConfigurationError(
                f"metrics_access_log={share!r}: True, or the share of the requests that is logged, from 0 to 1"
            )


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
