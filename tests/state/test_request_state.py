"""`state_of(request)`: the state of whoever sends a request, as a handler meets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from tests.middleware.test_session_round_trips import LOAD, TAKE, Wire, wire
from tests.servers import RedisServer
from traffic_cop_middleware import (
    ConfigurationError,
    RequestState,
    Session,
    TrafficCop,
    limit,
    reads_session,
    session_of,
    state_of,
    uses_state,
)
from traffic_cop_middleware.abstractions.state.request_state import StateMapping
from traffic_cop_middleware.adapters.redis import state as redis_state
from traffic_cop_middleware.contracts.state import check_key

__all__ = ["wire"]

State = Annotated[RequestState, Depends(state_of)]
SECRET = "a secret for the tests of the state of requests"


class Client:
    """An app with state, and a browser at it."""

    def __init__(self, url: str, documents: str = "memory://", **settings: Any) -> None:
        self.cop = TrafficCop(
            url, documents=documents, session_secret=SECRET, limits="1000/minute", deadline=10, **settings
        )
        self.app = FastAPI()
        self.cop.install(self.app)
        self._routes()

    def _routes(self) -> None:
        app = self.app

        @app.post("/login/{name}")
        async def login(name: str, session: Annotated[Session, Depends(session_of)], tenant: str = "") -> str:
            await session.login(name, claims={"tenant": tenant} if tenant else None)
            return name

        @app.post("/regenerate")
        async def regenerate(session: Annotated[Session, Depends(session_of)]) -> None:
            await session.regenerate()

        @app.get("/state")
        async def read(state: State) -> dict[str, Any]:
            return {"session": dict(state.session), "user": dict(state.user)}

        @app.put("/{part}/{key}")
        async def write(part: str, key: str, state: State, value: str = "1", status: int = 200) -> Response:
            getattr(state, part)[key] = value
            return JSONResponse(None, status)

        @app.post("/count")
        async def count(state: State) -> int:
            found: int = await state.user.update("count", lambda number: (number or 0) + 1)
            return found

        @app.get("/undeclared")
        async def undeclared(request: Request) -> dict[str, Any]:
            return dict(state_of(request).user)

        @app.get("/loaded")
        async def loaded(request: Request) -> dict[str, Any]:
            state = state_of(request)
            await state.user.load()
            return dict(state.user)

        @app.get("/items")
        async def items(state: State) -> list[str]:
            return [item.key for item in (await state.tenant.list("user")).items]

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url="https://testserver")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def there(url: str) -> Client:
    return Client(url)


@pytest.fixture
def browser(there: Client) -> Iterator[TestClient]:
    with there.browser() as browser:
        yield browser


def another(there: Client, browser: TestClient) -> TestClient:
    other = there.browser()
    other.portal = browser.portal
    return other


def test_what_a_handler_changes_is_there_for_the_next_request(browser: TestClient) -> None:
    browser.post("/login/alice")
    assert browser.get("/state").json() == {"session": {}, "user": {}}
    assert browser.put("/user/color?value=red").status_code == 200
    assert browser.put("/session/step?value=2").status_code == 200
    assert browser.get("/state").json() == {"session": {"step": "2"}, "user": {"color": "red"}}


def test_a_users_state_follows_the_user_and_a_sessions_state_the_session(there: Client, browser: TestClient) -> None:
    browser.post("/login/alice")
    browser.put("/user/color?value=red")
    browser.put("/session/step?value=2")
    other = another(there, browser)
    other.post("/login/alice")
    assert other.get("/state").json() == {"session": {}, "user": {"color": "red"}}
    other.post("/login/bob")
    assert other.get("/state").json() == {"session": {}, "user": {}}


def test_a_sessions_state_goes_along_when_the_session_gets_another_id(browser: TestClient) -> None:
    browser.post("/login/alice")
    browser.put("/session/step?value=2")
    for path in ("/regenerate", "/login/alice"):
        assert browser.post(path).status_code == 200
        assert browser.get("/state").json()["session"] == {"step": "2"}


def test_users_of_one_name_in_two_tenants_share_nothing(there: Client, browser: TestClient) -> None:
    browser.post("/login/alice?tenant=acme")
    browser.put("/user/color?value=red")
    other = another(there, browser)
    other.post("/login/alice?tenant=other")
    assert other.get("/state").json()["user"] == {}
    assert other.get("/items").json() == []
    assert browser.get("/items").json() == ["alice"]


def test_two_requests_that_change_different_keys_both_keep_their_change(browser: TestClient) -> None:
    browser.post("/login/alice")
    for number in range(5):
        browser.put(f"/user/k{number}")
    assert browser.get("/state").json()["user"] == {f"k{number}": "1" for number in range(5)}
    assert [browser.post("/count").json() for _ in range(3)] == [1, 2, 3]


def test_a_response_that_failed_writes_nothing(browser: TestClient) -> None:
    browser.post("/login/alice")
    assert browser.put("/user/color?status=500").status_code == 500
    assert browser.get("/state").json()["user"] == {}


def test_nobody_has_no_state_and_a_write_of_it_is_401(browser: TestClient) -> None:
    assert browser.get("/state").json() == {"session": {}, "user": {}}
    answer = browser.put("/user/color")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert browser.put("/session/color").status_code == 401


def test_state_that_was_not_declared_is_read_by_load_or_said_to_be_missing(browser: TestClient) -> None:
    browser.post("/login/alice")
    browser.put("/user/color?value=red")
    assert browser.get("/loaded").json() == {"color": "red"}
    with pytest.raises(Exception, match=r"@uses_state\('user'\)"):
        browser.get("/undeclared")


@uses_state("user")
async def marked(request: Request) -> Response:
    return JSONResponse(dict(state_of(request).user))


def test_a_marked_endpoint_of_starlette_has_it_also_below_a_mount() -> None:
    async def login(request: Request) -> Response:
        await session_of(request).login("alice")
        return JSONResponse(None)

    app = Starlette(routes=[Route("/login", login), Mount("/below", routes=[Route("/state", marked)])])
    cop = TrafficCop(session_secret=SECRET)
    cop.install(app)
    with TestClient(app, base_url="https://testserver") as browser:
        browser.get("/login")
        assert browser.get("/below/state").json() == {}


def test_a_mistyped_part_is_an_error_and_so_is_a_mark_without_parentheses() -> None:
    with pytest.raises(ConfigurationError, match="'session', 'user'"):
        uses_state("users")
    with pytest.raises(ConfigurationError, match=r"@uses_state\(\)"):
        uses_state(marked)  # type: ignore[arg-type]


def test_without_sessions_there_is_nobody(url: str) -> None:
    app = FastAPI()
    TrafficCop(url).install(app)

    @app.get("/")
    async def here(request: Request) -> None:
        state_of(request)

    with TestClient(app) as browser, pytest.raises(LookupError, match="session_secret"):
        browser.get("/")


@pytest.mark.redis_server
def test_state_that_is_declared_comes_in_the_sessions_round_trip(wire: Wire, redis_server: RedisServer) -> None:
    there = Client(redis_server.url, state_near_items=0)
    with there.browser() as browser:
        browser.post("/login/alice")
        browser.put("/user/color?value=red")
        for _ in range(2):  # the first time scripts may be loaded
            writes = wire.during(browser, lambda: browser.get("/state"))
        assert len(writes) == 1
        assert sorted(writes[0]) == sorted([LOAD, TAKE, *[redis_state.LOAD.sha] * 2])


def test_a_profile_that_lasts_is_there_after_a_restart(tmp_path: Path) -> None:
    documents = f"sqlite:///{tmp_path}/state.db"
    for value in ({}, {"color": "red"}):
        there = Client("memory://", documents)

        @there.app.post("/keep")
        async def keep(state: Annotated[RequestState, Depends(state_of)]) -> None:
            state.user.tier = "immediate"
            state.user["color"] = "red"

        with there.browser() as browser:
            browser.post("/login/alice")
            assert browser.get("/state").json()["user"] == value
            assert browser.post("/keep").status_code == 200


class Whose:
    """As much of a session as says whose state it is."""

    known_id = "id"

    def __init__(self, subject: str, issuer: str = "") -> None:
        self.claims: dict[str, Any] = {}
        self.subject = subject
        self.issuer = issuer


def key_of(subject: str, issuer: str = "") -> Any:
    state: Any = RequestState.__new__(RequestState)
    state._session = Whose(subject, issuer)
    return state._key("user")


def test_a_user_of_ours_can_be_called_as_one_of_another_issuer_and_gets_nothing_of_theirs() -> None:
    assert key_of("alice", issuer="https://idp.example") != key_of("https://idp.example alice")
    assert key_of("alice", issuer="https://idp.example") != key_of("alice")


@pytest.mark.parametrize("subject", ["x" * 600, "a\0b", "\u00e4" * 300])
def test_a_subject_that_is_too_long_or_odd_for_a_key_has_state_all_the_same(subject: str) -> None:
    check_key(key_of(subject))
    assert key_of(subject) == key_of(subject) != key_of(subject + "x")


@pytest.mark.redis_server
def test_a_refused_request_leaves_no_question_behind(redis_server: RedisServer) -> None:
    there = Client(redis_server.url)

    @there.app.get("/limited")
    @limit("1/hour", key=reads_session(lambda connection: session_of(connection).subject))
    @uses_state()
    async def limited(request: Request) -> None: ...

    with there.browser() as browser:
        browser.post("/login/alice")
        assert [browser.get("/limited").status_code for _ in range(5)] == [200, 429, 429, 429, 429]
        near = there.cop._parts.opened.state.house.reader.near  # type: ignore[union-attr]
        assert near is not None
        assert near._fills == set()


def of_tenant(tenant: Any) -> Any:
    state: Any = RequestState.__new__(RequestState)
    state._session = Whose("alice", "")
    state._session.claims = {} if tenant is None else {"tenant": tenant}
    return state._key("user")


TENANTS = ["acme", 42, 43, 42.5, True, ["acme"], {"id": 1}, "x" * 600, "x" * 601, "a\0b", "\u00e4" * 300]


@pytest.mark.parametrize("tenant", TENANTS, ids=lambda tenant: repr(tenant)[:20])
def test_a_tenant_of_any_kind_or_length_has_state_of_its_own(tenant: Any) -> None:
    key = of_tenant(tenant)
    check_key(key)
    assert key.tenant, "not the app's own"
    assert [other for other in TENANTS if of_tenant(other) == key] == [tenant]
    assert of_tenant(None).tenant == of_tenant("").tenant == ""


@pytest.mark.parametrize("tenant", ["x" * 600, "\u00e4" * 300])
def test_a_tenant_with_a_name_that_no_store_takes_is_served_as_any_other(
    tenant: str, there: Client, browser: TestClient
) -> None:
    assert browser.post(f"/login/alice?tenant={tenant}").status_code == 200
    assert browser.put("/user/color?value=red").status_code == 200
    assert browser.get("/state").json()["user"] == {"color": "red"}
    assert browser.get("/items").json() == ["alice"]
    assert browser.post("/regenerate").status_code == 200
    other = another(there, browser)
    other.post("/login/alice")
    assert other.get("/state").json()["user"] == {}


def test_what_changed_is_looked_for_once_for_each_response(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.post("/login/alice")
    looked: list[str] = []
    find = StateMapping._changes

    def counted(self: StateMapping) -> Any:
        looked.append(self._name)
        return find(self)

    monkeypatch.setattr(StateMapping, "_changes", counted)
    assert browser.put("/user/color?value=red").status_code == 200
    monkeypatch.undo()
    # Once before the response starts, and once when it is out: was it changed later, and is lost?
    assert looked.count("user") in (1, 2)
    assert browser.get("/state").json()["user"] == {"color": "red"}
