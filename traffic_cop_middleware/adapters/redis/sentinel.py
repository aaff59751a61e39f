"""Sentinel: which server is the master at present, asked of the sentinels that watch over it.

Theory of operation. A connection that is opened (`MasterConnection`) asks the sentinels in turn, connects to the server
that the first one names, and goes no further unless its ROLE says master: a sentinel may not have heard yet. One whose
word proved true is asked first next time, one that failed or was wrong last. So the ways back after a loss, which the
link and the notifications have anyway, lead to the new master. What breaks no connection is sentinel_watch.py's.

Source: redis.io, "Guidelines for Redis clients with support for Redis Sentinel".
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit
from weakref import WeakSet

from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError

from traffic_cop_middleware.adapters.redis.opening import CONNECT_DEADLINE, discard
from traffic_cop_middleware.adapters.redis.replies import refuses
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable

log = logging.getLogger("traffic_cop.redis")

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""URL scheme -> that of the connections, to the sentinels as to the master."""
FORM = "redis+sentinel://user:password@host1:26379,host2:26379,host3:26379/0?service=mymaster"
OPTIONS = frozenset(("service", "sentinel_username", "sentinel_password"))
PORT = 26379
SENTINEL_DEADLINE = CONNECT_DEADLINE / 4
"""Seconds for one sentinel, so that a frozen one leaves time for the next and for the master."""

Address = tuple[str, int]


def without_hosts(url: str) -> tuple[str, str | None]:
    """A sentinel URL as one of a single server, and the text that names its sentinels; `None` for any other URL."""
    scheme, _, rest = url.partition("://")
    plain = SCHEMES.get(scheme.lower())
    if plain is None:
        return url, None
    authority = rest[: min((rest.find(end) for end in "/?#" if end in rest), default=len(rest))]
    user, at, hosts = authority.rpartition("@")
    return f"{plain}://{user}{at}sentinels{rest[len(authority) :]}", hosts


