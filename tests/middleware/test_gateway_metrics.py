"""What is counted of requests that go to an upstream, in front of a real one."""

from __future__ import annotations

import asyncio

import pytest

from tests.asgi import http_scope, status
from tests.middleware.upstreams import ask, services
from tests.servers import free_port
from traffic_cop_middleware import TrafficCop, Upstream

pytestmark = pytest.mark.asyncio


async def test_a_proxied_request_counts_under_its_pattern_and_by_upstream() -> None:
    async with services("one") as (one,):
        cop = TrafficCop(metrics=True)
        cop.route("/up/*", to=Upstream(one.url), name="up")
        app = cop.wrap(None)  # type: ignore[arg-type]  # no request goes there
        length = [(b"host", b"a"), (b"content-length", b"5")]
        sent = [await ask(app, http_scope(f"/up/{number}", "POST", headers=length), b"12345") for number in range(4)]
        assert [status(each) for each in sent] == [200] * 4
        minute = (await cop.analytics.live()).last_minute
        await cop._gateway.close()
    assert {route: traffic.requests for route, traffic in minute.routes.items()} == {"/up/*": 4}
    assert minute.total.bytes_in == 20
    (((route, _), traffic),) = minute.upstreams.items()
    assert route == "up"
    assert (traffic.requests, traffic.statuses, traffic.failures) == (4, {"200": 4}, {})
    assert traffic.p50 is not None


async def test_each_attempt_that_failed_is_counted_by_upstream_and_error() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    cop = TrafficCop(metrics=True)
    cop.route("/up/*", to=Upstream(dead), name="up")
    app = cop.wrap(None)  # type: ignore[arg-type]
    assert status(await ask(app, http_scope("/up/x"))) == 503
    minute = (await cop.analytics.live()).last_minute
    await cop._gateway.close()
    ((_, traffic),) = minute.upstreams.items()
    assert traffic.failures == {"UpstreamUnreachable": 1}
    assert traffic.statuses == {"503": 1}
    assert minute.statuses == {503: 1}


async def test_a_proxied_request_under_way_is_told_by_its_pattern() -> None:
    async with services("slow") as (slow,):
        cop = TrafficCop(metrics=True)
        cop.route("/up/*", to=Upstream(slow.url))
        app = cop.wrap(None)  # type: ignore[arg-type]
        held = asyncio.Event()

        asked = 0

        async def receive() -> dict[str, object]:
            nonlocal asked
            asked += 1
            await (held.wait() if asked == 1 else asyncio.Event().wait())
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def send(message: object) -> None:
            return

        scope = http_scope("/up/x", "POST", headers=[(b"host", b"h"), (b"content-length", b"1")])
        task = asyncio.create_task(app(scope, receive, send))
        for _ in range(1_000):
            await asyncio.sleep(0.005)
            if (await cop.analytics.live()).in_flight == {"/up/*": 1}:
                break
        else:
            raise AssertionError(await cop.analytics.live())
        held.set()
        await task
        assert (await cop.analytics.live()).in_flight == {}
        await cop._gateway.close()
