"""`Transport` on aiohttp's client.

Of the ready clients it is the one that keeps a request as it is: the raw path, repeated fields in their order, no
decompression, an answer that comes before the upload has ended, back-pressure both ways. What it can't send are header
values that are no UTF-8; trailers of a response do not come through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict
from yarl import URL

from traffic_cop_middleware.adapters.http.aiohttp_sockets import Sockets
from traffic_cop_middleware.contracts.transport import Deadlines, Field, Incoming, Origin, Outgoing, UpstreamSocket
from traffic_cop_middleware.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)

LONGEST_FIELD = 65_536
MOST_FIELDS = 256
READ_SIZE = 65_536
"""Bytes of a response that are read ahead of what the client takes."""
AUTOMATIC = ("accept", "accept-encoding", "content-type", "user-agent")
"""What aiohttp would add by itself."""

_reused: ContextVar[list[bool]] = ContextVar("reused")


class Connector(aiohttp.TCPConnector):
    """A pool that tells whether the connection it gave was used before."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        connection = await super().connect(req, traces, timeout)
        protocol: Any = connection.protocol
        told = _reused.get(None)
        if told is not None:
            told.append(getattr(protocol, "was_used", False))
        protocol.was_used = True
        return connection


class AiohttpTransport:
    """`Transport` with one pool of connections. Belongs to the event loop that it is first used on.

    `connections` per origin; more requests wait for one until the connect deadline. `kept` is the seconds that an idle
    one is kept.
    """

    def __init__(self, *, connections: int = 256, kept: float = 15.0) -> None:
        self._connections = connections
        self._kept = kept
        self._session: aiohttp.ClientSession | None = None
        self._sockets = Sockets(skipped=AUTOMATIC, longest_field=LONGEST_FIELD)

    def _open(self) -> aiohttp.ClientSession:
        session = self._session
        if session is None:
            jar: AbstractCookieJar = aiohttp.DummyCookieJar()
            session = self._session = aiohttp.ClientSession(
                connector=Connector(limit=0, limit_per_host=self._connections, keepalive_timeout=self._kept),
                cookie_jar=jar,
                auto_decompress=False,
                skip_auto_headers=AUTOMATIC,
                trust_env=False,
                read_bufsize=READ_SIZE,
                max_line_size=LONGEST_FIELD,
                max_field_size=LONGEST_FIELD,
            )
            session._retry_connection = False  # whether to ask again is decided above
        return session

    async def send(self, origin: Origin, request: Outgoing, *, deadlines: Deadlines) -> Incoming:
        session = self._open()
        reused: list[bool] = []
        token = _reused.set(reused)
        try:
            response = await session.request(
                request.method,
                url_of(origin, request.target),
                headers=_headers(request.fields),
                data=request.body,
                allow_redirects=False,
                timeout=_timeout(deadlines),
                ssl=origin.tls if origin.tls is not None else True,
            )
        except Exception as exc:
            raise _mapped(exc, origin, stale=bool(reused and reused[-1])) from exc
        finally:
            _reused.reset(token)
        return Response(response, origin, deadlines.idle)

    async def connect(
        self, origin: Origin, request: Outgoing, *, subprotocols: Sequence[str], deadlines: Deadlines
    ) -> UpstreamSocket:
        try:
            return await self._sockets.open(
                url_of(origin, request.target),
                _headers(request.fields),
                subprotocols=subprotocols,
                tls=origin.tls if origin.tls is not None else True,
                timeout=_timeout(deadlines),
                stall=deadlines.idle,
            )
        except UpstreamError:
            raise
        except Exception as exc:
            raise _mapped(exc, origin, stale=False) from exc

    async def close(self) -> None:
        await self._sockets.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Response:
    """`Incoming` of aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse, origin: Origin, idle: float) -> None:
        self.status = response.status
        self.fields: Sequence[Field] = response.raw_headers
        self._response = response
        self._origin = origin
        connection = response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = idle

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise _mapped(exc, self._origin, stale=False) from exc

    def close(self) -> None:
        self._response.release() if self._response.content.at_eof() else self._response.close()


def url_of(origin: Origin, target: bytes) -> URL:
    """The URL of a request; its path and query are not touched."""
    path, _, query = target.decode("ascii").partition("?")
    return URL.build(
        scheme=origin.scheme, host=origin.host, port=origin.port, path=path, query_string=query, encoded=True
    )


def _headers(fields: Iterable[Field]) -> CIMultiDict[str]:
    return CIMultiDict([(name.decode("latin-1"), value.decode()) for name, value in fields])


@lru_cache(maxsize=64)
def _timeout(deadlines: Deadlines) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, connect=deadlines.connect, sock_connect=deadlines.connect, sock_read=deadlines.head
    )


def _name(origin: Origin) -> str:
    return f"{origin.scheme}://{origin.host}:{origin.port}"


def _mapped(exc: Exception, origin: Origin, *, stale: bool) -> UpstreamError:
    """The error of ours for one of aiohttp's."""
    name = _name(origin)
    if isinstance(exc, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
        return UpstreamUnreachable(f"{name} can't be reached: {exc.__cause__ or exc}")
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout(f"{name} did not answer in time")
    if isinstance(exc, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        partial = getattr(exc, "message", None)
        return UpstreamBroken(f"{name} closed the connection", stale=stale and not isinstance(partial, bytes))
    if isinstance(exc, (aiohttp.ClientError, OSError)):
        return UpstreamBroken(f"{name} did not answer with HTTP as it should: {type(exc).__name__}")
    raise exc
