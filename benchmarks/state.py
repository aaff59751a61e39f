"""What state costs: a get, a put, a watcher's delay, and puts that last; beside cashews and aiocache.

    python benchmarks/state.py [--quick] [--rounds N]

"get" reads one item of 5 members, and looks at its value, 1,000 times in a row; in each round every row has one turn,
in a new random order. Figures are medians over the rounds, of this process's CPU in microseconds. "near" is ours on
Redis with the item kept near, "memory" ours on a memory backend; the peers' caches are in memory, and hand out the
object that was set. "Redis" rows ask a real server, one after the other; how many commands the server was sent for a
put is counted by the server itself (MONITOR).
Needs `redis-server` and the extra `bench`. Ends with status 1 when a bar is missed: a get from near is to be no dearer
than theirs, and a put is to be one round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import report
import uvloop
from aiocache import RedisCache, SimpleMemoryCache
from aiocache.serializers import JsonSerializer
from cashews import Cache
from harness import BenchmarkError, RedisServer, one_at_a_time, stop_on_sigterm
from redis.asyncio import Redis

from traffic_cop_middleware import TrafficCop

GETS, PUTS = 1000, 300
VALUE = {"owner": "alice", "paid": False, "lines": [1, 2, 3], "total": 12.5, "note": "by the back door"}
LIBRARIES = ("starlette", "redis", "hiredis", "uvloop", "cashews", "aiocache")

Act = Callable[[], Awaitable[Any]]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app that is never asked."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@contextlib.asynccontextmanager
async def opened(cop: TrafficCop) -> AsyncIterator[TrafficCop]:
    """A cop through its lifespan."""
    to_app: asyncio.Queue[Any] = asyncio.Queue()
    from_app: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(cop.wrap(nothing)({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    answer = await from_app.get()
    if answer["type"] != "lifespan.startup.complete":
        raise BenchmarkError(str(answer))
    try:
        yield cop
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await life


async def turn(act: Act, times: int) -> tuple[float, float]:
    """CPU and wall clock per call, in microseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        await act()
    return (time.process_time() - cpu) / times * 1e6, (time.perf_counter() - wall) / times * 1e6


async def measured(rows: dict[str, Act], *, rounds: int, times: int) -> dict[str, tuple[float, float]]:
    """Medians of CPU and wall clock of all rows; the first round only warms up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for number in range(-1, rounds):
        for name in random.sample(list(rows), len(rows)):
            figures = await turn(rows[name], times)
            if number >= 0:
                found[name].append(figures)
    return {name: (median(cpu for cpu, _ in each), median(wall for _, wall in each)) for name, each in found.items()}


async def is_near(cop: TrafficCop) -> None:
    """Wait until the item is kept near."""
    end = time.monotonic() + 10
    near = cop.state.house.reader.near
    hits = near.hits if near is not None else 0
    while near is not None and near.hits < hits + 3:
        if time.monotonic() > end:
            raise BenchmarkError("the item is not kept near")
        await cop.state.get("orders", "7")
        await asyncio.sleep(0.01)


async def commands_of(redis: RedisServer, act: Act, times: int) -> float:
    """How many commands the server gets from its clients for one call; what scripts do inside is not counted."""
    async with Redis.from_url(redis.url) as client, client.monitor() as monitor:
        seen = 0
        for _ in range(times):
            await act()
        marker = Redis.from_url(redis.url)
        await marker.echo("that is all")
        await marker.aclose()
        while True:
            said = await asyncio.wait_for(monitor.next_command(), 10)
            command = str(said["command"])
            if "that is all" in command:
                return seen / times
            of_state = command.upper().startswith(("EVALSHA", "EVAL ")) and ":st:" in command
            seen += of_state and said["client_type"] != "lua"


async def gets(redis: RedisServer, rounds: int) -> tuple[dict[str, tuple[float, float]], float]:
    """The rows of gets and puts, and the commands of a put."""
    cashews = Cache()
    cashews.setup("mem://?size=10000")
    cashews_redis = Cache()
    cashews_redis.setup(redis.url.replace("/0", "/1"), client_side=False)
    aiocache = SimpleMemoryCache()
    aiocache_redis = RedisCache(endpoint="127.0.0.1", port=redis.port, db=2, serializer=JsonSerializer())
    for cache in (cashews, aiocache, aiocache_redis, cashews_redis):
        await cache.set("orders:7", VALUE)
    async with opened(TrafficCop(redis.url, deadline=5)) as shared, opened(TrafficCop()) as memory:
        for cop in (shared, memory):
            await cop.state.put("orders", "7", VALUE)
        await is_near(shared)

        def get_of(cop: TrafficCop, consistency: Any = "near") -> Act:
            async def get() -> None:
                item = await cop.state.get("orders", "7", consistency=consistency)
                if item is None or item.value["owner"] != "alice":
                    raise BenchmarkError("the item is not there")

            return get

        rows: dict[str, Act] = {
            "get, near": get_of(shared),
            "get, memory": get_of(memory),
            "get, cashews in memory": lambda: cashews.get("orders:7"),
            "get, aiocache in memory": lambda: aiocache.get("orders:7"),
            "put, memory": lambda: memory.state.put("orders", "8", VALUE),
        }
        found = await measured(rows, rounds=rounds, times=GETS)
        asked: dict[str, Act] = {
            "get, Redis (strong)": get_of(shared, "strong"),
            "get, cashews on Redis": lambda: cashews_redis.get("orders:7"),
            "get, aiocache on Redis": lambda: aiocache_redis.get("orders:7"),
            "put, Redis": lambda: shared.state.put("orders", "8", VALUE),
            "put, cashews on Redis": lambda: cashews_redis.set("orders:8", VALUE),
            "put, aiocache on Redis": lambda: aiocache_redis.set("orders:8", VALUE),
        }
        found |= await measured(asked, rounds=rounds, times=PUTS)
        commands = await commands_of(redis, asked["put, Redis"], 100)
    await cashews.close()
    await cashews_redis.close()
    await aiocache_redis.close()
    return found, commands


async def delays(redis: RedisServer, times: int) -> list[float]:
    """Milliseconds from a put's return on one worker until a watcher on another hears of it."""
    found: list[float] = []
    async with opened(TrafficCop(redis.url, deadline=5)) as here, opened(TrafficCop(redis.url, deadline=5)) as there:
        heard: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

        async def watch() -> None:
            async for change in here.state.watch("orders"):
                heard.put_nowait((change.version, time.perf_counter()))

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.2)
        for number in range(times):
            put = await there.state.put("orders", "9", number)
            put_at = time.perf_counter()
            version, at = await asyncio.wait_for(heard.get(), 10)
            if version != put.version:
                raise BenchmarkError("the watcher heard of another write")
            found.append((at - put_at) * 1000)
            await asyncio.sleep(0.005)
        watching.cancel()
        await asyncio.wait([watching])
    return sorted(found)


