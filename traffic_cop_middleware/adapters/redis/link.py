"""One connection on which everything that an event loop asks for within one tick travels in one write.

Theory of operation. `ask` puts a command into a list and returns a future; the first of a tick schedules a flush by
`call_soon`, which runs after all that is ready now, so that the commands of concurrent requests are written together
and their replies are read together. Replies come in the order of the commands, so a queue of sinks is all the
bookkeeping. A future that was cancelled before the flush is not sent; one cancelled later leaves its place in the
queue, and its reply is dropped: neighbours notice nothing.

A link is `up`, `connecting` (what is asked waits, within its deadline) or `down` (what is asked fails at once, while a
probe in the background tries to come back). It goes down when a connection can't be had, or after
`MISSES_UNTIL_DOWN` failures in a row: deadlines missed, or connections that broke under a question. A connection that
breaks is opened again at once. A server that is reached but says that it can't serve (a replica, no memory left) is
asked on, for only that shows when it can again; it is told as lost and back like one that went away. Where the master
moves from server to server (sentinel.py), READONLY means that it has: the link goes down, and its way back finds it.

redis-py opens the connection (TLS, AUTH, ACL, SELECT, unix sockets); then this class takes over its transport, and
hiredis frames what goes through it (docs/decisions/0003-one-write-per-tick.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import hiredis
from redis.asyncio import Connection

from traffic_cop_middleware.adapters.redis.opening import INCOMPLETE, discard, new_reader, opened, transport_of
from traffic_cop_middleware.adapters.redis.replies import (
    NEVER,
    Answer,
    Arguments,
    Sink,
    code_of,
    packed,
    refuses,
    serves_nobody,
)
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

log = logging.getLogger("traffic_cop.redis")

MISSES_UNTIL_DOWN = 3
PROBE_FIRST, PROBE_LONGEST = 0.05, 1.0
HELD_UP = 0.01
"""A deadline that is looked at this much late was held up by the loop itself: the replies get as long to be read."""
MOST_HELD_UP = 3
"""How often in a row that is granted while nothing comes."""


class Link(asyncio.Protocol):
    """A connection to Redis that one event loop shares, and its way back after a loss.

    `open_connection` gives a fresh redis-py connection object; where the master `moves`, one that looks for it. Every
    `ask` is answered, failed or timed out within `deadline` seconds.
    """

    def __init__(
        self,
        open_connection: Callable[[], Connection],
        *,
        name: str,
        deadline: float,
        notify: Callable[[Event], None],
        moves: bool = False,
    ) -> None:
        self._open_connection = open_connection
        self._moves = moves
        self._name = name
        self._deadline = deadline
        self._notify = notify
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = new_reader()
        self._state = "closed"
        self._told_down = False
        self._outgoing: list[tuple[Arguments, Sink]] = []
        self._gatherers: list[Callable[[], None]] = []
        self._awaiting: deque[Sink] = deque()
        self._flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._watch_due = self._trouble = 0.0
        self._held_up = self._misses = 0
        self._pause = PROBE_FIRST
        self._back: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._refused: Exception | None = None

    # Asking

    @property
    def up(self) -> bool:
        return self._state == "up"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it was connected on.

        Raises:
            StoreUnavailable: it is down, or was never connected.
        """
        if self._loop is None or self._state in ("down", "closed"):
            raise StoreUnavailable(f"{self._name} is not reachable at present")
        return self._loop

    def ask(self, *command: str | bytes | int | float) -> asyncio.Future[Any]:
        """Ask one command; the future has the reply, a `StoreError` for an error reply.

        Raises:
            StoreUnavailable: the link is down.
        """
        loop = self.loop
        future: asyncio.Future[Any] = loop.create_future()
        self.put(command, Answer(future, loop.time() + self._deadline))
        return future

    def put(self, command: Arguments, sink: Sink) -> None:
        """Send `command` with what else this tick has; `sink` hears of its reply."""
        self._outgoing.append((command, sink))
        self._schedule()

    def gather(self, gatherer: Callable[[], None]) -> float:
        """Call `gatherer` right before this tick is written, so that it may `put` what it has collected.

        Returns when the deadline of what is asked now ends, on the loop's clock.
        """
        self._gatherers.append(gatherer)
        self._schedule()
        return self.loop.time() + self._deadline

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        gatherers, self._gatherers = self._gatherers, []
        try:
            for gatherer in gatherers:
                gatherer()
        finally:
            self._flush_due = False
        if not self._outgoing:
            return
        if self._state == "up":
            outgoing, self._outgoing = self._outgoing, []
            chunks = []
            for command, sink in outgoing:
                if sink.expires == NEVER or (isinstance(sink, Answer) and sink.future.done()):
                    continue
                try:
                    chunks.append(packed(command))
                except (TypeError, ValueError) as exc:
                    sink.fail(StoreError(f"a command can't be sent to {self._name}: {exc}"))
                    continue
                self._awaiting.append(sink)
            if chunks and self._transport is not None:
                self._transport.write(b"".join(chunks))
        elif self._state != "connecting":
            self._fail_all(StoreUnavailable(f"{self._name} is not reachable at present"))
        self._keep_watch()

    # Deadlines

    def _keep_watch(self) -> None:
        """Look when the next deadline ends, unless all have failed: a look at NEVER would keep off every other."""
        if self._watch is None and (self._awaiting or self._outgoing):
            due = min(sink.expires for sink in self._sinks())
            if due != NEVER:
                self._look_at(due)

    def _look_at(self, due: float) -> None:
        if self._loop is not None:
            self._watch_due = due
            self._watch = self._loop.call_at(due, self._look)

    def _sinks(self) -> list[Sink]:
        return [*self._awaiting, *(sink for _, sink in self._outgoing)]

    def _look(self) -> None:
        """Fail what is over its deadline. It keeps its place in the queue, for its reply may still come."""
        self._watch = None
        now = self._loop.time() if self._loop is not None else 0.0
        if now - self._watch_due > HELD_UP and self._held_up < MOST_HELD_UP:
            self._held_up += 1
            self._look_at(now + HELD_UP)
            return
        self._held_up = 0
        late = [sink for sink in self._sinks() if sink.expires <= now]
        if late:
            error = StoreTimeout(f"{self._name} did not answer within {self._deadline:g} s")
            for sink in late:
                sink.fail(error)
                sink.expires = NEVER
            self._misses += 1
            # While it connects nobody knows whether there is a server: who comes next does not wait as long again.
            if self._misses >= MISSES_UNTIL_DOWN or self._state == "connecting":
                self._go_down(error)
                return
        self._keep_watch()

    # The connection

    async def connect(self, patience: float) -> None:
        """Connect, or go on trying in the background when that takes longer than `patience` seconds.

        Raises:
            ConfigurationError: the server refuses us (password, ACL, database).
        """
        self._loop = asyncio.get_running_loop()
        self._state = "connecting"
        self._come_back(at_once=True)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._tried.wait()
        except BaseException:
            self.let_go()
            raise
        if self._refused is not None:
            await self.close()
            if isinstance(self._refused, ConfigurationError):
                raise self._refused
            raise ConfigurationError(
                f"{self._name} refuses this client: {self._refused}. Mend the user, password or database in the URL."
            ) from self._refused

    async def _establish(self) -> None:
        async with opened(self._open_connection) as connection:
            await connection.send_command("PING")
            await connection.read_response()
            transport = self._transport_of(connection)
            if self._state == "closed":  # redis-py writes by `wait_for`, which loses a cancellation on Python 3.11
                raise StoreUnavailable(f"{self._name} was closed")
        if self._state == "down":
            self._misses = 0
        self._connection, self._transport = connection, transport
        self._reader = new_reader()
        transport.set_protocol(self)
        self._state = "up"
        self._tell_back()
        if self._outgoing:
            self._schedule()

    def _transport_of(self, connection: Connection) -> asyncio.WriteTransport:
        transport = transport_of(connection)
        if transport is None:
            raise StoreUnavailable(f"{self._name} closed the connection")
        return transport

    def data_received(self, data: bytes) -> None:
        if self._state != "up":  # the rest of a connection that was given up
            return
        self._reader.feed(data)
        awaiting = self._awaiting
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError as exc:
                self._go_down(exc)
                return
            if reply is INCOMPLETE:
                return
            if isinstance(reply, hiredis.PushNotification):
                continue
            if not awaiting:
                self._go_down(StoreError(f"{self._name} sent a reply that nobody asked for"))
                return
            sink = awaiting.popleft()
            if sink.expires != NEVER:
                self._misses = self._held_up = 0
                self._pause = PROBE_FIRST
            if isinstance(reply, hiredis.ReplyError):
                self._hear_error(reply)
            elif self._told_down:
                self._hear_answer()
            try:
                sink.resolve(reply)
            except Exception as exc:  # noqa: BLE001 - whatever it is, its callers must hear, and the stream is not ours
                error = StoreError(f"{self._name} sent a reply of another shape: {exc!r}")
                error.__cause__ = exc
                sink.fail(error)
                self._go_down(error)
                return
            if self._moves and isinstance(reply, hiredis.ReplyError) and code_of(reply) == "READONLY":
                self._go_down(reply)
                return

    def _hear_error(self, reply: Exception) -> None:
        if self._loop is not None and serves_nobody(reply):
            self._trouble = self._loop.time()
            self._tell_lost(reply)

    def _hear_answer(self) -> None:
        """It serves again, unless it refused a moment ago: one without memory still answers what only reads."""
        if self._loop is not None and self._loop.time() - self._trouble >= PROBE_LONGEST:
            self._tell_back()

    def eof_received(self) -> None:
        """Nothing comes any more: what this tick asks goes to the next connection."""
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """It broke, or the server closed it: what was sent has failed; try again at once, once."""
        if self._state != "up":
            return
        self._drop_connection()
        error = StoreUnavailable(f"{self._name} closed the connection" + (f": {exc}" if exc else ""))
        error.__cause__ = exc
        self._state = "connecting"
        if self._awaiting:
            self._misses += 1
            while self._awaiting:
                self._awaiting.popleft().fail(error)
            if self._misses >= MISSES_UNTIL_DOWN:
                self._go_down(error)
                return
        self._come_back(at_once=True)

    def _go_down(self, cause: BaseException) -> None:
        self._state = "down"
        self._drop_connection()
        self._fail_all(StoreUnavailable(f"{self._name} is not reachable: {cause}"))
        self._tell_lost(cause)
        self._come_back(at_once=False)

    def tell(self, kind: str, attributes: Mapping[str, Any]) -> None:
        """Tell who listens of an event, as of now."""
        self._notify(Event(kind, time.time(), attributes))

    def _tell_lost(self, cause: BaseException) -> None:
        if not self._told_down:
            self._told_down = True
            log.warning("%s is lost (%s); its outage policy decides until it is back", self._name, cause)
            self.tell("store.lost", {"store": self._name, "reason": str(cause)})

    def _tell_back(self) -> None:
        if self._told_down:
            self._told_down = False
            log.warning("%s is back; it decides again", self._name)
            self.tell("store.recovered", {"store": self._name})

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._transport = None
        if connection is not None:
            discard(connection)

    def _fail_all(self, error: StoreError) -> None:
        outgoing, self._outgoing = self._outgoing, []
        for sink in [*self._awaiting, *(sink for _, sink in outgoing)]:
            sink.fail(error)
        self._awaiting.clear()

    def _come_back(self, *, at_once: bool) -> None:
        if self._loop is not None and (self._back is None or self._back.done()):
            self._back = self._loop.create_task(self._probe(at_once))

    async def _probe(self, at_once: bool) -> None:
        """Try until connected; a close cancels it."""
        while self._state in ("connecting", "down"):
            if not at_once:
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
                self._pause = min(PROBE_LONGEST, self._pause * 2)
            at_once = False
            try:
                await self._establish()
            except Exception as exc:  # noqa: BLE001 - whatever it is: a probe that ends never comes back
                self._refused = exc if refuses(exc) else None
                if self._state == "connecting":
                    self._go_down(exc)
            else:
                self._refused = None
            self._tried.set()

    def let_go(self) -> None:
        """Give up the connection at once; what is still asked fails."""
        self._state = "closed"
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._back is not None:
            self._back.cancel()
        self._fail_all(StoreUnavailable(f"{self._name} was closed"))
        self._drop_connection()

    async def close(self) -> None:
        """Let go of the connection, and wait until the background has ended."""
        self.let_go()
        if self._back is not None:
            await asyncio.wait([self._back])
            self._back = None
