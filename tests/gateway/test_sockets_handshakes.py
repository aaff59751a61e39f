"""Handshakes of WebSockets: the upstream decides before the client is accepted, and the client hears why not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.asgi import websocket_scope
from tests.gateway.socket_servers import (
    IMPLEMENTATIONS,
    PATIENCE,
    RawPeer,
    cop_app,
    gateway,
    raw_handshake,
    raw_server,
    self_signed,
    until,
    websocket_server,
)
from tests.servers import free_port
from traffic_cop_middleware import TrafficCop, Upstream

pytestmark = pytest.mark.asyncio


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send(await connection.recv())


REFUSALS = {
    "/403": ("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nX-Why: no\r\nConnection: close\r\n\r\nnot so", 403),
    "/404": ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404),
    "/401": ("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", 401),
    "/500": ("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 500),
    "/410": ("HTTP/1.1 410 Gone\r\nContent-Length: 70000\r\n\r\n" + "a" * 70_000, 410),
    "/200": ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 502),
    "/garbage": ("SSH-2.0-OpenSSH_9.2\r\n\r\n", 502),
    "/nothing": ("", 502),
    "/accept": (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: AAAA\r\n\r\n",
        502,
    ),
    "/upgrade": ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 502),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
async def test_an_upstream_that_refuses_or_talks_rubbish_is_told_before_the_client_is_accepted(
    implementation: str,
) -> None:
    asked: list[str] = []

    async def serve(peer: RawPeer) -> None:
        path = peer.head.split(b" ")[1].decode()
        asked.append(path)
        peer.writer.write(REFUSALS[path][0].encode())
        await peer.writer.drain()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop), ws=implementation) as running:
            for path, (_, status) in REFUSALS.items():
                with pytest.raises(InvalidStatus) as raised:
                    await connect(running.url(path))
                response = raised.value.response
                assert response.status_code == status, path
                if path == "/403":
                    assert (response.body, response.headers["X-Why"]) == (b"not so", "no")
                if path == "/401":
                    assert response.headers["WWW-Authenticate"] == "Basic"
                if path == "/410":
                    assert response.body == b"", "what is too long is left out"
                if path == "/500":
                    assert response.body == b"abc"
                if status == 502:
                    assert response.headers["Content-Type"] == "application/problem+json"
                    assert b"127.0.0.1" not in response.body, "nothing of what lies behind leaks"
    assert asked == list(REFUSALS), "a handshake is sent once"


async def test_a_redirect_of_an_upstream_is_passed_on_and_never_followed() -> None:
    followed: list[bytes] = []

    async def inside(peer: RawPeer) -> None:
        followed.append(peer.head)
        peer.accept()

    async with raw_server(inside) as elsewhere:

        async def serve(peer: RawPeer) -> None:
            peer.writer.write(f"HTTP/1.1 302 Found\r\nLocation: {elsewhere}/x\r\nContent-Length: 0\r\n\r\n".encode())
            await peer.writer.drain()

        async with raw_server(serve) as url:
            cop = TrafficCop()
            cop.route("/*", to=url)
            async with gateway(cop_app(cop)) as running:
                reader, writer = await raw_handshake(running.port, "/x")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                writer.close()
    assert head.startswith(b"HTTP/1.1 302 ")
    assert f"location: {elsewhere}/x\r\n".encode() in head.lower()
    assert followed == []


@pytest.mark.parametrize("line", ["Sec-WebSocket-Protocol: other", "Sec-WebSocket-Extensions: permessage-deflate"])
async def test_what_was_not_offered_can_not_be_chosen(line: str) -> None:
    async def serve(peer: RawPeer) -> None:
        peer.accept(line)
        await peer.read_frame()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            with pytest.raises(InvalidStatus) as raised:
                await connect(running.url("/x"), subprotocols=[Subprotocol("v1")])
            assert raised.value.response.status_code == 502


async def test_who_can_not_be_reached_is_passed_over_and_who_is_silent_is_504() -> None:
    release = asyncio.Event()

    async def serve(peer: RawPeer) -> None:
        if peer.head.startswith(b"GET /silent"):
            await release.wait()
        peer.accept()
        peer.send_frame(1, b"here")
        await peer.read_frame()

    failed: list[Any] = []
    dead = f"http://127.0.0.1:{free_port()}"
    async with raw_server(serve) as url:
        cop = TrafficCop(observer=lambda event: failed.append(event) if event.kind == "upstream.failed" else None)
        cop.route("/*", to=[Upstream(dead), Upstream(url)])
        cop.route("/dead", to=dead)
        cop.route("/silent", to=url, head_deadline=0.2)
        async with gateway(cop_app(cop)) as running:
            for _ in range(4):
                async with connect(running.url("/x")) as client:
                    assert await client.recv() == "here"
            assert {event.attributes["upstream"] for event in failed} == {dead}
            for path, status in (("/dead", 503), ("/silent", 504)):
                with pytest.raises(InvalidStatus) as raised:
                    await connect(running.url(path))
                assert raised.value.response.status_code == status
                assert raised.value.response.headers["Retry-After"] == "1"
            release.set()


async def test_an_upstream_behind_tls_is_believed_by_its_certificate(tmp_path: Path) -> None:
    certificate, context = self_signed(tmp_path)
    async with websocket_server(echo, ssl=context) as url:
        secure = url.replace("http://127.0.0.1", "https://localhost")
        cop = TrafficCop()
        cop.route("/believed", to=Upstream(secure, ca=str(certificate)))
        cop.route("/unknown", to=secure)
        async with gateway(cop_app(cop)) as running:
            async with connect(running.url("/believed")) as client:
                await client.send("hello")
                assert await client.recv() == "hello"
            with pytest.raises(InvalidStatus) as raised:
                await connect(running.url("/unknown"))
            assert raised.value.response.status_code == 503


async def test_a_client_that_leaves_during_the_handshake_ends_the_one_behind_it() -> None:
    peers: list[RawPeer] = []
    ended: list[bytes] = []

    async def serve(peer: RawPeer) -> None:
        peers.append(peer)
        ended.append(await peer.reader.read())

    told: list[Any] = []
    async with raw_server(serve) as url:
        cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            client = asyncio.create_task(connect(running.url("/x")).__aenter__())
            await until(lambda: peers)
            client.cancel()
            await until(lambda: ended)
            await until(lambda: told)
    assert ended == [b""]
    assert told[0].attributes["gone"] is True


@pytest.mark.parametrize("status", [403, 503])
async def test_a_server_that_can_not_send_a_response_closes_with_a_code(status: int) -> None:
    async def serve(peer: RawPeer) -> None:
        peer.writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
        await peer.writer.drain()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    incoming = iter([{"type": "websocket.connect"}])

    async def receive() -> Any:
        for message in incoming:
            return message
        await asyncio.sleep(PATIENCE)
        return {"type": "websocket.disconnect", "code": 1006}

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        await cop_app(cop)(websocket_scope("/x"), receive, send)
        await cop._gateway.close()
    assert [(message["type"], message["code"]) for message in sent] == [
        ("websocket.close", {403: 1008, 503: 1013}[status])
    ]


async def test_the_route_limits_count_handshakes() -> None:
    opened: list[ServerConnection] = []

    async def serve(connection: ServerConnection) -> None:
        opened.append(connection)
        await connection.send("hello")
        await connection.wait_closed()

    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/limited/*", to=url, limits="2/hour")
        async with gateway(cop_app(cop)) as running:
            for _ in range(2):
                async with connect(running.url("/limited/x")) as client:
                    assert await client.recv() == "hello"
                    await client.send("messages are not counted")
            with pytest.raises(InvalidStatus) as raised:
                await connect(running.url("/limited/x"))
            assert raised.value.response.status_code == 429
            assert int(raised.value.response.headers["Retry-After"]) > 0
    assert len(opened) == 2


async def test_a_handshake_with_too_much_in_its_headers_is_431() -> None:
    async with websocket_server(echo) as url:
        cop = TrafficCop()
        cop.route("/*", to=url, max_headers=1024)
        async with gateway(cop_app(cop)) as running:
            with pytest.raises(InvalidStatus) as raised:
                await connect(running.url("/x"), additional_headers={"X-Much": "a" * 2000})
            assert raised.value.response.status_code == 431


async def test_a_handshake_that_can_not_be_forwarded_byte_by_byte_is_400() -> None:
    async with websocket_server(echo) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            for value, status in ((b"caf\xc3\xa9", b"101"), (b"caf\xe9", b"400")):
                reader, writer = await raw_handshake(running.port, "/x", b"Cookie: a=" + value)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                writer.close()
                assert head.split(b" ")[1] == status


async def test_no_other_protocol_is_upgraded_to() -> None:
    heads: list[RawPeer] = []

    async def serve(peer: RawPeer) -> None:
        heads.append(peer)
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await peer.writer.drain()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            for upgrade in ("h2c", "foo/1"):
                reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
                writer.write(
                    f"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n"
                    "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n".encode()
                )
                assert (await asyncio.wait_for(reader.readline(), PATIENCE)).startswith(b"HTTP/1.1 200")
                writer.close()
    assert len(heads) == 2
    for peer in heads:
        assert peer.values("upgrade") == peer.values("http2-settings") == []
        assert "upgrade" not in str(peer.values("connection")).lower()
