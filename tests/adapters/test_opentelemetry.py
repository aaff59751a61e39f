"""What goes to an exporter of OpenTelemetry's SDK, against what the SDK itself makes of the same values."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)

from tests.otlp import Exporter, families, labels_of, receiving
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram
from traffic_cop_middleware.adapters.opentelemetry import OpenTelemetryExporter, records
from traffic_cop_middleware.contracts import Example, Kind, Point, Reading
from traffic_cop_middleware.errors import ExportFailed

TRACE = "0af7651916cd43dd8448eb211c80319c"
EXPONENTIAL = {HistogramInstrument: ExponentialBucketHistogramAggregation()}


def reading(kind: Kind, *points: Point, delta: bool = False) -> Reading:
    return Reading("a.family", "s", "What it is.", kind, delta, 1_000.0, 1_060.5, points, BOUNDS)


def histogram(values: list[float]) -> Histogram:
    found = Histogram()
    found.add_all(values)
    return found


def values(number: int = 2_000) -> list[float]:
    """Durations from microseconds to minutes, and every bound and power of two among them."""
    source = random.Random(7)
    return [*BOUNDS, *(2.0**power for power in range(-16, 7)), *(10 ** source.uniform(-6, 2) for _ in range(number))]


def of_the_sdk(aggregation: Any, recorded: list[float]) -> Any:
    """The point that the SDK makes of these values."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=[View(instrument_name="*", aggregation=aggregation)])
    instrument = provider.get_meter("test").create_histogram("a.family", unit="s")
    for value in recorded:
        instrument.record(value, {"a": "b"})
    (point,) = families(reader.get_metrics_data())["a.family"].data.data_points
    provider.shutdown()
    return point


def exported(exporter: Exporter, *readings: Reading) -> Any:
    """The families that arrive."""
    ours = OpenTelemetryExporter(exporter)
    ours.begin(several=False)
    ours.export(readings, timeout=1)
    return families(exporter.exports[-1])


def test_exponential_buckets_are_those_of_the_sdk() -> None:
    exporter = Exporter(preferred_aggregation=EXPONENTIAL)
    metric = exported(exporter, reading("histogram", Point({"a": "b"}, histogram(values()))))["a.family"]
    (point,) = metric.data.data_points
    sdk = of_the_sdk(ExponentialBucketHistogramAggregation(max_size=2_000, max_scale=5), values())
    assert (point.scale, point.positive.offset, point.count) == (5, sdk.positive.offset, sdk.count)
    ours, theirs = list(point.positive.bucket_counts), list(sdk.positive.bucket_counts)
    assert ours == theirs[: len(ours)]
    assert not any(theirs[len(ours) :])  # room that the SDK keeps
    assert point.sum == pytest.approx(sdk.sum)
    assert sum(point.positive.bucket_counts) + point.zero_count == point.count
    assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE


def test_explicit_buckets_are_those_of_the_sdk() -> None:
    """An exporter that prefers nothing gets them, as it gets them from the SDK."""
    metric = exported(Exporter(), reading("histogram", Point({"a": "b"}, histogram(values()))))["a.family"]
    (point,) = metric.data.data_points
    sdk = of_the_sdk(ExplicitBucketHistogramAggregation(BOUNDS), values())
    assert (tuple(point.explicit_bounds), point.count) == (tuple(sdk.explicit_bounds), sdk.count)
    assert list(point.bucket_counts) == list(sdk.bucket_counts)
    assert point.sum == pytest.approx(sdk.sum)


def test_counters_and_levels_are_sums_and_only_counters_grow() -> None:
    found = exported(Exporter(), reading("counter", Point({"limit": "few"}, 7)))
    assert (found["a.family"].data.is_monotonic, found["a.family"].data.data_points[0].value) == (True, 7)
    found = exported(Exporter(), reading("level", Point({"http.route": "/a"}, 3)))
    assert (found["a.family"].data.is_monotonic, found["a.family"].data.data_points[0].value) == (False, 3)
    point = found["a.family"].data.data_points[0]
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000_000_000_000, 1_060_500_000_000)


