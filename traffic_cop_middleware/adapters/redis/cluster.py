"""Redis Cluster: `redis+cluster://` and `rediss+cluster://`, all stores of `redis://` on many nodes.

Each key lies on the master of its slot. What must be changed together has one hash tag, so one slot, and is one script
there as on a single server; what a request takes in several slots is taken in each and given back (cluster_buckets.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from traffic_cop_middleware.adapters.redis import RedisBackend, _check_options, _name, _split
from traffic_cop_middleware.adapters.redis.cluster_buckets import ClusterBuckets
from traffic_cop_middleware.adapters.redis.cluster_link import ClusterLink
from traffic_cop_middleware.adapters.redis.cluster_slots import Address
from traffic_cop_middleware.adapters.redis.opening import CONNECT_DEADLINE
from traffic_cop_middleware.adapters.redis.sessions import RedisSessions
from traffic_cop_middleware.adapters.redis.state import RedisState
from traffic_cop_middleware.contracts import Event, StateKey
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable

__all__ = ["ClusterBackend", "open"]

FORMS = "redis+cluster://user:password@host:6379,host2:6379/0, or rediss+cluster://… for TLS"
MOST_SEEDS = 64
MOST_SCANS = 10
"""How often all sessions are gone through, where slots are moved while it is done."""


class ClusterBackend(RedisBackend):
    """The stores of one Redis Cluster, for one event loop. Keys begin with `<namespace>:`."""

    def __init__(self, link: ClusterLink, *, name: str, namespace: str) -> None:
        super().__init__(link, name=name, namespace=namespace, open_connection=link.open_any)
        self.buckets = ClusterBuckets(link, namespace=namespace)
        self.sessions = ClusterSessions(link, namespace=namespace)
        self.state = ClusterState(link, link.open_any, namespace=namespace)


class ClusterState(RedisState):
    """`StateStore` on a Redis Cluster."""

    def invalidations(self, heard: Callable[[Sequence[StateKey] | None], None]) -> Callable[[], None] | None:
        """As in the contract: there are none, and nothing is kept in front. Each master tells of its own items only."""
        return None


class ClusterSessions(RedisSessions):
    """`SessionStore` on a Redis Cluster."""

    def __init__(self, link: ClusterLink, *, namespace: str) -> None:
        super().__init__(link, namespace=namespace)
        self._cluster = link

    def revoke_all(self) -> asyncio.Future[int]:
        """As in the contract, node by node; again where a slot was moved meanwhile, for its keys may have been missed.

        Raises:
            StoreUnavailable: a node is away, or slots are moved all the time; sessions of others have ended.
        """
        return self._go_on(self._revoke_everywhere())

    async def _revoke_everywhere(self) -> int:
        ended = 0
        for _ in range(MOST_SCANS):
            before = self._cluster.layout
            for node in self._cluster.masters:
                ended += await self._revoke_all(self._scan(b"0", node), node)
            if self._cluster.layout == before:
                return ended
        raise StoreUnavailable("slots are moved faster than all sessions can be gone through: ask again later")


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> ClusterBackend:
    """`redis+cluster://user:password@host:6379,host2:6379/0`, or `rediss+cluster://…` (TLS).

    The hosts are where the cluster is asked for its nodes: name some, so that one is up. User, password and the query
    are as in `redis://` and hold for all nodes. The only database of a cluster is 0.
    """
    seeds, name, one = _nodes(url)
    try:
        options: dict[str, Any] = dict(parse_url(one))
        connection_class: type[Connection] = options.pop("connection_class", Connection)
        for part in ("host", "port"):
            options.pop(part, None)

        def new_connection(address: Address) -> Connection:
            return connection_class(
                **{
                    "protocol": 2,
                    "socket_timeout": CONNECT_DEADLINE,
                    "socket_connect_timeout": CONNECT_DEADLINE,
                    "client_name": "traffic-cop",
                    **options,
                    "host": address.host,
                    "port": address.port,
                    "retry": Retry(NoBackoff(), 0),
                }
            )

        first = new_connection(seeds[0])
        tls = first.ssl_context.get() if isinstance(first, SSLConnection) else None
    except (TypeError, ValueError, OSError, RedisError) as exc:
        raise ConfigurationError(f"{name} can't be used: {exc}. Write {FORMS}") from exc

    def open_at(address: Address) -> Connection:
        connection = new_connection(address)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.context = tls  # read once: the authorities take tens of milliseconds
        return connection

    link = ClusterLink(open_at, seeds=seeds, name=name, deadline=deadline, notify=notify)
    return ClusterBackend(link, name=name, namespace=namespace)


def _nodes(url: str) -> tuple[list[Address], str, str]:
    """The addresses in a URL, what may be printed of it, and a URL of its first node alone.

    Each host is looked at as if it stood alone in `redis://`, so that the same is refused, in the same words.
    """
    scheme, _, rest = url.partition("://")
    single = scheme.lower().removesuffix("+cluster")
    end = min((place for mark in "/?#" if (place := rest.find(mark)) >= 0), default=len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    urls = [f"{single}://{user}{at}{host}{rest[end:]}" for host in hosts.split(",")]
    parts = [_split(each) for each in urls]
    places = [_name(each._replace(path="")).partition("://")[2] for each in parts]
    name = f"{single}+cluster://{','.join(places)}{parts[0].path}"
    if len(urls) > MOST_SEEDS or not all(each.hostname for each in parts):
        raise ConfigurationError(f"{name}: a host is missing, or there are more than {MOST_SEEDS}. Write {FORMS}")
    _check_options(parts[0], name, frozenset())
    database = parts[0].path.strip("/") or str(parse_url(urls[0]).get("db", 0))
    if int(database or 0) != 0:
        raise ConfigurationError(f"{name}: a Redis Cluster has no database but 0. Write {FORMS}")
    return [Address(each.hostname or "", each.port or 6379) for each in parts], name, urls[0]
