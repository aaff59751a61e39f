"""ASGI by hand: what TestClient hides or can't send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def http_scope(path: str = "/", method: str = "GET", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver")],
        "client": ("203.0.113.7", 4711),
        "server": ("testserver", 80),
        **more,
    }


def websocket_scope(path: str = "/", **more: Any) -> dict[str, Any]:
    scope = http_scope(path, **{"type": "websocket", "scheme": "ws", "subprotocols": [], **more})
    del scope["method"]
    return scope


async def send_through(
    app: Any, scope: Scope, messages: Iterable[Message] = (), sent: list[Message] | None = None
) -> list[Message]:
    """Everything the app sends, given these messages (by default an empty body); also in `sent`, if that is given."""
    incoming = iter(messages or [{"type": "http.request", "body": b"", "more_body": False}])
    sent = [] if sent is None else sent

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def status(sent: list[Message]) -> int:
    code: int = sent[0]["status"]
    return code


def headers(sent: list[Message]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}
