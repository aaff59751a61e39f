"""What the gateway's tests share."""

from __future__ import annotations

import itertools

import pytest

from tests.gateway.served import PARSERS
from tests.servers import RedisServer

NUMBERS = itertools.count()


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    """Each of uvicorn's HTTP parsers: what one lets through, the other may not."""
    found: str = request.param
    return found


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def backend(request: pytest.FixtureRequest) -> str:
    """The URL of a backend that cops of this process share."""
    if request.param == "memory":
        return f"memory://shared-{next(NUMBERS)}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url
