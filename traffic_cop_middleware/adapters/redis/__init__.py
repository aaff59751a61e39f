"""Redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, shared by all workers and hosts that name one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from traffic_cop_middleware.adapters.redis.buckets import RedisBuckets
from traffic_cop_middleware.adapters.redis.bus import RedisBus
from traffic_cop_middleware.adapters.redis.instances import RedisInstances
from traffic_cop_middleware.adapters.redis.leases import RedisLeases
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.metrics import RedisMetrics
from traffic_cop_middleware.adapters.redis.opening import CONNECT_DEADLINE
from traffic_cop_middleware.adapters.redis.records import RedisRecords
from traffic_cop_middleware.adapters.redis.sentinel import OPTIONS as SENTINEL_OPTIONS
from traffic_cop_middleware.adapters.redis.sentinel import Sentinels, without_hosts
from traffic_cop_middleware.adapters.redis.sentinel_watch import MasterWatch
from traffic_cop_middleware.adapters.redis.session_routes import RedisSessionRoutes
from traffic_cop_middleware.adapters.redis.sessions import RedisSessions
from traffic_cop_middleware.adapters.redis.state import RedisState
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreError

__all__ = ["RedisBackend", "open"]

CENSUS = files("traffic_cop_middleware.adapters.redis").joinpath("census.lua").read_text()
HEARTBEAT = 2.0
DEAD_AFTER = 3 * HEARTBEAT

FORMS = (
    "redis://user:password@host:6379/0, rediss://host:6379/0, unix:///run/redis.sock?db=0 or "
    "redis+sentinel://host1:26379,host2:26379/0?service=mymaster"
)
OPTIONS = frozenset(
    (
        *("db", "username", "password", "client_name", "protocol"),
        *("socket_timeout", "socket_connect_timeout", "socket_read_size", "socket_keepalive", "health_check_interval"),
    )
)
TLS_OPTIONS = frozenset(
    (
        *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs"),
        *("ssl_check_hostname", "ssl_min_version", "ssl_ciphers", "ssl_include_verify_flags"),
        "ssl_exclude_verify_flags",
    )
)
"""Those of redis-py's connection options that a URL can say; the others take objects, or belong to its pool."""


