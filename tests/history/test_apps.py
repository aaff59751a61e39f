"""The history of apps: where it is kept, and who makes it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import started
from tests.arangodb_double import running_double
from tests.asgi import http_scope, send_through
from tests.history.crew import MIDNIGHT, requests_in
from tests.servers import RedisServer
from traffic_cop_middleware import MetricsMiddleware, TrafficCop
from traffic_cop_middleware.abstractions.history import keeping
from traffic_cop_middleware.adapters.arangodb.history import open as open_arangodb
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.adapters.sqlite.history import open as open_sqlite
from traffic_cop_middleware.contracts import HistoryOpener, Span
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.testing import FakeClock


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def app_of(cop: TrafficCop) -> Any:
    return cop.wrap(Starlette(routes=[Route("/a", ok)]))


async def serve(app: Any, number: int) -> None:
    for _ in range(number):
        await send_through(app, http_scope("/a"))


async def kept(open_store: HistoryOpener, url: str) -> int:
    """The requests in the minutes that a history has."""
    history = open_store(url, namespace="tc", deadline=10.0, notify=lambda event: None)
    await history.connect(patience=10.0)
    try:
        now = int(time.time())
        return await requests_in(history, Span(60, now - 600, now + 600))
    finally:
        await history.close()


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_the_last_workers_of_an_app_write_the_minute_that_is_not_over(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    served = 0
    for number in (3, 4):
        cops = [TrafficCop(redis_server.url, documents=url, metrics=True, deadline=5.0) for _ in range(2)]
        apps = [app_of(cop) for cop in cops]
        async with started(apps[0]), started(apps[1]):
            for app in apps:
                await serve(app, number)
                served += number
        assert await kept(open_sqlite, url) == served


@pytest.mark.asyncio
async def test_a_process_by_itself_writes_what_it_has_when_it_stops() -> None:
    with running_double() as double:
        cop = TrafficCop(documents=double.url, metrics=True)
        app = app_of(cop)
        async with started(app):
            await serve(app, 3)
        assert await kept(open_arangodb, double.url) == 3


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_each_worker_has_the_whole_history_where_no_documents_last(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SETTLED", -60.0)  # the running minute counts as over
    cops = [TrafficCop(redis_server.url, metrics=True, deadline=5.0) for _ in range(2)]
    apps = [app_of(cop) for cop in cops]
    async with started(apps[0]), started(apps[1]):
        for app in apps:
            await serve(app, 5)
        for cop in cops:
            await cop.analytics.flush()
        for cop in cops:
            assert await cop.analytics.keeper.take(token=None)
            minute = int(time.time() // 60) * 60
            assert await requests_in(cop.analytics._history, Span(60, minute - 60, minute + 60)) == 10


@pytest.mark.asyncio
@pytest.mark.parametrize("documents", ["memory://", MemoryDocuments()], ids=["url", "opened"])
async def test_without_documents_that_last_the_past_is_in_this_process(documents: Any) -> None:
    clock = FakeClock(MIDNIGHT)
    settings: Mapping[str, Any] = {"documents": documents, "metrics": True}
    cop = TrafficCop(MemoryBackend(clock=clock), **settings)
    app = app_of(cop)
    async with started(app):
        for _ in range(10):
            await serve(app, 2)
            clock.advance(60)
        clock.advance(60)
        assert (await cop.analytics.traffic("1h")).total.requests == 20


def test_it_works_on_trio_too(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock(MIDNIGHT)
        cop = TrafficCop(MemoryBackend(clock=clock), documents=f"sqlite:///{tmp_path}/state.db", metrics=True)
        app = app_of(cop)
        await serve(app, 3)
        clock.advance(120)
        assert (await cop.analytics.traffic("1h")).total.requests == 3
        assert (await cop.analytics.percentiles("1h")).requests == 3

    trio.run(main)


@pytest.mark.asyncio
async def test_without_a_history_there_are_live_figures_and_no_past(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    cop = TrafficCop(documents=url, metrics=True, metrics_history=False)
    app = app_of(cop)
    async with started(app):
        await serve(app, 3)
        assert (await cop.analytics.live()).last_minute.total.requests == 3
        for ask in (cop.analytics.traffic, cop.analytics.percentiles, cop.analytics.top, cop.analytics.compare):
            with pytest.raises(ConfigurationError, match="metrics_history=False out"):
                await ask()
    assert await kept(open_sqlite, url) == 0
    with pytest.raises(ConfigurationError, match="metrics_history=1"):
        TrafficCop(metrics=True, metrics_history=1)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_metrics_middleware_alone_makes_no_history_that_nobody_could_ask() -> None:
    app = MetricsMiddleware(Starlette(routes=[Route("/a", ok)]))
    async with started(app):
        await serve(app, 3)
        opened = app._parts.opened
        assert opened is not None
        assert (await opened.analytics.live()).last_minute.total.requests == 3
        assert opened.analytics.keeper is None
