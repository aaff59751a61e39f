"""Files of state: made, found, restored, drawn, deleted; on a memory backend, SQLite and the file system."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.files.houses import FileState, begun, file_state, local
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import ConfigurationError, FileCorrupt, FileQuarantined, NoFile, StoreError

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[FileState]:
    async with file_state("memory://", *local(tmp_path)) as each:
        yield each


def content_paths(folder: Path) -> list[Path]:
    return [path for path in (folder / "files").rglob("*") if path.is_file()]


async def test_a_promoted_item_is_a_file_of_its_canonical_json(house: FileState) -> None:
    item = await house.state.put("order", "7", {"b": 1, "a": [1, {"z": None, "y": "ü"}]}, tier="immediate")
    file = await house.files.promote("order", "7")
    assert (file.kind, file.namespace, file.key, file.version) == ("promoted", "order", "7", item.version)
    assert await house.files.read(file) == '{"a":[1,{"y":"ü","z":null}],"b":1}'.encode()
    assert await house.files.get(file.id) == file
    assert await house.files.promote("order", "7") == file
    assert [each.id for each in await house.files.list()] == [file.id]
    held = await house.state.get("order", "7")
    assert held is not None
    assert held.text == item.text


async def test_of_nothing_no_file_is_made(house: FileState) -> None:
    with pytest.raises(LookupError, match="order/7"):
        await house.files.promote("order", "7")
    assert await house.files.list() == []


@pytest.mark.parametrize("tier", ["immediate", "delayed"])
async def test_what_is_too_large_for_a_document_becomes_a_file_and_reads_as_before(house: FileState, tier: Any) -> None:
    value = {"rows": ["x" * 1000] * 600, "ü": "é"}
    item = await house.state.put("report", "q3", value, tier=tier)
    await house.flush()
    (file,) = await house.files.of_item("report", "q3")
    assert (file.version, file.kind) == (item.version, "promoted")
    (kept,) = await house.stores.documents.load((house.state._key("report", "q3"),))
    assert kept is not None
    assert kept.value is not None
    assert kept.value.startswith("@")
    (hot,) = house.stores.state.load((house.state._key("report", "q3"),))  # type: ignore[misc]
    assert hot is not None
    assert hot.value == kept.value
    assert hot.version == item.version
    for held in (
        await house.state.get("report", "q3"),
        await house.state.get("report", "q3", consistency="strong"),
        (await house.state.get_many("report", ["q3"]))["q3"],
        (await house.state.list("report")).items[0],
    ):
        assert held is not None
        assert held.value == value
        assert held.version == item.version
    (revision,) = await house.state.history("report", "q3")
    assert revision.value == value
    patched = await house.state.patch("report", "q3", {"rows": None}, if_version=item.version)
    assert patched.value == {"ü": "é"}


async def test_without_files_a_large_value_is_refused_with_the_mend(tmp_path: Path) -> None:
    from tests.state.houses import on_memory

    async with on_memory(tmp_path / "s.db") as plain:
        with pytest.raises(ConfigurationError, match="files="):
            await plain.state.put("report", "q3", "x" * (MOST_STATE + 1), tier="delayed")


async def test_clean_up_leaves_a_pointer_that_reads_follow(house: FileState) -> None:
    item = await house.state.put("order", "7", {"paid": True}, tier="immediate")
    file = await house.files.archive("order", "7")
    assert file.kind == "archive"
    (kept,) = await house.stores.documents.load((house.state._key("order", "7"),))
    assert kept is not None
    assert kept.value is not None
    assert json.loads(kept.value[1:])["file"] == file.id
    held = await house.state.get("order", "7", consistency="strong")
    assert held is not None
    assert (held.value, held.version) == ({"paid": True}, item.version)
    with pytest.raises(ConfigurationError, match="order/7"):
        await house.files.delete(file)


async def test_clean_up_leaves_a_newer_write_alone(house: FileState) -> None:
    await house.state.put("order", "7", {"paid": True}, tier="immediate")
    create = house.stores.objects.create

    async def create_late(*args: Any, **kwargs: Any) -> Any:
        made = await create(*args, **kwargs)
        await house.state.put("order", "7", "newer", tier="immediate")
        return made

    house.stores.objects.create = create_late  # type: ignore[method-assign]
    await house.files.promote("order", "7", clean_up=True)
    held = await house.state.get("order", "7", consistency="strong")
    assert held is not None
    assert held.value == "newer"


async def test_a_restore_is_a_new_version_with_lineage(house: FileState) -> None:
    first = await house.state.put("order", "7", {"n": 1}, tier="immediate")
    file = await house.files.promote("order", "7")
    await house.state.put("order", "7", {"n": 2})
    restored = await house.files.restore(file)
    held = await house.state.get("order", "7")
    assert held is not None
    assert held.value == {"n": 1}
    assert held.version > first.version
    assert held.tier == "immediate"
    assert restored.items == 1
    assert restored.file.version == held.version
    assert restored.file.path == file.path  # equal content is one object
    lineage = await house.files.lineage(restored.file)
    assert {(branch.file.id, branch.relation) for branch in lineage.ancestors} == {(file.id, "restored_from")}
    drawn = str(await house.files.lineage(file))
    assert "restored as: promoted" in drawn
    assert restored.file.id[:12] in drawn


async def test_a_snapshot_restores_all_items_under_its_prefix(house: FileState) -> None:
    await house.state.put("order", "a/1", 1, tier="immediate")
    await house.state.put("order", "a/2", "x" * (MOST_STATE + 1), tier="immediate")
    await house.state.put("order", "b/1", "other", tier="immediate")
    await house.state.put("order", "a/short", "gone", ttl=0.05)
    file = await house.files.snapshot("order", prefix="a/")
    await house.state.put("order", "a/1", "changed")
    await house.state.delete("order", "a/2")
    await house.state.put("order", "a/3", "new", tier="immediate")
    await house.state.put("order", "b/1", "also changed")
    await _over(house, "order", "a/short")
    restored = await house.files.restore(file, exact=True)
    assert restored.items == 2
    values = {item.key: item.value for item in (await house.state.list("order")).items}
    assert values == {"a/1": 1, "a/2": "x" * (MOST_STATE + 1), "b/1": "also changed"}
    assert {branch.relation for branch in (await house.files.lineage(restored.file)).ancestors} == {
        "restored_from",
        "supersedes",
    } or {branch.relation for branch in (await house.files.lineage(restored.file)).ancestors} == {"restored_from"}


async def _over(house: FileState, namespace: str, key: str) -> None:
    ends = time.monotonic() + 10
    while await house.state.get(namespace, key) is not None:
        assert time.monotonic() < ends


async def test_a_backup_is_as_whole_as_its_snapshots(house: FileState) -> None:
    for namespace in ("order", "cart"):
        await house.state.put(namespace, "1", namespace, tier="immediate")
    backup = await house.files.backup(["order", "cart"], name="nightly")
    manifest = json.loads(await house.files.read(backup))
    assert [each["namespace"] for each in manifest["snapshots"]] == ["order", "cart"]
    for namespace in ("order", "cart"):
        await house.state.put(namespace, "1", "spoilt")
    restored = await house.files.restore(backup)
    assert restored.items == 2
    for namespace in ("order", "cart"):
        held = await house.state.get(namespace, "1")
        assert held is not None
        assert held.value == namespace
    relations = {branch.relation for branch in (await house.files.lineage(backup)).ancestors}
    assert relations == {"part_of"}


@pytest.mark.parametrize("kind", ["promoted", "snapshot", "backup"])
async def test_of_a_corrupt_file_nothing_is_restored(house: FileState, kind: str, tmp_path: Path) -> None:
    await house.state.put("order", "1", "first", tier="immediate")
    await house.state.put("cart", "1", "first", tier="immediate")
    if kind == "promoted":
        file = await house.files.promote("order", "1")
    elif kind == "snapshot":
        file = await house.files.snapshot("order")
    else:
        file = await house.files.backup(["cart", "order"])
    await house.state.put("order", "1", "second", tier="immediate")
    await house.state.put("cart", "1", "second", tier="immediate")
    for path in content_paths(tmp_path):  # of the backup one snapshot only
        held = path.read_bytes()
        if b"first" in held and (kind != "backup" or b"order" in held):
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
            path.write_bytes(held.replace(b"first", b"forge"))
    with pytest.raises((FileCorrupt, StoreError)):
        await house.files.restore(file)
    for namespace in ("order", "cart"):
        held_item = await house.state.get(namespace, "1")
        assert held_item is not None
        assert held_item.value == "second"


async def test_foreign_content_under_the_path_is_quarantined_and_told(house: FileState) -> None:
    from traffic_cop_middleware.abstractions.files.naming import content_of, file_id, hash_of, object_path

    item = await house.state.put("order", "7", {"paid": True}, tier="immediate")
    key = house.state._key("order", "7")
    content = content_of(item.text)
    path = object_path(key, file_id(key, item.version, "promoted"), hash_of(content))
    await house.stores.objects.create(path, b"somebody else's", sha256=hash_of(b"somebody else's"))
    with pytest.raises(FileQuarantined, match="order/7"):
        await house.files.promote("order", "7")
    assert "file.quarantined" in house.kinds()
    assert await house.stores.objects.read(path) == b"somebody else's"
    file = await house.files.get(file_id(key, item.version, "promoted"))
    assert file is not None
    assert file.status == "quarantined"
    assert "something else" in file.reason
    with pytest.raises(NoFile, match="quarantined"):
        await house.files.restore(file)


async def test_no_tenant_reaches_the_files_of_another(house: FileState) -> None:
    acme, other = house.state.of_tenant("acme"), house.files.of_tenant("other")
    await acme.put("order", "7", "secret", tier="immediate")
    files = house.files.of_tenant("acme")
    file = await files.promote("order", "7")
    for stranger in (house.files, other):
        assert await stranger.get(file.id) is None
        assert await stranger.list() == []
        assert await stranger.of_item("order", "7") == []
        assert await stranger.history("order", "7") == []
        assert await stranger.delete(file) is False
        for ask in (stranger.restore, stranger.read, stranger.lineage):
            with pytest.raises(NoFile):
                await ask(file)
    assert await files.read(file) == b'"secret"'


async def test_the_history_goes_on_without_the_versions_whose_files_are_gone(house: FileState) -> None:
    values = [letter * (MOST_STATE + 1) for letter in "abc"]
    versions = [(await house.state.put("report", "q3", value, tier="immediate")).version for value in values]
    files = await house.files.of_item("report", "q3")
    assert await house.files.delete(files[1])
    await house.files.collect_garbage(grace=0.0)
    revisions = await house.state.history("report", "q3")
    assert [(each.version, each.value) for each in revisions if not each.lost] == [
        (versions[2], values[2]),
        (versions[0], values[0]),
    ]
    assert [(each.version, each.value) for each in revisions if each.lost] == [(versions[1], None)]


async def test_garbage_is_what_no_file_names_and_is_old(house: FileState) -> None:
    await house.state.put("order", "7", "kept", tier="immediate")
    kept = await house.files.promote("order", "7")
    await house.state.put("order", "8", "deleted", tier="immediate")
    deleted = await house.files.promote("order", "8")
    await house.stores.objects.create("x/y/orphan", b"nobody's", sha256="")
    assert await house.files.delete(deleted)
    assert await house.files.delete(deleted) is False
    assert (await house.files.collect_garbage()).objects == []  # too young, all of them
    dry = await house.files.collect_garbage(grace=0.0, dry_run=True)
    assert {each.path for each in dry.objects} == {"x/y/orphan", deleted.path}
    assert "would be removed" in str(dry)
    assert (await house.files.collect_garbage(grace=0.0)).objects == dry.objects
    assert [each.path for each in (await house.stores.objects.list()).objects] == [kept.path]
    assert await house.files.read(kept) == b'"kept"'
    with pytest.raises(NoFile, match="deleted"):
        await house.files.read(deleted)


async def test_what_was_begun_is_finished_or_given_up_and_a_dry_run_only_tells(house: FileState) -> None:
    await begun(house, "announced", "create")
    await begun(house, "uploaded", "finish")
    await begun(house, "newer", "create")
    await house.stores.documents.clean_up(now=2**40, tombstones_before=2**40)
    key = house.state._key("order", "newer")
    await house.state.delete("order", "newer")
    for _ in range(120):  # out of the history, too
        await house.state.put("order", "newer", "newer still", tier="immediate")
    assert (await house.files.reconcile()).rows == []  # too young
    dry = await house.files.reconcile(older_than=0.0, dry_run=True)
    actions = {row.key: row.action for row in dry.rows}
    assert actions == {"announced": "made", "uploaded": "finished", "newer": "abandoned"}
    assert "would be abandoned" in str(dry)
    done = await house.files.reconcile(older_than=0.0)
    assert {row.key: row.action for row in done.rows} == actions
    assert (await house.files.reconcile(older_than=0.0)).rows == []
    assert {file.key for file in await house.files.list()} == {"announced", "uploaded"}
    assert await house.stores.metadata.of_item(key) == []


async def test_lineage_of_many_versions_is_drawn_without_depth_of_calls(house: FileState) -> None:
    for number in range(60):
        await house.state.put("order", "7", number, tier="immediate")
        file = await house.files.promote("order", "7")
    drawn = str(await house.files.lineage(file))
    assert drawn.count("took the place of") == 59
