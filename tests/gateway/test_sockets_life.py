"""How WebSockets through the gateway live and end: pings, silence, who vanishes, revocation, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from tests.asgi import websocket_scope
from tests.gateway.socket_servers import (
    PATIENCE,
    RawPeer,
    closing_of,
    cop_app,
    gateway,
    raw_handshake,
    raw_server,
    reset,
    until,
    websocket_server,
)
from tests.middleware.session_apps import SECRET
from traffic_cop_middleware import TrafficCop, session_of
from traffic_cop_middleware.errors import UpstreamBroken
from traffic_cop_middleware.middleware.socket_relay import Relay

pytestmark = pytest.mark.asyncio

CLOSE, PING, PONG, TEXT = 8, 9, 10, 1
SOON = 5.0
"""Seconds for what happens at once on a machine that is not starved."""


async def test_pings_are_answered_and_silence_is_no_reason_to_close() -> None:
    heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    speak = asyncio.Event()

    async def serve(peer: RawPeer) -> None:
        peer.accept()
        peer.send_frame(PING, b"are you there")
        heard.put_nowait(await peer.read_frame())
        await speak.wait()
        peer.send_frame(TEXT, b"still here")
        await peer.read_frame()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url, connect_deadline=2, head_deadline=2, idle_deadline=0.5)
        async with gateway(cop_app(cop)) as running, connect(running.url("/x")) as client:
            assert await asyncio.wait_for(heard.get(), PATIENCE) == (PONG, b"are you there")
            await asyncio.wait_for(await client.ping(), PATIENCE)
            await asyncio.sleep(2.5)  # longer than each deadline
            speak.set()
            assert await asyncio.wait_for(client.recv(), PATIENCE) == "still here"


async def test_a_client_that_vanishes_takes_its_upstream_socket_with_it() -> None:
    frames: list[tuple[int, bytes]] = []
    peers: list[RawPeer] = []

    async def serve(peer: RawPeer) -> None:
        peers.append(peer)
        peer.accept()
        frames.append(await peer.read_frame())
        peer.send_frame(CLOSE, frames[0][1])
        await peer.reader.read()

    told: list[Any] = []
    async with raw_server(serve) as url:
        cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            reader, writer = await raw_handshake(running.port, "/x")
            await reader.readuntil(b"\r\n\r\n")
            reset(writer)
            await until(peers[0].ended.is_set, within=SOON)
            await until(lambda: told, within=SOON)
    assert frames == [(CLOSE, struct.pack("!H", 1001))]
    assert (told[0].attributes["closed_by"], told[0].attributes["close_code"]) == ("client", 1001)


@pytest.mark.parametrize("leaving", ["reset", "end", "rubbish"])
async def test_an_upstream_that_vanishes_or_talks_rubbish_is_1014_to_the_client(leaving: str) -> None:
    async def serve(peer: RawPeer) -> None:
        peer.accept()
        peer.send_frame(TEXT, b"last words")
        await peer.read_frame()
        if leaving == "reset":
            reset(peer.writer)
        elif leaving == "rubbish":
            peer.writer.write(b"\xff\xff\xff\xff")
            await peer.reader.read()

    told: list[Any] = []
    async with raw_server(serve) as url:
        cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running, connect(running.url("/x")) as client:
            assert await client.recv() == "last words"
            await client.send("go")
            assert (await asyncio.wait_for(closing_of(client), SOON))[0] == 1014
            await until(lambda: told, within=SOON)
    attributes = told[0].attributes
    assert (attributes["closed_by"], attributes["close_code"]) == ("upstream", 1014)
    assert (attributes["messages_up"], attributes["messages_down"]) == (1, 1)


class Dying:
    """An upstream's socket that takes nothing any more, and still has something to say."""

    subprotocol = None
    fields = ()

    def __init__(self) -> None:
        self.closed = (4001, "enough")
        self.refused = asyncio.Event()
        self._said = iter(["one", b"two", None])

    async def receive(self) -> str | bytes | None:
        await self.refused.wait()
        return next(self._said)

    async def send(self, message: str | bytes) -> None:
        self.refused.set()
        raise UpstreamBroken("gone")

    async def close(self, code: int, reason: str) -> None:
        raise AssertionError("it has closed itself")


async def test_what_an_upstream_said_last_arrives_though_it_takes_nothing_any_more() -> None:
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    incoming.put_nowait({"type": "websocket.receive", "text": "are you there"})
    relay = Relay(asyncio.create_task(incoming.get()), incoming.get, send, Dying())
    await asyncio.wait_for(relay.run(), PATIENCE)
    assert sent == [
        {"type": "websocket.send", "text": "one"},
        {"type": "websocket.send", "bytes": b"two"},
        {"type": "websocket.close", "code": 4001, "reason": "enough"},
    ]
    assert (relay.up, relay.down, relay.closed_by, relay.code) == (0, 2, "upstream", 4001)


