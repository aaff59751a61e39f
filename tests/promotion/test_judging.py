"""Judging what did not come out of an outbox: when asked, when a session ends, now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.adapters.load import poll
from tests.files.houses import FileState, file_state, local, stores
from traffic_cop_middleware.abstractions.promotion.judging import PERIOD, StateJudging
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.state.items import StateItem
from traffic_cop_middleware.contracts import Event, Tier
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

pytestmark = pytest.mark.asyncio


class Hooked:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.time = 0.0
        self.tier: Tier = "immediate"

    def __call__(self, item: StateItem, verdict: Verdict) -> Verdict:
        self.asked.append(item.key)
        return verdict.at_least(self.tier).at_most(self.tier)


@pytest.fixture
def hooked() -> Hooked:
    return Hooked()


@pytest_asyncio.fixture
async def house(tmp_path: Path, hooked: Hooked) -> AsyncIterator[FileState]:
    settings: dict[str, Any] = {"promotion": PromotionSettings(), "hooks": [hooked], "clock": lambda: hooked.time}
    async with file_state("memory://", *local(tmp_path), **settings) as each:
        yield each


def judging_of(house: FileState) -> StateJudging:
    assert house.house.rejudging is not None
    return house.house.rejudging


def stumbling(house: FileState, key: str, failure: Exception) -> Any:
    """The judge stumbles over an item; gives what puts an end to that."""
    judge: Any = house.house.judge
    whole = judge.judge

    async def stumbles(item: Any, **asked: Any) -> Verdict:
        if item.key.key == key:
            raise failure
        verdict: Verdict = await whole(item, **asked)
        return verdict

    judge.judge = stumbles

    def end() -> None:
        judge.judge = whole

    return end


@pytest.mark.parametrize("failure", [StoreError("refused"), RuntimeError("nobody thought of that")])
async def test_an_item_that_can_not_be_judged_holds_up_no_other(
    house: FileState, hooked: Hooked, failure: Exception
) -> None:
    judging = judging_of(house)
    for key in "abc":
        await house.state.put("order", key, key)
        judging.ask(house.state._key("order", key), "explicit")
    stumbling(house, "a", failure)
    running = asyncio.create_task(judging.run())
    try:
        await poll(lambda: set(hooked.asked) >= {"b", "c"})
        await house.state.put("order", "d", "later")
        judging.ask(house.state._key("order", "d"), "explicit")
        await poll(lambda: "d" in hooked.asked)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_was_not_judged_for_an_outage_waits_on(house: FileState, hooked: Hooked) -> None:
    judging = judging_of(house)
    for key in "abc":
        await house.state.put("order", key, key)
        judging.ask(house.state._key("order", key), "explicit" if key == "b" else "session_end")
    load = house.stores.state.load

    def away(_: Any) -> Any:
        raise StoreUnavailable("the backend is away")

    house.stores.state.load = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await judging.judge_all()
    house.stores.state.load = load  # type: ignore[method-assign]
    await judging.judge_all()
    assert sorted(hooked.asked) == ["a", "b", "c"]


async def test_what_is_gone_is_not_looked_at_for_ever(house: FileState, hooked: Hooked) -> None:
    for key in "ab":
        await house.state.put("order", key, key)
    await house.flush()
    await house.state.delete("order", "a")
    await house.flush()
    hooked.time += PERIOD + 1
    await judging_of(house).judge_all()
    promoter = house.house.promoter
    assert promoter is not None
    assert [key.key for key in promoter._judged] == ["b"]


@pytest.mark.parametrize("session", ["s1", "*"])
async def test_the_state_of_a_session_is_judged_when_it_ends(house: FileState, hooked: Hooked, session: str) -> None:
    item = await house.state.of_tenant("acme").put("session", "s1", {"n": 1})
    await house.flush()
    hooked.asked.clear()
    judging = judging_of(house)
    judging.heard(Event("session.revoked", 0.0, {"session": session, "kind": "user"}))
    judging.heard(Event("session.revoked", 0.0, {"session": "another", "kind": "user"}))
    await judging.judge_all()
    assert hooked.asked == ["s1"]
    assert item.tenant == "acme"


@pytest_asyncio.fixture
async def without_outbox(tmp_path: Path, hooked: Hooked) -> AsyncIterator[FileState]:
    """Neither the backend nor the documents can let anything wait."""
    async with stores("memory://", *local(tmp_path)) as each:
        each.documents.outbox = None  # type: ignore[misc]
        house = FileState(each, promotion=PromotionSettings(), hooks=[hooked], clock=lambda: hooked.time)
        yield house
        house.house.close()


async def test_what_can_wait_nowhere_is_judged_at_the_end_too(without_outbox: FileState) -> None:
    house = without_outbox
    put = await house.state.put("order", "7", {"n": 1})
    assert put.tier == "cache"
    await house.house.end(within=10.0)
    (kept,) = await house.stores.documents.load([house.state._key("order", "7")])
    assert kept is not None
    assert (kept.version, kept.tier, kept.value) == (put.version, "immediate", '{"n":1}')


async def test_what_came_down_where_nothing_waits_leaves_the_documents_with_its_next_write(
    without_outbox: FileState, hooked: Hooked
) -> None:
    house = without_outbox
    for key in "ab":
        await house.state.put("order", key, key)
        await judging_of(house).judge_asked()
    hooked.tier = "cache"
    keys = [house.state._key("order", key) for key in "ab"]
    assert await judging_of(house).judge(keys, trigger="schedule") == 2
    await house.state.delete("order", "a")
    await house.state.put("order", "b", "newer", tier="cache")
    for kept in await house.stores.documents.load(keys):
        assert kept is not None
        assert kept.value is None
    assert await house.state.get("order", "a", consistency="strong") is None
