"""Items at a threshold: up at once, down slowly, and not up and down with each write, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.files.houses import FileState, file_state, local
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.contracts import StateKey, Tier

pytestmark = pytest.mark.asyncio

KEY = StateKey("", "order", "7")
HIGH = {"importance": 9, "user_id": 1, "rows": [{"n": n, "name": f"name {n}"} for n in range(300)]}
LOW = ""


async def tier_of(house: FileState) -> Tier:
    held = await house.state.get("order", "7", consistency="strong")
    assert held is not None
    return held.tier


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server_url: str = request.getfixturevalue("redis_server").url
    return server_url


async def put(house: FileState, value: object) -> Tier:
    await house.state.put("order", "7", value)
    await house.flush()
    return await tier_of(house)


async def test_up_at_once_and_down_one_tier_at_the_second_low_verdict(url: str, tmp_path: Path) -> None:
    async with file_state(url, *local(tmp_path), promotion=PromotionSettings()) as house:
        assert await put(house, HIGH) == "immediate"
        seen = [await put(house, LOW) for _ in range(6)]
        assert seen[0] == "immediate"
        assert seen.index("delayed") == 1
        assert seen[-1] == "cache"
        assert [tier for turn, tier in enumerate(seen) if turn == 0 or seen[turn - 1] != tier] == [
            "immediate",
            "delayed",
            "cache",
        ]
        (kept,) = await house.stores.documents.load((KEY,))
        assert kept is not None
        assert kept.value is None
        moves = [(line.former, line.to) for line in (await house.files.history("order", "7"))[::-1]]
        assert moves == [("cache", "immediate"), ("immediate", "delayed"), ("delayed", "cache")]


async def test_what_goes_high_and_low_in_turn_stays_up(url: str, tmp_path: Path) -> None:
    async with file_state(url, *local(tmp_path), promotion=PromotionSettings()) as house:
        for value in (HIGH, LOW, HIGH, LOW, HIGH, LOW, HIGH):
            assert await put(house, value) == "immediate"
        assert len(await house.files.history("order", "7")) == 1


async def test_another_worker_takes_an_item_down_as_slowly(url: str, tmp_path: Path) -> None:
    settings = PromotionSettings()
    async with file_state(url, *local(tmp_path), promotion=settings) as house:
        assert await put(house, HIGH) == "immediate"
    async with file_state(url, *local(tmp_path), promotion=settings) as house:
        assert await put(house, LOW) == "immediate"
        assert await put(house, LOW) == "delayed"
