"""What every `StateStore` does with tiers that nobody named, and when promotion reshapes an item, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from traffic_cop_middleware.contracts import Item, Outbox, StateKey, StateStore, Tier
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.testing.state_asking import (
    FAR,
    Elapse,
    answer,
    at,
    changed,
    item_of,
    listed,
    load,
    put,
    write,
)
from traffic_cop_middleware.testing.state_contract_writes import StateWritesContract

POINTER = '@{"file":"f1","size":3}'


async def judged(store: StateStore, key: StateKey, value: str | None = "1", *, expires_at: float | None = None) -> Item:
    """What is there after a write whose tier nobody named, of an item that the documents do not have."""
    return item_of(await write(store, key, value, tier=None, expires_at=expires_at, missing=True, judge=True))


async def reshape(store: StateStore, *items: Item) -> list[bool]:
    return list(await answer(store.reshape(items)))


async def sent(outbox: Outbox) -> list[Item]:
    """What waits, until it is settled by this."""
    entries = await outbox.claim("worker", most=100, idle=FAR)
    await outbox.settle(entries)
    assert await outbox.waiting() == 0
    return [entry.item for entry in entries]


class StateShapesContract(StateWritesContract):
    """The part of `StateStoreContract` that concerns promotion: who named a tier, `judge`, `reshape`."""

    # Named and judged

    @pytest.mark.asyncio
    async def test_who_gives_a_tier_names_it_and_no_later_write_without_one_takes_that_away(
        self, stores: Sequence[StateStore]
    ) -> None:
        for tier in TIERS:
            named = await put(stores[0], at(tier), "1", tier=tier)
            assert (named.tier, named.named) == (tier, True)
            for judge in (False, True):
                for value in ("2", None, "3"):
                    item = item_of(await write(stores[-1], at(tier), value, tier=None, judge=judge))
                    assert (item.tier, item.named) == (tier, True)
                    for store in stores:
                        assert await load(store, at(tier)) == item
            assert item in await listed(stores[0])

    @pytest.mark.asyncio
    async def test_a_tier_that_nobody_named_stays_unnamed_until_somebody_does(self, store: StateStore) -> None:
        first = item_of(await write(store, at("a"), "1", tier=None, missing=True))
        assert (first.tier, first.named) == ("cache", False)
        second = item_of(await write(store, at("a"), "2", tier=None, if_version=first.version))
        assert (second.tier, second.named) == ("cache", False)
        assert await load(store, at("a")) == second
        assert await listed(store) == [second]
        named = await put(store, at("a"), "3", tier="cache")
        assert (named.tier, named.named) == ("cache", True)

    @pytest.mark.asyncio
    async def test_a_judged_write_is_delayed_where_nobody_named_a_tier(self, stores: Sequence[StateStore]) -> None:
        store = stores[0]
        new = await judged(store, at("new"))
        assert (new.tier, new.named) == ("delayed", False)
        plain = item_of(await write(store, at("a"), "1", tier=None, missing=True))
        then = item_of(await write(store, at("a"), "2", tier=None, if_version=plain.version, judge=True))
        assert (then.tier, then.named) == ("delayed", False)
        for each in stores:
            assert list(await answer(each.load([at("new"), at("a")]))) == [new, then]
        if store.outbox is not None:
            assert sorted(await sent(store.outbox)) == [then, new]
        kept = item_of(await write(store, at("a"), "3", tier=None))
        assert (kept.tier, kept.named) == ("delayed", False)
        gone = await judged(store, at("a"), None)
        assert (gone.value, gone.tier, gone.named) == (None, "delayed", False)
        again = await judged(store, at("a"), "4")
        assert (again.tier, again.named) == ("delayed", False)
        if store.outbox is not None:
            assert await sent(store.outbox) == [again]

    @pytest.mark.asyncio
    async def test_a_judged_write_with_a_tier_is_of_that_tier(self, store: StateStore) -> None:
        for tier in TIERS:
            item = item_of(await write(store, at("a"), "1", tier=tier, judge=True))
            assert (item.tier, item.named) == (tier, True)

    @pytest.mark.asyncio
    async def test_a_judged_write_of_what_came_down_to_the_cache_is_put_into_the_outbox_anew(
        self, store: StateStore
    ) -> None:
        first = await judged(store, at("a"))
        outbox = store.outbox
        if outbox is not None:
            assert await sent(outbox) == [first]
        assert await reshape(store, first._replace(tier="cache")) == [True]
        second = await judged(store, at("a"), "2")
        assert second.tier == "delayed"
        if outbox is not None:
            assert await sent(outbox) == [second]

    @pytest.mark.asyncio
    async def test_what_came_down_to_the_cache_and_is_deleted_or_put_there_by_name_is_told_of_to_the_documents(
        self, store: StateStore
    ) -> None:
        for key, value, tier in (("a", None, None), ("b", "2", "cache")):
            first = await judged(store, at(key))
            if store.outbox is not None:
                await sent(store.outbox)
            assert await reshape(store, first._replace(tier="cache")) == [True]
            second = item_of(await write(store, at(key), value, tier=tier, judge=True))  # type: ignore[arg-type]
            assert second.value == value
            assert second.tier == ("delayed" if tier is None else "cache")
            if store.outbox is not None:
                assert await sent(store.outbox) == [second]
            third = item_of(await write(store, at("c"), "1", tier="cache", judge=True, missing=True))
            assert third.named
            item_of(await write(store, at("c"), "2", tier="cache", judge=True))
            if store.outbox is not None:
                assert await store.outbox.waiting() == 0

    @pytest.mark.asyncio
    async def test_a_judged_write_asks_for_what_the_documents_have_as_any_without_a_tier(
        self, store: StateStore
    ) -> None:
        now = (await put(store, at("mark"), "1")).written_at
        for if_version in (None, 0, 7):
            assert await write(store, at("a"), "1", tier=None, if_version=if_version, judge=True) == ("unknown", None)
        await answer(
            store.warm([Item(at("a"), 7, "1", "immediate", now, named=True), Item(at("b"), 7, "1", "cache", now)])
        )
        assert (await write(store, at("a"), "2", tier=None, if_version=6, judge=True)).outcome == "conflict"
        named = item_of(await write(store, at("a"), "2", tier=None, if_version=7, judge=True))
        assert (named.tier, named.named) == ("immediate", True)
        unnamed = item_of(await write(store, at("b"), "2", tier=None, if_version=7, judge=True))
        assert (unnamed.tier, unnamed.named) == ("delayed", False)

    @pytest.mark.asyncio
    async def test_what_the_documents_have_is_taken_over_as_named_as_it_is(self, stores: Sequence[StateStore]) -> None:
        now = (await put(stores[0], at("mark"), "1")).written_at
        items = [
            Item(at(f"{tier} {named}"), 7, "1", tier, now, named=named) for tier in TIERS for named in (False, True)
        ]
        items += [Item(at("gone"), 7, None, "delayed", now, named=True)]
        await answer(stores[0].warm(items))
        assert list(await answer(stores[-1].load([item.key for item in items]))) == items

    # Reshaping

    @pytest.mark.asyncio
    async def test_a_reshaped_item_has_its_tier_and_value_and_all_else_as_before(
        self, stores: Sequence[StateStore]
    ) -> None:
        store, other = stores[0], stores[-1]
        now = (await put(store, at("mark"), "1")).written_at
        items = [
            await judged(store, at("judged"), expires_at=now + FAR + 0.125),
            await put(store, at("named"), "2", tier="immediate"),
            item_of(await write(store, at("plain"), "3", tier=None, missing=True)),
        ]
        cursor = (await changed(store, None)).cursor
        new: list[tuple[Tier, str]] = [
            ("cache", "1"),
            ("immediate", POINTER),
            ("delayed", "x" * 300_000),
            ("cache", ""),
        ]
        for tier, value in new:
            shapes = [item._replace(tier=tier, value=value) for item in items]
            strange = [shape._replace(written_at=1.0, expires_at=5.0, named=not shape.named) for shape in shapes]
            assert await reshape(other, *strange) == [True] * 3
            for each in stores:
                assert list(await answer(each.load([item.key for item in items]))) == shapes
            assert [item for item in await listed(other) if item.key != at("mark")] == shapes
        assert (await changed(store, cursor)).changes == []
        assert await reshape(store) == []

    @pytest.mark.asyncio
    async def test_only_what_is_at_the_very_version_and_not_deleted_is_reshaped(self, store: StateStore) -> None:
        former = await put(store, at("a"), "1")
        there = await put(store, at("a"), "2")
        was = await put(store, at("gone"), "1")
        gone = await put(store, at("gone"), None)
        others = [
            former,
            there._replace(version=there.version + 1),
            there._replace(value=None),
            was,
            gone,
            gone._replace(value="back"),
            there._replace(key=at("never there")),
        ]
        assert await reshape(store, *[each._replace(tier="immediate") for each in others]) == [False] * 7
        assert list(await answer(store.load([at("a"), at("gone"), at("never there")]))) == [there, gone, None]
        shape = there._replace(value=POINTER)
        assert await reshape(store, former, shape, gone) == [False, True, False]
        assert await load(store, at("a")) == shape

    @pytest.mark.asyncio
    async def test_what_has_ended_is_not_reshaped_and_a_reshaped_item_ends_when_it_would_have(
        self, store: StateStore, elapse: Elapse
    ) -> None:
        now = (await put(store, at("mark"), "1")).written_at
        items = [
            await judged(store, at("delayed"), expires_at=now + 0.3),
            await put(store, at("a"), "1", expires_at=now + 0.3),
        ]
        shapes = [item._replace(tier="cache", value=POINTER) for item in items]
        reshaped = await reshape(store, *shapes)
        for item, shape, was in zip(items, shapes, reshaped, strict=True):
            gone = await self.ended(store, item.key, elapse)
            left = shape if was else item
            assert gone is None or gone == left._replace(value=None, expires_at=None)
        assert await reshape(store, *items) == [False, False]
        assert [item.key for item in await listed(store)] == [at("mark")]

    @pytest.mark.asyncio
    async def test_a_reshaped_item_is_written_at_its_version(self, store: StateStore) -> None:
        item = await judged(store, at("a"))
        await reshape(store, item._replace(tier="immediate", value=POINTER))
        assert (await write(store, at("a"), "2", tier=None, if_version=item.version - 1)).outcome == "conflict"
        conflict = await write(store, at("a"), "2", tier=None, if_version=0)
        assert conflict == ("conflict", item._replace(tier="immediate", value=POINTER))
        second = item_of(await write(store, at("a"), "2", tier=None, if_version=item.version))
        assert (second.tier, second.named) == ("immediate", False)
        assert second.version > item.version
        assert await reshape(store, item) == [False]
        assert await load(store, at("a")) == second

    @pytest.mark.asyncio
    async def test_what_waits_in_the_outbox_stays_there_in_its_new_shape(self, store: StateStore) -> None:
        outbox = store.outbox
        if outbox is None:
            return
        now = (await put(store, at("mark"), "1")).written_at
        large = await judged(store, at("large"), "x" * 300_000, expires_at=now + FAR)
        down = await judged(store, at("down"))
        plain = item_of(await write(store, at("plain"), "3", tier=None, missing=True))
        shapes = [large._replace(value=POINTER), down._replace(tier="cache"), plain._replace(tier="delayed")]
        assert await reshape(store, *shapes) == [True] * 3
        assert await outbox.waiting() == 2
        await answer(store.forget(down.key, version=down.version))
        assert await load(store, down.key) == shapes[1], "it was forgotten before the documents had it"
        entries = await outbox.claim("worker", most=100, idle=FAR)
        assert sorted(entry.item for entry in entries) == sorted(shapes[:2])
        again = shapes[0]._replace(tier="immediate")
        assert await reshape(store, again) == [True]
        assert await outbox.waiting() == 2
        await outbox.settle(entries)
        assert await outbox.waiting() == 0
        assert list(await answer(store.load([at("large"), at("down")]))) == [again, shapes[1]]
        for each in (again, shapes[1]):
            await answer(store.forget(each.key, version=each.version))
        assert list(await answer(store.load([at("large"), at("down")]))) == [None, None]

    @pytest.mark.asyncio
    async def test_two_hundred_items_are_reshaped_at_once(self, store: StateStore) -> None:
        items = [await put(store, at(f"k{number:03d}"), str(number)) for number in range(200)]
        shapes = [item._replace(tier="delayed", value=f"{item.value}0") for item in items]
        given = [shape if number % 3 else shape._replace(version=1) for number, shape in enumerate(shapes)]
        assert await reshape(store, *given) == [number % 3 != 0 for number in range(200)]
        found = await answer(store.load([item.key for item in items]))
        assert list(found) == [shapes[number] if number % 3 else items[number] for number in range(200)]

    @pytest.mark.asyncio
    async def test_who_keeps_items_hears_when_others_reshape_them(self, stores: Sequence[StateStore]) -> None:
        heard: list[Sequence[StateKey] | None] = []
        end = stores[0].invalidations(heard.append)
        if end is None:  # then nothing is kept in front of it
            return

        async def until(condition: Callable[[], bool]) -> None:
            for _ in range(6000):
                if condition():
                    return
                await asyncio.sleep(0.005)
            raise AssertionError(heard)

        await until(lambda: None in heard)
        item = await judged(stores[0], at("a"))
        await until(lambda: any(keys is not None and item.key in keys for keys in heard))
        heard.clear()
        assert await reshape(stores[-1], item._replace(value=POINTER)) == [True]
        await until(lambda: any(keys is None or item.key in keys for keys in heard))
        end()
