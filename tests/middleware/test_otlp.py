"""Metrics that a worker exports through OpenTelemetry's SDK: counted right, and in nobody's way."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import trio
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import poll, started
from tests.asgi import http_scope, send_through, status
from tests.otlp import DURATION, Exporter, Receiver, counts, receiving
from tests.servers import RedisServer
from traffic_cop_middleware import ConfigurationError, MetricsMiddleware, MissingExtra, OtlpExport, TrafficCop
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock

ROOT = Path(__file__).parents[2]
SLOT = 10


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


class Served:
    """A cop around a small app, under a clock that stands still."""

    def __init__(self, exporter: Any, backend: Any = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.cop = TrafficCop(
            backend or MemoryBackend(clock=self.clock), metrics=True, metrics_otlp=exporter, **settings
        )
        self.app = self.cop.wrap(Starlette(routes=[Route("/a/{x}", ok)]))

    async def serve(self, number: int) -> None:
        for at in range(number):
            assert status(await send_through(self.app, http_scope(f"/a/{at}"))) == 200


def requests(exporter: Exporter, at: int = -1) -> int:
    return sum(counts(exporter.exports[at], DURATION).values()) if exporter.exports else 0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "traffic-cop-metrics"]


# Counted right


def test_after_the_last_request_the_collector_has_every_one() -> None:
    with receiving() as receiver:
        exporter = OTLPMetricExporter(endpoint=receiver.url)
        served = Served(OtlpExport(exporter, interval=1))

        async def scenario() -> None:
            async with started(served.app):
                await served.serve(7)
                served.clock.advance(SLOT)
                await poll(lambda: receiver.total(DURATION) == 7)
                await served.serve(5)

        asyncio.run(scenario())
        exporter.shutdown()
        assert receiver.total(DURATION, scope="traffic_cop_middleware") == 12


@pytest.mark.parametrize("lost", ["all of it", "answer"])
def test_a_collector_that_fails_for_a_while_has_all_of_it_afterwards(lost: str) -> None:
    with receiving() as receiver:
        exporter = OTLPMetricExporter(endpoint=receiver.url, timeout=0.5)  # it tries again by itself until then
        served = Served(OtlpExport(exporter, interval=1))

        async def scenario() -> None:
            async with started(served.app):
                await served.serve(4)
                served.clock.advance(SLOT)
                await poll(lambda: receiver.total(DURATION) == 4)
                receiver.loses_answers = lost == "answer"
                receiver.status = 503
                await served.serve(4)
                served.clock.advance(SLOT)
                await poll(lambda: receiver.failed)
                receiver.loses_answers, receiver.status = False, 200
                await served.serve(4)
                served.clock.advance(SLOT)
                await poll(lambda: receiver.total(DURATION) == 12)

        asyncio.run(scenario())
        exporter.shutdown()
        assert receiver.total(DURATION) == 12


def test_a_second_start_goes_on_with_the_same_sums() -> None:
    exporter = Exporter()
    served = Served(exporter)

    async def scenario() -> None:
        for number in (3, 4):
            async with started(served.app):
                await served.serve(number)

    asyncio.run(scenario())
    assert [requests(exporter, at) for at in range(2)] == [3, 7]
    assert not exporter.shut_down
    assert threads() == []


def test_on_redis_the_store_and_the_collector_have_the_same(redis_server: RedisServer) -> None:
    exporter = Exporter()
    served = Served(exporter, redis_server.url, metrics_interval=0.05)

    async def scenario() -> int:
        async with started(served.app):
            await served.serve(9)
            counted = await served.cop.analytics.totals()
        return sum(series.count for series in counted.figures.requests.values())

    assert asyncio.run(scenario()) == 9
    assert requests(exporter) == 9


def test_on_trio_too() -> None:
    exporter = Exporter()
    served = Served(OtlpExport(exporter, interval=1))

    async def scenario() -> None:
        to_app: list[trio.MemorySendChannel[Any]] = []
        send, receive = trio.open_memory_channel[Any](9)
        answers, answered = trio.open_memory_channel[Any](9)
        to_app.append(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.app, {"type": "lifespan"}, receive.receive, answers.send)
            await send.send({"type": "lifespan.startup"})
            assert (await answered.receive())["type"] == "lifespan.startup.complete"
            await served.serve(3)
            served.clock.advance(SLOT)
            assert await trio.to_thread.run_sync(exporter.taken.wait, 30)
            assert requests(exporter) == 3
            await served.serve(2)
            await send.send({"type": "lifespan.shutdown"})

    trio.run(scenario)
    assert requests(exporter) == 5


# In nobody's way


def test_an_exporter_that_hangs_holds_up_no_request_and_the_end_only_for_its_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter = Exporter()
    exporter.hangs.clear()
    served = Served(OtlpExport(exporter, interval=1, timeout=0.2))
    (began,) = took = [0.0]

    async def scenario() -> None:
        async with started(served.app):
            await served.serve(3)
            served.clock.advance(SLOT)
            await served.serve(1)
            await poll(exporter.entered.is_set)
            await served.serve(50)
            took[0] = time.monotonic()
        took.append(time.monotonic())

    asyncio.run(scenario())
    assert began < took[1] - took[0] < 30  # not for ever, on whatever machine
    assert [record.message for record in caplog.records if "hangs" in record.message]
    exporter.hangs.set()
    for thread in threads():
        thread.join(30)
    assert threads() == []


def test_the_event_loop_is_not_where_it_is_exported() -> None:
    seen: list[int] = []

    class Noting(Exporter):
        def export(self, *given: Any, **settings: Any) -> Any:
            seen.append(threading.get_ident())
            return super().export(*given, **settings)

    exporter = Noting()
    served = Served(exporter)

    async def scenario() -> None:
        async with started(served.app):
            await served.serve(1)

    asyncio.run(scenario())
    assert requests(exporter) == 1
    assert threading.get_ident() not in seen


def test_a_cop_that_nobody_has_any_more_leaves_no_thread() -> None:
    served = Served(OtlpExport(Exporter(), interval=1))
    asyncio.run(served.serve(1))  # no lifespan: nobody ends it
    gone = weakref.ref(served.cop)
    assert threads()
    del served
    deadline = time.monotonic() + 30
    while threads() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert gone() is None
    assert threads() == []


def test_a_disabled_sdk_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    exporter = Exporter()
    served = Served(exporter)

    async def scenario() -> None:
        async with started(served.app):
            await served.serve(2)

    asyncio.run(scenario())
    assert exporter.exports == []
    assert not exporter.entered.is_set()


# A server of its own


def worker(receiver: Receiver, lifespan: str, *, requests: int, ends_by: signal.Signals) -> str:
    """Serve requests in a process whose FastAPI exports its own metrics to the same collector; what it logged."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url.removesuffix("/v1/metrics"),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "FASTAPI_OTEL_AUTO_CONFIGURE": "true",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.middleware.otlp_worker", lifespan],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    try:
        assert process.stdout is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=30)
        for at in range(requests):
            connection.request("GET", f"/a/{at}")
            connection.getresponse().read()
        connection.close()
        process.send_signal(ends_by)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return errors