class Sentinels:
    """The sentinels of one service, for one event loop. `parts` and `hosts` are of `without_hosts`.

    `name` is what may be printed: no user, no password. `followed` has the connections that led to the master.

    Raises:
        ConfigurationError: a host can't be read, or the service is missing.
    """

    def __init__(self, parts: SplitResult, hosts: str) -> None:
        self._order = [_address(host) for host in hosts.split(",")]
        self.name = f"{parts.scheme}+sentinel://{','.join(map(_written, self._order))}{parts.path}"
        self._service = parse_qs(parts.query).get("service", [""])[0]
        if not self._service:
            raise ConfigurationError(
                f"{self.name}: the name of the service is missing. Write ?service=mymaster, with the name that stands "
                f"after `sentinel monitor` in the sentinels' configuration, as in {FORM}"
            )
        self.name += f"?service={self._service}"
        self.followed: WeakSet[Connection] = WeakSet()
        self._kind: type[Connection] = Connection
        self._options: dict[str, Any] = {}
        self._told_unproved = False

    def following(self, kind: type[Connection], options: dict[str, Any]) -> tuple[type[Connection], dict[str, Any]]:
        """The class and the options of connections to the master, from what redis-py reads in the URL."""
        own = {name: value for name, value in options.items() if name not in OPTIONS}
        self._kind = kind
        self._options = {
            **{name: value for name, value in own.items() if name.startswith(("ssl_", "socket_"))},
            "socket_timeout": SENTINEL_DEADLINE,
            "socket_connect_timeout": SENTINEL_DEADLINE,
            "protocol": 2,
            "username": options.get("sentinel_username"),
            "password": options.get("sentinel_password"),
        }
        first = self._connection(self._order[0])
        self._tls = first.ssl_context if isinstance(first, SSLConnection) else None
        if self._tls is not None:
            self._tls.get()  # read once: the authorities take tens of milliseconds
        return (MasterConnection if self._tls is None else SecureMasterConnection), {**own, "sentinels": self}

    def _connection(self, sentinel: Address) -> Connection:
        host, port = sentinel
        return self._kind(host=host, port=port, **self._options, retry=Retry(NoBackoff(), 0))

    # Asking

    async def find(self) -> tuple[Address, Address]:
        """Where the master is, and the sentinel that says so.

        Raises:
            ConfigurationError: no sentinel that answers knows the service, or lets this client ask.
            StoreUnavailable: no sentinel answers.
        """
        refused: ConfigurationError | None = None
        silent: list[str] = []
        for sentinel in tuple(self._order):
            self.ask_last(sentinel)
            try:
                async with asyncio.timeout(SENTINEL_DEADLINE):
                    connection = await self.reach(sentinel)
                    try:
                        return await self.master_by(connection), sentinel
                    finally:
                        discard(connection)
            except ConfigurationError as exc:
                refused = refused or exc
            except Exception as exc:  # noqa: BLE001 - whatever it is: another sentinel may answer
                silent.append(f"{_written(sentinel)}: {str(exc) or 'no answer in time'}")
        if refused is not None:
            raise refused
        raise StoreUnavailable(f"no sentinel answers ({'; '.join(silent)})")

    async def reach(self, sentinel: Address | None = None) -> Connection:
        """A connection to a sentinel, the one to ask first unless told another.

        Raises:
            ConfigurationError: it refuses this client.
        """
        sentinel = sentinel or self._order[0]
        connection = self._connection(sentinel)
        if isinstance(connection, SSLConnection) and self._tls is not None:
            connection.ssl_context = self._tls
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as exc:
            self.ask_last(sentinel)
            discard(connection)
            if isinstance(exc, Exception) and refuses(exc):
                raise self._refusal(sentinel, exc) from exc
            raise
        return connection

    async def master_by(self, connection: Connection) -> Address:
        """Where the master is, as the sentinel of `connection` says.

        Raises:
            ConfigurationError: it does not know the service, or is no sentinel.
        """
        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        try:
            reply = await connection.read_response()
        except Exception as exc:
            if refuses(exc):
                raise self._refusal((connection.host, connection.port), exc) from exc
            raise
        if reply is None:
            raise ConfigurationError(
                f"{self.name}: the sentinels know no service {self._service!r}. Write ?service= with the name that "
                "stands after `sentinel monitor` in their configuration"
            )
        host, port = reply
        return host.decode("ascii"), int(port)

    def _refusal(self, sentinel: Address, cause: Exception) -> ConfigurationError:
        mend = "Mend sentinel_username and sentinel_password in the URL: sentinels have users of their own"
        if "unknown command" in str(cause):
            mend = f"Is this a sentinel's port? Sentinels listen on {PORT}, and the servers that they watch on others"
        return ConfigurationError(
            f"{self.name}: the sentinel at {_written(sentinel)} refuses this client: {cause}. {mend}"
        )

    # Whom to believe

    def ask_first(self, sentinel: Address) -> None:
        """What it said was true."""
        self._order.remove(sentinel)
        self._order.insert(0, sentinel)

    def ask_last(self, sentinel: Address) -> None:
        """It did not answer, or was wrong, or its answer is not proved yet."""
        self._order.remove(sentinel)
        self._order.append(sentinel)

    def unproved(self, cause: Exception) -> None:
        """Say once that this user may not ask a server for its ROLE."""
        if not self._told_unproved:
            self._told_unproved = True
            log.warning("%s: a server does not tell whether it is the master (%s). Allow +role", self.name, cause)


class MasterConnection(Connection):
    """A connection that goes, each time it connects, to the master that the sentinels name."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)

    async def connect(self) -> None:
        """Find it, connect, and see that it is one.

        Raises:
            ConfigurationError: as `Sentinels.find`.
            StoreUnavailable: no sentinel answers, or what one named is no master.
        """
        (self.host, self.port), sentinel = await self._sentinels.find()
        await super().connect()  # type: ignore[no-untyped-call]
        await self.send_command("ROLE")
        try:
            said: Any = await self.read_response()
        except NoPermissionError as exc:  # a replica says READONLY at the first write: later, and surely
            self._sentinels.unproved(exc)
        else:
            if said[0] != b"master":
                raise StoreUnavailable(
                    f"{self.host}:{self.port}, which the sentinel at {_written(sentinel)} names, is no master but a "
                    f"{said[0].decode()}"
                )
        self._sentinels.ask_first(sentinel)
        self._sentinels.followed.add(self)


class SecureMasterConnection(MasterConnection, SSLConnection):
    """The same over TLS."""


def _address(text: str) -> Address:
    """`host`, `host:port` or `[IPv6]:port`. What can't be read is not quoted: a piece of a password may stand there."""
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname or parts.port == 0 or parts.netloc != text:
            raise ValueError("no host")  # noqa: TRY301 - the same end as urlsplit's own
    except ValueError:
        raise ConfigurationError(
            "backend: this sentinel URL can't be read: one of its hosts is missing or malformed, the port of one is no "
            "number from 1 to 65535, or its user or password holds one of : / ? # [ ] @ as it is (write %2F for a "
            f"slash). Write {FORM}"
        ) from None
    return parts.hostname, parts.port or PORT


def _written(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
