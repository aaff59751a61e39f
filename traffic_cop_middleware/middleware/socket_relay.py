"""Messages between a WebSocket's client and an upstream: each way at the pace of who takes them, until one leaves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.types import Message, Receive, Send

from traffic_cop_middleware.contracts.transport import UpstreamSocket
from traffic_cop_middleware.errors import UpstreamError

SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
"""Close codes that may be sent (RFC 6455, section 7.4, and its registry); beside them 3000 to 4999."""
NO_CODE = 1005
GOING_AWAY = 1001
"""What an upstream hears when the client just went away, for 1006 is never sent."""
BAD_GATEWAY = 1014
"""What a client hears when the upstream just went away, or sent what is no WebSocket (IANA's registry; 502 in HTTP)."""
GONE = "the service behind this route went away"
PATIENCE = 0.2
"""Seconds that a client who takes nothing any more has to say why."""
TURN = 64
"""Messages after which the others on this event loop get a turn, where none of them had to wait."""

Closing = tuple[int, str]


class Relay:
    """One WebSocket whose both sides are open. `first` is a `receive` of the client that was begun before.

    `up` and `down` count the messages that were passed on; `closed_by` is "client", "upstream" or "" (cancelled), and
    `code` what the other one heard.
    """

    def __init__(self, first: asyncio.Future[Message], receive: Receive, send: Send, upstream: UpstreamSocket) -> None:
        self._first = first
        self._receive = receive
        self._send = send
        self._upstream = upstream
        self.up = 0
        self.down = 0
        self.closed_by = ""
        self.code: int | None = None

    async def run(self) -> None:
        """Pass messages on until one side closes, and close the other with the same code and reason."""
        up = asyncio.create_task(self._to_upstream())
        down = asyncio.create_task(self._to_client())
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if not up.done() and down.exception() is not None:
                await asyncio.wait({up}, timeout=PATIENCE)
        finally:
            await _end(up, down)
        closing = up.result() if not up.cancelled() else None
        failed = down.exception() if not down.cancelled() else None
        if closing is None and failed is None:
            await self._close_client(*self._upstream.closed)
            return
        self.closed_by = "client"
        self.code, reason = closing or (GOING_AWAY, "")
        await self._upstream.close(self.code, reason)
        if failed is not None and not isinstance(failed, (OSError, RuntimeError)):  # servers say so of one who is gone
            raise failed

    async def _to_upstream(self) -> Closing:
        """Pass on what the client sends; the code and reason to close the upstream with when it leaves.

        Where the upstream is gone it goes on for the client's leaving: what the upstream said last is still on its way.
        """
        upstream, receive = self._upstream, self._receive
        gone = False
        message = await self._first
        while message["type"] != "websocket.disconnect":
            text = message.get("text")
            try:
                if not gone:
                    await upstream.send(text if text is not None else message["bytes"])
                    self.up += 1
            except UpstreamError:
                gone = True
            if self.up % TURN == 0:
                await asyncio.sleep(0)
            message = await receive()
        return _closing_of(message)

    async def _to_client(self) -> None:
        """Pass on what the upstream sends until it closes."""
        upstream, send = self._upstream, self._send
        while (message := await upstream.receive()) is not None:
            if isinstance(message, str):
                await send({"type": "websocket.send", "text": message})
            else:
                await send({"type": "websocket.send", "bytes": message})
            self.down += 1
            if self.down % TURN == 0:
                await asyncio.sleep(0)

    async def _close_client(self, code: int, reason: str) -> None:
        """The upstream has left: tell the client, by a code that may be sent."""
        self.closed_by = "upstream"
        if code == NO_CODE:
            code = 1000
        elif not may_be_sent(code):
            code, reason = BAD_GATEWAY, GONE
        self.code = code
        with contextlib.suppress(OSError, RuntimeError):  # it has left as well
            await self._send({"type": "websocket.close", "code": code, "reason": reason})


def may_be_sent(code: int) -> bool:
    """Whether a close frame may have this code."""
    return code in SENDABLE or 3000 <= code <= 4999


def _closing_of(message: Message) -> Closing:
    """How a client left: its code and reason. 1005 is a close without a code only where a server says more with it;
    uvicorn says it alone of a connection that was just cut.
    """
    code: int = message.get("code") or NO_CODE
    if may_be_sent(code) or (code == NO_CODE and "reason" in message):
        return code, message.get("reason") or ""
    return GOING_AWAY, ""


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
