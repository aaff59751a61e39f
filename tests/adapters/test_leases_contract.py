"""The contract suite of `LeaseStore` on every adapter (memory, fakeredis, real Redis), and what holds for each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.resources import files

import pytest

from tests.adapters.crews import OnFakeRedis, workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory import leases as memory_leases
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import LeaseStore
from traffic_cop_middleware.contracts.leases import passes
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock, LeaseStoreContract
from traffic_cop_middleware.testing.lease_contract import NAME, TTL, Elapse, acquired, given, released

SHIFT = """
-- Bring the end of a lease nearer by so many microseconds: this server's clock can't be moved.
local token, ends, rest = string.match(redis.call('GET', KEYS[1]), '^(%d+) (%d+) (.+)$')
ends = math.max(0, tonumber(ends) - tonumber(ARGV[1]))
redis.call('SET', KEYS[1], token .. string.format(' %.0f ', ends) .. rest, 'KEEPTTL')
"""
FENCED_WRITE = (
    files("traffic_cop_middleware.adapters.redis").joinpath("fenced.lua").read_text()
    + """
if not fenced(KEYS[1], tonumber(ARGV[1])) then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""
)
"""A write that a lease guards, as a store in Redis makes it: KEYS fence and list, ARGV the token."""


class TestMemory(LeaseStoreContract):
    @pytest.fixture
    def stores(self, fake_clock: FakeClock) -> Sequence[LeaseStore]:
        return [MemoryBackend(clock=fake_clock).leases]

    @pytest.fixture
    def elapse(self, fake_clock: FakeClock) -> Elapse:
        async def elapse(seconds: float) -> None:
            fake_clock.advance(seconds)

        return elapse


def key_of(backend: RedisBackend, name: str = NAME) -> str:
    return backend.leases._keys(name)[0]


async def shift(backend: RedisBackend, seconds: float, *, name: str = NAME) -> None:
    """Let a lease be older by `seconds`; or, below 0, let the server's clock go back by so many."""
    await backend.link.ask("EVAL", SHIFT, 1, key_of(backend, name), round(seconds * 1e6))


class OnRedis(LeaseStoreContract):
    @pytest.fixture
    def stores(self, backends: list[RedisBackend]) -> Sequence[LeaseStore]:
        return [backend.leases for backend in backends]

    @pytest.fixture
    def elapse(self, backends: list[RedisBackend]) -> Elapse:
        async def elapse(seconds: float) -> None:
            await shift(backends[0], seconds)

        return elapse


class TestFakeRedis(OnFakeRedis, OnRedis):
    """On fakeredis, by the fixture `backends`."""


class TestRedis(OnRedis):
    """On the real server of the fixture `backends`."""


# What it guards


def test_a_token_that_is_older_than_the_highest_that_has_written_does_not_pass() -> None:
    assert passes(1, highest=None)
    assert passes(5, highest=4)
    assert passes(5, highest=5)
    assert not passes(4, highest=5)


@pytest.mark.asyncio
async def test_a_fence_in_redis_refuses_the_write_of_one_who_was_followed(backends: list[RedisBackend]) -> None:
    first, second = backends[0], backends[1]
    fence, log = f"{key_of(first)}:fence", f"{key_of(first)}:log"

    async def write(backend: RedisBackend, token: int) -> bool:
        return bool(await backend.link.ask("EVAL", FENCED_WRITE, 2, fence, log, token))

    older = await given(first.leases, "a")
    assert await write(first, older.token)
    await shift(first, 1.1 * TTL)
    newer = await given(second.leases, "b")
    assert await write(first, older.token)  # nobody has told the fence yet
    assert await write(second, newer.token)
    assert not await write(first, older.token)
    assert await write(second, newer.token)
    expected = [older.token, older.token, newer.token, newer.token]
    assert [int(token) for token in await first.link.ask("LRANGE", log, 0, -1)] == expected
    for garbage in (["SET", fence, "a text"], ["RPUSH", fence, "a list"]):
        await first.link.ask("DEL", fence)
        await first.link.ask(*garbage)
        assert await write(first, older.token)
        assert await write(first, newer.token)
        assert not await write(first, older.token)


# Memory alone


def test_one_of_many_threads_has_a_lease_in_memory() -> None:
    store, begin = MemoryBackend().leases, threading.Barrier(4)
    holding, most, given_out = 0, 0, []

    def worker(number: int) -> None:
        nonlocal holding, most
        begin.wait()
        for _ in range(500):
            lease = store.acquire(NAME, f"worker {number}", ttl=TTL)
            if lease is not None:
                holding += 1
                most = max(most, holding)
                given_out.append(lease.token)
                holding -= 1
                assert store.release(lease)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert given_out == sorted(set(given_out))


