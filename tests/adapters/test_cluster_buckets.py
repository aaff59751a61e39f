"""Buckets in several slots of a real cluster: taken together or not at all, and never given back too much."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.redis_cluster import RedisCluster
from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.abstractions.rate_limiting import Charge, RateLimitAbstraction, bill
from traffic_cop_middleware.adapters.memory import MemoryBuckets
from traffic_cop_middleware.adapters.redis.cluster import ClusterBackend
from traffic_cop_middleware.adapters.redis.cluster import open as open_cluster
from traffic_cop_middleware.adapters.redis.cluster_buckets import GIVE, ClusterBuckets
from traffic_cop_middleware.adapters.redis.cluster_slots import slot_of
from traffic_cop_middleware.contracts import MICRO, Guard, Take, Taken

pytestmark = pytest.mark.redis_server

NOW = 1_700_000_000.0
SUBJECTS = ("ip:198.51.100.1", "user:alice", "tenant:acme", "all")


@pytest_asyncio.fixture
async def backend(redis_cluster: RedisCluster) -> AsyncIterator[ClusterBackend]:
    backend = open_cluster(
        redis_cluster.url, namespace=f"slots-{secrets.token_hex(4)}", deadline=30, notify=lambda event: None
    )
    await backend.connect(patience=30)
    for node in backend.link.masters:  # type: ignore[attr-defined]
        await node.ask("SCRIPT", "LOAD", GIVE.text)  # so that a give-back is never asked twice, and comes in its turn
    yield backend
    await backend.close()


@pytest.fixture
def store(backend: ClusterBackend) -> ClusterBuckets:
    assert len({slot_of(f"{{{subject}}}") for subject in SUBJECTS}) == len(SUBJECTS)
    assert isinstance(backend.buckets, ClusterBuckets)
    return backend.buckets


def of(subject: str, *, burst: float = 3, rate: float = 1, cost: float = 1) -> Take:
    return Take(f"{{{subject}}}limit", burst, rate, cost)


@pytest.mark.asyncio
async def test_takes_in_several_slots_decide_as_those_in_one(store: ClusterBuckets) -> None:
    draw = random.Random(7)
    model = MemoryBuckets(clock=lambda: 0.0, max_keys=1000, keyspace={})
    now, admitted = NOW, 0
    for _ in range(400):
        now += draw.choice((0, 0, 0.25, 0.5, 2))
        subjects = draw.sample(SUBJECTS, draw.randint(1, len(SUBJECTS)))
        takes = [of(subject, burst=3, rate=0.5, cost=draw.choice((0, 0.25, 1, 2))) for subject in subjects]
        taken, expected = await store.take(takes, now=now), model.take(takes, now=now)
        assert taken._replace(answers=list(taken.answers)) == expected._replace(answers=list(expected.answers))
        admitted += taken.admitted
    assert 100 < admitted < 300, "both happen"


@pytest.mark.asyncio
async def test_a_guard_that_does_not_hold_takes_from_no_slot_and_the_address_pays(store: ClusterBuckets) -> None:
    mine, shared, address = of("user:alice"), of("tenant:acme"), of("ip:198.51.100.1", cost=2)
    guard = Guard("s:{user:alice}id", "g:{user:alice}", 0, (address, of("all", cost=3)))
    assert await store.take([mine, shared], guard=guard, now=NOW) == Taken(True, [2_000_000, 3_000_000], False)
    assert await store.take([mine, shared], guard=guard, now=NOW) == Taken(False, [-1_000_000, -3_000_000], False)
    looked = await store.take([each._replace(cost=0) for each in (mine, shared, address)], now=NOW)
    assert looked.answers == [0, 0, 2_000_000]


@pytest.mark.asyncio
async def test_a_guard_without_a_bucket_beside_it_is_looked_after(
    store: ClusterBuckets, backend: ClusterBackend
) -> None:
    guard = Guard("s:{user:alice}id", "g:{user:alice}", 0, (of("all"),))
    takes = [of("tenant:acme"), of("ip:198.51.100.1")]
    assert (await store.take(takes, guard=guard, now=NOW)) == Taken(True, [1_000_000], False)
    await backend.link.ask("SET", store._guard_prefix + guard.record, "session")
    assert (await store.take(takes, guard=guard, now=NOW)) == Taken(True, [1_000_000, 1_000_000], True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("taken_at", "others", "debt"),
    [
        (0.00, 0, 0.0),  # at once: all of it
        (0.02, 0, 0.0),  # 2 of 5 have drained, 3 are given back
        (0.00, 5, 5.0),  # what others took stays
        (0.06, 10, 10.0),  # all 5 have drained before others took: nothing is given back
        (0.03, 7, 7.0),  # 3 have drained; 2 are left of the 5 and given back
        (-0.01, 5, 10.0),  # the clock went back behind the take: nothing is given back
    ],
)
async def test_what_has_drained_is_not_given_back(
    store: ClusterBuckets, taken_at: float, others: float, debt: float
) -> None:
    """5 tokens of 100/s are taken at NOW; others take some `taken_at` seconds later; then the 5 are given back."""
    bucket = of("all", burst=10, rate=100, cost=5)
    await store.take([bucket], now=NOW)
    later = NOW + taken_at
    await store.take([bucket._replace(cost=others)], now=later)
    store.give_back([bucket], round(NOW * MICRO), str(round(later * MICRO)))
    [looked] = (await store.take([bucket._replace(cost=0)], now=later)).answers
    assert looked == pytest.approx(debt * MICRO, abs=2)


@pytest.mark.asyncio
async def test_a_bucket_beside_ones_that_refuse_admits_no_more_than_its_bound(store: ClusterBuckets) -> None:
    burst, rate, seconds = 40, 400, 1.5
    shared = of("all", burst=burst, rate=rate)
    admitted = refused = 0
    start = time.monotonic()

    async def caller(number: int) -> None:
        nonlocal admitted, refused
        own = of(f"ip:198.51.100.{number}", burst=1, rate=8 if number % 2 else 0.01)
        while time.monotonic() < start + seconds:
            if (await store.take([shared, own])).admitted:
                admitted += 1
            else:
                refused += 1
                await asyncio.sleep(random.uniform(0, 0.01))

    await asyncio.gather(*(caller(number) for number in range(64)))
    took = time.monotonic() - start
    assert admitted <= burst + rate * took
    assert refused > admitted > 2 * burst


@pytest.mark.asyncio
async def test_what_is_cancelled_in_its_tick_takes_nothing(store: ClusterBuckets) -> None:
    takes = [of(subject) for subject in SUBJECTS]
    asked = store.take(takes, now=NOW)
    asked.cancel()
    looked = await store.take([take._replace(cost=0) for take in takes], now=NOW)
    assert looked == Taken(True, [0, 0, 0, 0], True)


@pytest.mark.asyncio
async def test_a_refusal_is_not_remembered_because_tokens_may_be_given_back(store: ClusterBuckets) -> None:
    """The deny cache would refuse for as long as the wait that was told."""
    limits = RateLimitAbstraction(store, clock=time.monotonic, local=store)
    owed = bill([Charge(Policy("one", "limit", 1, 0.001), "all")])

    async def decide() -> tuple[bool, str]:
        decision = await answered(limits.take(owed))
        return decision.admitted, decision.source

    assert [await decide() for _ in range(3)] == [(True, "store"), (False, "store"), (False, "store")]
    await store.forget([owed.takes[0].key])
    assert await decide() == (True, "store")
