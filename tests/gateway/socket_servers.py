"""A real uvicorn as gateway, WebSocket servers behind it, and one that speaks in bytes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from traffic_cop_middleware import TrafficCop

PATIENCE = 15.0
"""Seconds that a test waits for what should come at once: generous, for the machine may be starved."""

OLD = [  # uvicorn's first implementation says that it is deprecated, and so does what it stands on
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::uvicorn.config.UvicornDeprecationWarning"),
]
IMPLEMENTATIONS = [
    "websockets-sansio",
    pytest.param("websockets", marks=OLD),
    pytest.param(
        "wsproto",
        marks=pytest.mark.skipif(importlib.util.find_spec("wsproto") is None, reason="wsproto is not installed"),
    ),
]
"""uvicorn's WebSocket protocols."""


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers, which are the test run's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Running:
    """A gateway that listens on 127.0.0.1."""

    server: uvicorn.Server
    port: int

    def url(self, path: str, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def stop(self) -> None:
        """Ask it to end, as a signal does."""
        self.server.should_exit = True


@contextlib.asynccontextmanager
async def gateway(app: Any, *, ws: Any = "websockets-sansio", **settings: Any) -> AsyncIterator[Running]:
    """uvicorn with this app while the context lasts; its lifespan runs."""
    given: dict[str, Any] = {
        "port": 0,
        "log_level": "error",
        "lifespan": "on",
        "proxy_headers": False,
        "timeout_graceful_shutdown": 10,
    }
    server = QuietServer(uvicorn.Config(app, ws=ws, **given | settings))
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or serving.done())
        yield Running(server, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, PATIENCE)


def cop_app(cop: TrafficCop) -> Any:
    """An app with nothing in it, and the cop around it."""
    return cop.wrap(Starlette())


@contextlib.asynccontextmanager
async def websocket_server(
    handler: Callable[[ServerConnection], Awaitable[None]], **settings: Any
) -> AsyncIterator[str]:
    """A WebSocket server by the `websockets` library; gives its http:// URL."""
    server = await serve(handler, "127.0.0.1", 0, compression=None, **settings)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)


async def until(condition: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Wait until something holds; `TimeoutError` where it does not."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.005)


@dataclass
class RawPeer:
    """One connection to a server that speaks in bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines) if name]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def accept(self, *more: str) -> None:
        """Shake hands (RFC 6455, section 4.2.2), with further lines."""
        key = self.values("sec-websocket-key")[0]
        digest = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Accept: {digest.decode()}", *more, "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
        if size >= 65536:
            length = b"\x7f" + struct.pack("!Q", size)
        self.writer.write(bytes([(0x80 if fin else 0) | opcode]) + length + payload)

    async def read_frame(self) -> tuple[int, bytes]:
        """The opcode and payload of the next frame, which a client has masked."""
        first, second = await self.reader.readexactly(2)
        assert second & 0x80, "a client's frames are masked (RFC 6455, section 5.1)"
        assert not first & 0x70, "no extension was negotiated"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        mask = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(size)
        return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def reset(writer: asyncio.StreamWriter) -> None:
    """Cut a connection without a word (TCP reset)."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def raw_server(handler: Callable[[RawPeer], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that reads a request's head and leaves the rest to `handler`; gives its URL."""
    peers: set[asyncio.Task[Any]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peers.add(task)
        peer = RawPeer(reader, writer)
        try:
            peer.head = await reader.readuntil(b"\r\n\r\n")
            await handler(peer)
        except (OSError, EOFError, asyncio.CancelledError):
            return  # the other side has left, or the test has ended
        finally:
            peers.discard(task)
            peer.ended.set()
            writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(peers):
            task.cancel()
        await asyncio.gather(*peers, return_exceptions=True)


async def raw_handshake(port: int, path: str, *fields: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a handshake was sent, and nothing was read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket".encode(),
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
    ]
    writer.write(b"\r\n".join([*lines, *fields, b"", b""]))
    return reader, writer


def self_signed(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of "localhost", as a file to trust and as a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    trusted, both = folder / "trusted.pem", folder / "both.pem"
    trusted.write_bytes(pem)
    both.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return trusted, context


async def closing_of(connection: ClientConnection) -> tuple[int, str]:
    """The code and reason that a client hears."""

    async def read_to_the_end() -> None:
        while True:
            await asyncio.wait_for(connection.recv(), PATIENCE)

    with pytest.raises(ConnectionClosed) as raised:
        await read_to_the_end()
    received = raised.value.rcvd
    return (received.code, received.reason) if received is not None else (1006, "")
