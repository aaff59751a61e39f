"""Routes to services, in front of a real one: which requests go where, and what goes with them."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from tests.asgi import headers, http_scope, status
from tests.middleware.session_apps import SECRET, Stage, at_once
from tests.middleware.upstreams import ask, body_of, services
from tests.servers import free_port
from traffic_cop_middleware import (
    THE_APP,
    ConfigurationError,
    FixedResponse,
    MissingExtra,
    OrderError,
    RateLimitMiddleware,
    Redirect,
    RoutingMiddleware,
    TrafficCop,
    Upstream,
    by_user,
    context_of,
    limit,
    route,
)
from traffic_cop_middleware.abstractions.route_matching import GatewayTable
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.errors import UnknownSetting
from traffic_cop_middleware.middleware.limit_records import limit_from, limit_record
from traffic_cop_middleware.middleware.route_records import route_from, route_record
from traffic_cop_middleware.middleware.routing import dumps_ascii

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def gateways(monkeypatch: pytest.MonkeyPatch) -> list[Gateway]:
    """All gateways that a test makes."""
    made: list[Gateway] = []
    plain = Gateway.__init__

    def noted(self: Gateway, *arguments: Any, **settings: Any) -> None:
        plain(self, *arguments, **settings)
        made.append(self)

    monkeypatch.setattr(Gateway, "__init__", noted)
    return made


@pytest_asyncio.fixture(autouse=True)
async def closed(gateways: list[Gateway]) -> AsyncIterator[None]:
    """Connections are closed as at a lifespan's end, which these tests do without."""
    yield
    for gateway in gateways:
        await gateway.close()


async def own(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the app itself")


def app_with(cop: TrafficCop) -> Any:
    return cop.wrap(Starlette(routes=[Route("/own/{path:path}", own, methods=["GET", "POST"])]))


async def test_what_a_route_takes_goes_to_its_service_and_the_rest_to_the_app() -> None:
    async with services("billing") as [billing]:
        cop = TrafficCop()
        cop.route("/billing/*", to=billing.url, strip_prefix="/billing")
        app = app_with(cop)
        sent = await ask(app, http_scope("/billing/a", query_string=b"q=1"))
        assert (status(sent), body_of(sent)) == (200, {"from": "billing"})
        assert billing.asked[0]["target"] == "/a?q=1"
        assert status(await ask(app, http_scope("/own/x"))) == 200
        assert status(await ask(app, http_scope("/billingX"))) == 404
        assert len(billing.asked) == 1


@pytest.mark.parametrize(
    ("pattern", "settings", "path", "target"),
    [
        ("/a/*", {"strip_prefix": "/a"}, "/a", "/"),
        ("/a/*", {"strip_prefix": "/a"}, "/a/", "/"),
        ("/a/*", {"strip_prefix": "/a"}, "/%61/b%2Fc", "/b%2Fc"),
        ("/a/b/*", {"strip_prefix": "/a"}, "/a/b//c", "/b//c"),
        ("/*", {}, "/x;y=1/%e4", "/x;y=1/%e4"),
        ("/users/{id}/*", {"rewrite": "/v2/{id}/*"}, "/users/a%20b/c/d", "/v2/a%20b/c/d"),
        ("/users/{id}", {"rewrite": "/profile"}, "/users/7", "/profile"),
    ],
)
async def test_the_path_goes_out_in_the_bytes_that_came(
    pattern: str, settings: dict[str, Any], path: str, target: str
) -> None:
    async with services("one") as [one]:
        cop = TrafficCop()
        cop.route(pattern, to=one.url, **settings)
        assert status(await ask(app_with(cop), http_scope(path))) == 200
        assert one.asked[0]["target"] == target


async def test_instances_are_asked_by_their_weights_and_a_dead_one_is_passed_over() -> None:
    async with services("a", "b") as [a, b]:
        dead = f"http://127.0.0.1:{free_port()}"
        failed: list[Any] = []
        cop = TrafficCop(observer=lambda event: failed.append(event) if event.kind == "upstream.failed" else None)
        cop.route("/*", to=[Upstream(a.url, 3), Upstream(b.url), Upstream(dead, 0)], balancing="weighted")
        app = app_with(cop)
        said = [body_of(await ask(app, http_scope("/x")))["from"] for _ in range(8)]
        assert said == ["a", "a", "b", "a"] * 2
        assert failed == []
        cop = TrafficCop(observer=lambda event: failed.append(event) if event.kind == "upstream.failed" else None)
        cop.route("/*", to=[Upstream(a.url), Upstream(dead)])
        app = app_with(cop)
        assert {status(await ask(app, http_scope("/x", "POST"))) for _ in range(4)} == {200}
        assert {event.attributes["upstream"] for event in failed} == {dead}


async def test_a_service_that_is_not_there_is_503_and_says_when_to_come_back() -> None:
    told: list[Any] = []
    cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None)
    cop.route("/*", to=f"http://127.0.0.1:{free_port()}")
    sent = await ask(app_with(cop), http_scope("/x"))
    assert status(sent) == 503
    assert headers(sent)["retry-after"] == "1"
    assert headers(sent)["content-type"] == "application/problem+json"
    assert "127.0.0.1" not in str(sent), "nothing of what lies behind leaks"
    assert told[0].attributes["attempts"] == 1
    assert told[0].attributes["status"] == 503


