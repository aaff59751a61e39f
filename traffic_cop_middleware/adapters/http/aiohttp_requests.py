"""One request over one of aiohttp's connections, in the bytes that it has.

aiohttp gives the pool, the connecting, the parser (llhttp) and the flow control. The request's head is written here,
for aiohttp's own writer takes text, which header values beyond ASCII are not, and its URLs are not the targets that
came. Whether a connection may serve another request is decided here too: only after a request that was sent whole and
a response that was read whole, and only while the upstream says nothing unasked. One response too many, and the next
client would get it.
"""

from __future__ import annotations

import asyncio
import functools
import select
from collections.abc import AsyncIterator, Sequence
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from traffic_cop_middleware.contracts.transport import Deadlines, Field, Origin, Outgoing
from traffic_cop_middleware.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable

LONGEST_FIELD = 65_536
MOST_FIELDS = 256
READ_SIZE = 65_536
"""Bytes of a response that are read ahead of what the client takes."""


class Link(ResponseHandler):
    """A connection, which is closed when it says something while nobody asks."""

    resting = False
    """Whether it lies in the pool."""
    used = False
    """Whether it has served a request before."""
    heard = False
    """Whether a byte came since the last request went out."""

    def data_received(self, data: bytes) -> None:
        if self.resting:
            self.abort()
            return
        self.heard = True
        super().data_received(data)
        exc, payload = self._exception, self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            # aiohttp tells of an error in the middle of a body who waits for a head, and nobody does.
            payload.set_exception(exc)

    def stirs(self) -> bool:
        """Whether something came, its end for one, that the event loop has not read yet. One system call."""
        transport = self.transport
        socket = None if transport is None else transport.get_extra_info("socket")
        if socket is None or (descriptor := socket.fileno()) < 0:
            return True
        if not hasattr(select, "poll"):
            return bool(select.select([descriptor], [], [], 0)[0])
        polled = select.poll()
        polled.register(descriptor, select.POLLIN)
        return bool(polled.poll(0))

    def rests(self) -> bool:
        """Whether it stands between two messages: not in the middle of one that nobody asked for."""
        parser: Any = self._parser
        try:
            return parser is not None and parser.feed_eof() is None
        except Exception:  # noqa: BLE001 - what came is no message: of whatever kind the parser's error is
            return False