async def lasting(folder: Path, seconds: float) -> dict[str, float]:
    """Puts a second that last, one after the other and 64 at a time."""
    found = {}
    for tier in ("immediate", "delayed"):
        documents = f"sqlite:////{folder.as_posix().lstrip('/')}/{tier}.db"
        async with opened(TrafficCop(documents=documents, documents_deadline=30)) as cop:
            for at_once in (1, 64):
                count, end = 0, time.perf_counter() + seconds
                begun = time.perf_counter()
                while time.perf_counter() < end:
                    await asyncio.gather(
                        *(cop.state.put("orders", f"{count + n}", VALUE, tier=tier) for n in range(at_once))  # type: ignore[arg-type]
                    )
                    count += at_once
                found[f"{tier}, {at_once} at a time"] = count / (time.perf_counter() - begun)
    return found


async def main(rounds: int, seconds: float) -> bool:
    print(report.machine(LIBRARIES))
    with RedisServer() as redis:
        found, commands = await gets(redis, rounds)
        waited = await delays(redis, 200)
    with tempfile.TemporaryDirectory(prefix="traffic-cop-bench-") as folder:
        puts = await lasting(Path(folder), seconds)
    lines = [[name, f"{cpu:.1f}", f"{wall:.1f}"] for name, (cpu, wall) in found.items()]
    print(report.grid(["", "CPU us", "wall us"], lines))
    print(f"\nA watcher on another worker hears of a put after {median(waited):.2f} ms (p99 {waited[197]:.2f})")
    print(report.grid(["SQLite, puts a second", ""], [[name, f"{rate:.0f}"] for name, rate in puts.items()]))
    near = found["get, near"][0]
    peers = {name: found[f"get, {name} in memory"][0] for name in ("cashews", "aiocache")}
    met = [near <= cost for cost in peers.values()]
    print("\nBars")
    for (name, cost), is_met in zip(peers.items(), met, strict=True):
        print(
            f"  {'met   ' if is_met else 'MISSED'}  a get from near is no dearer than {name}'s: "
            f"{near:.1f} / {cost:.1f} us"
        )
    print(f"  {'met   ' if commands == 1 else 'MISSED'}  a put on Redis is one command: {commands:g}")
    return all(met) and commands == 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    stop_on_sigterm()
    try:
        with one_at_a_time():
            well = uvloop.run(main(7 if options.quick else options.rounds, 1.0 if options.quick else 3.0))
    except BenchmarkError as exc:
        sys.exit(f"The benchmark can't run: {exc}")
    sys.exit(0 if well else 1)
