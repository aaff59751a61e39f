"""Owners of sessions: many requests over slow stores agree, and what is written and remembered is bounded."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.balancing import owners as module
from traffic_cop_middleware.abstractions.balancing.affinity_tokens import AffinityTokens
from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.owners import StoredOwner, StoredOwners
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.session_owners import SessionOwners
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.adapters.memory import MemorySessionRoutes
from traffic_cop_middleware.contracts import SessionRoute
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.middleware import owned_tries as owned_tries_module
from traffic_cop_middleware.middleware import tries as tries_module
from traffic_cop_middleware.middleware.owned_tries import OwnedTries
from traffic_cop_middleware.middleware.tries import TOO_LATE

TTL = 1000.0
Told = list[tuple[str, dict[str, Any]]]


class Slow:
    """A store whose answers, and whose effects, come some turns of the event loop later."""

    def __init__(self, inner: MemorySessionRoutes, random: Random) -> None:
        self.inner = inner
        self._random = random

    def __getattr__(self, name: str) -> Any:
        async def later(*arguments: Any, **more: Any) -> Any:
            await self._turns()
            found = getattr(self.inner, name)(*arguments, **more)
            await self._turns()
            return found

        return lambda *arguments, **more: asyncio.ensure_future(later(*arguments, **more))

    async def _turns(self) -> None:
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)


def pool_of(names: str, **more: Any) -> BalancedPool:
    own = BalancingSettings(**{"policy": "random", "affinity": "session", "slow_start": 0.0, **more})
    return BalancedPool("cart", [Member(Upstream(f"http://{name}:80"), name) for name in names], own)


def test_requests_that_come_in_any_order_go_to_one_instance_and_a_new_owner_is_told_of_once() -> None:
    @settings(max_examples=200, deadline=None)
    @given(seed=st.integers(0, 2**32), workers=st.integers(1, 3), requests=st.integers(1, 6), owned=st.booleans())
    def run(seed: int, workers: int, requests: int, owned: bool) -> None:
        asyncio.run(scenario(Random(seed), workers, requests, owned=owned))

    async def scenario(random: Random, workers: int, requests: int, *, owned: bool) -> None:
        now = 0.0
        store = MemorySessionRoutes(clock=lambda: now)
        if owned:
            store.create("s", service="cart", instance="gone", ttl=TTL)
        now += 10  # or it might be one that these workers have yet to hear of
        told: Told = []
        pools = [pool_of("abcd") for _ in range(workers)]
        houses = [StoredOwners(lambda kind, attributes: told.append((kind, dict(attributes)))) for _ in range(workers)]

        async def request(at: int) -> str:
            owner = StoredOwner(houses[at], Slow(store, random), "s", pools[at], ttl=TTL)  # type: ignore[arg-type]
            tries = OwnedTries(pools[at], owner)
            found = await tries.wait()
            assert isinstance(found, Instance)
            tries.ended()
            return found.name

        went = await asyncio.gather(*(request(at) for at in range(workers) for _ in range(requests)))
        [route] = store.of("s")
        assert set(went) == {route.instance}
        assert [(kind, each["from"], each["to"]) for kind, each in told] == (
            [("session.rerouted", "gone", route.instance)] if owned else []
        )
        assert all(each.in_flight == 0 for pool in pools for each in pool.fit())

    run()


@pytest.mark.asyncio
async def test_what_the_store_takes_is_no_instances_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tries_module, "monotonic", lambda: now)
    monkeypatch.setattr(owned_tries_module, "monotonic", lambda: now, raising=False)

    class Hanging(MemorySessionRoutes):
        def create(self, id: str, **more: Any) -> Any:
            async def later() -> SessionRoute:
                nonlocal now
                now += 3.0
                return MemorySessionRoutes.create(self, id, **more)

            return asyncio.ensure_future(later())

    house = StoredOwners(lambda kind, attributes: None)
    store = Hanging(clock=lambda: 0.0)
    own = BalancingSettings(affinity="session", total_deadline=5.0)
    pool = BalancedPool("cart", [Member(Upstream("http://a:80"), "a")], own, clock=lambda: now)
    tries = OwnedTries(pool, StoredOwner(house, store, "s", pool, ttl=TTL))
    assert isinstance(await tries.wait(), Instance)
    now += 1.0
    tries.answered(Outcome.OK)
    tries.ended()
    assert pool["a"].latency(now) == pytest.approx(1.0)
    pool.configure(replace(own, total_deadline=2.0))
    tries = OwnedTries(pool, StoredOwner(house, store, "another", pool, ttl=TTL))
    assert await tries.wait() is TOO_LATE
    assert (pool["a"].in_flight, pool["a"].failures) == (0, 0)
    assert pool["a"].latency(now) < 1.0


@pytest.mark.asyncio
async def test_a_route_is_written_when_it_is_made_and_after_a_quarter_of_its_time() -> None:
    now = 0.0
    store = MemorySessionRoutes(clock=lambda: now)
    house, pool = StoredOwners(lambda kind, attributes: None), pool_of("ab")

    async def used() -> float:
        owner = StoredOwner(house, store, "s", pool, ttl=TTL)
        await OwnedTries(pool, owner).wait()
        [route] = store.of("s")
        return route.expires_in

    assert await used() == TTL
    now += 0.2 * TTL
    assert await used() == pytest.approx(0.8 * TTL)
    now += 0.1 * TTL
    assert await used() == pytest.approx(TTL)
    [route] = store.of("s")
    assert route.version == 1
    now += 2 * TTL
    assert await used() == TTL


@pytest.mark.asyncio
async def test_who_was_faster_keeps_its_session_at_an_instance_that_others_have_yet_to_hear_of() -> None:
    class Faster(MemorySessionRoutes):
        """Whose every session goes to a new instance first, by another worker."""

        def create(self, id: str, *, service: str, instance: str, ttl: float) -> SessionRoute:
            super().create(id, service=service, instance="c", ttl=ttl)
            return super().create(id, service=service, instance=instance, ttl=ttl)

    told: Told = []
    pool = pool_of("ab")
    house = StoredOwners(lambda kind, attributes: told.append((kind, dict(attributes))))
    owner = StoredOwner(house, Faster(clock=lambda: 0.0), "s", pool, ttl=TTL)
    tries = OwnedTries(pool, owner)
    asked = asyncio.create_task(tries.wait())
    await asyncio.sleep(0)
    pool.change([Member(Upstream(f"http://{name}:80"), name) for name in "abc"])
    found = await asked
    assert isinstance(found, Instance)
    assert (found.name, told) == ("c", [])
    tries.ended()


@pytest.mark.asyncio
async def test_routes_that_can_not_be_taken_along_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    store = MemorySessionRoutes(clock=lambda: 0.0)
    for service in ("cart", "mail"):
        store.create("s", service=service, instance="a", ttl=TTL)
    former = store.of("s")

    class Away(MemorySessionRoutes):
        def create(self, id: str, **more: Any) -> Any:
            asked = asyncio.get_running_loop().create_future()
            asked.set_exception(StoreUnavailable("away"))
            return asked

    await SessionOwners(Away(clock=lambda: 0.0), ttl=TTL).take(former, "t")
    gc.collect()
    assert caplog.records == []


def test_owners_that_a_worker_remembers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SEEN", 3)
    house = StoredOwners(lambda kind, attributes: None)
    for id in "abca d":
        house.remember(id, "cart", "one")
    assert [house.seen(id, "cart") for id in "abcd"] == ["one", None, None, "one"]
    house.remember("a", "cart", None)
    assert house.seen("a", "cart") is None


@pytest.mark.asyncio
async def test_a_backend_without_routes_is_told_of_once_and_sessions_are_hashed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house, pools = StoredOwners(lambda kind, attributes: None), [pool_of("abcd"), pool_of("abcd")]
    with caplog.at_level(logging.WARNING, "traffic_cop"):
        for id in map(str, range(20)):
            names = set()
            for pool in pools:
                found = await OwnedTries(pool, StoredOwner(house, None, id, pool, ttl=TTL)).wait()
                assert isinstance(found, Instance)
                names.add(found.name)
            assert len(names) == 1
    assert [record.message[:46] for record in caplog.records] == ["affinity='session': the backend keeps no sessi"]


def test_tokens_name_instances_of_their_pool_under_their_key_only() -> None:
    tokens, others = AffinityTokens([b"k" * 32]), AffinityTokens([b"x" * 32])
    pool, other = pool_of("abc"), pool_of("abc")
    other.name = "search"
    made = {name: tokens.token(pool, name) for name in "abc"}
    assert {tokens.named(pool, token) for token in made.values()} == {"a", "b", "c"}
    assert [tokens.named(other, made["a"]), others.named(pool, made["a"]), tokens.named(pool, "a")] == [None] * 3
    assert AffinityTokens([b"y" * 32, b"k" * 32]).named(pool, made["b"]) == "b"
    pool.change([Member(Upstream("http://a:80"), "a")])
    assert tokens.named(pool, made["c"]) == "c", "it was here: that it went can be told"
    assert pool.unfit("c") == "it is no longer in the pool"
