"""What is left of an item that went to its file, whoever died on the way: one file for each version, whole."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from tests.files.houses import FileState
from traffic_cop_middleware.abstractions.files.naming import file_id
from traffic_cop_middleware.contracts import StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import StoreUnavailable

CALLS = (
    "outbox.claim",
    "metadata.of_item",
    "metadata.announce",
    "objects.create",
    "metadata.finish",
    "documents.store",
    "state.reshape",
    "outbox.settle",
    "outbox.claim",
)
"""Every external call of the saga, from the outbox to the last look into it. A new one fails a test, and is killed by
others as soon as it stands in this list."""
PATIENCE = 30.0


def steps_of(calls: tuple[str, ...]) -> list[tuple[int, str]]:
    """When a worker is killed: before and after each call."""
    return [(number, when) for number in range(1, len(calls) + 1) for when in ("before", "after")]


def names_of(calls: tuple[str, ...]) -> list[str]:
    return [f"{when}-{number}-{calls[number - 1]}" for number, when in steps_of(calls)]


class Written(NamedTuple):
    """An item that is a file at its first version, and waits at its second, which has this value."""

    key: str
    first: int
    second: int
    value: str


async def written(house: FileState, *keys: str, size: int = MOST_STATE) -> list[Written]:
    """Such items."""
    first = [await house.state.put("report", key, "a" * (size + 10), tier="delayed") for key in keys]
    await house.flush()
    value = "b" * (size + 20)
    second = [await house.state.put("report", key, value, tier="delayed") for key in keys]
    return [Written(key, a.version, b.version, value) for key, a, b in zip(keys, first, second, strict=True)]


async def check(house: FileState, *items: Written) -> None:
    """One object and one row for each version, one edge between them, and each item reads as it was written last."""
    assert await waiting(house) == 0
    paths: list[str] = []
    for item in items:
        paths += await check_item(house, item)
    assert sorted(paths) == [each.path for each in (await house.stores.objects.list()).objects]
    assert not await house.stores.metadata.pending(before=2**40)


async def check_item(house: FileState, item: Written) -> list[str]:
    """The same of one item; the paths of its objects."""
    key = StateKey("", "report", item.key)
    metadata = house.stores.metadata
    rows = await metadata.of_item(key)
    assert [row.version for row in rows] == [item.second, item.first]
    (parent,) = await metadata.ancestors("", file_id(key, item.second, "promoted"))
    assert (parent.row.version, parent.relation, parent.steps) == (item.first, "supersedes", 1)
    assert [line.version for line in await metadata.history(key)] == [item.second, item.first]
    for consistency in ("near", "strong"):
        held = await house.state.get("report", item.key, consistency=consistency)  # type: ignore[arg-type]
        assert held is not None
        assert held.version == item.second
        assert held.value == item.value
    (kept,) = await house.stores.documents.load((key,))
    assert kept is not None
    assert kept.version == item.second
    assert kept.value is not None
    assert kept.value.startswith("@")
    return [row.path for row in rows]


async def check_newer(house: FileState, item: Written) -> None:
    """Something small is written after a worker died: it wins, and what was begun is finished or given up."""
    key = StateKey("", "report", item.key)
    newer = await house.state.put("report", item.key, {"small": True}, tier="delayed")
    await house.flush()
    await house.files.reconcile(older_than=0.0)
    held = await house.state.get("report", item.key, consistency="strong")
    assert held is not None
    assert (held.version, held.value) == (newer.version, {"small": True})
    (kept,) = await house.stores.documents.load((key,))
    assert kept is not None
    assert kept.version == newer.version
    await check_nothing_is_left_over(house)
    rows = await house.stores.metadata.of_item(key)
    assert rows[-1].version == item.first


async def check_nothing_is_left_over(house: FileState) -> None:
    """After garbage was collected: no file that is not finished, no object without a row, no row without its object."""
    assert not await house.stores.metadata.pending(before=2**40)
    await house.files.collect_garbage(grace=0.0)
    rows = await house.stores.metadata.list("", most=1000)
    paths = {row.path for row in rows if row.status == "done"}
    assert sorted(paths) == [each.path for each in (await house.stores.objects.list()).objects]


async def waiting(house: FileState) -> int:
    outbox = house.stores.state.outbox
    assert outbox is not None
    return await outbox.waiting()


async def caught_up(house: FileState) -> None:
    """What waits goes where it belongs, as soon as the stores are there."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            await house.flush()
        except StoreUnavailable:
            assert time.monotonic() < ends
            await asyncio.sleep(0.05)
        else:
            return
