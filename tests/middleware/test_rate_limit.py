"""Limits on real apps: what is taken, what is refused, and what a response says of it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tests.asgi import headers, http_scope, send_through, status
from traffic_cop_middleware import (
    ConfigurationError,
    Event,
    RateLimitMiddleware,
    Refusal,
    TrafficCop,
    TrafficCopMiddleware,
    by_api_key,
    by_everyone,
    by_route,
    exempt,
    limit,
)
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock


async def ok(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def marked(request: Request) -> PlainTextResponse:
    return PlainTextResponse("marked")


limit("1/minute")(marked)


def shop(**settings: Any) -> tuple[TestClient, FakeClock]:
    """An app with a marked, an exempt and a plain route, on a clock that stands still."""
    clock = FakeClock()
    app = FastAPI()
    TrafficCop(MemoryBackend(clock=clock), **settings).install(app)

    @app.get("/search")
    @limit("2/minute")
    async def search() -> str:
        return "found"

    @app.get("/health")
    @exempt
    def health() -> str:
        return "well"

    @app.get("/plain")
    def plain() -> str:
        return "plain"

    return TestClient(app), clock


def statuses(client: TestClient, path: str, times: int, **more: Any) -> list[int]:
    return [client.get(path, **more).status_code for _ in range(times)]


def test_third_search_is_refused_until_the_bucket_refills() -> None:
    client, clock = shop()
    assert statuses(client, "/search", 3) == [200, 200, 429]
    refused = client.get("/search")
    clock.advance(int(refused.headers["retry-after"]) - 1)
    assert client.get("/search").status_code == 429
    clock.advance(1)
    assert statuses(client, "/search", 2) == [200, 429]


def test_a_refusal_says_which_limit_whose_bucket_and_when_to_come_back() -> None:
    client, _ = shop(limits="100/minute")
    statuses(client, "/search", 2)
    refused = client.get("/search")
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["cache-control"] == "no-store"
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["ratelimit-policy"] == '"100/minute";q=100;w=60, "/search 2/minute";q=2;w=60'
    assert refused.headers["ratelimit"] == '"100/minute";r=98;t=1, "/search 2/minute";r=0;t=30'
    assert refused.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "The limit '/search 2/minute' for this client address is used up. "
        "The same request will pass in 30 seconds.",
        "violated-policies": ["/search 2/minute"],
        "key": "ip",
        "retry-after": 30,
    }


def test_a_refused_request_takes_from_no_bucket() -> None:
    client, _ = shop(limits="10/minute")
    statuses(client, "/search", 7)
    assert client.get("/plain").headers["ratelimit"].startswith('"10/minute";r=7;')


def test_fields_stand_on_success_and_can_be_switched() -> None:
    client, _ = shop(limits="100/minute")
    assert client.get("/plain").headers["ratelimit"] == '"100/minute";r=99;t=1'
    assert client.get("/plain").headers["ratelimit-policy"] == '"100/minute";q=100;w=60'
    client, _ = shop(limits="100/minute", limits_fields=False, limits_x_headers=True)
    answer = client.get("/plain")
    assert "ratelimit" not in answer.headers
    assert answer.headers["x-ratelimit-limit"] == "100"
    assert answer.headers["x-ratelimit-remaining"] == "99"
    assert answer.headers["x-ratelimit-reset"] == "1"


def test_the_tightest_bucket_is_the_one_that_x_headers_tell() -> None:
    client, _ = shop(limits="100/minute", limits_x_headers=True)
    answer = client.get("/search")
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("2", "1")
    assert answer.headers["x-ratelimit-reset"] == "30"


def test_an_exempt_route_is_never_refused_nor_charged() -> None:
    client, _ = shop(limits="3/minute")
    assert set(statuses(client, "/health", 20)) == {200}
    assert "ratelimit" not in client.get("/health").headers
    assert client.get("/plain").headers["ratelimit"].startswith('"3/minute";r=2;')


def test_what_no_route_matches_gets_the_default_never_an_exemption() -> None:
    client, _ = shop(limits="3/minute")
    assert [client.get("/nowhere").status_code, client.post("/health").status_code] == [404, 405]
    assert client.get("/plain/", follow_redirects=False).status_code == 307
    assert client.get("/nowhere").status_code == 429
    assert client.post("/health").status_code == 429


def test_a_limit_on_a_wrong_method_is_not_spent() -> None:
    client, _ = shop()
    assert [client.post("/search").status_code for _ in range(5)] == [405] * 5
    assert statuses(client, "/search", 3) == [200, 200, 429]


def test_several_limits_are_all_in_force() -> None:
    client, clock = shop(limits="3/second; 5/minute")
    assert statuses(client, "/plain", 4) == [200, 200, 200, 429]
    clock.advance(1)
    assert statuses(client, "/plain", 3) == [200, 200, 429]
    assert client.get("/plain").headers["retry-after"] == "11"


def test_burst_is_the_capacity() -> None:
    client, _ = shop(limits=limit("60/minute", burst=2))
    assert statuses(client, "/plain", 3) == [200, 200, 429]
    assert client.get("/plain").headers["ratelimit-policy"] == '"60/minute";q=2;w=2'


def test_a_window_below_a_second_is_left_out() -> None:
    client, _ = shop(limits=limit("100/second", burst=10))
    assert client.get("/plain").headers["ratelimit-policy"] == '"100/second";q=10'


def test_cost_is_a_number_or_a_function_of_the_request() -> None:
    async def by_size(connection: HTTPConnection) -> float:
        return float(connection.query_params.get("n", "1"))

    client, _ = shop(limits=[limit("10/minute", cost=by_size), limit("6/hour", cost=2)])
    assert client.get("/plain?n=9").status_code == 200
    assert client.get("/plain?n=2").status_code == 429
    assert client.get("/plain?n=1").status_code == 200
    assert client.get("/plain?n=0").status_code == 200
    assert client.get("/plain?n=0").status_code == 429


@pytest.mark.parametrize(
    ("asked", "reason"),
    [("11", "holds 10 at most"), ("-1", "0 or more"), ("1e300", "at most"), ("9" * 400, "than any limit holds")],
)
def test_a_cost_that_no_bucket_can_hold_is_a_400_with_the_reason(asked: str, reason: str) -> None:
    def by_size(connection: HTTPConnection) -> float:
        said = connection.query_params["n"]
        return int(said) if said.isdecimal() else float(said)

    client, _ = shop(limits=limit("10/minute", cost=by_size))
    answer = client.get(f"/plain?n={asked}")
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]
    assert client.get("/plain?n=10").status_code == 200


@pytest.mark.parametrize("said", [None, "3", float("nan"), True])
def test_a_cost_function_that_says_no_number_is_told_by_name(said: object) -> None:
    client, _ = shop(limits=limit("10/minute", cost=lambda connection: said))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="cost function of limit '10/minute'"):
        client.get("/plain")


def test_own_keys_sync_and_async_and_none_does_not_apply() -> None:
    def tenant(connection: HTTPConnection) -> str | None:
        return connection.headers.get("x-tenant")

    async def user(connection: HTTPConnection) -> str | None:
        return connection.headers.get("x-user")

    client, _ = shop(limits=[limit("1/minute", key=tenant), limit("2/minute", key=user)])
    assert statuses(client, "/plain", 5) == [200] * 5
    assert "ratelimit" not in client.get("/plain").headers
    assert statuses(client, "/plain", 2, headers={"x-tenant": "a"}) == [200, 429]
    assert statuses(client, "/plain", 2, headers={"x-tenant": "b"}) == [200, 429]
    assert statuses(client, "/plain", 3, headers={"x-user": "u"}) == [200, 200, 429]
    refused = client.get("/plain", headers={"x-tenant": "a"}).json()
    assert refused["key"] == "tenant"
    assert "this tenant" in refused["detail"]


def test_a_key_that_breaks_the_store_syntax_has_a_bucket_of_its_own() -> None:
    client, _ = shop(limits=limit("1/minute", key=lambda connection: connection.query_params.get("k")))
    for key in ["}{", "a b", "x" * 5000, "é", "%00", "ip:203.0.113.7"]:
        assert statuses(client, f"/plain?k={key}", 2) == [200, 429], key


def test_a_key_function_that_returns_no_string_is_told_by_name() -> None:
    def number(connection: HTTPConnection) -> str | None:
        return 7  # type: ignore[return-value]

    client, _ = shop(limits=limit("1/minute", key=number))
    with pytest.raises(TypeError, match="number returned int"):
        client.get("/plain")


def test_by_everyone_is_one_bucket_and_by_route_one_per_template() -> None:
    app = FastAPI()
    TrafficCop(limits=[limit("3/minute", key=by_everyone), limit("2/minute", key=by_route)]).install(app)

    @app.get("/items/{item}")
    def items(item: int) -> int:
        return item

    @app.get("/other")
    def other() -> None: ...

    first, second = TestClient(app, client=("192.0.2.1", 1)), TestClient(app, client=("192.0.2.2", 1))
    assert first.get("/items/1").status_code == 200
    assert second.get("/items/2").status_code == 200
    assert first.get("/items/3").json()["key"] == "route"
    assert second.get("/other").status_code == 200
    assert first.get("/other").json()["key"] == "everyone"


def test_an_api_key_has_its_own_bucket_and_an_invented_one_still_pays_by_address() -> None:
    client, _ = shop(limits=limit("2/minute", key=by_api_key))
    assert statuses(client, "/plain", 3, headers={"x-api-key": "a"}) == [200, 200, 429]
    assert client.get("/plain", headers={"x-api-key": "made-up"}).status_code == 429
    assert statuses(client, "/plain", 3) == [200, 200, 429]


def test_a_verified_api_key_pays_only_for_itself() -> None:
    async def customer(key: str) -> str | None:
        return {"a": "acme", "a2": "acme", "b": "bond"}.get(key)

    client, _ = shop(limits=limit("2/minute", key=by_api_key(verify=customer)))
    assert statuses(client, "/plain", 1, headers={"x-api-key": "a"}) == [200]
    assert statuses(client, "/plain", 2, headers={"x-api-key": "a2"}) == [200, 429]
    assert statuses(client, "/plain", 2, headers={"x-api-key": "b"}) == [200, 200]
    assert statuses(client, "/plain", 3, headers={"x-api-key": "made-up"}) == [200, 200, 429]
    assert client.get("/plain", headers={"x-api-key": "invented"}).json()["key"] == "ip"
    assert client.get("/plain", headers={"x-api-key": "k" * 2000}).json()["key"] == "ip"


def test_methods_narrow_a_limit() -> None:
    app = Starlette(routes=[Route("/", ok, methods=["GET", "POST"])])
    TrafficCop(limits=limit("1/minute", methods=["post"])).install(app)
    client = TestClient(app)
    assert statuses(client, "/", 3) == [200] * 3
    assert [client.post("/").status_code for _ in range(2)] == [200, 429]


def test_an_equal_name_shares_a_bucket_between_routes() -> None:
    app = FastAPI()
    TrafficCop().install(app)
    heavy = limit("2/minute", name="heavy")

    @app.get("/a")
    @heavy
    def a() -> None: ...

    @app.get("/b")
    @heavy
    def b() -> None: ...

    client = TestClient(app)
    assert client.get("/a").headers["ratelimit-policy"] == '"heavy";q=2;w=60'
    assert [client.get("/b").status_code, client.get("/a").status_code] == [200, 429]


def test_one_template_is_one_bucket_whatever_stands_in_the_url() -> None:
    app = FastAPI()
    TrafficCop().install(app)

    @app.get("/items/{item}")
    @limit("2/minute")
    def items(item: int) -> int:
        return item

    client = TestClient(app)
    assert [client.get(f"/items/{n}").status_code for n in range(3)] == [200, 200, 429]


def test_a_subtree_has_one_bucket_and_adds_to_the_rest() -> None:
    router = APIRouter(prefix="/admin")

    @router.get("/users")
    def users() -> None: ...

    @router.get("/ping")
    @exempt
    def ping() -> None: ...

    app = FastAPI()
    app.include_router(router)
    cop = TrafficCop(limits="100/minute")
    cop.install(app)
    cop.limit("/admin/*", "2/minute")
    client = TestClient(app, root_path="/v1", base_url="http://testserver/v1")
    assert client.get("/admin/users").headers["ratelimit-policy"].endswith('"/admin/* 2/minute";q=2;w=60')
    assert client.get("/admin/nothing").status_code == 404
    assert client.get("/admin/users").status_code == 429
    assert client.get("/admin").status_code == 429
    assert client.get("/administrators").status_code == 404
    assert client.get("/admin/ping").status_code == 200


def test_marks_stand_in_either_order_on_functions_classes_methods_and_partials() -> None:
    class Page(HTTPEndpoint):
        async def get(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("page")

    class Controller:
        @limit("1/minute")
        async def show(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse("shown")

    @limit("1/minute")
    async def base(request: Request, greeting: str) -> PlainTextResponse:
        return PlainTextResponse(greeting)

    app = FastAPI()
    TrafficCop().install(app)

    @limit("1/minute")
    @app.get("/above")
    def above() -> None: ...

    @app.get("/below")
    @limit("1/minute")
    async def below() -> None: ...

    app.router.routes += [
        Route("/class", limit("1/minute")(Page)),
        Route("/method", Controller().show),
        Route("/partial", functools.partial(base, greeting="hello")),
        Mount("/mount", limit("1/minute")(Starlette(routes=[Route("/x", ok)]))),
    ]
    client = TestClient(app)
    for path in ("/above", "/below", "/class", "/method", "/partial"):
        assert statuses(client, path, 2) == [200, 429], path


def test_marked_functions_stay_what_they_were() -> None:
    async def search(q: str) -> str:
        return q

    assert limit("10/minute")(search) is search
    assert exempt(search) is search


def test_stacked_marks_all_count_and_are_named_apart() -> None:
    app = FastAPI()
    TrafficCop().install(app)

    @app.get("/")
    @limit("5/minute")
    @limit("5/minute", key=by_everyone)
    @limit("1/second")
    def index() -> None: ...

    policies = TestClient(app).get("/").headers["ratelimit-policy"]
    assert policies == '"/ 5/minute";q=5;w=60, "/ 5/minute by everyone";q=5;w=60, "/ 1/second";q=1;w=1'


def test_own_responses_by_a_hook_keep_the_fields() -> None:
    def own(connection: HTTPConnection, refusal: Refusal) -> JSONResponse | None:
        if connection.url.path == "/plain":
            return None
        return JSONResponse({"sorry": refusal.limits, "again": refusal.retry_after}, 430)

    client, _ = shop(limits_on_refusal=own, limits="3/minute")
    statuses(client, "/search", 2)
    answer = client.get("/search")
    assert (answer.status_code, answer.json()) == (430, {"sorry": ["/search 2/minute"], "again": 30})
    assert answer.headers["retry-after"] == "30"
    assert '"/search 2/minute";r=0;t=30' in answer.headers["ratelimit"]
    assert statuses(client, "/plain", 2) == [200, 429]


def test_an_async_hook_may_set_its_own_retry_after() -> None:
    async def own(connection: HTTPConnection, refusal: Refusal) -> PlainTextResponse:
        return PlainTextResponse("no", 429, headers={"Retry-After": "99"})

    client, _ = shop(limits="1/minute", limits_on_refusal=own)
    assert statuses(client, "/plain", 2) == [200, 429]
    assert client.get("/plain").headers.get_list("retry-after") == ["99"]


def test_every_decision_is_an_event_without_the_client_in_it() -> None:
    events: list[Event] = []
    client, _ = shop(limits="1/minute", observer=events.append)
    statuses(client, "/plain", 2, headers={"x-api-key": "secret"})
    assert [event.kind for event in events] == ["limit.admitted", "limit.refused"]
    assert events[1].attributes == {
        "route": "/plain",
        "source": "store",
        "limits": ("1/minute",),
        "key": "ip",
        "retry_after": 60,
    }
    assert "testclient" not in repr(events)


def test_an_observer_that_raises_is_logged_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("observer")

    heard: list[Event] = []
    app = Starlette(routes=[Route("/", ok)])
    cop = TrafficCop(limits="9/minute", observer=broken)
    unsubscribe = cop.subscribe(heard.append)
    cop.install(app)
    assert TestClient(app).get("/").status_code == 200
    assert "an observer failed on limit.admitted" in caplog.text
    unsubscribe()
    TestClient(app).get("/")
    assert len(heard) == 1


def test_every_door_leads_to_the_same_limits() -> None:
    def app() -> Starlette:
        return Starlette(routes=[Route("/", ok)])

    installed, added, alone = app(), app(), app()
    TrafficCop(limits="1/minute").install(installed)
    added.add_middleware(TrafficCopMiddleware, limits="1/minute")
    alone.add_middleware(RateLimitMiddleware, limits="1/minute", x_headers=True)
    for each in (installed, TrafficCop(limits="1/minute").wrap(app()), added, alone):
        assert statuses(TestClient(each), "/", 2) == [200, 429]


@pytest.mark.asyncio
async def test_a_plain_asgi_app_is_limited_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body", "body": b""})

    wrapped = TrafficCop(limits="1/minute").wrap(app)
    first = await send_through(wrapped, http_scope())
    assert (status(first), headers(first)["ratelimit"]) == (204, '"1/minute";r=0;t=60')
    assert status(await send_through(wrapped, http_scope())) == 429


@pytest.mark.asyncio
async def test_addresses_have_buckets_of_their_own_and_ipv6_counts_by_network() -> None:
    wrapped = TrafficCop(limits="1/minute").wrap(Starlette(routes=[Route("/", ok)]))
    answers = [
        status(await send_through(wrapped, http_scope(client=client)))
        for client in [
            ("192.0.2.1", 1),
            ("192.0.2.2", 1),
            ("192.0.2.1", 2),
            ("2001:db8::1", 1),
            ("2001:db8::2", 1),
            ("2001:db8:0:1::1", 1),
            ("::ffff:192.0.2.2", 1),
            None,
            None,
        ]
    ]
    assert answers == [200, 200, 429, 200, 429, 200, 429, 200, 429]


def test_a_new_route_is_limited_from_its_second_request_at_the_latest() -> None:
    app, router = FastAPI(), APIRouter()
    app.include_router(router)
    TrafficCop().install(app)
    client = TestClient(app)
    assert client.get("/late").status_code == 404

    @router.get("/late")
    @limit("1/minute")
    def late() -> None: ...

    answers = statuses(client, "/late", 3)
    assert answers in ([200, 200, 429], [200, 429, 429])


def test_two_marks_of_exempt_and_limit_leave_the_own_limit() -> None:
    app = FastAPI()
    TrafficCop(limits="1/minute").install(app)

    @app.get("/")
    @exempt
    @limit("2/minute")
    def index() -> None: ...

    assert statuses(TestClient(app), "/", 3) == [200, 200, 429]


@pytest.mark.parametrize("marked", ["a string", 7])
def test_a_mark_on_no_endpoint_says_where_it_goes(marked: object) -> None:
    with pytest.raises(ConfigurationError, match="write it under the route's decorator"):
        limit("1/minute")(marked)


def test_a_subtree_is_cut_by_the_root_path_at_every_door() -> None:
    def app() -> Starlette:
        routes = [Route("/admin/x", ok)]
        starlette = Starlette(routes=routes)
        starlette.root_path = "/api"  # type: ignore[attr-defined]  # as FastAPI has it
        return starlette

    cop = TrafficCop()
    cop.limit("/admin/*", "1/minute")
    client = TestClient(cop.wrap(app()))
    assert statuses(client, "/api/admin/x", 2)[1] == 429


@pytest.mark.asyncio
async def test_a_marked_endpoint_behind_an_opaque_mount_does_not_rebuild_the_table_each_time() -> None:
    inner = Starlette(routes=[Route("/x", marked)])

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    app: Any = TrafficCop().wrap(Starlette(routes=[Mount("/m", app=opaque)]))
    for _ in range(10):
        assert status(await send_through(app, http_scope("/m/x"))) == 200
    assert app._table.generation <= 2


@pytest.mark.parametrize(
    ("stack", "marks", "passing"),
    [
        ([limit("100/minute"), limit("100/minute", burst=2, methods=["GET"])], [], 2),
        ([limit("100/minute", name="heavy")], [limit("2/minute", name="heavy")], 2),
        ([], [limit("10/minute"), limit("10/minute", cost=5)], 2),
        ([limit("3/minute")], [limit("3/minute", name="3/minute")], 3),
    ],
)
def test_of_two_limits_that_look_alike_the_stricter_one_holds(stack: Any, marks: Any, passing: int) -> None:
    app = FastAPI()
    TrafficCop(limits=stack).install(app)

    @app.get("/")
    def index() -> None: ...

    for mark in marks:
        mark(index)
    assert statuses(TestClient(app), "/", 4) == [200] * passing + [429] * (4 - passing)


def test_limits_for_different_methods_have_buckets_of_their_own() -> None:
    app = Starlette(routes=[Route("/", ok, methods=["GET", "POST"])])
    TrafficCop(limits=[limit("2/minute", methods=["GET"]), limit("2/minute", methods=["POST"])]).install(app)
    client = TestClient(app)
    assert statuses(client, "/", 3) == [200, 200, 429]
    assert [client.post("/").status_code for _ in range(3)] == [200, 200, 429]


def test_head_and_lower_case_pay_like_the_method_they_stand_for() -> None:
    async def anything(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    client = TestClient(TrafficCop(limits=limit("2/minute", methods=["GET", "POST"])).wrap(anything))
    answers = [client.request(method, "/").status_code for method in ("GET", "HEAD", "HEAD", "post", "get")]
    assert answers == [200, 200, 429, 429, 429]


def test_a_function_named_like_a_key_of_ours_reaches_no_bucket_of_ours() -> None:
    def ip(connection: HTTPConnection) -> str | None:
        return connection.headers.get("x-forged")

    client, _ = shop(limits=[limit("2/minute", name="n"), limit("2/minute", name="n", key=ip)])
    assert statuses(client, "/plain", 1, headers={"x-forged": "testclient"}) == [200]
    assert statuses(client, "/plain", 2) == [200, 429]


@pytest.mark.asyncio
async def test_kept_bills_are_bounded_over_all_routes() -> None:
    app: Any = TrafficCop(limits="9/minute").wrap(Starlette(routes=[Route("/a", ok), Route("/b", ok)]))
    for number in range(5000):
        path, client = "/" + "ab"[number % 2], (f"198.51.{number // 250}.{number % 250}", 1)
        await send_through(app, http_scope(path, client=client))
    assert 0 < sum(len(plan.bills) for plan in app._layers.app._planner._plans) <= 4096


def test_marks_behind_an_app_that_shows_no_routes_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    inner = Starlette(routes=[Route("/", marked)])

    class Hiding:
        def __init__(self, app: Any) -> None:
            self._hidden = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self._hidden(scope, receive, send)

    client = TestClient(TrafficCop(limits="9/minute").wrap(Hiding(inner)))
    assert statuses(client, "/", 3) == [200] * 3
    assert len([record for record in caplog.records if "are not seen" in record.getMessage()]) == 1
