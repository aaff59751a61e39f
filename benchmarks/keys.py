"""How much memory of Redis one client takes: many clients by each library's own API, INFO before and after.

Run as a child (`python benchmarks/keys.py NAME URL CLIENTS TAKES`) once per library, so that the limits can be slow
ones: nothing expires while it is counted.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from harness import HERE, RedisServer, environment

Take = Callable[[str], Awaitable[Any]]
ALLOWED = "100/day"


async def ours(url: str) -> Take:
    from traffic_cop_middleware.adapters.redis import open as open_redis
    from traffic_cop_middleware.contracts import Take as Wish

    backend = open_redis(url, namespace="tc", deadline=5.0, notify=print)
    await backend.connect()

    async def take(address: str) -> None:
        await backend.buckets.take([Wish(f"{{ip:{address}}}{ALLOWED}", 100, 100 / 86400)])

    return take


async def of_limits(strategy: str, url: str) -> Take:
    import limits
    from limits.aio import strategies
    from limits.storage import storage_from_string

    storage: Any = storage_from_string(f"async+{url}", implementation="redispy")
    limiter: Any = getattr(strategies, strategy)(storage)
    item = limits.parse(ALLOWED)

    async def take(address: str) -> None:
        await limiter.hit(item, address)

    return take


async def of_slowapi(url: str) -> Take:
    """Its Limiter hits `limits` with (client address, path)."""
    import limits
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    hit = Limiter(key_func=get_remote_address, storage_uri=url).limiter.hit
    item = limits.parse(ALLOWED)

    async def take(address: str) -> None:
        hit(item, address, "/search")

    return take


async def of_throttled(algorithm: str, url: str) -> Take:
    from throttled.asyncio import RedisStore, Throttled, per_day

    return Throttled(using=algorithm, quota=per_day(100, burst=100), store=RedisStore(server=url)).limit


LIBRARIES: dict[str, Callable[[str], Awaitable[Take]]] = {
    "ours": ours,
    "throttled gcra": lambda url: of_throttled("gcra", url),
    "throttled token bucket": lambda url: of_throttled("token_bucket", url),
    "limits fixed": lambda url: of_limits("FixedWindowRateLimiter", url),
    "limits moving": lambda url: of_limits("MovingWindowRateLimiter", url),
    "slowapi": of_slowapi,
}


async def fill(name: str, url: str, clients: int, takes: int) -> None:
    take = await LIBRARIES[name](url)
    for at in range(0, clients, 50):
        batch = [f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(at, at + 50)]
        for _ in range(takes):
            await asyncio.gather(*(take(address) for address in batch))


def memory_per_key(redis: RedisServer) -> dict[str, tuple[float, float]]:
    """Bytes per client after one request of 20,000 clients, and after 50 requests of 1,000 clients."""
    found = {}
    for name in LIBRARIES:
        once, often = (bytes_per_client(redis, name, *size) for size in ((20_000, 1), (1_000, 50)))
        found[name] = (once, often)
    return found


def bytes_per_client(redis: RedisServer, name: str, clients: int, takes: int) -> float:
    """A first small filling loads the scripts; then the difference of used_memory, the child's connections closed."""

    def run(clients: int) -> int:
        command = [sys.executable, str(HERE / "keys.py"), name, redis.url, str(clients), str(takes)]
        subprocess.run(command, check=True, env=environment(), timeout=120)
        return redis.used_memory()

    redis.ask("FLUSHALL")
    run(50)
    redis.ask("FLUSHALL")
    before = redis.used_memory()
    return (run(clients) - before) / clients


if __name__ == "__main__":
    asyncio.run(fill(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
