"""Load by wrk: one plain run for throughput and latency, and two that take turns for CPU per request."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Self

from harness import CONNECTIONS, AppServer, BenchmarkError, RedisServer, cpu_seconds, end, kept_waiting, need

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
    """One turn: microseconds of CPU per request of the server and of Redis, seconds the server waited for a core."""

    server: float
    redis: float
    waited: float


@dataclass(frozen=True)
class Pair:
    """A turn of the limited app and one of the bare app beside it."""

    limited: Cost
    bare: Cost

    @property
    def added(self) -> float:
        return self.limited.server - self.bare.server

    @property
    def waited(self) -> float:
        return max(self.limited.waited, self.bare.waited)

    @property
    def is_calm(self) -> bool:
        """Whether nothing else had the server's core for long: it would leave the caches cold."""
        return self.waited < TURN / 20


class Meter:
    """CPU and requests between two moments at which the server has nothing to do."""

    def __init__(self, server: AppServer, redis: RedisServer) -> None:
        self.server, self.redis = server, redis
        self.last = self.reading()

    def reading(self) -> tuple[float, float, float, int]:
        pid = self.server.process.pid
        used = cpu_seconds(pid)
        for _ in range(100):  # what was sent before the pause is still being answered
            time.sleep(0.01)
            before, used = used, cpu_seconds(pid)
            if used - before < 0.0005:
                return used, cpu_seconds(self.redis.process.pid), kept_waiting(pid), self.server.requests()
        raise BenchmarkError("the server was still busy a second after the load was paused")

    def lap(self) -> Cost:
        """Since the last one."""
        before, self.last = self.last, self.reading()
        used, redis_used, waited, requests = (now - then for now, then in zip(self.last, before, strict=True))
        if requests < 50:
            raise BenchmarkError(f"only {requests:.0f} requests were served in {TURN} s")
        return Cost(used / requests * 1e6, redis_used / requests * 1e6, waited)


def turns(server: AppServer, redis: RedisServer, path: str, pairs: int) -> tuple[list[Pair], Load, Load]:
    """`pairs` pairs of turns of the limited app and the bare one, and what both wrks saw.

    A pair takes about half a second, and every second one is the other way round, so that a machine that slows down
    favours nobody. Pairs that something else disturbed are repeated, as often as there are pairs; then the calmest
    count. What the kernel does for a request in the server's name counts as the server's CPU.
    """
    found: list[Pair] = []
    with (
        Paused(server.url + path, int(pairs * 8 * TURN) + 60) as limited,
        Paused(server.bare_url + path, int(pairs * 8 * TURN) + 60) as bare,
    ):
        server.settle()
        meter = Meter(server, redis)
        for number in range(2 * pairs):
            costs = {}
            for wrk in (limited, bare) if number % 2 else (bare, limited):
                wrk.turn()
                costs[wrk] = meter.lap()
            found.append(Pair(costs[limited], costs[bare]))
            if sum(pair.is_calm for pair in found) == pairs:
                break
        loads = limited.finish(), bare.finish()
    return sorted(found, key=lambda pair: pair.waited)[:pairs], *loads
