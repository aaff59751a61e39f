"""Two workers that write, judge, flush, file and delete at once: no write is lost, and nothing deleted comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from tests.files.houses import FileState, file_state, local
from tests.servers import RedisServer
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.errors import ConfigurationError, NoFile, StateConflict, StoreUnavailable

pytestmark = pytest.mark.asyncio

KEYS = 6
TURNS = 120
LARGE = "x" * 270_000


class Worker:
    """Writes items of its own, and does all else with everybody's."""

    def __init__(self, name: str, house: FileState, chance: random.Random) -> None:
        self.name = name
        self.house = house
        self.chance = chance
        self.values: dict[str, Any] = {}
        """What this worker wrote last; `None`: deleted."""

    async def write(self, turn: int) -> None:
        key = f"{self.name}{self.chance.randrange(KEYS)}"
        state, tier = self.house.state, self.chance.choice([None, None, None, *TIERS])
        value = [key, turn, LARGE if self.chance.random() < 0.2 else ""]
        what = self.chance.random()
        if what < 0.2:
            await state.delete("order", key)
            self.values[key] = None
        elif what < 0.4:
            await state.update("order", key, lambda held: [*(held or []), turn][-5:], tier=tier)
            self.values[key] = [*(self.values.get(key) or []), turn][-5:]
        else:
            await state.put("order", key, value, tier=tier)
            self.values[key] = value

    async def stir(self) -> None:
        key = f"{self.chance.choice('ab')}{self.chance.randrange(KEYS)}"
        files, rejudging = self.house.files, self.house.house.rejudging
        assert rejudging is not None
        what = self.chance.randrange(7)
        with contextlib.suppress(LookupError, ConfigurationError, NoFile, StateConflict, StoreUnavailable):
            if what == 0:
                await self.house.flush()
            elif what == 1:
                await files.archive("order", key)
            elif what == 2:
                await files.promote("order", key, clean_up=self.chance.random() < 0.5)
            elif what == 3:
                await self.house.state.promote("order", key)
            elif what == 4:
                await rejudging.judge([self.house.state._key("order", key)], trigger="schedule")
            elif what == 5:
                for file in await files.of_item("order", key, most=3):
                    await files.delete(file)
            else:
                await files.reconcile(older_than=0.0)

    async def run(self) -> None:
        for turn in range(TURNS):
            await (self.write(turn) if self.chance.random() < 0.4 else self.stir())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.redis_server
async def test_no_write_is_lost_and_nothing_deleted_comes_back(
    seed: int, redis_server: RedisServer, tmp_path: Path
) -> None:
    await both(redis_server.url, tmp_path, seed)


@pytest.mark.parametrize("seed", range(4))
async def test_one_worker_with_its_own_memory_loses_nothing_either(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    async with file_state(
        "memory://", *local(tmp_path), promotion=PromotionSettings(), hooks=[any_tier(chance)]
    ) as one:
        workers = [Worker("a", one, chance), Worker("b", one, chance)]
        await asyncio.gather(*(worker.run() for worker in workers))
        tiers = await check(workers)
        one.stores.state.__init__(clock=one.stores.state._clock)  # type: ignore[misc,attr-defined]
        await check_lasting(one, tiers)


async def both(url: str, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    settings: dict[str, Any] = {"promotion": PromotionSettings(), "hooks": [any_tier(chance)]}
    async with file_state(url, *local(folder), **settings) as one, file_state(url, *local(folder), **settings) as two:
        workers = [Worker("a", one, chance), Worker("b", two, chance)]
        await asyncio.gather(*(worker.run() for worker in workers))
        tiers = await check(workers)
        store: Any = one.stores.state
        await store._link.ask("FLUSHALL")
        await check_lasting(one, tiers)


def any_tier(chance: random.Random) -> Any:
    def hook(item: StateItem, verdict: Verdict) -> Verdict:
        tier = chance.choice(TIERS)
        return verdict.at_least(tier).at_most(tier, "by chance")

    return hook


async def check(workers: list[Worker]) -> dict[str, tuple[Any, Any]]:
    """All is as it was written last, and stays so when what nobody names is gone."""
    for worker in workers:
        await worker.house.flush()
    await workers[0].house.files.reconcile(older_than=0.0)
    await workers[0].house.files.collect_garbage(grace=0.0)
    tiers: dict[str, tuple[Any, Any]] = {}
    for worker in workers:
        worker.house.files_house.reader._texts.clear()
        for reader in workers:
            for key, value in worker.values.items():
                held = await reader.house.state.get("order", key, consistency="strong")
                assert (None if held is None else held.value) == value
                tiers[key] = (value, None if held is None else held.tier)
    return tiers


async def check_lasting(house: FileState, tiers: dict[str, tuple[Any, Any]]) -> None:
    """The backend has lost all: what lasts is there, and nothing is there as it was before."""
    house.files_house.reader._texts.clear()
    for key, (value, tier) in tiers.items():
        held = await house.state.get("order", key, consistency="strong")
        if tier in ("delayed", "immediate"):
            assert held is not None
        assert held is None or held.value == value


@pytest.mark.redis_server
async def test_what_comes_down_while_it_is_archived_says_nothing_that_is_not_so(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """The archive was asked for while the item waited to be judged, and ends after that."""
    settings: dict[str, Any] = {
        "promotion": PromotionSettings(),
        "hooks": [lambda item, verdict: verdict.at_most("cache", "a test")],
    }
    async with file_state(redis_server.url, *local(tmp_path), **settings) as house:
        item = await house.state.put("order", "7", {"total": 7})
        create: Any = house.stores.objects.create

        async def flushes_first(*args: Any, **kwargs: Any) -> Any:
            await house.flush()
            return await create(*args, **kwargs)

        house.stores.objects.create = flushes_first  # type: ignore[method-assign]
        await house.files.archive("order", "7")
        held = await house.state.get("order", "7", consistency="strong")
        assert held is not None
        store: Any = house.stores.state
        await store._link.ask("FLUSHALL")
        await check_lasting(house, {"7": (item.value, held.tier)})