class RedisBackend:
    """The stores of one Redis database, for one event loop.

    Keys begin with `<namespace>:`. Workers are counted by a sorted set of heartbeats on the server's clock.
    """

    def __init__(
        self,
        link: Link,
        *,
        name: str,
        namespace: str,
        open_connection: Callable[..., Connection],
        watch: MasterWatch | None = None,
    ) -> None:
        self.name = name
        self.clock: Callable[[], float] = time.monotonic
        self.live_workers: int | None = None
        self.counted = True
        """Whether this is one of the workers that share the limits. Who only announces a service is none."""
        self.link = link
        self.buckets = RedisBuckets(link, namespace=namespace)
        self.sessions = RedisSessions(link, namespace=namespace)
        self.session_routes = RedisSessionRoutes(link, namespace=namespace)
        self.records = RedisRecords(link, namespace=namespace)
        self.leases = RedisLeases(link, namespace=namespace)
        self.instances = RedisInstances(link, namespace=namespace)
        self.metrics = RedisMetrics(link, namespace=namespace)
        self.state = RedisState(link, partial(open_connection, protocol=3), namespace=namespace)
        self.bus = RedisBus(link, open_connection, namespace=namespace)
        self._workers_key = f"{namespace}:workers"
        self._worker = os.urandom(8).hex()
        self._census: asyncio.Task[None] | None = None
        self._watch = watch

    async def connect(self, *, patience: float = CONNECT_DEADLINE) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                f"{self.name} needs asyncio, and this app runs on trio: redis-py has no support for it. Run the app on "
                "asyncio (uvicorn does), or use backend='memory://'."
            ) from None
        await self.link.connect(patience)
        self._census = loop.create_task(self._count_workers())
        self.state.tracking.start()
        self.bus.start()
        if self._watch is not None:
            self._watch.start()

    async def close(self) -> None:
        census, self._census = self._census, None
        try:
            if census is not None:
                census.cancel()
                await asyncio.wait([census])
            await self.state.tracking.close()
            if self._watch is not None:
                await self._watch.close()
            await self.bus.close()
            if self.link.up:
                with contextlib.suppress(StoreError):  # the set forgets one that could not say goodbye by itself
                    await self.link.ask("ZREM", self._workers_key, self._worker)
        finally:
            await self.link.close()

    async def _count_workers(self) -> None:
        try:
            while True:
                with contextlib.suppress(StoreError):  # the last count stands; the link has told of the loss
                    if not self.counted:
                        await asyncio.Event().wait()
                    self.live_workers = await self.link.ask(
                        "EVAL", CENSUS, 1, self._workers_key, self._worker, DEAD_AFTER
                    )
                await asyncio.sleep(HEARTBEAT)
        finally:
            if self._census is not None:  # not by `close`: the loop ends, and the socket must not outlive it
                self.link.let_go()


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> RedisBackend:
    """`redis://user:password@host:6379/0`, `rediss://…` (TLS), `unix:///path?db=0` or `redis+sentinel://…`.

    In the query: the options of redis-py's connections that are plain values (`OPTIONS`, `TLS_OPTIONS`).
    """
    url, hosts = without_hosts(url)
    parts = _split(url)
    sentinels = None if hosts is None else Sentinels(parts, hosts)
    name = _name(parts) if sentinels is None else sentinels.name
    _check_options(parts, name, SENTINEL_OPTIONS if sentinels else frozenset())
    try:
        options: dict[str, Any] = dict(parse_url(url))
        connection_class: type[Connection] = options.pop("connection_class", Connection)
        if sentinels is not None:
            connection_class, options = sentinels.following(connection_class, options)

        def new_connection(**more: int) -> Connection:
            return connection_class(
                **{
                    "protocol": 2,
                    "socket_timeout": CONNECT_DEADLINE,
                    "socket_connect_timeout": CONNECT_DEADLINE,
                    "client_name": "traffic-cop",
                    **options,
                    **more,
                    "retry": Retry(NoBackoff(), 0),
                }
            )

        first = new_connection()
        tls = first.ssl_context.get() if isinstance(first, SSLConnection) else None
    except (TypeError, ValueError, OSError, RedisError) as exc:
        raise ConfigurationError(f"{name} can't be used: {exc}. Write {FORMS}") from exc

    def open_connection(**more: int) -> Connection:
        connection = new_connection(**more)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.context = tls  # read once: the authorities take tens of milliseconds
        return connection

    watch = None if sentinels is None else MasterWatch(sentinels, open_connection)
    link = Link(open_connection, name=name, deadline=deadline, notify=notify, moves=watch is not None)
    return RedisBackend(link, name=name, namespace=namespace, open_connection=open_connection, watch=watch)


def _split(url: str) -> SplitResult:
    """The parts of a URL that can be told apart.

    What is written of one that can't never quotes it: where a reserved character stands in a password, pieces of the
    password are taken for the host, the port or the path.
    """
    try:
        parts = urlsplit(url)
        hidden = "@" in parts.fragment or (parts.scheme != "unix" and "@" in parts.path + parts.query.partition("=")[0])
        if parts.scheme == "unix":
            hidden |= bool(parts.netloc) and "@" not in parts.netloc
        if hidden or parts.fragment or parts.port == 0:
            raise ValueError("not to be told apart")  # noqa: TRY301 - the same end as urlsplit's own
    except ValueError:
        raise ConfigurationError(
            "backend: this Redis URL can't be read: its port is no number from 1 to 65535, its host is malformed, or "
            f"its user or password holds one of : / ? # [ ] @ as it is (write %2F for a slash). Write {FORMS}"
        ) from None
    return parts


def _name(parts: SplitResult) -> str:
    """What may be printed of a URL: no user, no password, no options."""
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or "localhost"
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _check_options(parts: SplitResult, name: str, more: frozenset[str]) -> None:
    known = OPTIONS | more | (TLS_OPTIONS if parts.scheme == "rediss" else frozenset())
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in query:
        if option in TLS_OPTIONS - known:
            secure = "rediss+sentinel" if more else "rediss"
            raise ConfigurationError(f"{name}: the option {option!r} needs TLS. Write {secure}://, or leave it out")
        if option not in known:
            raise ConfigurationError(
                f"{name}: {option!r} is no option of a Redis URL; there are {', '.join(sorted(known))}"
            )
    path = parts.path.strip("/")
    if parts.scheme == "unix":
        if not path:
            raise ConfigurationError(f"{name}: the path of the socket is missing. Write unix:///run/redis.sock?db=0")
        path = ""
    for database in (path, query.get("db", "")):
        if database and not (database.isascii() and database.isdecimal()):
            raise ConfigurationError(f"{name}: {database!r} is no database number. Write {FORMS}")