async def test_a_message_above_the_bound_closes_with_1009_both_ways() -> None:
    closings: list[int] = []

    async def serve(connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path == "/down":
            await connection.send(bytes(16 * 1024 * 1024))
            with contextlib.suppress(ConnectionClosed):
                await connection.send(bytes(16 * 1024 * 1024 + 1))
        await connection.wait_closed()
        closings.append(connection.close_code or 0)

    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop), ws_max_size=1000) as running:
            async with connect(running.url("/down"), max_size=None, compression=None) as client:
                assert len(await client.recv()) == 16 * 1024 * 1024
                assert (await closing_of(client))[0] == 1009
            await until(lambda: closings)
            async with connect(running.url("/up"), compression=None) as client:
                await client.send(bytes(1001))  # the server's own bound
                assert (await closing_of(client))[0] == 1009
            await until(lambda: len(closings) == 2)
    assert closings[1] == 1009


async def test_an_upstream_that_takes_nothing_any_more_is_given_up() -> None:
    stuck = asyncio.Event()

    async def serve(peer: RawPeer) -> None:
        peer.accept()
        await stuck.wait()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url, idle_deadline=0.5)
        async with gateway(cop_app(cop)) as running:
            client = await connect(running.url("/x"), compression=None, ping_interval=None)
            flooding = asyncio.create_task(flood(client))
            assert (await closing_of(client))[0] == 1014
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            stuck.set()


async def flood(connection: Any) -> None:
    """Send until nobody takes it."""
    while True:
        await connection.send(bytes(65536))


async def test_the_end_of_a_session_closes_its_sockets_on_both_sides() -> None:
    closings: list[tuple[int, str]] = []
    users: list[str | None] = []

    async def serve(connection: ServerConnection) -> None:
        assert connection.request is not None
        users.append(connection.request.headers.get("X-Traffic-User"))
        await connection.send("hello")
        await connection.wait_closed()
        closings.append((connection.close_code or 0, connection.close_reason or ""))

    async def login(request: Request) -> JSONResponse:
        return JSONResponse((await session_of(request).login(request.query_params["sub"]))._asdict())

    async with websocket_server(serve) as url:
        cop = TrafficCop(session_secret=SECRET, limits="100/minute")
        cop.route("/ws/*", to=url, identity=True)
        app = cop.wrap(Starlette(routes=[Route("/login", login, methods=["POST"])]))
        async with gateway(app) as running, httpx2.AsyncClient(base_url=running.url("", "http")) as http:
            tokens = {name: (await http.post(f"/login?sub={name}")).json()["access_token"] for name in ("bob", "eve")}
            bearer = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
            async with (
                connect(running.url("/ws/x"), additional_headers=bearer["bob"]) as bobs,
                connect(running.url("/ws/x"), additional_headers=bearer["eve"]) as eves,
            ):
                assert await bobs.recv() == await eves.recv() == "hello"
                assert users == ["bob", "eve"]
                assert await cop.session_management.revoke_user("bob") == 1
                assert await asyncio.wait_for(closing_of(bobs), SOON) == (1008, "the session has ended")
                await until(lambda: closings, within=SOON)
                assert closings == [(1008, "the session has ended")]
                await asyncio.wait_for(await eves.ping(), PATIENCE)
                await eves.close(4000)
            await until(lambda: len(closings) == 2)
            assert closings[1][0] == 4000


async def test_both_sides_hear_of_the_servers_end() -> None:
    closings: list[int] = []

    async def serve(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closings.append(connection.close_code or 0)

    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            clients = [await connect(running.url("/x")) for _ in range(5)]
            running.stop()
            assert [(await closing_of(client))[0] for client in clients] == [1012] * 5
            await until(lambda: len(closings) == 5)
    assert closings == [1012] * 5


async def test_sockets_that_a_server_left_open_are_closed_at_the_lifespans_end() -> None:
    closings: list[int] = []

    async def serve(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closings.append(connection.close_code or 0)

    incoming: asyncio.Queue[Any] = asyncio.Queue()
    lifespan: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []
    lived: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def note(message: Any) -> None:
        lived.append(message)

    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        app = cop_app(cop)
        living = asyncio.create_task(app({"type": "lifespan", "state": {}}, lifespan.get, note))
        lifespan.put_nowait({"type": "lifespan.startup"})
        await until(lambda: lived)
        incoming.put_nowait({"type": "websocket.connect"})
        running = asyncio.create_task(app(websocket_scope("/x"), incoming.get, send))
        await until(lambda: sent)
        lifespan.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait_for(asyncio.gather(living, running), PATIENCE)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1001
    assert closings == [1001]
