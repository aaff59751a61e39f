"""Connections to upstreams: which are kept, which are cut, and when a request is sent again."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NoReturn

import pytest

from tests.asgi import Message
from tests.gateway.raw import OK, PATIENCE, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import gateway
from tests.servers import free_port
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.forwarding import Client
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.static_pools import members_of
from traffic_cop_middleware.contracts.transport import Deadlines, Field, Origin, Outgoing
from traffic_cop_middleware.errors import UpstreamBroken
from traffic_cop_middleware.middleware.client_body import UNWATCHED, ClientBody
from traffic_cop_middleware.middleware.exchange import Exchange, Forwarding
from traffic_cop_middleware.middleware.routes import route

pytestmark = pytest.mark.asyncio

SECRET = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with upstream(answering(OK)) as up, gateway(up.url) as served:
        for _ in range(5):
            async with client(served.port) as peer:
                await peer.send(post(b"hi"))
                assert (await peer.message()).status == 200
        assert len(up.peers) == 1


def dying(after: int) -> tuple[list[bytes], object]:
    """A script whose connections answer so many requests, read one more, and close without a word."""
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        for _ in range(after):
            asked.append((await peer.message()).start)
            await peer.send(OK[:-2] if asked[-1].startswith(b"HEAD") else OK)
        asked.append((await peer.message()).start)

    return asked, script


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_by_a_new_one(method: bytes) -> None:
    asked, script = dying(1)
    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:  # type: ignore[arg-type]
        for _ in range(2):
            await peer.send(get(b"/a", method=method))
            assert (await peer.message(bodiless=method == b"HEAD")).status == 200
        assert (len(asked), len(up.peers)) == (3, 2)
        assert served.told("route.forwarded")[1]["attempts"] == 2


@pytest.mark.parametrize(
    "request_",
    [get(b"/a", method=b"POST"), get(b"/a", method=b"DELETE"), post(b"x"), get(b"/a", b"Content-Length: 1") + b"x"],
)
async def test_what_may_have_been_done_is_not_done_again(request_: bytes) -> None:
    asked, script = dying(1)
    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:  # type: ignore[arg-type]
        await peer.send(get())
        await peer.message()
        await peer.send(request_)
        assert (await peer.message()).status == 502
        assert len(asked) == 2


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    asked, script = dying(0)
    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:  # type: ignore[arg-type]
        await peer.send(get())
        assert (await peer.message()).status == 502
        assert len(asked) == 1


async def test_half_an_answer_is_not_asked_for_again() -> None:
    answers = iter([OK, b"HTTP/1.1 2", OK])

    async def script(peer: Peer) -> None:
        while True:
            await peer.message()
            await peer.send(answer := next(answers))
            if answer != OK:
                return

    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        await peer.message()
        await peer.send(get())
        assert (await peer.message()).status == 502


async def test_after_a_restart_a_request_is_sent_again_once_and_on_a_new_connection() -> None:
    """All kept connections are dead alike: a second one of them is no second chance."""
    gate = asyncio.Event()
    dead: list[Peer] = []

    async def script(peer: Peer) -> None:
        await peer.message()
        await gate.wait()
        await peer.send(OK)
        if len(dead) < 3:
            dead.append(peer)
            await peer.message()
            return
        await answering(OK)(peer)

    async with upstream(script) as up, gateway(up.url) as served:
        async with client(served.port) as a, client(served.port) as b, client(served.port) as c:
            for peer in (a, b, c):
                await peer.send(get())
            await eventually(lambda: len(up.peers) == 3)
            gate.set()
            for peer in (a, b, c):
                await peer.message()
            await a.send(get())
            assert (await a.message()).status == 200
        assert len(up.peers) == 4


@pytest.mark.parametrize("unasked", [SECRET, SECRET[:20], b"x", b"\r\nHTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("when", ["with the response", "while it rests"])
async def test_what_nobody_asked_for_reaches_nobody(unasked: bytes, when: str) -> None:
    """An upstream that says more than it was asked answers the next client with it, if its connection is kept."""

    async def script(peer: Peer) -> None:
        await peer.message()
        if len(up.peers) > 1:
            await peer.send(OK)
            return
        if when == "with the response":
            await peer.send(OK + unasked)
        else:
            await peer.send(OK)
            await go.wait()
            await peer.send(unasked)
        await peer.rest()

    go = asyncio.Event()
    async with upstream(script) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        message = await peer.message()
        # What is no message at all, in one piece with the response, makes that one doubtful too.
        assert message.body == b"ok" or (message.status == 502 and unasked == b"x")
        go.set()
        await eventually(lambda: up.open == 0)
        await peer.send(get())
        assert (await peer.message()).body == b"ok"
        assert len(up.peers) == 2


@pytest.mark.parametrize("answer", [b"HTTP/1.1 304 No\r\n\r\nbody", b"HTTP/1.1 204 No\r\n\r\nbody"])
async def test_a_body_where_none_may_be_reaches_nobody(answer: bytes) -> None:
    async with upstream(answering(answer, OK)) as up, gateway(up.url) as served, client(served.port) as peer:
        await peer.send(get())
        status = (await peer.message()).status
        assert status in (204, 304, 502)
        await peer.send(get())
        assert (await peer.message()).body == b"ok"
        assert len(up.peers) == 2


async def test_a_body_after_head_reaches_nobody() -> None:
    async with upstream(answering(OK)) as up, gateway(up.url) as served, client(served.port) as peer:
        for number in range(3):
            await peer.send(get(method=b"HEAD"))
            assert (await peer.message(bodiless=True)).status in (200, 502)
            assert len(up.peers) == number + 1


async def test_an_upstream_that_says_close_is_believed() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(answering(answer)) as up, gateway(up.url) as served, client(served.port) as peer:
        for number in range(2):
            await peer.send(get())
            message = await peer.message()
            assert (message.body, message.values(b"connection")) == (b"ok", []), "and the client's connection goes on"
            assert len(up.peers) == number + 1
        await eventually(lambda: up.open == 0)


async def test_a_dead_instance_is_passed_over_with_the_body_still_there() -> None:
    async with (
        upstream(answering(OK)) as up,
        gateway([f"http://127.0.0.1:{free_port()}", up.url]) as served,
        client(served.port) as peer,
    ):
        await peer.send(post(b"hello"))
        assert (await peer.message()).status == 200
        assert up.seen.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("moment", ["while it uploads", "while it waits", "while it reads"])
async def test_a_client_that_leaves_ends_the_upstreams_work(parser: str, moment: str) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        if moment == "while it reads":
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        arrived.set()
        await peer.rest()
        gone.set()

    seconds = []
    async with upstream(script) as up, gateway(up.url, parser=parser) as served:
        for _ in range(3):  # the best of three is within a second, also where others use the machine
            arrived.clear()
            gone.clear()
            async with client(served.port) as peer:
                if moment == "while it uploads":
                    await peer.send(get(b"/", b"Content-Length: 1000", method=b"PUT") + b"some")
                    await eventually(lambda: up.seen.endswith(b"some"))
                else:
                    await peer.send(get())
                await arrived.wait()
                if moment == "while it reads":
                    await peer.until(b"abc")
            start = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                await gone.wait()
            seconds.append(time.monotonic() - start)
        await eventually(lambda: len(served.told("route.forwarded")) == 3)
        assert all(told["gone"] for told in served.told("route.forwarded"))
        assert served.errors == []
    assert min(seconds) < 1


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"])
async def test_what_others_do_after_the_response_is_not_ended_with_it(parser: str, answer: bytes) -> None:
    """A server says "disconnect" to who still listens when the response is complete: that is no client that left."""
    done: list[str] = []

    def outer(app: Any) -> Any:
        async def outermost(scope: Any, receive: Any, send: Any) -> None:
            async def then_more(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body" and not message["more_body"]:
                    await asyncio.sleep(0.02)
                    done.append("more")

            await app(scope, receive, then_more)

        return outermost

    async with (
        upstream(answering(answer)) as up,
        gateway(up.url, parser=parser, outer=outer) as served,
        client(served.port) as peer,
    ):
        await peer.send(get())
        assert (await peer.message()).body == b"ok"
        await eventually(lambda: bool(served.told("route.forwarded")))
        assert (done, "gone" in served.told("route.forwarded")[0]) == (["more"], False)


async def test_a_client_that_leaves_is_noticed_while_nobody_takes_what_it_sent() -> None:
    messages = iter([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}])
    taken: list[bytes] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return next(messages)

    async def exchange() -> None:
        body = ClientBody(receive, expected=True, most=None, idle=10.0)
        async for chunk in body.chunks():
            taken.append(chunk)
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await asyncio.wait([task := asyncio.create_task(exchange())])
    assert (taken, task.cancelled()) == ([b"a"], True)


class BrokenOff:
    """A response whose connection breaks in the middle."""

    status, http_version = 200, "1.1"
    fields: Sequence[Field] = ()

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"begun"
        raise UpstreamBroken("closed")

    def close(self) -> None:
        self.status = 0


class Breaking:
    """A transport to an instance that breaks the connection: before its response, or in the middle of it."""

    def __init__(self, *, begun: bool) -> None:
        self.begun = begun
        self.asked = 0

    async def send(self, origin: Origin, request: Outgoing, *, deadlines: Deadlines) -> BrokenOff:
        self.asked += 1
        if not self.begun:
            raise UpstreamBroken("closed", stale=True)
        return BrokenOff()

    async def connect(
        self, origin: Origin, request: Outgoing, *, subprotocols: Sequence[str], deadlines: Deadlines
    ) -> NoReturn:
        raise UpstreamBroken("closed")

    async def close(self) -> None:
        self.begun = False


@pytest.mark.parametrize("begun", [False, True], ids=["before", "amid"])
@pytest.mark.parametrize("left", [False, True], ids=["client waits", "client left"])
async def test_what_breaks_for_a_client_that_left_is_no_error_and_is_not_asked_again(begun: bool, left: bool) -> None:
    told: list[Mapping[str, Any]] = []
    sent: list[Message] = []

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    transport = Breaking(begun=begun)
    exchange = Exchange(lambda: transport, lambda _, attributes: told.append(attributes))
    one = route("/*", to="http://127.0.0.1:1")
    pool = BalancedPool("all", members_of(action_of(one).destination.upstreams))
    forwarding = Forwarding("all", one.pattern, action_of(one).policy, pool, Client("", "http", b"", False), ())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"shop.example")]}
    with pytest.raises(UpstreamBroken) if begun and not left else contextlib.nullcontext():
        await exchange.run(scope, receive, send, forwarding)
    assert (transport.asked, told[-1].get("gone", False)) == (1 if left or begun else 2, left)
    assert bool(sent) is (begun or not left)
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_client_is_watched_by_one_task_only() -> None:
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    body = ClientBody(receive, expected=False, most=None, idle=10.0)
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(UNWATCHED + 0.01, later.set)
    assert await body.left() is False
    await later.wait()
    await asyncio.sleep(0)
    body.close()
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert asked == 1


async def test_a_client_that_leaves_while_its_instance_is_being_reached_leaves_nothing() -> None:
    """The listening socket's queue is full, so that connecting takes as long as it may."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            async with gateway(f"http://127.0.0.1:{full.getsockname()[1]}", connect_deadline=30.0) as served:
                async with client(served.port) as peer:
                    await peer.send(get())
                    await asyncio.sleep(0.05)
                await eventually(lambda: bool(served.told("route.forwarded")))
                assert served.told("route.forwarded")[0]["gone"] is True
        finally:
            for each in waiting:
                each.close()
