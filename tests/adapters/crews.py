"""Backends of several workers on one Redis."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest_asyncio

from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis

DEADLINE = 30.0
"""Seconds: generous, for who asks for these asks what is kept, not how fast."""
WORKERS = 3


@contextlib.asynccontextmanager
async def workers(url: str, *, number: int = WORKERS, deadline: float = DEADLINE) -> AsyncIterator[list[RedisBackend]]:
    """The backends of several workers, on keys of their own."""
    namespace = f"crew-{secrets.token_hex(4)}"
    async with contextlib.AsyncExitStack() as stack:
        backends = []
        for _ in range(number):
            backend = open_redis(url, namespace=namespace, deadline=deadline, notify=lambda event: None)
            await backend.connect(patience=DEADLINE)
            stack.push_async_callback(backend.close)
            backends.append(backend)
        yield backends


class OnFakeRedis:
    """For a suite that asks for `backends`: on fakeredis, where it would be the real server."""

    @pytest_asyncio.fixture
    async def backends(self, fake_redis_url: str) -> AsyncIterator[list[RedisBackend]]:
        async with workers(fake_redis_url) as opened:
            yield opened
