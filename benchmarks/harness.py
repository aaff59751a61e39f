"""What every benchmark here stands on: servers of its own, and the CPU that they used.

Why CPU and not requests a second: at 64 connections a Python server is bound by its own CPU, so CPU per request is what
a layer costs, and it moves much less than the throughput does when something else runs on the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.error import HTTPError
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
CONNECTIONS = 64
FIRST_CORE = {min(os.sched_getaffinity(0))}
"""The server's."""


class BenchmarkError(Exception):
    """The run can't go on; the message says why and what to do."""


@contextlib.contextmanager
def one_at_a_time(wait: float = 1800) -> Iterator[None]:
    """Hold the machine-wide lock of the benchmarks: two at once would measure each other."""
    path = Path(tempfile.gettempdir()) / "traffic-cop-benchmark.lock"
    deadline = time.monotonic() + wait
    told = False
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"another benchmark held {path} for {wait:.0f} s") from None
                if not told:
                    print(f"another benchmark is running (it holds {path}); waiting for it", file=sys.stderr)
                    told = True
                time.sleep(1)
        yield


def need(program: str, package: str) -> str:
    """The path of `program`, or exit 2 with the line that installs it."""
    path = shutil.which(program)
    if path is None:
        print(f"{program} is missing: apt-get install {package}", file=sys.stderr)
        raise SystemExit(2)
    return path


def stop_on_sigterm() -> None:
    """Make SIGTERM unwind like Ctrl-C, so that the servers we started end with us."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """User and system CPU of a process with all its threads, living and ended, and of its living children.

    The clock of the process is what /proc/<pid>/stat has as utime + stime, in nanoseconds instead of ticks of 10 ms
    (clock_getcpuclockid(3); the number is the kernel's encoding of "all threads of pid").
    """
    total = time.clock_gettime((~pid << 3) | 2)
    with contextlib.suppress(FileNotFoundError):  # a kernel built without CONFIG_PROC_CHILDREN
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(cpu_seconds(int(child)) for child in children.read_text().split())
    return total


def kept_waiting(pid: int) -> float:
    """Seconds for which the main thread was ready to run and something else had its core (proc_pid_schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def pin_beside_server() -> None:
    """Leave the first core to the server alone: this process, and wrk and Redis that it starts, take the others.

    Otherwise the kernel puts the load now on this core and now on that, and moves the server's CPU per request by 10 %.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])


def environment(**variables: str) -> dict[str, str]:
    """Ours for a child: this folder and the repository first on the path, so that a checkout is what runs."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **variables}


def end(process: subprocess.Popen[bytes]) -> None:
    """End one process that we started, also when it is stopped by SIGSTOP."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


class RedisServer:
    """A redis-server of our own: loopback, a free port, nothing written to disk. `with RedisServer() as redis:`"""

    def __init__(self) -> None:
        self.program = need("redis-server", "redis-server")
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        self.folder = tempfile.TemporaryDirectory(prefix="traffic-cop-bench-")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.folder.cleanup()

    def start(self) -> None:
        """Start it, or start it anew (empty) after `process.kill()`."""
        settings = ["--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [self.program, *settings, "--dir", self.folder.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.ask("PING") == b"+PONG\r\n":
                    return
            time.sleep(0.02)
        end(self.process)
        raise BenchmarkError("redis-server did not come up within 10 s")

    def ask(self, command: str) -> bytes:
        """One inline command over a connection of its own."""
        with socket.create_connection((HOST, self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            reply = connection.recv(65536)
            if reply.startswith(b"$"):
                length = int(reply[1 : reply.index(b"\r\n")])
                while len(reply) < length and (more := connection.recv(65536)):
                    reply += more
            return reply

    def used_memory(self) -> int:
        found = re.search(rb"used_memory:(\d+)", self.ask("INFO memory"))
        if found is None:
            raise BenchmarkError("INFO memory has no used_memory")
        return int(found[1])


class AppServer:
    """serve.py in a process of its own: `url` leads to the variant, `bare_url` to the bare app beside it."""

    def __init__(self, variant: str, framework: str, redis_url: str, *, refuse: bool = False) -> None:
        self.spec = {
            "BENCH_VARIANT": variant,
            "BENCH_FRAMEWORK": framework,
            "BENCH_REDIS": redis_url,
            "BENCH_REFUSE": "1" if refuse else "",
        }
        self.port, self.bare_port = free_port(), free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.bare_url = f"http://{HOST}:{self.bare_port}"

    def __enter__(self) -> Self:
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "serve.py"), str(self.port), str(self.bare_port)],
            env=environment(**self.spec),
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        os.sched_setaffinity(self.process.pid, FIRST_CORE)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
                return self
            time.sleep(0.02)
        said = self.said()
        self.__exit__()
        raise BenchmarkError(f"the server did not come up: {self.spec}\n{said}")

    def __exit__(self, *_: object) -> None:
        end(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()

    def settle(self) -> None:
        """After the warm-up: keep the garbage collector off what the apps are made of (serve.py says why)."""
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.3)

    def requests(self) -> int:
        """How many requests it has had so far, on both ports."""
        self.process.send_signal(signal.SIGUSR2)
        if self.process.stdout is None or not select.select([self.process.stdout], [], [], 5)[0]:
            raise BenchmarkError(f"the server does not answer SIGUSR2\n{self.said()}")
        return int(self.process.stdout.readline())

    def said(self) -> str:
        """The end of what the server wrote, for messages."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-20_000:]

    def status(self, path: str) -> int:
        try:
            with urlopen(self.url + path, timeout=10) as response:
                status: int = response.status
                return status
        except HTTPError as error:
            return error.code
