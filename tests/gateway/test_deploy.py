"""A deploy: each instance of a service is replaced by a new process, while clients ask without a pause."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.gateway.faulty import Faulty, faulty
from tests.gateway.instance import Running, instance
from tests.gateway.raw import eventually
from tests.gateway.served import Served, served
from tests.gateway.traffic import Asked, Traffic, traffic
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import BalancingSettings, Service, TrafficCop

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

SETTINGS = BalancingSettings(policy="round-robin", slow_start=0.5)
PATIENCE = 30.0


class Gateways:
    """Two cops that share a Redis, each with clients of its own."""

    def __init__(self) -> None:
        self.cops: list[TrafficCop] = []
        self.served: list[Served] = []
        self.clients: list[Traffic] = []

    def known(self) -> list[dict[str, tuple[str, int]]]:
        """The state of each instance by name, and how many requests are at it; for each cop."""
        pools = [cop.balancing.pools()[0] for cop in self.cops]
        return [{each.name: (each.state, each.in_flight) for each in pool.instances} for pool in pools]

    async def until_answered_by(self, *running: Running) -> None:
        """Both have had answers of these, asked from now on, and of no others."""
        moments = [await each.more(1) for each in self.clients]
        names = {each.name.decode() for each in running}
        await eventually(
            lambda: all(names <= set(each.who(moment)) for each, moment in zip(self.clients, moments, strict=True)),
            within=PATIENCE,
        )

    def failed(self, method: str = "") -> list[Asked]:
        return [asked for each in self.clients for asked in each.failed() if method in asked.request]


@contextlib.asynccontextmanager
async def two(redis: RedisServer, to: object) -> AsyncIterator[Gateways]:
    found = Gateways()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            running = Served()
            cop = TrafficCop(redis.url, observer=running.events.append, deadline=5.0)
            cop.route("/*", to=to, name="billing", balancing=SETTINGS)
            found.cops.append(cop)
            found.served.append(await stack.enter_async_context(served(cop, running, parser="httptools")))
        yield found


@contextlib.asynccontextmanager
async def asking(gateways: Gateways) -> AsyncIterator[None]:
    """Clients of both, from when there is somebody to answer."""
    async with contextlib.AsyncExitStack() as stack:
        for each in gateways.served:
            clients = await stack.enter_async_context(traffic(each.port, clients=4, methods=("GET", "POST")))
            gateways.clients.append(clients)
        yield


async def test_instances_that_are_drained_one_by_one_and_replaced_lose_no_request(redis_server: RedisServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        found: list[Faulty] = [await stack.enter_async_context(faulty(port=port)) for port in ports]
        both = await stack.enter_async_context(two(redis_server, [each.url for each in found]))
        await stack.enter_async_context(asking(both))
        await both.until_answered_by(*found)
        for at, old in enumerate(found):
            await both.cops[0].balancing.drain("billing", old.url, reason="a new version")
            await eventually(
                lambda: all(known[old.url] == ("draining", 0) for known in both.known()),  # noqa: B023
                within=PATIENCE,
            )
            await old.terminate()
            found[at] = await stack.enter_async_context(faulty(port=old.port))
            await both.cops[1].balancing.resume("billing", old.url)
            await both.until_answered_by(*found)
        assert both.failed() == []
        assert [each.told("upstream.failed") for each in both.served] == [[], []]


async def test_instances_that_withdraw_and_serve_on_for_a_moment_lose_no_request(redis_server: RedisServer) -> None:
    registration = {"backend": redis_server.url, "ttl": 5.0}
    async with contextlib.AsyncExitStack() as stack:
        both = await stack.enter_async_context(two(redis_server, Service("billing")))
        found = [await stack.enter_async_context(faulty(port=free_port(), registration=registration)) for _ in range(3)]
        await eventually(lambda: all(len(known) == 3 for known in both.known()), within=PATIENCE)
        await stack.enter_async_context(asking(both))
        await both.until_answered_by(*found)
        for at, old in enumerate(found):
            await old.terminate()
            found[at] = await stack.enter_async_context(faulty(port=old.port, registration=registration))
            await both.until_answered_by(*found)
        assert both.failed() == []
        assert [each.told("upstream.failed") for each in both.served] == [[], []]


async def test_apps_that_a_server_ends_before_they_can_withdraw_lose_no_safe_request(
    redis_server: RedisServer,
) -> None:
    """uvicorn stops listening and closes idle connections first: others are asked, until the cops know."""
    registration = json.dumps({"backend": redis_server.url, "ttl": 5.0})
    async with contextlib.AsyncExitStack() as stack:

        async def app(port: int) -> Running:
            return await stack.enter_async_context(instance("tests.gateway.announced_app", str(port), registration))

        both = await stack.enter_async_context(two(redis_server, Service("billing")))
        found = [await app(free_port()) for _ in range(3)]
        await eventually(lambda: all(len(known) == 3 for known in both.known()), within=PATIENCE)
        await stack.enter_async_context(asking(both))
        await both.until_answered_by(*found)
        for at, old in enumerate(found):
            await old.terminate()
            found[at] = await app(old.port)
            await both.until_answered_by(*found)
        assert both.failed("GET") == []
        # A POST that goes out on a connection that ends at that moment may have been done, so it is not asked again.
        assert {asked.status for asked in both.failed()} <= {502}
