"""What the advisor finds in a log is what the real limiter refuses of the same requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.advisor.traffic import JSON_FIELDS, START, Asked, as_combined, as_json, usual
from tests.asgi import http_scope, send_through, status
from tests.servers import RedisServer
from traffic_cop_middleware import (
    ConfigurationError,
    RateLimitMiddleware,
    by_everyone,
    by_route,
    by_session,
    exempt,
    limit,
)
from traffic_cop_middleware.abstractions.advisor.simulation import LimitSimulation, Refusals
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.advisor import simulate_log
from traffic_cop_middleware.advisor.keys import named_key
from traffic_cop_middleware.advisor.log_advice import Bills
from traffic_cop_middleware.advisor.log_traffic import LogTraffic
from traffic_cop_middleware.middleware.marks import Limit


class Clock:
    """Shows the time of the request that is sent."""

    now = START

    def __call__(self) -> float:
        return self.now


def tenant_of(connection: HTTPConnection) -> str:
    return connection.headers["x-tenant"]


def shop(*, marked: bool) -> Starlette:
    async def search(request: Request) -> PlainTextResponse:
        return PlainTextResponse("found")

    async def item(request: Request) -> PlainTextResponse:
        return PlainTextResponse("item")

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("well")

    async def report(request: Request) -> PlainTextResponse:
        return PlainTextResponse("report")

    exempt(health)
    if marked:
        limit("20/minute", burst=5)(search)
        limit("30/minute", cost=2, key=by_route, methods=["POST"])(item)
        limit("10/minute; 100/hour", key=by_everyone)(report)
    both = ["GET", "POST"]
    return Starlette(
        routes=[
            Route("/search", search, methods=both),
            Route("/items/{id:int}", item, methods=both),
            Route("/items/{id:int}/parts", item, methods=both),
            Route("/health", health, methods=both),
            Route("/report", report),
        ]
    )


async def really(asked: list[Asked], app: Starlette, **settings: Any) -> list[bool]:
    """Whether the real middleware refuses each request."""
    clock = Clock()
    stack = RateLimitMiddleware(app, backend=MemoryBackend(clock=clock), **settings)
    refused = []
    for each in asked:
        clock.now = each.time
        fields = [(b"host", b"shop"), (b"x-tenant", each.tenant.encode())]
        if each.forwarded:
            fields.append((b"x-forwarded-for", each.forwarded.encode()))
        scope = http_scope(each.path, each.method, client=(each.peer, 4711), headers=fields)
        refused.append(status(await send_through(stack, scope)) == 429)
    return refused


def assert_equal(found: LimitSimulation, asked: list[Asked], refused: list[bool]) -> None:
    assert found.requests == len(asked)
    assert found.refused == (sum(refused), sum(refused))
    minutes = Counter(int(each.time) // 60 * 60 for each, no in zip(asked, refused, strict=True) if no)
    assert {span.start: span.refused.low for span in found.when} == minutes
    assert sum(each.refused.low for each in found.who) == sum(refused)


SEVERAL: list[str | Limit] = ["60/minute", limit("200/10 minutes", burst=40), limit("90/minute", cost=0.5, burst=3)]
STACKS: list[tuple[str, list[str | Limit], bool]] = [
    ("one", ["30/minute"], False),
    ("several, with bursts and costs", SEVERAL, False),
    ("by route and for all", [limit("5/second", key=by_route, burst=8), limit("8/second", key=by_everyone)], False),
    ("one name, by methods", [limit("10/minute", name="writes", methods=["POST"]), "40/minute"], False),
    ("with marks", ["60/minute"], True),
]


@pytest.mark.parametrize(("limits", "marked"), [each[1:] for each in STACKS], ids=[each[0] for each in STACKS])
@pytest.mark.asyncio
async def test_a_replay_refuses_what_the_middleware_refuses(
    limits: list[str | Limit], marked: bool, tmp_path: Path
) -> None:
    asked = usual()
    refused = await really(asked, shop(marked=marked), limits=limits)
    assert 50 < sum(refused) < len(asked)
    log = as_json(asked, tmp_path / "log")
    found = simulate_log(log, limits, app=shop(marked=marked), marks=marked, fields=JSON_FIELDS)
    assert_equal(found, asked, refused)


@pytest.mark.asyncio
async def test_a_combined_log_is_replayed_by_its_seconds(tmp_path: Path) -> None:
    asked = usual(digits=0)
    refused = await really(asked, shop(marked=False), limits="30/minute")
    found = simulate_log(as_combined(asked, tmp_path / "log"), "30/minute", app=shop(marked=False))
    assert_equal(found, asked, refused)
    assert any("whole seconds" in note for note in found.notes)
    # A whole /64 is one client.
    assert "ip:2001:db8::/64" in {each.name for each in found.who}


@pytest.mark.asyncio
async def test_clients_behind_proxies_are_found_as_the_middleware_finds_them(tmp_path: Path) -> None:
    asked = [
        each._replace(peer="10.0.0.1" if index % 5 else "192.0.2.66", forwarded=f"6.6.6.6, {each.peer}")
        for index, each in enumerate(usual(2))
    ]
    settings: Any = {"trusted_proxies": ["10.0.0.0/8"]}
    refused = await really(asked, shop(marked=False), limits="20/minute", **settings)
    log = as_json(asked, tmp_path / "log")
    found = simulate_log(log, "20/minute", app=shop(marked=False), fields=JSON_FIELDS, **settings)
    assert_equal(found, asked, refused)
    assert "ip:192.0.2.66" in {each.name for each in found.who}
    whole = [each._replace(time=float(int(each.time))) for each in asked]
    refused = await really(whole, shop(marked=False), limits="20/minute", **settings)
    found = simulate_log(as_combined(asked, tmp_path / "main"), "20/minute", app=shop(marked=False), **settings)
    assert_equal(found, whole, refused)


@pytest.mark.asyncio
async def test_a_field_of_json_lines_is_a_key(tmp_path: Path) -> None:
    asked = usual(3)
    refused = await really(asked, shop(marked=False), limits=[limit("90/minute", key=tenant_of)])
    log = as_json(asked, tmp_path / "log")
    found = simulate_log(log, "90/minute", by="field:tenant", app=shop(marked=False), fields=JSON_FIELDS)
    assert_equal(found, asked, refused)
    assert (found.by, found.keys) == ("tenant", 3)


@pytest.mark.asyncio
async def test_lines_that_came_out_of_order_are_sorted(tmp_path: Path) -> None:
    asked = usual(4, count=9000, per_second=30)
    refused = await really(asked, shop(marked=False), limits="30/minute")
    shuffled = sorted(asked, key=lambda each: each.time + len(each.path) % 5)
    assert shuffled != asked
    app = shop(marked=False)
    found = simulate_log(as_json(shuffled, tmp_path / "log"), "30/minute", app=app, fields=JSON_FIELDS)
    assert_equal(found, asked, refused)
    assert not any("late" in note for note in found.notes)
    late = simulate_log(as_json(shuffled, tmp_path / "log"), "30/minute", app=app, fields=JSON_FIELDS, window=0)
    assert late.requests == len(asked)


@pytest.mark.asyncio
async def test_a_real_redis_refuses_the_same(redis_server: RedisServer, tmp_path: Path) -> None:
    """The same bills, asked of Redis with the requests' times."""
    asked = usual(5, count=3000)
    log = as_json(asked, tmp_path / "log")
    limits = [limit("600/hour", burst=20), limit("900/hour", cost=1.5, burst=25, key=by_route)]
    found = simulate_log(log, limits, app=shop(marked=False), fields=JSON_FIELDS)
    bills = Bills(tuple(limits))
    traffic = LogTraffic(log, app=shop(marked=False), fields=JSON_FIELDS)
    backend = open_redis(redis_server.url, namespace="advisor", deadline=30, notify=lambda event: None)
    await backend.link.connect(30)
    try:
        owed = [(seen.request.time, bills.of(seen)) for seen in traffic]
        taken = await asyncio.gather(*(backend.buckets.take(bill.takes, now=at) for at, bill in owed if bill.takes))
    finally:
        await backend.close()
    assert sum(not each.admitted for each in taken) == found.refused.low > 100


