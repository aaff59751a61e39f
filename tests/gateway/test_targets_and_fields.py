"""Targets and header fields go through in the bytes that came."""

from __future__ import annotations

import pytest

from tests.gateway.raw import OK, Field, answering, client, get, post, upstream
from tests.gateway.served import gateway

pytestmark = pytest.mark.asyncio

WRITTEN_BY_US = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via", b"x-request-id")


def passed(fields: list[Field]) -> list[Field]:
    """What came from the client."""
    return [(name, value) for name, value in fields if name not in (*WRITTEN_BY_US, b"traceparent")]


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a/b",
        b"/a%2Fb/%2f",
        b"/a//b///",
        b"/a;v=1/b;c,d",
        b"/%E4%b8%ad/%7e",
        b"/a?",
        b"/a?q",
        b"/a?q=%2F&q=%20+%zz&&=;x?y=/../",
        b"/a/b:c@d!$&'()*+,=",
        b"/" + b"x" * 4000,
    ],
)
async def test_a_target_goes_out_byte_by_byte(parser: str, target: bytes) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(target))
        assert (await peer.message()).status == 200
        seen = up.seen.split(b" ", 2)[1]
        # An empty query is the one thing that ASGI can't tell: "/a?" and "/a" have the same scope.
        assert seen == (target[:-1] if target.endswith(b"?") else target)


async def test_a_query_in_bytes_beyond_ascii_goes_out_where_the_parser_takes_it() -> None:
    async with upstream(answering(OK)) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get(b"/a?q=\xe4\xf6"))
        status = (await peer.message()).status
        assert (status, b"GET /a?q=\xe4\xf6 HTTP/1.1\r\n" in up.seen) in ((200, True), (400, False))


async def test_fields_keep_their_order_repetitions_and_bytes_up(parser: str) -> None:
    lines = [
        b"X-Z: 1",
        b"Cookie: a=1",
        b"X-Obs: caf\xe9 \xff\x80",
        b"Accept: */*",
        b'Cookie: b=2; c="3"',
        b"x-empty:",
        b"Content-Length: 2",
        b"X-Z: 2,\t3",
        b"X-Utf8: caf\xc3\xa9",
        b'X-Quoted: "a\\"b"',
    ]
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/", *lines, method=b"POST") + b"hi")
        assert (await peer.message()).status == 200
        head, _, body = up.seen.partition(b"\r\n\r\n")
        fields = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]
        # Names come in lower case from an ASGI server, without the space around values; all else is as it was.
        wanted = [(b"host", b"shop.example")]
        wanted += [(name.lower(), value.strip(b" ")) for name, _, value in (line.partition(b":") for line in lines)]
        assert passed(fields) == wanted  # type: ignore[arg-type]
        assert body == b"hi"


async def test_fields_keep_their_order_repetitions_and_bytes_down(parser: str) -> None:
    answer = (
        b'HTTP/1.1 200 Fine\r\nSet-Cookie: a=1; Path=/\r\nX-B: caf\xe9\xff\r\nSet-Cookie: b="2"; HttpOnly\r\n'
        b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\nX-A: 1\r\nServer: nginx\r\nX-A: 2\r\nContent-Encoding: gzip\r\n"
        b'X-Empty:\r\nContent-Length: 3\r\nX-Last: "q\\""\r\n\r\n\x1f\x8b\x00'
    )
    async with (
        upstream(answering(answer)) as up,
        gateway(up.url, parser=parser) as served,
        client(served.port) as peer,
    ):
        await peer.send(get())
        message = await peer.message()
        lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        wanted = [(name.lower(), value.strip(b" ")) for name, _, value in (line.partition(b":") for line in lines)]
        assert [(name.lower(), value) for name, value in message.fields] == [*wanted, (b"via", b"1.1 traffic-cop")]
        assert message.body == b"\x1f\x8b\x00", "bodies are not decoded"


@pytest.mark.parametrize("status", [200, 201, 206, 226, 299, 301, 308, 400, 404, 418, 429, 451, 500, 502, 503, 599])
async def test_an_upstreams_own_status_passes(status: int) -> None:
    answer = b"HTTP/1.1 %d Whatever\r\nContent-Length: 1\r\nLocation: //x\r\n\r\nx" % status
    async with upstream(answering(answer)) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        assert (message.status, message.body) == (status, b"x")
        assert message.values(b"location") == [b"//x"]
        assert served.errors == []


@pytest.mark.parametrize("status", [b"099", b"600", b"999", b"101"])
async def test_a_status_that_is_none_is_502(status: bytes) -> None:
    answer = b"HTTP/1.1 %b Whatever\r\nContent-Length: 0\r\n\r\n" % status
    async with upstream(answering(answer)) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        assert (message.status, message.values(b"content-type")) == (502, [b"application/problem+json"])


@pytest.mark.parametrize("method", [b"PATCH", b"PURGE", b"PROPFIND", b"DELETE", b"OPTIONS", b"M-SEARCH"])
async def test_methods_pass_as_they_are(parser: str, method: bytes) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/a", method=method))
        assert (await peer.message()).status == 200
        assert up.seen.startswith(method + b" /a HTTP/1.1\r\n")


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT"])
async def test_methods_that_go_no_further(parser: str, method: bytes) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get(b"/a", b"Max-Forwards: 3", method=method))
        assert (await peer.message()).status in (400, 405)
        assert up.seen == b""


async def test_a_body_with_a_length_and_one_in_chunks(parser: str) -> None:
    async with upstream(answering(OK)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(post(b"\x00\xffabc"))
        assert (await peer.message()).status == 200
        assert up.seen.endswith(b"\r\n\r\n\x00\xffabc")
        chunked = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
        await peer.send(chunked + b"3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert (await peer.message()).status == 200
        again = up.seen.partition(b"abcPOST ")[2]
        head, _, body = again.partition(b"\r\n\r\n")
        assert head.count(b"transfer-encoding: chunked") == 1
        assert b"content-length" not in head
        assert b"".join(body.split(b"\r\n")[1::2]) == b"abcdefg"
        assert body.endswith(b"\r\n0\r\n\r\n")
        assert len(up.peers) == 1, "the connection was kept"
