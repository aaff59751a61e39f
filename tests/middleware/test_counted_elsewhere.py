"""Beside FastAPI's own OpenTelemetry metrics an operator sees every request once: real FastAPI, real SDK."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from starlette.applications import Starlette
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from tests.adapters.load import started
from tests.asgi import http_scope, send_through
from tests.otlp import ACTIVE, DURATION, Exporter, counts
from traffic_cop_middleware import FixedResponse, MetricsMiddleware, OtlpExport, TrafficCop, limit
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock

STATUS = "http.response.status_code"
EACH = "traffic_cop.first_byte.duration"
"""What we alone export: every request that was answered, whoever else counts it."""


class Telemetry:
    """A meter provider of a test's own, and the exporter that our metrics go to."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.exporter = Exporter()

    def seen(self, name: str = DURATION) -> dict[str, dict[tuple[Any, ...], int]]:
        """By whose export it is: requests by status."""
        labels = (STATUS,) if name != ACTIVE else ()
        theirs = counts(self.reader.get_metrics_data(), name, *labels)
        ours = counts(self.exporter.exports[-1], name, *labels) if self.exporter.exports else {}
        return {"fastapi": theirs, "ours": ours}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def fastapi(**telemetry: Any) -> FastAPI:
    app = FastAPI(telemetry=telemetry)

    @app.get("/a/{x}")
    async def a(x: int) -> int:
        return x

    @app.get("/missing")
    async def missing() -> None:
        raise HTTPException(404)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("broken")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter(["one", "two"]), media_type="text/event-stream")

    @app.get("/out")
    async def out() -> str:
        return "excluded"

    return app


def cop(exporter: Any, **settings: Any) -> TrafficCop:
    return TrafficCop(
        MemoryBackend(clock=FakeClock()),
        metrics=True,
        limits=limit("6/minute", name="few"),
        metrics_otlp=exporter,
        **settings,
    )


def installed(cop: TrafficCop, app: Any) -> Any:
    cop.install(app)
    return app


def wrapped(cop: TrafficCop, app: Any) -> Any:
    return cop.wrap(app)


BOTH = pytest.mark.parametrize("door", [installed, wrapped])
Door = Callable[[TrafficCop, Any], Any]
PATHS = ("/a/1", "/a/2", "/a/no-number", "/missing", "/nowhere", "/broken", "/refused", "/refused")
STATUSES = {(200,): 2, (422,): 1, (404,): 2, (500,): 1, (429,): 2}


def answered(door: Door) -> dict[tuple[Any, ...], int]:
    """Installed, ours is inside of what answers an exception."""
    return {key: number for key, number in STATUSES.items() if door is wrapped or key != (500,)}


def run(app: Any, *paths: str) -> None:
    async def scenario() -> None:
        async with started(app):
            for path in paths:
                # Since this version a streaming response does not listen for the client's leaving.
                scope = http_scope(path, asgi={"version": "3.0", "spec_version": "2.4"})
                await asyncio.gather(send_through(app, scope), return_exceptions=True)

    asyncio.run(scenario())


def added(seen: dict[str, dict[tuple[Any, ...], int]]) -> dict[tuple[Any, ...], int]:
    """What an operator sees, who adds up a family over all of its streams."""
    found: dict[tuple[Any, ...], int] = {}
    for each in seen.values():
        for key, number in each.items():
            found[key] = found.get(key, 0) + number
    return {key: number for key, number in found.items() if number}


@BOTH
def test_every_request_is_seen_once(door: Door, telemetry: Telemetry) -> None:
    app = door(cop(telemetry.exporter), fastapi(meter_provider=telemetry.provider))
    run(app, *PATHS)
    seen = telemetry.seen()
    assert added(seen) == STATUSES
    # FastAPI watches around its middlewares: inside of it all is its own, around it only what reached it.
    assert seen["ours"] == ({} if door is installed else {(429,): 2})
    assert telemetry.seen(EACH)["ours"] == answered(door)
    assert added(telemetry.seen(ACTIVE)) == {}


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {},  # no provider is set in this process
        {"metrics": False},
        {"meter_provider": NoOpMeterProvider()},
    ],
)
def test_where_fastapi_records_nothing_all_is_ours(door: Door, settings: Any, telemetry: Telemetry) -> None:
    provided = {"meter_provider": telemetry.provider} if "meter_provider" not in settings and settings else {}
    app = door(cop(telemetry.exporter), fastapi(**provided, **settings))
    run(app, *PATHS)
    assert telemetry.seen() == {"fastapi": {}, "ours": STATUSES}


@BOTH
def test_spans_alone_count_nothing(door: Door, telemetry: Telemetry) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    spans = TracerProvider(shutdown_on_exit=False)
    app = door(cop(telemetry.exporter), fastapi(tracer_provider=spans, metrics=False))
    run(app, *PATHS)
    assert telemetry.seen() == {"fastapi": {}, "ours": STATUSES}