@pytest.mark.parametrize(
    ("lifespan", "ends_by", "fastapi", "ours"),
    [
        ("on", signal.SIGTERM, 20, 5),
        # FastAPI sets its provider up at its lifespan's start: without one all is ours, and goes out at the exit.
        ("off", signal.SIGINT, 0, 25),
    ],
)
def test_fastapis_metrics_and_ours_at_one_collector_are_every_request_once(
    lifespan: str, ends_by: signal.Signals, fastapi: int, ours: int
) -> None:
    with receiving() as receiver:
        errors = worker(receiver, lifespan, requests=25, ends_by=ends_by)
        told = {scope: receiver.total(DURATION, scope=scope) for scope in ("fastapi", "traffic_cop_middleware")}
        instances = {instance for instance, _, metric in receiver.metrics() if metric.name == DURATION}
    assert "Traceback" not in errors, errors
    assert told == {"fastapi": fastapi, "traffic_cop_middleware": ours}
    assert len(instances) == 1  # of one process, so that both belong together


# Wrong values


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("http://collector:4318", "not a str. Write metrics_otlp=OTLPMetricExporter("),
        (True, "not a bool"),
        (OTLPMetricExporter, "not OTLPMetricExporter"),
        (PeriodicExportingMetricReader, "readers and providers have one of their own"),
        (InMemoryMetricReader(), "not a InMemoryMetricReader"),
        (MeterProvider([], shutdown_on_exit=False), "not a MeterProvider"),
    ],
)
def test_what_is_no_exporter_is_refused_with_the_mend(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match="metrics_otlp: a MetricExporter of OpenTelemetry's SDK") as caught:
        TrafficCop(metrics=True, metrics_otlp=given)
    assert says in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"^otlp: a MetricExporter"):
        MetricsMiddleware(Starlette(), otlp=given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"interval": 0.5}, r"interval=0\.5\): seconds between two exports, from 1 to 3600"),
        ({"interval": "60"}, "interval='60'"),
        ({"interval": float("nan")}, "interval=nan"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": 61}, "timeout=61"),
        ({"timeout": True}, "timeout=True"),
        ({"requests": "auto"}, "requests='auto'"),
    ],
)
def test_a_setting_of_the_export_that_cannot_be_is_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        OtlpExport(Exporter(), **settings)


def test_an_export_of_what_is_not_counted_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="metrics_otlp: nothing is counted without metrics=True"):
        TrafficCop(metrics_otlp=Exporter())


def test_without_the_sdk_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics.export", None)
    with pytest.raises(MissingExtra, match=r"pip install 'traffic-cop-middleware\[otlp\]'"):
        TrafficCop(metrics=True, metrics_otlp="http://collector:4318")  # type: ignore[arg-type]


def test_the_interval_is_the_environments(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert (OtlpExport(Exporter()).interval, OtlpExport(Exporter()).timeout) == (60, 10)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "15000")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_TIMEOUT", "2500")
    assert (OtlpExport(Exporter()).interval, OtlpExport(Exporter()).timeout) == (15, 2.5)
    assert OtlpExport(Exporter(), interval=30).interval == 30
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "a minute")
    caplog.set_level(logging.WARNING, "traffic_cop")
    assert OtlpExport(Exporter()).interval == 60
    assert "OTEL_METRIC_EXPORT_INTERVAL='a minute'" in caplog.text


def test_importing_the_package_loads_no_opentelemetry() -> None:
    script = (
        "import sys, traffic_cop_middleware as t; t.TrafficCop(metrics=True); print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
