"""Where metrics are exported to in tests: an OTLP/HTTP receiver on 127.0.0.1, and an exporter in this process."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

DURATION, ACTIVE = "http.server.request.duration", "http.server.active_requests"
Labels = frozenset[tuple[str, Any]]


class Exporter(MetricExporter):
    """Keeps what it is given; while `fails` it refuses it (an exception is raised), while `hangs` is clear it waits."""

    def __init__(self, **preferred: Any) -> None:
        super().__init__(**preferred)
        self.exports: list[MetricsData] = []
        self.fails: bool | Exception = False
        self.hangs = threading.Event()
        self.hangs.set()
        self.entered = threading.Event()
        self.taken = threading.Event()
        self.shut_down = False

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.entered.set()
        self.hangs.wait()
        if isinstance(self.fails, Exception):
            raise self.fails
        if self.fails:
            return MetricExportResult.FAILURE
        self.exports.append(metrics_data)
        self.taken.set()
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self.shut_down = True


def families(data: MetricsData | None) -> dict[str, Any]:
    """What an export, or a reader, has: by name."""
    assert data is not None
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def counts(data: MetricsData | None, name: str, *labels: str) -> dict[tuple[Any, ...], int]:
    """Of each point of a family how much it counts, by these labels; points of the same labels are added up."""
    found: dict[tuple[Any, ...], int] = {}
    metric = families(data).get(name) if data is not None else None
    for point in metric.data.data_points if metric is not None else ():
        key = tuple(point.attributes.get(label) for label in labels)
        found[key] = found.get(key, 0) + (point.count if hasattr(point, "count") else point.value)
    return found


class Receiver:
    """What a collector has heard. `status` is what it answers; one of 5xx or 4xx it does not take over.

    With `loses_answers` it takes over what comes and answers 503 all the same.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/metrics"
        self.status = 200
        self.loses_answers = False
        self.requests: list[ExportMetricsServiceRequest] = []
        self.failed = 0

    def total(self, name: str, *, scope: str | None = None) -> int:
        """How much all instances have told of a family of histograms, by the last sums of each stream."""
        last: dict[tuple[str, str, Labels], int] = {}
        for instance, of, metric in self.metrics():
            if metric.name == name and scope in (None, of):
                for point in metric.histogram.data_points:
                    assert point.count == sum(point.bucket_counts)
                    last[instance, of, labels_of(point.attributes)] = point.count
        return sum(last.values())

    def metrics(self) -> Iterator[tuple[str, str, Any]]:
        """Every family that has come: with its service.instance.id and scope."""
        for request in list(self.requests):
            for resource in request.resource_metrics:
                instance = dict(labels_of(resource.resource.attributes)).get("service.instance.id", "")
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        yield instance, scope.scope.name, metric


def labels_of(attributes: Iterable[Any]) -> Labels:
    return frozenset((each.key, getattr(each.value, each.value.WhichOneof("value"))) for each in attributes)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/metrics"
            status = 503 if receiver.loses_answers else receiver.status
            if status == 200 or receiver.loses_answers:
                receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
            receiver.failed += status != 200
            answer = ExportMetricsServiceResponse().SerializeToString() if status == 200 else b""
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *of: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
