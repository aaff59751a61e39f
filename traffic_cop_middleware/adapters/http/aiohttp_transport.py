"""`Transport` on aiohttp's client.

Of the ready clients it is the one that leaves a message as it is: repeated fields in their order, no decompression, an
answer that comes before the upload has ended, back-pressure both ways. Requests are written by us, in their own bytes;
trailers of a response do not come through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict
from yarl import URL

from traffic_cop_middleware.adapters.http.aiohttp_requests import (
    LONGEST_FIELD,
    READ_SIZE,
    Connector,
    Link,
    Place,
    Response,
)
from traffic_cop_middleware.adapters.http.aiohttp_requests import mapped as _mapped
from traffic_cop_middleware.adapters.http.aiohttp_requests import name_of as _name
from traffic_cop_middleware.adapters.http.aiohttp_sockets import Sockets
from traffic_cop_middleware.contracts.transport import Deadlines, Field, Incoming, Origin, Outgoing, UpstreamSocket
from traffic_cop_middleware.errors import UpstreamBroken, UpstreamError, UpstreamUnreachable

AUTOMATIC = ("accept", "accept-encoding", "content-type", "user-agent")
"""What aiohttp would add by itself."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that can be asked again where a kept connection turns out to be closed. For the others it is looked at first:
on a busy event loop an end may lie unread for long."""
MOST_ORIGINS = 1024
"""Upstreams whose place in the pool is kept at hand."""


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
        self._places: dict[Origin, Place] = {}

    def _open(self) -> aiohttp.ClientSession:
        session = self._session
        if session is None:
            jar: AbstractCookieJar = aiohttp.DummyCookieJar()
            session = self._session = aiohttp.ClientSession(
                connector=Connector(connections=self._connections, kept=self._kept),
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
        connector, place = self._open().connector, self._place(origin)
        if not isinstance(connector, Connector):
            raise UpstreamUnreachable(f"{_name(origin)} can't be reached: the gateway is closed")
        while True:
            try:
                connection = await connector.connect(place, [], _timeout(deadlines))
            except TimeoutError as exc:
                raise UpstreamUnreachable(f"{_name(origin)} can't be reached: no connection in time") from exc
            except (aiohttp.ClientError, OSError) as exc:
                raise UpstreamUnreachable(f"{_name(origin)} can't be reached: {exc.__cause__ or exc}") from exc
            link = connection.protocol
            if not isinstance(link, Link):
                connection.close()
                raise UpstreamUnreachable(f"{_name(origin)} can't be reached: the connection is closed")
            if not link.used or request.method in SAFE or not link.stirs():
                break
            link.abort()
            connection.close()
        response = Response(connection, link, origin, deadlines)
        try:
            await response.ask(request)
        except BaseException as exc:
            response.close()
            if isinstance(exc, UpstreamBroken) and exc.stale:
                connector.close_resting(place)
            raise
        return response

    def _place(self, origin: Origin) -> Place:
        """What the pool knows an origin by."""
        place = self._places.get(origin)
        if place is None:
            if len(self._places) >= MOST_ORIGINS:
                del self._places[next(iter(self._places))]
            tls = origin.tls if origin.tls is not None else True
            url = url_of(origin, b"/")
            place = Place("GET", url, loop=asyncio.get_running_loop(), ssl=tls, server_hostname=origin.name)
            self._places[origin] = place
        return place

    async def connect(
        self, origin: Origin, request: Outgoing, *, subprotocols: Sequence[str], deadlines: Deadlines
    ) -> UpstreamSocket:
        try:
            return await self._sockets.open(
                url_of(origin, request.target),
                _headers(request.fields),
                subprotocols=subprotocols,
                tls=origin.tls if origin.tls is not None else True,
                name=origin.name,
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
