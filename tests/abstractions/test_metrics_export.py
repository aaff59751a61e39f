"""What a worker exports: nothing twice, nothing lost, whatever the exporter and the store do."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Counter as CounterInstrument
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import AggregationTemporality

from tests.otlp import ACTIVE, DURATION, Exporter, counts, families
from traffic_cop_middleware import BusinessMetric
from traffic_cop_middleware.abstractions.business.instruments import instruments_of
from traffic_cop_middleware.abstractions.business_metrics import BusinessMetricsAbstraction
from traffic_cop_middleware.abstractions.metrics.export import MetricsExport
from traffic_cop_middleware.abstractions.metrics.families import IN_FLIGHT, IN_FLIGHT_ELSEWHERE
from traffic_cop_middleware.abstractions.metrics.instruments import INSTRUMENTS
from traffic_cop_middleware.abstractions.metrics.recorder import SLOT, Recorder
from traffic_cop_middleware.abstractions.metrics.series import Exemplar
from traffic_cop_middleware.adapters.opentelemetry import OpenTelemetryExporter
from traffic_cop_middleware.testing import FakeClock

DELTA = {
    CounterInstrument: AggregationTemporality.DELTA,
    HistogramInstrument: AggregationTemporality.DELTA,
}
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Worker:
    """One that counts requests to `/a`, and exports."""

    def __init__(self, *, requests: bool = True, business: Sequence[BusinessMetric] = (), **preferred: Any) -> None:
        self.clock = FakeClock()
        self.recorder = Recorder(clock=self.clock, keeps_whole=True)
        self.exporter = Exporter(**preferred)
        self.export = MetricsExport(
            OpenTelemetryExporter(self.exporter),
            self.recorder,
            requests=requests,
            business=instruments_of(business, costs=False),
        )

    def serve(self, number: int, *, seconds: float = 0.25, elsewhere: int = 0, status: int = 200) -> None:
        """Serve so many requests; FastAPI counts `elsewhere` of them too."""
        series = self.recorder.series(("/a", "GET", status))
        series.pending += [(seconds, 0.125, 3, 5)] * number
        for _ in range(elsewhere):
            series.count_elsewhere(seconds)
        self.recorder.running.count(("limit.refused", "few", "store"), number)

    def send(self, *, after: float = SLOT, final: bool = False) -> None:
        self.clock.advance(after)
        self.export.send(self.export.look(final=final), timeout=1)

    def told(self, name: str = DURATION, *labels: str, at: int = -1) -> dict[tuple[Any, ...], int]:
        return counts(self.exporter.exports[at], name, *labels)


def test_a_family_goes_out_with_its_name_unit_labels_and_time() -> None:
    worker = Worker()
    worker.serve(3)
    worker.serve(2, status=503)
    worker.send()
    found = families(worker.exporter.exports[0])
    assert set(found) <= {each.name for each in INSTRUMENTS}
    assert found[DURATION].unit == "s"
    assert found["traffic_cop.request_body"].unit == "By"
    points = {point.attributes["http.response.status_code"]: point for point in found[DURATION].data.data_points}
    assert points[200].attributes == {
        "http.request.method": "GET",
        "http.route": "/a",
        "http.response.status_code": 200,
    }
    assert points[503].attributes["error.type"] == "503"
    assert (points[200].count, points[200].sum, sum(points[200].bucket_counts)) == (3, 0.75, 3)
    assert points[200].start_time_unix_nano == 1_000 * 10**9
    assert points[200].time_unix_nano == 1_010 * 10**9
    assert worker.told("traffic_cop.response_body") == {(): 25}
    assert worker.told("traffic_cop.limit.refusals", "limit", "decided_by") == {("few", "store"): 5}


def test_an_export_goes_up_to_the_last_whole_slot_and_the_last_one_has_all() -> None:
    worker = Worker()
    worker.serve(3)
    worker.send(after=SLOT + 1)
    worker.serve(4)
    worker.send(after=1)
    assert worker.told() == {(): 3}
    worker.send(after=1, final=True)
    assert worker.told() == {(): 7}
    (point,) = families(worker.exporter.exports[-1])[DURATION].data.data_points
    assert point.time_unix_nano == 1_013 * 10**9


def test_after_an_end_it_goes_on_and_no_time_goes_back() -> None:
    worker = Worker()
    for number, after, final in ((3, SLOT + 3, True), (4, 1, False), (0, SLOT, False)):
        worker.serve(number)
        worker.send(after=after, final=final)
    points = [families(each)[DURATION].data.data_points[0] for each in worker.exporter.exports]
    assert [point.count for point in points] == [3, 3, 7]
    assert [point.time_unix_nano // 10**9 for point in points] == [1_013, 1_013, 1_020]


def test_nothing_is_exported_before_anything_was_counted() -> None:
    worker = Worker()
    worker.send()
    assert worker.exporter.exports == []


def test_the_store_may_take_a_workers_sum_over_and_no_exported_counter_falls() -> None:
    worker = Worker()
    worker.serve(5)
    worker.send()
    worker.recorder.fold()
    _, total = worker.recorder.total()
    worker.recorder.reborn(total, b"")  # as after another start, or when it was taken for dead
    worker.serve(2)
    worker.send()
    assert worker.told() == {(): 7}


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12),
    delta=st.booleans(),
)
@settings(max_examples=60)
def test_whatever_fails_in_between_the_end_has_every_request_once(steps: list[tuple[int, bool]], delta: bool) -> None:
    worker = Worker(**({"preferred_temporality": DELTA} if delta else {}))
    for number, fails in steps:
        worker.exporter.fails = fails
        if number:
            worker.serve(number)
        worker.send()
    worker.exporter.fails = False
    worker.send(final=True)
    served = sum(number for number, _ in steps)
    everything = [counts(each, DURATION).get((), 0) for each in worker.exporter.exports]
    refused = [counts(each, "traffic_cop.limit.refusals").get((), 0) for each in worker.exporter.exports]
    assert (sum(everything) if delta else max(everything, default=0)) == served
    assert (sum(refused) if delta else max(refused, default=0)) == served
    if not delta:
        assert everything == sorted(everything)


def test_differences_follow_on_one_another_and_what_did_not_change_is_left_out() -> None:
    worker = Worker(preferred_temporality=DELTA)
    worker.serve(3)
    worker.send()
    worker.exporter.fails = True
    worker.serve(1, status=404)
    worker.send()
    worker.exporter.fails = False
    worker.send()
    assert worker.told(DURATION, "http.response.status_code", at=0) == {(200,): 3}
    assert worker.told(DURATION, "http.response.status_code", at=1) == {(404,): 1}
    first, second = (families(each)[DURATION].data.data_points[0] for each in worker.exporter.exports)
    assert first.start_time_unix_nano < first.time_unix_nano == second.start_time_unix_nano < second.time_unix_nano
    worker.send()
    assert len(worker.exporter.exports) == 2


def test_a_run_of_failures_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traffic_cop")
    worker = Worker()
    worker.serve(1)
    for fails in (True, OSError("no route"), True, False, True, False):
        worker.exporter.fails = fails
        worker.send()
    levels = Counter(record.levelname for record in caplog.records)
    assert levels == {"WARNING": 2, "INFO": 2}


def test_what_fastapi_counts_is_taken_off_and_nothing_else() -> None:
    worker = Worker()
    worker.serve(5, elsewhere=3)
    worker.serve(4, elsewhere=4, status=404)
    worker.send()
    assert worker.told(DURATION, "http.response.status_code") == {(200,): 2}
    assert worker.told("traffic_cop.first_byte.duration", "http.response.status_code") == {(200,): 5, (404,): 4}
    worker.serve(1)
    worker.send()
    (point,) = families(worker.exporter.exports[-1])[DURATION].data.data_points
    assert (point.count, point.sum) == (3, pytest.approx(0.75))


def test_both_families_may_be_left_out() -> None:
    worker = Worker(requests=False)
    worker.recorder.gauges.append(lambda: {(IN_FLIGHT, "/a", "GET"): 1})
    worker.serve(5)
    worker.send()
    assert not {DURATION, ACTIVE} & set(families(worker.exporter.exports[0]))
    assert worker.told("traffic_cop.first_byte.duration") == {(): 5}


def test_what_is_no_longer_under_way_is_told_as_none() -> None:
    worker = Worker()
    under_way = {(IN_FLIGHT, "/a", "GET"): 3, (IN_FLIGHT_ELSEWHERE, "/a", "GET"): 1}
    worker.recorder.gauges.append(lambda: under_way)
    worker.send()
    assert worker.told(ACTIVE, "http.route") == {("/a",): 2}
    under_way.clear()
    worker.send()
    assert worker.told(ACTIVE, "http.route") == {("/a",): 0}
    assert families(worker.exporter.exports[0])[ACTIVE].data.is_monotonic is False


def test_a_slow_request_is_an_exemplar_once() -> None:
    worker = Worker()
    worker.serve(1)
    worker.recorder.series(("/a", "GET", 200)).note(Exemplar(0.25, TRACE, worker.clock() + 5))
    for _ in range(2):
        worker.send()
    first, second = (families(each)[DURATION].data.data_points[0] for each in worker.exporter.exports)
    assert [each.trace_id for each in first.exemplars] == [int(TRACE, 16)]
    assert second.exemplars == []


def test_a_template_that_is_no_text_can_be_encoded() -> None:
    worker = Worker()
    worker.recorder.series(("/lone\ud800", "GET", 200)).pending.append((0.1, 0.1, 0, 0))
    worker.send()
    assert worker.told(DURATION, "http.route") == {("/lone\\ud800",): 1}


def test_a_forked_process_begins_with_sums_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(preferred_temporality={CounterInstrument: AggregationTemporality.DELTA})
    worker.serve(5)
    worker.send()
    monkeypatch.setattr("os.getpid", lambda: -1)
    worker.export.look()
    worker.serve(2)
    worker.send()
    assert worker.told() == {(): 2}
    assert worker.told("traffic_cop.limit.refusals") == {(): 2}


@pytest.mark.parametrize("preferred", [{}, {"preferred_temporality": DELTA}], ids=["sums", "differences"])
def test_an_apps_own_metrics_go_out_too(preferred: Any) -> None:
    metrics = [
        BusinessMetric("orders", "count", ["plan"]),
        BusinessMetric("basket", "observe", unit="EUR"),
        BusinessMetric("stock", "gauge"),
    ]
    worker = Worker(business=metrics, **preferred)
    it: Any = BusinessMetricsAbstraction(metrics, worker.recorder, analytics=lambda: None)  # type: ignore[arg-type,return-value]
    for turn in range(3):
        it.count("orders", 2, plan="pro")
        it.observe("basket", 19.99)
        it.gauge("stock", turn + 0.5)
        worker.send()
    found = families(worker.exporter.exports[-1])
    values = {name: each.data.data_points[0].value for name, each in found.items() if "business" in name}
    times = 1 if preferred else 3
    assert values == {
        "traffic_cop.business.orders": 2 * times,
        "traffic_cop.business.basket.observations": times,
        "traffic_cop.business.basket.sum": pytest.approx(19.99 * times, abs=1e-9),
        "traffic_cop.business.stock": 2.5,
    }
    assert found["traffic_cop.business.basket.sum"].unit == "EUR"
    assert found["traffic_cop.business.orders"].data.data_points[0].attributes == {"plan": "pro"}
