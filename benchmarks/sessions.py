"""What a session costs: ours, Starlette's cookie and starsessions, around one small app, in one process.

    python benchmarks/sessions.py [--quick] [--rounds N]

No HTTP server takes part: requests are calls of the ASGI app in a loop, so that a microsecond is seen. In each round
every row has one turn, in a new random order, and each turn comes with one of the bare app. "+ us" is the median over
all turns of this process's CPU per request, less the bare app's beside it. On Redis so many tasks send one request
after the other as the row's name says. Needs `redis-server` and the extra `bench`. Ends with status 1 when a bar is
missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from statistics import median

import report
import uvloop
from harness import (
    FIRST_CORE,
    BenchmarkError,
    RedisServer,
    cpu_seconds,
    need,
    one_at_a_time,
    pin_beside_server,
    stop_on_sigterm,
)
from session_apps import BROWSER, SECRET, Headers, logged_in, memory_apps, receive, redis_apps, request, send
from session_report import CONCURRENCIES, Figures, Found, Row, Turn, bars, beside_limits, table
from starlette.types import ASGIApp

MEMORY_REQUESTS, REDIS_REQUESTS = 2000, 640


async def turn(app: ASGIApp, row: Row, headers: Headers, requests: int, redis: RedisServer | None) -> Turn:
    """So many requests, by so many tasks."""

    async def client(number: int) -> None:
        path = row.path
        for _ in range(number):
            await app(request(path, headers), receive, send)

    there = cpu_seconds(redis.process.pid) if redis else 0.0
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(requests // row.concurrency) for _ in range(row.concurrency)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    there = cpu_seconds(redis.process.pid) - there if redis else 0.0
    return Turn(*(seconds / requests * 1e6 for seconds in (cpu, wall, there)))


async def measure(
    apps: dict[str, ASGIApp], rows: Iterable[Row], *, rounds: int, requests: int, redis: RedisServer | None = None
) -> Found:
    """All rows, in `rounds` rounds after one that only warms up."""
    found = {row: Figures() for row in rows}
    headers = {name: await logged_in(app) for name, app in apps.items() if name not in ("bare", "limits")}
    for number in range(-1, rounds):
        if number == 0:  # what the apps are made of is no longer searched for garbage; what requests leave behind is
            gc.collect()
            gc.freeze()
        for row in random.sample(list(found), len(found)):
            sent = BROWSER if row.stranger else headers.get(row.app, BROWSER)
            bare = await turn(apps["bare"], Row("bare", "/", concurrency=row.concurrency), sent, requests, None)
            mine = await turn(apps[row.app], row, sent, requests, redis)
            if number >= 0:
                found[row].turns.append(mine)
                found[row].bare.append(bare)
    gc.unfreeze()
    return found


def memory_rows() -> list[Row]:
    rows = [Row("bare", "/")]
    for app in ("ours", "ours, whole stack", "Starlette's cookie", "starsessions"):
        rows += [Row(app, "/", stranger=True), *(Row(app, path) for path in ("/", "/read", "/write"))]
        rows.append(Row(app, "/login", stranger=True))
    return rows


def redis_rows() -> list[Row]:
    rows = []
    for concurrency in CONCURRENCIES:
        rows += [Row(app, path, False, concurrency) for app in ("ours", "starsessions") for path in ("/read", "/write")]
        rows += [Row("ours", "/", False, concurrency), Row("limits", "/", False, concurrency)]
        rows += [Row("limits + session", path, False, concurrency) for path in ("/", "/read", "/write")]
    return rows


async def run(redis: RedisServer, rounds: int) -> tuple[Found, Found]:
    async with memory_apps() as apps:
        in_memory = await measure(apps, memory_rows(), rounds=rounds, requests=MEMORY_REQUESTS)
    print("memory done", file=sys.stderr)
    async with redis_apps(redis.url) as apps:
        on_redis = await measure(apps, redis_rows(), rounds=rounds, requests=REDIS_REQUESTS, redis=redis)
    return in_memory, on_redis


def signing(rounds: int) -> str:
    """Microseconds of a token's signature alone: ours, and what Starlette signs its cookie by."""
    import itsdangerous

    from traffic_cop_middleware.adapters.jwt import JwtCodec, keyset

    now = time.time()
    claims = {"sid": "x" * 32, "gen": 1, "iat": int(now), "exp": int(now) + 900, "sub": "ada"}
    codec = JwtCodec(keyset(SECRET, algorithm="HS256"), issuer="bench", audience="bench", max_lifetime=1e6)
    token = codec.sign(claims, typ="at+jwt").encode()
    signer = itsdangerous.TimestampSigner(SECRET)
    signed = signer.sign(b"x" * 200)
    calls = {
        "ours, a token (HS256), signed": lambda: codec.sign(claims, typ="at+jwt"),
        "ours, verified for the first time": lambda: codec.verify(token, typ="at+jwt", now=now),
        "itsdangerous, signed": lambda: signer.sign(b"x" * 200),
        "itsdangerous, verified": lambda: signer.unsign(signed, max_age=900),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            for _ in range(200):
                call()
            taken[name].append((time.process_time() - start) / 200 * 1e6)
    lines = [[name, f"{median(values):.1f}"] for name, values in taken.items()]
    return "\nA signature alone\n" + report.grid(["", "CPU us"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a session costs, ours beside the peers'.")
    parser.add_argument("--quick", action="store_true", help="few rounds: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 60, quick 12")
    asked = parser.parse_args()
    rounds = asked.rounds or (12 if asked.quick else 60)
    need("redis-server", "redis-server")
    stop_on_sigterm()
    pin_beside_server()
    with one_at_a_time(), RedisServer() as redis:
        os.sched_setaffinity(0, FIRST_CORE)  # Redis keeps the others
        print(report.machine())
        print(", ".join(f"{name} {metadata.version(name)}" for name in ("pyjwt", "starsessions", "itsdangerous")))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            in_memory, on_redis = runner.run(run(redis, rounds))
        print(table("In memory, one request after the other", in_memory))
        for concurrency in CONCURRENCIES:
            rows = {row: figures for row, figures in on_redis.items() if row.concurrency == concurrency}
            print(table(f"On Redis, {concurrency} at once", rows))
        print(beside_limits(on_redis))
        print(signing(rounds))
    lines, met = bars(in_memory, on_redis)
    print(lines)
    if rounds < 60:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
