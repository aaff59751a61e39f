"""Items that other services push, taken over: in any order, twice, at once, and over deaths half-way."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.state.houses import House, Open, on_memory
from traffic_cop_middleware import ConfigurationError, NotDurable, Pushed, StateConflict, StoreTimeout
from traffic_cop_middleware.abstractions.state import taking_over
from traffic_cop_middleware.contracts import StateKey

pytestmark = pytest.mark.asyncio

FIRST = Pushed("", "orders", "7", 100, {"n": 100}, False)


def version(number: int) -> Pushed:
    return FIRST._replace(version=number, value={"n": number})


async def value(house: House) -> Any:
    got = await house.state.get("orders", "7", consistency="strong")
    return None if got is None else got.value


@pytest.mark.parametrize("how", ["last", "merge", "strict"])
async def test_of_versions_that_come_at_once_the_newest_stands(how: Any, opened: Open) -> None:
    async with opened() as house:
        for turn in range(1, 6):
            numbers = [turn * 100 + number for number in range(8)] * 2
            random.Random(turn).shuffle(numbers)
            await asyncio.gather(*(house.state.take_over(version(number), how=how) for number in numbers))
            assert await value(house) == {"n": turn * 100 + 7}


class Dying:
    """Lets a worker die at its nth write: before it, or after it (then nobody heard that it was done)."""

    def __init__(self, house: House, at: int, *, after: bool) -> None:
        self._write: Any = house.house.writer.write
        self._at = at
        self._after = after
        self._count = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._count += 1
        if self._count != self._at:
            return await self._write(*args, **kwargs)
        if self._after:
            await self._write(*args, **kwargs)
        raise StoreTimeout("no answer")


@pytest.mark.parametrize("how", ["last", "merge", "strict"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_what_was_cut_off_half_way_is_taken_when_it_comes_again(
    at: int, after: bool, how: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as house:
        await house.state.take_over(FIRST, how=how)
        with monkeypatch.context() as patch:
            patch.setattr(house.house.writer, "write", Dying(house, at, after=after))
            with pytest.raises(StoreTimeout):
                await house.state.take_over(version(200), how=how)
        taken = await house.state.take_over(version(200), how=how)
        assert taken is not None
        assert await value(house) == {"n": 200}
        again = await house.state.take_over(version(200), how=how)
        assert again is not None
        assert again.version == taken.version, "what comes twice changes nothing"
        await house.state.take_over(version(150), how=how)
        assert await value(house) == {"n": 200}
        await house.state.patch("orders", "7", {"ours": 1})
        with pytest.raises(StateConflict):
            await house.state.take_over(version(300), how="strict")


async def test_a_version_that_was_begun_and_not_taken_lets_no_older_one_over_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as house:
        with monkeypatch.context() as patch:
            patch.setattr(house.house.writer, "write", Dying(house, 3, after=False))
            with pytest.raises(StoreTimeout):
                await house.state.take_over(version(200))
        await house.state.take_over(version(150))
        assert await value(house) == {"n": 200}


async def test_the_end_comes_along_and_a_merge_keeps_the_one_here(opened: Open) -> None:
    async with opened() as house:
        ends = house.house.now() + 1000
        taken = await house.state.take_over(FIRST._replace(expires_at=ends))
        assert taken is not None
        assert taken.expires_at == pytest.approx(ends, abs=0.001)
        merged = await house.state.take_over(version(101), how="merge")
        assert merged is not None
        assert merged.expires_at == pytest.approx(ends, abs=0.001)
        last = await house.state.take_over(version(102))
        assert last is not None
        assert last.expires_at is None
        assert await house.state.take_over(FIRST._replace(version=103, expires_at=house.house.now() - 1)) is None
        assert await value(house) is None


async def test_what_the_backend_lost_can_be_pushed_again_and_what_lasts_need_not_be(opened: Open) -> None:
    async with opened() as house:
        if not house.store.shared:
            pytest.skip("a memory backend ends with its process")
        await house.state.take_over(FIRST)
        kept = await house.state.take_over(FIRST._replace(key="8"), tier="immediate")
        assert kept is not None
        assert kept.tier == "immediate"
        await house.flush()
        await house.lose_everything()
        house.house.reader.close()
        assert await value(house) is None
        await house.state.take_over(FIRST, how="strict")
        assert await value(house) == {"n": 100}
        again = await house.state.take_over(FIRST._replace(key="8"), how="strict")
        assert again is not None
        assert again.version == kept.version


async def test_the_note_of_a_deleted_item_ends(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_over, "KEPT_FOR", 0.0)
    async with opened() as house:
        await house.state.take_over(FIRST)
        place = taking_over._place(StateKey("", "orders", "7"))
        assert (await house.house.reader.one(place, strong=True) or FIRST).value is not None
        await house.state.take_over(Pushed("", "orders", "7", 101, None, True))
        note = await house.house.reader.one(place, strong=True)
        assert note is None or note.value is None


def deep(levels: int = 5_000) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = {"a": made}
    return made


@pytest.mark.parametrize("how", ["last", "merge", "strict"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "1"},
        {"version": 2**60},
        {"version": -1},
        {"version": True},
        {"value": float("nan")},
        {"value": {"a": {1, 2}}},
        {"value": "deep"},
        {"value": "x" * 300_000},
        {"key": "k" * 600},
        {"key": "a\0b"},
        {"namespace": "tc.pushes"},
        {"expires_at": float("inf")},
        {"expires_at": "soon"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_what_no_store_takes_is_refused_and_leaves_nothing(wrong: dict[str, Any], how: Any) -> None:
    if wrong.get("value") == "deep":  # pytest would print it
        wrong = {"value": deep()}
    async with on_memory() as house:
        with pytest.raises(ConfigurationError):
            await house.state.take_over(FIRST._replace(**wrong), how=how)
        assert await value(house) is None
        assert await house.state.take_over(FIRST, how=how) is not None
        with pytest.raises(NotDurable):
            await house.state.take_over(version(200), how=how, tier="immediate")
        assert await value(house) == {"n": 100}
