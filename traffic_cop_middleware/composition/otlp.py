"""What the setting `metrics_otlp` says, checked when made."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

log = logging.getLogger("traffic_cop")

INTERVAL, SHORTEST, LONGEST = 60.0, 1.0, 3600.0
TIMEOUT, LONGEST_TIMEOUT = 10.0, 60.0
EXTRA = "traffic-cop-middleware[otlp]"


@dataclass(frozen=True, slots=True)
class OtlpExport:
    """How the metrics go to an OpenTelemetry exporter: `metrics_otlp=OtlpExport(OTLPMetricExporter(), interval=30)`.

    Args:
        exporter: a `MetricExporter` of OpenTelemetry's SDK, for this alone; it stays yours to shut down.
        interval: seconds between two exports, from 1 to 3600; by default `OTEL_METRIC_EXPORT_INTERVAL`, or 60.
        timeout: seconds that an export may take, and that a stop waits for the last one; up to 60, by default
            `OTEL_METRIC_EXPORT_TIMEOUT`, or 10.
        requests: whether `http.server.request.duration` and `http.server.active_requests` are among it: `None` for the
            requests that FastAPI does not count itself, `True` for all, `False` for none.

    Raises:
        ConfigurationError: a value can't be used.
        MissingExtra: the SDK is not installed.
    """

    exporter: MetricExporter
    interval: float = field(kw_only=True, default_factory=lambda: _of_environment("INTERVAL", INTERVAL, LONGEST))
    timeout: float = field(kw_only=True, default_factory=lambda: _of_environment("TIMEOUT", TIMEOUT, LONGEST_TIMEOUT))
    requests: bool | None = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        _check_exporter(self.exporter)
        if not is_number(self.interval) or not SHORTEST <= self.interval <= LONGEST:
            raise ConfigurationError(
                f"OtlpExport(interval={self.interval!r}): seconds between two exports, from {SHORTEST:g} to {LONGEST:g}"
            )
        if not is_number(self.timeout) or not 0 < self.timeout <= LONGEST_TIMEOUT:
            raise ConfigurationError(
                f"OtlpExport(timeout={self.timeout!r}): seconds that an export may take, above 0 and up to "
                f"{LONGEST_TIMEOUT:g}"
            )
        if self.requests is not None and not isinstance(self.requests, bool):
            raise ConfigurationError(
                f"OtlpExport(requests={self.requests!r}): None (what FastAPI does not count itself), True or False"
            )


def otlp_export(given: object) -> OtlpExport | None:
    """What `metrics_otlp` says.

    Raises:
        ConfigurationError: it is no exporter.
        MissingExtra: the SDK is not installed.
    """
    if given is None or isinstance(given, OtlpExport):
        return given
    return OtlpExport(cast("MetricExporter", given))


def _check_exporter(given: object) -> None:
    try:
        from opentelemetry.sdk.metrics.export import MetricExporter
    except ImportError as exc:
        raise MissingExtra(
            f"metrics_otlp needs OpenTelemetry's SDK, which is not installed ({exc}): pip install '{EXTRA}'"
        ) from exc
    if not isinstance(given, MetricExporter):
        said = given.__name__ if isinstance(given, type) else f"a {type(given).__name__}"
        raise ConfigurationError(
            f"metrics_otlp: a MetricExporter of OpenTelemetry's SDK and not {said}. Write "
            "metrics_otlp=OTLPMetricExporter(endpoint='http://collector:4318/v1/metrics'); readers and providers have "
            "one of their own"
        )


def _of_environment(name: str, default: float, most: float) -> float:
    """Seconds of a variable that has milliseconds, as the SDK reads it."""
    said = os.environ.get(f"OTEL_METRIC_EXPORT_{name}", "").strip()
    if not said:
        return default
    try:
        return min(max(float(said) / 1_000, SHORTEST), most)
    except ValueError:
        log.warning("OTEL_METRIC_EXPORT_%s=%r is no number of milliseconds; it is %g s", name, said, default)
        return default


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
