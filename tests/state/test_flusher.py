"""Whatever happens between the outbox and the documents: every item gets there, at its newest version."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.load import poll
from tests.servers import RedisServer
from tests.state.flush_worker import STEPS
from tests.state.houses import House, on_redis, sqlite_at
from traffic_cop_middleware.abstractions.promotion.promoter import StatePromoter
from traffic_cop_middleware.abstractions.state import flusher as module
from traffic_cop_middleware.abstractions.state.flusher import StateFlusher
from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

ROOT = Path(__file__).parent.parent.parent


def keys(number: int) -> list[StateKey]:
    return [StateKey("", "a", f"k{each:02d}") for each in range(number)]


async def written(house: House, count: int = 20) -> dict[StateKey, int]:
    """Items that wait, each written several times; the version that each must get to."""
    versions = {}
    for turn in range(3):
        for key in keys(count):
            versions[key] = (await house.state.put("a", key.key, [turn, key.key], tier="delayed")).version
    return versions


def promoter_of(house: House) -> StatePromoter:
    assert house.house.promoter is not None
    return house.house.promoter


async def flush(house: House) -> int:
    """What waits, also what somebody else had claimed."""
    outbox = house.store.outbox
    assert outbox is not None
    return await StateFlusher(outbox, house.documents, promoter_of(house), emit=lambda *_: None, idle=0.0).flush()


async def kept(house: House, versions: dict[StateKey, int]) -> dict[StateKey, int]:
    found = await house.documents.load(list(versions))
    return {item.key: item.version for item in found if item is not None}


@pytest.mark.parametrize("step", STEPS)
async def test_a_flusher_that_is_killed_leaves_all_to_the_next_one(
    step: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    async with on_redis(redis_server.url, path) as house:
        versions = await written(house)
        command = [sys.executable, "-m", "tests.state.flush_worker", redis_server.url, str(path), step]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=subprocess.PIPE)
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == -signal.SIGKILL, said
        later = await house.state.put("a", "k00", "later", tier="delayed")
        versions[StateKey("", "a", "k00")] = later.version
        await flush(house)
        assert await kept(house, versions) == versions
        outbox = house.store.outbox
        assert outbox is not None
        assert await outbox.waiting() == 0


async def test_several_flushers_at_once_leave_nothing_and_turn_nothing_back(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    async with on_redis(redis_server.url, path) as one, on_redis(redis_server.url, path) as other:
        writing = asyncio.create_task(written(one))
        while not writing.done():
            await asyncio.gather(flush(one), flush(other))
        versions = await writing
        await flush(one)
        assert await kept(one, versions) == versions


class Refusing:
    """Documents that refuse some keys, or all for a while."""

    durable = True

    def __init__(self, inner: Any, *, refuses: Sequence[str] = (), away: int = 0) -> None:
        self._inner = inner
        self._refuses = refuses
        self.away = away
        self.asked = 0

    async def store(self, items: Sequence[Item]) -> Any:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise StoreUnavailable("the documents are away")
        if any(item.key.key in self._refuses for item in items):
            raise StoreError("that is refused")
        return await self._inner.store(items)


async def test_an_item_that_the_documents_refuse_holds_up_no_other_and_is_buried_with_the_reason(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_redis(redis_server.url, tmp_path / "state.db") as house:
        versions = await written(house)
        outbox = house.store.outbox
        assert outbox is not None
        told: list[str] = []
        documents: Any = Refusing(house.documents, refuses=["k07"])
        flusher = StateFlusher(outbox, documents, promoter_of(house), emit=lambda kind, _: told.append(kind), idle=0.0)
        refused = StateKey("", "a", "k07")
        for _ in range(3 * module.TRIES):
            with contextlib.suppress(StoreError):
                await flusher.flush()
        dead = await outbox.dead()
        assert {entry.item.key for entry, _ in dead} == {refused}
        assert all(reason == "that is refused" for _, reason in dead)
        assert "state.buried" in told
        assert "a/k07 can't be kept" in caplog.text
        assert (await kept(house, versions)).keys() == versions.keys() - {refused}
        assert await outbox.revive([entry.id for entry, _ in dead]) == len(dead)
        await flush(house)
        assert await kept(house, versions) == versions


async def test_an_outage_counts_for_no_refusal(redis_server: RedisServer, tmp_path: Path) -> None:
    async with on_redis(redis_server.url, tmp_path / "state.db") as house:
        await written(house)
        outbox = house.store.outbox
        assert outbox is not None
        documents: Any = Refusing(house.documents, away=3 * module.TRIES, refuses=["k07"])
        flusher = StateFlusher(outbox, documents, promoter_of(house), emit=lambda *_: None, idle=0.0)
        for _ in range(3 * module.TRIES):
            with pytest.raises(StoreUnavailable):
                await flusher.flush()
        with contextlib.suppress(StoreError):
            await flusher.flush()
        assert await outbox.dead() == []


async def test_an_outage_of_the_documents_buries_nothing_however_long_it_lasts(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(module, "PAUSE_LONGEST", 0.001)
    async with on_redis(redis_server.url, tmp_path / "state.db") as house:
        versions = await written(house)
        outbox = house.store.outbox
        assert outbox is not None
        documents: Any = Refusing(house.documents, away=3 * module.TRIES)
        flusher = StateFlusher(outbox, documents, promoter_of(house), emit=lambda *_: None, idle=0.0, period=0.001)
        running = asyncio.create_task(flusher.run())
        await poll(lambda: "is flushed again" in caplog.text or running.done())
        assert await kept(house, versions) == versions
        assert await outbox.dead() == []
        running.cancel()
        await asyncio.wait([running])
        assert caplog.text.count("can't be flushed") == 1
        assert caplog.text.count("is flushed again") == 1


async def test_an_item_with_an_end_does_not_end_before_it_is_flushed_and_ends_then(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with on_redis(redis_server.url, tmp_path / "state.db") as house:
        put = await house.state.put("a", "b", 1, tier="delayed", ttl=0.2)
        await asyncio.sleep(0.4)  # past its end, on the server's own clock
        assert await house.state.get("a", "b") is None
        assert await flush(house) == 1
        revisions = await house.documents.history(StateKey("", "a", "b"))
        assert [each.item.version for each in revisions] == [put.version]


async def test_a_file_of_documents_is_the_same_for_who_opens_it_next(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with on_redis(redis_server.url, path) as house:
        versions = await written(house)
        await house.house.end(within=30)
    documents = sqlite_at(path)
    await documents.connect()
    found = await documents.load(list(versions))
    await documents.close()
    assert {item.key: item.version for item in found if item is not None} == versions
