"""What a request with a session costs on the socket to Redis: writes, and the commands in them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.middleware.session_apps import SECRET, WAYS, Stage, at_once
from tests.servers import RedisServer
from traffic_cop_middleware import RateLimitMiddleware, SessionMiddleware, by_user, limit, session_of
from traffic_cop_middleware.adapters.redis import sessions as store
from traffic_cop_middleware.adapters.redis.buckets import SHA as TAKE
from traffic_cop_middleware.adapters.redis.link import Link

pytestmark = pytest.mark.redis_server

LOAD, WRITE = store.LOAD.sha, store.WRITE.sha
Write = list[str]
HEARTBEATS = (b":workers", b"{records:", b":m:{records}", b":m:{limits.reset}")


class Wire:
    """The writes of all links: of each the names of its commands, for a script its hash. Heartbeats are left out."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self._links: list[Link] = []

    def wrap(self, link: Link, transport: Any) -> Any:
        self._links.append(link)
        return Watched(transport, self._written)

    def _written(self, data: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(data)
        names: Write = []
        while (command := reader.gets()) is not False:
            if not any(beats in word for word in command for beats in HEARTBEATS if isinstance(word, bytes)):
                names.append((command[1] if command[0] == b"EVALSHA" else command[0]).decode())
        if names:
            self.writes.append(names)

    async def still(self) -> None:
        """Wait until what nobody waited for is out: for some ticks nothing is asked and nothing is open."""
        ticks, end = 0, time.monotonic() + 30
        while ticks < 20:
            assert time.monotonic() < end, "something is asked again and again"
            await asyncio.sleep(0)
            busy = any(link._outgoing or link._awaiting or link._gatherers for link in self._links)
            ticks = 0 if busy else ticks + 1

    def during(self, client: TestClient, call: Callable[[], Any]) -> list[Write]:
        """What a call writes until its end, and what it leaves to be written after that."""
        assert client.portal is not None
        client.portal.call(self.still)
        self.writes.clear()
        call()
        client.portal.call(self.still)
        return list(self.writes)


class Watched:
    def __init__(self, transport: Any, written: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._tell = written

    def write(self, data: bytes) -> None:
        self._tell(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    plain = Link._transport_of
    monkeypatch.setattr(Link, "_transport_of", lambda link, connection: wire.wrap(link, plain(link, connection)))
    return wire


@pytest.fixture
def stage(wire: Wire, redis_server: RedisServer) -> Iterator[Stage]:
    """One cop with a limit on the stack, by address, and one on a route, by user."""
    routes = [Route("/mine", limit("1000/hour", key=by_user)(mine))]
    stage = Stage(redis_server.url, deadline=10, limits="1000/minute", routes=routes)
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        yield stage


async def mine(request: Request) -> Response:
    return JSONResponse([session_of(request).subject, dict(request.session)])


def change(request: Request) -> None:
    request.session["n"] = request.session.get("n", 0) + 1


@pytest.mark.parametrize("way", WAYS)
def test_the_session_and_all_limits_of_a_request_are_one_write(way: str, wire: Wire, stage: Stage) -> None:
    alice = stage.login("alice")
    for _ in range(2):  # the first time scripts may be loaded
        writes = wire.during(stage.client, lambda: stage.ask("GET", "/mine", **alice.by(way)))
    assert writes == [[LOAD, TAKE]]


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_session_is_one_command_more_and_an_unchanged_one_none(way: str, wire: Wire, stage: Stage) -> None:
    alice = stage.login("alice")
    stage.act(change, **alice.by(way))
    assert wire.during(stage.client, lambda: stage.act(lambda request: dict(request.session), **alice.by(way))) == [
        [LOAD, TAKE]
    ]
    assert wire.during(stage.client, lambda: stage.act(lambda request: None, **alice.by(way))) == [[LOAD, TAKE]]
    assert wire.during(stage.client, lambda: stage.act(change, **alice.by(way))) == [[LOAD, TAKE], [WRITE]]

    def same(request: Request) -> None:
        request.session["n"] = request.session["n"]
        request.session["x"] = 1
        del request.session["x"]

    assert wire.during(stage.client, lambda: stage.act(same, **alice.by(way))) == [[LOAD, TAKE]]

    def several(request: Request) -> None:
        request.session.update({f"key-{number}": number for number in range(50)})
        del request.session["n"]

    assert wire.during(stage.client, lambda: stage.act(several, **alice.by(way))) == [[LOAD, TAKE], [WRITE]]


def test_sessions_without_limits_are_one_command(wire: Wire, redis_server: RedisServer) -> None:
    stage = Stage(redis_server.url, deadline=10)
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        alice = stage.login("alice")
        stage.act(change, **alice.by("cookie"))
        assert wire.during(stage.client, lambda: stage.ask("GET", "/plain", **alice.by("cookie"))) == [[LOAD]]
        assert wire.during(stage.client, lambda: stage.ask("GET", "/private", **alice.by("bearer"))) == [[LOAD]]
        assert wire.during(stage.client, lambda: stage.act(change, **alice.by("bearer"))) == [[LOAD], [WRITE]]


@pytest.mark.parametrize("credential", [{}, {"cookie": "garbage"}, {"bearer": "a.b.c"}, {"cookie": "x" * 10_000}])
def test_nobodys_request_asks_for_no_session(credential: dict[str, str], wire: Wire, stage: Stage) -> None:
    stage.ask("GET", "/public", **credential)
    assert wire.during(stage.client, lambda: stage.ask("GET", "/public", **credential)) == [[TAKE]]
    assert wire.during(stage.client, lambda: stage.ask("GET", "/private", **credential)) == [[TAKE]]


def test_concurrent_requests_share_their_writes(wire: Wire, stage: Stage) -> None:
    users = [stage.login(f"user-{number}") for number in range(10)]
    stage.ask("GET", "/mine", **users[0].by("bearer"))

    def crowd() -> None:
        asked = [stage.send("GET", "/mine", **user.by(way)) for user in users for way in WAYS]
        assert {answer.status for answer in stage.run(at_once, *asked)} == {200}

    writes = wire.during(stage.client, crowd)
    assert len(writes) == 1
    assert writes[0].count(LOAD) == 20


def test_a_touch_is_one_command_a_quarter_of_the_idle_period(wire: Wire, redis_server: RedisServer) -> None:
    stage = Stage(redis_server.url, deadline=10, session_idle=1000)
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        alice = stage.login("alice")
        keys = redis_server.command("KEYS", "tc:s:*").split(b"\r\n")
        record = next(line for line in keys if line.startswith(b"tc:s:")).decode()
        stage.act(change, **alice.by("bearer"))
        redis_server.command("EXPIRE", record, "800")
        assert wire.during(stage.client, lambda: stage.ask("GET", "/private", **alice.by("bearer"))) == [[LOAD]]
        redis_server.command("EXPIRE", record, "700")
        first, touch, *census = wire.during(stage.client, lambda: stage.ask("GET", "/private", **alice.by("bearer")))
        assert (first, touch) == ([LOAD], [WRITE])
        assert census in ([], [["ZADD"]])
        assert wire.during(stage.client, lambda: stage.ask("GET", "/private", **alice.by("bearer"))) == [[LOAD]]


@pytest.mark.parametrize("way", WAYS)
def test_middlewares_that_stand_next_to_each_other_share_the_write(
    way: str, wire: Wire, redis_server: RedisServer
) -> None:
    async def login(request: Request) -> Response:
        tokens = await session_of(request).login("alice")
        return JSONResponse(tokens._asdict())

    app = Starlette(
        routes=[Route("/mine", limit("1000/hour", key=by_user)(mine)), Route("/login", login, methods=["POST"])]
    )
    app.add_middleware(RateLimitMiddleware, limits="1000/minute", backend=redis_server.url, deadline=10)
    app.add_middleware(SessionMiddleware, secret=SECRET, backend=redis_server.url, deadline=10)
    with TestClient(app, base_url="https://testserver") as client:
        token = client.post("/login").json()["access_token"]
        headers = {"authorization": f"Bearer {token}"} if way == "bearer" else {}
        if way == "bearer":
            client.cookies.clear()
        for _ in range(2):
            writes = wire.during(client, lambda: client.get("/mine", headers=headers))
        assert writes == [[LOAD, TAKE]]
        assert client.get("/mine", headers=headers).json() == ["alice", {}]


def test_a_login_a_refresh_and_a_logout_are_one_round_trip_each(wire: Wire, redis_server: RedisServer) -> None:
    """As their docstrings say. What nobody waits for (the census, the tally, the news) may travel after it."""
    stage = Stage(redis_server.url, deadline=10)
    with TestClient(stage.app, base_url="https://testserver") as client:
        stage.client = client
        for _ in range(2):
            alice = stage.login("alice")
            assert stage.refresh(alice.refresh).status == 200
            assert stage.ask("POST", "/auth/logout", **alice.by("bearer")).status == 204
        alice = stage.login("alice")
        body = json.dumps({"refresh_token": alice.refresh}).encode()
        logins = wire.during(stage.client, lambda: stage.login("alice"))
        refreshes = wire.during(stage.client, lambda: stage.ask("POST", "/auth/refresh", body=body))
        logouts = wire.during(stage.client, lambda: stage.ask("POST", "/auth/logout", **alice.by("bearer")))
    assert logins[0] == [store.CREATE.sha]
    assert refreshes[0] == [store.ROTATE.sha, LOAD]
    assert logouts[0] == [LOAD]
    assert logouts[1] == [store.END.sha]
    asked = {store.CREATE.sha, store.ROTATE.sha, store.END.sha, LOAD, WRITE}
    for later in (*logins[1:], *refreshes[1:], *logouts[2:]):
        assert not asked & set(later)
