"""What every `FileMetadataStore` does, as tests: subclass them for metadata of your own."""

from __future__ import annotations

import asyncio
import random

import pytest

from traffic_cop_middleware.contracts import (
    Access,
    FileMetadataStore,
    StateKey,
    Usage,
)
from traffic_cop_middleware.contracts.files import FILE_STATUSES, MOST_ABOUT
from traffic_cop_middleware.contracts.objects import MOST_PATH
from traffic_cop_middleware.contracts.state import MOST_WORD, WHOLE
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
from traffic_cop_middleware.testing.file_metadata_contract_steps import FileStepsContract

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


class FileMetadataStoreContract(FileStepsContract):
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
