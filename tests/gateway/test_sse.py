"""Server-sent events through the gateway: each at once, for as long as the upstream goes on, and no longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.socket_servers import PATIENCE, RawPeer, Running, cop_app, gateway, raw_server, reset, until
from tests.middleware.session_apps import SECRET
from traffic_cop_middleware import TrafficCop

pytestmark = pytest.mark.asyncio

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
SOON = 5.0
"""Seconds for what happens at once on a machine that is not starved."""


class Stream:
    """The upstream's side of one event stream."""

    def __init__(self, peer: RawPeer, *, chunked: bool = True) -> None:
        self.peer = peer
        self._chunked = chunked
        peer.writer.write(HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Connection: close\r\n\r\n"))

    def send(self, text: bytes) -> None:
        self.peer.writer.write(b"%x\r\n%b\r\n" % (len(text), text) if self._chunked else text)


@contextlib.asynccontextmanager
async def stream(running: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client whose stream has begun."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    try:
        writer.write(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/event-stream" in head.lower()
        yield reader, writer
    finally:
        writer.close()


async def next_chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of a response; empty at its proper end."""
    async with asyncio.timeout(PATIENCE):
        size = int(await reader.readline(), 16)
        return (await reader.readexactly(size + 2))[:-2]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("settings", [{}, {"limits": "100/minute", "session_secret": SECRET}])
async def test_each_event_arrives_before_the_next_is_sent(settings: dict[str, Any], chunked: bool) -> None:
    arrived = asyncio.Queue[int]()

    async def serve(peer: RawPeer) -> None:
        stream = Stream(peer, chunked=chunked)
        for number in range(20):
            stream.send(b"id: %d\ndata: event\n\n" % number)
            assert await arrived.get() == number
        if chunked:
            peer.writer.write(b"0\r\n\r\n")

    async with raw_server(serve) as url:
        cop = TrafficCop(**settings)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, _):
            for number in range(20):
                assert await next_chunk(reader) == b"id: %d\ndata: event\n\n" % number
                arrived.put_nowait(number)
            assert await next_chunk(reader) == b""


async def test_the_head_arrives_before_the_first_event() -> None:
    begun = asyncio.Event()

    async def serve(peer: RawPeer) -> None:
        stream = Stream(peer)
        await begun.wait()
        stream.send(b"data: 1\n\n")
        await peer.reader.read()

    async with raw_server(serve) as url:
        cop = TrafficCop(limits="100/minute", session_secret=SECRET)
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, _):
            begun.set()
            assert await next_chunk(reader) == b"data: 1\n\n"


@pytest.mark.parametrize("leaving", ["reset", "end"])
@pytest.mark.parametrize("talking", [True, False])
async def test_a_client_that_leaves_ends_the_upstreams_stream(leaving: str, talking: bool) -> None:
    peers: list[RawPeer] = []

    async def serve(peer: RawPeer) -> None:
        peers.append(peer)
        stream = Stream(peer)
        stream.send(b"data: 1\n\n")
        leaving = asyncio.create_task(peer.reader.read())
        while talking and not leaving.done():
            stream.send(b": still here\n\n")
            await asyncio.wait({leaving}, timeout=0.05)
        await leaving

    told: list[Any] = []
    async with raw_server(serve) as url:
        cop = TrafficCop(
            limits="100/minute",
            session_secret=SECRET,
            observer=lambda event: told.append(event) if event.kind == "route.forwarded" else None,
        )
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, writer):
            assert await next_chunk(reader)
            assert not peers[0].ended.is_set()
            if leaving == "reset":
                reset(writer)
            else:
                writer.close()
            await until(peers[0].ended.is_set, within=SOON)
            await until(lambda: told, within=SOON)
    assert told[0].attributes["status"] == 200


async def test_a_stream_lives_by_its_comments_and_breaks_when_it_falls_silent() -> None:
    ended: list[RawPeer] = []

    async def serve(peer: RawPeer) -> None:
        stream = Stream(peer)
        for _ in range(8):
            stream.send(b": comment\n\n")
            await asyncio.sleep(0.3)
        stream.send(b"data: last\n\n")
        await peer.reader.read()
        ended.append(peer)

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url, idle_deadline=2, head_deadline=30)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, _):
            for _ in range(8):
                assert await next_chunk(reader) == b": comment\n\n"
            assert await next_chunk(reader) == b"data: last\n\n"
            rest = await asyncio.wait_for(reader.read(), PATIENCE)
            assert rest == b"", "broken, not ended: there is no last chunk"
            await until(lambda: ended, within=SOON)


async def test_a_stream_that_is_silent_from_its_head_on_breaks_by_the_idle_deadline() -> None:
    async def serve(peer: RawPeer) -> None:
        Stream(peer)
        await peer.reader.read()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url, idle_deadline=0.3, head_deadline=60)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, _):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""


async def test_a_stream_that_the_upstream_cuts_is_cut_for_the_client() -> None:
    async def serve(peer: RawPeer) -> None:
        Stream(peer).send(b"data: 1\n\n")
        await peer.writer.drain()

    async with raw_server(serve) as url:
        cop = TrafficCop()
        cop.route("/*", to=url)
        async with gateway(cop_app(cop)) as running, stream(running) as (reader, _):
            assert await next_chunk(reader) == b"data: 1\n\n"
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
