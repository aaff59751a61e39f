"""Where a request goes, the table says: nothing of a client's picks an address."""

from __future__ import annotations

import pytest

from tests.gateway.raw import OK, answering, client, get, upstream
from tests.gateway.served import gateway

pytestmark = pytest.mark.asyncio

TARGETS = [
    b"http://EVIL/x",
    b"//EVIL/x",
    b"///EVIL/x",
    b"/x@EVIL",
    b"@EVIL/x",
    b":80@EVIL/x",
    b"/\\EVIL/x",
    b"/http://EVIL/x",
    b"/x?url=http://EVIL/",
    b"/x/..//EVIL",
    b"/%2F%2FEVIL/x",
    b"/x;@EVIL",
    b"/.EVIL",
    b"EVIL",
    b"*",
    b"http://user@EVIL/x",
    b"/x#@EVIL/",
    b"?@EVIL/x",
]
FIELDS = [
    b"X-Forwarded-Host: EVIL",
    b"X-Forwarded-Server: EVIL",
    b"Forwarded: host=EVIL",
    b"X-Host: EVIL",
    b"X-Original-URL: http://EVIL/",
    b"X-Rewrite-URL: http://EVIL/",
    b"Referer: http://EVIL/",
    b"X-Traffic-Upstream: http://EVIL/",
    b"Via: 1.1 EVIL",
    b"Destination: http://EVIL/",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_target_picks_no_address(parser: str, target: bytes) -> None:
    async with (
        upstream(answering(OK)) as evil,
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(target.replace(b"EVIL", evil.url[7:].encode())))
        assert (await peer.message()).status in (200, 400, 404)
        assert evil.peers == []
        if up.seen:
            assert up.seen.split(b" ")[1].startswith(b"/"), "what goes out is a path"


@pytest.mark.parametrize("line", FIELDS)
async def test_a_field_picks_no_address(line: bytes) -> None:
    async with (
        upstream(answering(OK)) as evil,
        upstream(answering(OK)) as up,
        gateway(up.url) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", line.replace(b"EVIL", evil.url[7:].encode())))
        assert (await peer.message()).status == 200
        assert evil.peers == []
        assert len(up.peers) == 1


@pytest.mark.parametrize("keep_host", [True, False])
async def test_a_host_picks_no_address(parser: str, keep_host: bool) -> None:
    async with (
        upstream(answering(OK)) as evil,
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, keep_host=keep_host) as served,
        client(served.port) as peer,
    ):
        host = evil.url[7:].encode()
        for target in (b"/", b"http://" + host + b"/"):
            await peer.send(get(target, host=b"Host: " + host))
            assert (await peer.message()).status in (200, 404)
        assert evil.peers == []
        assert len(up.peers) == 1


async def test_a_redirect_of_an_upstream_is_the_clients_to_follow() -> None:
    async with upstream(answering(OK)) as evil:
        answer = b"HTTP/1.1 302 Found\r\nLocation: %b/\r\nContent-Length: 0\r\n\r\n" % evil.url.encode()
        async with upstream(answering(answer)) as up, gateway(up.url) as served, client(served.port) as peer:
            await peer.send(get())
            message = await peer.message()
            assert (message.status, message.values(b"location")) == (302, [evil.url.encode() + b"/"])
            assert evil.peers == []


async def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answering(OK)) as evil, upstream(answering(OK)) as up:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, evil.url)
        async with gateway(up.url) as served, client(served.port) as peer:
            await peer.send(get())
            assert (await peer.message()).status == 200
        assert evil.peers == []