async def test_redirects_fixed_responses_the_app_and_mounted_apps() -> None:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse([scope["root_path"], scope["path"]])(scope, receive, send)

    cop = TrafficCop()
    cop.route("/old/*", to=Redirect("https://new.example.com/base/", keep_path=True), strip_prefix="/old")
    cop.route("/shop/*", to=FixedResponse(503, "Back at noon.", headers={"Retry-After": "3600"}))
    cop.route("/own/*", to=FixedResponse(500))
    cop.route("/own/really", to=THE_APP)
    cop.route("/admin/*", to=mounted, strip_prefix="/admin")
    app = app_with(cop)
    sent = await ask(app, http_scope("/old/a%2Fb", query_string=b"q"))
    assert (status(sent), headers(sent)["location"]) == (308, "https://new.example.com/base/a%2Fb?q")
    sent = await ask(app, http_scope("/shop/x"))
    assert (status(sent), headers(sent)["retry-after"], sent[1]["body"]) == (503, "3600", b"Back at noon.")
    sent = await ask(app, http_scope("/shop/x", "HEAD"))
    assert (headers(sent)["content-length"], sent[1]["body"]) == ("13", b"")
    assert status(await ask(app, http_scope("/own/x"))) == 500
    assert status(await ask(app, http_scope("/own/really"))) == 200
    assert body_of(await ask(app, http_scope("/admin/x"))) == ["/admin", "/admin/x"]


async def test_a_routes_limits_come_beside_those_of_the_stack() -> None:
    async with services("one") as [one]:
        cop = TrafficCop(limits="100/minute")
        cop.route("/one/*", to=one.url, limits="2/hour")
        app = app_with(cop)
        found = [await ask(app, http_scope("/one/x")) for _ in range(3)]
        assert [status(sent) for sent in found] == [200, 200, 429]
        assert headers(found[0])["ratelimit-policy"] == '"100/minute";q=100;w=60, "/one/* 2/hour";q=2;w=3600'
        assert len(one.asked) == 2
        assert status(await ask(app, http_scope("/own/x"))) == 200


async def test_a_client_can_not_say_who_it_is() -> None:
    async with services("one") as [one]:
        cop = TrafficCop()
        cop.route("/*", to=one.url, response_headers={"X-Gateway": "yes"}, request_headers={"X-Key": "k"})
        forged = [
            (b"host", b"shop.example.com"),
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"forwarded", b"for=6.6.6.6"),
            (b"x-traffic-user", b"root"),
            (b"x_traffic_user", b"root"),
            (b"x-key", b"mine"),
            (b"connection", b"x-hop, close"),
            (b"x-hop", b"1"),
            (b"te", b"trailers"),
        ]
        sent = await ask(app_with(cop), http_scope("/x", headers=forged))
        names = [name for name, _ in one.asked[0]["headers"]]
        assert one.header("x-forwarded-for") == ["203.0.113.7"]
        assert one.header("forwarded") == ["for=203.0.113.7;host=shop.example.com;proto=http"]
        assert one.header("host") == ["shop.example.com"]
        assert one.header("x-key") == ["k"]
        assert not {"x-traffic-user", "x_traffic_user", "x-hop", "te", "connection"} & set(names)
        assert headers(sent)["x-gateway"] == "yes"
        assert "x-traffic-user" not in headers(sent)


