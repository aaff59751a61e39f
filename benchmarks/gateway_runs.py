"""What gateway.py measures of one proxy: throughput and CPU, latency at a fixed rate, memory under one long body."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from gateway_servers import GIB, Proxy
from harness import HOST, BenchmarkError, cpu_seconds, kept_waiting
from load import Load, plain
from paced import NO_ANSWER, Answer, drive

PACED_CONNECTIONS = 16
TIMER = 0.002
"""Seconds by which the load's own event loop may be late without the server being the cause."""
STALLS = (64 * 2**20, 512 * 2**20)
"""After how many bytes of the long body its reader takes nothing for a while."""
STALL = 1.0


@dataclass(frozen=True)
class Run:
    """One run of wrk: what it saw, CPU of the proxy in us per request, the share of it that others had its core."""

    load: Load
    cpu: float
    disturbed: float


@dataclass
class Figures:
    """What was measured of one proxy in all rounds: runs by path, latencies in ms by path."""

    runs: dict[str, list[Run]] = field(default_factory=dict)
    p50: dict[str, list[float]] = field(default_factory=dict)
    p99: dict[str, list[float]] = field(default_factory=dict)

    def per_second(self, path: str) -> float:
        return median(run.load.per_second for run in self.runs[path])

    def cpu(self, path: str) -> float:
        return median(run.cpu for run in self.runs[path])


def run(proxy: Proxy, path: str, seconds: int) -> Run:
    """Load it as fast as it answers.

    Raises:
        BenchmarkError: there was no answer at all.
    """
    cpu, waited = cpu_seconds(proxy.pid), kept_waiting(proxy.pid)
    load = plain(proxy.url + path, seconds)
    cpu, waited = cpu_seconds(proxy.pid) - cpu, kept_waiting(proxy.pid) - waited
    if not load.requests:
        raise BenchmarkError(f"{proxy.name} answered nothing at {path}\n{proxy.said()}")
    return Run(load, cpu / load.requests * 1e6, waited / seconds)


def latencies(port: int, path: str, *, rate: float, seconds: float) -> tuple[float, float]:
    """p50 and p99 in ms at `rate` requests a second.

    Raises:
        BenchmarkError: a request was not answered 200.
    """

    async def driven() -> list[Answer]:
        start = time.perf_counter() + 0.1
        return await drive(
            HOST, port, path, start=start, connections=PACED_CONNECTIONS, rate=rate, seconds=seconds, patience=5
        )

    answers = asyncio.run(driven())
    failed = [answer.status for answer in answers if answer.status != 200]
    if failed:
        statuses = ", ".join("no answer" if status == NO_ANSWER else str(status) for status in sorted(set(failed)))
        raise BenchmarkError(f"{len(failed)} of {len(answers)} paced requests failed: {statuses}")
    # What went out late because its connection was taken counts from when it was due.
    took = sorted(each.served if each.waited - each.served < TIMER else each.waited for each in answers)
    return took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a proxy before, at most while and after 1 GiB went through it; seconds that it took."""

    before: int
    peak: int
    after: int
    seconds: float

    @property
    def grown(self) -> int:
        return self.peak - self.before


def resident(pid: int, what: str) -> int:
    """VmRSS, or VmHWM: its most since `forget_peak`."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise BenchmarkError(f"/proc/{pid}/status has no {what}")
    return int(found[1]) * 1024


def memory(proxy: Proxy) -> Memory:
    """Fetch 1 GiB through a proxy that has been loaded before, by a reader that stops twice for a second.

    While it does, an upstream on the same machine would fill a proxy that reads ahead with gigabytes.

    Raises:
        BenchmarkError: not all of it came.
    """
    for path in ("/files/100", "/files/64k"):
        plain(proxy.url + path, 1)
    before = resident(proxy.pid, "VmRSS")
    Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")  # the peak from now on (proc_pid_clear_refs(5))
    start = time.perf_counter()
    read(proxy.port, "/files/1g", GIB, pause=lambda: time.sleep(STALL))
    seconds = time.perf_counter() - start
    return Memory(before, resident(proxy.pid, "VmHWM"), resident(proxy.pid, "VmRSS"), seconds)


def read(port: int, path: str, size: int, *, pause: Callable[[], None]) -> None:
    buffer = bytearray(2**20)
    stalls = list(STALLS)
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
            head += piece
        came = len(head.partition(b"\r\n\r\n")[2])
        if not head.startswith(b"HTTP/1.1 200") or f"content-length: {size}".encode() not in head.lower():
            raise BenchmarkError(f"{path} was answered with {head[:200]!r}")
        while came < size and (count := connection.recv_into(buffer)):
            came += count
            if stalls and came > stalls[0]:
                stalls.pop(0)
                pause()
    if came != size:
        raise BenchmarkError(f"{came} of {size} bytes of {path} came")
