"""A real Redis Cluster for tests: three masters and their replicas on loopback ports, built by commands alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from redis.crc import key_slot

from tests.servers import RedisServer, free_port, require_redis_server

MASTERS = 3
SLOTS = 16_384
NODE_TIMEOUT = 1500
"""Milliseconds after which a silent node is taken for dead; a fail-over comes a second or two later."""
DEADLINE = 60.0


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the cluster did not come to it within {DEADLINE} s")
        time.sleep(0.02)


class Node(RedisServer):
    """One node. `cluster-port` is set, for the default of port + 10000 may be in use for a connection."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.bus_port = free_port()
        super().__init__(
            binary,
            folder,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)),
            *("--cluster-port", str(self.bus_port), "--repl-diskless-sync-delay", "0"),
            *("--cluster-require-full-coverage", "no"),
        )

    def told(self, *words: str) -> str:
        """The reply to a command, without its framing."""
        reply = self.command(*words).decode()
        if reply.startswith("-"):
            raise RuntimeError(f"{words}: {reply.strip()}")
        return reply.partition("\r\n")[2].strip() if reply.startswith("$") else reply[1:].strip()

    @property
    def id(self) -> str:
        return self.told("CLUSTER", "MYID")

    @property
    def running(self) -> bool:
        return self._process is not None

    def knows(self, id: str) -> bool:
        return id in self.told("CLUSTER", "NODES")

    @property
    def is_master(self) -> bool:
        return "role:master" in self.told("INFO", "replication")

    @property
    def master_port(self) -> int:
        """Of a replica."""
        said = self.told("INFO", "replication")
        return int(said.partition("master_port:")[2].partition("\r\n")[0])


class RedisCluster:
    """Six nodes that a test owns."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.nodes: list[Node] = []
        for number in range(2 * MASTERS):
            place = folder / str(number)
            place.mkdir()
            self.nodes.append(Node(binary, place))

    @property
    def url(self) -> str:
        """It names two nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2]) + "/0"

    def start(self) -> None:
        for number, node in enumerate(self.nodes):
            node.start()
            node.told("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        masters, replicas = self.nodes[:MASTERS], self.nodes[MASTERS:]
        for number, node in enumerate(masters):
            first, last = (SLOTS * n // MASTERS for n in (number, number + 1))
            node.told("CLUSTER", "ADDSLOTSRANGE", str(first), str(last - 1))
        for node in self.nodes[1:]:
            self.nodes[0].told("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(node.bus_port))
        for master, replica in zip(masters, replicas, strict=True):
            wait_until(partial(replica.knows, master.id))
            replica.told("CLUSTER", "REPLICATE", master.id)
        self.settle()

    def settle(self) -> None:
        """Wait until all nodes are there and agree, and each master has a replica that follows it."""
        wait_until(self._settled)

    def _settled(self) -> bool:
        for node in self.nodes:
            info, known = node.told("CLUSTER", "INFO"), node.told("CLUSTER", "NODES")
            if "cluster_state:ok" not in info or f"cluster_known_nodes:{len(self.nodes)}" not in info:
                return False
            if "fail" in known or "handshake" in known or known.count("master") != MASTERS:
                return False
            if not node.is_master and "master_link_status:up" not in node.told("INFO", "replication"):
                return False
        return sum(node.is_master for node in self.nodes) == MASTERS

    @property
    def masters(self) -> list[Node]:
        return [node for node in self.nodes if node.is_master]

    def master_of(self, key: str) -> Node:
        slot = int(key_slot(key.encode()))
        for node in self.masters:
            mine = next(line for line in node.told("CLUSTER", "NODES").splitlines() if "myself" in line)
            for words in mine.split()[8:]:
                first, _, last = words.partition("-")
                if first.isdigit() and int(first) <= slot <= int(last or first):
                    return node
        raise RuntimeError(f"nobody has slot {slot}")

    def replica_of(self, master: Node) -> Node:
        return next(node for node in self.nodes if not node.is_master and node.master_port == master.port)

    def moving(self, slot: int, source: Node, target: Node, *, at_once: int = 100) -> Iterator[str]:
        """Move a slot as redis-cli does, and say how far it is after each step."""
        if not target.knows(source.id):
            raise RuntimeError("two nodes that do not know each other")
        ids = source.id, target.id
        target.told("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
        yield "importing"
        source.told("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
        yield "migrating"
        end = time.monotonic() + DEADLINE
        while keys := source.told("CLUSTER", "GETKEYSINSLOT", str(slot), str(at_once)).split("\r\n")[2::2]:
            if time.monotonic() > end:
                raise TimeoutError("there are more keys each time")
            source.told("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *keys)
            yield "underway"
        for node in (target, source, *(each for each in self.masters if each not in (source, target))):
            node.told("CLUSTER", "SETSLOT", str(slot), "NODE", ids[1])
            yield "moved"

    def heal(self) -> None:
        """Start what was killed, and thaw what was frozen."""
        for node in self.nodes:
            if node.frozen:
                node.thaw()
            if not node.running:
                node.start()
        self.settle()

    def empty(self) -> None:
        for node in self.masters:
            node.told("FLUSHALL")

    def kill(self) -> None:
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                node.thaw()
            node.kill()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[RedisCluster]:
    """A running cluster, ended afterwards whatever was done to it."""
    cluster = RedisCluster(require_redis_server(), folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