async def test_what_a_trusted_proxy_says_is_kept_and_added_to() -> None:
    async with services("one") as [one]:
        cop = TrafficCop(trusted_proxies=["203.0.113.0/24"])
        cop.route("/*", to=one.url, keep_host=False)
        given = [(b"host", b"in"), (b"x-forwarded-for", b"198.51.100.9"), (b"x-forwarded-proto", b"https")]
        await ask(app_with(cop), http_scope("/x", headers=given))
        assert one.header("x-forwarded-for") == ["198.51.100.9, 203.0.113.7"]
        assert one.header("x-forwarded-proto") == ["https"]
        assert one.header("host") == [one.url.removeprefix("http://")]


async def test_the_request_id_and_the_trace_go_along() -> None:
    async with services("one") as [one]:
        cop = TrafficCop()
        cop.route("/*", to=one.url)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        given = [(b"host", b"a"), (b"x-request-id", b"abc"), (b"traceparent", trace.encode())]
        scope = http_scope("/x", headers=given)
        await ask(app_with(cop), scope)
        assert (one.header("x-request-id"), one.header("traceparent")) == (["abc"], [trace])
        await ask(app_with(cop), scope := http_scope("/x"))
        assert one.header("x-request-id") == [context_of(scope).request_id]


async def test_a_mirror_gets_a_copy_and_its_answer_is_dropped() -> None:
    async with services("one", "shadow") as [one, shadow]:
        told: list[Any] = []
        cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.mirrored" else None)
        cop.route("/*", to=one.url, mirror=shadow.url)
        app = app_with(cop)
        sent = await ask(
            app,
            http_scope("/x", "POST", headers=[(b"host", b"a"), (b"content-length", b"6")]),
            b"abc",
            b"def",
        )
        assert body_of(sent) == {"from": "one"}
        async with asyncio.timeout(5):
            while not told:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.005)
        assert shadow.asked[0]["body"] == one.asked[0]["body"] == "abcdef"
        assert shadow.asked[0]["target"] == one.asked[0]["target"]


async def test_a_session_picks_the_route_and_its_owner_is_told_to_the_service() -> None:
    async with services("free", "pro") as [free, pro]:
        stage = Stage("memory://")
        stage.cop.route("/svc/*", to=free.url, identity="signed")
        stage.cop.route("/svc/*", name="pro", to=pro.url, session={"plan": "pro"}, identity="signed")

        async def as_pro(request: Request) -> Any:
            from traffic_cop_middleware import session_of

            return (await session_of(request).login("älice", claims={"tenant": "acme"}, plan="pro"))._asdict()

        stage.do = as_pro
        pro_cookie = (await stage.send("POST", "/do")).cookie
        free_cookie = (await stage.send("POST", "/login?sub=bob")).cookie
        for cookie, service in ((None, free), (free_cookie, free), (pro_cookie, pro)):
            answer = await stage.send("GET", "/svc/x", cookie=cookie)
            assert (answer.status, answer.json()) == (200, {"from": service.name})
        assert free.header("x-traffic-user", 0) == []
        assert free.header("x-traffic-user", 1) == ["bob"]
        assert pro.header("x-traffic-user") == ["%C3%A4lice"]
        assert pro.header("x-traffic-tenant") == ["acme"]
        token = pro.header("x-traffic-identity")[0]
        codec = (await stage._opened()).sessions.codec
        assert codec.verify(token.encode(), typ="identity+jwt", now=time.time())["sub"] == "älice"


