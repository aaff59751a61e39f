"""From a verdict to where an item is kept: what was promised lasts, and what was deleted stays so."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from tests.files.houses import FileState, file_state, local
from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.state.flusher import StateFlusher
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.contracts import Item, Tier
from traffic_cop_middleware.errors import StoreError

pytestmark = pytest.mark.asyncio


class Will:
    """A hook that says what the test says."""

    def __init__(self) -> None:
        self.tier: Tier = "delayed"
        self.reason = "the test says so"
        self.failure: Exception | None = None
        self.asked: list[str] = []

    def __call__(self, item: StateItem, verdict: Verdict) -> Verdict:
        self.asked.append(item.key)
        if self.failure is not None and item.key == "poison":
            raise self.failure
        return verdict.at_least(self.tier).at_most(self.tier, self.reason)


@pytest.fixture
def will() -> Will:
    return Will()


@pytest_asyncio.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
async def house(request: pytest.FixtureRequest, tmp_path: Path, will: Will) -> AsyncIterator[FileState]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_server").url
    async with file_state(url, *local(tmp_path), promotion=PromotionSettings(), hooks=[will]) as each:
        yield each


async def kept(house: FileState, key: str) -> Item | None:
    """What the documents have, and no outbox: that is flushed."""
    await house.flush()
    (found,) = await house.stores.documents.load((house.state._key("order", key),))
    return found


async def judge(house: FileState, key: str, trigger: Any = "schedule") -> int:
    assert house.house.rejudging is not None
    return await house.house.rejudging.judge([house.state._key("order", key)], trigger=trigger)


async def come_down(house: FileState, will: Will, key: str = "7") -> None:
    """An item that the documents have, and that was judged to be worth the cache only since."""
    await house.state.put("order", key, {"n": 1})
    await house.flush()
    will.tier = "cache"
    assert await judge(house, key) == 1
    held = await house.state.get("order", key)
    assert held is not None
    assert held.tier == "cache"


async def test_what_came_down_and_was_deleted_does_not_come_back(house: FileState, will: Will) -> None:
    await come_down(house, will)
    assert await house.state.delete("order", "7")
    found = await kept(house, "7")
    assert found is not None
    assert found.value is None


async def test_what_came_down_and_was_written_leaves_the_documents(house: FileState, will: Will) -> None:
    for key, tier in (("7", "cache"), ("8", None)):
        will.tier = "delayed"
        await come_down(house, will, key)
        await house.state.put("order", key, {"n": 2}, tier=tier)  # type: ignore[arg-type]
        found = await kept(house, key)
        assert found is not None
        assert found.value is None


async def test_what_goes_up_again_without_being_written_is_in_the_documents(house: FileState, will: Will) -> None:
    await house.state.put("order", "7", {"n": 1})
    await house.flush()
    will.tier = "cache"
    item = await house.state.put("order", "7", {"n": 2})
    found = await kept(house, "7")
    assert found is not None
    assert (found.version, found.value) == (item.version, None)
    for tier in ("immediate", "delayed"):
        will.tier = tier  # type: ignore[assignment]
        assert await judge(house, "7") == 1
        found = await kept(house, "7")
        assert found is not None
        assert (found.version, found.value, found.tier) == (item.version, '{"n":2}', tier)


async def test_what_is_asked_for_is_promoted_also_where_only_the_documents_have_it(
    house: FileState, will: Will
) -> None:
    await house.state.put("order", "7", {"n": 1})
    await house.flush()
    key = house.state._key("order", "7")
    held = await house.state.get("order", "7")
    assert held is not None
    await answered(house.stores.state.forget(key, version=held.version))
    will.tier = "immediate"
    promoted = await house.state.promote("order", "7")
    assert promoted is not None
    assert promoted.tier == "immediate"
    (found,) = await house.stores.documents.load((key,))
    assert found is not None
    assert found.tier == "immediate"


@pytest.mark.parametrize("reason", ["long " * 10_000, "odd \udc80", "nul \0"], ids=["long", "odd", "nul"])
async def test_whatever_reason_a_hook_gives_the_item_is_kept(house: FileState, will: Will, reason: str) -> None:
    will.reason = reason
    await house.state.put("order", "7", "x" * 300_000)
    await house.state.put("order", "8", "small")
    await house.flush()
    for key in ("7", "8"):
        found = await kept(house, key)
        assert found is not None
        assert found.value is not None
    (file,) = await house.files.of_item("order", "7")
    assert file.status == "done"
    assert await house.files.history("order", "7")
    assert await house.files.history("order", "8")


async def test_an_item_that_can_not_be_shaped_holds_up_no_other_and_is_buried(house: FileState, will: Will) -> None:
    promoter = house.house.promoter
    assert promoter is not None
    assert house.house.judge is not None
    whole = house.house.judge.judge

    async def stumbles(item: Item, **asked: Any) -> Verdict:
        if item.key.key == "poison":
            raise RuntimeError("nobody thought of that")
        return await whole(item, **asked)

    house.house.judge.judge = stumbles  # type: ignore[method-assign,assignment]
    await house.state.put("order", "poison", 1)
    await house.state.put("order", "7", 1)
    outbox = house.stores.state.outbox or house.stores.documents.outbox
    assert outbox is not None
    flusher = StateFlusher(outbox, house.stores.documents, promoter, emit=house.emit, idle=0.0)
    for _ in range(10):
        with contextlib.suppress(StoreError):
            await flusher.flush()
    found = await house.stores.documents.load([house.state._key("order", "7")])
    assert found[0] is not None
    ((entry, reason),) = await outbox.dead()
    assert entry.item.key.key == "poison"
    assert "nobody thought of that" in reason


async def test_bytes_from_which_on_there_are_files_hold_for_an_item_whose_tier_is_named(
    tmp_path: Path,
) -> None:
    settings = PromotionSettings(file_bytes=1000)
    async with file_state("memory://", *local(tmp_path), promotion=settings) as house:
        await house.state.put("order", "7", "x" * 2000, tier="immediate")
        (file,) = await house.files.of_item("order", "7")
        (found,) = await house.stores.documents.load([house.state._key("order", "7")])
        assert found is not None
        assert found.value is not None
        assert file.id in found.value


async def test_metadata_that_hangs_holds_up_no_state(house: FileState, will: Will) -> None:
    """What it would have told is only of help to a verdict, and for people."""
    asked = 0

    async def hangs(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        await anyio.sleep_forever()

    for name in ("usage", "note", "saw"):
        setattr(house.stores.metadata, name, hangs)
    for number in range(100):
        await house.state.put("order", f"{number}", number)
    with anyio.fail_after(20):
        await house.flush()
    found = await house.stores.documents.load([house.state._key("order", f"{number}") for number in range(100)])
    assert all(item is not None and item.value is not None for item in found)
    assert asked <= 40
    assert "promotion.not_noted" in house.kinds()


async def test_files_that_hang_hold_up_no_other_state(house: FileState) -> None:
    async def hangs(*_: Any, **__: Any) -> Any:
        await anyio.sleep_forever()

    create = house.stores.objects.create
    house.stores.objects.create = hangs  # type: ignore[method-assign]
    for number in range(4):
        await house.state.put("order", f"large {number}", "x" * 300_000, tier="delayed")
        await house.state.put("order", f"{number}", number, tier="delayed")
    keys = [house.state._key("order", f"{number}") for number in range(4)]

    history = house.stores.documents.history
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.flush)
            for key in keys:
                while not await history(key):  # noqa: ASYNC110 - another task keeps it
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    house.stores.objects.create = create  # type: ignore[method-assign]
    await house.flush()
    for number in range(4):
        assert len(await house.files.of_item("order", f"large {number}")) == 1
