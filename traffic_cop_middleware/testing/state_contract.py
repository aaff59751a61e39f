"""What every `StateStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import pytest

from traffic_cop_middleware.contracts import Changed, Item, Page, StateKey, StateStore, Tier, Written
from traffic_cop_middleware.contracts.state import WHOLE

T = TypeVar("T")
Elapse = Callable[[float], Awaitable[None]]
FAR = 3600.0
"""Seconds that no test comes to the end of."""


async def answer(asked: T | Awaitable[T]) -> T:
    """From a store that answers at once and from one that gives something to await."""
    return cast("T", await asked if isinstance(asked, Awaitable) else asked)


def at(key: str, *, namespace: str = "cart", tenant: str = "acme") -> StateKey:
    return StateKey(tenant, namespace, key)


async def write(
    store: StateStore,
    key: StateKey,
    value: str | None,
    *,
    tier: Tier | None = "cache",
    if_version: int | None = None,
    expires_at: float | None = None,
    missing: bool = False,
) -> Written:
    return await answer(
        store.write(key, value, tier=tier, if_version=if_version, expires_at=expires_at, missing=missing)
    )


async def put(
    store: StateStore, key: StateKey, value: str | None, *, tier: Tier = "cache", expires_at: float | None = None
) -> Item:
    """What is there after a write that nothing can hinder."""
    written = await write(store, key, value, tier=tier, expires_at=expires_at)
    assert written.outcome == "written"
    assert written.item is not None
    return written.item


async def load(store: StateStore, key: StateKey) -> Item | None:
    (item,) = await answer(store.load([key]))
    return item


async def listed(store: StateStore, namespace: str = "cart", *, tenant: str = "acme", prefix: str = "") -> list[Item]:
    """All items of a namespace, page by page."""
    items: list[Item] = []
    after: str | None = None
    for _ in range(10_000):
        page: Page = await answer(store.list(tenant, namespace, prefix=prefix, after=after, most=7))
        assert len(page.items) <= 7
        items += page.items
        if page.after is None:
            return items
        assert after is None or page.after > after
        after = page.after
    raise AssertionError("no end")


async def changed(store: StateStore, since: str | None, *, prefix: str = "", most: int = 1000) -> Changed:
    return await answer(store.changes("acme", "cart", prefix=prefix, since=since, most=most))


class StateStoreContract:
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
        assert written.item == Item(at("a"), written.item.version, '{"n":1}', "cache", written.item.written_at, None)
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
    @pytest.mark.parametrize("value", ["", "null", "-", "=", "two\r\nlines \0", "grüß dich 🚓 \udc80", "x" * 262_144])
    async def test_any_value_of_up_to_256_kilobytes_is_kept_as_it_was(self, store: StateStore, value: str) -> None:
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
    @pytest.mark.parametrize("value", ["x" * 262_145, "ü" * 131_073])
    async def test_a_larger_value_is_refused_with_its_size(self, store: StateStore, value: str) -> None:
        with pytest.raises(ValueError, match=r"cart/a has 26214[56] bytes, and 262144 is the most"):
            await put(store, at("a"), value)
        assert await load(store, at("a")) is None

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
