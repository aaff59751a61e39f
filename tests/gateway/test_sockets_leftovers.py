"""What WebSockets through the gateway leave behind: no task, no connection, no file descriptor."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from tests.asgi import websocket_scope
from tests.gateway.socket_servers import (
    PATIENCE,
    RawPeer,
    cop_app,
    gateway,
    raw_handshake,
    raw_server,
    reset,
    until,
    websocket_server,
)
from traffic_cop_middleware import TrafficCop

pytestmark = pytest.mark.asyncio

SOON = 5.0
"""Seconds for what happens at once on a machine that is not starved."""


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return


async def test_a_cancelled_socket_leaves_nothing_behind() -> None:
    closings: list[int] = []

    async def serve(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closings.append(connection.close_code or 0)

    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        app = cop_app(cop)
        before = asyncio.all_tasks()
        incoming.put_nowait({"type": "websocket.connect"})
        running = asyncio.create_task(app(websocket_scope("/x"), incoming.get, send))
        await until(lambda: sent)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: closings, within=SOON)
        await until(lambda: asyncio.all_tasks() <= before)
        await cop._gateway.close()
    assert closings == [1001]


async def test_a_cancelled_socket_does_not_wait_for_an_upstream_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("traffic_cop_middleware.adapters.http.aiohttp_sockets.CLOSE_DEADLINE", 0.2)
    over = asyncio.Event()

    async def serve(peer: RawPeer) -> None:
        peer.accept()
        await over.wait()

    received = 0

    async def receive() -> Any:
        nonlocal received
        received += 1
        return {"type": "websocket.receive", "bytes": bytes(65536)} if received > 1 else {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        assert message["type"] == "websocket.accept"

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        before = len(os.listdir("/proc/self/fd"))
        running = asyncio.create_task(cop_app(cop)(websocket_scope("/x"), receive, send))
        await until(lambda: received > 1)
        seen = -1
        while seen != received:
            seen = received
            await asyncio.sleep(0.2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, PATIENCE)
        # Only the upstream's side is left open: it reads nothing, so it does not see the end.
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1)
        over.set()
        await cop._gateway.close()


async def test_a_storm_of_dropped_sockets_leaves_no_task_and_no_file_descriptor() -> None:
    cop = TrafficCop()

    async def storm(running: Any, number: int) -> None:
        reader, writer = await raw_handshake(running.port, "/x")
        if number % 4 == 0:
            reset(writer)  # before anything came back
            return
        await reader.readuntil(b"\r\n\r\n")
        if number % 4 == 1:
            reset(writer)
        elif number % 4 == 2:
            writer.write(b"\x81\x85\0\0\0\0hello")
            await reader.readexactly(7)
            writer.write(b"\x88\x82\0\0\0\0\x0f\xa0")
            await reader.read()
            writer.close()
        else:
            writer.write(b"\x81\x85\0\0\0\0hel")  # half a message
            writer.close()

    async with websocket_server(echo) as url:
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            await storm(running, 2)

            def left() -> tuple[int, int]:
                return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

            await until(lambda: not running.server.server_state.tasks)
            before = left()
            for batch in range(6):
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(*(storm(running, number) for number in range(batch * 50, batch * 50 + 50)))

            def calm() -> bool:
                gc.collect()
                tasks, descriptors = left()
                return tasks <= before[0] and descriptors <= before[1]

            await until(calm)
