"""The order of the middlewares, and what is warned of at the start."""

from __future__ import annotations

import logging
import multiprocessing
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from traffic_cop_middleware import (
    ConfigurationError,
    OrderError,
    RateLimitMiddleware,
    TrafficCop,
    TrafficCopMiddleware,
)


def warnings_of(app: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, "traffic_cop"), TestClient(app) as client:
        client.get("/")
        client.get("/")
    return [record.getMessage() for record in caplog.records]


def test_a_cop_is_installed_once() -> None:
    app = FastAPI()
    TrafficCop().install(app)
    with pytest.raises(ConfigurationError, match="installed in this app already"):
        TrafficCop().install(app)


def test_a_cop_around_an_app_that_has_one_is_refused() -> None:
    app = FastAPI()
    TrafficCop(limits="9/minute").install(app)
    with pytest.raises(OrderError, match=r"pay twice. Keep one of cop.install\(app\), cop.wrap\(app\) and"):
        TrafficCop(limits="9/minute").wrap(app)


def test_a_part_inside_the_cop_is_refused_at_start() -> None:
    app = Starlette()
    app.add_middleware(RateLimitMiddleware, limits="9/minute")
    app.add_middleware(GZipMiddleware)
    app.add_middleware(TrafficCopMiddleware, limits="9/minute")
    with pytest.raises(OrderError, match=r"TrafficCop\(limits=…\) has what RateLimitMiddleware does"), TestClient(app):
        pass


def test_the_same_part_twice_is_refused_with_the_mend() -> None:
    app = Starlette()
    app.add_middleware(RateLimitMiddleware, limits="9/minute")
    app.add_middleware(RateLimitMiddleware, limits="9/day")
    with pytest.raises(OrderError, match="Keep one and give it all limits"), TestClient(app):
        pass


def test_a_mounted_app_may_have_a_cop_of_its_own() -> None:
    inner, outer = FastAPI(), FastAPI()

    @inner.get("/x")
    def x() -> None: ...

    TrafficCop(limits="1/minute").install(inner)
    TrafficCop(limits="3/minute").install(outer)
    outer.mount("/inner", inner)
    client = TestClient(outer)
    assert [client.get("/inner/x").status_code for _ in range(4)] == [200, 429, 429, 429]


def test_what_takes_no_middleware_is_sent_to_wrap() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"app = cop\.wrap\(app\)"):
        TrafficCop().install(app)  # type: ignore[arg-type]


def test_cors_inside_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    TrafficCop(limits="9/minute").install(app)
    (warning,) = warnings_of(app, caplog)
    assert warning.startswith("CORSMiddleware stands inside Traffic Cop")
    assert "before app.add_middleware(CORSMiddleware" in warning


def test_cors_outside_is_right(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    TrafficCop(limits="1/minute").install(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    assert warnings_of(app, caplog) == []
    client = TestClient(app)
    client.get("/")
    refused = client.get("/", headers={"origin": "https://example.org"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (429, "*")


@pytest.mark.parametrize("sign", ["WEB_CONCURRENCY", "SERVER_SOFTWARE", "parent"])
def test_several_workers_on_memory_are_warned_of_once(
    sign: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if sign == "parent":
        monkeypatch.setattr(multiprocessing, "parent_process", object)
    else:
        monkeypatch.setenv(sign, {"WEB_CONCURRENCY": "4", "SERVER_SOFTWARE": "gunicorn/23"}[sign])
    app = FastAPI()
    TrafficCop(limits="9/minute").install(app)
    (warning,) = warnings_of(app, caplog)
    assert "each limit once per worker" in warning
    assert "TrafficCop('redis://localhost:6379/0')" in warning


def test_one_worker_is_warned_of_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    app = FastAPI()
    TrafficCop(limits="9/minute").install(app)
    assert warnings_of(app, caplog) == []
