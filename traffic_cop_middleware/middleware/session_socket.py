"""A WebSocket whose session may end while it is open: then it is closed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import MutableMapping
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction

POLICY_VIOLATION = 1008
"""RFC 6455, section 7.4.1."""
REASON = "the session has ended"
LOOK_AFTER = 60.0
"""Seconds between two looks at the record: sessions also run out, and a socket that is used keeps its own alive."""


class Socket:
    """One connection, between the server and the app."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._waiting: anyio.CancelScope | None = None
        self._open = True
        self._connected = False
        self.closing = False
        self.used = False
        self.ended = OSError(REASON)

    async def receive(self) -> Message:
        """What the client sends; a disconnect once the session has ended."""
        if not self._connected:  # an app that is yet to accept expects the handshake first; its answer then fails
            self._connected = True
            return await self._receive()
        if self._open:
            with anyio.CancelScope() as self._waiting:
                message = await self._receive()
                self.used = True
                return message
        return {"type": "websocket.disconnect", "code": POLICY_VIOLATION, "reason": REASON}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """What the app sends; nothing once the session has ended.

        Raises:
            OSError: it has, as ASGI servers say of a client that is gone.
        """
        if not self._open:
            raise self.ended
        self._open = message["type"] != "websocket.close"
        await self._send(message)

    async def close(self) -> None:
        """The session has ended."""
        if self._open:
            self._open = False
            self.closing = True
            with contextlib.suppress(OSError):  # the client is gone already, as ASGI servers say it: as good
                await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": REASON})
            if self._waiting is not None:
                self._waiting.cancel()


async def run_socket(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    session: RequestSession,
    management: SessionManagementAbstraction,
) -> None:
    """Run a WebSocket's app, and close it when its session is ended, or has run out."""
    verified = session.verified
    if verified is None or verified.issuer:
        await app(scope, receive, send)
        return
    socket = Socket(receive, send)
    failed: Exception | None = None
    news = News()
    stop = management.watch(verified.key, news.tell)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_close_when_ended, socket, session, news)
            try:
                await app(scope, socket.receive, socket.send)
            except Exception as exc:  # noqa: BLE001 - raised again outside: a task group would wrap it
                failed = exc
            if not socket.closing:  # the app may have ended by that, and the close is yet to go out
                tasks.cancel_scope.cancel()
    finally:
        stop()
    if failed is not None and failed is not socket.ended:
        raise failed


class News:
    """What is heard of a session: that it may have ended, or surely has."""

    def __init__(self) -> None:
        self.surely = False
        self._heard = anyio.Event()
        self._here = threading.get_ident()
        self._token = anyio.lowlevel.current_token()

    def tell(self, sure: bool) -> None:
        """Something was heard, in any thread."""
        self.surely = self.surely or sure
        if threading.get_ident() == self._here:
            self._heard.set()
        else:  # memory://name is shared by all threads of a process
            anyio.from_thread.run_sync(self._heard.set, token=self._token)

    async def wait(self) -> None:
        """Wait for news, or until it is time for a look."""
        with anyio.move_on_after(LOOK_AFTER):
            await self._heard.wait()
        self._heard = anyio.Event()


async def _close_when_ended(socket: Socket, session: RequestSession, news: News) -> None:
    while not news.surely:
        await news.wait()
        if session.verified is None:
            return  # the token was dead when it came: nobody's socket can't lose its session
        news.surely = news.surely or not await session.stands(used=socket.used)
        socket.used = False
    await socket.close()
