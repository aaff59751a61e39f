"""The peers, each set up as its manual says. Client address as the key, the same limits, the same Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from apps import REDIS, REFUSE, checked, make

LIMIT = "1/day" if REFUSE else "1000000/second"


def slowapi_decorator(url: str) -> Any:
    """Its recommended way: a decorator on the route, which then must ask for the request. Sync Redis only."""
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, storage_uri=url)
    app = make(limiter.limit(LIMIT), asks_for_request=True)
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    return app


def slowapi_middleware(url: str, *, routers: bool = True) -> Any:
    """Its ASGI middleware with default limits. On FastAPI it limits nothing that an included router has."""
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.middleware import SlowAPIASGIMiddleware
    from slowapi.util import get_remote_address

    app = make(routers=routers)
    app.state.limiter = Limiter(key_func=get_remote_address, storage_uri=url, default_limits=[LIMIT])
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


def fastapi_limiter(url: str, *, routers: bool) -> Any:
    """A dependency over pyrate-limiter. It answers 500 on an app with included routers (`routers=True` shows that)."""
    from fastapi import Depends
    from fastapi_limiter.depends import RateLimiter
    from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate, RedisBucket

    rate = Rate(1, Duration.DAY) if REFUSE else Rate(1_000_000, Duration.SECOND)
    dependency = RateLimiter(limiter=Limiter(InMemoryBucket([rate])))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        if url:
            from redis.asyncio import Redis

            dependency.limiter = Limiter(await RedisBucket.init([rate], Redis.from_url(url), "bench"))
        yield

    return make(lifespan=lifespan, routers=routers, dependencies=[Depends(dependency)])


def throttled_admits(url: str, algorithm: str) -> Callable[[str], Awaitable[bool]]:
    from throttled.asyncio import MemoryStore, RedisStore, Throttled, per_day, per_sec

    quota = per_day(1, burst=1) if REFUSE else per_sec(1_000_000, burst=1_000_000)
    throttle = Throttled(using=algorithm, quota=quota, store=RedisStore(server=url) if url else MemoryStore())

    async def admits(address: str) -> bool:
        return not (await throttle.limit(address)).limited

    return admits


def limits_admits(url: str, strategy: str, **options: Any) -> Callable[[str], Awaitable[bool]]:
    import limits
    from limits.aio import strategies
    from limits.storage import storage_from_string

    storage: Any = storage_from_string(f"async+{url or 'memory://'}", **options)
    limiter: Any = getattr(strategies, strategy)(storage)
    item = limits.parse(LIMIT)

    async def admits(address: str) -> bool:
        admitted: bool = await limiter.hit(item, address)
        return admitted

    return admits


def variants() -> dict[str, Callable[[], Any]]:
    """Every peer's app by the name of its row."""
    fixed, moving, redispy = "FixedWindowRateLimiter", "MovingWindowRateLimiter", {"implementation": "redispy"}
    return {
        "slowapi decorator memory": lambda: slowapi_decorator("memory://"),
        "slowapi decorator redis": lambda: slowapi_decorator(REDIS),
        "slowapi middleware memory": lambda: slowapi_middleware("memory://"),
        "slowapi middleware redis": lambda: slowapi_middleware(REDIS),
        "slowapi middleware flat memory": lambda: slowapi_middleware("memory://", routers=False),
        "slowapi middleware flat redis": lambda: slowapi_middleware(REDIS, routers=False),
        "fastapi-limiter flat memory": lambda: fastapi_limiter("", routers=False),
        "fastapi-limiter flat redis": lambda: fastapi_limiter(REDIS, routers=False),
        "fastapi-limiter redis": lambda: fastapi_limiter(REDIS, routers=True),
        "throttled gcra memory": lambda: checked(throttled_admits("", "gcra")),
        "throttled gcra redis": lambda: checked(throttled_admits(REDIS, "gcra")),
        "throttled token bucket memory": lambda: checked(throttled_admits("", "token_bucket")),
        "throttled token bucket redis": lambda: checked(throttled_admits(REDIS, "token_bucket")),
        "limits fixed memory": lambda: checked(limits_admits("", fixed)),
        "limits fixed redis": lambda: checked(limits_admits(REDIS, fixed, **redispy)),
        "limits fixed coredis redis": lambda: checked(limits_admits(REDIS, fixed)),
        "limits moving memory": lambda: checked(limits_admits("", moving)),
        "limits moving redis": lambda: checked(limits_admits(REDIS, moving, **redispy)),
    }
