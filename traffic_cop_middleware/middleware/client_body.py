"""The body of a request on its way through the gateway, and whether its client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Message, Receive

MOST_COPIED = 64 * 1024
"""Bytes of a body that are kept for a mirror; requests with more are not mirrored."""
UNWATCHED = 0.1
"""Seconds that an exchange may take before a task waits for its client to leave: most end sooner, and a task that is
made and cancelled again would cost them more than all that the gateway does to their fields."""


class ClientGone(Exception):
    """The client left, and nobody waits for its answer."""


class BodyTooLarge(Exception):
    """The request's body is over the route's limit."""


class BodyTooSlow(Exception):
    """The client sent nothing of its body for the route's idle deadline."""


class ResponseNotTaken(Exception):
    """The client took nothing of its response for the route's idle deadline."""


class ClientBody:
    """Reads what the client sends, and ends the exchange when it leaves.

    Only one may call `receive` at a time: while the body comes that is who sends it on, one message ahead, and then a
    task that waits for the disconnect. Whoever hears of that cancels the task that made this, so that an upstream's
    work for a client that is gone ends soon.
    """

    def __init__(self, receive: Receive, *, expected: bool, most: int | None, idle: float) -> None:
        self._receive = receive
        self._idle = idle
        self._most = most
        self._size = 0
        self._exchange: asyncio.Task[Any] | None = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._ahead: asyncio.Task[Message] | None = None
        self.ended = not expected
        """Whether all of it has come."""
        self.gone = False
        """Whether the client has left."""
        self.too_large = False
        self.too_slow = False
        self.copied: list[bytes] | None = None
        """What came so far, where a copy is asked for; `None` once that is too much."""
        if not expected:
            self._watch()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; the next piece is asked for when the one before was taken.

        Raises:
            ClientGone, BodyTooLarge, BodyTooSlow: see there.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    message = await (self._ahead or self._next())
            except TimeoutError as exc:
                self.too_slow = True
                raise BodyTooSlow from exc
            if message["type"] == "http.disconnect":
                raise ClientGone
            body: bytes = message.get("body", b"")
            self._size += len(body)
            if self._most is not None and self._size > self._most:
                self.too_large = True
                raise BodyTooLarge
            if self.copied is not None:
                self.copied.append(body)
                if self._size > MOST_COPIED:
                    self.copied = None
            more = message.get("more_body", False)
            # Asked for ahead, so that a client that leaves is noticed while the upstream takes nothing.
            self._ahead = asyncio.create_task(self._next()) if more and body else None
            if body:
                yield body
            if not more:
                break
        self.ended = True
        self._watch()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
        return message

    def close(self) -> None:
        """The exchange is over."""
        self._exchange = None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._watcher is not None:
            self._watcher.cancel()
        if self._ahead is not None:
            self._ahead.cancel()

    async def left(self) -> bool:
        """Whether the client is gone, as far as the server knows by now. For an exchange that has failed."""
        exchange, self._exchange = self._exchange, None  # asked, it need not be cancelled
        if exchange is not None:
            if self.ended:
                self._start_watcher()
            await asyncio.sleep(0)  # a server that knows of it says so at once
            self._exchange = exchange
        return self.gone

    def _watch(self) -> None:
        self._soon = asyncio.get_running_loop().call_later(UNWATCHED, self._start_watcher)

    def _start_watcher(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._next())["type"] != "http.disconnect":
            pass

    def _leave(self) -> None:
        self.gone = True
        if self._exchange is not None:
            self._exchange.cancel()
