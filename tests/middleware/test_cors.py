"""Preflights answered before sessions, limits and the app; and the fields on everything else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.adapters.load import started
from tests.asgi import App, Message, http_scope, send_through, status, websocket_scope
from tests.middleware.session_apps import SECRET
from tests.middleware.upstreams import ask
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import (
    ConfigurationError,
    CorsPolicy,
    Event,
    FixedResponse,
    RecordConflict,
    TrafficCop,
    require_session,
    session_of,
)
from traffic_cop_middleware.abstractions.cors_table import CorsTable
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.middleware.cors import CorsLayer, preflight_of
from traffic_cop_middleware.middleware.exchange import raw_path_of

pytestmark = pytest.mark.asyncio

APP = "https://app.example.com"
EVIL = "https://evil.example"
POLICY = CorsPolicy(origins=[APP], headers=["X-Total"], expose=["X-Total"], credentials=True)


class Of:
    """Policies as a function of the request."""

    active = True

    def __init__(self, of: Any) -> None:
        self.of = of


class Inside:
    """An app that notes what reaches it, and answers as it is told."""

    def __init__(self, *own: tuple[bytes, bytes], code: int = 200) -> None:
        self.reached: list[Any] = []
        self.sends: list[Any] = []
        self.own = own
        self.code = code

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope)
        self.sends.append(send)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": self.code, "headers": list(self.own)})
            await send({"type": "http.response.body", "body": b"inside"})


def layer(app: Any, policy: CorsPolicy | None = POLICY, events: list[Event] | None = None) -> CorsLayer:
    observers = Observers()
    observers.subscribe((events if events is not None else []).append)
    return CorsLayer(app, policies=Of(lambda scope, method: policy), observers=observers)


def asking(path: str = "/", method: str = "GET", origin: str | None = APP, **headers: str) -> dict[str, Any]:
    """A request with these headers; "_" in a name is "-"."""
    named = {**({"origin": origin} if origin is not None else {}), **headers}
    sent = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()]
    return http_scope(path, method, headers=[(b"host", b"testserver"), *sent])


def preflight(path: str = "/", method: str = "PUT", origin: str = APP, **headers: str) -> dict[str, Any]:
    return asking(path, "OPTIONS", origin, access_control_request_method=method, **headers)


def fields(sent: list[Message]) -> dict[str, str]:
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert len(found) == len(sent[0]["headers"]), f"a field stands twice: {sent[0]['headers']}"
    return found


def cors_fields(sent: list[Message]) -> dict[str, str]:
    return {name: value for name, value in fields(sent).items() if name.startswith("access-control-")}


ALLOWING = {
    "access-control-allow-origin": APP,
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "x-total",
}


# Preflights


async def test_a_preflight_is_answered_here_and_reaches_nothing() -> None:
    events: list[Event] = []
    inside = Inside()
    sent = await send_through(layer(inside, events=events), preflight(access_control_request_headers="x-total"))
    assert inside.reached == []
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (status(sent), sent[1]["body"], sent[1].get("more_body", False)) == (204, b"", False)
    assert fields(sent)["access-control-allow-origin"] == APP
    assert fields(sent)["access-control-allow-methods"] == "DELETE, GET, HEAD, PATCH, POST, PUT"
    assert fields(sent)["vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    assert "content-length" not in fields(sent)
    assert [(event.kind, event.attributes) for event in events] == [
        ("cors.preflight", {"policy": "", "allowed": True, "reason": ""})
    ]


async def test_a_refused_preflight_is_a_problem_with_the_reason() -> None:
    events: list[Event] = []
    inside = Inside()
    table = CorsTable({"shop": POLICY})
    sent = await send_through(layer(inside, table.named("shop"), events), preflight(origin=EVIL))
    assert inside.reached == []
    assert status(sent) == 403
    assert fields(sent)["content-type"] == "application/problem+json"
    assert fields(sent)["vary"].startswith("Origin, ")
    assert cors_fields(sent) == {}
    assert json.loads(sent[1]["body"]) == {
        "type": "about:blank",
        "title": "CORS preflight refused",
        "status": 403,
        "detail": "Pages of the origin 'https://evil.example' may not call this path.",
    }
    assert [event.attributes for event in events] == [{"policy": "shop", "allowed": False, "reason": "origin"}]


async def test_an_observer_that_raises_changes_no_answer() -> None:
    def failing(event: Event) -> None:
        raise RuntimeError(event.kind)

    observers = Observers()
    observers.subscribe(failing)
    sent = await send_through(
        CorsLayer(Inside(), policies=Of(lambda scope, method: POLICY), observers=observers), preflight()
    )
    assert status(sent) == 204


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ([(b"access-control-request-headers", b"x-total")] * 2, ""),
        ([(b"access-control-request-headers", b"x-total"), (b"access-control-request-headers", b"x-evil")], "headers"),
        (
            [(b"access-control-request-headers", b"a" * 4097), (b"access-control-request-headers", b"a" * 4097)],
            "too_large",
        ),
        ([(b"origin", APP.encode())], "origin"),
        ([(b"access-control-request-method", b"PUT")], "method"),
        ([(b"access-control-request-private-network", b"true")], "private_network"),
    ],
)
async def test_lines_that_come_twice_are_read_as_one_list(more: list[tuple[bytes, bytes]], reason: str) -> None:
    events: list[Event] = []
    scope = preflight()
    scope["headers"] += more
    await send_through(layer(Inside(), events=events), scope)
    assert [event.attributes["reason"] for event in events] == [reason]


@pytest.mark.parametrize(
    "scope",
    [
        asking(method="OPTIONS"),
        asking(method="OPTIONS", access_control_request_headers="x-total"),
        asking(method="GET", access_control_request_method="PUT"),
        asking(method="POST", access_control_request_method="PUT"),
    ],
    ids=["options", "no method asked", "get", "post"],
)
async def test_what_is_no_preflight_reaches_the_app(scope: dict[str, Any]) -> None:
    inside = Inside()
    sent = await send_through(layer(inside), scope)
    assert len(inside.reached) == 1
    assert cors_fields(sent) == ALLOWING


async def test_options_without_an_origin_is_no_cors_request() -> None:
    inside = Inside(code=405)
    scope = asking(method="OPTIONS", origin=None, access_control_request_method="PUT")
    sent = await send_through(layer(inside), scope)
    assert (status(sent), fields(sent)) == (405, {})


@pytest.mark.parametrize(
    ("method", "found"), [("PUT", "PUT"), ("patch", "patch"), ("P T", ""), ("", ""), ("A" * 129, ""), ("\xe9", "")]
)
async def test_the_method_that_a_preflight_asks_for_is_told(method: str, found: str) -> None:
    scope = preflight(method=method, access_control_request_headers="x-total")
    assert preflight_of(scope) == (APP, found, "x-total", False)
    assert status(await send_through(layer(Inside()), scope)) == (204 if found == "PUT" else 403)


async def test_a_preflight_is_decided_by_the_route_of_the_method_that_it_asks_for() -> None:
    table = CorsTable({"all": CorsPolicy(origins="*", paths=()), "shop": CorsPolicy(origins=[APP], paths=())})

    policies = Of(lambda scope, method: table.named("all" if method == "GET" else "shop"))
    cors = CorsLayer(Inside(), policies=policies, observers=Observers())
    assert [status(await send_through(cors, preflight(method=method, origin=EVIL))) for method in ("GET", "PUT")] == [
        204,
        403,
    ]


# Responses


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"])
async def test_an_allowed_origin_may_read_the_response(method: str) -> None:
    sent = await send_through(layer(Inside((b"etag", b'"1"'))), asking(method=method))
    assert fields(sent) == {"etag": '"1"', **ALLOWING, "vary": "Origin"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", [EVIL, "null", "", f"{APP}.evil.example", f"{APP}, {EVIL}"])
async def test_another_origin_is_served_and_may_read_nothing(method: str, origin: str) -> None:
    inside = Inside((b"access-control-allow-origin", b"*"), (b"vary", b"Cookie"))
    sent = await send_through(layer(inside), asking(method=method, origin=origin))
    assert len(inside.reached) == 1
    assert (status(sent), fields(sent)) == (200, {"vary": "Cookie, Origin"})


@given(st.text(st.characters(max_codepoint=255), max_size=60) | st.sampled_from([APP, EVIL]).map(lambda o: o + "/"))
async def test_only_a_listed_origin_gets_allow_origin(origin: str) -> None:
    for scope in (asking(origin=origin), preflight(origin=origin)):
        found = cors_fields(await send_through(layer(Inside((b"access-control-allow-origin", b"*"))), scope))
        assert found.get("access-control-allow-origin") == (APP if origin == APP else None)


async def test_responses_that_a_cache_may_keep_vary_without_an_origin_too() -> None:
    for method in ("GET", "HEAD"):
        assert fields(await send_through(layer(Inside()), asking(method=method, origin=None))) == {"vary": "Origin"}


async def test_what_everybody_may_read_says_so_to_everyone_and_varies_by_nothing() -> None:
    open_to_all = layer(Inside(), CorsPolicy(origins="*"))
    for origin in (None, EVIL, "null"):
        assert fields(await send_through(open_to_all, asking(origin=origin))) == {"access-control-allow-origin": "*"}


@pytest.mark.parametrize(
    ("scope", "policy"),
    [
        (asking(method="POST", origin=None), POLICY),
        (asking(), None),
        (asking(origin=None), None),
        (preflight(), None),
        (websocket_scope(headers=[(b"origin", EVIL.encode())]), POLICY),
        ({"type": "lifespan"}, POLICY),
    ],
    ids=["post without origin", "no policy", "neither", "preflight without policy", "websocket", "lifespan"],
)
async def test_what_concerns_no_policy_goes_straight_through(scope: dict[str, Any], policy: CorsPolicy | None) -> None:
    inside = Inside((b"access-control-allow-origin", b"*"))
    passed: list[Awaitable[None]] = []

    def noting(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        passed.append(inside(scope, receive, send))
        return passed[-1]

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    returned = layer(noting, policy)(scope, receive, send)
    assert returned is passed[0], "no coroutine of its own"
    await returned
    assert inside.reached[0] is scope
    assert inside.sends[0] is send


async def test_the_messages_of_the_app_are_not_changed_in_place() -> None:
    start = {"type": "http.response.start", "status": 200}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    assert cors_fields(await send_through(layer(app), asking())) == ALLOWING
    assert start == {"type": "http.response.start", "status": 200}


async def test_a_stream_is_passed_on_piece_by_piece() -> None:
    seen: list[Any] = []

    async def pieces() -> Any:
        for piece in (b"a", b"b"):
            seen.append(("made", piece))
            yield piece

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(pieces())(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            seen.append(dict(message["headers"])[b"access-control-allow-origin"])
        elif message.get("body"):
            seen.append(("sent", message["body"]))

    scope = asking()
    scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
    await layer(app)(scope, receive, send)
    assert seen == [APP.encode(), ("made", b"a"), ("sent", b"a"), ("made", b"b"), ("sent", b"b")]


async def test_other_messages_pass_untouched() -> None:
    messages = [
        {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]},
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"a", "more_body": False},
        {"type": "http.response.trailers", "headers": [(b"access-control-allow-origin", b"*")], "more_trailers": False},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    sent = await send_through(layer(app), asking())
    assert [sent[0], *sent[2:]] == [messages[0], *messages[2:]]
    assert sent[1]["trailers"] is True


async def test_what_the_app_raises_comes_out_as_it_was() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await send_through(layer(broken), asking())

    async def breaking_off(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("later")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(LookupError, match="later"):
        await layer(breaking_off)(asking(), receive, send)
    assert cors_fields(sent) == ALLOWING


async def test_a_500_that_is_made_inside_has_the_fields() -> None:
    async def broken(request: Request) -> Response:
        raise LookupError("broken")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    with pytest.raises(LookupError):
        await layer(Starlette(routes=[Route("/", broken)]))(asking(), receive, send)
    assert status(sent) == 500
    assert cors_fields(sent) == ALLOWING


# In front of the other parts


def shop(cors: dict[str, CorsPolicy], events: list[Event], **settings: Any) -> App:
    """A cop around an app, and the layer outside of its sessions and limits."""

    async def page(request: Request) -> Response:
        if request.url.path == "/private":
            require_session(request)
        if request.url.path == "/login":
            await session_of(request).login("ann")
        return PlainTextResponse("page", headers={"x-total": "1"})

    cop = TrafficCop(observer=events.append, session_secret=SECRET, cors=cors, **settings)
    cop.route("/closed", to=FixedResponse(503, "closed", headers={"Access-Control-Allow-Origin": "*"}))
    return cop.wrap(Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST", "OPTIONS"])]))


async def test_preflights_take_no_token_and_a_refusal_can_be_read() -> None:
    events: list[Event] = []
    app = shop({"shop": POLICY}, events, limits="1/minute")
    assert [status(await send_through(app, preflight(origin=each))) for each in (APP, APP, EVIL)] == [204, 204, 403]
    assert [event.kind for event in events] == ["cors.preflight"] * 3
    first, second = [await send_through(app, asking()) for _ in range(2)]
    assert (status(first), status(second)) == (200, 429)
    assert cors_fields(first) == cors_fields(second) == ALLOWING
    assert "ratelimit" in fields(second)


async def test_what_parts_inside_and_routes_answer_has_the_fields_of_the_policy() -> None:
    app = shop({"shop": POLICY}, [])
    answers = {path: await send_through(app, asking(path)) for path in ("/", "/private", "/closed")}
    assert {path: status(sent) for path, sent in answers.items()} == {"/": 200, "/private": 401, "/closed": 503}
    assert all(cors_fields(sent) == ALLOWING for sent in answers.values())
    two_tokens = asking("/")
    two_tokens["headers"] += [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]
    for scope, code in ((two_tokens, 400), (asking("/login", "POST", sec_fetch_site="cross-site"), 403)):
        sent = await send_through(app, scope)
        assert (status(sent), fields(sent)["content-type"]) == (code, "application/problem+json")
        assert cors_fields(sent) == ALLOWING


async def test_a_502_of_the_gateway_has_the_fields() -> None:
    done = asyncio.Event()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"no HTTP at all\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    cop = TrafficCop()
    cop.route("/*", to=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        sent = await ask(layer(cop.wrap(Inside())), asking())
        await asyncio.wait_for(done.wait(), 10)
    finally:
        await cop._gateway.close()
        server.close()
        await server.wait_closed()
    assert status(sent) == 502
    assert cors_fields(sent) == ALLOWING


async def test_what_varies_by_the_session_varies_by_both() -> None:
    sent = await send_through(shop({"shop": POLICY}, []), asking("/private"))
    assert fields(sent)["vary"] == "Cookie, Origin"


async def test_a_path_without_a_policy_is_left_to_the_apps_own_middleware() -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    bare: Any = CORSMiddleware(Starlette(routes=[Route("/{path:path}", page)]), allow_origins=[EVIL])
    table = CorsTable({"api": CorsPolicy(origins=[APP], paths="/api/*")})
    app = CorsLayer(bare, policies=Of(lambda scope, method: table.find(raw_path_of(scope))), observers=Observers())
    for scope in (asking("/x", origin=EVIL), preflight("/x", "GET", EVIL), asking("/x", origin=None)):
        assert await send_through(app, {**scope}) == await send_through(bare, {**scope})
    assert cors_fields(await send_through(app, asking("/api/x"))) == {"access-control-allow-origin": APP}
    assert cors_fields(await send_through(app, asking("/api/x", origin=EVIL))) == {}


# Beside Starlette's


def starlettes(app: Any, policy: CorsPolicy) -> App:
    def listed(values: str | Iterable[str]) -> list[str]:
        return [values] if isinstance(values, str) else list(values)

    peer: Any = CORSMiddleware(
        app,
        allow_origins=listed(policy.origins),
        allow_methods=listed(policy.methods),
        allow_headers=listed(policy.headers),
        allow_credentials=policy.credentials,
        expose_headers=listed(policy.expose),
        max_age=policy.max_age,
        allow_private_network=policy.private_network,
    )
    found: App = peer
    return found


PLAIN = [
    CorsPolicy(origins=[APP]),
    CorsPolicy(origins="*"),
    CorsPolicy(origins=[APP, "null"], methods=["GET", "PUT"], headers=["x-total"], expose=["x-total"], max_age=7),
    CorsPolicy(origins=[APP], headers="*", credentials=True),
    CorsPolicy(origins="*", headers="*", private_network=True),
]


@pytest.mark.parametrize("policy", PLAIN, ids=[str(number) for number in range(len(PLAIN))])
async def test_plain_preflights_are_decided_as_starlettes_decides(policy: CorsPolicy) -> None:
    ours, theirs = layer(Inside(), policy), starlettes(Inside(), policy)
    for origin, method, names, private in product(
        (APP, EVIL, "null"), ("GET", "PUT", "PURGE", "put"), (None, "x-total", "X-Total,content-type", "x-evil"), (0, 1)
    ):
        more = {} if names is None else {"access_control_request_headers": names}
        more |= {"access_control_request_private_network": "true"} if private else {}
        scope = preflight(method=method, origin=origin, **more)
        our, their = await send_through(ours, scope), await send_through(theirs, scope)
        assert (status(our) < 300) == (status(their) < 300), scope["headers"]
        if status(our) < 300:
            told, expected = cors_fields(our), cors_fields(their)
            for name in ("allow-origin", "allow-credentials", "max-age"):
                assert told.get(f"access-control-{name}") == expected.get(f"access-control-{name}")
            assert as_set(told, "access-control-allow-methods") == as_set(expected, "access-control-allow-methods")
            wanted = as_set({"names": names or ""}, "names")
            assert wanted <= as_set(told, "access-control-allow-headers")


@pytest.mark.parametrize("policy", PLAIN, ids=[str(number) for number in range(len(PLAIN))])
@pytest.mark.parametrize("origin", [APP, EVIL, "null"])
async def test_plain_responses_share_what_starlettes_shares(policy: CorsPolicy, origin: str) -> None:
    our = await send_through(layer(Inside(), policy), asking(origin=origin))
    their = await send_through(starlettes(Inside(), policy), asking(origin=origin))
    told, expected = cors_fields(our), cors_fields(their)
    if "access-control-allow-origin" not in expected:
        expected = {}  # Starlette names the rest to an origin that may not read it
    assert told == expected


def as_set(found: dict[str, str], name: str) -> set[str]:
    return {each.strip().lower() for each in found.get(name, "").split(",")} - {""}


# In the cop


async def test_a_route_names_its_policy_and_other_paths_have_their_own() -> None:
    cop = TrafficCop(
        cors={
            "site": CorsPolicy(origins=[APP]),
            "partners": CorsPolicy(origins=["https://partner.example"], methods=["PUT"], paths=()),
        }
    )
    cop.route("/billing/*", to=FixedResponse(200, "billed"), cors="partners", methods=["PUT"])
    app = cop.wrap(Inside())
    partner = "https://partner.example"
    assert status(await send_through(app, preflight("/billing/x", "PUT", partner))) == 204
    assert status(await send_through(app, preflight("/billing/x", "PUT", APP))) == 403
    assert status(await send_through(app, preflight("/billing/x", "POST", APP))) == 204
    sent = await send_through(app, asking("/billing/x", "PUT", partner))
    assert cors_fields(sent) == {"access-control-allow-origin": partner}
    assert cors_fields(await send_through(app, asking("/other"))) == {"access-control-allow-origin": APP}


async def test_policies_are_put_and_removed_while_the_app_runs() -> None:
    cop = TrafficCop(cors={"api": CorsPolicy(origins=[APP], paths="/api/*")})
    app = cop.wrap(Inside())
    assert cors_fields(await send_through(app, asking("/public/x"))) == {}
    first = await cop.cors.put("public", CorsPolicy(origins="*", paths="/public/*"))
    assert cors_fields(await send_through(app, asking("/public/x"))) == {"access-control-allow-origin": "*"}
    assert await cop.cors.put("api", CorsPolicy(origins=[EVIL], paths="/api/*")) > first
    assert cors_fields(await send_through(app, asking("/api/x"))) == {}
    assert [policy.name for policy in await cop.cors.list()] == ["api", "public"]
    assert await cop.cors.remove("api")
    assert cors_fields(await send_through(app, asking("/api/x"))) == {"access-control-allow-origin": APP}
    assert not await cop.cors.remove("api")
    with pytest.raises(ConfigurationError, match="both for the path"):
        await cop.cors.put("other", CorsPolicy(origins="*", paths="/api/*"))
    with pytest.raises(RecordConflict, match="at version"):
        await cop.cors.put("more", CorsPolicy(origins="*", paths="/more"), at=first)
    assert [policy.name for policy in await cop.cors.list()] == ["api", "public"]


@pytest.mark.parametrize("round", range(3))
async def test_of_two_workers_policies_for_one_path_at_the_same_moment_one_is_refused(
    redis_server: RedisServer, round: int
) -> None:
    cops = [TrafficCop(redis_server.url, deadline=2.0, namespace=f"clash-{round}") for _ in range(2)]
    async with started(cops[0].wrap(Starlette())), started(cops[1].wrap(Starlette())):
        policy = CorsPolicy(origins="*", paths="/api/*")
        ended = await asyncio.gather(
            cops[0].cors.put("one", policy), cops[1].cors.put("other", policy), return_exceptions=True
        )
        refused = [each for each in ended if not isinstance(each, int)]
        assert [type(each) for each in refused] == [ConfigurationError]
        assert "are both for the path '/api/*'" in str(refused[0])
        names = [[policy.name for policy in await cop.cors.list()] for cop in cops]
        assert names[0] == names[1]
        assert len(names[0]) == 1


async def test_a_policy_of_the_start_that_would_clash_does_not_come_back() -> None:
    policy = CorsPolicy(origins="*", paths="/api/*")
    cop = TrafficCop(cors={"api": policy})
    async with started(cop.wrap(Starlette())):
        await cop.cors.put("api", CorsPolicy(origins="*", paths="/v1/*"))
        await cop.cors.put("newer", policy)
        with pytest.raises(ConfigurationError, match="are both for the path '/api/"):
            await cop.cors.remove("api")
        assert await cop.cors.remove("newer")
        assert await cop.cors.remove("api")
        assert (await cop.cors.list())[0].paths == ("/api/*",)


async def test_a_policy_that_a_route_names_and_nobody_made_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    cop = TrafficCop(cors={"api": CorsPolicy(origins=[APP])})
    cop.route("/x", to=FixedResponse(200), cors="apy")
    app = cop.wrap(Inside())
    for _ in range(2):
        assert cors_fields(await send_through(app, asking("/x"))) == {}
    [told] = [record.message for record in caplog.records]
    assert told.startswith("route '/x' names the CORS policy 'apy', and there is none of that name: no page of another")


async def test_nothing_is_told_of_policies_while_nobody_knows_the_records(caplog: pytest.LogCaptureFixture) -> None:
    cop = TrafficCop(f"redis://127.0.0.1:{free_port()}/0")  # nobody is there
    cop.route("/x", to=FixedResponse(200), cors="app")
    async with started(cop.wrap(Starlette())):
        assert not [record for record in caplog.records if "there is none of that name" in record.message]


async def test_a_policy_that_is_missing_is_told_at_the_start_unless_a_record_has_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = MemoryBackend()
    for told in (1, 0):
        caplog.clear()
        cop = TrafficCop(backend)  # without any policy of its own
        cop.route("/x", to=FixedResponse(200), cors="app")
        async with started(cop.wrap(Starlette())):
            found = [record for record in caplog.records if "there is none of that name" in record.message]
            assert len(found) == told
            await cop.cors.put("app", CorsPolicy(origins=[APP]))


@pytest.mark.parametrize("cors", [{"a": "https://a.example"}, ["a"], {"": CorsPolicy(origins="*")}])
async def test_policies_that_are_none_are_an_error_at_the_start(cors: Any) -> None:
    with pytest.raises(ConfigurationError, match="cors="):
        TrafficCop(cors=cors)


OTHER = "https://other.example.com"
UNTRUSTED: list[tuple[dict[str, CorsPolicy], dict[str, Any], list[str]]] = [
    ({"app": CorsPolicy(origins=[APP, OTHER], credentials=True)}, {}, [APP, OTHER]),
    ({"app": CorsPolicy(origins=[APP, OTHER], credentials=True)}, {"session_trusted_origins": [APP]}, [OTHER]),
    ({"a": CorsPolicy(origins=APP, credentials=True, paths="/a"), "b": CorsPolicy(origins=OTHER)}, {}, [APP]),
    ({"app": CorsPolicy(origins="https://*.example.com", credentials=True)}, {}, ["https://*.example.com"]),
    ({"app": CorsPolicy(origins=[APP], credentials=True)}, {"session_trusted_origins": [APP]}, []),
    ({"app": CorsPolicy(origins=[APP], credentials=True)}, {"session_csrf": False}, []),
    ({"app": CorsPolicy(origins=[APP], credentials=True)}, {"session_secret": None}, []),
    ({"app": CorsPolicy(origins="*")}, {}, []),
]


@pytest.mark.parametrize(("cors", "settings", "named"), UNTRUSTED)
async def test_origins_whose_requests_with_the_cookie_are_refused_are_warned_of_once(
    cors: dict[str, CorsPolicy], settings: dict[str, Any], named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cop = TrafficCop(cors=cors, **{"session_secret": SECRET, **settings})
    for _ in range(2):
        cop.wrap(Starlette())
    told = [record.getMessage() for record in caplog.records if "session_trusted_origins" in record.getMessage()]
    assert len(told) == bool(named)
    if named:
        assert [origin for origin in (APP, OTHER, "https://*.example.com") if repr(origin) in told[0]] == named


async def test_what_is_warned_of_is_refused_until_the_origin_is_trusted() -> None:
    for trusted, expected in (((), 403), ((APP,), 200)):
        app = shop({"shop": POLICY}, [], session_trusted_origins=trusted)
        login = await send_through(app, asking("/login", origin="https://testserver"))
        cookie = dict(login[0]["headers"])[b"set-cookie"].partition(b";")[0]
        posting = asking("/private", method="POST")
        posting["headers"].append((b"cookie", cookie))
        sent = await send_through(app, posting)
        assert status(sent) == expected
        assert cors_fields(sent) == ALLOWING, "the page can read why"
