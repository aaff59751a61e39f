"""What every `FileMetadataStore` keeps of files over time, as tests: history, lineage, and how they are used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import (
    Access,
    FileMetadataStore,
    Usage,
)
from traffic_cop_middleware.contracts.files import RELATIONS
from traffic_cop_middleware.testing.file_metadata_asking import (
    HOUR,
    NOW,
    done,
    edge,
    family,
    key_of,
    line,
    steps,
)


class FileLineageContract:
    """A part of `FileMetadataStoreContract`."""

    @pytest.fixture
    def store(self, stores: Sequence[FileMetadataStore]) -> FileMetadataStore:
        return stores[0]

    # History

    @pytest.mark.asyncio
    async def test_an_items_lines_are_kept_once_and_given_newest_first(
        self, stores: Sequence[FileMetadataStore]
    ) -> None:
        lines = [
            line(1, "cache", at=NOW),
            line(1, "delayed", at=NOW + 1),
            line(2, "delayed", at=NOW + 2),
            line(2, "file", at=NOW + 3, file="f2"),
        ]
        for told in (lines[2], lines[0], lines[3], lines[1]):
            for turn, store in enumerate([*stores, *stores]):
                await store.note(told._replace(at=told.at + turn, score=told.score if turn == 0 else 0.5))
        await stores[0].note(line(9, key=key_of("43")))
        for store in stores:
            assert list(await store.history(key_of())) == lines[::-1]
            assert list(await store.history(key_of(), most=2)) == lines[:1:-1]

    @pytest.mark.asyncio
    async def test_ten_that_note_at_once_leave_one_line(self, stores: Sequence[FileMetadataStore]) -> None:
        await asyncio.gather(*(stores[turn % len(stores)].note(line(at=NOW + turn)) for turn in range(10)))
        assert len(await stores[0].history(key_of())) == 1

    # Lineage

    @pytest.mark.asyncio
    async def test_ancestors_and_descendants_come_nearest_first(self, store: FileMetadataStore) -> None:
        await family(store, [("d", "c"), ("c", "b"), ("b", "a")])
        assert steps(await store.ancestors("acme", "d")) == [("c", "d", 1), ("b", "c", 2), ("a", "b", 3)]
        assert steps(await store.descendants("acme", "a")) == [("b", "a", 1), ("c", "b", 2), ("d", "c", 3)]
        assert steps(await store.descendants("acme", "a", most=2)) == [("b", "a", 1), ("c", "b", 2)]
        assert steps(await store.ancestors("acme", "a")) == []
        (nearest, *_) = await store.ancestors("acme", "d")
        assert nearest.row == (await store.load("acme", ["c"]))[0]
        assert nearest.relation == "supersedes"

    @pytest.mark.asyncio
    async def test_in_a_diamond_each_file_comes_once_at_its_fewest_steps(self, store: FileMetadataStore) -> None:
        #     a
        #    / \
        #   b   c
        #    \ / \
        #     d   e       and f comes from d, and straight from a
        await family(store, [("b", "a"), ("c", "a"), ("d", "b"), ("d", "c"), ("e", "c"), ("f", "d"), ("f", "a")])
        assert steps(await store.ancestors("acme", "f")) == [("a", "f", 1), ("d", "f", 1), ("b", "d", 2), ("c", "d", 2)]
        assert steps(await store.descendants("acme", "a")) == [
            *(("b", "a", 1), ("c", "a", 1), ("f", "a", 1)),
            *(("d", "b", 2), ("e", "c", 2)),
        ]
        assert steps(await store.descendants("acme", "a", most=4))[-1] == ("d", "b", 2)

    @pytest.mark.asyncio
    async def test_ladders_of_diamonds_are_walked_in_no_time(self, store: FileMetadataStore) -> None:
        rungs = 30  # 2**30 ways from one end to the other
        for rung in range(rungs):
            for side in "ab":
                id = f"{rung:02d}{side}"
                edges = [edge(id, f"{rung - 1:02d}{other}") for other in "ab"] if rung else []
                await done(store, id, *edges)
        found = await store.ancestors("acme", f"{rungs - 1:02d}a")
        assert len(found) == 2 * (rungs - 1)
        assert [each.steps for each in found] == [step for step in range(1, rungs) for _ in "ab"]

    @pytest.mark.asyncio
    async def test_a_circle_has_an_end(self, store: FileMetadataStore) -> None:
        await family(store, [("b", "a"), ("c", "b"), ("a", "c"), ("d", "a")])
        assert steps(await store.ancestors("acme", "a")) == [("c", "a", 1), ("b", "c", 2)]
        assert steps(await store.descendants("acme", "a")) == [("b", "a", 1), ("d", "a", 1), ("c", "b", 2)]

    @pytest.mark.asyncio
    async def test_a_long_history_is_walked_as_far_as_asked_for(self, store: FileMetadataStore) -> None:
        for version in range(80):
            await done(store, f"{version:03d}", *([edge(f"{version:03d}", f"{version - 1:03d}")] if version else []))
        found = await store.ancestors("acme", "079")
        assert steps(found) == [(f"{78 - each:03d}", f"{79 - each:03d}", each + 1) for each in range(79)]
        assert len(await store.ancestors("acme", "079", most=70)) == 70

    @pytest.mark.asyncio
    async def test_every_relation_is_kept_and_of_several_one_is_told(self, store: FileMetadataStore) -> None:
        await done(store, "old")
        for relation in RELATIONS:
            await done(store, relation, edge(relation, "old", relation))
        assert {each.row.id: each.relation for each in await store.descendants("acme", "old")} == {
            relation: relation for relation in RELATIONS
        }
        await done(store, "both", edge("both", "old", "supersedes"), edge("both", "old", "restored_from"))
        assert [each.relation for each in await store.ancestors("acme", "both")] == ["restored_from"]

    @pytest.mark.asyncio
    async def test_relatives_are_told_whatever_their_status(self, store: FileMetadataStore) -> None:
        await family(store, [("b", "a"), ("c", "b")])
        await store.set_status("acme", "b", "deleted", reason="", unless="pending", at=20.0)
        assert [(each.row.id, each.row.status) for each in await store.ancestors("acme", "c")] == [
            ("b", "deleted"),
            ("a", "done"),
        ]

    # Use

    @pytest.mark.asyncio
    async def test_counts_are_absolute_so_telling_them_again_changes_nothing(
        self, stores: Sequence[FileMetadataStore]
    ) -> None:
        access = Access(key_of(), "one", HOUR, 5, 2, NOW)
        for store in [*stores, *stores]:
            await store.saw([access, access._replace(worker="two", reads=1, last_at=NOW - 5)])
        assert await stores[-1].usage(key_of(), since_hour=HOUR) == Usage(6, 4, NOW)
        await stores[-1].saw([access._replace(reads=7, last_at=NOW + 1)])
        assert await stores[0].usage(key_of(), since_hour=HOUR) == Usage(8, 4, NOW + 1)

    @pytest.mark.asyncio
    async def test_of_counts_told_twice_at_once_the_later_is_kept(self, store: FileMetadataStore) -> None:
        access = Access(key_of(), "one", HOUR, 5, 2, NOW)
        await store.saw([access, access._replace(reads=9)])
        assert await store.usage(key_of(), since_hour=HOUR) == Usage(9, 2, NOW)

    @pytest.mark.asyncio
    async def test_use_counts_since_an_hour_and_of_one_item(self, store: FileMetadataStore) -> None:
        told = [Access(key_of(), "w", HOUR - hour, 1, 10, NOW - 3600 * hour) for hour in range(5)]
        await store.saw([*told, Access(key_of("43"), "w", HOUR, 100, 100, NOW + 9)])
        assert await store.usage(key_of(), since_hour=HOUR) == Usage(1, 10, NOW)
        assert await store.usage(key_of(), since_hour=HOUR - 2) == Usage(3, 30, NOW)
        assert await store.usage(key_of(), since_hour=HOUR + 1) == Usage(0, 0, None)

    @pytest.mark.asyncio
    async def test_a_large_flush_of_several_tenants_is_kept(self, store: FileMetadataStore) -> None:
        told = [
            Access(key_of(tenant=tenant), f"w{number}", HOUR, 1, 2, NOW) for tenant in "ab" for number in range(1100)
        ]
        await store.saw(told)
        for tenant in "ab":
            assert await store.usage(key_of(tenant=tenant), since_hour=0) == Usage(1100, 2200, NOW)

    @pytest.mark.asyncio
    async def test_old_counts_are_forgotten_over_all_tenants(self, store: FileMetadataStore) -> None:
        await store.saw([Access(key_of(tenant=t), "w", HOUR - hour, 1, 1, NOW) for t in "abc" for hour in range(4)])
        assert await store.forget_usage(before_hour=HOUR - 1) == 6
        assert await store.forget_usage(before_hour=HOUR - 1) == 0
        assert (await store.usage(key_of(tenant="a"), since_hour=0)).reads == 2
