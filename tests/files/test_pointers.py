"""Pointers stay inside: whatever a caller asks, of a value in a file they get the value, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.adapters.load import poll
from tests.files.houses import FileState, file_state, local
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.state.taking_over import Pushed
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import FileCorrupt, StateConflict

pytestmark = pytest.mark.asyncio

LARGE = {"rows": ["ü" * 1000] * 300, "n": 1}
NEARLY_ALL = "x" * (16 * 1024 * 1024 - 2)


@pytest_asyncio.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.redis_server),
        pytest.param("cluster", marks=pytest.mark.redis_server),
    ]
)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FileState]:
    url = "memory://"
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    elif request.param == "cluster":
        cluster = request.getfixturevalue("redis_cluster")
        cluster.empty()
        url = cluster.url
    async with file_state(url, *local(tmp_path), promotion=PromotionSettings()) as each:
        yield each


async def stands(house: FileState, namespace: str, key: str) -> str:
    """What the backend has."""
    raw = await house.house.reader.raw(house.state._key(namespace, key), strong=True)
    assert raw is not None
    assert raw.value is not None
    return raw.value


@pytest.mark.parametrize("tier", [None, "delayed", "immediate"])
async def test_no_caller_ever_sees_one(house: FileState, tier: Any) -> None:
    state = house.state
    item = await state.put("report", "q3", LARGE, tier=tier)
    await house.flush()
    assert (await stands(house, "report", "q3")).startswith("@")
    for _ in range(2):  # the second time out of the near cache, where there is one
        found = [
            await state.get("report", "q3"),
            await state.get("report", "q3", consistency="strong"),
            (await state.get_many("report", ["q3"]))["q3"],
            (await state.get_many("report", ["q3"], consistency="strong"))["q3"],
            (await state.list("report")).items[0],
        ]
        for each in found:
            assert each is not None
            assert each.value == LARGE
            assert each.version == item.version
    assert [revision.value for revision in await state.history("report", "q3")] == [LARGE]
    for wrong in ({"if_version": item.version - 1}, {"create_only": True}):
        with pytest.raises(StateConflict) as caught:
            await state.put("report", "q3", 1, **wrong)  # type: ignore[arg-type]
        assert caught.value.current is not None
        assert caught.value.current.value == LARGE
    with pytest.raises(StateConflict) as caught:
        await state.delete("report", "q3", if_version=item.version - 1)
    assert caught.value.current is not None
    assert caught.value.current.value == LARGE
    explained = await state.explain("report", "q3")
    assert "@{" not in str(explained)
    changed = await state.update("report", "q3", lambda value: {**value, "n": value["n"] + 1})
    assert changed.value == {**LARGE, "n": 2}
    await house.flush()
    pushed = Pushed("", "report", "q3", 7, {"n": None, "more": True}, False)
    taken = await state.take_over(pushed, how="merge")
    assert taken is not None
    assert taken.value == {"rows": LARGE["rows"], "more": True}


async def test_a_snapshot_of_the_state_comes_back_whole(house: FileState) -> None:
    state = house.state
    await state.put("report", "q3", LARGE, tier="immediate")
    await state.put("report", "hot", LARGE, tier="cache")
    await state.put("report", "small", "@{", tier="immediate")
    await house.flush()
    snapshot = await state.snapshot("report")
    for key in ("q3", "hot", "small"):
        await state.delete("report", key)
    await house.flush()
    assert await state.restore(snapshot) == 3
    for _ in range(2):
        values = {item.key: item.value for item in (await state.list("report")).items}
        assert values == {"q3": LARGE, "hot": LARGE, "small": "@{"}
        await house.flush()


@pytest.mark.parametrize("value", ["@", "@{}", '@{"file":"f","path":"p","sha256":"x","size":1}', {"@": "@x"}])
async def test_what_looks_like_one_is_a_value_like_any_other(house: FileState, value: Any) -> None:
    for tier in ("cache", "delayed", "immediate"):
        await house.state.put("odd", tier, value, tier=tier)  # type: ignore[arg-type]
    await house.flush()
    file = await house.files.archive("odd", "delayed")
    for item in (await house.state.list("odd")).items:
        assert item.value == value
    await house.state.put("odd", "delayed", "else")
    await house.files.restore(file)
    held = await house.state.get("odd", "delayed")
    assert held is not None
    assert held.value == value


@pytest.mark.parametrize("tier", [None, "cache", "delayed", "immediate"])
async def test_the_largest_value_goes_and_comes(house: FileState, tier: Any) -> None:
    await house.state.put("report", "q3", NEARLY_ALL, tier=tier)
    for consistency in ("near", "strong"):
        held = await house.state.get("report", "q3", consistency=consistency)  # type: ignore[arg-type]
        assert held is not None
        assert held.value == NEARLY_ALL
    await house.flush()
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert held.value == NEARLY_ALL
    assert (await stands(house, "report", "q3")).startswith("@") is (tier != "cache")
    assert await house.state.delete("report", "q3")
    await house.flush()
    assert await house.state.get("report", "q3", consistency="strong") is None


async def test_what_has_an_end_ends_in_its_file_too(house: FileState) -> None:
    item = await house.state.put("report", "q3", LARGE, ttl=3600, tier="delayed")
    await house.flush()
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert held.expires_at == item.expires_at
    (kept,) = await house.stores.documents.load((house.state._key("report", "q3"),))
    assert kept is not None
    assert kept.expires_at == item.expires_at


async def test_a_page_of_large_items_ends_before_it_fills_the_memory(house: FileState) -> None:
    large = "x" * (5 * 1024 * 1024)
    for number in range(7):
        await house.state.put("report", f"{number}", large, tier="immediate")
    await house.flush()
    found: list[str] = []
    cursor: str | None = None
    pages = 0
    while True:
        page = await house.state.list("report", cursor=cursor)
        pages += 1
        assert sum(len(item.text) for item in page.items) <= 25 * 1024 * 1024
        found += [item.key for item in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [f"{number}" for number in range(7)]
    assert pages > 1


async def test_a_pointer_to_a_file_that_is_gone_is_not_restored_over_what_is_there(house: FileState) -> None:
    state = house.state
    await state.put("report", "q3", LARGE, tier="immediate")
    await house.flush()
    snapshot = await state.snapshot("report")
    await state.put("report", "q3", "newer", tier="immediate")
    await house.flush()
    (file,) = await house.files.of_item("report", "q3")
    assert await house.files.delete(file)
    await house.files.collect_garbage(grace=0.0)
    house.files_house.reader._texts.clear()  # as in another worker
    with pytest.raises(FileCorrupt):
        await state.restore(snapshot)
    held = await state.get("report", "q3", consistency="strong")
    assert held is not None
    assert held.value == "newer"


async def test_an_item_whose_file_is_gone_hides_no_other_and_can_be_deleted(house: FileState) -> None:
    state = house.state
    for key in ("a", "lost", "z"):
        await state.put("report", key, f"{key} {LARGE}", tier="immediate")
    await house.flush()
    (file,) = await house.files.of_item("report", "lost")
    objects = house.stores.objects
    [gone] = [each for each in (await objects.list()).objects if each.path == file.path]
    assert await objects.delete(gone.path, generation=gone.generation)
    house.files_house.reader._texts.clear()  # as in another worker
    many = await state.get_many("report", ["z", "lost", "a", "none"])
    listed = (await state.list("report")).items
    assert [each.key for each in listed] == ["a", "lost", "z"]
    for found in (many, {each.key: each for each in listed}):
        assert (found["a"].value, found["z"].value) == (f"a {LARGE}", f"z {LARGE}")
        assert found["a"].lost == ""
        assert "is not there, and a file says that it is" in found["lost"].lost
        with pytest.raises(FileCorrupt):
            found["lost"].value  # noqa: B018
    with pytest.raises(FileCorrupt):
        await state.get("report", "lost", consistency="strong")
    assert await state.delete("report", "lost")
    assert await state.get("report", "lost", consistency="strong") is None


async def test_near_is_no_place_for_what_is_large(house: FileState) -> None:
    await house.state.put("report", "q3", "x" * (MOST_STATE + 1), tier="cache")
    await house.state.put("report", "small", "x", tier="cache")
    for _ in range(2):
        for key in ("q3", "small"):
            assert await house.state.get("report", key) is not None
    near = house.house.reader.near
    if near is not None:
        assert house.state._key("report", "q3") not in near
        assert house.state._key("report", "small") in near


async def test_readers_of_one_file_share_one_question_also_where_the_first_one_leaves(house: FileState) -> None:
    await house.state.put("report", "q3", LARGE, tier="immediate")
    reader = house.files_house.reader
    for most_kept in (0, 32 * 1024 * 1024):
        reader._texts.clear()
        reader._size = 0
        reader._most = most_kept
        read, reads, going = house.stores.objects.read, 0, asyncio.Event()

        async def slow(path: str, *, read: Any = read, going: asyncio.Event = going, **asked: Any) -> Any:
            nonlocal reads
            reads += 1
            await going.wait()
            return await read(path, **asked)

        house.stores.objects.read = slow  # type: ignore[method-assign]
        asking = [asyncio.create_task(house.state.get("report", "q3", consistency="strong")) for _ in range(20)]
        await poll(lambda: reads == 1)  # noqa: B023 - within this turn
        asking.pop(0).cancel()
        await poll(lambda: reads == 2)  # noqa: B023
        going.set()
        for found in await asyncio.gather(*asking):
            assert found is not None
            assert found.value == LARGE
        assert reads <= 3
        assert not reader._reads
        house.stores.objects.read = read  # type: ignore[method-assign]
