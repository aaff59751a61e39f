"""Real Redis servers for tests: started on a free loopback port, killed and frozen by process id, always ended."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_DEADLINE = 60.0
PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections: none of them takes a port before its server does."""


def redis_server_binary() -> str | None:
    """The redis-server to run: TRAFFIC_COP_REDIS_SERVER, or the one on PATH."""
    return os.environ.get("TRAFFIC_COP_REDIS_SERVER") or shutil.which("redis-server")


def require_redis_server() -> str:
    """The binary, or a skip; a failure where TRAFFIC_COP_REQUIRE_SERVERS says that servers must be there."""
    binary = redis_server_binary()
    if binary is None:
        if os.environ.get("TRAFFIC_COP_REQUIRE_SERVERS") == "1":
            pytest.fail("TRAFFIC_COP_REQUIRE_SERVERS=1, and there is no redis-server: apt-get install redis-server")
        pytest.skip("no redis-server: apt-get install redis-server, or set TRAFFIC_COP_REDIS_SERVER")
    return binary


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, and which no connection is given by chance."""
    for port in random.sample(PORTS, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as servers do: what lingers is in nobody's way
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port among 1000 of {PORTS}")


class RedisServer:
    """One redis-server process that a test owns. It keeps nothing on disk: a restart comes back empty."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self._binary = binary
        self._folder = folder
        self._options = options
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._ran = False
        self.frozen = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers. Its port stays, unless another process was faster at the first start."""
        for _ in range(5):
            if self._started():
                return
            if self._ran:
                break
            self.port = free_port()
        raise RuntimeError("redis-server ended at its start")

    def _started(self) -> bool:
        self._process = subprocess.Popen(
            [self._binary, *self._arguments()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2) as link:
                link.settimeout(0.5)
                link.sendall(b"INFO server\r\n")
                said = link.recv(65536)
                if b"process_id:%d\r\n" % self._process.pid in said or said.startswith(b"-NOAUTH"):
                    self._ran = True
                    return True
            if self._process.poll() is not None:
                return False
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"redis-server did not answer within {START_DEADLINE} s")

    def _arguments(self) -> list[str]:
        return [
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *self._options),
        ]

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def freeze(self) -> None:
        """Stop it; from the return on it does nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        if not self.frozen:
            os.waitpid(self.pid, os.WUNTRACED)
        self.frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def kill(self) -> None:
        """kill -9: what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.frozen = False

    def command(self, *words: str) -> bytes:
        """Send one command over a connection of its own; what comes first of the reply."""
        packed = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), 10) as link:
            link.sendall(packed.encode())
            return link.recv(65536)


@contextlib.contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A running redis-server, ended afterwards whatever was done to it."""
    server = RedisServer(require_redis_server(), folder, *options)
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError, RuntimeError):
            server.thaw()
        server.kill()
