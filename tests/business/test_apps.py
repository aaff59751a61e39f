"""An app that counts of its own, from its first request to what Prometheus and the accountants read."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Annotated, Any

import pytest
import trio
from fastapi import Depends, FastAPI, Response
from fastapi.responses import StreamingResponse
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.testclient import TestClient

from tests.adapters.load import started
from tests.arangodb_double import running_double
from tests.asgi import http_scope, send_through
from tests.history.crew import MIDNIGHT
from tests.servers import RedisServer
from traffic_cop_middleware import BusinessMetric, Session, TrafficCop, session_of
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock

METRICS = [
    BusinessMetric("orders", "count", attributes={"plan": ["free", "pro"]}, help='Orders that were "paid" \\ placed.'),
    BusinessMetric("basket", "observe", attributes=["plan"], unit="EUR"),
    BusinessMetric("stock", "gauge"),
]
SECRET = "a secret of more than thirty-two bytes, for tests"


def cost(route: str, method: str, status: int, seconds: float, bytes_out: int) -> float:
    if route == "/broken":
        raise RuntimeError("no price")
    return 0.25 if route == "/orders/{plan}" else 0.001 * bytes_out


def shop(url: str = "memory://", **settings: Any) -> tuple[TrafficCop, FastAPI]:
    cop = TrafficCop(
        url,
        metrics=True,
        metrics_path="/metrics",
        metrics_public=True,
        business_metrics=METRICS,
        business_metrics_cost=cost,
        session_secret=SECRET,
        session_secure=False,
        **settings,
    )
    app = FastAPI()

    @app.post("/login/{name}")
    async def login(name: str, session: Annotated[Session, Depends(session_of)]) -> str:
        await session.login(name, claims={"tenant": "acme", "plan": "pro"})
        return "ok"

    @app.post("/orders/{plan}")
    def order(plan: str) -> str:  # in a thread
        cop.business_metrics.count("orders", plan=plan)
        cop.business_metrics.observe("basket", 19.99, plan=plan)
        cop.business_metrics.gauge("stock", 7.5)
        return "ok"

    @app.get("/broken")
    async def broken() -> str:
        return "ok"

    @app.get("/export")
    async def export(format: str = "csv") -> Response:
        pieces = cop.business_metrics.export("15m", format="json" if format == "json" else "csv")
        return StreamingResponse(pieces, media_type="text/csv")

    cop.install(app)
    return cop, app


def test_an_app_counts_its_orders_and_who_pays_for_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cop, app = shop(documents=f"sqlite:///{tmp_path}/state.db")
    cop.business_metrics.count("orders", 2, plan="free")  # before anything is open
    with TestClient(app) as client:
        portal = client.portal
        assert portal is not None
        assert client.post("/login/alice").status_code == 200
        for plan in ("pro", "pro", "gold"):
            assert client.post(f"/orders/{plan}").status_code == 200
        for _ in range(2):
            assert client.get("/broken").status_code == 200
        orders = portal.call(lambda: cop.business_metrics.read("orders", "15m", by="plan"))
        assert {name: figure.value for name, figure in orders.groups.items()} == {
            "free": 2,
            "pro": 2,
            "__overflow__": 1,
        }
        basket = portal.call(lambda: cop.business_metrics.read("basket", "15m")).total
        assert (basket.value, basket.observations) == (59.97, 3)
        by_user = portal.call(lambda: cop.business_metrics.usage("15m", by="user"))
        assert by_user.groups["alice"].requests == 6
        assert by_user.groups["alice"].cost == pytest.approx(0.75 + 0.001 * len('"ok"'))
        for by in ("tenant", "plan"):
            usage = portal.call(lambda by=by: cop.business_metrics.usage("15m", by=by))
            assert [*usage.groups] == ["acme" if by == "tenant" else "pro"]
            assert usage.total == by_user.total
        by_route = portal.call(lambda: cop.business_metrics.usage("15m", by="route"))
        assert by_route.groups["/orders/{plan}"].cost == 0.75
        assert (by_route.groups["/broken"].cost, by_route.groups["/broken"].requests) == (0.0, 2)
        rows = list(csv.DictReader(io.StringIO(client.get("/export").text, newline="")))
        assert sum(float(row["value"]) for row in rows if row["metric"] == "orders") == 5
        assert {row["metric"] for row in rows} == {"orders", "basket", "stock"}
        assert len(client.get("/export?format=json").json()) == len(rows)
    assert sum("no price" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("openmetrics", [False, True])
def test_prometheus_reads_them(openmetrics: bool) -> None:
    _, app = shop()
    with TestClient(app) as client:
        for plan in ("pro", "gold"):
            client.post(f"/orders/{plan}")
        accept = {"accept": "application/openmetrics-text"} if openmetrics else {}
        text = client.get("/metrics", headers=accept).text
    families = {family.name: family for family in (parse_openmetrics if openmetrics else parse_text)(text)}
    found = {name.removeprefix("traffic_cop_business_"): each for name, each in families.items() if "business" in name}
    values = {
        name: {sample.labels.get("plan", ""): sample.value for sample in each.samples} for name, each in found.items()
    }
    assert values == {
        "orders": {"pro": 1, "__overflow__": 1},
        "basket_observations": {"pro": 1, "gold": 1},
        "basket_sum": {"pro": 19.99, "gold": 19.99},
        "stock": {"": 7.5},
    }
    assert found["orders"].documentation == METRICS[0].help
    assert found["stock"].type == "gauge"
    (paid,) = families["traffic_cop_cost"].samples
    assert (paid.labels, paid.value) == ({"http_route": "/orders/{plan}"}, 0.5)


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_two_cops_on_one_redis_are_one_shop(redis_server: RedisServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    shops = [shop(redis_server.url, documents=url, deadline=5.0) for _ in range(2)]
    async with started(shops[0][1]), started(shops[1][1]):
        for at, (_, app) in enumerate(shops):
            for _ in range(3 + at):
                await send_through(app, http_scope("/orders/pro", method="POST"))
        for cop, _ in shops:
            await cop.analytics.flush()
        for cop, _ in shops:
            assert (await cop.business_metrics.read("orders", "15m", by="plan")).groups["pro"].value == 7
            assert (await cop.business_metrics.read("basket", "15m")).total.value == 139.93
            assert (await cop.business_metrics.usage("15m", by="route")).groups["/orders/{plan}"].cost == 1.75
            trend = await cop.business_metrics.trends("orders", "15m", by="plan")
            assert (trend.total.before.value, trend.total.change) == (0, None)
    shops.append(shop(redis_server.url, documents=url, deadline=5.0))
    async with started(shops[2][1]):  # after all have ended
        assert (await shops[2][0].business_metrics.read("orders", "15m")).total.value == 7


@pytest.mark.asyncio
@pytest.mark.parametrize("documents", ["sqlite", "arangodb"])
async def test_figures_outlive_the_process(documents: str, tmp_path: Path) -> None:
    clock = FakeClock(MIDNIGHT)
    with running_double() as double:
        url = double.url if documents == "arangodb" else f"sqlite:///{tmp_path}/state.db"

        def made() -> tuple[TrafficCop, Any]:
            cop = TrafficCop(MemoryBackend(clock=clock), documents=url, metrics=True, business_metrics=METRICS)
            return cop, cop.wrap(FastAPI())

        for turn in range(3):
            cop, app = made()
            async with started(app):
                cop.business_metrics.count("orders", 10**15, plan="pro")
                cop.business_metrics.observe("basket", 0.1 * 3, plan="pro")
                cop.business_metrics.gauge("stock", 10 - turn)
            clock.advance(120)
        clock.advance(3 * 86_400)
        cop, app = made()
        async with started(app):
            it = cop.business_metrics
            assert (await it.read("orders", "7d", by="plan")).groups["pro"].value == 3 * 10**15
            basket = (await it.read("basket", "7d")).total
            assert (basket.value, basket.observations) == (0.9, 3)
            stock = (await it.read("stock", "7d", step="1d")).points
            told = [point.total for point in stock if point.total.value is not None]
            assert [(each.value, each.low, each.high, each.at) for each in told] == [(8, 8, 10, MIDNIGHT + 240)]
            rows = list(csv.DictReader(io.StringIO("".join([piece async for piece in it.export("7d")]), newline="")))
            assert [(row["metric"], float(row["value"])) for row in rows] == [
                ("orders", 3e15),
                ("basket", 0.9),
                ("stock", 8.0),
            ]


@pytest.mark.asyncio
async def test_a_forked_worker_counts_from_its_start_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cop, app = shop()
    cop.business_metrics.count("orders", 100)  # in the process that forks: gunicorn's --preload
    monkeypatch.setattr("os.getpid", lambda: -1)
    async with started(app):
        cop.business_metrics.count("orders", 5)
        await send_through(app, http_scope("/broken"))
        assert (await cop.business_metrics.read("orders", "15m")).total.value == 5
        assert (await cop.business_metrics.usage("15m", by="route")).total.requests == 1


def test_it_works_on_trio_too() -> None:
    async def main() -> None:
        cop = TrafficCop(metrics=True, business_metrics=METRICS)
        app: Any = cop.wrap(FastAPI())
        await send_through(app, http_scope("/"))
        cop.business_metrics.count("orders", 3)
        assert (await cop.business_metrics.read("orders", "15m")).total.value == 3
        assert "orders,count" in "".join([piece async for piece in cop.business_metrics.export("15m")])

    trio.run(main)


@pytest.mark.asyncio
async def test_a_websocket_costs_by_its_route() -> None:
    told: list[Any] = []

    def price(*of: Any) -> int:
        told.append(of)
        return 2

    cop = TrafficCop(metrics=True, business_metrics_cost=price)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "four"})
        await send({"type": "websocket.close", "code": 1000})

    wrapped: Any = cop.wrap(app)
    scope = {**http_scope("/"), "type": "websocket", "subprotocols": []}
    incoming = asyncio.Queue[Any]()
    incoming.put_nowait({"type": "websocket.connect"})

    async def send(message: Any) -> None:
        return None

    await wrapped(scope, incoming.get, send)
    ((route, method, status, seconds, size),) = told
    assert (route, method, status, size) == ("__unmatched__", "WEBSOCKET", 101, 4)
    assert seconds > 0
    assert (await cop.business_metrics.usage("15m", by="route")).groups["__unmatched__"].cost == 2
