"""What every `DocumentStore` does, as tests: subclass them for documents of your own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import DocumentStore, StateKey
from traffic_cop_middleware.contracts.documents import KEPT_VERSIONS
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import StoreTimeout
from traffic_cop_middleware.testing.document_asking import DAY, NOW, item, key_of, keys, load, versions
from traffic_cop_middleware.testing.document_contract_shapes import DocumentShapesContract


class DocumentStoreContract(DocumentShapesContract):
    """Every promise of `DocumentStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on empty documents, or one where the
    store is this process::

        class TestMyDocuments(DocumentStoreContract):
            @pytest_asyncio.fixture
            async def stores(self) -> AsyncIterator[Sequence[DocumentStore]]:
                store = MyDocuments()
                await store.connect()
                yield [store]
                await store.close()
    """

    # One item

    @pytest.mark.asyncio
    async def test_what_never_was_is_none_and_has_no_history(self, store: DocumentStore) -> None:
        assert await store.load([key_of("a"), key_of("b")]) == [None, None]
        assert await store.load([]) == []
        assert await store.history(key_of("a")) == []
        assert await store.list("acme", "order") == ([], None)

    @pytest.mark.asyncio
    async def test_all_workers_load_what_one_has_stored(self, stores: Sequence[DocumentStore]) -> None:
        first = item(7, '{"total":1.50,"name":"grüß 🚓"}', tier="delayed", expires_at=NOW + DAY, named=False)
        second = item(8, "null", key="43")
        assert await stores[0].store([first, second]) == [7, 8]
        for store in stores:
            assert await store.load([second.key, key_of("44"), first.key]) == [second, None, first]

    @pytest.mark.asyncio
    async def test_storing_nothing_gives_nothing(self, store: DocumentStore) -> None:
        assert await store.store([]) == []

    @pytest.mark.asyncio
    async def test_a_repetition_does_no_harm(self, stores: Sequence[DocumentStore]) -> None:
        for turn in range(5):
            assert await stores[turn % len(stores)].store([item(7)]) == [7]
        assert await load(stores[0]) == item(7)
        assert await versions(stores[0]) == [7]

    @pytest.mark.asyncio
    async def test_a_latecomer_changes_nothing_and_hears_the_version_that_is_there(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        await stores[0].store([item(9, '"new"')])
        assert await stores[-1].store([item(7, '"old"'), item(3, key="43")]) == [9, 3]
        assert await load(stores[0]) == item(9, '"new"')
        assert await versions(stores[0]) == [9]

    @pytest.mark.asyncio
    async def test_of_one_key_several_times_at_once_the_newest_is_kept(self, store: DocumentStore) -> None:
        assert await store.store([item(8, '"b"'), item(9, '"c"'), item(7, '"a"')]) == [9, 9, 9]
        assert await load(store) == item(9, '"c"')
        assert await versions(store) == [9]

    @pytest.mark.asyncio
    async def test_a_deletion_is_a_tombstone_with_a_version(self, store: DocumentStore) -> None:
        await store.store([item(7)])
        assert await store.store([item(8, None)]) == [8]
        assert await load(store) == item(8, None)
        assert await store.store([item(7, '"late"')]) == [8]
        assert (await store.list("acme", "order")).items == []
        assert await store.store([item(9, '"again"')]) == [9]
        assert await load(store) == item(9, '"again"')
        assert await versions(store) == [9, 8, 7]

    @pytest.mark.asyncio
    async def test_an_expired_item_is_a_tombstone_of_its_version(self, store: DocumentStore) -> None:
        over, lasting = item(7, expires_at=NOW - 1), item(7, key="43", expires_at=NOW + DAY)
        await store.store([over, lasting])
        found = await load(store)
        assert found is not None
        assert (found.version, found.value, found.expires_at) == (7, None, NOW - 1)
        assert (await store.list("acme", "order")).items == [lasting]
        assert await store.store([item(6, '"late"')]) == [7]
        assert await store.store([item(8, '"new"')]) == [8]
        assert await load(store) == item(8, '"new"')

    @pytest.mark.asyncio
    async def test_versions_go_up_to_two_to_the_53rd(self, store: DocumentStore) -> None:
        high = 2**53 - 1
        assert await store.store([item(high - 1, '"a"')]) == [high - 1]
        assert await store.store([item(high, '"b"')]) == [high]
        assert await store.store([item(high - 1, '"a"')]) == [high]
        assert await load(store) == item(high, '"b"')
        assert await versions(store) == [high, high - 1]

    @pytest.mark.asyncio
    async def test_a_hundred_items_are_stored_and_loaded_at_once(self, store: DocumentStore) -> None:
        many = [item(number, f'"{number}"', key=f"k{number}") for number in range(100)]
        assert await store.store(many) == list(range(100))
        asked = [each.key for each in many]
        random.Random(7).shuffle(asked)
        found = await store.load([*asked, asked[0]])
        assert [each and each.key for each in found] == [*asked, asked[0]]
        assert all(each in many for each in found)

    @pytest.mark.asyncio
    async def test_writers_of_one_key_leave_the_highest_version(self, stores: Sequence[DocumentStore]) -> None:
        numbers = list(range(1, 61))
        random.Random(11).shuffle(numbers)

        async def writer(turn: int) -> None:
            for version in numbers[turn::6]:
                store = stores[version % len(stores)]
                for _ in range(100):
                    try:
                        assert (await store.store([item(version, f'"{version}"')]))[0] >= version
                        break
                    except StoreTimeout:  # many writers, and a busy machine
                        await asyncio.sleep(0.01)
                else:
                    raise AssertionError("never")

        await asyncio.gather(*(writer(turn) for turn in range(6)))
        for store in stores:
            assert await load(store) == item(60, '"60"')
        kept = await versions(stores[0])
        assert kept == sorted(set(kept), reverse=True)
        assert kept[0] == 60

    # Keys

    @pytest.mark.asyncio
    async def test_no_operation_reaches_over_tenants_or_namespaces(self, store: DocumentStore) -> None:
        places = [
            StateKey(tenant, namespace, key)
            for tenant in ("", "acme", "acme:order")
            for namespace in ("order", "order:4")
            for key in ("42", ":42", "4:42", "order:42")
        ]
        await store.store([item(number + 1, f'"{number}"', key=key) for number, key in enumerate(places)])
        found = await store.load(places)
        assert [each and each.value for each in found] == [f'"{number}"' for number in range(len(places))]
        for tenant in ("", "acme", "acme:order"):
            for namespace in ("order", "order:4"):
                page = await store.list(tenant, namespace)
                assert {each.key[:2] for each in page.items} == {(tenant, namespace)}
                assert len(page.items) == 4
        assert [len(await store.history(key)) for key in places] == [1] * len(places)

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "word",
        ["x" * 512, "ü" * 256, "a/b c%d?e#f", "two\r\nlines 'and' \"quotes\"", "0", "~", "lone \udc80", "\U0010ffff"],
    )
    async def test_any_word_of_up_to_512_bytes_without_nul_is_a_key(self, store: DocumentStore, word: str) -> None:
        kept = item(7, key=StateKey(word, word, word))
        assert await store.store([kept]) == [7]
        assert await store.load([kept.key]) == [kept]
        assert (await store.list(word, word, prefix=word[:1])).items == [kept]
        assert [revision.item for revision in await store.history(kept.key)] == [kept]

    @pytest.mark.asyncio
    async def test_long_keys_that_differ_at_their_end_alone_are_two(self, store: DocumentStore) -> None:
        first, second = item(7, '"a"', key="x" * 511 + "a"), item(8, '"b"', key="x" * 511 + "b")
        await store.store([first, second])
        assert await store.load([first.key, second.key]) == [first, second]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["a\0b", "x" * 513, "ü" * 257])
    async def test_another_word_is_refused_and_nothing_stored(self, store: DocumentStore, word: str) -> None:
        for bad in (StateKey(word, "order", "1"), StateKey("acme", word, "1"), StateKey("acme", "order", word)):
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await store.store([item(7), item(7, key=bad)])
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await store.load([bad])
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await store.history(bad)
        with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
            await store.list(word, "order")
        with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
            await store.list("acme", "")
        assert await load(store) is None

    # Values

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "value", ["", '@{"file":"f1"}', '"\\u0000"', '{"b":1,  "a":1.0}', "1e400", '"\udc80"', "x" * MOST_STATE]
    )
    async def test_any_value_of_up_to_256_kilobytes_is_kept_as_it_was(self, store: DocumentStore, value: str) -> None:
        await store.store([item(7, value)])
        assert await load(store) == item(7, value)
        assert [revision.item.value for revision in await store.history(key_of())] == [value]

    @pytest.mark.asyncio
    async def test_a_larger_value_is_refused_with_its_size_and_nothing_stored(self, store: DocumentStore) -> None:
        with pytest.raises(ValueError, match=r"order/43 has 262146 bytes, and 262144 is the most"):
            await store.store([item(7), item(7, "ü" * 131_073, key="43")])
        assert await load(store) is None

    @pytest.mark.asyncio
    @pytest.mark.parametrize("expires_at", [float("nan"), float("inf"), float("-inf")])
    async def test_an_end_that_no_clock_comes_to_is_refused(self, store: DocumentStore, expires_at: float) -> None:
        with pytest.raises(ValueError, match=r"expires_at=-?(nan|inf): seconds since the epoch"):
            await store.store([item(7), item(7, key="43", expires_at=expires_at)])
        assert await load(store) is None

    # Lists

    @pytest.mark.asyncio
    async def test_a_list_goes_by_code_points_page_by_page(self, stores: Sequence[DocumentStore]) -> None:
        words = [
            "Z",
            "a",
            "A",
            "aa",
            "a_",
            "a-",
            "a0",
            "ä",
            "é",
            "z",
            "10",
            "9",
            "~",
            "ﬀ",
            "😀",
            "\ud7ff",
            "B",
            "b",
            " ",
        ]
        await stores[0].store([item(number + 1, key=word) for number, word in enumerate(words)])
        for most in (1, 3, len(words), 100):
            assert await keys(stores[-1], most=most) == sorted(words)
        assert await keys(stores[-1], prefix="a") == ["a", "a-", "a0", "a_", "aa"]

    @pytest.mark.asyncio
    async def test_a_prefix_is_no_pattern(self, store: DocumentStore) -> None:
        words = ["50%", "50%-off", "500", "5_0", "5x0", "ü1", "ü2", "û", "ý", "\U0010ffff", "\U0010ffffa"]
        await store.store([item(1, key=word) for word in words])
        assert await keys(store, prefix="50%") == ["50%", "50%-off"]
        assert await keys(store, prefix="5_") == ["5_0"]
        assert await keys(store, prefix="ü") == ["ü1", "ü2"]
        assert await keys(store, prefix="\U0010ffff") == ["\U0010ffff", "\U0010ffffa"]
        assert await keys(store, prefix="nothing") == []
        assert await keys(store, namespace="other") == []

    @pytest.mark.asyncio
    async def test_a_page_begins_after_a_key_that_is_no_longer_there(self, store: DocumentStore) -> None:
        await store.store([item(1, key=word) for word in "abcdef"])
        first = await store.list("acme", "order", most=3)
        assert first.after == "c"
        await store.store([item(2, None, key="c"), item(2, None, key="d")])
        assert [each.key.key for each in (await store.list("acme", "order", after=first.after)).items] == ["e", "f"]
        assert [each.key.key for each in (await store.list("acme", "order", prefix="b", after="a")).items] == ["b"]
        assert (await store.list("acme", "order", prefix="b", after="z")).items == []

    @pytest.mark.asyncio
    async def test_pages_are_full_over_any_number_of_deleted_items(self, store: DocumentStore) -> None:
        gone = [item(1, None, key=f"b{number:03}") for number in range(120)]
        await store.store([*gone, item(1, key="a"), item(1, key="c")])
        page = await store.list("acme", "order", most=2)
        assert [each.key.key for each in page.items] == ["a", "c"]
        assert page.after is None

    # History

    @pytest.mark.asyncio
    async def test_the_history_is_told_newest_first_and_page_by_page(self, store: DocumentStore) -> None:
        began = time.time()
        for version in range(1, 8):
            await store.store([item(version, None if version == 4 else f'"{version}"')])
        history = await store.history(key_of(), most=3)
        assert [revision.item for revision in history] == [item(7, '"7"'), item(6, '"6"'), item(5, '"5"')]
        assert all(began - 60 < revision.stored_at < time.time() + 60 for revision in history)
        more = await store.history(key_of(), before=5, most=3)
        assert [revision.item for revision in more] == [item(4, None), item(3, '"3"'), item(2, '"2"')]
        assert await store.history(key_of(), before=1) == []
        assert await versions(store, most=20) == [7, 6, 5, 4, 3, 2, 1]

    @pytest.mark.asyncio
    async def test_the_history_keeps_a_hundred_versions_and_has_a_bound(self, store: DocumentStore) -> None:
        last = 2 * KEPT_VERSIONS + 60
        for version in range(1, last + 1):
            await store.store([item(version)])
        kept = await versions(store, most=1000)
        assert kept == list(range(last, last - len(kept), -1))
        assert KEPT_VERSIONS <= len(kept) <= 2 * KEPT_VERSIONS

    # Cleaning up

    @pytest.mark.asyncio
    async def test_clean_up_removes_the_expired_and_old_tombstones_with_their_histories(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        store = stores[0]
        await store.store([item(1, key="expired"), item(1, key="deleted"), item(1, key="expired before")])
        await store.store(
            [
                item(2, key="expired", expires_at=NOW - 10),
                item(2, None, key="deleted", written_at=NOW - DAY),
                item(2, None, key="just deleted", written_at=NOW),
                item(2, key="expires later", expires_at=NOW + DAY),
                item(2, key="old", written_at=NOW - DAY),
                item(2, key="expired before", expires_at=NOW - 10),
            ]
        )
        await store.store([item(3, key="expired before")])
        assert await store.clean_up(now=NOW - 20, tombstones_before=NOW - DAY) == 0
        assert await store.clean_up(now=NOW, tombstones_before=NOW - 1) == 2
        assert await stores[-1].clean_up(now=NOW, tombstones_before=NOW - 1) == 0
        for key in ("expired", "deleted"):
            assert await load(store, key) is None
            assert await versions(store, key) == []
        for key in ("just deleted", "expires later", "old"):
            assert await load(store, key) is not None
            assert await versions(store, key) == [2]
        assert await versions(store, "expired before") == [3, 2, 1]

    @pytest.mark.asyncio
    async def test_clean_up_removes_more_than_fit_into_one_step(self, store: DocumentStore) -> None:
        for start in range(0, 1_200, 300):
            await store.store([item(1, key=f"k{number}", expires_at=NOW - 10) for number in range(start, start + 300)])
        await store.store([item(1, key="stays")])
        assert await store.clean_up(now=NOW, tombstones_before=0) == 1_200
        assert await keys(store, most=100) == ["stays"]

    @pytest.mark.asyncio
    async def test_what_was_cleaned_up_may_come_again(self, store: DocumentStore) -> None:
        await store.store([item(5, expires_at=NOW - 10)])
        assert await store.clean_up(now=NOW, tombstones_before=0) == 1
        assert await store.store([item(2)]) == [2]
        assert await versions(store) == [2]
