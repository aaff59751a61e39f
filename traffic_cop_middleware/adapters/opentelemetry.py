"""`TelemetryExporter` over a `MetricExporter` of OpenTelemetry's SDK, whichever the app brings.

Histograms go out as the exporter prefers them: with the bounds of the semantic conventions, or in their exponential
buckets, which are OpenTelemetry's. Nothing passes through a meter: it takes no histograms that are counted already.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider
from opentelemetry.sdk.metrics import Counter, Exemplar
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource, ServiceInstanceIdResourceDetector
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from traffic_cop_middleware.contracts import Distribution, Example, Kind, Point, Reading
from traffic_cop_middleware.errors import ExportFailed

SCOPE = "traffic_cop_middleware"
SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
NANO = 1_000_000_000
NO_BUCKETS = Buckets(0, ())
UNKNOWN: Any = None
"""The least and the greatest of a histogram: OTLP may leave them out, and the SDK's types don't know that."""


class OpenTelemetryExporter:
    """Exports by an exporter that stays its owner's to shut down.

    The resource is the SDK's own (`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`). Its `service.instance.id` is the
    process's; of several workers, one that the environment gives to all of them gets the process id behind it, or each
    would overwrite the others' sums.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        self._exporter = exporter
        self._resource = Resource.get_empty()
        temporality: Mapping[type, AggregationTemporality] = getattr(exporter, "_preferred_temporality", None) or {}
        aggregation: Mapping[type, object] = getattr(exporter, "_preferred_aggregation", None) or {}
        kinds: Mapping[Kind, type] = {"counter": Counter, "histogram": HistogramInstrument}
        self.deltas: frozenset[Kind] = frozenset(
            kind for kind, of in kinds.items() if temporality.get(of) is AggregationTemporality.DELTA
        )
        self._exponential = isinstance(aggregation.get(HistogramInstrument), ExponentialBucketHistogramAggregation)
        self._scope = InstrumentationScope(SCOPE, _version(), SCHEMA)

    def begin(self, *, several: bool) -> None:
        resource = Resource.create()
        own = ServiceInstanceIdResourceDetector().detect().attributes[SERVICE_INSTANCE_ID]
        instance = resource.attributes.get(SERVICE_INSTANCE_ID, own)
        if several and instance != own:
            instance = f"{instance}-{os.getpid()}"
        self._resource = resource.merge(Resource({SERVICE_INSTANCE_ID: instance}))

    def export(self, readings: Sequence[Reading], *, timeout: float) -> None:
        exporter = type(self._exporter).__name__
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # no spans of the export itself
        try:
            result = self._exporter.export(self._data(readings), timeout_millis=timeout * 1_000)
        except Exception as exc:
            raise ExportFailed(f"{exporter} raised {type(exc).__name__}: {exc}") from exc
        finally:
            detach(token)
        if result is not MetricExportResult.SUCCESS:
            raise ExportFailed(f"{exporter} answered {result}; what it logged itself has the reason")

    def _data(self, readings: Sequence[Reading]) -> MetricsData:
        resource = self._resource
        metrics = [Metric(each.name, each.help, each.unit, self._family(each)) for each in readings]
        return MetricsData(
            [ResourceMetrics(resource, [ScopeMetrics(self._scope, metrics, SCHEMA)], resource.schema_url)]
        )

    def _family(self, reading: Reading) -> Sum | Histogram | ExponentialHistogram:
        temporality = AggregationTemporality.DELTA if reading.delta else AggregationTemporality.CUMULATIVE
        start, time = round(reading.start * NANO), round(reading.time * NANO)
        if reading.kind != "histogram":
            numbers = [
                NumberDataPoint(point.attributes, start, time, point.value)
                for point in reading.points
                if isinstance(point.value, (int, float))
            ]
            return Sum(numbers, temporality, is_monotonic=reading.kind == "counter")
        timed = [(point, point.value) for point in reading.points if not isinstance(point.value, (int, float))]
        if self._exponential:
            return ExponentialHistogram([_exponential(*each, start, time) for each in timed], temporality)
        return Histogram([_explicit(*each, reading.bounds, start, time) for each in timed], temporality)


def records(provider: object) -> bool:
    """Whether what is recorded with a meter provider (`None`: the process's own) can get anywhere."""
    found = provider if provider is not None else get_meter_provider()
    # The second is the API's, as long as nobody has set one. It has no public name.
    return not isinstance(found, NoOpMeterProvider) and type(found).__name__ != "_ProxyMeterProvider"


def _explicit(
    point: Point, distribution: Distribution, bounds: Sequence[float], start: int, time: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=point.attributes,
        start_time_unix_nano=start,
        time_unix_nano=time,
        count=distribution.count,
        sum=distribution.total,
        bucket_counts=distribution.bounded,
        explicit_bounds=bounds,
        min=UNKNOWN,
        max=UNKNOWN,
        exemplars=_exemplars(point.examples),
    )


def _exponential(point: Point, distribution: Distribution, start: int, time: int) -> ExponentialHistogramDataPoint:
    bins = distribution.bins
    first, last = min(bins), max(bins)
    return ExponentialHistogramDataPoint(
        attributes=point.attributes,
        start_time_unix_nano=start,
        time_unix_nano=time,
        count=distribution.count,
        sum=distribution.total,
        scale=distribution.scale,
        zero_count=0,
        positive=Buckets(first, [bins.get(index, 0) for index in range(first, last + 1)]),
        negative=NO_BUCKETS,
        flags=0,
        min=UNKNOWN,
        max=UNKNOWN,
        exemplars=_exemplars(point.examples),
    )


def _exemplars(examples: Sequence[Example]) -> list[Exemplar]:
    # Of a span nothing is known. The SDK's encoder drops a trace without one; eight zero bytes are none to OTLP.
    return [Exemplar({}, each.seconds, round(each.time * NANO), 0, int(each.trace, 16)) for each in examples]


def _version() -> str | None:
    try:
        return version("traffic-cop-middleware")
    except PackageNotFoundError:  # run from its source
        return None
