"""The contract suite of `RecordStore` on every adapter (memory, fakeredis, real Redis), and what holds for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
import trio

from tests.adapters.crews import workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import records as redis_records
from traffic_cop_middleware.contracts import Changes, RecordStore
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.testing import RecordStoreContract
from traffic_cop_middleware.testing.record_contract import Follower, changed, read, written


class TestMemory(RecordStoreContract):
    @pytest.fixture
    def stores(self) -> Sequence[RecordStore]:
        return [MemoryBackend().records]


class TestFakeRedis(RecordStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, fake_redis_url: str) -> AsyncIterator[Sequence[RecordStore]]:
        async with workers(fake_redis_url) as backends:
            yield [backend.records for backend in backends]


class TestRedis(RecordStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, redis_server: RedisServer) -> AsyncIterator[Sequence[RecordStore]]:
        async with workers(redis_server.url) as backends:
            yield [backend.records for backend in backends]


# Memory alone


def test_memory_answers_at_once_on_trio() -> None:
    async def scenario() -> Changes:
        store = MemoryBackend().records
        store.change("routes", {"a": "1"}, at=0)
        return store.read("routes")

    assert trio.run(scenario).records[0][::2] == ("a", "1")


def test_threads_that_share_records_in_memory_lose_no_change() -> None:
    store, begin = MemoryBackend().records, threading.Barrier(4)
    lost = [0, 0, 0, 0]

    def writer(number: int) -> None:
        begin.wait()
        for turn in range(250):
            while True:
                changes = store.read("routes")
                total = {record.name: record.value for record in changes.records}.get("total") or "0"
                values: dict[str, str | None] = {"total": str(int(total) + 1), f"{number} {turn}": "1"}
                if store.change("routes", values, at=changes.version) is not None:
                    break
                lost[number] += 1
                assert lost[number] < 1_000_000

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    content = {record.name: record.value for record in store.read("routes").records}
    assert content["total"] == "1000"
    assert len(content) == 1001


# Redis alone


def keys_of(backend: RedisBackend) -> list[str]:
    return backend.records._keys("routes")


@pytest.mark.asyncio
async def test_all_keys_of_a_kind_share_a_slot_and_begin_with_the_namespace(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    await written(backend.records, {"a": "1", "b": "1"})
    await written(backend.records, {"b": None})
    keys = [key.decode() for key in await backend.link.ask("KEYS", "*{records:routes}*")]
    assert sorted(keys) == sorted(keys_of(backend))
    assert all(key.startswith("crew-") and key.split(":", 1)[1].startswith("{records:routes}:") for key in keys)
    assert [await backend.link.ask("TTL", key) for key in keys] == [-1] * 5


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", range(4))
@pytest.mark.parametrize("garbage", [None, ("SET", "a text"), ("RPUSH", "a list"), ("HSET", "a", "1")])
async def test_a_collection_that_lost_a_part_is_as_good_as_lost_and_the_next_change_begins_anew(
    backends: list[RedisBackend], lost: int, garbage: tuple[str, ...] | None
) -> None:
    backend, follower = backends[0], Follower(backends[1].records)
    store, key = backend.records, keys_of(backend)[lost]
    await written(store, {"a": "1", "b": "1", "c": "1"})
    before = await written(store, {"c": None})
    await follower.follow()
    await backend.link.ask("DEL", key)
    if garbage is not None:
        command, *values = garbage
        await backend.link.ask(command, key, *values)
    assert await read(store, since=before) == (0, [], True)
    assert await changed(store, {"d": "1"}, at=before) is None
    after = await changed(store, {"d": "1"}, at=0)
    assert after is not None
    assert after > before
    await follower.follow()
    assert follower.values == {"d": "1"}
    assert await backend.link.ask("TYPE", key) in (b"string", b"zset", b"hash", b"none")


@pytest.mark.asyncio
@pytest.mark.parametrize("garbage", [None, ("SET", "a text")])
async def test_lost_versions_cost_a_whole_read_and_nothing_else(
    backends: list[RedisBackend], garbage: tuple[str, ...] | None
) -> None:
    backend, follower = backends[0], Follower(backends[1].records)
    store, key = backend.records, keys_of(backend)[4]
    await written(store, {"a": "1", "b": "1"})
    await follower.follow()
    await backend.link.ask("DEL", key)
    if garbage is not None:
        await backend.link.ask(garbage[0], key, garbage[1])
    assert (await follower.follow()).whole is False
    await written(store, {"b": None})
    assert (await follower.follow()).whole
    assert follower.values == {"a": "1"}
    await written(store, {"c": "1"})
    assert not (await follower.follow()).whole
    assert follower.values == {"a": "1", "c": "1"}


@pytest.mark.asyncio
async def test_who_knows_what_a_fail_over_has_lost_reads_all(backends: list[RedisBackend]) -> None:
    backend, follower = backends[0], Follower(backends[1].records)
    store, keys = backend.records, keys_of(backend)
    await written(store, {"a": "1", "b": "1"})
    replica = [await backend.link.ask("DUMP", key) for key in keys]
    await written(store, {"a": "lost", "b": None, "c": "lost"})
    await follower.follow()
    for key, dump in zip(keys, replica, strict=True):
        await backend.link.ask("DEL", key)
        if dump is not None:
            await backend.link.ask("RESTORE", key, 0, dump)
    await written(store, {"d": "1"})
    assert (await follower.follow()).whole
    assert follower.values == {"a": "1", "b": "1", "d": "1"}


@pytest.mark.asyncio
async def test_an_emptied_store_is_followed_with_versions_that_were_never_used(
    backends: list[RedisBackend], redis_server: RedisServer
) -> None:
    store, follower = backends[0].records, Follower(backends[1].records)
    before = [await written(store, {"a": "1", "b": "1"}) for _ in range(5)]
    await follower.follow()
    redis_server.command("FLUSHALL")
    assert await follower.follow() == (0, [], True)
    assert follower.values == {}
    follower.version = before[-1]
    after = [await written(store, {"c": "1"}) for _ in range(5)]
    assert (await follower.follow()).whole
    assert follower.values == {"c": "1"}
    assert max(before) < min(after)


@pytest.mark.asyncio
async def test_what_is_remembered_of_the_past_is_bounded(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    store = backend.records
    for turn in range(3):
        names = [f"{turn} {number}" for number in range(800)]
        await written(store, dict.fromkeys(names, "1"))
        await written(store, dict.fromkeys(names))
    for turn in range(1_100):
        store.change("routes", {"a": str(turn)}, at=None)
    await read(store)
    _, order, values, gone, versions = keys_of(backend)
    assert await backend.link.ask("ZCARD", gone) == redis_records.MOST_GONE
    assert await backend.link.ask("ZCARD", order) == redis_records.MOST_GONE + 1
    assert await backend.link.ask("ZCARD", versions) == redis_records.MOST_VERSIONS
    assert await backend.link.ask("HLEN", values) == 1


@pytest.mark.asyncio
async def test_a_small_change_of_many_records_is_one_small_reply(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    store = backend.records
    for start in range(0, 20_000, 1_000):
        await written(store, {f"r{number}": "x" * 100 for number in range(start, start + 1_000)})
    known = await written(store, {"r1": "new"})
    version = await written(store, {"r2": "new"})
    asked = store._page("routes", known, known, known)
    assert await asked == [version, 0, 0, b"r2", version, b"new"]


@pytest.mark.asyncio
async def test_large_records_are_read_in_pages_that_end_with_a_version(backends: list[RedisBackend]) -> None:
    store = backends[0].records
    content: dict[str, str | None] = {}
    for turn in range(12):
        values: dict[str, str | None] = {
            f"{turn} {number}": str(turn % 10) * 60_000 for number in range(turn % 4 * 4 + 1)
        }
        await written(store, values)
        content |= values
    after, ends, pages = 0, 0, 0
    while True:
        version, _, further, *flat = await store._page("routes", after, ends, ends)
        pages += 1
        assert sum(map(len, flat[2::3])) <= redis_records.PAGE_BYTES + 2**20
        if not further:
            break
        assert further == flat[-2]
        after, ends = further, version
    assert pages >= 8
    follower = Follower(store)
    await follower.follow()
    assert follower.values == content


@pytest.mark.asyncio
async def test_a_read_during_which_all_is_lost_gives_what_there_is_then(
    backends: list[RedisBackend], redis_server: RedisServer
) -> None:
    store = backends[0].records
    for start in range(0, 5_000, 1_000):
        await written(store, {f"r{number}": "1" for number in range(start, start + 1_000)})
    reading = asyncio.ensure_future(read(store))
    await asyncio.sleep(0)
    redis_server.command("FLUSHALL")
    version = await written(backends[1].records, {"new": "1"})
    changes = await reading
    if changes.version == version:
        assert [record.name for record in changes.records] == ["new"]
    else:
        assert changes == (0, [], True) or len(changes.records) == 5_000


@pytest.mark.asyncio
async def test_a_reader_whose_versions_are_forgotten_again_and_again_gives_up(
    backends: list[RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_records, "PAGE", 1)
    monkeypatch.setattr(redis_records, "MOST_TURNS", 3)
    backend = backends[0]
    store, versions = backend.records, keys_of(backend)[4]
    for turn in range(5):
        await written(store, {f"r{turn}": "1"})
    page = store._page
    turns = 0

    def forgetting(kind: str, after: int, begun_with: int, told: int) -> asyncio.Future[object]:
        nonlocal turns
        turns += 1
        if turns % 2 == 0:
            backend.link.ask("DEL", versions)
            store.change("routes", {f"more {turns}": "1"}, at=None)
            backend.link.ask("DEL", versions)
        return page(kind, after, begun_with, told)

    monkeypatch.setattr(store, "_page", forgetting)
    with pytest.raises(StoreError, match="the records 'routes' change faster than they can be read"):
        await read(store)
    assert turns < 20


@pytest.mark.asyncio
async def test_every_question_is_refused_while_redis_is_away(own_redis: RedisServer) -> None:
    async with workers(own_redis.url) as backends:
        store = backends[0].records
        own_redis.kill()
        await poll(lambda: not backends[0].link.up)
        with pytest.raises(StoreUnavailable):
            await changed(store, {"a": "1"})
        with pytest.raises(StoreUnavailable):
            await read(store)


@pytest.mark.asyncio
async def test_a_frozen_redis_fails_a_read_in_the_middle_and_a_killed_one_is_followed_anew(
    own_redis: RedisServer,
) -> None:
    async with workers(own_redis.url, deadline=0.2) as backends:
        store, follower = backends[0].records, Follower(backends[1].records)
        for start in range(0, 3_000, 1_000):
            await written(store, {f"r{number}": "1" for number in range(start, start + 1_000)})
        await follower.follow()
        own_redis.freeze()
        change, reading = changed(store, {"r1": "frozen"}), read(store)
        for asked in (change, reading):
            with pytest.raises(StoreUnavailable):
                await asked
        own_redis.thaw()
        await poll(lambda: all(backend.link.up for backend in backends))
        # It still has the change before it, on the connection that was given up: that may come after a look at it.
        there = Follower(store)
        async with asyncio.timeout(30):
            while not there.content or follower.content != there.content:
                await follower.follow()
                await there.follow()
        assert len(there.content) == 3_000

        known = follower.version
        own_redis.kill()
        await poll(lambda: not any(backend.link.up for backend in backends))
        own_redis.start()
        await poll(lambda: all(backend.link.up for backend in backends))
        version = await written(store, {"r1": "after"})
        assert version > known
        assert (await follower.follow()).whole
        assert follower.values == {"r1": "after"}
