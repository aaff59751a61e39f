"""Many `Link`s as one: each command goes to the master of its key's slot, and follows the slot when that moves.

Theory of operation. There is one link to each master. What is asked within one tick is handed to the links of its slots
at the end of it, so it is one write per node. The map of the slots is read (CLUSTER SLOTS, over a connection of its
own) at the start, when a node says MOVED or CLUSTERDOWN, and again and again while a node that has slots is down or a
slot has no node; one reading at a time, with growing pauses.

A command that is answered MOVED goes to the node named, ASK goes there with ASKING, in one write, and TRYAGAIN is asked
again a little later: all within the one deadline, after which it has failed like any other. What was sent on a
connection that broke is never asked again, for it may have been done. A node that is down makes its own slots
unavailable, no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Connection

from traffic_cop_middleware.adapters.redis.cluster_node import Asking, NodeLink, Routed, unheard
from traffic_cop_middleware.adapters.redis.cluster_slots import SLOTS, Address, Layout, layout_of, redirection
from traffic_cop_middleware.adapters.redis.link import PROBE_FIRST, PROBE_LONGEST, Link
from traffic_cop_middleware.adapters.redis.opening import CONNECT_DEADLINE, discard
from traffic_cop_middleware.adapters.redis.replies import NEVER, NOT_SERVING, code_of, refuses
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable

MOST_ASKED = 16
"""Nodes that are asked for the map in one go; another go asks others."""
AGAIN_FIRST, AGAIN_LONGEST = 0.001, 0.02
"""Seconds until a command that a slot on the move could not serve is asked again."""
GUEST_SECONDS = 10.0
"""How long a node without slots is kept after something was sent on to it: it may be getting some."""
ELSEWHERE = "non local key"
"""In the error of a script that missed a key of its slot, which is on the move."""


class ClusterLink(Link):
    """What stores need of a `Link`, over all masters of a cluster.

    `open_at` gives a fresh redis-py connection object to a node; `seeds` are those that the URL names.
    """

    def __init__(
        self,
        open_at: Callable[[Address], Connection],
        *,
        seeds: Iterable[Address],
        name: str,
        deadline: float,
        notify: Callable[[Event], None],
    ) -> None:
        super().__init__(self.open_any, name=name, deadline=deadline, notify=notify)
        self.layout = 0
        """Counts the maps that differed from the one before."""
        self._open_at = open_at
        self._seeds = tuple(seeds)
        self._replicas: tuple[Address, ...] = ()
        self._nodes: dict[Address, NodeLink] = {}
        self._owners: list[NodeLink | None] = [None] * SLOTS
        self._waiting: dict[Routed, asyncio.TimerHandle] = {}
        self._leaving: dict[NodeLink, asyncio.Task[None]] = {}
        self._again = False
        self._learnt = -NEVER

    # Asking

    @property
    def up(self) -> bool:
        return self._state == "up" and any(node.up for node in self._nodes.values())

    @property
    def masters(self) -> list[NodeLink]:
        """The links of the nodes that have slots."""
        return list(dict.fromkeys(node for node in self._owners if node is not None))

    def open_any(self) -> Connection:
        """A connection object to some node: one that is up, or else one of the URL's."""
        alive = [address for address, node in self._nodes.items() if node.up]
        return self._open_at(random.choice(alive or self._seeds))  # noqa: S311 - no secret

    def reachable(self, slot: int) -> bool:
        """Whether the node of a slot is up, or about to be."""
        node = self._owners[slot]
        return self._state == "connecting" or (node is not None and not node.down)

    def _flush(self) -> None:
        gatherers, self._gatherers = self._gatherers, []
        try:
            for gatherer in gatherers:
                gatherer()
        finally:
            self._flush_due = False
        if self._state == "up":
            outgoing, self._outgoing = self._outgoing, []
            for command, sink in outgoing:
                if not unheard(sink):
                    self._route(Routed(command, sink, self._sent_on))
        elif self._state != "connecting":
            self._fail_all(StoreUnavailable(f"{self._name} is not reachable at present"))
        self._keep_watch()

    def _route(self, routed: Routed) -> None:
        node = self._owners[routed.slot]
        if node is None:
            self._come_back(at_once=True)
            routed.fail(StoreUnavailable(f"{self._name}: no node serves slot {routed.slot} at present"))
        else:
            self._hand(routed, node)

    def _hand(self, routed: Routed, node: NodeLink, *, asking: bool = False) -> None:
        if node.down:
            routed.fail(StoreUnavailable(f"{self._name} at {node.address} is not reachable at present"))
            return
        routed.node = node
        if asking:
            node.put(["ASKING"], Asking(routed))
        node.put(routed.command, routed)

    def _sent_on(self, routed: Routed, reply: Exception) -> bool:
        """Whether an error reply only says where else, or when, the command is to be asked: then it will be."""
        code = code_of(reply)
        if code in ("MOVED", "ASK") and routed.node is not None:
            address = redirection(str(reply), routed.node.address)
            if address is None:
                self._come_back(at_once=True)
                return self._later(routed, code)
            node = self._node_at(address)
            node.wanted = self.loop.time()
            if code == "ASK":
                self._hand(routed, node, asking=True)
                return True
            self._owners[routed.slot] = node
            self._come_back(at_once=True)
            if routed.turns:  # they do not agree yet which of them has it
                return self._later(routed, code)
            routed.turns += 1
            self._hand(routed, node)
            return True
        if code == "TRYAGAIN" or ELSEWHERE in str(reply):
            return self._later(routed, code)
        if code in NOT_SERVING:
            self._come_back(at_once=True)
        return False

    def _later(self, routed: Routed, code: str) -> bool:
        pause = min(AGAIN_LONGEST, AGAIN_FIRST * 2 ** min(routed.turns, 10))
        routed.turns += 1
        if self._state != "up" or self.loop.time() + pause >= routed.expires:
            routed.fail(StoreUnavailable(f"{self._name}: slot {routed.slot} is on the move ({code})"))
        else:
            self._waiting[routed] = self.loop.call_later(pause, self._ask_again, routed)
        return True

    def _ask_again(self, routed: Routed) -> None:
        del self._waiting[routed]
        if not routed.unheard:
            self._route(routed)

    # The nodes

    def _node_at(self, address: Address) -> NodeLink:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = NodeLink(
                address,
                lambda: self._open_at(address),
                cluster=self._name,
                deadline=self._deadline,
                notify=self._notify,
                lost=lambda: self._come_back(at_once=False),
            )
            node.begin(self.loop)
        return node

    def _take_over(self, layout: Layout) -> None:
        self._replicas = tuple(layout.replicas)
        now = self.loop.time()
        links = {address: self._node_at(address) for address in dict.fromkeys(layout.masters) if address is not None}
        for address, node in list(self._nodes.items()):
            if address not in links and (node.down or now - node.wanted > GUEST_SECONDS):
                del self._nodes[address]
                self._leaving[node] = self.loop.create_task(self._leave(node))
        owners = [None if address is None else links[address] for address in layout.masters]
        if owners != self._owners:
            self._owners = owners
            self.layout += 1

    async def _leave(self, node: NodeLink) -> None:
        """Close the link to a node without slots, once it has answered what it was asked."""
        if node.up:
            await asyncio.sleep(self._deadline)
        await node.leave()
        del self._leaving[node]

    # The map

    async def connect(self, patience: float) -> None:
        """As in `Link`.

        Raises:
            ConfigurationError: a node refuses us, or it is no cluster.
        """
        try:
            await super().connect(patience)
        except ConfigurationError as exc:
            if "cluster support disabled" not in str(exc.__cause__):
                raise
            raise ConfigurationError(
                f"{self._name} is a single server and no cluster. Write redis:// (or rediss://) instead of "
                "redis+cluster://, or start it with cluster-enabled yes."
            ) from exc.__cause__

    def _come_back(self, *, at_once: bool) -> None:
        """Read the map, or read it once more when it is being read."""
        self._again = True
        if self._loop is not None and self._state != "closed" and (self._back is None or self._back.done()):
            self._back = self._loop.create_task(self._probe(at_once))

    async def _probe(self, at_once: bool) -> None:
        """Read the map until every slot has a node that is not down; a close cancels it."""
        pause = PROBE_FIRST
        if not at_once or asyncio.get_running_loop().time() - self._learnt < PROBE_FIRST:
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
        while self._state != "closed":
            self._again = False
            try:
                await self._learn()
            except Exception as exc:  # noqa: BLE001 - whatever it is: a probe that ends never comes back
                self._refused = exc if refuses(exc) else None
                if self._state == "connecting":
                    self._go_down(exc)
            else:
                self._refused = None
            self._tried.set()
            if self._whole() and not self._again:
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            pause = min(PROBE_LONGEST, pause * 2)

    def _whole(self) -> bool:
        return self._state == "up" and not any(node is None or node.down for node in self._owners)

    async def _learn(self) -> None:
        """Take over the map of the first node that gives one."""
        alive = [address for address, node in self._nodes.items() if node.up]
        others = [*self._seeds, *self._replicas, *self._nodes]
        for addresses in (alive, others):
            random.shuffle(addresses)
        error: Exception = StoreUnavailable(f"{self._name}: no node gives the map of the slots")
        for address in list(dict.fromkeys((*alive, *others)))[:MOST_ASKED]:
            try:
                layout = layout_of(await self._slots_by(address), address)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the next one may know
                error = error if refuses(error) else exc
            else:
                break
        else:
            raise error
        self._learnt = asyncio.get_running_loop().time()
        first, self._state = self._state != "up", "up"
        self._take_over(layout)
        self._tell_back()
        if self._outgoing:
            self._schedule()
        if first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_DEADLINE):
                    for node in self.masters:
                        await node.tried()

    async def _slots_by(self, address: Address) -> Any:
        connection = self._open_at(address)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("CLUSTER", "SLOTS")
                reply = await connection.read_response()
        except TimeoutError as exc:
            raise StoreUnavailable(f"{address} did not answer within {CONNECT_DEADLINE:g} s") from exc
        finally:
            discard(connection)
        if self._state == "closed":  # `wait_for` in redis-py loses a cancellation on Python 3.11
            raise StoreUnavailable(f"{self._name} was closed")
        return reply

    # The end

    def let_go(self) -> None:
        super().let_go()
        for routed, timer in self._waiting.items():
            timer.cancel()
            routed.fail(StoreUnavailable(f"{self._name} was closed"))
        self._waiting.clear()
        for leaving in self._leaving.values():
            leaving.cancel()
        for node in (*self._nodes.values(), *self._leaving):
            node.let_go()

    async def close(self) -> None:
        await super().close()
        if self._leaving:
            await asyncio.wait(self._leaving.values())
        for node in (*self._nodes.values(), *self._leaving):
            await node.close()
