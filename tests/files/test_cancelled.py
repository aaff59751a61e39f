"""Whoever asks for a file and leaves, at whatever step: what is there stays whole, and who asks again gets it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.files.houses import FileState, file_state, local
from tests.files.saga_worker import NO_CALLS
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.contracts.state import is_pointer
from traffic_cop_middleware.errors import ConfigurationError

pytestmark = pytest.mark.asyncio

LARGE = "x" * 300_000
KEYS = ("q3", "q4")
MOST_STEPS = 200


class Leaving:
    """Stands in front of the methods of stores; the call of a number is left, before or after it is made."""

    def __init__(self, house: FileState, number: int, *, before: bool) -> None:
        self._left = number
        self._before = before
        self._scope = anyio.CancelScope()
        stores: Any = house.stores
        self._undone: list[tuple[Any, str, Any]] = []
        for store in (stores.documents, stores.objects, stores.metadata, stores.documents.outbox):
            for name in dir(type(store)):
                found = getattr(store, name)
                if not name.startswith("_") and name not in NO_CALLS and asyncio.iscoroutinefunction(found):
                    self._undone.append((store, name, found))

    async def run(self, work: Callable[[], Awaitable[Any]]) -> bool:
        """Whether it was left."""
        for store, name, found in self._undone:
            setattr(store, name, self._left_at(found))
        try:
            with self._scope:
                await work()
        finally:
            for store, name, _ in self._undone:
                delattr(store, name)
        return self._scope.cancelled_caught

    def _left_at(self, found: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and self._before:
                self._scope.cancel()
                await anyio.lowlevel.checkpoint()
            answer = await found(*args, **kwargs)
            if self._left == 0:
                self._scope.cancel()
                await anyio.lowlevel.checkpoint()
            return answer

        return asked


async def put_large(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE + "!", tier="immediate")


async def put_unnamed(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE + "!")


async def flush(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE + "!")
    await house.flush()


async def archive(house: FileState) -> None:
    await house.files.archive("report", "q3")


async def promote(house: FileState) -> None:
    await house.state.promote("report", "q4")


async def snapshot(house: FileState) -> None:
    await house.files.snapshot("report")
    await house.state.snapshot("report")


async def restore(house: FileState) -> None:
    file = min(await house.files.list(kind="snapshot"), key=lambda file: file.created_at)
    await house.files.restore(file)


@pytest.mark.parametrize("work", [put_large, put_unnamed, flush, archive, promote, snapshot, restore])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_who_leaves_at_any_step_leaves_all_whole(
    work: Callable[[FileState], Awaitable[None]], before: bool, tmp_path: Path
) -> None:
    for number in range(1, MOST_STEPS):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        async with file_state("memory://", *local(folder), promotion=PromotionSettings()) as house:
            await house.state.put("report", "q3", LARGE, tier="immediate")
            await house.state.put("report", "q4", "small")
            await house.flush()
            if work is restore:
                await house.files.snapshot("report")
            left = await Leaving(house, number, before=before).run(lambda house=house: work(house))  # type: ignore[misc]
            await check(house)
            await work(house)
            await check(house)
            if not left:
                return
    raise AssertionError("it has no end")


async def check(house: FileState) -> None:
    """All is readable, the stores agree, and there is no row without its object, or object without its row."""
    await house.flush()
    await house.files.reconcile(older_than=0.0)
    await house.files.collect_garbage(grace=0.0)
    house.files_house.reader._texts.clear()
    values = {item.key: item.value for item in (await house.state.list("report")).items}
    assert values["q3"] in (LARGE, LARGE + "!")
    assert values["q4"] == "small"
    for key in KEYS:
        held = await house.state.get("report", key, consistency="strong")
        assert held is not None
        assert held.value == values[key]
    where = [house.state._key("report", key) for key in KEYS]
    for hot, kept in zip(house.stores.state.load(where), await house.stores.documents.load(where), strict=True):  # type: ignore[arg-type]
        assert hot is not None
        if hot.tier != "cache":
            assert kept is not None
            assert (kept.version, kept.tier) == (hot.version, hot.tier)
            assert is_pointer(kept.value) or kept.value == hot.value
            assert await house.house.reader.whole(kept) == await house.house.reader.whole(hot)
    there = [item for key in where for item in await house.house.everywhere(key)]
    for file in await house.files.list(kind="promoted"):
        if any(f'"file":"{file.id}"' in (item.value or "") for item in there):
            with pytest.raises(ConfigurationError):
                await house.files.delete(file)
    assert not await house.stores.metadata.pending(before=2**40)
    rows = {row.path for row in await house.files.list(most=1000)}
    assert rows == {each.path for each in (await house.stores.objects.list()).objects}
