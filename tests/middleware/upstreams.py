"""A service behind the gateway: it says what it was asked, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.asgi import Message, Scope


@dataclass
class Service:
    """One instance; `asked` has what came, in order."""

    name: str
    url: str = ""
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [(name.decode().lower(), value.decode()) for name, value in request.raw_headers],
                "body": body.decode(),
            }
        )
        return web.json_response(
            {"from": self.name}, status=self.status, headers={"X-From": self.name, "X-Traffic-User": "forged"}
        )

    def header(self, name: str, at: int = -1) -> list[str]:
        """The values of a field of one request."""
        return [value for key, value in self.asked[at]["headers"] if key == name]


@contextlib.asynccontextmanager
async def services(*names: str) -> AsyncIterator[list[Service]]:
    """Instances that listen on 127.0.0.1 while the context lasts."""
    found, runners = [], []
    try:
        for name in names:
            service = Service(name)
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", service.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            runners.append(runner)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            service.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            found.append(service)
        yield found
    finally:
        for runner in runners:
            await runner.cleanup()


async def ask(app: Any, scope: Scope, *body: bytes) -> list[Message]:
    """What an app sends a client that waits for it, after these pieces of a body."""
    pieces = body or (b"",)
    incoming = iter(
        {"type": "http.request", "body": piece, "more_body": at < len(pieces)} for at, piece in enumerate(pieces, 1)
    )
    sent: list[Message] = []

    async def receive() -> Message:
        for message in incoming:
            return message
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def body_of(sent: list[Any]) -> Any:
    """The JSON that an app answered."""
    return json.loads(b"".join(message.get("body", b"") for message in sent if message["type"].endswith(".body")))