async def test_a_canary_keeps_a_session_where_it_is_and_shares_the_rest_by_weight() -> None:
    async with services("old", "new") as [old, new]:
        stage = Stage("memory://")
        stage.cop.route("/svc/*", name="old", to=old.url, weight=80)
        stage.cop.route("/svc/*", name="new", to=new.url, weight=20)
        found = collections.Counter()
        for number in range(40):
            cookie = (await stage.send("POST", f"/login?sub=user-{number}")).cookie
            said = {(await stage.send("GET", "/svc/x", cookie=cookie)).json()["from"] for _ in range(3)}
            assert len(said) == 1
            found.update(said)
        assert 1 <= found["new"] <= 20
        answers = await at_once(*(stage.send("GET", "/svc/x") for _ in range(200)))
        share = sum(answer.json()["from"] == "new" for answer in answers)
        assert 10 <= share <= 80


async def test_the_gateway_alone_and_beside_the_limits_alone() -> None:
    async with services("one") as [one]:
        app = Starlette(routes=[Route("/own/{path:path}", own)])
        app.add_middleware(RoutingMiddleware, routes=[route("/one/*", to=one.url)])
        app.add_middleware(RateLimitMiddleware, limits="1/hour")
        assert status(await ask(app, http_scope("/one/x"))) == 200
        assert status(await ask(app, http_scope("/one/x"))) == 429


