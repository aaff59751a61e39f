"""Upstreams by TLS: their certificates are checked, and ours is shown."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus

from tests.gateway.certificates import Authority, server_context
from tests.gateway.raw import OK, answering, client, eventually, get, post, upstream
from tests.gateway.served import gateway
from tests.gateway.socket_servers import cop_app, websocket_server
from tests.gateway.socket_servers import gateway as socket_gateway
from traffic_cop_middleware import ConfigurationError, HealthCheck, Service, TrafficCop, Upstream
from traffic_cop_middleware.abstractions.destinations import destination_from, destination_record

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


def recording(context: ssl.SSLContext) -> tuple[ssl.SSLContext, list[str | None]]:
    """A server's context, and the names that clients asked it for."""
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)  # type: ignore[assignment]
    return context, asked


async def test_the_addresses_of_a_name_are_called_by_tls_under_the_name(authority: Authority) -> None:
    context, asked = recording(server_context(authority.certificate("localhost")))
    async with upstream(answering(OK), tls=context) as up:
        port = up.url.rpartition(":")[2]
        to = Service("billing", dns=f"https://localhost:{port}/v1", ca=str(authority.ca))
        async with gateway(to, keep_host=False) as served, client(served.port) as peer:
            for _ in range(3):
                await peer.send(get())
                assert (await peer.message()).status == 200
        assert f"\r\nhost: localhost:{port}\r\n".encode() in up.seen
        assert up.seen.startswith(b"GET /v1/ HTTP/1.1")
        assert asked == ["localhost"], "one connection, kept"


async def test_a_certificate_for_another_name_or_for_the_address_is_not_taken(
    authority: Authority, stranger: Authority, localhost: Path
) -> None:
    wrong = (localhost, authority.certificate("billing.internal"), stranger.certificate("localhost"))
    for certificate in wrong:
        async with upstream(answering(OK), tls=server_context(certificate)) as up:
            to = Service("billing", dns=f"https://localhost:{up.url.rpartition(':')[2]}", ca=str(authority.ca))
            async with gateway(to) as served, client(served.port) as peer:
                await peer.send(get(host=b"Host: billing.internal"))
                message = await peer.message()
                assert message.status == 503
                assert b"certificate" not in message.body.lower()
            assert up.seen == b""


async def test_who_asks_for_our_certificate_gets_it_and_its_health_is_asked_by_tls_too(authority: Authority) -> None:
    context = server_context(authority.certificate("localhost"), clients=authority.ca)
    async with upstream(answering(OK), tls=context) as up:
        place = f"https://localhost:{up.url.rpartition(':')[2]}"
        ours = str(authority.certificate("gateway"))
        check = HealthCheck("/up", interval=0.05)
        to = Service("billing", dns=place, ca=str(authority.ca), certificate=ours, check=check)
        async with gateway(to) as served, client(served.port) as peer:
            await eventually(lambda: up.seen.count(b"GET /up HTTP/1.1") > 2)
            await peer.send(get())
            assert (await peer.message()).status == 200


async def test_a_service_with_certificates_is_a_record_and_back_and_refused_where_it_can_not_be(
    authority: Authority,
) -> None:
    ca, ours = str(authority.ca), str(authority.certificate("gateway"))
    to = Service("billing", dns="https://billing.internal:8443", ca=ca, certificate=ours)
    record = destination_record(to)
    assert record == {"service": "billing", "dns": "https://billing.internal:8443", "ca": ca, "certificate": ours}
    assert destination_from(record) == to
    assert destination_from(destination_record(Service("x", dns="https://x"))) == Service("x", dns="https://x")
    refused: list[dict[str, str]] = [
        {"dns": "http://billing:80", "ca": ca},
        {"ca": ca},
        {"dns": "https://billing", "ca": "/no/such.pem"},
        {"dns": "https://billing", "key": ours},
        {"dns": "https://billing", "ca": ""},
    ]
    for settings in refused:
        with pytest.raises(ConfigurationError):
            Service("billing", **settings)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError):
            destination_from({"service": "billing", **settings})


async def test_a_websocket_to_an_address_of_a_name_is_by_tls_under_the_name(authority: Authority) -> None:
    async def serve(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async def answer(certificate: Path) -> str | bytes:
        async with websocket_server(serve, ssl=server_context(certificate)) as url:
            cop = TrafficCop()
            place = f"https://localhost:{url.rpartition(':')[2]}"
            cop.route("/*", to=Service("billing", dns=place, ca=str(authority.ca)))
            async with socket_gateway(cop_app(cop)) as running, connect(running.url("/x")) as socket:
                await socket.send("hello")
                return await socket.recv()

    assert await answer(authority.certificate("localhost")) == "hello"
    with pytest.raises(InvalidStatus):
        await answer(authority.certificate("billing.internal"))
