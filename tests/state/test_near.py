"""What a worker keeps near is what the others wrote, and its own writes it sees at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.load import poll
from tests.servers import RedisServer
from tests.state.houses import House, on_memory, on_redis
from traffic_cop_middleware.abstractions.state.near_cache import NearCache
from traffic_cop_middleware.abstractions.state.reading import StateReader
from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreUnavailable

pytestmark = pytest.mark.asyncio

KEY = StateKey("", "a", "b")


def item(version: int, *, expires_at: float | None = None) -> Item:
    return Item(KEY, version, str(version), "cache", 0.0, expires_at)


async def test_news_that_come_before_the_answer_keep_it_from_being_kept() -> None:
    near = NearCache(most=10, now=lambda: 0.0)
    fill = near.asking([KEY])
    near.heard([KEY])
    near.answered(fill, {KEY: item(1)})
    assert KEY not in near
    fill = near.asking([KEY])
    near.heard(None)
    near.answered(fill, {KEY: item(1)})
    assert KEY not in near
    fill = near.asking([KEY])
    near.heard([StateKey("", "a", "other")])
    near.answered(fill, {KEY: item(2)})
    assert near.find(KEY) == item(2)
    near.heard(None)
    assert KEY not in near


async def test_the_least_recently_used_go_first_and_what_expired_is_not_given() -> None:
    now = [0.0]
    near = NearCache(most=2, now=lambda: now[0])
    keys = [StateKey("", "a", str(number)) for number in range(3)]
    for key in keys[:2]:
        near.answered(near.asking([key]), {key: item(1, expires_at=5.0)})
    assert near.find(keys[0]) is not None
    near.answered(near.asking([keys[2]]), {keys[2]: None})
    assert [key in near for key in keys] == [True, False, True]
    now[0] = 5.0
    assert [key in near for key in keys] == [False, False, True]


class Slow:
    """A store that answers when it is told to."""

    shared = True
    outbox = None

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []

    def load(self, keys: Any) -> Any:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def invalidations(self, heard: Any) -> Any:
        return lambda: None


def reader_of(store: Any) -> StateReader:
    return StateReader(store, None, now=time.time, clock=time.monotonic, most=10)


async def test_readers_of_one_item_share_one_question_and_one_answer() -> None:
    store = Slow()
    reader = reader_of(store)
    asking = [asyncio.create_task(reader.one(KEY, strong=False)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(store.asked) == 1
    store.asked[0].set_result([item(1)])
    assert await asyncio.gather(*asking) == [item(1)] * 20
    assert await reader.one(KEY, strong=False) == item(1)
    assert len(store.asked) == 1


async def test_who_asks_after_an_own_write_does_not_get_what_was_asked_before_it() -> None:
    store = Slow()
    reader = reader_of(store)
    before = asyncio.create_task(reader.one(KEY, strong=False))
    await asyncio.sleep(0)
    reader.wrote(KEY)
    after = asyncio.create_task(reader.one(KEY, strong=False))
    await asyncio.sleep(0)
    assert len(store.asked) == 2
    store.asked[1].set_result([item(2)])
    assert await after == item(2)
    store.asked[0].set_result([item(1)])
    assert await before == item(1)
    assert await reader.one(KEY, strong=False) == item(2)


async def test_a_reader_that_gives_up_leaves_the_others_to_ask_again_and_a_failure_is_told_to_all() -> None:
    store = Slow()
    reader = reader_of(store)
    first = asyncio.create_task(reader.one(KEY, strong=False))
    await asyncio.sleep(0)
    others = [asyncio.create_task(reader.one(KEY, strong=False)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(store.asked) == 2
    store.asked[1].set_exception(StoreUnavailable("away"))
    outcomes = await asyncio.gather(*others, return_exceptions=True)
    assert all("away" in str(outcome) for outcome in outcomes)


async def test_that_the_documents_have_nothing_is_remembered_until_it_is_written(tmp_path: Path) -> None:
    async with on_memory(tmp_path / "state.db") as house:
        asked: list[Any] = []
        load = house.documents.load

        async def counted(keys: Any) -> Any:
            asked.append(keys)
            return await load(keys)

        house.documents.load = counted  # type: ignore[method-assign]
        for _ in range(5):
            assert await house.state.get("a", "b") is None
        assert len(asked) == 1
        assert await house.state.get("a", "b", consistency="strong") is None
        assert len(asked) == 2
        await house.state.put("a", "b", 1, tier="immediate")
        assert await house.state.get("a", "b") is not None


async def near(house: House, key: str) -> bool:
    cache = house.house.reader.near
    assert cache is not None
    return StateKey("", "a", key) in cache


@pytest.mark.redis_server
async def test_what_another_worker_writes_is_seen_and_what_nobody_writes_costs_nothing(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with on_redis(redis_server.url) as here, on_redis(redis_server.url) as there:
        for number in range(100):
            put = await there.state.put("a", "b", number)
            end = time.monotonic() + 30
            while True:
                got = await here.state.get("a", "b")
                if got is not None and got.version == put.version:
                    break
                assert time.monotonic() < end
                await asyncio.sleep(0.001)
            strong = await here.state.get("a", "b", consistency="strong")
            assert strong is not None
            assert strong.version == put.version

        async def is_near() -> bool:
            await here.state.get("a", "b")
            return await near(here, "b")

        end = time.monotonic() + 30
        while not await is_near():
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        calls = redis_server.command("INFO", "commandstats")
        for _ in range(100):
            await here.state.get("a", "b")
        assert _loads(redis_server.command("INFO", "commandstats")) - _loads(calls) <= 5  # the workers' own


def _loads(stats: Any) -> int:
    text = stats if isinstance(stats, str) else stats.decode()
    return sum(
        int(line.partition("calls=")[2].partition(",")[0])
        for line in text.splitlines()
        if line.startswith(("cmdstat_hgetall", "cmdstat_hmget", "cmdstat_get:", "cmdstat_mget"))
    )


@pytest.mark.redis_server
async def test_when_the_connection_that_tells_is_cut_nothing_old_is_given(redis_server: RedisServer) -> None:
    async with on_redis(redis_server.url) as here, on_redis(redis_server.url) as there:
        await there.state.put("a", "b", "old")
        end = time.monotonic() + 30
        while not await near(here, "b"):
            await here.state.get("a", "b")
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        redis_server.command("CLIENT", "KILL", "TYPE", "pubsub")
        put = await there.state.put("a", "b", "new")
        begun = time.monotonic()

        async def seen() -> bool:
            got = await here.state.get("a", "b")
            return got is not None and got.version == put.version

        while not await seen():
            assert time.monotonic() - begun < 30
            await asyncio.sleep(0.005)
        await poll(lambda: True)


@pytest.mark.redis_server
async def test_a_worker_always_sees_its_own_writes(redis_server: RedisServer) -> None:
    async with on_redis(redis_server.url) as house:
        for number in range(200):
            put, *_ = await asyncio.gather(
                house.state.put("a", "b", number), *(house.state.get("a", "b") for _ in range(3))
            )
            got = await house.state.get("a", "b")
            assert got is not None
            assert got.version >= put.version
