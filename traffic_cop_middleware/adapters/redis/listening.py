"""A second connection, on which Redis tells of something without being asked; what it tells is a subclass's matter.

redis-py opens it, as it does the link's; then this class takes over its transport. A PING once a period finds one that
died without a word. It comes back by itself, with growing pauses, and only while the link is up: where all of Redis is
away, the link has told so, and tells when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.opening import INCOMPLETE, discard, new_reader, opened, transport_of
from traffic_cop_middleware.adapters.redis.replies import Arguments, packed
from traffic_cop_middleware.errors import StoreUnavailable

log = logging.getLogger("traffic_cop.redis")

PAUSE_FIRST, PAUSE_LONGEST = 0.05, 5.0
"""Seconds between attempts, with jitter. A connection that lived for the longest pause begins at the first again."""
FAILURES_UNTIL_TOLD = 3


class Listening(asyncio.Protocol, ABC):
    """A connection that is wanted or not; `reachable` says whether it is worth trying.

    A subclass has what stands before `__init__`: `what` Redis gives on it, what is the case `without`, and so on.
    """

    what = ""
    without = ""

    @abstractmethod
    def wanted(self) -> bool:
        """Whether there is to be a connection."""

    @abstractmethod
    def greeting(self) -> Sequence[Arguments]:
        """The commands that begin it."""

    @abstractmethod
    def take(self, reply: Any) -> None:
        """Something came, other than an error."""

    def lost(self) -> None:
        """The connection is gone."""

    def __init__(self, open_connection: Callable[[], Connection], *, reachable: Callable[[], bool]) -> None:
        self._open_connection = open_connection
        self._reachable = reachable
        self._connection: Connection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = new_reader()
        self._returning: asyncio.Task[None] | None = None
        self._unanswered = False
        self._since = 0.0
        self._pause = 0.0
        self._failures = 0
        self._told = False

    def send(self, command: Arguments) -> bool:
        """Send a command, if there is a connection."""
        if self._transport is None:
            return False
        self._transport.write(packed(command))
        return True

    def check(self) -> None:
        """Once a period: a connection that has said nothing since the last time, not even PONG, is dead."""
        if self._transport is not None and self._unanswered:
            self._lose(StoreUnavailable("it did not answer a PING"))
        elif self._transport is not None:
            self._unanswered = True
            self._transport.write(packed(["PING"]))

    def drop(self) -> None:
        """Give up the connection, at once and without a word to the server."""
        if self._returning is not None:
            self._returning.cancel()
        self._drop_connection()

    async def ended(self) -> None:
        """Wait until nothing runs any more."""
        if self._returning is not None:
            await asyncio.wait([self._returning])

    # The connection

    def come_back(self) -> None:
        """Connect, in the background."""
        if self._returning is None or self._returning.done() or self._returning.cancelling():
            self._returning = asyncio.get_running_loop().create_task(self._try_until_connected())

    async def _try_until_connected(self) -> None:
        while self.wanted() and self._transport is None:
            if self._pause:
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            if not self._reachable():
                self._pause = PAUSE_FIRST
                continue
            try:
                await self._connect()
            except Exception as exc:  # noqa: BLE001 - whatever it is: an attempt that ends never comes back
                self._fail(exc)

    async def _connect(self) -> None:
        async with opened(self._open_connection) as connection:
            if self._returning is not asyncio.current_task():  # cancelled: `wait_for` loses that on Python 3.11
                raise asyncio.CancelledError
            transport = transport_of(connection)
            if transport is None or not self.wanted():
                raise StoreUnavailable("the connection was closed")
        self._reader = new_reader()
        self._unanswered = False
        self._since = asyncio.get_running_loop().time()
        transport.set_protocol(self)
        self._connection = connection
        self._transport = transport
        for command in self.greeting():
            transport.write(packed(command))

    def _lose(self, cause: Exception) -> None:
        if self._transport is None:
            return
        self._drop_connection()
        self.lost()
        if asyncio.get_running_loop().time() - self._since >= PAUSE_LONGEST:
            self._pause = 0.0
        self._fail(cause)
        self.come_back()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._transport = None
        if connection is not None:
            discard(connection)

    def _fail(self, cause: Exception) -> None:
        self._pause = min(PAUSE_LONGEST, max(PAUSE_FIRST, self._pause * 2))
        self._failures += 1
        if self._failures >= FAILURES_UNTIL_TOLD and not self._told and self._reachable():
            self._told = True
            log.warning("Redis gives no %s (%s): %s until it does", self.what, cause, self.without)

    def came(self) -> None:
        """What the connection is for has begun."""
        self._failures = 0
        if self._told:
            self._told = False
            log.warning("Redis gives %s again", self.what)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:  # the rest of a connection that was given up
            return
        self._unanswered = False
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not INCOMPLETE:
                if isinstance(reply, hiredis.ReplyError):  # no other command can fail: this client may not have it
                    self._failures = FAILURES_UNTIL_TOLD
                    self._lose(reply)
                elif self._transport is not None:
                    self.take(reply)
        except hiredis.ProtocolError as exc:
            self._lose(exc)

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc or StoreUnavailable("it was closed"))
