"""Shadow traffic: a copy of what came, whose fate is nobody's business."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.raw import OK, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import gateway
from tests.servers import free_port

pytestmark = pytest.mark.asyncio


async def test_the_copy_has_the_bytes_of_the_request() -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        gateway(up.url, mirror=shadow.url) as served,
        client(served.port) as peer,
    ):
        await peer.send(post(b"\x00\xffhello", b"X-Obs: caf\xe9", b"Cookie: a", b"Cookie: b", target=b"/a%2Fb?c"))
        assert (await peer.message()).status == 200
        await eventually(lambda: bool(served.told("route.mirrored")))
        assert shadow.seen == up.seen


async def test_trailers_of_a_request_do_not_become_fields_of_its_copy(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        gateway(up.url, parser=parser, mirror=shadow.url) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
        await eventually(lambda: b"\r\n\r\n" in up.seen)
        await peer.send(b"3\r\nabc\r\n0\r\nX-Late: 1\r\nHost: evil\r\n\r\n")
        assert (await peer.message()).status == 200
        await eventually(lambda: bool(served.told("route.mirrored")))
        assert b"x-late" not in shadow.seen
        assert served.errors == []


@pytest.mark.parametrize("shadowed", ["dead", "silent", "broken", "endless"])
async def test_a_shadow_that_fails_neither_delays_nor_breaks_the_answer(shadowed: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        if shadowed == "broken":
            await peer.send(b"garbage\r\n\r\n")
            return
        if shadowed == "endless":
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while not peer.reader.at_eof():
                await peer.send(b"x" * 1000)
                await asyncio.sleep(0.01)
        await peer.rest()

    deadlines = {"connect_deadline": 0.5, "head_deadline": 0.5, "idle_deadline": 0.5}
    async with upstream(answering(OK)) as up, upstream(script) as shadow:
        mirror = f"http://127.0.0.1:{free_port()}" if shadowed == "dead" else shadow.url
        async with gateway(up.url, mirror=mirror, **deadlines) as served, client(served.port) as peer:
            for _ in range(3):
                await peer.send(post(b"hello"))
                assert (await peer.message()).body == b"ok"
            await eventually(lambda: len(served.told("route.mirrored")) == 3)
            assert all(told["error"] for told in served.told("route.mirrored"))
            await eventually(lambda: shadow.open == 0)
            assert served.errors == []