async def test_the_gateway_outside_of_the_limits_is_an_error() -> None:
    inner = RateLimitMiddleware(Starlette(), limits="1/hour")
    with pytest.raises(OrderError, match="RateLimitMiddleware stands inside RoutingMiddleware"):
        RoutingMiddleware(inner, routes=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "ftp://a"}, "Upstream"),
        ({"to": "http://user:secret@a"}, "user or password"),
        ({"to": []}, "at least one upstream"),
        ({"to": 3}, "no destination"),
        ({"to": "http://a", "strip_prefix": "/b"}, "does not begin with it"),
        ({"to": "http://a", "strip_prefix": "/a", "rewrite": "/b"}, "Write one of them"),
        ({"to": "http://a", "rewrite": "/{id}"}, "has no {id}"),
        ({"to": "http://a", "head_deadline": 0}, "head_deadline=0"),
        ({"to": "http://a", "forwarded": "yes"}, "forwarded='yes'"),
        ({"to": "http://a", "request_headers": {"a b": "1"}}, "no header's name"),
        ({"to": "http://a", "request_headers": {"a": "1\r\n2"}}, "control characters"),
        ({"to": "http://a", "request_headers": {"Transfer-Encoding": "chunked"}}, "where a message ends"),
        ({"to": "http://a", "response_headers": {"Content-Length": "1"}}, "where a message ends"),
        ({"to": "http://a", "mirror": THE_APP}, "mirror"),
        ({"to": Upstream("https://a"), "limits": "10"}, "10"),
        ({"to": "http://user:secret@a:99999"}, "user or password"),
        ({"to": "http://a..b"}, "no host"),
        ({"to": f"http://{'a' * 64}"}, "no host"),
        ({"to": "http://[::1%25eth0]"}, "no host"),
        ({"to": "http://a:0"}, "from 1 to 65535"),
        ({"to": "http://a", "rewrite": "/ü"}, "percent-encoded"),
        ({"to": "http://a", "request_headers": "x"}, "request_headers='x': a mapping"),
        ({"to": "http://a", "response_headers": None}, "response_headers=None: a mapping"),
        ({"to": "http://a", "remove_request_headers": 5}, "remove_request_headers=5: names"),
        ({"to": "http://a", "remove_response_headers": None}, "remove_response_headers=None: names"),
        ({"to": "http://a", "max_headers": None}, "max_headers=None"),
        ({"to": {"url": "http://a"}}, "no destination"),
        ({"to": b"http://a"}, "no destination"),
        ({"to": "http://a", "rewrite": "/a b"}, "percent-encoded"),
        ({"to": "http://a", "rewrite": "/b?c"}, "percent-encoded"),
        ({"to": "http://a", "rewrite": "/v{id}"}, "whole segment"),
        ({"to": "http://a", "head_deadline": 10**400}, "a year"),
        ({"to": "http://a", "limits": limit("1/s", cost=0), "idle_deadline": float("nan")}, "a year"),
    ],
)
async def test_a_route_that_can_not_work_is_an_error_that_says_why(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        TrafficCop().route("/a/*", **settings)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "settings", "message"),
    [("https://", {}, "no host"), ("https:///x", {}, "no host"), ("https://a/?b", {"keep_path": True}, "after its")],
)
async def test_a_redirect_that_leads_nowhere_is_an_error(url: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Redirect(url, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Redirect("/a", status=[]), "status="),
        (lambda: Redirect("/a", keep_path="yes"), "keep_path='yes'"),
        (lambda: FixedResponse(200, "\ud800"), "surrogates"),
        (lambda: FixedResponse(200, "x", headers={"Content-Length": "99"}), "written by the gateway"),
        (lambda: FixedResponse(200, "x", headers={"Transfer-Encoding": "chunked"}), "written by the gateway"),
        (lambda: Upstream("https://a", ca=5), r"ca=5\): the path"),
        (lambda: Upstream("https://a", certificate=""), r"certificate=''\): the path"),
        (lambda: Upstream("http://user:secret@a", weight=-1), "weight=-1"),
    ],
)
async def test_a_destination_that_can_not_work_is_an_error(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        make()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("path", ["/old//evil.example/x", "/old///evil.example/x"])
async def test_a_client_can_not_pick_the_host_that_a_redirect_leads_to(path: str) -> None:
    cop = TrafficCop()
    cop.route("/old/*", to=Redirect("/", keep_path=True), strip_prefix="/old")
    assert headers(await ask(app_with(cop), http_scope(path)))["location"] == "/evil.example/x"


async def test_a_mounted_app_may_have_a_gateway_of_its_own() -> None:
    inner = TrafficCop()
    inner.route("/sub/fixed", to=FixedResponse(200, "the inner one's"))
    outer = TrafficCop(limits="100/minute")
    outer.route("/sub/*", to=inner.wrap(Starlette(routes=[Route("/sub/own", own)])))
    app = app_with(outer)
    assert (await ask(app, http_scope("/sub/fixed")))[1]["body"] == b"the inner one's"
    assert (await ask(app, http_scope("/sub/own")))[1]["body"] == b"the app itself"


async def test_the_table_is_asked_once_for_a_request_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    cop = TrafficCop(limits="100/minute")
    cop.route("/fixed", to=FixedResponse(200))
    app, asked = app_with(cop), []
    find = GatewayTable.find
    monkeypatch.setattr(GatewayTable, "find", lambda *of: asked.append(of) or find(*of))
    assert status(await ask(app, http_scope("/own/x"))) == 200
    assert len(asked) == 1, "the limits and the way are those of one table"


async def test_claims_beyond_ascii_are_json_in_their_header() -> None:
    claims = {"name": "José 😀"}
    told = dumps_ascii(claims)
    assert told.isascii()
    assert json.loads(told) == claims


async def test_a_mistyped_setting_is_an_error() -> None:
    with pytest.raises(UnknownSetting, match="strip"):
        TrafficCop().route("/a/*", to="http://a", strip="/a")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="is no route"):
        TrafficCop(proxy_routes=["/a/*"])  # type: ignore[list-item]
    cop = TrafficCop(proxy_routes=[route("/a/*", to="http://a")])
    with pytest.raises(ConfigurationError, match="already"):
        cop.route("/a/*", to="http://b")


async def test_a_route_survives_being_a_record() -> None:
    each = route(
        "/a/{id}/*",
        to=[Upstream("http://a:1", weight=3), "http://b:2"],
        name="r",
        methods=["get"],
        hosts="*.example.com",
        headers={"X-A": "1"},
        query={"b": "*"},
        session={"plan": "pro"},
        weight=2,
        priority=7,
        rewrite="/v2/{id}/*",
        limits=["10/minute", limit("5/s", key=by_user, name="q", burst=9)],
        mirror="http://c:3",
        request_headers={"X-B": "2"},
        remove_response_headers=["Server"],
        identity=True,
        max_body=10,
    )
    again = route_from("r", route_record(each))
    assert route_record(again) == route_record(each)
    assert again.to.policy == each.to.policy
    for destination in (Redirect("/x"), FixedResponse(204), THE_APP):
        assert route_record(route_from("r", route_record(route("/a", to=destination, name="r")))) == route_record(
            route("/a", to=destination, name="r")
        )
    with pytest.raises(ConfigurationError, match="ASGI app"):
        route_record(route("/a", to=own))
    with pytest.raises(ConfigurationError, match="function"):
        limit_record(limit("1/s", key=lambda connection: "a"))
    assert limit_from(limit_record(limit("1/s", methods=["POST"]))) == limit("1/s", methods=["POST"])


