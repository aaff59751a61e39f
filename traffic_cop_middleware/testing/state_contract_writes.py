"""What every `StateStore` does when an item is written, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import Item, StateKey, StateStore
from traffic_cop_middleware.contracts.state import WHOLE
from traffic_cop_middleware.testing.state_asking import FAR, Elapse, answer, at, changed, listed, load, put, write


class StateWritesContract:
    """The part of `StateStoreContract` that concerns one item, and what every part needs."""

    @pytest.fixture
    def store(self, stores: Sequence[StateStore]) -> StateStore:
        return stores[0]

    @pytest.fixture
    def elapse(self) -> Elapse:
        """Lets seconds pass on the store's clock."""
        return asyncio.sleep

    async def ended(self, store: StateStore, key: StateKey, elapse: Elapse) -> Item | None:
        """What is answered once the item at `key` has ended."""
        for _ in range(3_000):
            item = await load(store, key)
            if item is None or item.value is None:
                return item
            await elapse(0.01)
        raise AssertionError(f"{key} never ended")

    # One item

    @pytest.mark.asyncio
    async def test_nothing_is_held_at_first(self, store: StateStore) -> None:
        assert list(await answer(store.load([at("a"), at("b")]))) == [None, None]
        assert list(await answer(store.load([]))) == []
        assert await listed(store) == []

    @pytest.mark.asyncio
    async def test_all_workers_load_what_one_has_written(self, stores: Sequence[StateStore]) -> None:
        written = await write(stores[0], at("a"), '{"n":1}')
        assert written.outcome == "written"
        assert written.item is not None
        at_once = written.item.written_at
        assert written.item == Item(at("a"), written.item.version, '{"n":1}', "cache", at_once, None, named=True)
        for store in stores:
            assert list(await answer(store.load([at("b"), at("a")]))) == [None, written.item]

    @pytest.mark.asyncio
    async def test_versions_grow_over_writes_and_deletions_and_stay_below_two_to_the_53rd(
        self, stores: Sequence[StateStore]
    ) -> None:
        versions = []
        for turn in range(30):
            value = None if turn % 5 == 4 else str(turn)
            versions.append((await put(stores[turn % len(stores)], at("a"), value)).version)
        assert versions == sorted(set(versions))
        assert versions[0] > 0
        assert versions[-1] < WHOLE

    @pytest.mark.asyncio
    async def test_a_deletion_leaves_a_tombstone_that_is_not_listed(self, store: StateStore) -> None:
        first = await put(store, at("a"), "1")
        gone = await put(store, at("a"), None)
        assert gone.version > first.version
        assert gone.value is None
        assert await load(store, at("a")) == gone
        assert await listed(store) == []
        back = await put(store, at("a"), "2")
        assert back.version > gone.version
        assert await listed(store) == [back]

    @pytest.mark.asyncio
    async def test_what_was_never_there_can_be_deleted(self, store: StateStore) -> None:
        gone = await put(store, at("a"), None)
        assert gone.version > 0
        assert await load(store, at("a")) == gone

    @pytest.mark.asyncio
    async def test_the_last_write_wins_with_its_tier_and_its_end(self, store: StateStore) -> None:
        now = (await put(store, at("a"), "1", tier="delayed")).written_at
        second = await put(store, at("a"), "2", expires_at=now + FAR)
        assert (second.tier, second.expires_at) == ("cache", now + FAR)
        assert await load(store, at("a")) == second
        third = await put(store, at("a"), "3", tier="immediate")
        assert (third.tier, third.expires_at) == ("immediate", None)
        assert await load(store, at("a")) == third

    @pytest.mark.asyncio
    async def test_tenants_and_namespaces_do_not_know_each_other(self, store: StateStore) -> None:
        items = [
            await put(store, at("a", namespace=namespace, tenant=tenant), f'"{tenant} {namespace}"')
            for tenant in ("", "acme", "acme2")
            for namespace in ("cart", "cart2")
        ]
        assert list(await answer(store.load([item.key for item in items]))) == items
        for item in items:
            assert await listed(store, item.key.namespace, tenant=item.key.tenant) == [item]

    @pytest.mark.asyncio
    async def test_several_questions_may_be_asked_before_the_first_is_awaited(self, store: StateStore) -> None:
        asked = [store.write(at("a"), str(turn), tier="cache") for turn in range(5)]
        then = store.load([at("a")])
        versions = [written.item.version for one in asked if (written := await answer(one)).item is not None]
        assert versions == sorted(set(versions))
        (item,) = await answer(then)
        assert item is not None
        assert (item.version, item.value) == (versions[-1], "4")

    @pytest.mark.asyncio
    async def test_many_items_are_loaded_in_the_order_of_their_keys(self, store: StateStore) -> None:
        for number in range(0, 200, 2):
            await put(store, at(f"k{number}"), str(number))
        items = await answer(store.load([at(f"k{number}") for number in range(200)]))
        assert [item and item.value for item in items] == [None if number % 2 else str(number) for number in range(200)]

    # Compare and set

    @pytest.mark.asyncio
    async def test_a_write_at_another_version_changes_nothing_and_gives_what_is_there(
        self, stores: Sequence[StateStore]
    ) -> None:
        first = await put(stores[0], at("a"), "1")
        second = await write(stores[-1], at("a"), "2", if_version=first.version)
        assert second.outcome == "written"
        for stale in (first.version, 0, WHOLE - 1):
            assert await write(stores[0], at("a"), "lost", if_version=stale) == ("conflict", second.item)
            assert await write(stores[0], at("a"), None, if_version=stale) == ("conflict", second.item)
        assert await load(stores[0], at("a")) == second.item

    @pytest.mark.asyncio
    async def test_what_is_not_held_is_unknown_to_who_asks_for_a_version(self, store: StateStore) -> None:
        for version in (0, 12345):
            assert await write(store, at("a"), "1", if_version=version) == ("unknown", None)
        assert await write(store, at("a"), "1", tier=None) == ("unknown", None)
        assert await load(store, at("a")) is None
        assert await write(store, at("a"), "1", if_version=12345, missing=True) == ("conflict", None)
        created = await write(store, at("a"), "1", if_version=0, missing=True)
        assert created.outcome == "written"
        assert await write(store, at("a"), "2", if_version=0, missing=True) == ("conflict", created.item)

    @pytest.mark.asyncio
    async def test_what_was_deleted_does_not_exist_at_any_version(self, store: StateStore) -> None:
        first = await put(store, at("a"), "1")
        gone = await write(store, at("a"), None, if_version=first.version)
        assert gone.outcome == "written"
        assert gone.item is not None
        for version in (first.version, gone.item.version):
            assert await write(store, at("a"), "2", if_version=version) == ("conflict", gone.item)
        created = await write(store, at("a"), "2", if_version=0)
        assert created.outcome == "written"
        assert created.item is not None
        assert created.item.version > gone.item.version

    @pytest.mark.asyncio
    async def test_twenty_writers_that_compare_lose_nothing(self, stores: Sequence[StateStore]) -> None:
        await put(stores[0], at("total"), "0")

        async def writer(number: int) -> None:
            store = stores[number % len(stores)]
            for _ in range(1000):
                item = await load(store, at("total"))
                assert item is not None
                after = str(int(item.value or "0") + 1)
                written = await write(store, at("total"), after, if_version=item.version)
                if written.outcome == "written":
                    return
                await asyncio.sleep(number / 5_000)
            raise AssertionError("never")

        await asyncio.gather(*(writer(number) for number in range(20)))
        item = await load(stores[0], at("total"))
        assert item is not None
        assert item.value == "20"

    # Tiers

    @pytest.mark.asyncio
    async def test_without_a_tier_a_write_keeps_the_one_that_the_item_has(self, store: StateStore) -> None:
        for tier in ("delayed", "immediate", "cache"):
            first = await put(store, at("a"), "1", tier=tier)
            second = await write(store, at("a"), "2", tier=None, if_version=first.version)
            assert second.item is not None
            assert (second.outcome, second.item.tier) == ("written", tier)
            gone = await write(store, at("a"), None, tier=None)
            assert gone.item is not None
            assert (gone.outcome, gone.item.tier) == ("written", tier)
            assert await load(store, at("a")) == gone.item
        created = await write(store, at("new"), "1", tier=None, missing=True)
        assert created.item is not None
        assert (created.outcome, created.item.tier) == ("written", "cache")

    @pytest.mark.asyncio
    async def test_a_write_goes_to_the_outbox_when_its_tier_is_or_was_another_than_cache(
        self, store: StateStore
    ) -> None:
        outbox = store.outbox
        if outbox is None:
            assert not store.shared, "a shared store without an outbox: nothing of it would ever be durable"
            return

        async def sent() -> list[Item]:
            entries = await outbox.claim("worker", most=100, idle=FAR)
            await outbox.settle(entries)
            assert await outbox.waiting() == 0
            return [entry.item for entry in entries]

        await put(store, at("a"), "1")
        assert await sent() == []
        up = await put(store, at("a"), "2", tier="delayed")
        assert await sent() == [up]
        kept = await write(store, at("a"), "3", tier=None)
        assert await sent() == [kept.item]
        down = await put(store, at("a"), "4", tier="cache")
        assert await sent() == [down]
        await put(store, at("a"), "5", tier="cache")
        assert await sent() == []
        for tier in ("immediate", "delayed"):
            gone = await put(store, at("b"), None, tier=tier)
            assert await sent() == [gone]

    # Ends

    @pytest.mark.asyncio
    async def test_from_its_end_on_an_item_is_as_good_as_deleted(self, store: StateStore, elapse: Elapse) -> None:
        now = (await put(store, at("other"), "1")).written_at
        lasting = await put(store, at("lasting"), "1", expires_at=now + FAR)
        first = await put(store, at("a"), "1", expires_at=now + 0.2)
        gone = await self.ended(store, at("a"), elapse)
        assert gone is None or (gone.version, gone.value, gone.expires_at) == (first.version, None, None)
        assert (await write(store, at("a"), "2", if_version=first.version)).outcome in ("conflict", "unknown")
        assert (await write(store, at("a"), "2", if_version=first.version, missing=True)).outcome == "conflict"
        assert [item.key.key for item in await listed(store)] == ["lasting", "other"]
        created = await write(store, at("a"), "2", if_version=0, missing=True)
        assert created.outcome == "written"
        assert created.item is not None
        assert created.item.version > first.version
        assert await load(store, at("lasting")) == lasting

    @pytest.mark.asyncio
    async def test_a_later_write_puts_the_end_off_or_takes_it_away(self, store: StateStore, elapse: Elapse) -> None:
        now = (await put(store, at("mark"), "1")).written_at
        for key in ("longer", "for good", "mark"):
            await put(store, at(key), "1", expires_at=now + 0.2)
        longer = await put(store, at("longer"), "2", expires_at=now + FAR)
        for_good = await put(store, at("for good"), "2")
        await self.ended(store, at("mark"), elapse)
        assert list(await answer(store.load([at("longer"), at("for good")]))) == [longer, for_good]
        assert await listed(store) == [for_good, longer]

    @pytest.mark.asyncio
    async def test_an_end_that_has_passed_makes_a_deletion_of_the_write(self, store: StateStore) -> None:
        now = (await put(store, at("a"), "1")).written_at
        cursor = (await changed(store, None)).cursor
        for past in (now, now - 1000, 0, -5.0):
            gone = await put(store, at("a"), "2", expires_at=past)
            assert (gone.value, gone.expires_at) == (None, None)
            assert await load(store, at("a")) == gone
        assert await listed(store) == []
        assert [change.deleted for change in (await changed(store, cursor)).changes] == [True] * 4

    @pytest.mark.asyncio
    @pytest.mark.parametrize("end", [float("inf"), float("nan"), float("-inf")])
    async def test_an_end_that_no_clock_comes_to_is_refused(self, store: StateStore, end: float) -> None:
        with pytest.raises(ValueError, match="seconds since the epoch"):
            await put(store, at("a"), "1", expires_at=end)
        assert await load(store, at("a")) is None

    @pytest.mark.asyncio
    @pytest.mark.parametrize("more", [1e-7, 0.123456789, 1e9, 1e12, 1e200])
    async def test_an_end_is_kept_to_the_last_digit(self, store: StateStore, more: float) -> None:
        now = (await put(store, at("a"), "1")).written_at
        item = await put(store, at("a"), "2", expires_at=now + FAR + more)
        assert item.expires_at == now + FAR + more
        assert await load(store, at("a")) == item
