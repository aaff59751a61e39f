"""What a route takes: sizes and seconds, and what it answers above them."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.gateway.raw import OK, Message, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import gateway
from tests.servers import free_port

pytestmark = pytest.mark.asyncio


def is_problem(message: Message, status: int) -> None:
    assert message.status == status
    assert message.values(b"content-type") == [b"application/problem+json"]
    assert b'"status": %d' % status in message.body
    assert b"127.0.0.1" not in message.body


async def test_a_body_that_says_it_is_too_large_is_refused_before_a_byte_is_read(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, max_body=10) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Content-Length: 11", b"Expect: 100-continue", method=b"POST"))
        is_problem(await peer.message(), 413)
        assert up.peers == []


async def test_a_body_of_the_size_passes(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, max_body=10) as served,
        client(served.port) as peer,
    ):
        await peer.send(post(b"0123456789"))
        assert (await peer.message()).status == 200


async def test_chunks_are_cut_when_they_are_over(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, max_body=10) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"8\r\n01234567\r\n")
        await eventually(lambda: b"01234567" in up.seen)
        await peer.send(b"8\r\n89abcdef\r\n")
        is_problem(await peer.message(), 413)
        await eventually(lambda: up.open == 0)
        assert b"89abcdef" not in up.seen
        assert not up.seen.endswith(b"0\r\n\r\n"), "it was not ended as if it were whole"


async def test_chunks_over_the_limit_break_a_response_that_has_begun() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await peer.rest()

    async with upstream(script) as up, gateway(up.url, max_body=10) as served, client(served.port) as peer:
        await peer.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
        await peer.until(b"ok\r\n")
        await peer.send(b"10\r\n0123456789abcdef\r\n")
        assert await peer.ended()
        await eventually(lambda: up.open == 0)


async def test_fields_that_are_too_large(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, max_headers=2000) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"X: " + b"x" * 1900))
        assert (await peer.message()).status == 200
        seen = up.seen
        await peer.send(get(b"/", *[b"X: " + b"x" * 100] * 20))
        is_problem(await peer.message(), 431)
        assert up.seen == seen


async def test_nobody_listening_is_503() -> None:
    async with gateway(f"http://127.0.0.1:{free_port()}") as served, client(served.port) as peer:
        await peer.send(post(b"hello"))
        message = await peer.message()
        is_problem(message, 503)
        assert message.values(b"retry-after") == [b"1"]


async def test_an_instance_that_can_not_be_reached_in_time_is_503() -> None:
    with socket.socket() as full:  # nobody accepts, and its queue is full: the system does not answer a SYN
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            async with gateway(url, connect_deadline=0.05) as served, client(served.port) as peer:
                await peer.send(get())
                is_problem(await peer.message(), 503)
        finally:
            for each in waiting:
                each.close()


async def test_a_head_that_does_not_come_in_time_is_504() -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.rest()

    async with upstream(script) as up, gateway(up.url, head_deadline=0.05) as served, client(served.port) as peer:
        for request in (get(), post(b"hello")):
            await peer.send(request)
            is_problem(await peer.message(), 504)
        await eventually(lambda: up.open == 0)
        assert served.told("upstream.failed")[0]["error"] == "UpstreamTimeout"


@pytest.mark.parametrize("drip", [b"X", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_head_that_comes_in_drips_is_504_as_well(drip: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        if drip == b"X":
            await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while not peer.reader.at_eof():
            await peer.send(drip)
            await asyncio.sleep(0.02)

    async with upstream(script) as up, gateway(up.url, head_deadline=0.1) as served, client(served.port) as peer:
        await peer.send(get())
        is_problem(await peer.message(), 504)


async def test_the_head_deadline_begins_when_the_request_was_sent() -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, head_deadline=0.5, idle_deadline=5.0) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Content-Length: 10", method=b"POST"))
        for digit in b"0123456789":
            await asyncio.sleep(0.06)
            await peer.send(bytes([digit]))
        assert (await peer.message()).status == 200


async def test_a_body_that_stops_coming_breaks_the_response() -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await peer.rest()

    async with upstream(script) as up, gateway(up.url, idle_deadline=0.05) as served, client(served.port) as peer:
        await peer.send(get())
        await peer.head()
        assert await peer.rest() == b"abc"
        await eventually(lambda: up.open == 0)
        assert served.told("route.forwarded")[0]["error"] == "UpstreamTimeout"


async def test_a_body_may_take_its_time_as_long_as_it_comes() -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for digit in b"0123456789":
            await asyncio.sleep(0.11)
            await peer.send(bytes([digit]))

    async with upstream(script) as up, gateway(up.url, idle_deadline=1.0) as served, client(served.port) as peer:
        await peer.send(get())
        assert (await peer.message()).body == b"0123456789"


async def test_a_client_that_stops_sending_is_408(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, idle_deadline=0.05) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Content-Length: 10", method=b"POST") + b"abc")
        is_problem(await peer.message(), 408)
        assert await peer.ended()
        await eventually(lambda: up.open == 0)


async def test_an_upstream_that_stops_taking_is_504() -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await left.wait()

    left = asyncio.Event()
    async with upstream(script) as up, gateway(up.url, idle_deadline=0.5) as served, client(served.port) as peer:
        size = 64 * 1024 * 1024
        peer.writer.write(get(b"/", b"Content-Length: %d" % size, method=b"POST") + bytes(size))
        is_problem(await peer.message(), 504)
        left.set()


async def test_a_client_that_takes_nothing_is_let_go(parser: str) -> None:
    size = 64 * 1024 * 1024

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await peer.send(bytes(65536))

    async with (
        upstream(script) as up,
        gateway(up.url, parser=parser, idle_deadline=0.5) as served,
        client(served.port) as peer,
    ):
        await peer.send(get())
        await peer.head()
        peer.writer.transport.pause_reading()
        await eventually(lambda: up.open == 0)
        assert served.told("route.forwarded")[0]["error"] == "ResponseNotTaken"
        peer.writer.transport.resume_reading()
        left = 0
        while piece := await peer.reader.read(2**20):
            left += len(piece)
        assert left < size
