"""Routes to services that are put anew while requests come: what is known of the instances stays."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import trio

from tests.adapters.load import poll, started
from tests.gateway.test_services import Worker, announced
from tests.middleware.upstreams import services
from tests.registry.stores import Registry
from traffic_cop_middleware import BalancingSettings, ConfigurationError, HealthCheck, Service
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.composition.pools import LivePools
from traffic_cop_middleware.contracts import Instance
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.contracts.records import MOST_VALUE
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio
BILLING = Service("billing")
FIRST = BalancingSettings(consecutive_failures=1, slow_start=0.0)
SECOND = BalancingSettings(policy="round-robin", slow_start=0.0)


class Remote(MemoryBackend):
    """A backend whose registry is a round trip away."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.registry = Registry(clock)
        self.instances = self.registry  # type: ignore[assignment]


async def watched(clock: FakeClock, *names: str) -> tuple[Remote, LivePools]:
    backend = Remote(clock)
    for name in names:
        await backend.registry.register(Instance("billing", name, f"http://{name}:80"), holder="h")
    return backend, LivePools(lambda: backend, emit=lambda kind, attributes: None)


async def test_other_settings_leave_the_instances_their_requests_and_their_ejections(fake_clock: FakeClock) -> None:
    _, pools = await watched(fake_clock, "a", "b", "c")
    pools.keep([(BILLING, FIRST)])
    await pools.known(within=5)
    pool = pools.pool(BILLING, FIRST)
    pool.began(pool["a"])
    pool.began(pool["b"]).ended(Outcome.FAILED)
    pools.keep([(BILLING, SECOND)])
    assert pools.pool(BILLING, SECOND) is pool
    [same] = [each.snapshot() for each in pools]
    assert same.policy == "round-robin"
    assert [each.in_flight for each in same.instances] == [1, 0, 0]
    assert [each.state for each in same.instances] == ["serving", "ejected", "serving"]
    await pools.close()


@pytest.mark.parametrize("change", [(BILLING, SECOND), (Service("billing", check=HealthCheck()), FIRST)])
async def test_a_second_pool_of_a_service_knows_at_once_what_the_first_one_knows(
    fake_clock: FakeClock, change: Any
) -> None:
    backend, pools = await watched(fake_clock, "a", "b")
    pools.keep([(BILLING, FIRST)])
    await pools.known(within=5)
    backend.registry.away = True
    pools.keep([(BILLING, FIRST), change])
    assert len(pools.pool(*change)) == 2
    await pools.close()


async def test_no_request_is_refused_while_a_route_gets_other_settings(backend: str) -> None:
    async with services("a", "b") as [first, second], announced(first, backend), announced(second, backend):
        worker = Worker(backend)
        async with started(worker.app):
            await poll(lambda: len(worker.states()) == 2)
            asked: list[int] = []
            ends = asyncio.Event()

            async def ask() -> None:
                while not ends.is_set():
                    asked.append(await worker.status())

            asking = [asyncio.create_task(ask()) for _ in range(4)]
            try:
                for policy in ("random", "p2c", "hash", "weighted", "round-robin"):
                    record = {"pattern": "/*", "to": {"service": "billing"}, "balancing": {"policy": policy}}
                    await worker.cop._open("routes").records("routes").publish("routes", {"all": json.dumps(record)})
                    count = len(asked)
                    await poll(lambda count=count: len(asked) > count + 20)  # type: ignore[misc]
            finally:
                ends.set()
                await asyncio.gather(*asking)
            assert set(asked) == {200}
            assert worker.cop.balancing.pools()[0].policy == "round-robin"


async def test_a_request_of_an_old_route_makes_no_pool_that_stays() -> None:
    url = "memory://old-routes"
    async with services("a") as [first], announced(first, url):
        worker = Worker(url)
        async with started(worker.app):
            gateway = worker.cop._gateway
            [old] = gateway.table
            for to in ({"service": "billing"}, {"service": "billing", "check": {}}, {"redirect": "/", "status": 308}):
                record: dict[str, Any] = {"pattern": "/*", "to": to}
                if "service" in to:
                    record["balancing"] = {"policy": "random"}
                await worker.cop._open("routes").records("routes").publish("routes", {"all": json.dumps(record)})
                standing = list(gateway.pools())
                found = gateway.pool_of(old)
                assert [each.name for each in found.fit()] == ["a"]
                assert standing in ([found], [])
                assert list(gateway.made_pools()) == standing


async def test_one_name_leads_to_one_service() -> None:
    worker = Worker("memory://")
    with pytest.raises(ConfigurationError, match="billing"):
        worker.cop.route("/other/*", to=Service("billing", dns="http://billing.internal:8080"), name="other")
    async with started(worker.app):
        record = {"pattern": "/x", "to": {"service": "billing", "dns": "http://billing.internal:8080"}}
        await worker.cop._open("routes").records("routes").publish("routes", {"live": json.dumps(record)})
        assert "billing" in worker.cop.routes.refused["live"]


async def test_a_drain_that_no_record_holds_says_what_to_do() -> None:
    url = "memory://many-drained"
    async with services("a") as [first], announced(first, url):
        worker = Worker(url)
        async with started(worker.app):
            with pytest.raises(ConfigurationError, match="at most 200"):
                await worker.cop.balancing.drain("billing", "a", reason="x" * 201)
            said = {"draining": {f"gone-{at}": "x" * 180 for at in range(330)}}
            records = worker.cop._open("routes").records("balancing")
            await records.publish("balancing", {"billing": dumps(said)})
            said["draining"]["filling"] = "x" * (MOST_VALUE - 40 - len(dumps(said)))
            await records.publish("balancing", {"billing": dumps(said)})
            with pytest.raises(ConfigurationError, match="Resume those that are gone"):
                await worker.cop.balancing.drain("billing", "a", reason="x" * 200)
            for at in range(9):
                await worker.cop.balancing.resume("billing", f"gone-{at}")
            await worker.cop.balancing.drain("billing", "a", reason="x" * 200)
            assert worker.states() == {"a": "draining"}


async def test_hash_keys_and_sessions_survive_a_change_of_settings(fake_clock: FakeClock) -> None:
    hashed = BalancingSettings(policy="hash", slow_start=0.0)
    _, pools = await watched(fake_clock, *"abcdef")
    pools.keep([(BILLING, hashed)])
    await pools.known(within=5)
    keys = [BalancingKey(f"k{at}") for at in range(100)]
    before = [repr(pools.pool(BILLING, hashed).pick(key=key)) for key in keys]
    other = BalancingSettings(policy="hash", slow_start=0.0, most_in_flight=9)
    pools.keep([(BILLING, other)])
    assert [repr(pools.pool(BILLING, other).pick(key=key)) for key in keys] == before
    await pools.close()


async def test_closing_on_another_kind_of_event_loop_leaves_this_ones_connections_alone() -> None:
    gateway = Gateway()
    transport = gateway.transport()
    await asyncio.to_thread(lambda: trio.run(gateway.close))
    assert gateway.transport() is transport
    await gateway.close()


async def test_a_check_that_is_under_way_while_the_gateway_closes_opens_no_connections_anew() -> None:
    gateway = Gateway()
    pools, transport = gateway._static_pools(), gateway.transport()
    asked: list[object] = []

    async def asks_once_more() -> None:
        asked.append(gateway.transport())

    pools.close = asks_once_more  # type: ignore[method-assign]
    await gateway.close()
    assert asked == [transport]
    assert gateway.transport() is not transport, "the next start has its own"
    await gateway.close()
