"""Redis: `redis://`, `rediss://` and `unix://`, shared by all workers and hosts that name the same one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from importlib.resources import files
from urllib.parse import urlsplit

import sniffio
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from traffic_cop_middleware.adapters.redis.buckets import RedisBuckets
from traffic_cop_middleware.adapters.redis.link import CONNECT_DEADLINE, Link
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreError

__all__ = ["RedisBackend", "open"]

CENSUS = files("traffic_cop_middleware.adapters.redis").joinpath("census.lua").read_text()
HEARTBEAT = 2.0
DEAD_AFTER = 3 * HEARTBEAT


class RedisBackend:
    """The stores of one Redis database, for one event loop.

    Keys begin with `<namespace>:`. Workers are counted by a sorted set of heartbeats on the server's clock.
    """

    def __init__(self, link: Link, *, name: str, namespace: str) -> None:
        self.name = name
        self.clock: Callable[[], float] = time.monotonic
        self.live_workers: int | None = None
        self.link = link
        self.buckets = RedisBuckets(link, namespace=namespace)
        self._workers_key = f"{namespace}:workers"
        self._worker = os.urandom(8).hex()
        self._census: asyncio.Task[None] | None = None

    async def connect(self, *, patience: float = CONNECT_DEADLINE) -> None:
        library = sniffio.current_async_library()
        if library != "asyncio":
            raise ConfigurationError(
                f"{self.name} needs asyncio, and this app runs on {library}: redis-py has no {library} support. Run it "
                "on asyncio (uvicorn does), or use backend='memory://'."
            )
        await self.link.connect(patience)
        self._census = asyncio.get_running_loop().create_task(self._count_workers())

    async def close(self) -> None:
        if self._census is not None:
            self._census.cancel()
            await asyncio.wait([self._census])
            self._census = None
        if self.link.up:
            with contextlib.suppress(StoreError):  # the set forgets a worker that could not say goodbye by itself
                await self.link.ask("ZREM", self._workers_key, self._worker)
        await self.link.close()

    async def _count_workers(self) -> None:
        while True:
            with contextlib.suppress(StoreError):  # the last count stands; the link has told of the loss
                self.live_workers = await self.link.ask("EVAL", CENSUS, 1, self._workers_key, self._worker, DEAD_AFTER)
            await asyncio.sleep(HEARTBEAT)


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> RedisBackend:
    """`redis://user:password@host:6379/0`, `rediss://…` (TLS) or `unix:///path?db=0`, with redis-py's query options."""
    parts = urlsplit(url)
    place = parts.hostname or "localhost"
    with contextlib.suppress(ValueError):
        place += f":{parts.port}" if parts.port else ""
    name = f"unix://{parts.path}" if parts.scheme == "unix" else f"{parts.scheme}://{place}{parts.path}"
    try:
        _ = parts.port
        options = dict(parse_url(url))
        if parts.scheme != "unix":
            _ = int(parts.path.strip("/") or 0)  # the database number
        connection_class = options.pop("connection_class", Connection)

        def open_connection() -> Connection:
            return connection_class(  # type: ignore[operator, no-any-return]
                **{
                    "protocol": 2,
                    "socket_timeout": CONNECT_DEADLINE,
                    "socket_connect_timeout": CONNECT_DEADLINE,
                    "client_name": "traffic-cop",
                    **options,
                    "retry": Retry(NoBackoff(), 0),
                }
            )

        open_connection()
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"{name} can't be used: {exc}. Write redis://host:6379/0, rediss://host:6379/0 or unix:///run/redis.sock?db=0"
        ) from exc
    link = Link(open_connection, name=name, deadline=deadline, notify=notify)
    return RedisBackend(link, name=name, namespace=namespace)