@BOTH
def test_what_fastapi_excludes_is_ours(door: Door, telemetry: Telemetry) -> None:
    def excluded(scope: Any) -> bool:
        return scope["path"] == "/out"

    app = door(cop(telemetry.exporter), fastapi(meter_provider=telemetry.provider, exclude=excluded))
    run(app, "/out", "/out", "/a/1")
    assert telemetry.seen() == {"fastapi": {(200,): 1}, "ours": {(200,): 2}}


@BOTH
def test_a_stream_is_no_request_of_ours(door: Door, telemetry: Telemetry) -> None:
    app = door(cop(telemetry.exporter), fastapi(meter_provider=telemetry.provider))
    run(app, "/stream", "/a/1")
    assert telemetry.seen() == {"fastapi": {(200,): 2}, "ours": {}}
    assert telemetry.seen("traffic_cop.stream.duration")["ours"] == {(200,): 1}


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def test_a_fastapi_app_in_a_starlette_app_counts_its_own_requests_only(telemetry: Telemetry) -> None:
    inner = fastapi(meter_provider=telemetry.provider)
    app = wrapped(cop(telemetry.exporter), Starlette(routes=[Mount("/inner", inner), Route("/plain", ok)]))
    run(app, "/inner/a/1", "/inner/nowhere", "/plain", "/nowhere")
    assert telemetry.seen() == {"fastapi": {(200,): 1, (404,): 1}, "ours": {(200,): 1, (404,): 1}}


@BOTH
def test_a_starlette_app_in_a_fastapi_app_is_fastapis(door: Door, telemetry: Telemetry) -> None:
    outer = fastapi(meter_provider=telemetry.provider)
    outer.mount("/inner", Starlette(routes=[Route("/plain", ok)]))
    app = door(cop(telemetry.exporter), outer)
    run(app, "/inner/plain", "/inner/nowhere", "/a/1")
    assert telemetry.seen() == {"fastapi": {(200,): 2, (404,): 1}, "ours": {}}


def test_what_the_gateway_answers_in_front_of_fastapi_is_ours(telemetry: Telemetry) -> None:
    the_cop = cop(telemetry.exporter)
    the_cop.route("/fixed/*", to=FixedResponse(410, "gone"))
    app = the_cop.wrap(fastapi(meter_provider=telemetry.provider))
    run(app, "/fixed/1", "/a/1")
    assert telemetry.seen() == {"fastapi": {(200,): 1}, "ours": {(410,): 1}}


@BOTH
@pytest.mark.parametrize("path", ["/slow", "/inner/slow"])
def test_one_under_way_is_active_once_and_so_is_one_that_is_given_up(
    door: Door, path: str, telemetry: Telemetry
) -> None:
    clock = FakeClock()
    the_cop = TrafficCop(MemoryBackend(clock=clock), metrics=True, metrics_otlp=telemetry.exporter)
    inner = fastapi(meter_provider=telemetry.provider)
    entered = asyncio.Event()

    async def slow(request: Request) -> Response:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody ends it")

    inner.add_route("/slow", slow)
    inner.mount("/inner", Starlette(routes=[Route("/slow", slow)]))
    app = door(the_cop, inner)

    async def scenario() -> None:
        async with started(app):
            task = asyncio.create_task(send_through(app, http_scope(path)))
            await entered.wait()
            await send_through(app, http_scope("/a/1"))
            clock.advance(10)
            exporting = the_cop._parts._exporting
            assert exporting is not None
            await asyncio.to_thread(exporting._once, final=False)
            assert telemetry.seen(ACTIVE) == {"fastapi": {(): 1}, "ours": {(): 0}}
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    seen = telemetry.seen()
    assert (sum(seen["fastapi"].values()), seen["ours"]) == (2, {})
    assert telemetry.seen(ACTIVE) == {"fastapi": {(): 0}, "ours": {(): 0}}
    assert telemetry.seen("traffic_cop.disconnects")["ours"] == {(499,): 1}


@BOTH
@pytest.mark.parametrize(("requests", "ours"), [(True, STATUSES), (False, {})])
def test_who_knows_better_says_so(door: Door, requests: bool, ours: Any, telemetry: Telemetry) -> None:
    export = OtlpExport(telemetry.exporter, requests=requests)
    app = door(cop(export), fastapi(meter_provider=telemetry.provider))
    run(app, *PATHS)
    assert telemetry.seen()["ours"] == ours
    assert telemetry.seen(EACH)["ours"] == answered(door)


def test_the_part_alone_leaves_them_out_too_and_says_so_once(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "traffic_cop")
    app = fastapi(meter_provider=telemetry.provider)
    app.add_middleware(MetricsMiddleware, otlp=telemetry.exporter)
    run(app, "/a/1", "/a/2")
    assert telemetry.seen() == {"fastapi": {(200,): 2}, "ours": {}}
    assert len([record for record in caplog.records if "FastAPI records" in record.message]) == 1


def test_starlettes_own_middleware_makes_no_metrics(telemetry: Telemetry) -> None:
    app = Starlette(routes=[Route("/plain", ok)])
    app.add_middleware(OpenTelemetryMiddleware, meter_provider=telemetry.provider)
    run(wrapped(cop(telemetry.exporter), app), "/plain", "/plain")
    assert telemetry.seen() == {"fastapi": {}, "ours": {(200,): 2}}
