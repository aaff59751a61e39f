"""An instance of a service in a process of its own, whose faults are switched while it serves.

`python -m tests.gateway.faulty PORT [REGISTRATION]` prints its port (0: a free one). It answers with its name and the
target that it was asked for, and keeps what it was asked. Each line on its input is a fault to have from now on, one
of FAULTS, or "tell"; it writes what it was asked so far, as JSON. With a registration's settings as JSON it announces
itself; at SIGTERM it withdraws, serves on for a moment, and ends when it has answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.gateway.instance import Running, instance
from tests.gateway.raw import Peer

FAULTS = {
    "none": "answers",
    "garbage": "answers with what is no HTTP",
    "close": "closes the connection after each answer, without a word before",
    "idle": "closes a connection that was idle for 50 ms",
    "drop": "closes the connection instead of an answer",
    "reset": "resets the connection in the middle of the answer's body",
    "half": "ends its side of the connection instead of an answer, and goes on to read",
    "bare": "ends its side of the connection where the answer ends, and goes on to read",
    "slow": "answers after 0.3 s",
    "ill": "answers its checks with 500, and all else as it should",
}
IDLE = 0.05
SLOW = 0.3
LINGER = 1.0
"""Seconds that it goes on to serve after its withdrawal: who sends it requests must hear of it first."""


class Faulty(Running):
    """One that runs."""

    async def has(self, fault: str) -> list[str]:
        """Let it have a fault from now on; the requests that it has had."""
        assert fault in FAULTS
        return await self.asked(fault)

    async def asked(self, line: str = "tell") -> list[str]:
        """The requests that it has had, in order: "GET /17"."""
        found: list[str] = json.loads(await self.tell(line))
        return found


@contextlib.asynccontextmanager
async def faulty(*, port: int = 0, registration: dict[str, Any] | None = None) -> AsyncIterator[Faulty]:
    """Its process, ended at the end."""
    arguments = [str(port)] if registration is None else [str(port), json.dumps(registration)]
    async with instance("tests.gateway.faulty", *arguments) as running:
        yield Faulty(running._process, running.port)


class Serving:
    """What its connections share."""

    def __init__(self) -> None:
        self.fault = "none"
        self.asked: list[str] = []
        self.busy = 0
        self.peers: set[Peer] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.add(peer)
        # The fault that it had when a connection went idle is the one that ends it: so no request is in its way.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while await self._answer(peer):
                pass
        self.peers.discard(peer)
        writer.close()

    async def _answer(self, peer: Peer) -> bool:
        async with asyncio.timeout(IDLE if self.fault == "idle" and peer.seen else None):
            start = await peer.reader.readuntil(b"\r\n")
        head = start + await peer.reader.readuntil(b"\r\n\r\n")
        self.busy += 1
        try:
            peer.seen = head
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await peer.reader.readexactly(int(length[0].partition(b":")[2]))
            method, target, _ = start.decode().split(" ")
            if target != "/health":
                self.asked.append(f"{method} {target}")
            return await self._as_it_is(peer, target, self.fault)
        finally:
            self.busy -= 1

    async def _as_it_is(self, peer: Peer, target: str, fault: str) -> bool:
        writer = peer.writer
        body = f"{os.getpid()} {target}".encode()
        status = b"500 Ill" if fault == "ill" and target == "/health" else b"200 OK"
        length = b"" if fault == "bare" else b"Content-Length: %d\r\n" % len(body)
        head = b"HTTP/1.1 %b\r\n%b\r\n" % (status, length)
        if fault == "garbage":
            writer.write(b"\x00\xff garbage\r\n\r\n")
        elif fault == "reset":
            writer.write(head + body[:-1])
            await writer.drain()
            await asyncio.sleep(0.01)  # or the reset overtakes what was sent
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif fault == "half":
            writer.write_eof()
            await peer.reader.read()
        elif fault != "drop":
            if fault == "slow":
                await asyncio.sleep(SLOW)
            writer.write(head + body)
            await writer.drain()
            if fault == "bare":
                writer.write_eof()
                await peer.reader.read()
        return fault in ("none", "idle", "slow", "ill")


async def main(port: int, registration: dict[str, Any] | None) -> None:
    serving, ended = Serving(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(serving.serve, "127.0.0.1", port, backlog=512)
    port = server.sockets[0].getsockname()[1]

    async def announced() -> None:
        if registration is None:
            await ended.wait()
            return
        from traffic_cop_middleware import Registration

        async with Registration("billing", url=f"http://127.0.0.1:{port}", **registration):
            await ended.wait()
        await asyncio.sleep(LINGER)

    def hear() -> None:
        line = sys.stdin.readline().strip()
        if not line:
            loop.remove_reader(sys.stdin)
        serving.fault = line if line in FAULTS else serving.fault
        sys.stdout.write(json.dumps(serving.asked) + "\n")
        sys.stdout.flush()

    loop.add_reader(sys.stdin, hear)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await announced()
    server.close()
    while serving.busy:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.01)
    for peer in list(serving.peers):
        peer.writer.close()
    while serving.peers:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else None))