@pytest.mark.parametrize("kind", ["counter", "histogram"])
def test_the_exporter_says_what_it_wants_as_differences(kind: Kind) -> None:
    of = {"counter": Counter, "histogram": HistogramInstrument}[kind]
    exporter = Exporter(preferred_temporality={of: AggregationTemporality.DELTA})
    assert OpenTelemetryExporter(exporter).deltas == {kind}
    point = Point({}, histogram([1.0]) if kind == "histogram" else 1)
    found = exported(exporter, reading(kind, point, delta=True))["a.family"]
    assert found.data.aggregation_temporality is AggregationTemporality.DELTA


@pytest.mark.parametrize("aggregation", [{}, EXPONENTIAL])
def test_all_of_it_arrives_over_the_wire(aggregation: Any) -> None:
    point = Point({"http.route": "/grüße", "http.response.status_code": 200}, histogram([0.2]))
    with receiving() as receiver:
        exporter = OTLPMetricExporter(endpoint=receiver.url, preferred_aggregation=aggregation)
        ours = OpenTelemetryExporter(exporter)
        ours.begin(several=False)
        ours.export([reading("histogram", point._replace(examples=[Example(0.2, TRACE, 1_050.25)]))], timeout=5)
        exporter.shutdown()
        ((_, scope, metric),) = receiver.metrics()
    assert (scope, metric.name, metric.unit) == ("traffic_cop_middleware", "a.family", "s")
    (sent,) = (metric.exponential_histogram if aggregation else metric.histogram).data_points
    assert labels_of(sent.attributes) == {("http.route", "/grüße"), ("http.response.status_code", 200)}
    assert (sent.count, sent.sum) == (1, 0.2)
    assert not sent.HasField("min")  # nobody knows them, and nobody claims to
    assert not sent.HasField("max")
    (exemplar,) = sent.exemplars
    assert (exemplar.trace_id.hex(), exemplar.as_double, exemplar.time_unix_nano) == (TRACE, 0.2, 1_050_250_000_000)
    assert exemplar.span_id == bytes(8)  # OTLP's word for none


@pytest.mark.parametrize("failure", [True, OSError("no route to host")])
def test_a_failure_is_told_with_its_reason(failure: bool | Exception) -> None:
    exporter = Exporter()
    exporter.fails = failure
    with pytest.raises(ExportFailed, match="no route to host" if isinstance(failure, OSError) else "FAILURE"):
        exported(exporter, reading("counter", Point({}, 1)))


def resource_of(monkeypatch: pytest.MonkeyPatch, attributes: str, *, several: bool) -> dict[str, Any]:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    exporter = Exporter()
    ours = OpenTelemetryExporter(exporter)
    ours.begin(several=several)
    ours.export([reading("counter", Point({}, 1))], timeout=1)
    return dict(exporter.exports[0].resource_metrics[0].resource.attributes)


def test_the_resource_is_the_environments_with_an_instance_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = resource_of(monkeypatch, "deployment.environment.name=test", several=True)
    assert (found["service.name"], found["deployment.environment.name"]) == ("shop", "test")
    assert len(found["service.instance.id"]) == 36


def test_workers_that_the_environment_gives_one_instance_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    given = "service.instance.id=pod-1"
    assert resource_of(monkeypatch, given, several=False)["service.instance.id"] == "pod-1"
    assert resource_of(monkeypatch, given, several=True)["service.instance.id"] == f"pod-1-{os.getpid()}"


def test_a_provider_that_nobody_has_set_records_nothing() -> None:
    from opentelemetry.metrics import NoOpMeterProvider, get_meter_provider

    provider = MeterProvider([])
    assert records(provider)
    assert not records(NoOpMeterProvider())
    assert not records(get_meter_provider())  # no test in this process sets one
    assert not records(None)
    provider.shutdown()