def _link(*, loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return Link(loop)


class Place(aiohttp.ClientRequest):
    """What a pool knows an origin by, worked out once."""

    _key: ConnectionKey | None = None

    @property
    def connection_key(self) -> ConnectionKey:
        if self._key is None:
            self._key = super().connection_key
        return self._key


class Connector(aiohttp.TCPConnector):
    """A pool of such connections."""

    def __init__(self, *, connections: int, kept: float) -> None:
        super().__init__(limit=0, limit_per_host=connections, keepalive_timeout=kept)
        self._factory = functools.partial(_link, loop=self._loop)

    def close_resting(self, req: aiohttp.ClientRequest) -> None:
        """Close the connections that lie in the pool: where one turned out to be dead, the others are no better."""
        for link, _ in self._conns.pop(req.connection_key, ()):
            link.close()


class Response:
    """`Incoming`, and the request that it answers."""

    status = 0
    fields: Sequence[Field] = ()
    http_version = "1.1"

    def __init__(self, connection: Connection, link: Link, origin: Origin, deadlines: Deadlines) -> None:
        self._connection: Connection | None = connection
        self._link = link
        self._origin = origin
        self._deadlines = deadlines
        self._payload: StreamReader | None = None
        self._upload: asyncio.Task[None] | None = None
        self._sent = False
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: Outgoing) -> None:
        """Send the request and wait for the head of its response.

        Raises:
            UpstreamBroken, UpstreamTimeout: as `Transport.send` says.
        """
        link = self._link
        link.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_SIZE,
            max_line_size=LONGEST_FIELD,
            max_field_size=LONGEST_FIELD,
            max_headers=MOST_FIELDS,
        )
        link.resting = link.heard = False
        transport = link.transport
        if transport is None or transport.is_closing():
            raise UpstreamBroken(f"{name_of(self._origin)} closed the connection", stale=True)
        if request.body is None:
            transport.write(head_of(request))
            self._all_sent()
        else:
            length = next((int(value) for name, value in request.fields if name == b"content-length"), None)
            transport.write(head_of(request, chunked=length is None))
            self._upload = asyncio.create_task(self._send_body(request.body, length))
        try:
            while True:
                message, payload = await link.read()
                if not 100 <= message.code < 200:
                    break
                if message.code == 101:
                    raise self._broken("switched protocols unasked")
            self._begin(message, payload)
        except (aiohttp.ClientError, HttpProcessingError, OSError) as exc:
            raise mapped(exc, self._origin, unanswered=not link.heard, stale=link.used and not link.heard) from exc
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _begin(self, message: RawResponseMessage, payload: StreamReader) -> None:
        """Take a response's head."""
        link = self._link
        version = message.version
        if version[0] != 1 or not 200 <= message.code <= 599:
            raise self._broken(f"answered with HTTP/{version[0]}.{version[1]} and the status {message.code}")
        headers = message.headers
        lengths, codings = headers.getall("content-length", ()), headers.getall("transfer-encoding", ())
        if len(lengths) + len(codings) > 1 or (codings and codings[0].lower() != "chunked"):
            raise self._broken("answered with a body of doubtful length")
        if codings and version[1] == 0:
            raise self._broken("answered with chunks by HTTP/1.0")
        self.status = message.code
        self.fields = message.raw_headers
        self.http_version = "1.1" if version[1] else "1.0"
        self._payload = payload
        link.read_timeout = self._deadlines.idle
        if not payload.is_eof():
            link.start_timeout()

    def _broken(self, what: str) -> UpstreamBroken:
        return UpstreamBroken(f"{name_of(self._origin)} {what}")

    def _all_sent(self) -> None:
        self._sent = True
        if self._payload is None:
            self._timer = asyncio.get_running_loop().call_later(self._deadlines.head, self._too_late)

    def _too_late(self) -> None:
        self._break_off(UpstreamTimeout(f"{name_of(self._origin)} did not answer in time"))

    def _break_off(self, exc: Exception) -> None:
        """Let who waits for the response hear why it does not come, or not whole."""
        self._link.set_exception(exc)
        if self._payload is not None:
            self._payload.set_exception(exc)

    async def _send_body(self, body: AsyncIterator[bytes], length: int | None) -> None:
        """Send the body at the upstream's pace. Where the upstream leaves, whoever reads hears of it."""
        link, left = self._link, length or 0
        try:
            async for chunk in body:
                left -= len(chunk)
                if length is not None and left < 0:
                    raise self._broken("was to get more than Content-Length says")  # noqa: TRY301
                transport = link.transport
                if transport is None or transport.is_closing():
                    return
                transport.write(chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if link.writing_paused:
                    async with asyncio.timeout(self._deadlines.idle):
                        await link._drain_helper()
            if length is not None and left:
                raise self._broken("was to get less than Content-Length says")  # noqa: TRY301
            if link.transport is not None:
                if length is None:
                    link.transport.write(b"0\r\n\r\n")
                self._all_sent()
        except TimeoutError:
            self._break_off(UpstreamTimeout(f"{name_of(self._origin)} did not take the request in time"))
        except (aiohttp.ClientError, OSError):
            return
        except Exception as exc:  # noqa: BLE001 - of whatever kind the error of who gives the body is
            broken = exc if isinstance(exc, UpstreamError) else self._broken("did not get the whole request")
            if broken is not exc:
                broken.__cause__ = exc
            self._break_off(broken)

    def chunks(self) -> AsyncIterator[bytes]:
        # No generator: an event loop books each one, to close it should nobody else.
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        payload = self._payload
        try:
            if payload is not None and (chunk := await payload.readany()):
                return chunk
        except (aiohttp.ClientError, HttpProcessingError, OSError) as exc:
            raise mapped(exc, self._origin) from exc
        except RuntimeError as exc:  # what a reader says whose connection is closed
            raise self._broken("closed the connection") from exc
        raise StopAsyncIteration

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        link, payload = self._link, self._payload
        if self._upload is not None:
            self._upload.cancel()
        if self._timer is not None:
            self._timer.cancel()
        whole = self._sent and payload is not None and payload.at_eof()
        if whole and not link.should_close and link.rests():
            link.resting = link.used = True
            connection.release()
        else:
            link.abort()  # `close` would wait until an upstream that does not read has read
            connection.close()


def head_of(request: Outgoing, *, chunked: bool = False) -> bytes:
    """The request's first bytes."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.target)]
    lines += [name + b": " + value for name, value in request.fields]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def name_of(origin: Origin) -> str:
    """What errors call it."""
    return f"{origin.scheme}://{origin.host}:{origin.port}"


def mapped(exc: Exception, origin: Origin, *, unanswered: bool = False, stale: bool = False) -> UpstreamError:
    """The error of ours for one of aiohttp's."""
    name = name_of(origin)
    if isinstance(exc, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
        return UpstreamUnreachable(f"{name} can't be reached: {exc.__cause__ or exc}")
    if isinstance(exc, TimeoutError):
        return UpstreamTimeout(f"{name} did not answer in time")
    if isinstance(exc, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        return UpstreamBroken(f"{name} closed the connection", unanswered=unanswered, stale=stale)
    if isinstance(exc, (aiohttp.ClientError, HttpProcessingError, OSError)):
        return UpstreamBroken(f"{name} did not answer with HTTP as it should: {type(exc).__name__}")
    raise exc
