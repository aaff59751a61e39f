"""Load by wrk: one plain run for throughput and latency, and two that take turns for CPU per request."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Self

from harness import CONNECTIONS, AppServer, BenchmarkError, RedisServer, cpu_seconds, end, need

TURN = 0.25
"""Seconds that one side is loaded before it is the other's turn."""


@dataclass(frozen=True)
class Load:
    """What a run of wrk saw. Latencies in milliseconds; `unserved` counts answers of 4xx and 5xx."""

    requests: int
    per_second: float
    p50: float
    p99: float
    unserved: int
    socket_errors: int


def parsed(said: str) -> Load:
    """From wrk's report."""

    def number(pattern: str) -> float:
        found = re.search(pattern, said)
        return float(found[1]) if found else 0.0

    def milliseconds(percentile: str) -> float:
        found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s|m)\b", said)
        return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[found[2]] if found else float("nan")

    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    return Load(
        requests=int(number(r"(\d+) requests in")),
        per_second=number(r"Requests/sec:\s+([\d.]+)"),
        p50=milliseconds("50"),
        p99=milliseconds("99"),
        unserved=int(number(r"Non-2xx or 3xx responses: (\d+)")),
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
    )


def command(url: str, seconds: int) -> list[str]:
    """One thread, and connections that each send as soon as they were answered."""
    return [need("wrk", "wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "--latency", url]


def plain(url: str, seconds: int) -> Load:
    return parsed(
        subprocess.run(command(url, seconds), capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    )


class Paused:
    """A wrk that is stopped (SIGSTOP) but for its turns. Its connections stay open: no turn pays for opening them.

    (uvloop accepts one connection in a round of its loop. With 64 busy ones on FastAPI the last gets in after 0.5 s.)
    """

    def __init__(self, url: str, longest: int) -> None:
        self.command = command(url, longest)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(1.5)
        self.process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def turn(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        time.sleep(TURN)
        self.process.send_signal(signal.SIGSTOP)

    def finish(self) -> Load:
        """End it as Ctrl-C does: it still reports. Asked again, as another thread than the main one may be asked."""
        self.process.send_signal(signal.SIGCONT)
        for _attempt in range(20):
            time.sleep(0.05)
            self.process.send_signal(signal.SIGINT)
            try:
                said, _ = self.process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                continue
            return parsed(said.decode())
        raise BenchmarkError("wrk did not end within 20 s")


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU per request in one turn: of the server, and of Redis."""

    server: float
    redis: float


class Meter:
    """CPU and requests between two moments at which the server has nothing to do."""

    def __init__(self, server: AppServer, redis: RedisServer) -> None:
        self.server, self.redis = server, redis
        self.last = self.reading()

    def reading(self) -> tuple[float, float, int]:
        used = cpu_seconds(self.server.process.pid)
        for _ in range(100):  # what was sent before the pause is still being answered
            time.sleep(0.01)
            before, used = used, cpu_seconds(self.server.process.pid)
            if used - before < 0.0005:
                return used, cpu_seconds(self.redis.process.pid), self.server.requests()
        raise BenchmarkError("the server was still busy a second after the load was paused")

    def lap(self) -> Cost:
        """Since the last one."""
        before, self.last = self.last, self.reading()
        used, redis_used, requests = (now - then for now, then in zip(self.last, before, strict=True))
        if requests < 50:
            raise BenchmarkError(f"only {requests:.0f} requests were served in {TURN} s")
        return Cost(used / requests * 1e6, redis_used / requests * 1e6)


def turns(server: AppServer, redis: RedisServer, path: str, pairs: int) -> tuple[list[Cost], list[Cost], Load, Load]:
    """The cost of the limited app and of the bare one, in `pairs` pairs of turns, and what both wrks saw.

    A pair takes about half a second, and every second one is the other way round, so that a machine that slows down
    favours nobody. What the kernel does for a request in the server's name counts as the server's CPU.
    """
    longest = int(pairs * 4 * TURN) + 60
    limited: list[Cost] = []
    bare: list[Cost] = []
    with Paused(server.url + path, longest) as one, Paused(server.bare_url + path, longest) as other:
        server.settle()
        meter = Meter(server, redis)
        for number in range(pairs):
            for wrk, costs in ((one, limited), (other, bare))[:: -1 if number % 2 else 1]:
                wrk.turn()
                costs.append(meter.lap())
        return limited, bare, one.finish(), other.finish()
