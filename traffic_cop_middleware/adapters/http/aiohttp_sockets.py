"""WebSockets to upstreams, on aiohttp's client.

They have connections of their own: one that stays open for days takes none from the requests. Whether an upstream is
still there is asked by TCP itself: pings of ours would cut a socket whose client reads slowly, for while nothing is
taken from it the answers to them are not read either.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as tcp
from collections.abc import Callable, Iterable, Sequence
from ssl import SSLContext
from struct import pack

import aiohttp
from aiohttp.abc import AbstractCookieJar
from multidict import CIMultiDict
from yarl import URL

from traffic_cop_middleware.contracts.transport import Field
from traffic_cop_middleware.errors import UpstreamBroken, UpstreamRefused

MOST_SOCKETS = 10_000
"""WebSockets that are open at once; a further one waits until its connect deadline."""
MOST_MESSAGE = 16 * 1024 * 1024
"""Bytes that one WebSocket message may have, as uvicorn has it for those of clients."""
MOST_REFUSAL = 64 * 1024
"""Bytes of the body of a refusal that are passed on; a longer body is left out."""
MOST_REASON = 123
"""Bytes of a close frame's reason (RFC 6455, section 5.5)."""
CLOSE_DEADLINE = 5.0
"""Seconds that an upstream has to answer a close frame; then the connection is cut."""
BROKEN_DEADLINE = 0.5
"""The same for one that broke the protocol."""
NO_CODE = 1005
LOST = 1006
NO_TLS = 1015
GOING_AWAY = 1001
TOO_BIG = 1009
PROTOCOL_ERROR = 1002
BAD_GATEWAY = 1014
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 15


class Sockets:
    """Opens WebSockets, and knows those that are open. Belongs to the event loop that it is first used on.

    `skipped` are header fields that aiohttp must not add, `longest_field` is bytes.
    """

    def __init__(self, *, skipped: Iterable[str], longest_field: int) -> None:
        self._skipped = tuple(skipped)
        self._longest_field = longest_field
        self._connector: aiohttp.TCPConnector | None = None
        self._open: set[Socket] = set()

    async def open(
        self,
        url: URL,
        headers: CIMultiDict[str],
        *,
        subprotocols: Sequence[str],
        tls: SSLContext | bool,
        name: str | None,
        timeout: aiohttp.ClientTimeout,
        stall: float,
    ) -> Socket:
        """Connect and shake hands.

        `name` is what the certificate must be for, where that is not the URL's host.
        `stall` is the seconds after which a connection is lost that takes nothing of what is sent.

        Raises:
            UpstreamRefused: the upstream gave another answer than a handshake.
            UpstreamBroken: its handshake is wrong.
            aiohttp.ClientError, OSError, TimeoutError: there was no answer.
        """
        session = self._session(timeout)
        try:
            async with asyncio.timeout((timeout.connect or 0) + (timeout.sock_read or 0)):
                opened = await session.ws_connect(
                    url,
                    headers=headers,
                    protocols=subprotocols,
                    autoclose=False,
                    max_msg_size=MOST_MESSAGE + 1,  # aiohttp's is the first size that is refused
                    ssl=tls,
                    server_hostname=name,
                    timeout=aiohttp.ClientWSTimeout(ws_close=BROKEN_DEADLINE),  # pyright: ignore[reportCallIssue]
                )
        except aiohttp.WSServerHandshakeError as exc:
            raise UpstreamBroken(f"{url.origin()} did not shake hands as RFC 6455 has it: {exc.message}") from exc
        finally:
            session.detach()
        socket = Socket(opened, self._open.discard, name=str(url.origin()), stall=stall)
        self._open.add(socket)
        wrong = _not_offered(socket)
        if wrong:
            await socket.close(PROTOCOL_ERROR, "")
            raise UpstreamBroken(f"{url.origin()} chose {wrong} that was not offered (RFC 6455, section 4.1)")
        return socket

    async def close(self) -> None:
        """Close all sockets, each with 1001, and their connections."""
        await asyncio.gather(*(socket.leave() for socket in tuple(self._open)))
        connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close()

    def _session(self, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        """A session for one handshake, because aiohttp takes a WebSocket's deadlines from the session only."""
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(limit=MOST_SOCKETS, force_close=True)
        jar: AbstractCookieJar = aiohttp.DummyCookieJar()
        session = aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=jar,
            middlewares=(_only_a_handshake,),
            skip_auto_headers=self._skipped,
            auto_decompress=False,
            trust_env=False,
            timeout=timeout,
            max_line_size=self._longest_field,
            max_field_size=self._longest_field,
        )
        session._retry_connection = False  # whether to ask again is decided above
        return session


