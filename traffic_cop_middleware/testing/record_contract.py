"""What every `RecordStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

import pytest

from traffic_cop_middleware.contracts import Changes, Record, RecordStore

KIND = "routes"


async def read(store: RecordStore, *, since: int = 0, kind: str = KIND) -> Changes:
    """From a store that answers at once and from one that gives something to await."""
    changes = store.read(kind, since=since)
    return await changes if isinstance(changes, Awaitable) else changes


async def changed(
    store: RecordStore, values: Mapping[str, str | None], *, at: int | None = None, kind: str = KIND
) -> int | None:
    version = store.change(kind, values, at=at)
    return await version if isinstance(version, Awaitable) else version


async def written(store: RecordStore, values: Mapping[str, str | None], *, kind: str = KIND) -> int:
    """The version after a change that nothing can hinder."""
    version = await changed(store, values, kind=kind)
    assert version is not None
    return version


class Follower:
    """Knows a collection by what it reads of its changes."""

    def __init__(self, store: RecordStore, kind: str = KIND) -> None:
        self.store = store
        self.kind = kind
        self.version = 0
        self.content: dict[str, Record] = {}

    @property
    def values(self) -> dict[str, str | None]:
        return {name: record.value for name, record in self.content.items()}

    async def follow(self) -> Changes:
        changes = await read(self.store, since=self.version, kind=self.kind)
        self.take(changes)
        return changes

    def take(self, changes: Changes) -> None:
        versions = [record.version for record in changes.records]
        assert versions == sorted(versions)
        assert all(version <= changes.version for version in versions)
        assert len({record.name for record in changes.records}) == len(versions)
        if changes.whole:
            assert all(record.value is not None for record in changes.records)
            self.content = {}
        else:
            assert all(version > self.version for version in versions)
        for record in changes.records:
            if record.value is None:
                self.content.pop(record.name, None)
            else:
                self.content[record.name] = record
        self.version = changes.version


class RecordStoreContract:
    """Every promise of `RecordStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on one empty store, or one where the store
    is this process::

        class TestMyRecords(RecordStoreContract):
            @pytest.fixture
            def stores(self) -> Sequence[RecordStore]:
                return [MyRecords()]
    """

    @pytest.fixture
    def store(self, stores: Sequence[RecordStore]) -> RecordStore:
        return stores[0]

    # Reading

    @pytest.mark.asyncio
    async def test_a_kind_that_was_never_written_has_version_zero_and_no_records(self, store: RecordStore) -> None:
        assert await read(store) == (0, [], True)
        assert await read(store, since=12345) == (0, [], True)

    @pytest.mark.asyncio
    async def test_all_workers_read_what_one_has_written(self, stores: Sequence[RecordStore]) -> None:
        version = await written(stores[0], {"a": '{"to":"x"}'})
        for store in stores:
            assert await read(store) == (version, [Record("a", version, '{"to":"x"}')], True)

    @pytest.mark.asyncio
    async def test_versions_are_below_two_to_the_53rd_and_grow(self, stores: Sequence[RecordStore]) -> None:
        versions = [await written(stores[turn % len(stores)], {"a": str(turn)}) for turn in range(20)]
        assert versions[0] > 0
        assert versions == sorted(set(versions))
        assert versions[-1] < 2**53

    @pytest.mark.asyncio
    async def test_who_knows_a_version_reads_what_has_changed_since_in_order(self, store: RecordStore) -> None:
        first = await written(store, {"a": "1", "b": "1"})
        second = await written(store, {"c": "2"})
        third = await written(store, {"a": "3"})
        assert await read(store, since=first) == (third, [Record("c", second, "2"), Record("a", third, "3")], False)
        assert await read(store, since=second) == (third, [Record("a", third, "3")], False)
        assert await read(store, since=third) == (third, [], False)
        everything = [Record("b", first, "1"), Record("c", second, "2"), Record("a", third, "3")]
        assert await read(store) == (third, everything, True)

    @pytest.mark.asyncio
    async def test_a_removal_is_told_to_who_knew_the_record(self, store: RecordStore) -> None:
        first = await written(store, {"a": "1", "b": "1"})
        second = await written(store, {"a": None})
        assert await read(store, since=first) == (second, [Record("a", second, None)], False)
        assert await read(store) == (second, [Record("b", first, "1")], True)
        third = await written(store, {"a": "3"})
        assert await read(store, since=first) == (third, [Record("a", third, "3")], False)
        assert await read(store, since=second) == (third, [Record("a", third, "3")], False)

    @pytest.mark.asyncio
    async def test_removing_what_is_not_there_changes_the_version_and_nothing_else(self, store: RecordStore) -> None:
        never = await written(store, {"a": None})
        assert await read(store) == (never, [], True)
        first = await written(store, {"a": "1"})
        second = await written(store, {"a": None})
        third = await written(store, {"a": None, "b": None})
        assert never < first < second < third
        assert await read(store, since=first) == (third, [Record("a", second, None)], False)
        assert await read(store, since=second) == (third, [], False)

    @pytest.mark.asyncio
    async def test_a_version_of_the_future_is_answered_with_everything(self, store: RecordStore) -> None:
        version = await written(store, {"a": "1"})
        assert await read(store, since=version + 1) == (version, [Record("a", version, "1")], True)
        assert await read(store, since=2**53 - 1) == (version, [Record("a", version, "1")], True)

    @pytest.mark.asyncio
    async def test_kinds_do_not_know_each_other(self, store: RecordStore) -> None:
        routes = await written(store, {"a": "1"})
        limits = await written(store, {"a": "2"}, kind="routes:more")
        assert await read(store) == (routes, [Record("a", routes, "1")], True)
        assert await read(store, kind="routes:more") == (limits, [Record("a", limits, "2")], True)
        assert await changed(store, {"a": "3"}, at=routes) is not None

    # Compare and set

    @pytest.mark.asyncio
    async def test_a_change_at_another_version_changes_nothing(self, stores: Sequence[RecordStore]) -> None:
        store, other = stores[0], stores[-1]
        first = await changed(store, {"a": "1"}, at=0)
        assert first is not None
        assert await changed(other, {"b": "lost"}, at=0) is None
        second = await changed(other, {"b": "2"}, at=first)
        assert second is not None
        assert await changed(store, {"a": None, "c": "lost"}, at=first) is None
        assert await read(store) == (second, [Record("a", first, "1"), Record("b", second, "2")], True)

    @pytest.mark.asyncio
    async def test_a_change_of_several_records_gives_all_of_them_one_version(self, store: RecordStore) -> None:
        first = await written(store, {"a": "1", "b": "1", "c": "1"})
        second = await changed(store, {"a": None, "b": "2", "d": "2"}, at=first)
        assert second is not None
        changes = await read(store, since=first)
        assert changes.version == second
        assert not changes.whole
        assert sorted(changes.records) == [("a", second, None), ("b", second, "2"), ("d", second, "2")]

    @pytest.mark.asyncio
    async def test_concurrent_changes_of_twenty_writers_keep_twenty(self, stores: Sequence[RecordStore]) -> None:
        async def writer(number: int) -> None:
            store = stores[number % len(stores)]
            for _ in range(1000):
                changes = await read(store)
                total = {record.name: record.value for record in changes.records}.get("total") or "0"
                values = {f"writer {number}": "1", "total": str(int(total) + 1)}
                if await changed(store, values, at=changes.version) is not None:
                    return
                await asyncio.sleep(number / 5_000)
            raise AssertionError("never")

        await asyncio.gather(*(writer(number) for number in range(20)))
        content = {record.name: record.value for record in (await read(stores[0])).records}
        assert content == {"total": "20"} | {f"writer {number}": "1" for number in range(20)}

    @pytest.mark.asyncio
    async def test_several_questions_may_be_asked_before_the_first_is_awaited(self, store: RecordStore) -> None:
        asked = [store.change(KIND, {name: "1"}, at=None) for name in "abc"]
        then = store.read(KIND)
        versions = [await one if isinstance(one, Awaitable) else one for one in asked]
        changes = await then if isinstance(then, Awaitable) else then
        assert [(record.name, record.version) for record in changes.records] == list(zip("abc", versions, strict=True))

    # Following

    @pytest.mark.asyncio
    async def test_a_follower_ends_with_what_there_is_also_over_more_removals_than_are_remembered(
        self, stores: Sequence[RecordStore]
    ) -> None:
        store, often, rarely = stores[0], Follower(stores[-1]), Follower(stores[-1])
        for turn in range(6):
            names = [f"{turn} {number}" for number in range(700)]
            await written(store, dict.fromkeys(names, "1"))
            assert not (await often.follow()).whole or turn == 0
            if turn == 0:
                await rarely.follow()
            await written(store, dict.fromkeys(names[1:]))
            assert not (await often.follow()).whole
        assert (await rarely.follow()).whole
        assert rarely.content == often.content
        assert sorted(often.content) == [f"{turn} 0" for turn in range(6)]

    @pytest.mark.asyncio
    async def test_ten_thousand_records_are_read_while_they_change(self, stores: Sequence[RecordStore]) -> None:
        store, reader = stores[0], stores[-1]
        content: dict[str, str] = {}
        for start in range(0, 10_000, 1_000):
            values = {f"r{number}": str(number) for number in range(start, start + 1_000)}
            await written(store, values)
            content |= values
        follower, late = Follower(reader), Follower(reader)
        await late.follow()
        going = True

        async def writer() -> None:
            turn = 0
            while going:
                turn += 1
                values: dict[str, str | None] = {f"r{turn * 7919 % 10_000}": f"new {turn}", f"more {turn}": "1"}
                values[f"r{turn * 104_729 % 10_000}"] = None
                await written(store, values)
                for name, value in values.items():
                    if value is None:
                        content.pop(name, None)
                    else:
                        content[name] = value
                await asyncio.sleep(0)

        writing = asyncio.create_task(writer())
        for _ in range(5):
            await follower.follow()
            await asyncio.sleep(0)
        going = False
        await writing
        for each in (follower, late, Follower(reader)):
            await each.follow()
            assert each.values == content

    # What is taken

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", ["x" * 512, "ü" * 256, "two\r\nlines {and} braces", " ", "0", "lone \udc80"])
    async def test_any_name_of_up_to_512_bytes_without_nul_is_kept(self, store: RecordStore, name: str) -> None:
        first = await written(store, {name: '"x"'})
        assert (await read(store)).records == [Record(name, first, '"x"')]
        second = await written(store, {name: None})
        assert (await read(store, since=first)).records == [Record(name, second, None)]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("value", ["", "null", "two\r\nlines and a \0", "grüß dich 🚓", "x" * 65_536])
    async def test_any_value_of_up_to_64_kilobytes_is_kept_as_it_was(self, store: RecordStore, value: str) -> None:
        await written(store, {"a": value})
        assert [record.value for record in (await read(store)).records] == [value]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 513, "ü" * 257])
    async def test_another_name_is_refused(self, store: RecordStore, name: str) -> None:
        with pytest.raises(ValueError, match="a name has from 1 to 512 bytes, and no NUL"):
            await changed(store, {"fine": "1", name: "1"})
        assert await read(store) == (0, [], True)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("value", ["x" * 65_537, "ü" * 32_769])
    async def test_a_larger_value_is_refused_with_its_size(self, store: RecordStore, value: str) -> None:
        with pytest.raises(ValueError, match=r"'a' of 'routes' has 6553[78] bytes, and 65536 is the most"):
            await changed(store, {"a": value})

    @pytest.mark.asyncio
    @pytest.mark.parametrize("kind", ["", "a{b", "a}b", "a\0b", "x" * 129])
    async def test_a_kind_that_is_no_plain_word_is_refused(self, store: RecordStore, kind: str) -> None:
        with pytest.raises(ValueError, match="a kind is a plain word without braces"):
            await changed(store, {"a": "1"}, kind=kind)
        with pytest.raises(ValueError, match="a kind is a plain word without braces"):
            await read(store, kind=kind)

    @pytest.mark.asyncio
    async def test_a_thousand_records_or_a_megabyte_are_changed_at_once_and_no_more(self, store: RecordStore) -> None:
        many = {f"r{number}": "1" for number in range(1_000)}
        version = await written(store, many)
        assert len((await read(store)).records) == 1_000
        with pytest.raises(ValueError, match="a change of 1001 records of 'routes': from 1 to 1000 are changed"):
            await changed(store, many | {"one more": "1"})
        with pytest.raises(ValueError, match="a change of 0 records"):
            await changed(store, {})
        await written(store, {f"l{number}": "x" * 65_000 for number in range(16)})
        with pytest.raises(ValueError, match=r"1048576 bytes are changed at once at the most"):
            await changed(store, {f"l{number}": "x" * 65_536 for number in range(16)})
        assert [len(record.value or "") for record in (await read(store, since=version)).records] == [65_000] * 16
