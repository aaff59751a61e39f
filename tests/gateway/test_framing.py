"""Where messages begin and end: without bodies, in chunks, too early, cut short."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.raw import OK, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import gateway

pytestmark = pytest.mark.asyncio


async def test_head_has_the_length_of_what_it_leaves_out(parser: str) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: "a"\r\n\r\n'
    async with upstream(answering(answer)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        for _ in range(2):
            await peer.send(get(method=b"HEAD"))
            message = await peer.message(bodiless=True)
            assert (message.status, message.values(b"content-length")) == (200, [b"5000"])
        assert len(up.peers) == 1
        assert served.errors == []


async def test_204_and_304_have_no_body_and_the_connections_go_on(parser: str) -> None:
    answers = [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n',
        b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5000\r\n\r\n',
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK,
    ]
    async with (
        upstream(answering(*answers)) as up,
        gateway(up.url, parser=parser) as served,
        client(served.port) as peer,
    ):
        for answer in answers[:-1]:
            await peer.send(get())
            message = await peer.message(bodiless=True)
            assert message.status == int(answer.split()[1])
            # uvicorn's httptools waits for a body where a 304 has a length, so it goes without.
            assert not message.values(b"content-length")
            assert not message.values(b"transfer-encoding")
        await peer.send(get())
        assert (await peer.message()).body == b"ok"
        assert len(up.peers) == 1
        assert served.errors == []


async def test_interim_responses_confuse_nobody(parser: str) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    answer = early + b"HTTP/1.1 102 Processing\r\n\r\n" + OK
    async with upstream(answering(answer)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        for _ in range(2):
            await peer.send(post(b"hi"))
            message = await peer.message()
            assert (message.status, message.body) == (200, b"ok")
        assert len(up.peers) == 1


async def test_a_body_that_ends_with_the_connection(parser: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await peer.send(b"def")

    async with upstream(script) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        assert (message.body, message.values(b"transfer-encoding")) == (b"abcdef", [b"chunked"])


async def test_trailers_are_dropped_without_harm(parser: str) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-T: 1\r\nSet-Cookie: a=1\r\n\r\n"
    )
    async with upstream(answering(answer)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        for _ in range(2):
            await peer.send(get())
            message = await peer.message()
            assert (message.body, message.trailers, message.values(b"trailer")) == (b"abc", [], [])
        assert len(up.peers) == 1


async def test_a_clients_trailers_change_nothing(parser: str) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        head = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
        await peer.send(head)
        await eventually(lambda: b"\r\n\r\n" in up.seen)
        await peer.send(b"3\r\nabc\r\n0\r\nX-Traffic-User: root\r\nHost: evil\r\n\r\n")
        assert (await peer.message()).status == 200
        assert up.seen.count(b"\r\nhost: ") == 1
        assert b"root" not in up.seen
        await peer.send(get())
        assert (await peer.message()).status == 200


async def test_the_client_hears_100_and_the_upstream_gets_the_body(parser: str) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/", b"Content-Length: 5", b"Expect: 100-continue", method=b"PUT"))
        assert (await peer.head())[0].startswith(b"HTTP/1.1 100")
        await peer.send(b"hello")
        assert (await peer.message()).status == 200
        assert up.seen.endswith(b"\r\n\r\nhello")
        assert b"expect" not in up.seen


@pytest.mark.parametrize("status", [b"413 Content Too Large", b"417 Expectation Failed", b"200 OK"])
async def test_an_answer_that_comes_before_the_upload_has_ended(parser: str, status: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 3\r\n\r\nnow")
        assert b"rest" not in await peer.rest()

    async with upstream(script) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/", b"Content-Length: 100000000", method=b"PUT") + b"x" * 1000)
        message = await peer.message()
        assert (b"%d" % message.status, message.body) == (status[:3], b"now")
        # Its request was not sent whole, so the connection serves no other.
        await eventually(lambda: up.open == 0)


async def test_both_ways_at_once(parser: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for chunk in peer.chunks():
            await peer.send(b"%x\r\n%b\r\n" % (len(chunk), chunk[::-1]))
        await peer.until(b"\r\n")
        await peer.send(b"0\r\n\r\n")

    async with upstream(script) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
        await peer.head()
        for word in (b"abc", b"defg", b"hi"):
            await peer.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert await peer.exactly(len(word) + 5) == b"%x\r\n%b\r\n" % (len(word), word[::-1])
        await peer.send(b"0\r\n\r\n")
        assert await peer.until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n\r\n",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_response_that_is_cut_short_stays_so(parser: str, answer: bytes, reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        head, _, body = answer.partition(b"\r\n\r\n")
        await peer.send(head + b"\r\n\r\n")
        await asyncio.sleep(0.01)
        await peer.send(body)
        await asyncio.sleep(0.01)
        if reset:
            peer.reset()

    async with upstream(script) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get())
        _, fields = await peer.head()
        rest = await peer.rest()
        assert b"0\r\n\r\n" not in rest
        if (b"content-length", b"10") in fields:
            assert len(rest) < 10
        await eventually(lambda: up.open == 0)
        assert served.told("route.forwarded")[0]["error"]


async def test_a_connection_that_breaks_before_the_head_is_502() -> None:
    answers = iter(
        [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nX: 1\r\n", b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
    )

    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(next(answers))

    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:
        for _ in range(5):
            await peer.send(get())
            message = await peer.message()
            assert (message.status, message.values(b"content-type")) == (502, [b"application/problem+json"])
            assert b"127.0.0.1" not in message.body
        assert len(up.peers) == 5, "none was asked twice"