def test_limits_on_routes_have_buckets_of_their_own(tmp_path: Path) -> None:
    asked = [Asked(START + index, "192.0.2.1", "GET", path) for index in range(10) for path in ("/a/1", "/a/2", "/b")]
    log = as_json(asked, tmp_path / "log")
    found = simulate_log(log, routes={"/a/{id}": "4/minute"}, fields=JSON_FIELDS)
    assert found.where == (Refusals("/a/{id}", 20, found.refused),)
    assert found.refused.low == 20 - 4
    by_templates = simulate_log(
        log, routes={"/a/{name}": "4/minute"}, templates=["/a/{name}", "/b"], fields=JSON_FIELDS
    )
    assert by_templates.where[0].name == "/a/{name}"


def test_what_refused_is_told_by_limit(tmp_path: Path) -> None:
    asked = [Asked(START, "192.0.2.1", "GET", "/") for _ in range(10)]
    found = simulate_log(as_json(asked, tmp_path / "log"), ["6/minute", "3/hour"], fields=JSON_FIELDS)
    assert {each.name: each.refused.low for each in found.limits} == {"3/hour": 7}
    assert "by limit" not in str(found)


def test_keys_can_be_hashed(tmp_path: Path) -> None:
    asked = [Asked(START, "192.0.2.1", "GET", "/") for _ in range(10)]
    found = simulate_log(as_json(asked, tmp_path / "log"), "3/minute", fields=JSON_FIELDS, hash_keys=True)
    assert "192.0.2.1" not in str(found)
    assert "7 of 10" in str(found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"limits": None}, "no limit to simulate"),
        ({"by": "session"}, "by='session': write 'ip'"),
        ({"by": by_session}, "can't be told from an access log"),
        ({"limits": [limit("1/minute", key=tenant_of)]}, "can't be told from an access log"),
        ({"limits": [limit("1/minute", cost=lambda connection: 1.0)]}, "its cost is a function"),
        ({"limits": "often"}, "not a rate"),
        ({"window": -1}, "window=-1"),
        ({"format": "apache"}, "format='apache'"),
        ({"fields": {"when": "at"}}, "'when' is none of time, client"),
        ({"templates": ["/a/{b"], "app": shop(marked=False)}, "give one of them"),
        ({"trusted_proxies": ["nobody"]}, "trusted_proxies"),
    ],
)
def test_settings_that_cannot_be_used_are_said(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    log = as_json(usual(count=10), tmp_path / "log")
    with pytest.raises(ConfigurationError, match=said):
        simulate_log(log, settings.pop("limits", "1/minute"), **{"fields": JSON_FIELDS, **settings})


def test_named_keys_are_the_houses() -> None:
    assert repr(named_key("user")) == "by_user"
    assert named_key("field:auth.name").kind == "auth.name"
