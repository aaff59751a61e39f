"""What concerns one connection stays there (RFC 9110, section 7.6), and only a gateway says who the client is."""

from __future__ import annotations

import pytest

from tests.gateway.raw import OK, Message, answering, client, get, post, upstream
from tests.gateway.served import gateway

pytestmark = pytest.mark.asyncio


async def passed_up(parser: str, request: bytes, **settings: object) -> tuple[Message, dict[bytes, list[bytes]]]:
    """The client's answer, and the fields that the upstream got, by name."""
    async with (
        upstream(answering(OK)) as up,
        gateway(up.url, parser=parser, **settings) as served,
        client(served.port) as peer,
    ):
        await peer.send(request)
        message = await peer.message()
        head = up.seen.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        found: dict[bytes, list[bytes]] = {}
        for line in head:
            name, _, value = line.partition(b": ")
            found.setdefault(name.lower(), []).append(value)
        assert served.errors == []
        return message, found


async def test_fields_of_the_connection_stay_with_the_client(parser: str) -> None:
    message, seen = await passed_up(
        parser,
        get(
            b"/",
            b"Connection: X-Hop, keep-alive",
            b"Connection: x-other",
            b"X-Hop: 1",
            b"X-Other: 2",
            b"X-Kept: 3",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eDp5",
            b"Proxy-Authenticate: Basic",
            b"TE: trailers, deflate",
            b"Trailer: X-T",
            b"HTTP2-Settings: AAMAAABk",
        ),
    )
    assert message.status == 200
    names = {b"connection", b"x-hop", b"x-other", b"keep-alive", b"proxy-connection", b"proxy-authorization"}
    assert not names & set(seen)
    assert not {b"proxy-authenticate", b"te", b"trailer", b"http2-settings"} & set(seen)
    assert seen[b"x-kept"] == [b"3"]


async def test_a_connection_field_can_not_take_out_what_makes_the_message(parser: str) -> None:
    message, seen = await passed_up(
        parser, post(b"hi", b"Connection: host, content-length, via, x-forwarded-for, x-request-id")
    )
    assert message.status == 200
    assert (seen[b"host"], seen[b"content-length"]) == ([b"shop.example"], [b"2"])
    assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert b"x-request-id" in seen
    assert seen[b"via"] == [b"1.1 traffic-cop"]


