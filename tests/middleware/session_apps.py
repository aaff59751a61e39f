"""What the attacks on sessions share: an app to attack, requests byte by byte, and tokens that an attacker writes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.adapters.ageing import age
from tests.adapters.tokens import forge, hs256
from tests.asgi import Message, http_scope
from traffic_cop_middleware import Event, TrafficCop, by_user, limit, require_session, session_of
from traffic_cop_middleware.testing import FakeClock

SECRET = "the secret that signs in the attack tests"
OTHER_SECRET = "another secret, which no app here knows of"
COOKIE = "__Host-session"
WAYS = ("cookie", "bearer")
TYPES = {"cookie": "session+jwt", "bearer": "at+jwt", "refresh": "rt+jwt"}

Call = Callable[[Request], Any]
Token = str | bytes
RawHeaders = Iterable[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def cookie(self) -> str | None:
        """The session cookie's new value: empty where it is taken away, `None` where it stays."""
        found = [value.partition(";")[0].partition("=")[2].strip('"') for value in self.all("set-cookie")]
        assert len(found) < 2, found
        return found[0] if found else None


class Tokens(NamedTuple):
    """All that a client has who logged in."""

    cookie: str
    bearer: str
    refresh: str

    def by(self, way: str) -> dict[str, Any]:
        """Its credential, as `Stage.ask` takes it."""
        return {way: getattr(self, way)}


class Stage:
    """An app with sessions, what the cop told of it, and requests to it.

    An exception that comes out of the app fails the test: nothing that a client sends may be a 500.
    """

    def __init__(self, backend: Any, *, wrap: bool = False, routes: Iterable[Any] = (), **settings: Any) -> None:
        self.events: list[Event] = []
        self.cop = TrafficCop(backend, **{"session_secret": SECRET, "observer": self.events.append, **settings})
        self.do: Call = lambda request: None
        inner = Starlette(
            routes=[
                Route("/public", self._public, methods=["GET", "POST"]),
                Route("/private", self._private, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"]),
                Route("/plain", self._plain, methods=["GET", "POST"]),
                Route("/login", self._login, methods=["GET", "POST"]),
                Route("/keep", self._keep, methods=["GET", "POST"]),
                Route("/do", self._do, methods=["GET", "POST"]),
                Route("/limited", limit("2/hour", key=by_user)(_limited)),
                WebSocketRoute("/socket", _socket),
                WebSocketRoute("/open-socket", open_socket),
                *routes,
                *self.cop.session_routes(),
            ]
        )
        self.inner = inner
        if wrap:
            self.app: Any = self.cop.wrap(inner)
        else:
            self.cop.install(inner)
            self.app = inner
        self.client: TestClient | None = None

    # Endpoints

    @staticmethod
    async def _public(request: Request) -> Response:
        session = session_of(request)
        return JSONResponse({"subject": session.subject, "data": dict(session)})

    @staticmethod
    async def _private(request: Request) -> Response:
        session = require_session(request)
        return JSONResponse({"subject": session.subject, "data": dict(session), "id": session.id})

    @staticmethod
    async def _plain(request: Request) -> Response:
        return JSONResponse({})

    @staticmethod
    async def _login(request: Request) -> Response:
        tokens = await session_of(request).login(request.query_params.get("sub", "alice"))
        return JSONResponse(tokens._asdict())

    @staticmethod
    async def _keep(request: Request) -> Response:
        request.session[request.query_params["k"]] = request.query_params["v"]
        return JSONResponse(dict(request.session))

    async def _do(self, request: Request) -> Response:
        done = self.do(request)
        if isinstance(done, Awaitable):
            done = await done
        return done if isinstance(done, Response) else JSONResponse(done)

    # Requests

    async def send(
        self,
        method: str,
        path: str,
        *,
        cookie: Token | None = None,
        bearer: Token | None = None,
        headers: RawHeaders = (),
        body: bytes = b"",
        address: str = "203.0.113.7",
    ) -> Answer:
        path, _, query = path.partition("?")
        given = [(b"host", b"testserver")]
        if cookie is not None:
            given.append((b"cookie", COOKIE.encode() + b"=" + _bytes(cookie)))
        if bearer is not None:
            given.append((b"authorization", b"Bearer " + _bytes(bearer)))
        scope = http_scope(
            path,
            method,
            scheme="https",
            query_string=query.encode(),
            headers=[*given, *headers],
            client=(address, 4711),
        )
        incoming = iter([{"type": "http.request", "body": body, "more_body": False}])
        sent: list[Message] = []

        async def receive() -> Message:
            for message in incoming:
                return message
            await anyio.sleep_forever()  # the client waits for its answer
            raise AssertionError

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, keep)
        starts = [message for message in sent if message["type"] == "http.response.start"]
        assert len(starts) == 1, sent
        answered = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in starts[0]["headers"]]
        text = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
        return Answer(starts[0]["status"], answered, text)

    def run(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run something on the app's event loop."""
        assert self.client is not None
        assert self.client.portal is not None
        return self.client.portal.call(partial(function, *args, **kwargs))

    def ask(self, method: str, path: str, **kwargs: Any) -> Answer:
        answer: Answer = self.run(self.send, method, path, **kwargs)
        return answer

    def act(self, do: Call, method: str = "POST", **kwargs: Any) -> Answer:
        self.do = do
        return self.ask(method, "/do", **kwargs)

    def login(self, subject: str = "alice", **kwargs: Any) -> Tokens:
        answer = self.ask("POST", f"/login?sub={subject}", **kwargs)
        assert answer.status == 200, answer
        found = answer.json()
        return Tokens(answer.cookie or "", found["access_token"], found["refresh_token"])

    def refresh(self, token: str) -> Answer:
        return self.ask("POST", "/auth/refresh", body=json.dumps({"refresh_token": token}).encode())

    def subject(self, **credential: Any) -> str | None:
        """Who the app takes a client for; the public and the private route agree."""
        public, private = self.ask("GET", "/public", **credential), self.ask("GET", "/private", **credential)
        assert public.status == 200, public
        subject: str | None = public.json()["subject"]
        assert private.status == (401 if subject is None else 200), private
        assert subject is None or private.json()["subject"] == subject
        return subject

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if event.kind.startswith("session.")]

    @property
    def backend(self) -> Any:
        return self.run(self._opened).backend

    async def _opened(self) -> Any:
        return await self.cop._parts.open()


