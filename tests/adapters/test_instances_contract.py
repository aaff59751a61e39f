"""The contract suite of `InstanceStore` on every adapter (memory, fakeredis, real Redis), and what holds for each."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from tests.adapters.crews import OnFakeRedis, workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis.cluster_link import ClusterLink
from traffic_cop_middleware.contracts import MICRO, InstanceStore
from traffic_cop_middleware.contracts.registry import MOST_HOLDERS
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.testing import FakeClock, InstanceStoreContract
from traffic_cop_middleware.testing.instance_contract import (
    SERVICE,
    TTL,
    Elapse,
    figures,
    instance,
    listed,
    names,
    read,
    registered,
    unregistered,
)

SHIFT = """
-- Bring all ends in a sorted set nearer by so many microseconds: this server's clock can't be moved.
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  redis.call('ZADD', KEYS[1], string.format('%.0f', tonumber(found[i + 1]) - tonumber(ARGV[1])), found[i])
end
"""


class TestMemory(InstanceStoreContract):
    @pytest.fixture
    def stores(self, fake_clock: FakeClock) -> Sequence[InstanceStore]:
        return [MemoryBackend(clock=fake_clock).instances]

    @pytest.fixture
    def elapse(self, fake_clock: FakeClock) -> Elapse:
        async def elapse(seconds: float) -> None:
            fake_clock.advance(seconds)

        return elapse


async def shift(backend: RedisBackend, seconds: float) -> None:
    """Let all announcements be older by `seconds`."""
    links = backend.link.masters if isinstance(backend.link, ClusterLink) else [backend.link]
    for link in links:
        for key in await link.ask("KEYS", "*"):
            if key.startswith(backend.instances._prefix.encode()) and key.endswith((b"}:ends", b"{instances}")):
                await backend.link.ask("EVAL", SHIFT, 1, key, round(seconds * MICRO))


class OnRedis(InstanceStoreContract):
    @pytest.fixture
    def stores(self, backends: list[RedisBackend]) -> Sequence[InstanceStore]:
        return [backend.instances for backend in backends]

    @pytest.fixture
    def elapse(self, backends: list[RedisBackend]) -> Elapse:
        async def elapse(seconds: float) -> None:
            await shift(backends[0], seconds)

        return elapse


class TestFakeRedis(OnFakeRedis, OnRedis):
    """On fakeredis, by the fixture `backends`."""


class TestRedis(OnRedis):
    """On the real server of the fixture `backends`."""


# Memory alone


def test_threads_that_announce_and_end_leave_nothing_behind_in_memory() -> None:
    store, begin, versions = MemoryBackend().instances, threading.Barrier(4), []

    def worker(holder: str) -> None:
        begin.wait()
        for turn in range(300):
            store.register(instance(f"i{turn % 3}"), holder=holder)
            found = store.read(SERVICE)
            assert found is not None
            versions.append(found.version)
            store.unregister(SERVICE, f"i{turn % 3}", holder=holder)

    threads = [threading.Thread(target=worker, args=(f"h{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = store.read(SERVICE)
    assert found is not None
    assert found.instances == []
    assert store.figures() == {}
    assert found.version > max(versions)


def test_what_a_caller_does_with_its_metadata_later_changes_no_list() -> None:
    store, metadata = MemoryBackend().instances, {"zone": "a"}
    store.register(instance(metadata=metadata), holder="h")
    metadata["zone"] = "b"
    found = store.read(SERVICE)
    assert found is not None
    assert found.instances[0].metadata == {"zone": "a"}
    assert store.register(instance(metadata=metadata), holder="h")


def test_holders_have_a_bound_in_memory() -> None:
    store = MemoryBackend().instances
    for number in range(MOST_HOLDERS):
        store.register(instance(), holder=f"h{number}")
    with pytest.raises(StoreError, match="10000 holders"):
        store.register(instance(), holder="one more")
    assert not store.register(instance(), holder="h0")


# Redis alone


def keys_of(backend: RedisBackend) -> list[str]:
    tag = f"{backend.instances._prefix}{{instances:{SERVICE}}}:"
    return [tag + name for name in ("head", "rows", "ends", "holders")]


@pytest.mark.asyncio
async def test_holders_have_a_bound_in_redis(backends: list[RedisBackend]) -> None:
    store = backends[0].instances
    for begun in range(0, MOST_HOLDERS, 500):
        for asked in [store.register(instance(), holder=f"h{number}") for number in range(begun, begun + 500)]:
            await asked
    with pytest.raises(StoreError, match="10000 holders"):
        await registered(store, instance(), holder="one more")
    await shift(backends[0], 1.1 * TTL)
    assert await names(store) == []


@pytest.mark.asyncio
async def test_a_list_has_four_keys_of_one_slot_that_outlive_it_by_a_day(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    await registered(backend.instances, instance())
    await registered(backend.instances, instance("b", ttl=1.0))
    keys = sorted(key.decode() for key in await backend.link.ask("KEYS", f"{backend.instances._prefix}*instances*"))
    assert keys == sorted([*keys_of(backend), f"{backend.instances._prefix}{{instances}}"])
    for key in keys_of(backend):
        assert 0.9 * TTL < await backend.link.ask("TTL", key) - 86_400 <= TTL


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", range(4))
async def test_a_list_that_lost_a_key_begins_anew_with_the_next_heartbeat(
    backends: list[RedisBackend], lost: int
) -> None:
    backend, store = backends[0], backends[0].instances
    await registered(store, instance("a"))
    await registered(store, instance("b"))
    before = await listed(store)
    for garbage in (None, ("SET", "a text"), ("RPUSH", "a list"), ("SADD", "a set")):
        key = keys_of(backend)[lost]
        await backend.link.ask("DEL", key)
        if garbage is not None:
            await backend.link.ask(garbage[0], key, garbage[1])
        assert await listed(store) == (0, 0, [])
        assert not await unregistered(store, "a")
        assert await registered(store, instance("b"))
        after = await listed(store)
        assert [each.name for each in after.instances] == ["b"]
        assert after.begun > before.version
        assert await registered(store, instance("a"))
        before = await listed(store)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "row", [b"", b"7", b"7 nan 1 http://x {}", b"7 1000 1 http://x {", b"7 1000 1 \xff {}", b"7 1000 one http://x 5"]
)
async def test_a_row_of_another_shape_is_left_out_and_the_others_stay(
    backends: list[RedisBackend], row: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a newer version, or of somebody who writes there by hand."""
    backend, store = backends[0], backends[0].instances
    await registered(store, instance("a"))
    await registered(store, instance("b"))
    await backend.link.ask("HSET", keys_of(backend)[1], "a", row)
    assert await names(store) == ["b"]
    assert backend.link.up
    assert "can't be read" in caplog.text
    assert await registered(store, instance("a"))
    assert await names(store) == ["a", "b"]


