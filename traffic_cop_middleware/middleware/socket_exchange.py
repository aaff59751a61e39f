"""One WebSocket through the gateway: the upstream's first, then the client's, and then messages both ways."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from starlette.types import Receive, Scope, Send

from traffic_cop_middleware.abstractions.forwarding import MalformedRequest, response_fields, socket_fields
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts.transport import Transport, UpstreamSocket
from traffic_cop_middleware.errors import UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from traffic_cop_middleware.middleware.exchange import (
    BAD_GATEWAY,
    TOO_LATE,
    UNREACHABLE,
    Forwarding,
    malformed,
    outgoing,
)
from traffic_cop_middleware.middleware.refusals import Answer, Refusal, answer_with, refuse

SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
"""Close codes that may be sent (RFC 6455, section 7.4, and its registry); beside them 3000 to 4999."""
LOST = 1011
"""What the client hears when the upstream just went away, for 1006 is never sent."""

Emit = Callable[[str, Mapping[str, Any]], None]


class SocketExchange:
    """Forwards WebSockets. The client is accepted only when the upstream has taken the connection."""

    def __init__(self, transport: Callable[[], Transport], emit: Emit) -> None:
        self._transport = transport
        self._emit = emit

    async def run(self, scope: Scope, receive: Receive, send: Send, forwarding: Forwarding) -> None:
        """Connect a client with an upstream until one of them leaves."""
        start = monotonic()
        told: dict[str, Any] = {"route": forwarding.route, "upstream": None, "attempts": 0, "status": None}
        found = await self._connect(scope, forwarding, told)
        if isinstance(found, Answer):
            told["status"] = found.refusal.status
            self._emit("route.forwarded", {**told, "seconds": monotonic() - start})
            await refuse(scope, receive, send, answer=found, fields=(), on_refusal=None)
            return
        told["status"] = 101
        try:
            if (await receive())["type"] != "websocket.connect":
                await found.close(1001, "")
                return
            headers = [
                field
                for field in response_fields(found.fields, changes=forwarding.policy.response_changes)
                if not field[0].startswith(b"sec-websocket-")
            ]
            await send({"type": "websocket.accept", "subprotocol": found.subprotocol, "headers": headers})
            await self._both_ways(receive, send, found)
        finally:
            told["seconds"] = monotonic() - start
            self._emit("route.forwarded", told)

    async def _connect(self, scope: Scope, forwarding: Forwarding, told: dict[str, Any]) -> UpstreamSocket | Answer:
        tried: list[Upstream] = []
        while (upstream := forwarding.pool.pick(tried)) is not None:
            told["upstream"] = upstream.name
            told["attempts"] += 1
            try:
                request = outgoing(scope, forwarding, upstream, None)
                request = request._replace(fields=socket_fields(request.fields))
                return await self._transport().connect(
                    upstream.origin,
                    request,
                    subprotocols=scope.get("subprotocols", ()),
                    deadlines=forwarding.policy.deadlines,
                )
            except MalformedRequest as exc:
                return malformed(exc)
            except UpstreamRefused as exc:
                status = exc.status if 400 <= exc.status <= 599 else 502
                detail = "The service behind this route did not take the WebSocket."
                return answer_with(Refusal(status, (), "", 0, detail), title="WebSocket refused")
            except UpstreamError as exc:
                self._emit(
                    "upstream.failed",
                    {"route": forwarding.route, "upstream": upstream.name, "error": type(exc).__name__},
                )
                if not isinstance(exc, UpstreamUnreachable):
                    return TOO_LATE if isinstance(exc, UpstreamTimeout) else BAD_GATEWAY
                tried.append(upstream)
        return UNREACHABLE

    @staticmethod
    async def _both_ways(receive: Receive, send: Send, upstream: UpstreamSocket) -> None:
        """Pass messages on, each way at the pace of who takes them, until one side closes."""
        up = asyncio.create_task(_to_upstream(receive, upstream))
        down = asyncio.create_task(_to_client(send, upstream))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            left = up.result() if up.done() and not up.cancelled() and up.exception() is None else None
            if left is not None:  # the client has closed
                await upstream.close(*left)
            else:
                code, reason = upstream.closed
                await upstream.close(1001, "")
                with contextlib.suppress(OSError, RuntimeError):
                    sendable = code in SENDABLE or 3000 <= code <= 4999
                    normal = 1000 if code == 1005 else LOST
                    await send(
                        {"type": "websocket.close", "code": code if sendable else normal, "reason": reason or None}
                    )


async def _to_upstream(receive: Receive, upstream: UpstreamSocket) -> tuple[int, str] | None:
    """Pass on what the client sends; the code and reason it closed with, `None` where the upstream is gone."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return message.get("code") or 1005, message.get("reason") or ""
        text = message.get("text")
        try:
            await upstream.send(text if text is not None else message["bytes"])
        except UpstreamError:
            return None


async def _to_client(send: Send, upstream: UpstreamSocket) -> None:
    """Pass on what the upstream sends until it closes."""
    while (message := await upstream.receive()) is not None:
        kind = "text" if isinstance(message, str) else "bytes"
        await send({"type": "websocket.send", kind: message})
