"""What every `FileMetadataStore` does, as tests: subclass them for metadata of your own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import (
    Access,
    Edge,
    FileKind,
    FileMetadataStore,
    FileRow,
    FileStatus,
    Promotion,
    Relation,
    Relative,
    StateKey,
    Usage,
)
from traffic_cop_middleware.contracts.files import FILE_STATUSES, MOST_ABOUT, RELATIONS
from traffic_cop_middleware.contracts.objects import MOST_PATH
from traffic_cop_middleware.contracts.state import MOST_WORD, WHOLE
from traffic_cop_middleware.errors import StoreError

NOW = 1_795_860_817.058_141
"""Seconds since the epoch, with more digits than a time stamp of microseconds keeps."""
HOUR = int(NOW // 3600)
ODD = (
    "a b",
    " ",
    "a,b",
    'a"b',
    "a\\b",
    "(a)",
    "a.b:c",
    "null",
    "NULL",
    "ä🚓",
    "%41",
    "a&b=c",
    "a+b",
    "*",
    "{}",
    "\n",
    "'",
)
"""Words that some layer between here and the disk might read as something else."""
WHY = "bytes|integer|epoch|none of|from 0 to 1"
"""What a refusal speaks of."""


def key_of(key: str = "42", *, namespace: str = "order", tenant: str = "acme") -> StateKey:
    return StateKey(tenant, namespace, key)


def row(
    id: str = "f1",
    *,
    key: StateKey | None = None,
    version: int = 7,
    kind: FileKind = "promoted",
    path: str | None = None,
    created_at: float = NOW,
    about: str = "{}",
) -> FileRow:
    """A row as a saga announces it."""
    where = f"acme/order/{id}" if path is None else path
    return FileRow(id, key or key_of(), version, kind, where, "ab" * 32, 1234, "pending", created_at, about=about)


def line(
    version: int = 7, to: str = "file", *, key: StateKey | None = None, at: float = NOW, file: str | None = None
) -> Promotion:
    """A line of history."""
    return Promotion(key or key_of(), version, "delayed", to, at, 0.75, ("it is large", "“read” often"), file)


def edge(child: str, parent: str, relation: Relation = "supersedes") -> Edge:
    return Edge(child, parent, relation, NOW)


async def done(
    store: FileMetadataStore,
    id: str,
    *edges: Edge,
    key: StateKey | None = None,
    version: int = 7,
    kind: FileKind = "promoted",
) -> FileRow:
    """A file that is there."""
    given = await store.announce(row(id, key=key, version=version, kind=kind))
    return await store.finish(given, None, edges)


async def status_of(store: FileMetadataStore, id: str = "f1", tenant: str = "acme") -> FileStatus | None:
    (found,) = await store.load(tenant, [id])
    return None if found is None else found.status


async def family(store: FileMetadataStore, parents: Sequence[tuple[str, str]]) -> None:
    """Files and what each comes from, (child, parent)."""
    for id in dict.fromkeys(id for pair in parents for id in reversed(pair)):
        await done(store, id)
    for child, parent in parents:
        await done(store, child, edge(child, parent))


def steps(relatives: Sequence[Relative]) -> list[tuple[str, str, int]]:
    return [(each.row.id, each.via, each.steps) for each in relatives]


class FileMetadataStoreContract:
    """Every promise of `FileMetadataStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on empty metadata, or one where the store
    is this process::

        class TestMyMetadata(FileMetadataStoreContract):
            @pytest_asyncio.fixture
            async def stores(self) -> AsyncIterator[Sequence[FileMetadataStore]]:
                store = MyMetadata()
                await store.connect()
                yield [store]
                await store.close()
    """

    @pytest.fixture
    def store(self, stores: Sequence[FileMetadataStore]) -> FileMetadataStore:
        return stores[0]

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

    # Reading

    @pytest.mark.asyncio
    async def test_rows_are_loaded_by_id_in_the_order_asked_for(self, store: FileMetadataStore) -> None:
        ids = [f"{number:04d}-{'x' * 100}" for number in range(150)]
        for start in range(0, len(ids), 50):
            await asyncio.gather(*(store.announce(row(id)) for id in ids[start : start + 50]))
        asked = [*random.sample(ids, len(ids)), "none", ids[3], ids[3]]
        found = await store.load("acme", asked)
        assert [None if each is None else each.id for each in found] == [id if id != "none" else None for id in asked]

    @pytest.mark.asyncio
    async def test_the_files_of_an_item_are_those_done_newest_version_first(self, store: FileMetadataStore) -> None:
        for version in (3, 10, 9):
            await done(store, f"p{version}", version=version)
            await done(store, f"s{version}", version=version, kind="snapshot")
        await store.announce(row("waits", version=20))
        await done(store, "gone", version=11)
        await store.set_status("acme", "gone", "deleted", reason="", unless="pending", at=20.0)
        await done(store, "other", key=key_of("43"), version=30)
        ids = [each.id for each in await store.of_item(key_of())]
        assert ids == ["p10", "s10", "p9", "s9", "p3", "s3"]
        assert [each.id for each in await store.of_item(key_of(), kind="snapshot")] == ["s10", "s9", "s3"]
        assert [each.id for each in await store.of_item(key_of(), kind="promoted", before=10)] == ["p9", "p3"]
        assert [each.id for each in await store.of_item(key_of(), before=10, most=1)] == ["p9"]
        assert list(await store.of_item(key_of(), before=3)) == []
        assert list(await store.of_item(key_of(), kind="backup")) == []

    @pytest.mark.asyncio
    async def test_a_tenants_files_are_listed_by_id_page_by_page(self, store: FileMetadataStore) -> None:
        ids = ["A", "B", "Z", "a", "b", "é", "z", "ÿ", "🚓", "10", "9", "-"]
        for id in ids:
            await done(store, id, kind="backup" if id in "ABZ" else "promoted")
        await store.announce(row("waits"))
        await done(store, "theirs", key=key_of(tenant="other"))
        found: list[str] = []
        after = None
        for _ in range(100):
            page = [each.id for each in await store.list("acme", after=after, most=5)]
            found += page
            if len(page) < 5:
                break
            after = page[-1]
        assert found == sorted(ids)
        assert [each.id for each in await store.list("acme", kind="backup")] == ["A", "B", "Z"]
        assert [each.id for each in await store.list("acme", kind="backup", after="A", most=1)] == ["B"]

    @pytest.mark.asyncio
    async def test_what_is_pending_is_found_over_all_tenants(self, store: FileMetadataStore) -> None:
        for number in range(6):
            key = key_of(tenant=f"t{number % 3}")
            await store.announce(row(f"f{number}", key=key, created_at=NOW + number))
        await done(store, "done", key=key_of(tenant="t0"))
        await store.announce(row("bad"))
        await store.set_status("acme", "bad", "quarantined", reason="", unless="done", at=20.0)
        assert [each.id for each in await store.pending(before=NOW + 10)] == [f"f{number}" for number in range(6)]
        assert [each.id for each in await store.pending(before=NOW + 2)] == ["f0", "f1"]
        assert [each.id for each in await store.pending(before=NOW + 10, after="f1", most=2)] == ["f2", "f3"]
        assert [each.key.tenant for each in await store.pending(before=NOW + 3)] == ["t0", "t1", "t2"]

    @pytest.mark.asyncio
    async def test_paths_that_a_living_row_names_are_referred_to(self, store: FileMetadataStore) -> None:
        for status in FILE_STATUSES:
            await store.announce(row(status, key=key_of(tenant=status), path=f"path/{status}"))
            await store.set_status(status, status, status, reason="", unless="deleted", at=20.0)
        await store.announce(row("shares", path="path/deleted"))
        await store.announce(row("odd", path='a (1), "b" \\ c%41'))
        asked = [f"path/{status}" for status in FILE_STATUSES]
        expected = {f"path/{status}" for status in ("pending", "done", "quarantined", "deleted")}
        assert await store.referred([*asked, "path", "path/do"], gone_since=30.0) == expected
        assert await store.referred(['a (1), "b" \\ c%41', 'a (1), "b"', ""], gone_since=30.0) == {'a (1), "b" \\ c%41'}
        await store.set_status("acme", "shares", "deleted", reason="", unless="done", at=20.0)
        many = [f"path/{'y' * 200}/{number}" for number in range(100)]
        assert await store.referred([*many, *asked], gone_since=30.0) == expected - {"path/deleted"}
        # What is gone since then counts still: who saw it before may be about to name the same path.
        assert await store.referred(asked, gone_since=20.0) == set(asked)

    # Words

    @pytest.mark.asyncio
    async def test_odd_words_are_kept_as_they_are(self, store: FileMetadataStore) -> None:
        for number, word in enumerate(ODD):
            key = StateKey(word, word, word)
            id = f"{word}-{number}"
            given = await store.announce(row(id, key=key, path=word))
            assert given == row(id, key=key, path=word), word
            other = await done(store, word, key=key)
            edges = [edge(id, word)]
            finished = await store.finish(given, line(key=key, to=word, file=id)._replace(former=word), edges)
            assert finished.status == "done"
            assert await store.load(word, [word, id]) == [other, finished]
            assert set(await store.of_item(key)) == {other, finished}
            assert [each.id for each in await store.list(word)] == sorted((word, id))
            assert [each.id for each in await store.list(word, after=word, most=1)] == [id]
            assert list(await store.history(key)) == [line(key=key, to=word, file=id)._replace(former=word)]
            assert steps(await store.ancestors(word, id)) == [(word, id, 1)]
            await store.saw([Access(key, word, HOUR, 1, 2, NOW)])
            assert await store.usage(key, since_hour=HOUR) == Usage(1, 2, NOW)

    @pytest.mark.asyncio
    async def test_the_app_itself_is_a_tenant(self, store: FileMetadataStore) -> None:
        key = key_of(tenant="")
        finished = await done(store, "f1", key=key)
        assert await store.load("", ["f1"]) == [finished]
        assert await store.load("acme", ["f1"]) == [None]
        assert [each.id for each in await store.list("")] == ["f1"]
        await store.note(line(key=key))
        assert len(await store.history(key)) == 1
        await store.saw([Access(key, "w", HOUR, 1, 0, NOW), Access(key_of(), "w", HOUR, 2, 0, NOW)])
        assert (await store.usage(key, since_hour=0)).reads == 1

    @pytest.mark.asyncio
    async def test_the_largest_words_and_numbers_are_kept(self, store: FileMetadataStore) -> None:
        long = "ä" * (MOST_WORD // 2)
        key = StateKey(long, long, long)
        about = '{"a":"' + "b" * (MOST_ABOUT - 8) + '"}'
        given = row(long, key=key, version=WHOLE - 1, path="p" * MOST_PATH, about=about)._replace(size=WHOLE - 1)
        assert await store.announce(given) == given
        parent = row("parent", key=key)
        await store.finish(parent, None, [])
        noted = line(WHOLE - 1, long, key=key, file=long)
        finished = await store.finish(given, noted, [edge(long, "parent")])
        assert await store.load(long, [long]) == [finished]
        assert list(await store.history(key)) == [noted]
        assert steps(await store.descendants(long, "parent")) == [(long, "parent", 1)]
        await store.saw([Access(key, long, HOUR, WHOLE - 1, 0, NOW)])
        assert await store.usage(key, since_hour=HOUR) == Usage(WHOLE - 1, 0, NOW)

    @pytest.mark.asyncio
    async def test_what_can_not_be_kept_is_refused(self, store: FileMetadataStore) -> None:
        long = "x" * (MOST_WORD + 1)
        refused = [
            row(""),
            row("a\0b"),
            row(long),
            row(key=key_of("")),
            row(key=key_of(tenant=long)),
            row(key=key_of(namespace="a\0")),
            row(path=""),
            row(path="p" * (MOST_PATH + 1)),
            row(about="x" * (MOST_ABOUT + 1)),
            row(version=-1),
            row(version=WHOLE),
            row(created_at=float("nan")),
            row()._replace(size=-1),
            row()._replace(kind="unknown"),  # type: ignore[arg-type]
            row()._replace(status="unknown"),  # type: ignore[arg-type]
        ]
        for each in refused:
            with pytest.raises(ValueError, match=WHY):
                await store.announce(each)
            with pytest.raises(ValueError, match=WHY):
                await store.finish(each, None, [])
        for told in (line()._replace(score=1.5), line(to=""), line(at=float("inf")), line(key=key_of("")), line(-1)):
            with pytest.raises(ValueError, match=WHY):
                await store.note(told)
        with pytest.raises(ValueError, match=WHY):
            await store.finish(row(), None, [edge("f1", "f0", "unknown")])  # type: ignore[arg-type]
        access = Access(key_of(), "w", HOUR, 1, 1, NOW)
        for seen in (access._replace(reads=-1), access._replace(worker=""), access._replace(last_at=float("nan"))):
            with pytest.raises(ValueError, match=WHY):
                await store.saw([access, seen])
        with pytest.raises(ValueError, match=WHY):
            await store.set_status("acme", "f1", "unknown", reason="", unless="done", at=20.0)  # type: ignore[arg-type]
        assert list(await store.pending(before=NOW * 2)) == []
        assert await store.usage(key_of(), since_hour=0) == Usage(0, 0, None)

    @pytest.mark.asyncio
    async def test_half_a_surrogate_pair_is_kept_or_refused(self, store: FileMetadataStore) -> None:
        odd = row("half", key=key_of("half \ud83d"))
        try:
            given = await store.announce(odd)
        except ValueError:
            assert await status_of(store, "half") is None
        else:
            assert given == odd
            assert await store.load("acme", ["half"]) == [odd]

    # Tenants

    @pytest.mark.asyncio
    async def test_a_tenant_sees_and_changes_nothing_of_another(self, store: FileMetadataStore) -> None:
        theirs = key_of(tenant="other")
        await done(store, "f0", key=theirs)
        before = await store.finish(row(key=theirs), line(key=theirs, file="f1"), [edge("f1", "f0")])
        await store.saw([Access(theirs, "w", HOUR, 5, 5, NOW)])
        assert await store.load("acme", ["f1"]) == [None]
        assert list(await store.list("acme")) == []
        assert list(await store.of_item(key_of())) == []
        assert list(await store.history(key_of())) == []
        assert list(await store.ancestors("acme", "f1")) == []
        assert list(await store.descendants("acme", "f0")) == []
        assert await store.usage(key_of(), since_hour=0) == Usage(0, 0, None)
        assert await store.set_status("acme", "f1", "deleted", reason="", unless="pending", at=20.0) is False
        mine = row(path="mine")  # the same id: what another tenant has of it is neither given nor changed
        assert await store.announce(mine) == mine
        await store.finish(mine, line(at=NOW + 1), [])
        await store.note(line(at=NOW + 2))
        await store.saw([Access(key_of(), "w", HOUR, 1, 0, NOW)])
        assert await store.load("other", ["f1"]) == [before]
        assert list(await store.history(theirs)) == [line(key=theirs, file="f1")]
        assert await store.usage(theirs, since_hour=0) == Usage(5, 5, NOW)

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
