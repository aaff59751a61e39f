"""WebSockets through the gateway: messages, close codes, handshakes, and who is told what."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.asgi import websocket_scope
from tests.gateway.socket_servers import (
    PATIENCE,
    RawPeer,
    closing_of,
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


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await connection.send(await connection.recv())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
async def test_ten_thousand_messages_each_way_arrive_whole_and_in_order(implementation: str) -> None:
    count = 10_000 if implementation == "websockets-sansio" else 1000

    def message(number: int, side: str) -> str | bytes:
        text = f"{side} {number} " + "é" * (number % 50)
        return text if number % 3 else text.encode() + b"\x00\xff"

    heard: list[str | bytes] = []

    async def talk(connection: Any, side: str) -> None:
        for number in range(count):
            await connection.send(message(number, side))

    async def serve(connection: ServerConnection) -> None:
        talking = asyncio.create_task(talk(connection, "down"))
        for _ in range(count):
            heard.append(await connection.recv())
        await talking
        await connection.close(4999, "that is all")

    told: list[Any] = []
    async with websocket_server(serve) as url:
        cop = TrafficCop(observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop), ws=implementation) as running, connect(running.url("/x")) as client:
            talking = asyncio.create_task(talk(client, "up"))
            for number in range(count):
                assert await client.recv() == message(number, "down")
            await talking
            assert await closing_of(client) == (4999, "that is all")
            await until(lambda: told)
    assert heard == [message(number, "up") for number in range(count)]
    attributes = told[0].attributes
    assert attributes["seconds"] > 0
    assert {name: attributes[name] for name in attributes if name != "seconds"} == {
        "route": "/*",
        "upstream": url,
        "attempts": 1,
        "status": 101,
        "messages_up": count,
        "messages_down": count,
        "close_code": 4999,
        "closed_by": "upstream",
    }


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
async def test_close_codes_and_reasons_go_both_ways(implementation: str) -> None:
    closings: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def serve(connection: ServerConnection) -> None:
        assert connection.request is not None
        code = connection.request.path.rpartition("/")[2]
        if code != "wait":
            await connection.close(int(code), "reäson" * 10)
            return
        await connection.wait_closed()
        closings.put_nowait((connection.close_code or 0, connection.close_reason or ""))

    codes = (1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, 3000, 4000, 4999)
    async with websocket_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop), ws=implementation) as running:
            for code in codes:
                async with connect(running.url(f"/{code}")) as client:
                    assert await closing_of(client) == (code, "reäson" * 10)
                if code == 1014:
                    continue  # no client is a gateway, and wsproto takes it from none
                client = await connect(running.url("/wait"))
                await client.close(code, "bye ü")
                assert await asyncio.wait_for(closings.get(), PATIENCE) == (code, "bye ü")


async def test_a_close_without_a_code_stays_one_and_codes_that_are_never_sent_are_not() -> None:
    frames: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    payloads = {
        "/none": (b"", 1000),
        "/1006": (b"\x03\xee", 1014),
        "/1005": (b"\x03\xed", 1014),
        "/1015": (b"\x03\xf7", 1014),
        "/5000": (b"\x13\x88", 1014),
    }

    async def serve(peer: RawPeer) -> None:
        peer.accept()
        path = peer.head.split(b" ")[1].decode()
        if path in payloads:
            peer.send_frame(8, payloads[path][0])
        frames.put_nowait(await peer.read_frame())
        if path not in payloads:
            peer.send_frame(8)

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running:
            for path, (payload, heard) in payloads.items():
                async with connect(running.url(path)) as client:
                    assert (await closing_of(client))[0] == heard
                opcode, echoed = await asyncio.wait_for(frames.get(), PATIENCE)
                assert opcode == 8
                assert echoed[:2] == (b"\x03\xea" if payload else b""), "1002 to who broke the protocol"
            client = await connect(running.url("/silent"))
            client.protocol.send_close()  # an empty close frame
            client.transport.write(b"".join(client.protocol.data_to_send()))
            assert await asyncio.wait_for(frames.get(), PATIENCE) == (8, b"")
            await client.close()


async def test_the_upstream_chooses_the_subprotocol_and_sees_the_client_and_not_its_forgeries() -> None:
    peers: list[RawPeer] = []

    async def serve(peer: RawPeer) -> None:
        peers.append(peer)
        peer.accept("Sec-WebSocket-Protocol: v2", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Traffic-User: forged")
        await peer.read_frame()
        peer.send_frame(8, b"\x03\xe8")

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/chat/{room}/*", to=url, strip_prefix="/chat", request_headers={"X-Key": "k"}, identity=True)
        async with gateway(cop_app(cop)) as running:
            given = [
                ("Cookie", "a=1; b=2"),
                ("X-Two", "1"),
                ("X-Two", "2"),
                ("X-Forwarded-For", "6.6.6.6"),
                ("X-Traffic-User", "root"),
                ("Proxy-Authorization", "secret"),
            ]
            async with connect(
                running.url("/chat/a%2Fb/c?q=%20"),
                subprotocols=[Subprotocol("v1"), Subprotocol("v2")],
                origin="https://shop.example.com",  # type: ignore[arg-type]
                additional_headers=given,
            ) as client:
                assert client.subprotocol == "v2"
                assert client.response is not None
                assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
                assert "X-Traffic-User" not in client.response.headers
                assert "Sec-WebSocket-Extensions" not in {name.title() for name, _ in peers[0].fields}
    peer = peers[0]
    assert peer.head.startswith(b"GET /a%2Fb/c?q=%20 HTTP/1.1\r\n")
    assert peer.values("host") == [f"127.0.0.1:{running.port}"]
    assert peer.values("sec-websocket-protocol") == ["v1,v2"]
    assert peer.values("sec-websocket-version") == ["13"]
    assert len(peer.values("sec-websocket-key")) == 1
    assert [value.lower() for value in peer.values("connection")] == ["upgrade"]
    assert peer.values("upgrade") == ["websocket"]
    assert peer.values("origin") == ["https://shop.example.com"]
    assert peer.values("cookie") == ["a=1; b=2"]
    assert peer.values("x-two") == ["1", "2"]
    assert peer.values("x-key") == ["k"]
    assert peer.values("x-forwarded-for") == ["127.0.0.1"]
    assert peer.values("x-forwarded-proto") == ["http"]
    assert peer.values("forwarded") == [f'for=127.0.0.1;host="127.0.0.1:{running.port}";proto=http']
    assert len(peer.values("x-request-id")) == len(peer.values("traceparent")) == len(peer.values("via")) == 1
    assert peer.values("x-traffic-user") == peer.values("proxy-authorization") == []
    assert peer.values("accept-encoding") == peer.values("content-length") == []


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
                assert ("Retry-After" in raised.value.response.headers) == (status == 503)
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
