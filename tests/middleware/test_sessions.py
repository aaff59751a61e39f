"""Sessions as an app sees them: the mapping, the handle, the cookie, the bearer tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from traffic_cop_middleware import (
    Event,
    RateLimitMiddleware,
    SessionMiddleware,
    SessionNotReady,
    TrafficCop,
    by_session,
    by_tenant,
    by_user,
    limit,
    reads_session,
    require_session,
    session_of,
)
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.fixtures import OpenClient

SECRET = "a secret of more than thirty-two bytes"
DAY = 86_400.0

Call = Callable[[Request], Any]


class Shop:
    """An app whose one endpoint does what a test says, and the cop around it."""

    def __init__(self, backend: Any, **settings: Any) -> None:
        self.events: list[Event] = []
        self.cop = TrafficCop(backend, observer=self.events.append, session_secret=SECRET, **settings)
        self.do: Call = lambda request: None
        self.app = Starlette(routes=[Route("/do", self._endpoint, methods=["GET", "POST"]), *self.cop.session_routes()])
        self.cop.install(self.app)

    async def _endpoint(self, request: Request) -> Response:
        done = self.do(request)
        if hasattr(done, "__await__"):
            done = await done
        return done if isinstance(done, Response) else JSONResponse(done)

    def ask(self, client: TestClient, do: Call, method: str = "GET", **kwargs: Any) -> Any:
        self.do = do
        answer = client.request(method, "/do", **kwargs)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if event.kind.startswith("session.")]


@pytest.fixture
def shop(memory_backend: MemoryBackend) -> Shop:
    return Shop(memory_backend)


async def login(request: Request) -> dict[str, Any]:
    tokens = await session_of(request).login("alice", claims={"plan": "pro"}, device="phone")
    return tokens._asdict()


def who(request: Request) -> str | None:
    return session_of(request).subject


def content(request: Request) -> dict[str, Any]:
    return dict(request.session)


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


def test_an_app_that_never_heard_of_us_keeps_a_cart(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    assert shop.ask(client, content) == {}
    assert "set-cookie" not in client.get("/do").headers
    shop.ask(client, lambda request: request.session.update(cart=[1], name="é"))
    shop.ask(client, lambda request: request.session["cart"].append({"n": [2]}))
    assert shop.ask(client, content) == {"cart": [1, {"n": [2]}], "name": "é"}
    shop.ask(client, lambda request: request.session["cart"][1]["n"].clear())
    shop.ask(client, lambda request: request.session.pop("name"))
    assert shop.ask(client, content) == {"cart": [1, {"n": []}]}
    shop.ask(client, lambda request: request.session.clear())
    assert shop.ask(client, content) == {}


def test_the_cookie_is_bound_to_host_https_and_http_only(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    shop.do = lambda request: request.session.update(a=1)
    answer = client.get("/do")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-session=ey")
    assert cookie.endswith("; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax; Secure")
    assert len(cookie) < 4096
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Cookie"
    shop.do = lambda request: None
    answer = client.get("/do")
    assert {"set-cookie", "vary", "cache-control"}.isdisjoint(answer.headers)
    shop.do = content
    assert client.get("/do").headers["vary"] == "Cookie"


def test_logging_in_keeps_the_cart_under_a_new_id(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    shop.ask(client, lambda request: request.session.update(cart=[1]))
    before = client.cookies["__Host-session"]
    shop.ask(client, login, "POST")
    assert shop.ask(client, lambda r: [who(r), dict(session_of(r).claims), dict(session_of(r).attributes)]) == [
        "alice",
        {"plan": "pro"},
        {"device": "phone"},
    ]
    assert shop.ask(client, content) == {"cart": [1]}
    stale = open_client(shop.app)
    stale.cookies.set("__Host-session", before, domain="testserver.local")
    assert shop.ask(stale, content) == {}
    assert shop.kinds() == ["session.created", "session.created", "session.revoked"]


def test_another_user_does_not_inherit_the_cart(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    shop.ask(client, login, "POST")
    shop.ask(client, lambda request: request.session.update(cart=[1]))

    async def login_as_bob(request: Request) -> None:
        assert request.session["cart"] == [1]
        request.session["n"] = 1
        await session_of(request).login("bob")
        request.session["n"] = 1

    shop.ask(client, lambda request: request.session.update(n=1))
    shop.ask(client, login_as_bob, "POST")
    assert shop.ask(client, content) == {"n": 1}
    assert shop.ask(client, who) == "bob"


async def login_as(request: Request, subject: str) -> None:
    await session_of(request).login(subject)


def test_logging_out_ends_cookie_and_tokens_at_once(shop: Shop, open_client: OpenClient) -> None:
    client, other = open_client(shop.app), open_client(shop.app)
    tokens = shop.ask(client, login, "POST")
    assert shop.ask(other, who, headers=bearer(tokens)) == "alice"
    shop.do = lambda request: session_of(request).logout()
    assert 'session=""; Max-Age=0' in client.post("/do").headers["set-cookie"]
    assert shop.ask(client, who) is None
    assert shop.ask(other, who, headers=bearer(tokens)) is None
    answer = other.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def logout_and_say_so(request: Request) -> None:
    await session_of(request).logout()
    request.session["flash"] = "bye"


def test_a_message_can_be_left_for_who_just_logged_out(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    shop.ask(client, login, "POST")
    shop.ask(client, logout_and_say_so, "POST")
    assert shop.ask(client, lambda request: [who(request), request.session.pop("flash")]) == [None, "bye"]


def test_require_session_answers_401(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    shop.do = lambda request: require_session(request).subject
    assert client.get("/do").status_code == 401
    assert client.get("/do").headers["www-authenticate"] == "Bearer"
    answer = client.get("/do", headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    shop.ask(client, login, "POST")
    assert shop.ask(client, lambda request: require_session(request).subject) == "alice"


def test_a_session_slides_and_ends(shop: Shop, open_client: OpenClient, fake_clock: FakeClock) -> None:
    client = open_client(shop.app)
    shop.ask(client, login, "POST")
    shop.do = who
    fake_clock.advance(0.2 * DAY)
    assert "set-cookie" not in client.get("/do").headers
    fake_clock.advance(0.3 * DAY)
    assert "set-cookie" in client.get("/do").headers, "a quarter of the idle period is over: token and record follow"
    for _ in range(58):
        fake_clock.advance(0.5 * DAY)
        assert client.get("/do").json() == "alice"
    fake_clock.advance(0.6 * DAY)
    assert client.get("/do").json() is None, "30 days are over"


def test_an_idle_session_ends(shop: Shop, open_client: OpenClient, fake_clock: FakeClock) -> None:
    client = open_client(shop.app)
    tokens = shop.ask(client, login, "POST")
    fake_clock.advance(DAY + 6)
    assert shop.ask(client, who) is None
    assert client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 400
    client.portal.call(shop.cop.session_management.clean_up)  # type: ignore[union-attr]
    assert shop.kinds()[-1] == "session.expired"
    assert client.portal.call(shop.cop.session_management.figures).active == {}  # type: ignore[union-attr]


def test_a_failed_response_writes_nothing(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app, raise_server_exceptions=False)
    shop.ask(client, lambda request: request.session.update(a=1))

    def fail(request: Request) -> None:
        request.session["a"] = 2
        raise RuntimeError("the endpoint failed")

    shop.do = fail
    assert client.get("/do").status_code == 500
    assert shop.ask(client, content) == {"a": 1}


def test_what_is_no_json_is_a_clear_error(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    for value, said in (({1, 2}, "set is not JSON"), (float("nan"), "float"), ("\ud800", "surrogates")):
        shop.do = lambda request, value=value: request.session.update(bad=value)
        with pytest.raises((TypeError, ValueError), match=rf"session\['bad'\] can't be kept: .*{said}"):
            client.get("/do")
    shop.do = lambda request: request.session.update({1: 2})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"session\[1\]: a session's keys are strings"):
        client.get("/do")
    shop.do = lambda request: request.session.update(big="x" * 70_000)
    with pytest.raises(ValueError, match=r"65,536"):
        client.get("/do")


def test_a_stream_saves_what_it_changes_late(shop: Shop, open_client: OpenClient, caplog: Any) -> None:
    client = open_client(shop.app)

    def stream(request: Request, *, save: bool) -> Response:
        async def body() -> Any:
            yield b'"'
            request.session["late"] = save
            if save:
                await session_of(request).save()
            yield b'"'

        request.session["a"] = 1
        return StreamingResponse(body())

    shop.ask(client, lambda request: stream(request, save=True))
    assert shop.ask(client, content) == {"a": 1, "late": True}
    assert "after the response had started" not in caplog.text
    shop.ask(client, lambda request: stream(request, save=False))
    assert shop.ask(client, content) == {"a": 1, "late": True}
    assert "call await session.save() then" in caplog.text


def test_incr_and_update_lose_nothing(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    assert shop.ask(client, lambda request: session_of(request).incr("visits")) == 1
    assert shop.ask(client, lambda request: session_of(request).incr("visits", 41)) == 42
    add = lambda request: session_of(request).update("list", lambda found: [*(found or []), 1])  # noqa: E731
    assert shop.ask(client, add) == [1]
    assert shop.ask(client, add) == [1, 1]
    assert shop.ask(client, content) == {"visits": 42, "list": [1, 1]}
    shop.do = lambda request: session_of(request).incr("list")
    with pytest.raises(TypeError):
        client.get("/do")


def test_a_step_up_is_a_new_id_and_a_new_time(shop: Shop, open_client: OpenClient, fake_clock: FakeClock) -> None:
    client = open_client(shop.app)
    tokens = shop.ask(client, login, "POST")
    shop.ask(client, lambda request: request.session.update(a=1))
    began = shop.ask(client, lambda request: session_of(request).authenticated_at)
    fake_clock.advance(100)

    async def step_up(request: Request) -> Any:
        return (await session_of(request).step_up(factor="totp"))._asdict()

    fresh = shop.ask(client, step_up, "POST")
    now = shop.ask(client, lambda r: [session_of(r).authenticated_at, dict(session_of(r).attributes), dict(r.session)])
    assert now == [began + 100, {"device": "phone", "factor": "totp"}, {"a": 1}]
    other = open_client(shop.app)
    assert shop.ask(other, who, headers=bearer(tokens)) is None
    assert shop.ask(other, who, headers=bearer(fresh)) == "alice"
    shop.do = lambda request: session_of(request).step_up()
    assert open_client(shop.app).post("/do").status_code == 401


def test_refresh_tokens_rotate_with_a_grace(shop: Shop, open_client: OpenClient, fake_clock: FakeClock) -> None:
    client = open_client(shop.app)
    first = shop.ask(client, login, "POST")

    def refresh(token: str) -> Any:
        return client.post("/auth/refresh", data={"refresh_token": token})

    second = refresh(first["refresh_token"]).json()
    assert second["token_type"] == "Bearer"
    assert second["expires_in"] == 600
    assert second["refresh_token"] != first["refresh_token"]
    assert refresh(first["refresh_token"]).json()["refresh_token"] == second["refresh_token"]
    fake_clock.advance(11)
    third = refresh(second["refresh_token"]).json()
    assert refresh(first["refresh_token"]).status_code == 400
    assert "session.reuse_detected" in shop.kinds()
    assert refresh(third["refresh_token"]).status_code == 400, "the whole family is dead"
    assert shop.ask(client, who) is None


def test_the_routes_list_and_end_sessions(shop: Shop, open_client: OpenClient) -> None:
    first, second = open_client(shop.app), open_client(shop.app)
    shop.ask(first, login, "POST")
    shop.ask(second, login, "POST")
    listed = first.get("/auth/sessions").json()["sessions"]
    assert [(each["current"], each["attributes"]) for each in listed] == [
        (True, {"device": "phone"}),
        (False, {"device": "phone"}),
    ]
    assert first.delete(f"/auth/sessions/{listed[1]['id']}").status_code == 204
    assert first.delete(f"/auth/sessions/{listed[1]['id']}").status_code == 404
    assert shop.ask(second, who) is None
    shop.ask(second, login, "POST")
    assert first.post("/auth/logout-all?others=true").json() == {"ended": 1}
    assert (shop.ask(first, who), shop.ask(second, who)) == ("alice", None)
    assert first.post("/auth/logout-all").json() == {"ended": 1}
    assert shop.ask(first, who) is None
    assert first.get("/auth/sessions").status_code == 401
    assert first.post("/auth/logout").status_code == 204


def test_an_administrator_ends_all_sessions(shop: Shop, open_client: OpenClient) -> None:
    clients = [open_client(shop.app) for _ in range(3)]
    for number, client in enumerate(clients):
        shop.ask(client, lambda request, number=number: login_as(request, f"user {number % 2}"), "POST")
    management = shop.cop.session_management
    call = clients[0].portal.call  # type: ignore[union-attr]
    assert call(management.figures).active == {"user": 3}
    assert [info.attributes for info in call(management.sessions_of, "user 0")] == [{}, {}]
    assert call(management.revoke_user, "user 0") == 2
    assert [shop.ask(client, who) for client in clients] == [None, "user 1", None]
    assert call(management.revoke_everyone) == 1
    assert shop.ask(clients[1], who) is None
    figures = call(management.figures)
    assert (figures.active, figures.counts) == ({}, {"created.user": 3, "ended.revoked": 3})


def test_a_session_has_an_owner_among_a_services_instances(
    shop: Shop, open_client: OpenClient, fake_clock: FakeClock
) -> None:
    call = open_client(shop.app).portal.call  # type: ignore[union-attr]
    management = shop.cop.session_management
    route = call(lambda: management.assign("s1", "billing", "billing-1", ttl=60))
    assert call(lambda: management.assign("s1", "billing", "billing-2")) == route
    moved = call(management.reassign, route, "billing-2")
    assert (moved.instance, call(management.reassign, route, "billing-3")) == ("billing-2", None)
    assert call(management.owner_of, "s1", "billing").instance == "billing-2"
    assert call(management.route_figures) == {"billing": {"billing-2": 1}}
    assert [each.id for each in call(management.routes)] == ["s1"]
    assert call(management.release, "s1") == 1
    call(lambda: management.assign("s2", "billing", "billing-1", ttl=60))
    fake_clock.advance(61)
    assert call(management.owner_of, "s2", "billing") is None


@pytest.mark.parametrize("on_limit", ["end_oldest", "refuse"])
def test_a_user_has_so_many_sessions(memory_backend: MemoryBackend, open_client: OpenClient, on_limit: str) -> None:
    shop = Shop(memory_backend, session_limit=2, session_on_limit=on_limit)
    clients = [open_client(shop.app) for _ in range(3)]
    shop.do = login
    codes = [client.post("/do").status_code for client in clients]
    assert codes == ([200, 200, 200] if on_limit == "end_oldest" else [200, 200, 409])
    ended = [None, "alice", "alice"] if on_limit == "end_oldest" else ["alice", "alice", None]
    assert [shop.ask(client, who) for client in clients] == ended


def test_a_page_of_another_site_can_do_nothing_with_the_cookie(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    tokens = shop.ask(client, login, "POST")
    token = shop.ask(client, lambda request: session_of(request).csrf_token)
    shop.do = who
    cases: list[tuple[dict[str, str], int]] = [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://testserver"}, 200),
        ({"Origin": "https://testserver:443"}, 200),
        ({"Origin": "https://testserver.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "X-CSRF-Token": token}, 200),
        ({"Origin": "https://evil.example", "X-CSRF-Token": token[:-1] + "g"}, 403),
    ]
    assert [client.post("/do", headers=headers).status_code for headers, _ in cases] == [code for _, code in cases]
    assert client.get("/do", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    bare = open_client(shop.app)
    assert bare.post("/do", headers={"Origin": "https://evil.example", **bearer(tokens)}).json() == "alice"


def test_a_page_of_another_site_can_log_nobody_in(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    shop = Shop(memory_backend, session_trusted_origins=["https://app.example.com"])
    client = open_client(shop.app)
    shop.do = login
    assert client.post("/do", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/do", headers={"Origin": "https://app.example.com"}).status_code == 200


def test_a_form_token_gives_an_anonymous_client_a_session(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    token = shop.ask(client, lambda request: session_of(request).csrf_token)
    assert shop.ask(client, lambda request: session_of(request).csrf_token) == token


def test_users_sessions_and_tenants_have_buckets(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    cop = TrafficCop(memory_backend, session_secret=SECRET)

    @limit("2/minute", key=by_user)
    async def user(request: Request) -> Response:
        return PlainTextResponse(str(who(request)))

    @limit("2/minute", key=by_session)
    async def session(request: Request) -> Response:
        return PlainTextResponse(str(who(request)))

    @limit("2/minute", key=by_tenant)
    async def tenant(request: Request) -> Response:
        return PlainTextResponse(str(who(request)))

    async def login(request: Request) -> Response:
        await session_of(request).login(request.query_params["as"], claims={"tenant": "acme"})
        return Response()

    routes = [Route(f"/{each.__name__}", each) for each in (user, session, tenant)]
    app = Starlette(routes=[*routes, Route("/login", login, methods=["POST"])])
    cop.install(app)
    clients = [open_client(app) for _ in range(4)]
    for client, name in zip(clients, ["alice", "alice", "bob"], strict=False):
        client.post("/login", params={"as": name})

    def spend(path: str) -> list[list[int]]:
        return [[client.get(path).status_code for _ in range(2)] for client in clients]

    assert spend("/user") == [[200, 200], [429, 429], [200, 200], [200, 200]]
    assert spend("/session") == [[200, 200]] * 4
    assert spend("/tenant") == [[200, 200], [429, 429], [429, 429], [200, 200]]
    assert clients[0].get("/user").json()["key"] == "user"


def test_a_key_that_reads_the_record_says_so(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    def undeclared(connection: Any) -> str:
        return str(session_of(connection).get("group"))

    @reads_session
    def declared(connection: Any) -> str:
        return str(session_of(connection).get("group"))

    def by_claims(connection: Any) -> str:
        return str(session_of(connection).subject)

    for key, works in ((undeclared, False), (declared, True), (by_claims, True)):
        shop = Shop(memory_backend, limits=limit("100/minute", key=key))
        client = open_client(shop.app)
        if works:
            shop.ask(client, login, "POST")
            assert shop.ask(client, who) == "alice"
        else:
            shop.do = login
            client.post("/do")
            with pytest.raises(SessionNotReady, match="@reads_session"):
                client.get("/do")


def test_single_middlewares_share_what_they_keep(open_client: OpenClient) -> None:
    async def login(request: Request) -> Response:
        await session_of(request).login("alice")
        return Response()

    @limit("2/minute", key=by_user)
    async def me(request: Request) -> Response:
        return PlainTextResponse(str(who(request)))

    app = Starlette(routes=[Route("/login", login, methods=["POST"]), Route("/me", me)])
    app.add_middleware(RateLimitMiddleware)
    app.add_middleware(SessionMiddleware, secret=SECRET)
    client = open_client(app)
    client.post("/login")
    cookie = client.cookies["__Host-session"]
    assert [client.get("/me").text for _ in range(2)] == ["alice", "alice"]
    assert client.get("/me").json()["key"] == "user"
    client.cookies.clear()
    assert client.get("/me").text == "None"
    client.cookies.set("__Host-session", cookie, domain="testserver.local")
    assert client.get("/me").status_code == 429


def test_keys_overlap_while_they_are_exchanged(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    other = "another secret of more than 32 bytes, yes"
    old, both, new = (Shop(memory_backend), Shop(memory_backend), Shop(memory_backend))
    for shop, secret in ((both, [other, SECRET]), (new, [other])):
        shop.cop = TrafficCop(memory_backend, session_secret=secret)
        shop.app = Starlette(routes=[Route("/do", shop._endpoint, methods=["GET", "POST"])])
        shop.cop.install(shop.app)
    client = open_client(old.app)
    old.ask(client, login, "POST")
    cookie = {"Cookie": f"__Host-session={client.cookies['__Host-session']}"}
    assert both.ask(open_client(both.app, headers=cookie), who) == "alice"
    assert new.ask(open_client(new.app, headers=cookie), who) is None


def test_the_public_keys_are_there_for_others(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    cop = TrafficCop(memory_backend, session_secret=pem, session_algorithm="EdDSA")
    app = Starlette(routes=cop.session_routes(prefix=""))
    cop.install(app)
    answer = open_client(app).get("/.well-known/jwks.json")
    (key,) = answer.json()["keys"]
    assert (key["kty"], key["crv"], "d" in key) == ("OKP", "Ed25519", False)
    assert json.dumps(key)


def test_verify_asks_whether_the_session_stands(shop: Shop, open_client: OpenClient) -> None:
    client = open_client(shop.app)
    tokens = shop.ask(client, login, "POST")

    async def verify(request: Request) -> Any:
        return (await shop.cop.sessions.verify(tokens["access_token"])).subject

    assert shop.ask(client, verify) == "alice"
    shop.ask(client, lambda request: session_of(request).logout(), "POST")
    shop.do = verify
    assert client.get("/do").status_code == 401
