"""A WebSocket whose session may end while it is open: then it is closed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, MutableMapping
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware.abstractions.request_session import RequestSession
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.loops import Signal

POLICY_VIOLATION = 1008
"""RFC 6455, section 7.4.1."""
REASON = "the session has ended"
LOOK_AFTER = 60.0
"""Seconds between two looks at the record: sessions also run out, and a socket that is used keeps its own alive."""
CLOSE_WITHIN = 5.0
"""Seconds that the app's sends may still wait for the client when the session has ended, and then the close as well."""


class Socket:
    """One connection, between the server and the app."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._receiving: set[anyio.CancelScope] = set()
        self._sending: set[anyio.CancelScope] = set()
        self._sent: anyio.Event | None = None
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
            with anyio.CancelScope() as scope:
                self._receiving.add(scope)
                try:
                    message = await self._receive()
                finally:
                    self._receiving.discard(scope)
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
        with anyio.CancelScope() as scope:
            self._sending.add(scope)
            try:
                await self._send(message)
            finally:
                self._sending.discard(scope)
                if self._sent is not None and not self._sending:
                    self._sent.set()
            return
        raise self.ended

    async def close(self) -> None:
        """The session has ended: the app hears of it at once, the client when it reads.

        A client that reads nothing can't keep the app: what that sends is given up, and so is the close in the end.
        """
        if self._open:
            self._open = False
            self.closing = True
            for scope in self._receiving:
                scope.cancel()
            await self._end_sending()
            with (
                anyio.move_on_after(CLOSE_WITHIN),
                contextlib.suppress(OSError),  # the client is gone already, as ASGI servers say it: as good
            ):
                await self._send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": REASON})

    async def _end_sending(self) -> None:
        """Wait for what the app is sending, for servers take no close beside it; give it up where it waits long."""
        self._sent = anyio.Event()
        for _ in range(2):
            if self._sending:
                with anyio.move_on_after(CLOSE_WITHIN):
                    await self._sent.wait()
                for scope in self._sending:
                    scope.cancel()


async def run_socket(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    session: RequestSession,
    management: SessionManagementAbstraction,
) -> None:
    """Run a WebSocket's app, and close it when its session is ended, or has run out.

    The session is the one that it has by then: apps log in and renew ids during the handshake and after it.
    """
    socket = Socket(receive, send)
    failed: Exception | None = None
    watch = Watch(session, management)
    session.on_move(watch.follow)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_close_when_ended, socket, session, watch)
            try:
                await app(scope, socket.receive, socket.send)
            except Exception as exc:  # noqa: BLE001 - raised again outside: a task group would wrap it
                failed = exc
            if not socket.closing:  # the app may have ended by that, and the close is yet to go out
                tasks.cancel_scope.cancel()
    finally:
        session.on_move(None)
        watch.stop()
    if failed is not None and failed is not socket.ended:
        raise failed


class News:
    """What is heard of a session: that it may have ended, or surely has."""

    def __init__(self) -> None:
        self.surely = False
        self._heard = Signal()

    def tell(self, sure: bool) -> None:
        """Something was heard, in any thread."""
        self.surely = self.surely or sure
        self._heard.set()

    async def wait(self, most: float | None) -> None:
        """Wait for news, `most` seconds."""
        with anyio.move_on_after(most):
            await self._heard.wait()
        self._heard = Signal()


class Watch:
    """Hears of the end of a socket's session, whichever that is at present."""

    def __init__(self, session: RequestSession, management: SessionManagementAbstraction) -> None:
        self._session = session
        self._management = management
        self._watching: Callable[[], None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.news = News()
        self.place = self._session.place
        if self.place is not None:
            self._watching = self._management.watch(self.place[0], self.news.tell)

    def follow(self) -> None:
        """The session may be another one by now; it is looked after, for it may have ended before it was watched."""
        if self._session.place != self.place:
            former = self.news
            self.stop()
            self._begin()
            former.tell(False)
        self.news.tell(False)

    def stop(self) -> None:
        """Hear of nothing any more."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching()


async def _close_when_ended(socket: Socket, session: RequestSession, watch: Watch) -> None:
    while True:
        news, place = watch.news, watch.place
        await news.wait(LOOK_AFTER if place is not None else None)
        if news is not watch.news or place is None or session.moving:
            continue  # a move tells when it is done
        used, socket.used = socket.used, False
        if not news.surely and await session.stands(place, used=used):
            continue
        if news is watch.news and not session.moving:
            break
    await socket.close()
