"""Apps to ask the route table about, requests to put to them, and the route classes that people write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.middleware.route_table import Matched, RouteTable

# ---------------------------------------------------------------------------------------------------------------------
# Apps to ask about, and requests to put to them


def http(path: str, method: str = "GET", *, root_path: str = "", **headers: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("testserver", 80),
        "client": ("192.0.2.1", 5000),
        "state": {},
    }


def websocket(path: str, *, root_path: str = "", **headers: str) -> Scope:
    scope = {**http(path, root_path=root_path, **headers), "type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    return scope


def endpoint(calls: list[object] | None = None) -> Callable[[Request], Awaitable[Response]]:
    """A new endpoint, which tells `calls` of itself when it is reached."""

    async def reached(request: Request) -> Response:
        if calls is not None:
            calls.append(reached)
        return PlainTextResponse("reached")

    return reached


def socket_endpoint(calls: list[object] | None = None) -> Callable[[WebSocket], Awaitable[None]]:
    async def reached(websocket: WebSocket) -> None:
        if calls is not None:
            calls.append(reached)
        await websocket.accept()
        await websocket.close()

    return reached


async def _run(app: ASGIApp, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({**scope}, receive, send)
    return sent


def run(app: ASGIApp, scope: Scope) -> list[Message]:
    """What the app sends for one request."""
    return asyncio.run(_run(app, scope))


def status(app: ASGIApp, scope: Scope) -> int:
    started: int = run(app, scope)[0]["status"]
    return started


def bare(*, root_path: str = "", **kwargs: Any) -> FastAPI:
    """FastAPI without its own routes for the documentation."""
    app = FastAPI(openapi_url=None, **kwargs)
    app.root_path = root_path  # as an argument it is deprecated, and still in use
    return app


class Noticing:
    """Asks a table and notices what was reached, as the limiter does: at the response's start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.table = RouteTable(app)
        self.table.build()
        self.found: Matched | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.found = self.table.find(scope)

        async def send_and_notice(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.table.noticed(scope, found)
            await send(message)

        await self.app(scope, receive, send_and_notice)

    def ask(self, scope: Scope) -> Matched:
        """What the table said of a request that then ran."""
        run(self, scope)
        assert self.found is not None
        return self.found

    def rebuilds(self, *scopes: Scope) -> int:
        """How often the table was built again while these requests ran."""
        before = self.table.generation
        for scope in scopes:
            run(self, scope)
        return self.table.generation - before


# ---------------------------------------------------------------------------------------------------------------------
# Route classes that people write


class AnyCase(Route):
    """A well-known recipe: the pattern is exchanged, `matches` is Starlette's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


class AnyCaseAPIRoute(APIRoute):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


class LowerCase(APIRoute):
    """Matches what it would not by its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "path": scope["path"].lower()})


class SecondVersion(APIRoute):
    """Matches by a header."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if (b"version", b"2") not in scope["headers"]:
            return Match.NONE, {}
        return super().matches(scope)


class Suffix(BaseRoute):
    """A route of one's own, with no path at all."""

    def __init__(self, suffix: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self.suffix = suffix
        self.endpoint = endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].endswith(self.suffix):
            return Match.FULL, {"endpoint": self.endpoint}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class Closed(BaseRoute):
    """A route that hides its endpoint."""

    def __init__(self, path: str, reached: Callable[[Request], Awaitable[Response]]) -> None:
        self._path = path
        self._reached = reached

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"] == self._path:
            return Match.FULL, {"endpoint": self._reached}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._reached(Request(scope, receive, send))
        await response(scope, receive, send)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without routes."""
    if scope["type"] == "http":
        await PlainTextResponse("answer")(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})
