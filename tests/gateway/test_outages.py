"""Most of a pool dies, or all of it, while clients ask without a pause; and who looks after its health dies too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.adapters.load import poll
from tests.adapters.test_leader_processes import ROOT, Process
from tests.gateway.faulty import Faulty, faulty
from tests.gateway.raw import OK, answering, client, eventually, get, upstream
from tests.gateway.served import Served, gateway, served
from tests.gateway.test_health_checks import announced, patients
from tests.gateway.traffic import traffic
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import BalancingSettings, HealthCheck, Registration, Service, TrafficCop

pytestmark = pytest.mark.asyncio

NUMBERS = itertools.count()
CLIENTS = 6
BOTH = ("GET", "POST")


def in_turn(**settings: Any) -> BalancingSettings:
    return BalancingSettings(policy="round-robin", longest_ejection=settings.get("ejection", 300.0), **settings)


async def entered(stack: contextlib.AsyncExitStack, count: int) -> list[Faulty]:
    return [await stack.enter_async_context(faulty()) for _ in range(count)]


def unreached(running: Served, at: int = 0) -> int:
    """Connections that were not to be had, from one of the failures on."""
    return sum(told["error"] == "UpstreamUnreachable" for told in running.told("upstream.failed")[at:])


async def test_half_of_a_pool_is_killed_and_then_all_but_one() -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = await entered(stack, 6)
        running = await stack.enter_async_context(
            gateway([each.url for each in found], balancing=in_turn(ejection=30.0, slow_start=0.3))
        )
        clients = await stack.enter_async_context(traffic(running.port, clients=CLIENTS, methods=BOTH))
        await eventually(lambda: len(clients.who(0)) == 6)
        for each in found[:3]:
            await each.kill()
        moment = await clients.more(300)
        assert clients.failed(moment) == []
        assert set(clients.who(moment)) == {each.name.decode() for each in found[3:]}
        assert {each["instance"] for each in running.told("instance.ejected")} == {each.url for each in found[:3]}
        assert not running.told("pool.panic")
        for each in found[3:5]:
            await each.kill()
        await eventually(lambda: len(running.told("instance.ejected")) == 5)
        assert running.told("pool.panic")[-1]["panic"] is True, "any of the six may be a first choice"
        moment = await clients.more(300)
        assert clients.failed(moment) == []
        assert set(clients.who(moment)) == {found[5].name.decode()}
        # Of what failed before, nothing did for want of a connection.
        assert {each.status for each in clients.failed()} <= {502}
        assert max(told["attempts"] for told in running.told("route.forwarded")[-300:]) == 2


@pytest.mark.parametrize("policy", ["peak-ewma", "round-robin", "random", "p2c", "least-requests", "weighted"])
async def test_a_large_pool_of_which_half_is_dead_from_the_beginning(policy: str) -> None:
    async with upstream(answering(OK)) as up:
        dead = free_port()
        to = [f"http://127.0.0.{number}:{dead}" for number in range(1, 51)] + [up.url] * 50
        async with gateway(to, balancing=policy) as running, client(running.port) as peer:
            for _ in range(200):
                await peer.send(get())
                assert (await peer.message()).status == 200


async def test_a_large_pool_that_is_dead_is_not_knocked_at_as_a_whole_by_each_request() -> None:
    dead = free_port()
    to = [f"http://127.0.0.{number}:{dead}" for number in range(1, 101)]
    async with gateway(to) as running, client(running.port) as peer:

        async def asks() -> int:
            await peer.send(get())
            assert (await peer.message()).status == 503
            await eventually(lambda: len(running.told("route.forwarded")) == next(count))
            attempts: int = running.told("route.forwarded")[-1]["attempts"]
            return attempts

        count = itertools.count(1)
        assert await asks() == 51, "half of them may be dead without a client's seeing it"
        for _ in range(20):
            await asks()
        # More than half are ejected by now: whoever comes has little hope, and knocks at a few.
        assert running.told("pool.panic")[-1]["panic"] is True
        assert [await asks() for _ in range(5)] == [3] * 5


@pytest.mark.parametrize("fault", ["killed", "frozen", "drop", "close"])
async def test_attempts_stay_within_the_budget_when_all_are_ill(fault: str) -> None:
    """Of attempts whose request was sent; one that finds no connection is no work for anybody."""
    settings = in_turn(ejection=0.3, slow_start=0.0, try_deadline=0.3, retry_floor=0.0)
    async with contextlib.AsyncExitStack() as stack:
        found = await entered(stack, 3)
        running = await stack.enter_async_context(gateway([each.url for each in found], balancing=settings))
        clients = await stack.enter_async_context(traffic(running.port, clients=16))
        await clients.more(50)
        failed = len(running.told("upstream.failed"))
        for each in found:
            if fault == "killed":
                await each.kill()
            elif fault == "frozen":
                each.freeze()
            else:
                await each.has(fault)
        try:
            moment = await clients.more(150)
        finally:
            if fault == "frozen":
                for each in found:
                    each.thaw()
        done = running.told("route.forwarded")
        sent = sum(told["attempts"] for told in done) - unreached(running)
        assert sent <= 1.2 * (len(done) + 16), "those that are under way have paid too"
        if fault != "close":
            assert {each.status for each in clients.since(moment)} & {502, 503, 504}
        assert unreached(running, failed) <= 3 * len(done)
        if fault != "killed":
            for each in found:
                await each.has("none")
            await clients.more(50)
            moment = await clients.more(1)
            await eventually(lambda: len(clients.who(moment)) == 3, within=30)
            moment = await clients.more(100)
            assert clients.failed(moment) == []


CHECKED = Service("billing", check=HealthCheck(interval=0.1, healthy=2, unhealthy=2, deadline=2.0))


@contextlib.asynccontextmanager
async def checked(instances: Sequence[Faulty]) -> AsyncIterator[tuple[TrafficCop, Served]]:
    """A gateway that checks them."""
    backend = f"memory://outages-{next(NUMBERS)}"
    async with contextlib.AsyncExitStack() as stack:
        for each in instances:
            named = Registration("billing", url=each.url, instance=each.name.decode(), backend=backend)
            await stack.enter_async_context(named)
        found = Served()
        cop = TrafficCop(backend, observer=found.events.append)
        cop.route("/*", to=CHECKED, balancing=in_turn(slow_start=0.3))
        yield cop, await stack.enter_async_context(served(cop, found, parser="httptools"))


def states(cop: TrafficCop) -> Counter[str]:
    [pool] = cop.balancing.pools()
    return Counter(each.state for each in pool.instances)


async def test_nothing_fails_once_checks_have_marked_the_dead_however_many_they_are() -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = await entered(stack, 5)
        cop, running = await stack.enter_async_context(checked(found))
        clients = await stack.enter_async_context(traffic(running.port, clients=CLIENTS, methods=BOTH))
        await eventually(lambda: len(clients.who(0)) == 5)
        for each in found[:4]:
            await each.kill()
        await eventually(lambda: states(cop)["unhealthy"] == 4, within=30)
        knocked = unreached(running)
        moment = await clients.more(300)
        assert clients.failed(moment) == []
        assert unreached(running) <= knocked + CLIENTS, "nobody knocks at the dead"
        assert {each.status for each in clients.failed()} <= {502}, "nothing ever failed for want of a connection"


async def test_one_whose_checks_fail_while_it_serves_gets_nothing_until_they_are_good_again() -> None:
    async with contextlib.AsyncExitStack() as stack:
        found = await entered(stack, 2)
        cop, running = await stack.enter_async_context(checked(found))
        clients = await stack.enter_async_context(traffic(running.port, clients=CLIENTS, methods=BOTH))
        await eventually(lambda: len(clients.who(0)) == 2)
        await found[0].has("ill")
        await eventually(lambda: states(cop)["unhealthy"] == 1, within=30)
        moment = await clients.more(200)
        assert set(clients.who(moment)) == {found[1].name.decode()}
        await found[0].has("none")
        moment = await clients.more(1)
        await eventually(lambda: len(clients.who(moment)) == 2, within=30)
        assert clients.failed() == []
        await found[1].has("ill")
        await eventually(lambda: states(cop)["unhealthy"] == 1, within=30)
        await found[0].has("ill")
        await eventually(lambda: states(cop)["unhealthy"] == 2, within=30)
        moment = await clients.more(50)
        assert {each.status for each in clients.since(moment)} == {503}, "somebody looked: there is no panic about it"


@pytest.mark.redis_server
async def test_a_killed_checker_is_followed_by_the_other_gateway(redis_server: RedisServer) -> None:
    async with (
        patients(2) as [ill, well],
        announced(ill, "a", redis_server.url),
        announced(well, "b", redis_server.url),
        contextlib.AsyncExitStack() as stack,
    ):
        gateways = []
        for _ in range(2):
            command = (sys.executable, "-m", "tests.gateway.checking_worker", redis_server.url)
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            gateways.append(Process(process))
            stack.push_async_callback(gateways[-1].end)
            await gateways[-1].says("serving")
            await poll(lambda: len(ill.asked) > 2)  # the first one checks
        first, other = gateways
        ill.status = 500
        await poll(lambda: [each.said[-1] for each in gateways] == ["unhealthy serving"] * 2, 30)
        first.tell(9)
        await first.process.wait()
        asked = len(ill.asked)
        well.status = 500
        await poll(lambda: other.said[-1] == "unhealthy unhealthy", 30)
        assert len(ill.asked) > asked
        ill.status = well.status = 200
        await poll(lambda: "unhealthy" not in other.said[-1], 30)
