"""Files that are deleted, and made again because something still needs them: no pointer leads to nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.files.houses import FileState, file_state, local
from traffic_cop_middleware.errors import ConfigurationError

pytestmark = pytest.mark.asyncio

LARGE = "x" * 300_000


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[FileState]:
    async with file_state("memory://", *local(tmp_path)) as each:
        yield each


async def forget(house: FileState) -> None:
    """Nothing is kept in this worker, and nothing that may go stays."""
    await house.files.collect_garbage(grace=0.0)
    house.files_house.reader._texts.clear()


async def value_of(house: FileState, namespace: str, key: str) -> Any:
    held = await house.state.get(namespace, key, consistency="strong")
    assert held is not None
    return held.value


async def test_a_file_that_was_deleted_is_made_again_where_its_item_needs_it(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE, tier="cache")
    file = await house.files.promote("report", "q3")
    assert await house.files.delete(file)
    await forget(house)
    again = await house.files.archive("report", "q3")
    assert again.status == "done"
    once_more = await house.files.promote("report", "q3", clean_up=True)
    assert once_more.status == "done"
    await house.files.collect_garbage(grace=0.0)
    await forget(house)
    assert await value_of(house, "report", "q3") == LARGE


async def test_a_snapshot_of_the_state_needs_its_files_again(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE, tier="cache")
    file = await house.files.promote("report", "q3")
    assert await house.files.delete(file)
    await forget(house)
    snapshot = await house.state.snapshot("report")
    await house.state.delete("report", "q3")
    await forget(house)
    assert await house.state.restore(snapshot) == 1
    assert await value_of(house, "report", "q3") == LARGE


async def test_a_file_that_a_waiting_item_is_about_to_need_is_not_deleted(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE, tier="delayed")
    file = await house.files.promote("report", "q3")
    with pytest.raises(ConfigurationError, match="report/q3"):
        await house.files.delete(file)
    await house.flush()
    await forget(house)
    assert await value_of(house, "report", "q3") == LARGE


async def test_a_snapshot_that_a_backup_names_is_not_deleted_before_it(house: FileState) -> None:
    await house.state.put("order", "1", "first", tier="immediate")
    backup = await house.files.backup(["order"])
    (snapshot,) = await house.files.list(kind="snapshot")
    with pytest.raises(ConfigurationError, match=backup.id):
        await house.files.delete(snapshot)
    assert (await house.files.restore(backup)).items == 1
    restored = [each for each in await house.files.list(kind="backup") if each.id != backup.id]
    assert await house.files.delete(backup)
    assert await house.files.delete(snapshot)
    assert len(restored) == 1
    assert (await house.files.restore(restored[0])).items == 1


async def test_one_file_that_is_gone_hides_no_other_version(house: FileState) -> None:
    first = await house.state.put("report", "q3", LARGE, tier="immediate")
    await house.state.put("report", "q3", "newer", tier="immediate")
    (file,) = await house.files.of_item("report", "q3")
    assert file.version == first.version
    assert await house.files.delete(file, reason="the user asked for it")
    await forget(house)
    newer, older = await house.state.history("report", "q3")
    assert newer.value == "newer"
    assert newer.lost == ""
    assert older.value is None
    assert not older.deleted
    assert file.path in older.lost


async def test_a_restored_item_goes_back_into_the_tier_that_was_named_for_it(house: FileState) -> None:
    await house.state.put("order", "7", {"paid": True}, tier="immediate")
    file = await house.files.promote("order", "7")
    await house.state.delete("order", "7")
    house.stores.state._gone.clear()  # type: ignore[attr-defined] - its tombstone has gone by now
    await house.stores.documents.clean_up(now=2**40, tombstones_before=2**40)
    await house.files.restore(file)
    held = await house.state.get("order", "7")
    assert held is not None
    assert (held.value, held.tier, held.named) == ({"paid": True}, "immediate", True)


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_file_that_is_deleted_while_a_pointer_comes_to_lead_to_it_is_there(house: FileState, step: str) -> None:
    await house.state.put("report", "q3", {"n": 1}, tier="immediate")
    file = await house.files.promote("report", "q3")
    reshape, set_status = house.stores.state.reshape, house.stores.metadata.set_status
    pointing: list[Any] = []

    async def set_late(*args: Any, **kwargs: Any) -> bool:
        if not pointing:
            pointing.append(await house.files.promote("report", "q3", clean_up=True))
        return await set_status(*args, **kwargs)

    async def reshape_late(items: Any) -> Any:
        if not pointing:
            pointing.append(await house.files.delete(file))
        return reshape(items)  # type: ignore[misc]

    if step == "before":  # the pointer comes between a look and the deletion
        house.stores.metadata.set_status = set_late  # type: ignore[method-assign]
        with pytest.raises(ConfigurationError, match="report/q3"):
            await house.files.delete(file)
    else:
        await house.stores.documents.clean_up(now=2**40, tombstones_before=2**40)
        house.stores.documents.reshape = reshape_none  # type: ignore[method-assign]
        house.stores.state.reshape = reshape_late  # type: ignore[assignment,method-assign]
        await house.files.promote("report", "q3", clean_up=True)
    assert pointing
    await forget(house)
    assert await value_of(house, "report", "q3") == {"n": 1}
    await house.files.collect_garbage(grace=0.0)
    assert [each.status for each in await house.files.of_item("report", "q3")] == ["done"]
    await forget(house)
    assert await value_of(house, "report", "q3") == {"n": 1}


async def reshape_none(items: Any) -> Any:
    return [False for _ in items]