def _bytes(token: Token) -> bytes:
    return token.encode() if isinstance(token, str) else token


async def _limited(request: Request) -> Response:
    return JSONResponse({})


async def _socket(socket: WebSocket) -> None:
    session = require_session(socket)
    await socket.accept()
    await echo(socket, session.subject)


async def open_socket(socket: WebSocket) -> None:
    await socket.accept()
    await echo(socket, session_of(socket).subject)


async def echo(socket: WebSocket, subject: str | None) -> None:
    await socket.send_json({"subject": subject})
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


@dataclass
class Place:
    """A backend for stages, and its time: on memory a fake clock, on Redis records that are made older."""

    backend: Any
    clock: FakeClock | None
    redis: Any = None
    ahead: float = 0.0
    stages: list[Stage] = field(default_factory=list)

    def now(self) -> float:
        return self.clock() if self.clock is not None else time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        if self.clock is not None:
            self.clock.advance(seconds)
            return
        self.ahead += seconds
        stage = self.stages[0]
        stage.run(age, stage.backend.link, "tc:", seconds)


# Tokens


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token."""
    header, claims, _ = (base64.urlsafe_b64decode(part + "==") for part in token.split("."))
    return json.loads(header), json.loads(claims)


def resigned(
    token: str,
    *,
    header: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    secret: str = SECRET,
) -> str:
    """A token with some members changed (`None` takes one out), signed again: as a key holder's mistake would be."""
    old_header, old_claims = parts_of(token)
    return forge(_changed(old_header, header), _changed(old_claims, claims), hs256(secret))


def _changed(members: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    changed = {**members, **(changes or {})}
    return {name: value for name, value in changed.items() if value is not GONE}


GONE: Any = object()
"""The value of a member that is to be left out."""


async def at_once(*asked: Awaitable[Any]) -> list[Any]:
    """Await several things at the same time; in order."""
    found: dict[int, Any] = {}

    async def one(number: int, awaitable: Awaitable[Any]) -> None:
        found[number] = await awaitable

    async with anyio.create_task_group() as tasks:
        for number, awaitable in enumerate(asked):
            tasks.start_soon(one, number, awaitable)
    return [found[number] for number in range(len(asked))]


def until(condition: Callable[[], object], deadline: float = 30.0) -> None:
    """Wait until `condition` holds, at most `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"did not come about within {deadline} s"
        time.sleep(0.005)
