"""Nobody gets a request past the gateway that it has not seen, and no upstream a response (RFC 9112, section 11)."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from tests.gateway.raw import OK, Message, Peer, Upstream, answering, client, eventually, get, upstream
from tests.gateway.served import gateway

pytestmark = pytest.mark.asyncio

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


def requests_at(up: Upstream) -> list[bytes]:
    """The request lines that an upstream got, found by a reader that is not strict."""
    return [line for line in up.seen.split(b"\n") if b" HTTP/1." in line and b": " not in line.partition(b" HTTP/")[0]]


def raw(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /seen HTTP/1.1", b"Host: a", *lines, b"", b""]) + body


SMUGGLED = {
    "CL.TE": raw(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "CL.TE reversed": raw(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + HIDDEN),
    "TE.CL": raw(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"2c\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    "TE twice": raw(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n" + HIDDEN),
    "TE twice the same": raw(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE of two": raw(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE not last": raw(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n" + HIDDEN),
    "TE unknown": raw(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE with VT": raw(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE quoted": raw(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n" + HIDDEN),
    "TE with a space in its name": raw(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE folded": raw(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE after a bare LF": raw(b"X: 1\nTransfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE after a bare CR": raw(b"X: 1\rTransfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "TE in HTTP/1.0": raw(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN).replace(
        b"/1.1\r\nHost", b"/1.0\r\nHost", 1
    ),
    "CL twice, differing": raw(b"Content-Length: 0", b"Content-Length: 33", body=HIDDEN),
    "CL as a list": raw(b"Content-Length: 0, 33", body=HIDDEN),
    "CL with a sign": raw(b"Content-Length: +0", body=HIDDEN),
    "CL in hex": raw(b"Content-Length: 0x0", body=HIDDEN),
    "CL with a space within": raw(b"Content-Length: 0 33", body=HIDDEN),
    "CL overflowing": raw(b"Content-Length: 18446744073709551616", body=HIDDEN),
    "CL empty": raw(b"Content-Length:", body=HIDDEN),
    "CL negative": raw(b"Content-Length: -1", body=HIDDEN),
    "CL with underscore": raw(b"Content-Length: 1_0", body=b"0123456789" + HIDDEN),
    "chunk size with a sign": raw(b"Transfer-Encoding: chunked", body=b"+0\r\n\r\n" + HIDDEN),
    "chunk size in 0x": raw(b"Transfer-Encoding: chunked", body=b"0x0\r\n\r\n" + HIDDEN),
    "chunk size overflowing": raw(b"Transfer-Encoding: chunked", body=b"10000000000000000\r\n\r\n" + HIDDEN),
    "chunk without CRLF": raw(b"Transfer-Encoding: chunked", body=b"1\r\naXX0\r\n\r\n" + HIDDEN),
    "obs-fold": raw(b"X: a", b" b", b"Content-Length: 0"),
    "NUL in a value": raw(b"X: a\0b", b"Content-Length: 0"),
    "NUL in a name": raw(b"X\0: a", b"Content-Length: 0"),
    "bare CR in a value": raw(b"X: a\rY: b", b"Content-Length: 0"),
    "a space before the colon": raw(b"X : a", b"Content-Length: 0"),
    "no colon": raw(b"X", b"Content-Length: 0"),
    "no name": raw(b": a", b"Content-Length: 0"),
    "DEL in a value": raw(b"X: a\x7fb", b"Content-Length: 0"),
    "a control in a value": raw(b"X: a\x01b", b"Content-Length: 0"),
    "no Host": b"GET /seen HTTP/1.1\r\n\r\n",
    "Host twice": get(b"/seen", b"Host: b"),
    "Host twice the same": get(b"/seen", b"Host: shop.example"),
    "a bad target": get(b"/seen\x01"),
    "a tab in the request line": b"GET\t/seen HTTP/1.1\r\nHost: a\r\n\r\n",
    "a second version": get(b"/seen HTTP/1.1 x"),
}
# What h11 reads in one way, which RFC 9112 allows (sections 2.2 and 5.2): it goes on in that reading, written anew.
MENDED = {"TE folded", "TE after a bare LF", "obs-fold"}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_a_request_with_two_readings_goes_nowhere(parser: str, name: str) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(SMUGGLED[name])
        if parser == "h11" and name in MENDED:
            assert (await peer.message()).status == 200
            assert b"\r\n " not in up.seen
            assert len(requests_at(up)) == up.seen.count(b"\r\nvia: 1.1 traffic-cop\r\n"), "the gateway saw each"
            return
        if parser == "h11" and name == "chunk size overflowing":  # a number like any other there, and all of it body
            await eventually(lambda: b"\r\n%x\r\n%b\r\n" % (len(HIDDEN) + 2, b"\r\n" + HIDDEN) in up.seen)
            return
        message = await peer.message()
        assert message.status in (400, 413, 501), up.seen
        assert await peer.rest() == b"", "its connection ends"
        assert not requests_at(up)


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"evil@shop",
        b"shop/evil",
        b"a,b",
        b"a\\b",
        b"a?b",
        b"a#b",
        b"[::1",
        b"a:80:80",
        b"a:http",
        b"\xff",
        b"[::1]x",
        b"a:123456",
    ],
)
async def test_a_host_that_is_none_goes_nowhere(parser: str, host: bytes) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(host=b"Host: " + host))
        assert (await peer.message()).status == 400
        assert up.seen == b""


@pytest.mark.parametrize(
    "host", [b"a", b"a.b:8080", b"[::1]:80", b"127.0.0.1", b"xn--bcher-kva.example", b"a_b", b"a:"]
)
async def test_a_host_that_is_one_passes(parser: str, host: bytes) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(host=b"Host: " + host))
        assert (await peer.message()).status == 200
        assert b"\r\nhost: " + host + b"\r\n" in up.seen


@pytest.mark.parametrize("seed", range(3))
async def test_mangled_requests_reach_the_upstream_as_ours_or_not_at_all(parser: str, seed: int) -> None:
    chance = random.Random(seed)
    nasty = [*(bytes([each]) for each in b"\r\n\0 \t:,;0\x0b\xff"), b"\r\n", b"\r\n\r\n", b"chunked", b""]
    sane = [raw(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"), raw(b"Content-Length: 3", body=b"abc")]
    corpus = [*SMUGGLED.values(), *(each + HIDDEN for each in sane * 15)]
    heads: list[Message] = []

    async def script(peer: Peer) -> None:
        while True:
            heads.append(await peer.message())
            await peer.send(OK)

    async def mangled(port: int) -> None:
        data = chance.choice(corpus)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data = data[:at] + chance.choice(nasty) + data[at + chance.randrange(3) :]
        async with client(port) as peer:
            await peer.send(data)
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
                async with asyncio.timeout(0.3):
                    await peer.rest()

    # The script reads as strictly as it can be read: where a body were longer or shorter than it says, what follows
    # would be no request, or none that bears our Via.
    async with upstream(script) as up, gateway(up.url, parser=parser) as served:
        await asyncio.gather(*(mangled(served.port) for _ in range(100)))
        async with client(served.port) as peer:
            await peer.send(get())
            assert (await peer.message()).status == 200
        # uvicorn answers 400 itself where h11 finds a bad chunk, and then the app's answer has no place any more.
        raised = {record.exc_info[0].__name__ for record in served.errors if record.exc_info and record.exc_info[0]}
        assert raised <= {"LocalProtocolError"}
    assert heads
    for message in heads:
        assert message.values(b"via") in ([b"1.1 traffic-cop"], [b"1.0 traffic-cop"])
        assert len(message.values(b"host")) == 1
        assert len(message.values(b"content-length")) + len(message.values(b"transfer-encoding")) <= 1
        assert not any(byte in value for _, value in message.fields for byte in b"\r\n\0")


async def test_pipelined_requests_stay_apart_and_in_order(parser: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            target = (await peer.message()).target
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    async with upstream(script) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/1") + raw(b"Content-Length: 33", body=HIDDEN).replace(b"/seen", b"/2") + get(b"/3"))
        assert [(await peer.message()).body for _ in range(3)] == [b"/1", b"/2", b"/3"]


RESPONSES = {
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "CL twice, differing": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nhello",
    "CL twice the same": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL as a list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "CL with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "CL negative": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "CL overflowing": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
    "CL empty": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
    "TE twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE twice the same": b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "TE of two": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE not chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "TE with VT": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "bare CR in a value": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "a control in a value": b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "no colon": b"HTTP/1.1 200 OK\r\nX\r\nContent-Length: 0\r\n\r\n",
    "a bad name": b"HTTP/1.1 200 OK\r\nX Y: 1\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"hello",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000 + b"Content-Length: 0\r\n\r\n",
    "too long a field": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", RESPONSES)
async def test_a_response_with_two_readings_is_502(name: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        await peer.send(RESPONSES[name])

    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:
        for _ in range(2):
            await peer.send(get())
            message = await peer.message()
            assert (message.status, message.values(b"content-type")) == (502, [b"application/problem+json"])
        assert len(up.peers) == 2, "and its connection serves no other request"
        assert served.errors == []


async def test_a_folded_field_of_a_response_becomes_one_line() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: a\r\n Set-Cookie: b\r\nContent-Length: 0\r\n\r\n"
    async with upstream(answering(answer)) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        assert message.values(b"x") == [b"a Set-Cookie: b"]
        assert message.values(b"set-cookie") == []
