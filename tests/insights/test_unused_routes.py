"""Routes that nobody asks for, end to end: those of a real app and its gateway, against a history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.adapters.load import started
from tests.asgi import http_scope, send_through
from tests.history.crew import DAY, MIDNIGHT
from traffic_cop_middleware import TrafficCop, Upstream
from traffic_cop_middleware.abstractions.history.rows import RECORDED, rows_of
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, Summary
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.sqlite.history import open as open_sqlite
from traffic_cop_middleware.contracts import HistoryBucket
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio


def shop(folder: Path) -> FastAPI:
    async def answer() -> str:
        return "ok"

    async def page(request: Request) -> Response:
        return Response("ok")

    async def events() -> StreamingResponse:
        return StreamingResponse(iter([b"data: 1\n\n", b""]), media_type="text/event-stream")

    async def socket(websocket: WebSocket) -> None:
        await websocket.close()

    router = APIRouter()
    router.get("/orders/{id}")(answer)
    router.delete("/orders/{id}")(answer)
    router.get("/old")(answer)
    router.post("/old")(answer)
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    app.get("/events")(events)
    app.get("/hidden", include_in_schema=False)(answer)
    app.websocket("/ws")(socket)
    app.router.routes.append(Mount("/admin", routes=[Route("/users", page), Route("/teams", page)]))
    app.mount("/static", StaticFiles(directory=folder))
    return app


async def recorded(url: str, *, days: int) -> None:
    """A history in which somebody was there to count for so many days, and nothing came."""
    history = open_sqlite(url, namespace="tc", deadline=10.0, notify=lambda event: None)
    await history.connect(patience=10.0)
    summary = Summary()
    summary.add_row((COUNTS, RECORDED), DAY // 60)
    for day in range(1, days + 1):
        await history.write(HistoryBucket(DAY, MIDNIGHT - day * DAY), rows_of(summary))
    await history.close()


async def unused(tmp_path: Path, *, days: int, range: str = "24h") -> Sequence[str]:
    """What is said of the shop's unused routes after some requests."""
    url = f"sqlite:///{tmp_path}/state.db"
    await recorded(url, days=days)
    clock = FakeClock(MIDNIGHT)
    cop = TrafficCop(MemoryBackend(clock=clock), documents=url, metrics=True)
    cop.route("/billing/*", to=Upstream("http://127.0.0.1:9"))
    cop.route("/wares/*", to=Upstream("http://127.0.0.1:9"), methods=["GET", "PUT"])
    app = shop(tmp_path)
    cop.install(app)
    async with started(app):
        app.get("/late")(lambda: "ok")  # a route that is added while the app runs
        for method, path in (("GET", "/v1/orders/7"), ("GET", "/events"), ("GET", "/admin/users"), ("PUT", "/wares/1")):
            await send_through(app, http_scope(path, method))
        clock.advance(600)
        return [each.sentence for each in await cop.analytics.insights(range) if each.kind == "unused"]


async def test_what_nobody_asked_for_in_a_month_is_told_by_a_look_at_a_day(tmp_path: Path) -> None:
    assert await unused(tmp_path, days=27) == [
        f"{route} had no request in 27 days (4 elsewhere)"
        for route in (
            "DELETE /v1/orders/{id}",
            "GET /wares/*",
            "/admin/teams",
            "/billing/*",
            "/late",
            "/static/{path}",
            "/v1/old",
        )
    ]


@pytest.mark.parametrize(("days", "range"), [(6, "24h"), (27, "23h")])
async def test_neither_a_few_days_nor_a_look_at_some_hours_tells_of_them(tmp_path: Path, days: int, range: str) -> None:
    assert await unused(tmp_path, days=days, range=range) == []
