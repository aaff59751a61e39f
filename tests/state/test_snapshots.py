"""Snapshots: of many items and of large ones, and restored by nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.state.houses import House, Open
from traffic_cop_middleware import ConfigurationError, NoSnapshot
from traffic_cop_middleware.abstractions.json_texts import loads
from traffic_cop_middleware.abstractions.state import snapshots

pytestmark = pytest.mark.asyncio


async def everything(house: House) -> dict[str, Any]:
    return {item.key.key: loads(item.value or "") async for item in snapshots.items_of(house.state, "a", prefix="")}


async def test_many_small_items_fit_into_a_snapshot(opened: Open) -> None:
    async with opened() as house:
        names = [f"{'k' * 100}{number:05d}" for number in range(3000)]
        for start in range(0, len(names), 250):
            await asyncio.gather(*(house.state.put("a", name, 1) for name in names[start : start + 250]))
        taken = await house.state.snapshot("a")
        assert taken.items == len(names)
        for name in names[::100]:
            await house.state.delete("a", name)
        assert await house.state.restore(taken) == len(names)
        assert await everything(house) == dict.fromkeys(names, 1)


async def test_items_as_large_as_they_may_be_fit_into_a_snapshot(opened: Open) -> None:
    async with opened() as house:
        items: dict[str, Any] = {
            "quotes": ["a"] * 65_000,
            "one": "x" * (snapshots.MOST_STATE - 2),
            "half": "y" * snapshots.PART_BYTES,
            "lines": ['\n\\"'] * 20_000,
            "small": 1,
        }
        for key, value in items.items():
            await house.state.put("a", key, value, tier="immediate")
        taken = await house.state.snapshot("a")
        await asyncio.gather(*(house.state.delete("a", key) for key in items))
        assert await house.state.restore(taken.id) == len(items)
        assert await everything(house) == items


async def test_restored_items_end_when_they_would_have(opened: Open) -> None:
    async with opened() as house:
        put = await house.state.put("a", "b", 1, ttl=1000)
        taken = await house.state.snapshot("a")
        await house.state.put("a", "b", 2)
        await house.state.restore(taken)
        got = await house.state.get("a", "b")
        assert got is not None
        assert (got.value, got.expires_at) == (1, put.expires_at)


async def test_nobody_restores_the_snapshot_of_another_tenant(opened: Open) -> None:
    async with opened() as house:
        acme, other = house.state.of_tenant("acme"), house.state.of_tenant("other")
        await acme.put("a", "b", "acme's")
        taken = await acme.snapshot("a")
        for state in (other, house.state):
            for given in (taken, taken.id, f"{taken.id}/000000", f"acme\0{taken.id}"):
                with pytest.raises(NoSnapshot):
                    await state.restore(given)
            assert await state.snapshots() == []
            assert await state.get("a", "b") is None
        assert [each.id for each in await acme.snapshots()] == [taken.id]


@pytest.mark.parametrize("id", ["", "a\0b", "x" * 600, "\ud800", "../../etc", "*"])
async def test_what_is_no_id_of_a_snapshot_is_none(id: str, opened: Open) -> None:
    async with opened() as house:
        with pytest.raises(NoSnapshot):
            await house.state.restore(id)
        with pytest.raises(ConfigurationError, match="snapshot=5"):
            await house.state.restore(5)  # type: ignore[arg-type]
