"""One master of a Redis Cluster: the link to it, and what becomes of a command that it does not serve itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import hiredis
from redis.asyncio import Connection

from traffic_cop_middleware.adapters.redis.cluster_slots import Address, slot_of_command
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.replies import NEVER, Answer, Arguments, Sink, code_of
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop.redis")


class NodeLink(Link):
    """The link to one master."""

    def __init__(
        self,
        address: Address,
        open_connection: Callable[[], Connection],
        *,
        cluster: str,
        deadline: float,
        notify: Callable[[Event], None],
        lost: Callable[[], None],
    ) -> None:
        super().__init__(open_connection, name=f"{cluster} at {address}", deadline=deadline, notify=notify)
        self.address = address
        self.wanted = 0.0
        """When something was sent on to it, on the loop's clock."""
        self._cluster = cluster
        self._lost = lost

    @property
    def down(self) -> bool:
        return self._state in ("down", "closed")

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect in the background; what is asked meanwhile waits within its deadline."""
        self._loop = loop
        self._state = "connecting"
        self._come_back(at_once=True)

    async def tried(self) -> None:
        """Wait until it was connected, or could not be."""
        await self._tried.wait()

    async def leave(self) -> None:
        """Close it: others have its slots."""
        if self._told_down:
            self._told_down = False
            log.warning("%s has no slots any more; other nodes serve them", self._name)
            self.tell("store.recovered", {})
        await self.close()

    def tell(self, kind: str, attributes: Mapping[str, Any]) -> None:
        super().tell(kind, {**attributes, "store": self._cluster, "node": str(self.address)})

    def _go_down(self, cause: BaseException) -> None:
        super()._go_down(cause)
        self._lost()

    def _hear_error(self, reply: Exception) -> None:
        if code_of(reply) != "TRYAGAIN":  # that is said of a slot on the move, by a node in health
            super()._hear_error(reply)


class Routed:
    """The sink of a command that one node is asked, and others where that one says so.

    `sent_on` is told of error replies, and says whether the command will be asked again.
    """

    __slots__ = ("_sent_on", "command", "expires", "node", "sink", "slot", "turns")

    def __init__(self, command: Arguments, sink: Sink, sent_on: Callable[[Routed, Exception], bool]) -> None:
        self._sent_on = sent_on
        self.command = command
        self.sink = sink
        self.expires = sink.expires
        self.slot = slot_of_command(command)
        self.node: NodeLink | None = None
        self.turns = 0

    @property
    def unheard(self) -> bool:
        """Whether nobody waits any more."""
        return unheard(self.sink)

    def fail(self, error: StoreError) -> None:
        self.sink.fail(error)
        self.expires = self.sink.expires = NEVER

    def resolve(self, reply: Any) -> None:
        if not (isinstance(reply, hiredis.ReplyError) and not self.unheard and self._sent_on(self, reply)):
            self.sink.resolve(reply)


class Asking:
    """The sink of ASKING before a command: it shares the command's fate, and its own reply says nothing."""

    def __init__(self, routed: Routed) -> None:
        self._routed = routed
        self.expires = routed.expires

    def resolve(self, reply: Any) -> None:
        self.expires = NEVER

    def fail(self, error: StoreError) -> None:
        self.expires = NEVER


def unheard(sink: Sink) -> bool:
    return sink.expires == NEVER or (isinstance(sink, Answer) and sink.future.done())