def test_leases_in_memory_that_have_ended_are_forgotten_and_tokens_grow_all_the_same(fake_clock: FakeClock) -> None:
    store = MemoryBackend(clock=fake_clock).leases
    first = store.acquire(NAME, "a", ttl=1)
    lasting = store.acquire("lasting", "a", ttl=86_400)
    assert first is not None
    for number in range(20 * memory_leases.MOST_ENDED):
        fake_clock.advance(0.001)
        store.acquire(f"lease {number}", "a", ttl=1)
        assert len(store._held) <= 2 * memory_leases.MOST_ENDED + 2
    again = store.acquire(NAME, "a", ttl=1)
    assert again is not None
    assert again.token > first.token
    assert store.acquire("lasting", "b", ttl=1) is None
    assert store.acquire("lasting", "a", ttl=86_400) == lasting


def test_two_memory_backends_give_leases_of_their_own() -> None:
    assert [MemoryBackend().leases.acquire(NAME, holder, ttl=TTL) is None for holder in "ab"] == [False, False]


# Redis alone


@pytest.mark.asyncio
async def test_a_lease_is_one_key_with_a_hash_tag_and_outlives_its_end_for_a_month(
    backends: list[RedisBackend],
) -> None:
    backend = backends[0]
    lease = await given(backend.leases, "a")
    keys = [key.decode() for key in await backend.link.ask("KEYS", "*lease:*")]
    assert keys == [key_of(backend)]
    assert keys[0].startswith("crew-")
    assert keys[0].endswith(":{lease:sweep}")
    for _ in range(2):
        assert 0 < await backend.link.ask("TTL", keys[0]) - 30 * 86_400 <= TTL
        await released(backend.leases, lease)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage", [("SET", "a text"), ("SET", "9007199254740992 1 1 a"), ("RPUSH", "a"), ("SADD", "a")]
)
async def test_a_key_that_holds_something_else_is_written_over(
    backends: list[RedisBackend], garbage: tuple[str, str]
) -> None:
    backend = backends[0]
    await backend.link.ask(garbage[0], key_of(backend), garbage[1])
    lease = await given(backend.leases, "a")
    assert lease.token < 2**53
    assert await acquired(backend.leases, "b") is None


@pytest.mark.asyncio
async def test_an_emptied_redis_gives_it_anew_with_a_larger_token(
    backends: list[RedisBackend], redis_server: RedisServer
) -> None:
    first = await given(backends[0].leases, "a")
    redis_server.command("FLUSHALL")
    assert not await released(backends[0].leases, first)
    second = await given(backends[1].leases, "b")
    assert second.token > first.token
    redis_server.command("FLUSHALL")
    assert (await given(backends[1].leases, "b")).token > second.token


@pytest.mark.asyncio
async def test_where_the_clock_went_back_it_ends_after_its_own_time_and_tokens_grow(
    backends: list[RedisBackend],
) -> None:
    backend = backends[0]
    hour = 3_600.0
    first = await given(backend.leases, "a")
    ahead = f"{first.token + round(hour * 1e6)} "
    value = await backend.link.ask("GET", key_of(backend))
    await backend.link.ask("SET", key_of(backend), ahead + value.decode().partition(" ")[2])
    await shift(backend, -hour)
    assert await acquired(backend.leases, "b") is None
    await shift(backend, 1.1 * TTL)
    second = await given(backend.leases, "b")
    assert second.token > int(ahead)
    assert second.token < int(ahead) + 10


@pytest.mark.asyncio
async def test_it_is_asked_in_one_command_also_when_redis_has_forgotten_its_scripts(
    backends: list[RedisBackend], redis_server: RedisServer
) -> None:
    backend = backends[0]
    asked: list[str] = []
    put = backend.link.put
    backend.link.put = lambda command, sink: (asked.append(str(command[0])), put(command, sink))[1]  # type: ignore[method-assign]
    lease = await given(backend.leases, "a")
    assert await given(backend.leases, "a") == lease
    redis_server.command("SCRIPT", "FLUSH")
    assert await released(backend.leases, lease)
    assert [word for word in asked if word.startswith("EVAL")][-3:] == ["EVALSHA", "EVALSHA", "EVAL"]
    assert len(asked) <= 5


@pytest.mark.asyncio
async def test_every_question_is_refused_while_redis_is_away_and_it_was_never_given_twice(
    own_redis: RedisServer,
) -> None:
    async with workers(own_redis.url, deadline=0.2) as backends:
        first = await given(backends[0].leases, "a")
        own_redis.freeze()
        with pytest.raises(StoreUnavailable):
            await acquired(backends[1].leases, "b")
        own_redis.thaw()
        await poll(lambda: all(backend.link.up for backend in backends))
        assert await acquired(backends[1].leases, "b") is None
        assert await given(backends[0].leases, "a") == first
        own_redis.kill()
        await poll(lambda: not any(backend.link.up for backend in backends))
        with pytest.raises(StoreUnavailable):
            await released(backends[0].leases, first)
        own_redis.start()
        await poll(lambda: all(backend.link.up for backend in backends))
        assert (await given(backends[1].leases, "b")).token > first.token
