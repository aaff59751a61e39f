"""WebSockets through the gateway: messages, close codes, and what the upstream sees."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.typing import Subprotocol

from tests.gateway.socket_servers import (
    IMPLEMENTATIONS,
    PATIENCE,
    RawPeer,
    closing_of,
    cop_app,
    gateway,
    raw_server,
    until,
    websocket_server,
)
from tests.middleware.session_apps import SECRET
from traffic_cop_middleware import TrafficCop

pytestmark = pytest.mark.asyncio


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
        cop = TrafficCop(session_secret=SECRET)
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