async def test_fields_of_the_connection_stay_with_the_upstream(parser: str) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"
        b"Upgrade: h2c\r\nTrailer: x-t\r\nProxy-Connection: close\r\nX-Kept: 1\r\nX-Traffic-User: forged\r\n"
        b"Via: 1.0 deep\r\nContent-Length: 2\r\n\r\nok"
    )
    async with upstream(answering(answer)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        names = [name.lower() for name, _ in message.fields]
        assert names == [b"x-kept", b"via", b"content-length", b"via"]
        assert message.values(b"via") == [b"1.0 deep", b"1.1 traffic-cop"]


async def test_an_http_1_0_upstream_is_named_so_in_via_and_not_kept(parser: str) -> None:
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(answering(answer)) as up, gateway(up.url, parser=parser) as served, client(served.port) as peer:
        for _ in range(2):
            await peer.send(get())
            assert (await peer.message()).values(b"via") == [b"1.0 traffic-cop"]
        assert len(up.peers) == 2


async def test_via_is_appended_to(parser: str) -> None:
    _, seen = await passed_up(parser, get(b"/", b"Via: 1.0 fred, 1.1 a", b"Via: 1.1 b"))
    assert seen[b"via"] == [b"1.0 fred, 1.1 a, 1.1 b, 1.1 traffic-cop"]
    _, seen = await passed_up(parser, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert seen[b"via"] == [b"1.0 traffic-cop"]


async def test_who_the_client_is_nobody_but_the_gateway_says(parser: str) -> None:
    forged = [
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-For: 7.7.7.7",
        b"X_Forwarded_For: 6.6.6.6",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"X-Forwarded-Port: 1",
        b"X-Forwarded-Prefix: /evil",
        b"X-Forwarded-Ssl: on",
        b"X-Real-IP: 6.6.6.6",
        b"Forwarded: for=6.6.6.6",
        b"X-Traffic-User: root",
        b"X_Traffic_User: root",
        b"X-Traffic-Identity: x",
    ]
    _, seen = await passed_up(parser, get(b"/", *forged))
    assert seen[b"x-forwarded-for"] == [b"127.0.0.1"]
    assert seen[b"x-forwarded-proto"] == [b"http"]
    assert seen[b"x-forwarded-host"] == [b"shop.example"]
    assert seen[b"forwarded"] == [b"for=127.0.0.1;host=shop.example;proto=http"]
    known = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
    assert {name for name in seen if name.startswith(b"x")} == known


async def test_what_a_trusted_proxy_says_of_the_client_is_kept_and_added_to(parser: str) -> None:
    said = [
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: outer",
        b"X-Forwarded-Port: 443",
        b"X-Real-IP: 6.6.6.6",
        b"Forwarded: for=6.6.6.6;proto=https",
        b"X-Traffic-User: root",
    ]
    _, seen = await passed_up(parser, get(b"/", *said), trusted_proxies=["127.0.0.0/8"])
    assert seen[b"x-forwarded-for"] == [b"6.6.6.6, 10.0.0.1, 127.0.0.1"]
    assert (seen[b"x-forwarded-proto"], seen[b"x-forwarded-host"]) == ([b"https"], [b"outer"])
    assert (seen[b"x-forwarded-port"], seen[b"x-real-ip"]) == ([b"443"], [b"6.6.6.6"])
    assert seen[b"forwarded"] == [b"for=6.6.6.6;proto=https, for=127.0.0.1;host=shop.example;proto=http"]
    assert b"x-traffic-user" not in seen


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"Host", b"X_Key", b"X_Request_Id", b"Via"])
async def test_a_name_that_some_read_as_another_does_not_pass(name: bytes) -> None:
    """CGI and WSGI write "_" for "-": to them, content_length is content-length."""
    if b"_" not in name:
        name += b"_"
    _, seen = await passed_up("httptools", get(b"/", name + b": 5"), request_headers={"X-Key": "ours"})
    underscored = [each for each in seen if b"_" in each]
    assert underscored == ([] if not name.endswith(b"_") else [name.lower()])


async def test_max_forwards_counts_down_and_ends_here(parser: str) -> None:
    message, seen = await passed_up(parser, get(b"/", b"Max-Forwards: 10", method=b"OPTIONS"))
    assert (message.status, seen[b"max-forwards"]) == (200, [b"9"])
    message, seen = await passed_up(parser, get(b"/", b"Max-Forwards: 0", method=b"OPTIONS"))
    assert (message.status, seen) == (204, {})
    message, seen = await passed_up(parser, get(b"/", b"Max-Forwards: 0"))
    assert (message.status, seen[b"max-forwards"]) == (200, [b"0"]), "other methods are not counted"


@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket, h2c"])
async def test_an_upgrade_to_anything_but_websocket_does_not_get_through(parser: str, protocol: bytes) -> None:
    request = get(b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABk")
    message, seen = await passed_up(parser, request)
    assert message.status == 200
    assert not {b"upgrade", b"connection", b"http2-settings"} & set(seen)


async def test_the_upstreams_own_host_where_the_route_says_so(parser: str) -> None:
    _, seen = await passed_up(parser, get(), keep_host=False)
    assert seen[b"host"][0].startswith(b"127.0.0.1:")
    assert seen[b"x-forwarded-host"] == [b"shop.example"]
    _, seen = await passed_up(parser, b"GET / HTTP/1.0\r\n\r\n")
    assert seen[b"host"][0].startswith(b"127.0.0.1:"), "a client of HTTP/1.0 names no host"


async def test_a_host_that_the_route_sets() -> None:
    _, seen = await passed_up("h11", get(), request_headers={"Host": "inner"})
    assert (seen[b"host"], seen[b"x-forwarded-host"]) == ([b"inner"], [b"shop.example"])