@pytest.mark.asyncio
async def test_a_heartbeat_and_a_look_at_what_has_not_changed_are_one_small_command_each(
    backends: list[RedisBackend], redis_server: RedisServer
) -> None:
    backend = backends[0]
    asked: list[str] = []
    await registered(backend.instances, instance())
    version = (await listed(backend.instances)).version
    put = backend.link.put
    backend.link.put = lambda command, sink: (asked.append(str(command[0])), put(command, sink))[1]  # type: ignore[method-assign]
    assert await read(backend.instances, since=version) is None
    assert asked == ["EVALSHA"]
    await registered(backend.instances, instance())
    assert asked == ["EVALSHA"] * 3  # one of them for the figures
    redis_server.command("SCRIPT", "FLUSH")
    assert await read(backend.instances, since=version) is None
    assert asked[3:] == ["EVALSHA", "EVAL"]
    assert await figures(backend.instances) == {SERVICE: 1}


@pytest.mark.asyncio
async def test_every_question_is_refused_while_redis_is_away_and_an_emptied_one_begins_anew(
    own_redis: RedisServer,
) -> None:
    async with workers(own_redis.url, deadline=0.2) as backends:
        store = backends[0].instances
        await registered(store, instance())
        before = await listed(store)
        own_redis.freeze()
        with pytest.raises(StoreUnavailable):
            await read(store)
        own_redis.thaw()
        await poll(lambda: backends[0].link.up)
        assert await listed(store) == before
        own_redis.kill()
        await poll(lambda: not backends[0].link.up)
        with pytest.raises(StoreUnavailable):
            await registered(store, instance())
        own_redis.start()
        await poll(lambda: backends[0].link.up)
        assert await read(store, since=before.version) == (0, 0, [])
        assert await registered(store, instance())
        after = await listed(store)
        assert after.begun > before.version
