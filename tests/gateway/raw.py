"""A client and an upstream on bare sockets: they send the bytes that a test writes, and keep those that come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

Field = tuple[bytes, bytes]
PATIENCE = 10.0
"""Seconds after which a test gives up; nothing takes that long that goes well."""


class Message(NamedTuple):
    """A request or response: its first line, its fields as they are on the wire, and its body without framing."""

    start: bytes
    fields: list[Field]
    body: bytes
    trailers: list[Field]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]


class Peer:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.seen = b""
        """All that came."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def read(self, most: int = 65536) -> bytes:
        """What comes next; b"" at the end, also at one by a reset."""
        try:
            async with asyncio.timeout(PATIENCE):
                data = await self.reader.read(most)
        except ConnectionError:
            return b""
        self.seen += data
        return data

    async def until(self, mark: bytes) -> bytes:
        """All up to a mark, and with it."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.readuntil(mark)
        self.seen += data
        return data

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.readexactly(size)
        self.seen += data
        return data

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        data = b""
        while piece := await self.read():
            data += piece
        return data

    async def ended(self) -> bool:
        """Whether the other side closes, without another byte, before a test gives up."""
        return await self.read() == b""

    async def head(self) -> tuple[bytes, list[Field]]:
        head = await self.until(b"\r\n\r\n")
        start, *lines = head[:-4].split(b"\r\n")
        return start, [_field(line) for line in lines]

    async def message(self, *, bodiless: bool = False) -> Message:
        """The next message, whole. Interim responses are messages too."""
        start, fields = await self.head()
        values = {name.lower(): value for name, value in fields}
        body, trailers = b"", list[Field]()
        response = start.startswith(b"HTTP/")
        status = start.split(b" ")[1] if response else b""
        if bodiless or status in (b"204", b"304") or status.startswith(b"1"):
            pass
        elif b"transfer-encoding" in values:
            async for chunk in self.chunks():
                body += chunk
            while (line := await self.until(b"\r\n")) != b"\r\n":
                trailers.append(_field(line[:-2]))
        elif b"content-length" in values:
            body = await self.exactly(int(values[b"content-length"]))
        elif response:
            body = await self.rest()
        return Message(start, fields, body, trailers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a chunked body, up to the last one's line."""
        while size := int(await self.until(b"\r\n"), 16):
            yield (await self.exactly(size + 2))[:-2]

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()


def _field(line: bytes) -> Field:
    name, _, value = line.partition(b":")
    return name, value.strip(b" ")


Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A service that follows a script on each connection. `peers` are all that came."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.open = 0
        """Connections that are open now."""
        self.errors: list[BaseException] = []
        self.port = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def seen(self) -> bytes:
        """All bytes that came, of all connections in turn."""
        return b"".join(peer.seen for peer in self.peers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self.open += 1
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as exc:  # noqa: BLE001 - told at the end
            self.errors.append(exc)
        finally:
            self.open -= 1
            writer.close()


RECEIVED = 256 * 1024
"""Bytes that the system keeps for who does not read: left alone it keeps up to 32 MiB, by its mood."""


@contextlib.asynccontextmanager
async def upstream(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """A service on 127.0.0.1 while the context lasts."""
    service = Upstream(script)
    server = await asyncio.start_server(service._serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    service.port = server.sockets[0].getsockname()[1]
    service.scheme = "https" if tls else "http"
    try:
        yield service
    finally:
        server.close()
        for peer in service.peers:
            peer.reset()
        await asyncio.sleep(0)
    assert not service.errors, service.errors


def answering(*answers: bytes) -> Script:
    """Read a request whole and send the next answer, the last one again and again."""
    left = list(answers)

    async def script(peer: Peer) -> None:
        while True:
            await peer.message()
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def client(port: int) -> AsyncIterator[Peer]:
    """A connection to 127.0.0.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    peer = Peer(reader, writer)
    try:
        yield peer
    finally:
        peer.reset()


def get(target: bytes = b"/", *lines: bytes, method: bytes = b"GET", host: bytes = b"Host: shop.example") -> bytes:
    """A request without a body."""
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", host, *lines, b"", b""])


def post(body: bytes, *lines: bytes, target: bytes = b"/") -> bytes:
    return get(target, b"Content-Length: %d" % len(body), *lines, method=b"POST") + body


async def eventually(holds: Callable[[], bool], *, within: float = PATIENCE) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - polled, for it has no event
            await asyncio.sleep(0.005)
