"""What WebSockets cost a gateway: idle ones, and those whose other side reads nothing. The gateway runs by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection

from tests.gateway.socket_servers import PATIENCE, RawPeer, raw_handshake, raw_server, until, websocket_server
from tests.servers import free_port

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by Linux's /proc"),
]
ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
START = 30.0
"""Seconds that a process has to start."""


class GatewayProcess:
    """A gateway that runs by itself."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.process = process

    async def state(self, query: str = "") -> dict[str, int]:
        async with httpx2.AsyncClient(timeout=PATIENCE) as http:
            found: dict[str, int] = (await http.get(f"http://127.0.0.1:{self.port}/gateway/state{query}")).json()
            return found

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), START)


@contextlib.asynccontextmanager
async def gateway_process(url: str) -> AsyncIterator[GatewayProcess]:
    """A gateway in front of one upstream, while the context lasts."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateway.socket_gateway", str(port), url, cwd=ROOT
    )
    running = GatewayProcess(port, process)
    try:
        async with asyncio.timeout(START):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    await running.state()
                    break
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many file descriptors as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        if hard < 4096:
            pytest.skip(f"{hard} file descriptors are too few for 1,000 WebSockets on both sides")
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_a_thousand_idle_sockets_are_held_in_little_memory_and_closed_at_shutdown() -> None:
    count = 1000
    peers: list[RawPeer] = []
    closed: list[bytes] = []

    async def serve(peer: RawPeer) -> None:
        peer.accept()
        peers.append(peer)
        opcode, payload = await peer.read_frame()
        assert opcode == 8
        closed.append(payload)
        peer.send_frame(8, payload)

    async def open_one(running: GatewayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await raw_handshake(running.port, "/short/x")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        return reader, writer

    async with raw_server(serve) as url, gateway_process(url) as running:
        clients = [await open_one(running)]
        before = await running.state()
        async with asyncio.timeout(2 * PATIENCE):
            while len(clients) < count:
                batch = min(50, count - len(clients))
                clients += await asyncio.gather(*(open_one(running) for _ in range(batch)))
        held = await running.state()
        each = (held["resident"] - before["resident"]) / count
        print(f"memory of one idle WebSocket: {each / 1024:.1f} KiB; tasks: {held['tasks']}")
        assert each < 128 * 1024
        await asyncio.sleep(1.2)  # the route's idle deadline is 1 s
        for peer in peers:
            peer.send_frame(1, b"hello")
        async with asyncio.timeout(PATIENCE):
            for reader, _ in clients:
                assert await reader.readexactly(7) == b"\x81\x05hello"
        stopping = asyncio.create_task(running.stop())
        async with asyncio.timeout(PATIENCE):
            for reader, writer in clients:
                assert await reader.readexactly(4) == b"\x88\x02\x03\xf4", "1012, the service restarts"
                writer.close()
        await until(lambda: len(closed) == count)
        await stopping
        assert set(closed) == {b"\x03\xf4"}
        assert running.process.returncode in (0, -signal.SIGTERM)


async def stalled(counted: list[int]) -> None:
    """Wait until the count has stood still for a while."""
    last, same = -1, 0
    async with asyncio.timeout(PATIENCE):
        while same < 10:
            same = same + 1 if counted[0] == last else 0
            last = counted[0]
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", ["down", "up"])
async def test_who_reads_nothing_holds_up_who_sends_and_not_the_gateways_memory(way: str) -> None:
    size, total = 64 * 1024, 1024
    piece = os.urandom(size)
    sent = [0]
    got = 0
    read = asyncio.Event()

    async def send_all(connection: Any) -> None:
        for _ in range(total):
            await connection.send(piece)
            sent[0] += 1

    async def read_all(connection: Any) -> None:
        nonlocal got
        await read.wait()
        for _ in range(total):
            assert await connection.recv() == piece
            got += 1

    ours, theirs = (read_all, send_all) if way == "down" else (send_all, read_all)
    done = asyncio.Event()

    async def serve(connection: ServerConnection) -> None:
        await theirs(connection)
        done.set()
        await connection.wait_closed()

    async with websocket_server(serve, max_queue=2) as url, gateway_process(url) as running:
        async with connect(f"ws://127.0.0.1:{running.port}/x", compression=None, max_queue=2) as client:
            before = await running.state("?reset")
            talking = asyncio.create_task(ours(client))
            await stalled(sent)
            assert 0 < sent[0] < total, "who sends must have been held up"
            held = await running.state()
            read.set()
            async with asyncio.timeout(2 * PATIENCE):
                await talking
                await done.wait()
            after = await running.state()
        assert got == total
        print(
            f"64 MiB {way}: +{(held['peak'] - before['resident']) / MIB:.1f} MiB while nobody read, "
            f"+{(after['peak'] - before['resident']) / MIB:.1f} MiB in all"
        )
        assert after["peak"] - before["resident"] < 16 * MIB
