"""What every `FileMetadataStore` does with a row from its announcement to its end, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import (
    Edge,
    FileMetadataStore,
    FileStatus,
    Usage,
)
from traffic_cop_middleware.contracts.files import FILE_STATUSES
from traffic_cop_middleware.errors import StoreError
from traffic_cop_middleware.testing.file_metadata_asking import (
    HOUR,
    NOW,
    done,
    edge,
    key_of,
    line,
    row,
    status_of,
    steps,
)
from traffic_cop_middleware.testing.file_metadata_contract_lineage import FileLineageContract


class FileStepsContract(FileLineageContract):
    """A part of `FileMetadataStoreContract`."""

    # From pending to done

    @pytest.mark.asyncio
    async def test_where_nothing_is_nothing_is_found(self, store: FileMetadataStore) -> None:
        assert await store.load("acme", []) == []
        assert await store.load("acme", ["a", "b"]) == [None, None]
        assert list(await store.of_item(key_of())) == []
        assert list(await store.list("acme")) == []
        assert list(await store.pending(before=NOW * 2)) == []
        assert await store.referred([], gone_since=30.0) == set()
        assert await store.referred(["a"], gone_since=30.0) == set()
        assert list(await store.history(key_of())) == []
        assert list(await store.ancestors("acme", "a")) == []
        assert list(await store.descendants("acme", "a")) == []
        assert await store.usage(key_of(), since_hour=0) == Usage(0, 0, None)
        assert await store.forget_usage(before_hour=HOUR) == 0
        assert await store.set_status("acme", "a", "deleted", reason="", unless="pending", at=20.0) is False
        await store.saw([])
        assert store.name

    @pytest.mark.asyncio
    async def test_a_row_is_announced_once_and_all_workers_see_the_first(
        self, stores: Sequence[FileMetadataStore]
    ) -> None:
        first = row(about='{"made_by":"a","large":12345678901234567890,"b":1.50}')
        assert await stores[0].announce(first) == first
        for store in stores:
            assert await store.announce(row(path="another/path", created_at=NOW + 1)) == first
            assert await store.load("acme", ["f1"]) == [first]

    @pytest.mark.asyncio
    async def test_ten_that_announce_at_once_are_given_the_same_row(self, stores: Sequence[FileMetadataStore]) -> None:
        given = await asyncio.gather(
            *(stores[turn % len(stores)].announce(row(path=f"path/{turn}")) for turn in range(10))
        )
        assert len(set(given)) == 1
        assert await stores[0].load("acme", ["f1"]) == [given[0]]

    @pytest.mark.asyncio
    async def test_what_is_announced_is_pending_whatever_is_said(self, store: FileMetadataStore) -> None:
        await store.announce(row()._replace(status="done", done_at=NOW, reason="none"))
        assert await store.load("acme", ["f1"]) == [row()]

    @pytest.mark.asyncio
    async def test_a_finished_row_is_done_with_its_line_and_its_edges(
        self, stores: Sequence[FileMetadataStore]
    ) -> None:
        await done(stores[0], "f0", version=6)
        given = await stores[0].announce(row())
        finished = await stores[0].finish(given._replace(done_at=NOW + 5), line(file="f1"), [edge("f1", "f0")])
        assert finished == row()._replace(status="done", done_at=NOW + 5)
        for store in stores:
            assert await store.load("acme", ["f1"]) == [finished]
            assert list(await store.history(key_of())) == [line(file="f1")]
            assert steps(await store.ancestors("acme", "f1")) == [("f0", "f1", 1)]

    @pytest.mark.asyncio
    async def test_finishing_again_changes_nothing(self, stores: Sequence[FileMetadataStore]) -> None:
        await done(stores[0], "f0")
        await stores[0].announce(row())
        first = await stores[0].finish(row(), line(file="f1"), [edge("f1", "f0")])
        assert first.status == "done"
        assert first.done_at is not None
        for turn, store in enumerate([*stores, *stores]):
            late = row()._replace(done_at=NOW + 100 + turn)
            again = [Edge("f1", "f0", "supersedes", NOW + turn)]
            assert await store.finish(late, line(at=NOW + turn, file="f1"), again) == first
        assert list(await stores[0].history(key_of())) == [line(file="f1")]
        assert len(await stores[0].ancestors("acme", "f1")) == 1

    @pytest.mark.asyncio
    async def test_ten_that_finish_at_once_leave_one_row_one_line_and_one_edge(
        self, stores: Sequence[FileMetadataStore]
    ) -> None:
        await done(stores[0], "f0", version=6)
        await stores[0].announce(row())
        given = await asyncio.gather(
            *(
                stores[turn % len(stores)].finish(
                    row()._replace(done_at=NOW + turn), line(at=NOW + turn, file="f1"), [edge("f1", "f0")]
                )
                for turn in range(10)
            )
        )
        assert len(set(given)) == 1
        assert [each.id for each in await stores[0].list("acme")] == ["f0", "f1"]
        assert len(await stores[0].history(key_of())) == 1
        assert len(await stores[0].ancestors("acme", "f1")) == 1

    @pytest.mark.asyncio
    async def test_what_nobody_announced_may_be_finished(self, store: FileMetadataStore) -> None:
        finished = await store.finish(row(), None, [])
        assert finished == row()._replace(status="done", done_at=finished.done_at)
        assert await store.announce(row()) == finished

    @pytest.mark.asyncio
    async def test_a_row_that_was_given_up_is_done_after_all(self, store: FileMetadataStore) -> None:
        statuses: list[FileStatus] = ["quarantined", "abandoned"]
        for id in statuses:
            await store.announce(row(id))
            assert await store.set_status("acme", id, id, reason="why", unless="done", at=20.0)
            finished = await store.finish(row(id), None, [])
            assert (finished.status, finished.reason) == ("done", "")
            assert finished.done_at is not None

    @pytest.mark.asyncio
    async def test_a_deleted_row_stays_deleted(self, store: FileMetadataStore) -> None:
        before = await done(store, "f1")
        assert await store.set_status("acme", "f1", "deleted", reason="asked for", unless="pending", at=20.0)
        assert await store.finish(row(), None, []) == before._replace(
            status="deleted", reason="asked for", done_at=20.0
        )
        assert await status_of(store) == "deleted"

    @pytest.mark.asyncio
    async def test_edges_to_files_that_the_tenant_has_not_are_refused_with_all_that_came_with_them(
        self, store: FileMetadataStore
    ) -> None:
        await done(store, "theirs", key=key_of(tenant="other"))
        await store.announce(row())
        for refused in (edge("f1", "theirs"), edge("theirs", "f1"), edge("f1", "nowhere")):
            with pytest.raises((ValueError, StoreError)):
                await store.finish(row(), line(file="f1"), [refused])
        assert await status_of(store) == "pending"
        assert list(await store.history(key_of())) == []
        assert list(await store.ancestors("acme", "f1")) == []
        assert list(await store.descendants("other", "theirs")) == []
        assert list(await store.ancestors("other", "theirs")) == []

    @pytest.mark.asyncio
    async def test_a_line_of_another_tenant_and_an_edge_to_itself_are_refused(self, store: FileMetadataStore) -> None:
        with pytest.raises(ValueError, match="tenant"):
            await store.finish(row(), line(key=key_of(tenant="other")), [])
        with pytest.raises(ValueError, match="itself"):
            await store.finish(row(), None, [edge("f1", "f1")])
        assert await status_of(store) is None

    # Status

    @pytest.mark.asyncio
    async def test_a_status_is_set_unless_the_row_has_that_other_one(self, stores: Sequence[FileMetadataStore]) -> None:
        for former in FILE_STATUSES:
            for unless in FILE_STATUSES:
                id = f"{former}-{unless}"
                await stores[0].announce(row(id))
                await stores[0].set_status("acme", id, former, reason="before", unless="deleted", at=20.0)
                for turn, store in enumerate([*stores, *stores]):  # again, as after a lost reply
                    told = await store.set_status("acme", id, "quarantined", reason="after", unless=unless, at=20.0)
                    repeated = turn > 0 and unless == "quarantined"  # the first turn made it so
                    assert told is (former != unless and not repeated), id
                (found,) = await stores[-1].load("acme", [id])
                assert found is not None
                changed = former != unless
                assert (found.status, found.reason) == (("quarantined", "after") if changed else (former, "before"))

    @pytest.mark.asyncio
    async def test_a_reason_may_be_any_text(self, store: FileMetadataStore) -> None:
        await store.announce(row())
        for reason in ("", "ä🚓", "a\0b", "half \ud83d", "long " * 5000):
            assert await store.set_status("acme", "f1", "quarantined", reason=reason, unless="done", at=20.0)
            (found,) = await store.load("acme", ["f1"])
            assert found is not None
            assert found.reason[:1] == reason[:1]

    @pytest.mark.asyncio
    async def test_only_one_of_two_that_settle_a_row_at_once_wins(self, stores: Sequence[FileMetadataStore]) -> None:
        for turn in range(10):
            id = f"f{turn}"
            await stores[0].announce(row(id))
            finished, abandoned = await asyncio.gather(
                stores[0].finish(row(id), None, []),
                stores[-1].set_status("acme", id, "abandoned", reason="late", unless="done", at=20.0),
            )
            assert finished.status == "done"
            assert await status_of(stores[0], id) in (("done", "abandoned") if abandoned else ("done",))
