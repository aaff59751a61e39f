"""Nothing is gathered, whatever its size, and nothing is left of clients that went: a gateway in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest

from tests.gateway.process import STATUS, Process, State, process
from tests.gateway.raw import Peer, client, get, upstream

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not STATUS.exists(), reason="asks the system for a process's memory, as Linux shows it"),
]

MIB = 1024 * 1024
SIZE = 64 * MIB
PIECE = bytes(64 * 1024)


class Flow:
    """Counts what goes through, and waits until it stands still."""

    def __init__(self) -> None:
        self.size = 0

    async def stands(self) -> int:
        """Its size, once it has not grown for a while."""
        async with asyncio.timeout(20):
            while True:
                before = self.size
                await asyncio.sleep(0.25)
                if self.size == before > 0:
                    return before


async def write(peer: Peer, flow: Flow, size: int) -> None:
    """Send as fast as it is taken."""
    for _ in range(size // len(PIECE)):
        peer.writer.write(PIECE)
        await peer.writer.drain()
        flow.size += len(PIECE)


async def swallow(peer: Peer, size: int) -> None:
    """Read, and keep nothing."""
    while size:
        data = await peer.reader.read(min(size, 256 * 1024))
        assert data
        size -= len(data)


@pytest.mark.parametrize("way", ["down", "up"])
async def test_64_mib_past_a_slow_reader_take_no_more_than_16_mib_of_memory(parser: str, way: str) -> None:
    flow, go = Flow(), asyncio.Event()
    size = 2 * MIB

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            if way == "down":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                await write(peer, flow, size)
            else:
                await go.wait()
                await swallow(peer, size)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def transfer(peer: Peer, before: State | None) -> None:
        if way == "down":
            await peer.send(get(b"/up/x"))
            await peer.head()
            if before:
                await _held(flow)
            await swallow(peer, size)
        else:
            await peer.send(get(b"/up/x", b"Content-Length: %d" % size, method=b"PUT"))
            sending = asyncio.create_task(write(peer, flow, size))
            if before:
                await _held(flow)
            go.set()
            await sending
            assert (await peer.message()).status == 200

    async with upstream(script) as up, process(up.url, parser) as gateway:
        async with client(gateway.port) as peer:
            go.set()
            await transfer(peer, None)
            go.clear()
            before, flow.size, size = await gateway.state(), 0, SIZE
            async with asyncio.timeout(30):
                await transfer(peer, before)
            after = await gateway.state()
        assert after.peak - before.memory < 16 * MIB
        assert up.open == 1


async def _held(flow: Flow) -> None:
    """While the reader takes nothing, the writer is held; what the system keeps for the gateway may be 40 MiB."""
    assert await flow.stands() < SIZE * 3 / 4


async def test_1000_clients_that_leave_at_any_moment_leave_nothing_behind(parser: str) -> None:
    chance = random.Random(7)

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            match chance.randrange(4):
                case 0:
                    await peer.rest()
                case 1:
                    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                case 2:
                    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for _ in range(50):
                        await peer.send(b"3\r\nabc\r\n")
                        await asyncio.sleep(0.002)
                    await peer.send(b"0\r\n\r\n")
                case 3:
                    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
                    await peer.rest()

    async def leave(port: int, slots: asyncio.Semaphore) -> None:
        async with slots, client(port) as peer:
            match chance.randrange(3):
                case 0:
                    await peer.send(get(b"/up/x"))
                case 1:
                    await peer.send(get(b"/up/x", b"Content-Length: 1000000", method=b"PUT") + bytes(100_000))
                case 2:
                    await peer.send(get(b"/up/x", b"Transfer-Encoding: chunked", method=b"PUT") + b"3\r\nabc\r\n")
            await asyncio.sleep(chance.random() * 0.03)

    async with upstream(script) as up, process(up.url, parser) as gateway:
        async with client(gateway.port) as peer:
            await peer.send(get(b"/up/x"))
            await asyncio.sleep(0.05)
        for peer in up.peers:
            peer.reset()
        before = await _at_rest(gateway)
        slots = asyncio.Semaphore(50)
        async with asyncio.timeout(40):
            await asyncio.gather(*(leave(gateway.port, slots) for _ in range(1000)))
        assert len(up.peers) > 10, "many had reached the upstream"
        await _back_to(gateway, before, tasks_only=True)
        for peer in up.peers:  # what the pool keeps is no leak, and ends with its upstream
            peer.reset()
        after = await _back_to(gateway, before)
        assert after.memory - before.memory < 32 * MIB


async def _at_rest(gateway: Process) -> State:
    """Its state, once its descriptors and tasks do not change any more."""
    last = await gateway.state()
    for _ in range(100):
        await asyncio.sleep(0.2)
        now = await gateway.state()
        if now[2:] == last[2:]:
            return now
        last = now
    pytest.fail("its descriptors and tasks do not come to rest")


async def _back_to(gateway: Process, before: State, *, tasks_only: bool = False) -> State:
    """Its state, once its tasks are what they were, and its descriptors."""
    now, deadline = before, time.monotonic() + 40
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):  # where others use the machine, what is queued before this takes long
            now = await gateway.state()
            if now.tasks == before.tasks and (tasks_only or now.descriptors == before.descriptors):
                return now
        await asyncio.sleep(0.2)
    pytest.fail(f"descriptors and tasks were {before[2:]}, and are {now[2:]}")
