"""Upstreams by TLS: their certificates are checked, and ours is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.certificates import Authority, server_context
from tests.gateway.raw import OK, answering, client, get, post, upstream
from tests.gateway.served import gateway
from traffic_cop_middleware import Upstream

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def localhost(authority: Authority) -> Path:
    return authority.certificate("127.0.0.1")


async def test_an_upstream_that_our_authority_signed_is_asked(authority: Authority, localhost: Path) -> None:
    async with (
        upstream(answering(OK), tls=server_context(localhost)) as up,
        gateway(Upstream(up.url, ca=str(authority.ca))) as served,
        client(served.port) as peer,
    ):
        for _ in range(3):
            await peer.send(post(b"hello"))
            assert (await peer.message()).body == b"ok"
        assert len(up.peers) == 1
        assert up.seen.endswith(b"\r\n\r\nhello")


async def test_one_that_another_authority_signed_is_not(stranger: Authority, localhost: Path) -> None:
    async with upstream(answering(OK), tls=server_context(localhost)) as up:
        for to in (Upstream(up.url, ca=str(stranger.ca)), Upstream(up.url)):
            async with gateway(to) as served, client(served.port) as peer:
                await peer.send(get())
                message = await peer.message()
                assert message.status == 503
                assert b"certificate" not in message.body.lower(), "what is wrong is the operator's to know"
        assert up.seen == b""


async def test_one_with_anothers_name_is_not(authority: Authority) -> None:
    certificate = authority.certificate("billing.internal")
    async with (
        upstream(answering(OK), tls=server_context(certificate)) as up,
        gateway(Upstream(up.url, ca=str(authority.ca))) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(host=b"Host: billing.internal"))
        assert (await peer.message()).status == 503
        assert up.seen == b""


async def test_plain_http_on_the_upstreams_port_is_not(authority: Authority) -> None:
    async with upstream(answering(OK)) as up:
        to = Upstream(up.url.replace("http:", "https:"), ca=str(authority.ca))
        async with gateway(to, connect_deadline=0.3) as served, client(served.port) as peer:
            await peer.send(get())
            assert (await peer.message()).status == 503
            assert b"GET" not in up.seen


async def test_our_certificate_is_shown_to_who_asks_for_it(
    authority: Authority, stranger: Authority, localhost: Path
) -> None:
    ours, theirs = authority.certificate("gateway"), stranger.certificate("gateway")
    async with upstream(answering(OK), tls=server_context(localhost, clients=authority.ca)) as up:
        for certificate, status in ((ours, {200}), (theirs, {502, 503}), (None, {502, 503})):
            to = Upstream(up.url, ca=str(authority.ca), certificate=str(certificate) if certificate else None)
            async with gateway(to) as served, client(served.port) as peer:
                await peer.send(get())
                assert (await peer.message()).status in status
                assert served.errors == []
        assert up.seen.count(b"GET / HTTP/1.1") == 1


async def test_one_upstreams_certificate_does_not_open_another(authority: Authority, localhost: Path) -> None:
    """Connections are kept apart by what they were opened with, also to one address."""
    ours = authority.certificate("gateway")
    async with upstream(answering(OK), tls=server_context(localhost)) as up:
        with_it = Upstream(up.url, ca=str(authority.ca), certificate=str(ours))
        without = Upstream(up.url, ca=str(authority.ca))
        async with gateway([with_it, without]) as served, client(served.port) as peer:
            for _ in range(4):
                await peer.send(get())
                assert (await peer.message()).status == 200
        assert len(up.peers) == 2
