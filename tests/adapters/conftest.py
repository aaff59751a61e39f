"""What the adapters' tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.adapters.crews import workers
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.redis import RedisBackend


@pytest_asyncio.fixture
async def backends(redis_server: RedisServer) -> AsyncIterator[list[RedisBackend]]:
    """The backends of several workers on the real server."""
    async with workers(redis_server.url) as opened:
        yield opened
