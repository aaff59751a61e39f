"""Redis tells which items were written, so that what is kept in front of it can be dropped (client-side caching).

A connection of its own has `CLIENT TRACKING ON BCAST PREFIX <namespace>:st:`, by RESP3: Redis remembers nothing per key
for it, and tells of every write, expiry and eviction of an item by anybody, this process too. The prefix covers items
alone. Databases of other numbers are told of as well: a drop too many does no harm.

While there is no such connection `None` is told once a period, and when it comes back. So who keeps only what was read
since the last `None` has nothing that is older than `STALE_BOUND` seconds, whatever happens to the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.listening import Listening
from traffic_cop_middleware.adapters.redis.replies import Arguments
from traffic_cop_middleware.adapters.redis.state_places import Places
from traffic_cop_middleware.contracts import StateKey

log = logging.getLogger("traffic_cop.redis")

Heard = Callable[[Sequence[StateKey] | None], None]

HEARTBEAT = 1.0
"""Seconds between two PINGs; one that has no answer by the next is a lost connection."""
STALE_BOUND = 2 * HEARTBEAT + 0.5
"""Seconds after which a connection that died without a word has been told as lost, while the event loop runs freely."""


class Tracking(Listening):
    """Tells all who listen; there is a connection only while somebody does. `open_connection` gives one of RESP3."""

    what = "invalidations of state"
    without = "what is kept in front of it is dropped once a second"

    def __init__(self, link: Link, open_connection: Callable[[], Connection], places: Places) -> None:
        super().__init__(open_connection, reachable=lambda: link.up)
        self.on = False
        """Whether Redis tells of everything at present."""
        self._places = places
        self._hearers: list[Heard] = []
        self._started = False
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where somebody listens. The link was told to connect."""
        self._started = True
        if self._hearers:
            self._begin()

    async def close(self) -> None:
        """Stop, and wait until the background has ended."""
        self._started = False
        tending = self._stop()
        if tending is not None:
            await asyncio.wait([tending])
        await self.ended()

    def tell(self, heard: Heard) -> Callable[[], None]:
        """Call `heard` from now on, until what this returns is called."""
        hearer = partial(heard)  # the same function may be given twice
        self._hearers.append(hearer)
        if self._started:
            self._begin()
        return partial(self._end, hearer)

    def _end(self, hearer: Heard) -> None:
        self._hearers = [other for other in self._hearers if other is not hearer]
        if not self._hearers:
            self._stop()

    def _begin(self) -> None:
        if self._tending is None:
            self._tending = asyncio.get_running_loop().create_task(self._tend())
            self.come_back()

    def _stop(self) -> asyncio.Task[None] | None:
        tending, self._tending = self._tending, None
        if tending is not None:
            tending.cancel()
        self.on = False
        self.drop()
        return tending

    async def _tend(self) -> None:
        try:
            while True:
                await asyncio.sleep(HEARTBEAT)
                self.check()
                if not self.on:
                    self._tell(None)
        finally:
            if self._tending is asyncio.current_task():  # not by `_stop`: the socket must not outlive the loop
                self.on = False
                self.drop()

    def _tell(self, keys: Sequence[StateKey] | None) -> None:
        for hearer in self._hearers:
            try:
                hearer(keys)
            except Exception:
                log.exception("somebody who hears of written state failed")

    # The connection

    def wanted(self) -> bool:
        return self._tending is not None

    def greeting(self) -> Sequence[Arguments]:
        return [["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._places.items]]

    def take(self, reply: Any) -> None:
        if reply == b"OK":
            self.on = True
            self.came()
            self._tell(None)
        elif isinstance(reply, hiredis.PushNotification) and len(reply) == 2 and reply[0] == b"invalidate":
            names = reply[1]
            if names is None:  # everything was flushed
                self._tell(None)
                return
            keys = [key for key in map(self._places.key_at, names) if key is not None]
            if keys:
                self._tell(keys)

    def lost(self) -> None:
        self.on = False
        self._tell(None)
