"""What every `DocumentStore` does when promotion reshapes an item, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey
from traffic_cop_middleware.errors import StoreTimeout
from traffic_cop_middleware.testing.document_asking import DAY, NOW, item, key_of, load

POINTER = '@{"file":"f1","size":3}'


async def kept(store: DocumentStore, key: str = "42") -> list[Item]:
    """What the history has, newest first."""
    return [revision.item for revision in await store.history(key_of(key), most=1000)]


class DocumentShapesContract:
    """The part of `DocumentStoreContract` that concerns `reshape`, and what every part needs."""

    @pytest.fixture
    def store(self, stores: Sequence[DocumentStore]) -> DocumentStore:
        return stores[0]

    @pytest.mark.asyncio
    async def test_a_reshaped_item_has_its_tier_and_value_and_all_else_as_before_in_its_history_too(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        store, other = stores[0], stores[-1]
        first, second = item(7, "1", named=False, expires_at=NOW + DAY), item(8, "2", key="43")
        await store.store([first])
        stored_at = (await store.history(first.key))[0].stored_at
        await store.store([second])
        for value in (POINTER, "x" * 200_000, '"\udc80"', '"\udc81"', ""):
            shapes = [first._replace(tier="cache", value=value), second._replace(tier="delayed", value=value)]
            strange = [each._replace(written_at=5.0, expires_at=5.0, named=not each.named) for each in shapes]
            assert await other.reshape(strange) == [True, True]
            assert await store.load([first.key, second.key]) == shapes
            assert (await store.list("acme", "order")).items == shapes
            assert [await kept(store, key) for key in ("42", "43")] == [shapes[:1], shapes[1:]]
        assert (await store.history(first.key))[0].stored_at == stored_at
        assert await store.reshape([]) == []

    @pytest.mark.asyncio
    async def test_only_what_is_at_the_very_version_and_neither_deleted_nor_over_is_reshaped(
        self, store: DocumentStore
    ) -> None:
        former, there = item(7, "1"), item(9, "2")
        was, gone, over = item(1, key="gone"), item(2, None, key="gone"), item(3, key="over", expires_at=NOW - 1)
        for each in (former, there, was, gone, over):
            await store.store([each])
        others = [
            former,
            there._replace(version=8),
            there._replace(version=10),
            there._replace(value=None),
            was,
            gone,
            gone._replace(value="back"),
            over,
            there._replace(key=key_of("never there")),
        ]
        assert await store.reshape([each._replace(tier="cache") for each in others]) == [False] * 9
        assert await load(store) == there
        assert await kept(store) == [there, former]
        assert await kept(store, "gone") == [gone, was]
        assert await kept(store, "over") == [over]
        shape = there._replace(value=POINTER)
        assert await store.reshape([former, shape, gone, former]) == [False, True, False, False]
        assert await load(store) == shape
        assert await kept(store) == [shape, former]

    @pytest.mark.asyncio
    async def test_what_was_reshaped_is_stored_over_by_a_newer_version_alone(self, store: DocumentStore) -> None:
        await store.store([item(7, "1")])
        shape = item(7, POINTER, tier="delayed")
        assert await store.reshape([shape]) == [True]
        assert await store.store([item(7, "1"), item(6, "0")]) == [7, 7]
        assert await load(store) == shape
        assert await store.store([item(8, "2")]) == [8]
        assert await store.reshape([shape]) == [False]
        assert await kept(store) == [item(8, "2"), shape]
        await store.store([item(9, None, written_at=NOW - DAY)])
        assert await store.clean_up(now=NOW, tombstones_before=NOW - 1) == 1
        assert await kept(store) == []

    @pytest.mark.asyncio
    async def test_of_one_version_a_value_stands_in_place_of_a_tombstone_and_never_the_other_way(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        store, other = stores[0], stores[-1]
        first, second = item(7, "1", tier="delayed", named=False), item(8, "2", tier="delayed", named=False)
        gone = second._replace(value=None, tier="cache")
        await store.store([first])
        assert await store.store([gone]) == [8]
        assert await load(store) == gone
        for _ in range(2):
            assert await other.store([second]) == [8]
            assert await store.store([gone, first]) == [8, 8]
            assert await load(store) == second
            assert (await store.list("acme", "order")).items == [second]
            assert await kept(store) == [second, first]
        await store.store([item(9, None)])
        assert await store.store([second]) == [9]
        assert await load(store) == item(9, None)

    @pytest.mark.asyncio
    async def test_what_was_reshaped_expires_when_it_would_have(self, store: DocumentStore) -> None:
        await store.store([item(7, "1", expires_at=NOW + DAY)])
        assert await store.reshape([item(7, POINTER)]) == [True]
        assert await store.clean_up(now=NOW + DAY - 1, tombstones_before=0) == 0
        assert await store.clean_up(now=NOW + DAY + 1, tombstones_before=0) == 1
        assert await kept(store) == []

    @pytest.mark.asyncio
    async def test_what_no_store_takes_is_refused_and_nothing_reshaped(self, store: DocumentStore) -> None:
        there = item(7)
        await store.store([there])
        with pytest.raises(ValueError, match=r"order/43 has 262146 bytes, and 262144 is the most"):
            await store.reshape([item(7, POINTER), item(7, "ü" * 131_073, key="43")])
        for bad in (StateKey("a\0b", "order", "1"), StateKey("acme", "", "1"), StateKey("acme", "order", "x" * 513)):
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await store.reshape([item(7, POINTER), item(7, key=bad)])
        assert await load(store) == there

    @pytest.mark.asyncio
    async def test_two_hundred_items_are_reshaped_at_once(self, store: DocumentStore) -> None:
        items = [item(number, str(number), key=f"k{number:03d}") for number in range(200)]
        await store.store(items)
        shapes = [each._replace(tier="delayed", value=f"{each.value}0") for each in items]
        given = [shape if number % 3 else shape._replace(version=number + 1) for number, shape in enumerate(shapes)]
        assert await store.reshape(given) == [number % 3 != 0 for number in range(200)]
        found = await store.load([each.key for each in items])
        assert found == [shapes[number] if number % 3 else items[number] for number in range(200)]

    @pytest.mark.asyncio
    async def test_who_reshapes_and_who_stores_at_once_leave_each_version_in_a_shape_of_its_own(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        await stores[0].store([item(1, "1")])

        async def reshaping() -> None:
            for turn in range(40):
                for _ in range(100):
                    try:
                        there = await load(stores[-1])
                        assert there is not None
                        await stores[-1].reshape([there._replace(value=f"@{there.version} {turn}")])
                        break
                    except StoreTimeout:  # a busy machine
                        await asyncio.sleep(0.01)

        async def storing() -> None:
            for version in range(2, 40):
                for _ in range(100):
                    try:
                        await stores[0].store([item(version, str(version))])
                        break
                    except StoreTimeout:
                        await asyncio.sleep(0.01)

        await asyncio.gather(reshaping(), storing())
        assert await load(stores[0]) == (await kept(stores[-1]))[0]
        for each in await kept(stores[0]):
            assert (each.value or "").removeprefix("@").split(" ")[0] == str(each.version)
