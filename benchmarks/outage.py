"""What the callers of an app feel while its Redis freezes, thaws, is killed and comes back empty.

    python benchmarks/outage.py [--quick] [--rounds N] [--rate R]

One run after the other, in random order: the bare app, ours with a stack limit and a marked one, and two peers. Each is
asked at a fixed rate over 64 connections while redis-server is stopped for 5 s (SIGSTOP), goes on (SIGCONT), is killed
(SIGKILL) and a second later started anew with an empty database. Latencies count from when a request was due. No
request should be refused: the limits are far above the load. Needs `redis-server` and the extra `bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

import report
from apps import PATHS
from harness import (
    CONNECTIONS,
    HOST,
    AppServer,
    BenchmarkError,
    RedisServer,
    need,
    one_at_a_time,
    pin_beside_server,
    stop_on_sigterm,
)
from paced import NO_ANSWER, Answer, drive

VARIANTS = ["bare", "ours stack+mark redis", "limits fixed redis", "slowapi decorator redis"]
OURS = "ours stack+mark redis"
PHASES = {"steady": 0.0, "frozen": 2.0, "thawed": 7.0, "killed": 9.0, "back": 10.0}
"""What Redis does from which second on."""
SECONDS = 13.0
PATIENCE = 15.0
ALLOWED = 0.05 + 0.05
"""Seconds from the sending of a request to its answer: our deadline for Redis, and time for the loop."""


@dataclass
class Felt:
    """All answers of a variant, and how many script calls the new Redis had seen at the end of each run."""

    answers: list[Answer] = field(default_factory=list)
    calls_after: list[int] = field(default_factory=list)
    tracebacks: int = 0

    def waited(self, phase: str = "") -> list[float]:
        """Sorted milliseconds from when a request was due, of all or of those due in one phase."""
        names = list(PHASES)
        begin = PHASES[phase] if phase else 0.0
        finish = PHASES[names[names.index(phase) + 1]] if phase and phase != names[-1] else SECONDS
        return sorted(answer.waited * 1e3 for answer in self.answers if begin <= answer.due < finish)


async def torment(redis: RedisServer, start: float) -> None:
    """The outage; it ends with Redis running whatever happens.

    A signal lands a little into its phase, so that the requests which are in flight then are counted there.
    """

    async def until(phase: str) -> None:
        await asyncio.sleep(start + PHASES[phase] + 0.02 - time.perf_counter())

    try:
        await until("frozen")
        redis.process.send_signal(signal.SIGSTOP)
        await until("thawed")
        redis.process.send_signal(signal.SIGCONT)
        await until("killed")
        redis.process.kill()
        await until("back")
    finally:
        redis.process.kill()
        await asyncio.to_thread(redis.process.wait, 5)
        await asyncio.to_thread(redis.start)


async def one_run(redis: RedisServer, server: AppServer, rate: float) -> list[Answer]:
    def load(start: float, seconds: float) -> Coroutine[None, None, list[Answer]]:
        return drive(
            HOST,
            server.port,
            PATHS["starlette"],
            start=start,
            connections=CONNECTIONS,
            rate=rate,
            seconds=seconds,
            patience=PATIENCE,
        )

    await load(time.perf_counter(), 1)
    start = time.perf_counter() + 0.1
    answers, _ = await asyncio.gather(load(start, SECONDS), torment(redis, start))
    return answers


def script_calls(redis: RedisServer) -> int:
    """How often the limits asked the Redis that was started last: all four variants' limits are called by EVALSHA."""
    found = re.search(rb"cmdstat_evalsha:calls=(\d+)", redis.ask("INFO commandstats"))
    return int(found[1]) if found else 0


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def table(felt: dict[str, Felt]) -> str:
    header = [
        "",
        "answers by status",
        f"over {ALLOWED * 1e3:.0f} ms",
        "p50 ms",
        "p99",
        "p99.9",
        "max",
        *(f"{phase} p99.9" for phase in PHASES),
        "asks Redis again",
    ]
    lines = []
    for variant in VARIANTS:
        found = felt[variant]
        statuses = Counter(answer.status for answer in found.answers)
        waited = found.waited()
        lines.append(
            [
                variant,
                ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(statuses.items(), reverse=True)),
                f"{sum(answer.served > ALLOWED for answer in found.answers)}",
                *(f"{percentile(waited, share):.1f}" for share in (0.5, 0.99, 0.999)),
                f"{waited[-1]:.0f}",
                *(f"{percentile(found.waited(phase), 0.999):.0f}" for phase in PHASES),
                "" if variant == "bare" else ("yes" if min(found.calls_after) else "NO"),
            ]
        )
    return report.grid(header, lines)


def verdict(found: Felt) -> tuple[str, bool]:
    """No 5xx, no request left without an answer, none that waited for Redis beyond the deadline, Redis asked again.

    The wait counts from the sending, as the bar does, over all rounds: a hang may come in one of several.
    """
    failed = sum(answer.status >= 500 for answer in found.answers)
    silent = sum(answer.status == NO_ANSWER for answer in found.answers)
    slow = sum(answer.served > ALLOWED for answer in found.answers)
    slowest = max(answer.served for answer in found.answers) * 1e3
    met = not failed and not silent and not slow and min(found.calls_after) > 0 and not found.tracebacks
    return (
        f"  {'met   ' if met else 'MISSED'}  ours: {failed} answers of 5xx, {silent} requests without an answer, "
        f"{slow} over {ALLOWED * 1e3:.0f} ms (slowest {slowest:.0f} ms), {found.tracebacks} tracebacks in the log"
    ), met


def main() -> int:
    parser = argparse.ArgumentParser(description="Latency through an outage of Redis, ours beside the bare app.")
    parser.add_argument("--quick", action="store_true", help="one round: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 3, quick 1")
    parser.add_argument("--rate", type=float, default=2000, help="requests per second; default 2000")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 3)
    need("redis-server", "redis-server")
    stop_on_sigterm()
    pin_beside_server()
    felt = {variant: Felt() for variant in VARIANTS}
    with one_at_a_time(), RedisServer() as redis:
        print(report.machine())
        for _ in range(rounds):
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                with AppServer(variant, "starlette", redis.url) as server:
                    felt[variant].answers += asyncio.run(one_run(redis, server, asked.rate))
                    felt[variant].calls_after.append(script_calls(redis))
                    felt[variant].tracebacks += server.said().count("Traceback (most recent call last)")
                print(f"{variant}: {len(felt[variant].answers)} answers", file=sys.stderr)
    frozen, killed = PHASES["thawed"] - PHASES["frozen"], PHASES["back"] - PHASES["killed"]
    print(f"\nRedis frozen {frozen:.0f} s, later killed and {killed:.0f} s after that started empty; {rounds} rounds")
    print(f"{asked.rate:.0f} requests/s over {CONNECTIONS} connections; ms from when a request was due\n")
    print(table(felt))
    line, met = verdict(felt[OURS])
    print("\nBars\n" + line)
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
