"""Requests to upstreams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from ssl import SSLContext
from typing import NamedTuple, Protocol

Field = tuple[bytes, bytes]


class Origin(NamedTuple):
    """Where an upstream listens. `scheme` is "http" or "https"; `tls` has certificates of its own.

    `name` is what TLS asks for (SNI) and what the certificate must be for, where that is not the `host`: the name that
    led to its address.
    """

    scheme: str
    host: str
    port: int
    tls: SSLContext | None = None
    name: str | None = None


class Deadlines(NamedTuple):
    """Seconds: to `connect`, from the request to the `head` of its response, `idle` between two pieces of a body.

    None of them cuts another short: a body may take as long as it keeps coming.
    """

    connect: float
    head: float
    idle: float


class Outgoing(NamedTuple):
    """A request as it goes out. `target` is the path and query byte by byte; `fields` in order, names in lower case.

    `body` is `None` where there is none. Where it is sent with a length, that stands in `fields`; else it is chunked.
    Nothing here is checked again: it holds no byte that would end a line.
    """

    method: str
    target: bytes
    fields: Sequence[Field]
    body: AsyncIterator[bytes] | None


class Incoming(Protocol):
    """A response whose head has come. It is closed exactly once, read to its end or not."""

    status: int
    fields: Sequence[Field]
    http_version: str

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; no more is read than is taken.

        Raises:
            UpstreamBroken: it ended before its end.
            UpstreamTimeout: nothing came for the idle deadline.
        """
        ...

    def close(self) -> None:
        """Done: the connection goes back to the pool if the response was read to its end, else it is cut."""
        ...


class UpstreamSocket(Protocol):
    """A WebSocket to an upstream, whose handshake is done. Messages are `str` or `bytes`."""

    subprotocol: str | None
    fields: Sequence[Field]

    async def receive(self) -> str | bytes | None:
        """The next message; `None` when the upstream has closed."""
        ...

    async def send(self, message: str | bytes) -> None:
        """Send one message; waits while the upstream takes none.

        Raises:
            UpstreamBroken: the connection is gone.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close with a code (RFC 6455, section 7.4; 1005 sends none), and wait a moment for the upstream's answer.

        Nobody else may be in `receive` meanwhile. Closing what is closed does nothing.
        """
        ...

    @property
    def closed(self) -> tuple[int, str]:
        """The code and reason that the upstream closed with: 1005 where it gave no code, 1006 where it just went away,
        1014 or 1009 where what it sent was no WebSocket message or too large, 1001 where the transport was closed.
        """
        ...


class Transport(Protocol):
    """Speaks HTTP/1.1 with upstreams, over connections that it keeps."""

    async def send(self, origin: Origin, request: Outgoing, *, deadlines: Deadlines) -> Incoming:
        """Send a request; its response, as soon as that has begun, also while the body is still going out.

        Raises:
            UpstreamUnreachable: no connection, so nothing was sent.
            UpstreamBroken: the connection broke, or what came is no HTTP; its `unanswered` says whether it was closed
                before a byte came, `stale` whether it was a kept one then.
            UpstreamTimeout: the head did not come in time.
        """
        ...

    async def connect(
        self, origin: Origin, request: Outgoing, *, subprotocols: Sequence[str], deadlines: Deadlines
    ) -> UpstreamSocket:
        """Open a WebSocket.

        Raises:
            UpstreamRefused: the upstream gave another answer than a handshake.
            UpstreamUnreachable, UpstreamBroken, UpstreamTimeout: as in `send`.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