async def test_the_secret_is_needed_for_a_signed_identity() -> None:
    async with services("one") as [one]:
        cop = TrafficCop(session_secret=SECRET)
        cop.route("/*", to=one.url, identity=True)
        sent = await ask(app_with(cop), http_scope("/x", headers=[(b"host", b"a"), (b"x-traffic-user", b"r")]))
        assert status(sent) == 200
        assert one.header("x-traffic-user") == []


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({"session": {"plan": "pro"}}, "session=… needs sessions"),
        ({"identity": True}, "identity=… needs sessions"),
        ({"limits": limit("1/s", key=by_user)}, "needs sessions"),
    ],
)
async def test_a_route_that_needs_sessions_is_an_error_without_them(settings: dict[str, Any], needs: str) -> None:
    with pytest.raises(ConfigurationError, match=needs):
        TrafficCop().route("/a", to="http://a", **settings)
    with pytest.raises(ConfigurationError, match=needs):
        await TrafficCop().routes.put("/a", to="http://a", **settings)
    TrafficCop(session_secret=SECRET).route("/a", to="http://a", **settings)


@pytest.mark.parametrize("settings", [{"limits": "1/s"}, {"cors": "app"}])
async def test_what_only_the_whole_stack_does_is_an_error_with_the_gateway_alone(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="not for RoutingMiddleware alone"):
        RoutingMiddleware(Starlette(), routes=[route("/a", to="http://a", **settings)])


async def test_upstreams_need_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic_cop_middleware.composition.gateway.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'traffic-cop-middleware\[proxy\]'"):
        TrafficCop().route("/a", to="http://a")
    TrafficCop().route("/a", to=Redirect("/b"))


def starts_on_trio(cop: TrafficCop) -> list[Any]:
    """What an app's lifespan answers on trio."""
    sent: list[Any] = []

    async def run() -> None:
        incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(incoming)

        async def send(message: Any) -> None:
            sent.append(message)

        with contextlib.suppress(ConfigurationError):  # raised after it was told
            await cop.wrap(Starlette())({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)

    trio.run(run)
    return sent


async def test_routes_to_upstreams_on_trio_are_an_error_at_the_start() -> None:
    cop = TrafficCop()
    cop.route("/old", to=Redirect("/new"))
    assert (await asyncio.to_thread(starts_on_trio, cop))[0]["type"] == "lifespan.startup.complete"
    cop.route("/a", to="http://a")
    (answer,) = await asyncio.to_thread(starts_on_trio, cop)
    assert answer["type"] == "lifespan.startup.failed"
    assert "need asyncio" in answer["message"]


@pytest.mark.parametrize(
    ("to", "settings"),
    [
        (THE_APP, {"strip_prefix": "/a"}),
        (FixedResponse(204), {"response_headers": {"X-A": "1"}}),
        (Redirect("/b"), {"max_body": 1}),
        (own, {"mirror": "http://a"}),
        (own, {"head_deadline": 1.0}),
    ],
)
async def test_a_setting_that_means_nothing_for_a_destination_is_an_error(to: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is for routes to upstreams"):
        TrafficCop().route("/a/*", to=to, **settings)


async def test_a_route_without_its_driver_is_not_put_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic_cop_middleware.composition.gateway.find_spec", lambda name: None)
    cop = TrafficCop()
    await ask(app_with(cop), http_scope("/own/x"))
    with pytest.raises(MissingExtra, match="needs a driver"):
        await cop.routes.put("/a", to="http://a")
    assert await cop.routes.list() == []
