"""Shadow traffic: a copy of what came, whose fate is nobody's business."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.raw import OK, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import Served, gateway, served
from tests.servers import free_port
from traffic_cop_middleware import BalancingSettings, TrafficCop

pytestmark = pytest.mark.asyncio


async def test_the_copy_has_the_bytes_of_the_request() -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        gateway(up.url, mirror=shadow.url) as served,
        client(served.port) as peer,
    ):
        await peer.send(post(b"\x00\xffhello", b"X-Obs: caf\xe9", b"Cookie: a", b"Cookie: b", target=b"/a%2Fb?c"))
        assert (await peer.message()).status == 200
        await eventually(lambda: bool(served.told("route.mirrored")))
        assert shadow.seen == up.seen


async def test_trailers_of_a_request_do_not_become_fields_of_its_copy(parser: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        gateway(up.url, parser=parser, mirror=shadow.url) as served,
        client(served.port) as peer,
    ):
        await peer.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST"))
        await eventually(lambda: b"\r\n\r\n" in up.seen)
        await peer.send(b"3\r\nabc\r\n0\r\nX-Late: 1\r\nHost: evil\r\n\r\n")
        assert (await peer.message()).status == 200
        await eventually(lambda: bool(served.told("route.mirrored")))
        assert b"x-late" not in shadow.seen
        assert served.errors == []


@pytest.mark.parametrize("shadowed", ["dead", "silent", "broken", "endless"])
async def test_a_shadow_that_fails_neither_delays_nor_breaks_the_answer(shadowed: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.message()
        if shadowed == "broken":
            await peer.send(b"garbage\r\n\r\n")
            return
        if shadowed == "endless":
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            while not peer.reader.at_eof():
                await peer.send(b"x" * 1000)
                await asyncio.sleep(0.01)
        await peer.rest()

    deadlines = {"connect_deadline": 0.5, "head_deadline": 0.5, "idle_deadline": 0.5}
    async with upstream(answering(OK)) as up, upstream(script) as shadow:
        mirror = f"http://127.0.0.1:{free_port()}" if shadowed == "dead" else shadow.url
        async with gateway(up.url, mirror=mirror, **deadlines) as served, client(served.port) as peer:
            for _ in range(3):
                await peer.send(post(b"hello"))
                assert (await peer.message()).body == b"ok"
            await eventually(lambda: len(served.told("route.mirrored")) == 3)
            assert all(told["error"] for told in served.told("route.mirrored"))
            await eventually(lambda: shadow.open == 0)
            assert served.errors == []


BAD = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"


@contextlib.asynccontextmanager
async def shadowed(to: Any, mirror: Any, **settings: Any) -> AsyncIterator[tuple[TrafficCop, Served]]:
    found = Served()
    cop = TrafficCop(observer=found.events.append)
    cop.route("/*", to=to, mirror=mirror, name="all", **settings)
    async with served(cop, found, parser="httptools") as running:
        yield cop, running


async def asked(running: Served, times: int) -> None:
    """So many requests one after another, each with its copy's end."""
    before = len(running.told("route.mirrored")) + len(running.told("route.not_mirrored"))
    async with client(running.port) as peer:
        for number in range(before + 1, before + times + 1):
            await peer.send(get())
            assert (await peer.message()).status == 200
            await eventually(
                lambda: len(running.told("route.mirrored")) + len(running.told("route.not_mirrored")) == number  # noqa: B023
            )


async def test_a_shadow_that_is_dead_is_left_alone_for_a_while_though_there_is_no_other() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with upstream(answering(OK)) as up, shadowed(up.url, dead) as (_, running):
        await asked(running, 20)
        assert len(running.told("route.mirrored")) == 5
        assert len(running.told("route.not_mirrored")) == 15
        assert [each["pool"] for each in running.told("instance.ejected")] == ["all (mirror)"]


async def test_a_shadow_that_answers_with_errors_goes_on_to_get_copies() -> None:
    """Whoever mirrors wants to see just that."""
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(BAD)) as shadow,
        shadowed(up.url, shadow.url) as (_, running),
    ):
        await asked(running, 20)
        assert [each["status"] for each in running.told("route.mirrored")] == [500] * 20
        assert running.told("instance.ejected") == []


@pytest.mark.parametrize("fails", ["dead", "errors", "garbage"])
async def test_what_befalls_a_shadow_is_not_known_of_the_pool_before_it(fails: str) -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(BAD if fails == "errors" else b"garbage\r\n\r\n")) as shadow,
    ):
        mirror = f"http://127.0.0.1:{free_port()}" if fails == "dead" else shadow.url
        settings = BalancingSettings(consecutive_failures=1, retry_share=0.0, retry_floor=1.0)
        async with shadowed(up.url, mirror, balancing=settings) as (cop, running):
            await asked(running, 10)
            pool = cop._gateway.pool_of(next(iter(cop._gateway.table))).snapshot()
            [instance] = pool.instances
            assert (instance.state, instance.failures, instance.ejections, instance.in_flight) == ("serving", 0, 0, 0)
            assert instance.requests == 10
            assert pool.retries_left == 1.0
            assert running.told("upstream.failed") == []
            assert {each["pool"] for each in running.told("instance.ejected")} <= {"all (mirror)"}
            mirrored = cop._gateway.mirror_of(next(iter(cop._gateway.table)))
            assert mirrored is not None
            assert mirrored.snapshot().instances[0].requests == len(running.told("route.mirrored"))


async def test_a_shadow_is_shown_and_drained_as_others_are() -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        shadowed(up.url, shadow.url) as (cop, running),
    ):
        await asked(running, 1)
        assert [each.name for each in cop.balancing.pools()] == ["all", "all (mirror)"]
        await cop.balancing.drain("all (mirror)", shadow.url)
        await asked(running, 2)
        assert len(running.told("route.not_mirrored")) == 2
        assert shadow.seen.count(b"GET / ") == 1
