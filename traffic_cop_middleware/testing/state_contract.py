"""What every `StateStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from traffic_cop_middleware.contracts import Item, StateKey, StateStore
from traffic_cop_middleware.contracts.state import MOST_HOT, WHOLE
from traffic_cop_middleware.testing.state_asking import FAR, answer, at, changed, listed, load, put, write
from traffic_cop_middleware.testing.state_contract_shapes import StateShapesContract


class StateStoreContract(StateShapesContract):
    """Every promise of `StateStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on one empty store, or one where the store
    is this process; and where it has a fake clock a fixture `elapse` that lets seconds pass on it::

        class TestMyState(StateStoreContract):
            @pytest.fixture
            def stores(self) -> Sequence[StateStore]:
                return [MyState()]
    """

    more_than_remembered = 12_000
    """So many changes of one item that the first of them are forgotten."""

    # Warming and forgetting

    @pytest.mark.asyncio
    async def test_what_the_documents_have_is_taken_over_where_it_is_newer(self, stores: Sequence[StateStore]) -> None:
        store = stores[0]
        there = await put(store, at("a"), "there")
        cursor = (await changed(store, None)).cursor
        older = there._replace(version=there.version - 1, value="older")
        same = there._replace(value="same")
        fresh = Item(at("b"), 7, "documents", "immediate", there.written_at - 5, there.written_at + FAR)
        gone = Item(at("c"), 8, None, "delayed", there.written_at - 5)
        ended = Item(at("d"), 9, "ended", "delayed", there.written_at - 5, there.written_at - 1)
        await answer(store.warm([older, fresh, gone, ended]))
        await answer(store.warm([same]))
        await answer(store.warm([]))
        tombstone = ended._replace(value=None, expires_at=None)
        for each in stores:
            keys = [at("a"), at("b"), at("c"), at("d")]
            assert list(await answer(each.load(keys))) == [there, fresh, gone, tombstone]
        assert await listed(store) == [there, fresh]
        newer = there._replace(version=there.version + 1, value="newer")
        await answer(store.warm([newer, fresh._replace(version=6)]))
        assert list(await answer(store.load([at("a"), at("b")]))) == [newer, fresh]
        assert (await changed(store, cursor)).changes == []

    @pytest.mark.asyncio
    async def test_what_was_warmed_is_written_at_its_version(self, store: StateStore) -> None:
        now = (await put(store, at("a"), "1")).written_at
        await answer(store.warm([Item(at("b"), 7, "1", "delayed", now)]))
        assert (await write(store, at("b"), "2", if_version=6)).outcome == "conflict"
        written = await write(store, at("b"), "2", tier=None, if_version=7)
        assert written.item is not None
        assert (written.outcome, written.item.tier) == ("written", "delayed")
        await answer(store.warm([Item(at("c"), 8, None, "delayed", now)]))
        assert (await write(store, at("c"), "1", if_version=0)).outcome == "written"

    @pytest.mark.asyncio
    async def test_a_version_goes_on_from_one_that_lies_ahead_of_the_clock(self, store: StateStore) -> None:
        ahead = (await put(store, at("a"), "1")).version + 10**12
        await answer(store.warm([Item(at("a"), ahead, "1", "cache", 1.0)]))
        assert [(await put(store, at("a"), str(turn))).version for turn in range(3)] == [
            ahead + 1,
            ahead + 2,
            ahead + 3,
        ]

    @pytest.mark.asyncio
    async def test_an_item_is_forgotten_at_its_version_alone(self, store: StateStore) -> None:
        first = await put(store, at("a"), "1")
        second = await put(store, at("a"), "2")
        gone = await put(store, at("b"), None)
        await answer(store.forget(at("a"), version=first.version))
        await answer(store.forget(at("never there"), version=1))
        assert await load(store, at("a")) == second
        await answer(store.forget(at("a"), version=second.version))
        await answer(store.forget(at("b"), version=gone.version))
        assert list(await answer(store.load([at("a"), at("b")]))) == [None, None]
        assert await listed(store) == []
        assert (await write(store, at("a"), "3", if_version=second.version)).outcome == "unknown"

    @pytest.mark.asyncio
    async def test_a_version_is_not_used_twice_after_it_was_forgotten(self, store: StateStore) -> None:
        versions = []
        for turn in range(20):
            item = await put(store, at("a"), str(turn))
            versions.append(item.version)
            await answer(store.forget(at("a"), version=item.version))
        assert versions == sorted(set(versions))

    # Lists

    @pytest.mark.asyncio
    async def test_a_list_is_in_the_order_of_code_points_page_by_page(self, store: StateStore) -> None:
        keys = [f"k{number}" for number in range(60)]
        keys += ["", "k", "K", "ü", "übel", "z", "日本", "🚓", "\uffff", "\U0010ffff", "k5 {x}", "k5\n", "lone \udc80"]
        for key in keys[::-1]:
            if key:
                await put(store, at(key), f'"{key}"')
        for prefix in ("", "k", "k5", "K", "ü", "\U0010ffff", "日", "nothing"):
            found = await listed(store, prefix=prefix)
            assert [item.key.key for item in found] == sorted(key for key in keys if key and key.startswith(prefix))
            assert all(item.value == f'"{item.key.key}"' for item in found)

    @pytest.mark.asyncio
    async def test_a_list_begins_after_any_key_and_ends_with_most(self, store: StateStore) -> None:
        items = [await put(store, at(key), "1") for key in ("a", "b", "ba", "c", "d")]
        for after, prefix, expected in [
            ("a", "", items[1:]),
            ("aa", "", items[1:]),
            ("b", "b", items[2:3]),
            ("a", "b", items[1:3]),
            ("c", "b", []),
            ("d", "", []),
            ("z", "", []),
        ]:
            page = await answer(store.list("acme", "cart", prefix=prefix, after=after))
            assert (page.items, page.after) == (expected, None)
        page = await answer(store.list("acme", "cart", most=2))
        assert (page.items, page.after) == (items[:2], "b")
        page = await answer(store.list("acme", "cart", most=5))
        assert (page.items, page.after) == (items, None)

    @pytest.mark.asyncio
    async def test_a_thousand_items_are_listed_also_where_most_were_deleted(self, store: StateStore) -> None:
        for start in range(0, 1000, 100):
            asked = [
                store.write(at(f"k{number:04d}"), str(number), tier="cache") for number in range(start, start + 100)
            ]
            for one in asked:
                await answer(one)
        asked = [store.write(at(f"k{number:04d}"), None, tier="cache") for number in range(1000) if number % 50]
        for one in asked:
            await answer(one)
        assert [item.value for item in await listed(store)] == [str(number) for number in range(0, 1000, 50)]

    # Changes

    @pytest.mark.asyncio
    async def test_a_watcher_hears_of_what_was_written_after_its_cursor(self, stores: Sequence[StateStore]) -> None:
        store, other = stores[0], stores[-1]
        await put(store, at("a"), "before")
        cursor = (await changed(other, None)).cursor
        assert await changed(other, None) == ([], cursor, False)
        assert await changed(other, cursor) == ([], cursor, False)
        first = await put(store, at("a"), "1")
        second = await put(store, at("b"), "2", tier="delayed")
        gone = await put(other, at("a"), None)
        lost = await write(store, at("b"), "lost", if_version=WHOLE - 1)
        assert lost.outcome == "conflict"
        await put(store, at("a", namespace="other"), "1")
        await put(store, at("a", tenant="other"), "1")
        heard = await changed(other, cursor)
        told = [(change.key, change.version, change.deleted) for change in heard.changes]
        assert sorted(told) == sorted(
            [(at("a"), first.version, False), (at("b"), second.version, False), (at("a"), gone.version, True)]
        )
        assert [version for key, version, _ in told if key == at("a")] == [first.version, gone.version]
        assert not heard.lost
        assert (await changed(other, heard.cursor)).changes == []

    @pytest.mark.asyncio
    async def test_a_watcher_of_a_prefix_hears_of_that_alone(self, store: StateStore) -> None:
        cursor = (await changed(store, None)).cursor
        for key in ("user:1", "user:2", "use", "order:1", "user:10"):
            await put(store, at(key), "1")
        heard = await changed(store, cursor, prefix="user:1")
        assert sorted(change.key.key for change in heard.changes) == ["user:1", "user:10"]

    @pytest.mark.asyncio
    async def test_a_watcher_goes_on_from_any_change_without_gap_or_double(self, store: StateStore) -> None:
        cursor = (await changed(store, None)).cursor
        written = [await put(store, at(f"k{turn * 7 % 10}"), str(turn)) for turn in range(60)]
        versions = sorted((item.key, item.version) for item in written)
        whole = await changed(store, cursor)
        assert sorted(change[:2] for change in whole.changes) == versions
        for stop in (0, 1, 17, 58, 59):
            rest = await changed(store, whole.changes[stop].cursor)
            heard = [change[:2] for change in (*whole.changes[: stop + 1], *rest.changes)]
            assert sorted(heard) == versions
        heard, since = [], cursor
        for _ in range(100):
            page = await changed(store, since, most=7)
            assert len(page.changes) <= 7
            assert not page.lost
            heard += [change[:2] for change in page.changes]
            if page.cursor == since:
                break
            since = page.cursor
        assert sorted(heard) == versions
        for key in {item.key for item in written}:
            own = [version for other, version in heard if other == key]
            assert own == sorted(own)

    @pytest.mark.asyncio
    async def test_more_changes_than_are_remembered_are_told_as_lost_and_one_goes_on_from_there(
        self, store: StateStore
    ) -> None:
        cursor = (await changed(store, None)).cursor
        for start in range(0, self.more_than_remembered, 500):
            asked = [store.write(at("hot"), str(number), tier="cache") for number in range(start, start + 500)]
            for one in asked:
                await answer(one)
        heard = await changed(store, cursor)
        assert (heard.lost, heard.changes) == (True, [])
        item = await put(store, at("hot"), "after")
        then = await changed(store, heard.cursor)
        assert [change[:3] for change in then.changes] == [(at("hot"), item.version, False)]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("cursor", ["", "x", "0", "1-1-1", "\udc80", "9" * 5000, "," * 40, "-1"])
    async def test_what_is_no_cursor_is_refused(self, store: StateStore, cursor: str) -> None:
        with pytest.raises(ValueError, match="no cursor of this store"):
            await changed(store, cursor)

    # What is taken

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["x" * 512, "ü" * 256, "two\r\nlines {and} braces", " ", "0", "lone \udc80"])
    async def test_any_word_of_up_to_512_bytes_without_nul_is_kept(self, store: StateStore, word: str) -> None:
        cursor = (await answer(store.changes(word, word, since=None))).cursor
        item = await put(store, StateKey(word, word, word), '"x"', tier="delayed")
        assert await load(store, item.key) == item
        assert await listed(store, word, tenant=word, prefix=word) == [item]
        heard = await answer(store.changes(word, word, prefix=word, since=cursor))
        assert [change[:3] for change in heard.changes] == [(item.key, item.version, False)]

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "value",
        [
            "",
            "null",
            "-",
            "=",
            '@{"file":"f1"}',
            "two\r\nlines \0",
            "grüß dich 🚓 \udc80",
            "x" * 262_145,
            "ü" * 1_000_000,
        ],
    )
    async def test_any_value_is_kept_as_it_was(self, store: StateStore, value: str) -> None:
        item = await put(store, at("a"), value)
        assert item.value == value
        assert await load(store, at("a")) == item
        assert await listed(store) == [item]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["", "a\0b", "x" * 513, "ü" * 257])
    async def test_another_word_is_refused_everywhere(self, store: StateStore, word: str) -> None:
        for key in [StateKey("t", "n", word), StateKey("t", word, "k"), StateKey(word or "\0", "n", "k")]:
            item = Item(key, 1, "1", "cache", 1.0)
            for ask in (
                lambda key=key: store.load([key]),
                lambda key=key: store.write(key, "1", tier="cache"),
                lambda item=item: store.warm([item]),
                lambda item=item: store.reshape([item]),
                lambda key=key: store.forget(key, version=1),
            ):
                with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                    await answer(ask())
        for tenant, namespace in [("t", word), (word or "\0", "n")]:
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await answer(store.list(tenant, namespace))
            with pytest.raises(ValueError, match="has from 1 to 512 bytes, and no NUL"):
                await answer(store.changes(tenant, namespace))

    @pytest.mark.asyncio
    async def test_a_value_of_sixteen_megabytes_is_kept(self, store: StateStore) -> None:
        item = await put(store, at("a"), "x" * MOST_HOT)
        assert await load(store, at("a")) == item

    @pytest.mark.asyncio
    @pytest.mark.parametrize("large", ["x" * (MOST_HOT + 1), "ü" * (MOST_HOT // 2 + 1)])
    async def test_a_larger_value_is_refused_with_its_size(self, store: StateStore, large: str) -> None:
        there = await put(store, at("a"), "1")
        for ask in (
            lambda: store.write(at("a"), large, tier="cache"),
            lambda: store.warm([there._replace(version=there.version + 1, value=large)]),
            lambda: store.reshape([there._replace(value=large)]),
        ):
            with pytest.raises(ValueError, match=r"cart/a has 1677721[78] bytes, and 16777216 is the most"):
                await answer(ask())
        assert await load(store, at("a")) == there

    # What is kept in front of it

    @pytest.mark.asyncio
    async def test_who_keeps_items_hears_when_others_write_them(self, stores: Sequence[StateStore]) -> None:
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
        heard.clear()
        item = await put(stores[-1], at("a"), "1", tier="delayed")
        await until(lambda: any(keys is not None and item.key in keys for keys in heard))
        heard.clear()
        await put(stores[-1], at("a"), None)
        await until(lambda: any(keys is None or item.key in keys for keys in heard))
        end()
        end()
        heard.clear()
        await put(stores[-1], at("a"), "2")
        assert await load(stores[0], at("a")) is not None
        assert heard == []
