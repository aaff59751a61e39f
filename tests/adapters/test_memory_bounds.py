"""What buckets cost in memory: a bounded dict in this process, keys that expire in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend, MemoryBuckets
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Take
from traffic_cop_middleware.testing import FakeClock

DEADLINE = 30.0


# Memory


def store(clock: FakeClock, max_keys: int) -> MemoryBuckets:
    return MemoryBackend(clock=clock, max_keys=max_keys).buckets


def test_a_flood_of_made_up_keys_keeps_to_max_keys_and_resets_no_busy_bucket() -> None:
    clock = FakeClock()
    buckets = store(clock, 1000)
    busy = Take("{ip:203.0.113.7}100/minute", 100, 100 / 60)
    while buckets.take([busy]).admitted:
        pass
    most = 0
    granted = 0
    for number in range(30_000):
        clock.advance(0.0001)
        buckets.take([Take(f"{{ip:{number}}}100/minute", 100, 100 / 60)])
        granted += buckets.take([busy]).admitted
        most = max(most, len(buckets))
    assert most == 1000
    assert granted == 5  # 3 seconds at 100 a minute


def test_a_flood_of_keys_beside_a_shared_bucket_leaves_every_take_of_it_charged() -> None:
    clock = FakeClock()
    buckets = store(clock, 50)
    everybody = Take("{everyone}20/second", 20, 20)
    granted = 0
    for number in range(2_000):
        clock.advance(0.01)
        granted += buckets.take([Take(f"{{ip:{number}}}1/day", 1, 1 / 86_400), everybody]).admitted
    assert granted == 20 + 20 * 20 - 1


def test_a_bucket_that_is_full_again_and_taken_from_beside_a_new_key_is_charged() -> None:
    clock = FakeClock()
    buckets = store(clock, 50)
    everybody = Take("{everyone}2/second", 2, 2)
    assert buckets.take([everybody]).admitted
    clock.advance(10)
    assert list(buckets.take([Take("{ip:1}1/day", 1, 1 / 86_400), everybody]).answers) == [1_000_000, 1_000_000]
    assert list(buckets.take([everybody]).answers) == [2_000_000]
    assert not buckets.take([everybody]).admitted


def test_one_call_for_more_keys_than_there_is_room_for_keeps_to_max_keys() -> None:
    buckets = store(FakeClock(), 1)
    assert buckets.take([Take(f"{number}", 5, 1) for number in range(3)]).admitted
    assert len(buckets) == 1


def test_full_buckets_are_dropped_by_the_keys_that_come_after_them() -> None:
    clock = FakeClock()
    buckets = store(clock, 100_000)
    for number in range(5_000):
        buckets.take([Take(f"old-{number}", 5, 1)])
    assert len(buckets) == 5_000
    clock.advance(1)
    for number in range(2_500):
        buckets.take([Take(f"new-{number}", 5, 1)])
    assert len(buckets) == 2_500


def test_steady_traffic_of_ever_new_keys_keeps_about_what_is_not_full_yet() -> None:
    clock = FakeClock()
    buckets = store(clock, 100_000)
    for number in range(10_000):
        clock.advance(0.01)
        buckets.take([Take(f"{number}", 5, 1)])
    assert len(buckets) <= 250


def test_a_refused_take_of_a_new_key_keeps_no_bucket() -> None:
    buckets = store(FakeClock(), 100)
    empty = Take("empty", 1, 1)
    buckets.take([empty])
    for number in range(50):
        assert not buckets.take([Take(f"{number}", 5, 1), empty]).admitted
    assert len(buckets) == 1


# Redis


@pytest_asyncio.fixture
async def backend(redis_server: RedisServer) -> AsyncIterator[RedisBackend]:
    backend = open_redis(redis_server.url, namespace="bounds", deadline=DEADLINE, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    yield backend
    await backend.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("burst", "rate", "cost"),
    [(100, 1, 5), (4, 10, 4), (1, 1 / 86_400, 1), (100, 100 / 60, 0.5), (2_000, 1_000, 2_000), (5, 1 / 3, 2.5)],
)
async def test_a_key_lives_as_long_as_its_bucket_lacks_tokens(
    backend: RedisBackend, burst: float, rate: float, cost: float
) -> None:
    request = Take("{s}", burst, rate, cost)
    began = time.monotonic()
    assert (await backend.buckets.take([request])).admitted
    left = await backend.link.ask("PTTL", "bounds:b:{s}")
    asking = (time.monotonic() - began) * 1000
    refill = cost / rate * 1000
    gone = left == -2 and asking >= refill - 1  # a short refill may be over before we have asked
    assert gone or max(0, refill - asking - 1) <= left <= refill + 2


@pytest.mark.asyncio
async def test_a_key_is_gone_when_its_bucket_is_full_again(backend: RedisBackend) -> None:
    assert (await backend.buckets.take([Take("{s}", 4, 10, 1)])).admitted
    deadline = time.monotonic() + DEADLINE
    while await backend.link.ask("EXISTS", "bounds:b:{s}") and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.01)
    assert await backend.link.ask("EXISTS", "bounds:b:{s}") == 0


@pytest.mark.asyncio
async def test_no_key_is_ever_without_an_expiry(backend: RedisBackend) -> None:
    slow = Take("{a}slow", 1, 1 / 604_800)
    for _ in range(3):
        await backend.buckets.take([slow])
        await backend.buckets.take([slow, Take("{a}beside", 5, 1)])
        await backend.buckets.take([Take("{a}fast", 5, 100_000), Take("{a}nothing", 5, 1, 0)])
    for now in (1_000_000_000.0, 999_999_000.0):  # a clock that goes back
        await backend.buckets.take([Take("{a}back", 1, 1)], now=now)
    await backend.buckets.take([Take("{a}most", 9e9, 1 / 604_800e6, 9e9)])
    found = {key: await backend.link.ask("PTTL", key) for key in await backend.link.ask("KEYS", "*")}
    assert {b"bounds:b:{a}slow", b"bounds:b:{a}back", b"bounds:b:{a}most", b"bounds:workers"} <= found.keys()
    assert -1 not in found.values()


@pytest.mark.asyncio
async def test_a_refused_take_neither_writes_a_key_nor_prolongs_one(backend: RedisBackend) -> None:
    hour = Take("{s}1/hour", 1, 1 / 3600)
    await backend.buckets.take([hour])
    await backend.link.ask("PEXPIRE", "bounds:b:{s}1/hour", 60_000)
    assert not (await backend.buckets.take([hour, Take("{s}other", 5, 1)])).admitted
    assert 0 < await backend.link.ask("PTTL", "bounds:b:{s}1/hour") <= 60_000
    assert await backend.link.ask("EXISTS", "bounds:b:{s}other") == 0
