"""A real master with a replica and three sentinels that watch over it, for tests to kill, freeze and switch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.servers import RedisServer, require_redis_server

SERVICE = "mymaster"
READY_DEADLINE = 60.0
FAST = {"publish-period": 100, "info-period": 100, "min-link-reconnect-period": 100, "tilt-trigger": 30_000}
"""Milliseconds, of SENTINEL DEBUG (7.0): an older server does the same, later."""


class Sentinel(RedisServer):
    """One sentinel process; `lines` stand in its configuration."""

    def __init__(self, binary: str, folder: Path, *lines: str) -> None:
        super().__init__(binary, folder)
        self._lines = lines

    def _arguments(self) -> list[str]:
        file = self._folder / f"sentinel-{self.port}.conf"
        own = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            "daemonize no",
            f"logfile {self._folder}/sentinel-{self.port}.log",
        )
        file.write_text("\n".join([*own, *self._lines, ""]))
        return [str(file), "--sentinel"]


class SentinelSet:
    """`servers` are two: the first begins as the master. `down_after` is in milliseconds."""

    def __init__(self, folder: Path, *, down_after: int) -> None:
        self._folder = folder
        self._binary = require_redis_server()
        self._down_after = down_after
        self.servers: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/0?service={SERVICE}"

    def start(self) -> None:
        self.servers.append(RedisServer(self._binary, self._folder, "--repl-diskless-sync-delay", "0"))
        self.servers[0].start()
        replica = ("--replicaof", f"127.0.0.1 {self.servers[0].port}")
        self.servers.append(RedisServer(self._binary, self._folder, "--repl-diskless-sync-delay", "0", *replica))
        self.servers[1].start()
        for _ in range(3):
            self.sentinels.append(self.sentinel(quorum=2))
        self._debug(FAST)
        until(self._ready)

    def sentinel(self, *lines: str, quorum: int = 1) -> Sentinel:
        """One more that watches over the same master, started. Whoever asks for it ends it."""
        sentinel = Sentinel(
            self._binary,
            self._folder,
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after}",
            f"sentinel failover-timeout {SERVICE} 3000",
            *lines,
        )
        sentinel.start()
        return sentinel

    def _debug(self, milliseconds: dict[str, int]) -> None:
        for sentinel in self.sentinels:
            for name, value in milliseconds.items():
                sentinel.command("SENTINEL", "DEBUG", name, str(value))

    def _ready(self) -> bool:
        """Whether all sentinels know each other and the replica, and that can take over."""
        for sentinel in self.sentinels:
            said = sentinel.command("SENTINEL", "MASTER", SERVICE).split(b"\r\n")
            figures = dict(zip(said[2::4], said[4::4], strict=False))
            if figures.get(b"num-slaves") != b"1" or figures.get(b"num-other-sentinels") != b"2":
                return False
        return follows(self.servers[1])

    def switch(self) -> None:
        """Make the second server the master as an operator does, and wait until all sentinels say so."""
        for _ in range(5):  # a sentinel gives up where the new one takes too long on a slow machine
            until(lambda: self.sentinels[0].command("SENTINEL", "FAILOVER", SERVICE).startswith((b"+OK", b"-INPROG")))
            with contextlib.suppress(RuntimeError):
                until(self._switched, READY_DEADLINE / 5)
                return
        raise RuntimeError("the sentinels did not switch")

    def _switched(self) -> bool:
        place = b"\r\n%d\r\n" % self.servers[1].port
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return all(place in sentinel.command(*ask) for sentinel in self.sentinels)

    def leave_old_masters_alone(self) -> None:
        """Make no replica of a master that was replaced, for minutes; a server older than 7.0: for eight seconds.

        A planned switch needs it: with the fast ones the other sentinels would undo it before its leader has looked.
        """
        self._debug({"publish-period": 60_000})

    def end(self) -> None:
        for server in (*self.sentinels, *self.servers):
            with contextlib.suppress(ProcessLookupError, RuntimeError):
                server.thaw()
            server.kill()


def follows(server: RedisServer) -> bool:
    """Whether it is a replica that has all of its master."""
    said = asked(server, "INFO", "replication")
    return b"role:slave" in said and b"master_link_status:up" in said


def clients(server: RedisServer, kind: str = "normal") -> int:
    """How many connections of ours a server has, `normal` or `pubsub`."""
    return asked(server, "CLIENT", "LIST", "TYPE", kind).count(b"name=traffic-cop")


def asked(server: RedisServer, *words: str) -> bytes:
    """Its answer, also while the sentinels make it a replica: then they cut all connections, this one as well."""
    for _ in range(4):
        with contextlib.suppress(ConnectionError):
            if said := server.command(*words):
                return said
    return server.command(*words)


def until(condition: Callable[[], bool], deadline: float = READY_DEADLINE) -> None:
    """Wait until it holds; for what no event loop waits."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"did not come about within {deadline} s")
        time.sleep(0.02)


@contextlib.contextmanager
def running_sentinels(folder: Path, *, down_after: int = 1000) -> Iterator[SentinelSet]:
    """A running set, ended afterwards whatever was done to it."""
    watched = SentinelSet(folder, down_after=down_after)
    try:
        watched.start()
        yield watched
    finally:
        watched.end()