async def _only_a_handshake(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Whatever is no handshake ends here: above all no redirect is followed, which would let an upstream pick hosts."""
    response = await handler(request)
    if response.status == 101:
        return response
    try:
        body = b""
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MOST_REFUSAL:
                body = b""
                break
        raise UpstreamRefused(
            f"{request.url.origin()} did not take the WebSocket",
            status=response.status,
            fields=response.raw_headers,
            body=body,
        )
    finally:
        response.close()


def _not_offered(socket: Socket) -> str:
    """What of a handshake answers nothing that was asked; the client must fail then."""
    names = {name.lower() for name, _ in socket.fields}
    if b"sec-websocket-extensions" in names:
        return "an extension"
    if b"sec-websocket-protocol" in names and socket.subprotocol is None:
        return "a sub-protocol"
    return ""


class Socket:
    """`UpstreamSocket` of aiohttp."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse[bool],
        forget: Callable[[Socket], None],
        *,
        name: str,
        stall: float,
    ) -> None:
        self.subprotocol = socket.protocol
        self._response = socket._response
        self.fields: Sequence[Field] = self._response.raw_headers
        self.closed: tuple[int, str] = (LOST, "")
        self._socket = socket
        self._forget = forget
        self._name = name
        self._over = False
        connection = self._response.connection
        self._transport = connection.transport if connection is not None else None
        self._watch_by_tcp(stall)

    async def receive(self) -> str | bytes | None:
        message = await self._socket.receive()
        kind = message.type
        if kind is aiohttp.WSMsgType.TEXT or kind is aiohttp.WSMsgType.BINARY:
            data: str | bytes = message.data
            return data
        if self._over:
            return None
        if kind is aiohttp.WSMsgType.CLOSE:
            self.closed = (message.data or NO_CODE, message.extra or "")
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._socket.send_frame(_close_frame(*self.closed), aiohttp.WSMsgType.CLOSE)
        elif kind is aiohttp.WSMsgType.ERROR:
            broke = message.data
            too_big = isinstance(broke, aiohttp.WebSocketError) and broke.code == TOO_BIG
            self.closed = (TOO_BIG, "a message is larger than the gateway takes") if too_big else (BAD_GATEWAY, "")
        self._end()
        return None

    async def send(self, message: str | bytes) -> None:
        try:
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamBroken(f"{self._name} is gone") from exc

    async def close(self, code: int, reason: str) -> None:
        if self._over:
            return
        self._over = True
        answered = False
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self._socket.send_frame(_close_frame(code, reason), aiohttp.WSMsgType.CLOSE)
                while (await self._socket.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    pass  # what was under way when the close frame went out
                answered = True
        except (aiohttp.ClientError, OSError, TimeoutError):
            answered = False
        finally:
            if not answered and self._transport is not None:
                self._transport.abort()  # a close would wait for an upstream that takes nothing
            self._end()

    async def leave(self) -> None:
        """Close because the gateway ends; who waits in `receive` gets `None`."""
        if not self._over:
            self._over = True
            self.closed = (GOING_AWAY, "")
            try:
                async with asyncio.timeout(CLOSE_DEADLINE):
                    await self._socket.close(code=GOING_AWAY)
            except (aiohttp.ClientError, OSError, TimeoutError):
                if self._transport is not None:
                    self._transport.abort()
            finally:
                self._end()

    def _end(self) -> None:
        self._over = True
        self._response.close()
        self._forget(self)

    def _watch_by_tcp(self, stall: float) -> None:
        """Lose a connection whose other end died without a word, or takes nothing any more."""
        socket = self._transport.get_extra_info("socket") if self._transport is not None else None
        if socket is None:
            return
        socket.setsockopt(tcp.SOL_SOCKET, tcp.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_USER_TIMEOUT", max(1, int(stall * 1000))),  # RFC 5482
        ):
            if hasattr(tcp, option):
                socket.setsockopt(tcp.IPPROTO_TCP, getattr(tcp, option), value)


def _close_frame(code: int, reason: str) -> bytes:
    """A close frame's payload: nothing where there is no code; no code that is never sent (RFC 6455, section 7.4)."""
    if code == NO_CODE:
        return b""
    if code in (LOST, NO_TLS) or not 1000 <= code <= 4999:
        code = PROTOCOL_ERROR
    return pack("!H", code) + reason.encode()[:MOST_REASON].decode(errors="ignore").encode()
