"""Objects in the file system when things go wrong: files that are none of ours, damage, races, locks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import trio

from traffic_cop_middleware.adapters.filesystem import open as open_filesystem
from traffic_cop_middleware.adapters.filesystem.folder import Folder
from traffic_cop_middleware.adapters.filesystem.objects import FileObjects
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.object_contract import create, created, listed

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0


def opened(root: Path, *, deadline: float = DEADLINE, threads: int = 4) -> FileObjects:
    return FileObjects(
        str(root), namespace="tc", deadline=deadline, notify=lambda event: None, threads=threads, clock=lambda: 1.5
    )


def files(root: Path) -> list[str]:
    """All that is below the namespace's folder and no folder."""
    return sorted(str(each.relative_to(root / "tc")) for each in (root / "tc").rglob("*") if not each.is_dir())


def folders(root: Path) -> list[str]:
    return sorted(str(each.relative_to(root / "tc")) for each in (root / "tc").rglob("*") if each.is_dir())


def uploads(root: Path) -> list[str]:
    """What is being written."""
    return sorted(os.listdir(root / "tc/.uploads"))


def modes(root: Path) -> set[tuple[bool, int]]:
    """Of all that is there: whether it is a folder, and its permissions."""
    return {(each.is_dir(), stat.S_IMODE(each.stat().st_mode)) for each in [root, *root.rglob("*")]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest_asyncio.fixture
async def store(root: Path) -> AsyncIterator[FileObjects]:
    store = opened(root)
    await store.connect(patience=DEADLINE)
    yield store
    await store.close()


# The URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file://objects", "names no absolute folder"),
        ("file://host/objects", "names no absolute folder"),
        ("file:///", "names no absolute folder"),
        ("file:objects", "names no absolute folder"),
        ("file:///./objects", "Path('files').resolve().as_uri()"),
        ("file:///srv/../objects", "names no absolute folder"),
        ("file:///srv/objects#1", "write %23"),
        ("file:///srv/%00", "names no absolute folder"),
        ("file:///srv?mode=ro", "'mode' is no option here; there is deadline"),
        ("file:///srv?deadline=soon", "deadline='soon' can't be used: write seconds per call"),
        ("file:///srv?threads=0", "threads='0' can't be used: write calls at once"),
    ],
)
def test_a_url_that_names_no_folder_is_refused_with_the_mend(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_filesystem(url, namespace="tc", deadline=1, notify=lambda event: None)
    assert says in str(caught.value)


@pytest.mark.parametrize("namespace", ["..", ".hidden", "a//b", "a\\b"])
def test_a_namespace_that_is_no_folder_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be a folder"):
        open_filesystem("file:///srv", namespace=namespace, deadline=1, notify=lambda event: None)


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["file://{}/some%20where", "file://localhost{}/some%20where/?threads=2&deadline=9"])
async def test_a_url_is_an_absolute_path_and_nothing_is_made_before_it_is_needed(url: str, tmp_path: Path) -> None:
    store = open_filesystem(url.format(tmp_path), namespace="tc", deadline=DEADLINE, notify=lambda event: None)
    assert os.listdir(tmp_path) == []
    assert await create(store, "a") is not None
    await store.close()
    assert os.listdir(tmp_path) == ["some where"]


@pytest.mark.asyncio
async def test_apps_that_share_a_folder_do_not_see_each_other(root: Path, store: FileObjects) -> None:
    other = open_filesystem(root.as_uri(), namespace="other", deadline=DEADLINE, notify=lambda event: None)
    first = await created(store, "a", b"ours")
    assert await create(other, "a", b"theirs") is not None
    assert await store.list() == ([first], None)
    assert await other.read("a") == b"theirs"
    assert await other.delete("a", generation=first.generation) is False
    await other.close()


# How it lies there


@pytest.mark.asyncio
async def test_files_and_folders_are_for_their_owner_alone_and_can_be_read_by_people(
    root: Path, store: FileObjects
) -> None:
    await created(store, "acme/order/42.json", b'{"a":1}', {"tenant": "acme"})
    lying = root / "tc/acme/order/42.json.tcobject"
    head, body = lying.read_bytes().split(b"\n")
    assert body == b'{"a":1}'
    assert b'"path": "acme/order/42.json"' in head
    assert modes(root) == {(True, 0o700), (False, 0o600)}
    assert files(root) == ["acme/order/42.json.tcobject"]


@pytest.mark.asyncio
async def test_a_creation_is_on_the_disk_before_it_is_answered(
    root: Path, store: FileObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for name in ("fsync", "link", "mkdir"):

        def noted(*words: object, name: str = name, step: object = getattr(os, name), **options: object) -> object:
            steps.append(name)
            return step(*words, **options)  # type: ignore[operator]

        monkeypatch.setattr(os, name, noted)
    await created(store, "a/b/c")
    assert steps == ["mkdir", "fsync", "mkdir", "fsync", "fsync", "link", "fsync"]
    steps.clear()
    assert await create(store, "a/b/c") is None  # it may have been linked by a process that has not synchronised yet
    assert steps[-1] == "fsync"
    assert "link" not in steps


@pytest.mark.asyncio
async def test_a_creation_that_is_given_up_leaves_nothing(root: Path, store: FileObjects) -> None:
    hasty = opened(root, deadline=0.001)
    for number in range(3):
        with pytest.raises(StoreTimeout):
            await create(hasty, f"a/{number}", bytes(60_000_000))
    await hasty.close()
    assert files(root) == []
    assert await store.list() == ([], None)


# What can't be used


@pytest.mark.asyncio
async def test_a_missing_folder_is_named_with_the_mend(tmp_path: Path) -> None:
    store = opened(tmp_path / "no" / "where")
    with pytest.raises(ConfigurationError, match=r"no/where can't be used .*there is no folder around it\. Make it"):
        await store.connect()
    with pytest.raises(StoreError, match="there is no folder around it"):
        await create(store, "a")
    (tmp_path / "no").mkdir()
    assert await create(store, "a") is not None
    await store.close()


@pytest.mark.asyncio
async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        store = opened(path)
        with pytest.raises(ConfigurationError, match="is no folder"):
            await store.connect()
        await store.close()


@pytest.mark.asyncio
async def test_a_folder_that_is_gone_is_no_empty_store(root: Path, store: FileObjects) -> None:
    await created(store, "a/b")
    os.rename(root, f"{root}-unmounted")
    for ask in (store.stat("a/b"), store.read("a/b"), store.list(), create(store, "c"), store.sweep(older_than=0)):
        with pytest.raises(StoreUnavailable, match=r"is gone\. Is its disk mounted\?"):
            await ask
    os.mkdir(root)
    with pytest.raises(StoreUnavailable, match="is gone"):
        await store.stat("a/b")
    os.rmdir(root)
    os.rename(f"{root}-unmounted", root)
    assert await store.stat("a/b") is not None


@pytest.mark.asyncio
async def test_a_folder_that_another_one_took_the_place_of_gets_no_object(root: Path, store: FileObjects) -> None:
    await created(store, "a/b")
    shutil.copytree(root, f"{root}-backup")
    os.rename(root / "tc/a", root / "tc/old")
    shutil.copytree(f"{root}-backup/tc/a", root / "tc/a")
    stored = await created(store, "a/c")  # not into the one that the thread has open
    assert await store.list("a/") == ([await store.stat("a/b"), stored], None)
    os.rename(root, f"{root}-old")
    os.rename(f"{root}-backup", root)
    again = await created(store, "a/c")
    assert await store.list() == ([await store.stat("a/b"), again], None)


# What is none of ours


@pytest.mark.asyncio
async def test_no_symbolic_link_is_followed(root: Path, store: FileObjects, tmp_path: Path) -> None:
    await created(store, "a/b/c", b"secret")
    outside = tmp_path / "outside"
    shutil.copytree(root / "tc/a", outside)
    base = root / "tc"
    (base / "folder").symlink_to(outside)
    (base / "x").mkdir()
    (base / "x/file.tcobject").symlink_to(base / "a/b/c.tcobject")
    (base / "x/dangling.tcobject").symlink_to(tmp_path / "new")
    for path in ("folder/b/c", "x/file", "x/dangling"):
        for ask in (store.stat(path), store.read(path), store.delete(path, generation=1)):
            with pytest.raises(StoreError, match="a symbolic link"):
                await ask
    with pytest.raises(StoreError, match="a symbolic link"):
        await create(store, "folder/new")
    assert await create(store, "x/file") is None
    assert await create(store, "x/dangling") is None
    assert not (tmp_path / "new").exists()
    assert await listed(store) == ["a/b/c"]
    assert await store.sweep(older_than=-60) == 0
    assert sorted(each.name for each in outside.rglob("*")) == ["b", "c.tcobject"]


@pytest.mark.asyncio
async def test_a_folder_of_uploads_that_leads_elsewhere_is_refused(root: Path, store: FileObjects) -> None:
    (root / "tc/.uploads").rmdir()
    (root / "elsewhere").mkdir()
    (root / "tc/.uploads").symlink_to(root / "elsewhere")
    with pytest.raises(StoreError, match="a symbolic link"):
        await create(store, "a")
    with pytest.raises(StoreError, match="a symbolic link"):
        await store.sweep(older_than=0)
    assert os.listdir(root / "elsewhere") == []


@pytest.mark.asyncio
async def test_foreign_files_are_no_objects_and_are_left_alone(root: Path, store: FileObjects) -> None:
    await created(store, "a/b")
    base = root / "tc"
    (base / "a/notes.txt").write_text("dear diary")
    (base / "a/empty.tcobject").write_bytes(b"")
    (base / "a/other.tcobject").write_text("dear diary\n")
    (base / "a/folder.tcobject").mkdir()
    (base / "a/.hidden").mkdir()
    (base / "a/.hidden/x.tcobject").write_bytes((base / "a/b.tcobject").read_bytes())
    os.mkfifo(base / "a/pipe.tcobject")
    assert await listed(store) == ["a/b"]
    for path in ("a/empty", "a/other", "a/pipe", "a/folder"):
        with pytest.raises(StoreError, match=rf"the file of {path} can't be used"):
            await store.stat(path)
        assert await create(store, path) is None
    assert await store.stat("a/notes.txt") is None
    await store.sweep(older_than=3600)
    assert (base / "a/notes.txt").read_text() == "dear diary"


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["flip", "cut", "longer", "head", "moved"])
async def test_a_damaged_file_is_an_error_that_names_it_and_never_content(
    root: Path, store: FileObjects, what: str
) -> None:
    await created(store, "a/b", b"x" * 10_000)
    await created(store, "a/c", b"y" * 10_000)
    lying = root / "tc/a/b.tcobject"
    raw = bytearray(lying.read_bytes())
    if what == "flip":
        raw[-5000] ^= 1
    elif what == "cut":
        raw = raw[:-5000]
    elif what == "longer":
        raw += b"x"
    elif what == "head":
        raw[raw.index(b'"size": 1') + 8] ^= 3
    else:
        raw = bytearray((root / "tc/a/c.tcobject").read_bytes())
    lying.write_bytes(raw)
    with pytest.raises(StoreError, match=r"the file of a/b can't be used: .*Bring back a backup, or remove it"):
        await store.read("a/b")
    assert await store.read("a/c") == b"y" * 10_000
    assert await listed(store) == (["a/b", "a/c"] if what == "flip" else ["a/c"])
    lying.unlink()
    assert await create(store, "a/b") is not None


# Sweeping


@pytest.mark.asyncio
async def test_sweeping_removes_old_uploads_and_empty_folders_and_counts_the_uploads(
    root: Path, store: FileObjects
) -> None:
    gone = await created(store, "a/b/c/d")
    await created(store, "a/e/f")
    await store.delete("a/b/c/d", generation=gone.generation)
    for name, age in (("old", 100), ("new", 10)):
        path = root / "tc/.uploads" / name
        path.write_bytes(b"half an obj")
        os.utime(path, (time.time() - age, time.time() - age))
    os.link(root / "tc/a/e/f.tcobject", root / "tc/.uploads/linked")  # a process that died after it had linked
    os.utime(root / "tc/.uploads/linked", (1, 1))
    assert await store.sweep(older_than=60) == 2
    assert uploads(root) == ["new"]
    assert "a/b/c" in folders(root)
    for _ in range(2):
        await store.sweep(older_than=0)
    assert folders(root) == [".uploads", "a", "a/e"]
    assert await store.read("a/e/f") == b"hello"
    assert await create(store, "a/b/c/d") is not None
    assert await listed(store) == ["a/b/c/d", "a/e/f"]


@pytest.mark.asyncio
async def test_an_object_is_kept_though_its_folder_is_swept_away_under_it(
    root: Path, store: FileObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, swept = os.link, []

    def late(source: str, *words: object, **options: object) -> None:
        if len(swept) < 3:
            swept.append(os.rmdir(root / "tc/a/b"))
        link(source, *words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "link", late)
    stored = await created(store, "a/b/c")
    assert len(swept) == 3
    assert await store.stat("a/b/c") == stored
    monkeypatch.setattr(os, "link", link)
    assert await store.delete("a/b/c", generation=stored.generation)
    shutil.rmtree(root / "tc/a")
    assert await create(store, "a/b/d") is not None  # the thread has the old folder open
    assert await listed(store) == ["a/b/d"]


@pytest.mark.asyncio
async def test_an_upload_that_is_swept_away_is_told_and_leaves_nothing(
    root: Path, store: FileObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def late(source: str, *words: object, **options: object) -> None:
        (root / "tc/.uploads" / source).unlink(missing_ok=True)
        link(source, *words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreUnavailable, match="was swept away while it was written"):
        await create(store, "a/b")
    assert files(root) == []


@pytest.mark.asyncio
async def test_workers_that_create_remove_and_sweep_at_once_lose_nothing(root: Path, store: FileObjects) -> None:
    other = opened(root)
    ended = asyncio.Event()

    async def sweeping() -> None:
        while not ended.is_set():
            await other.sweep(older_than=-1)  # also folders of this moment; no upload lives that long

    async def writing(number: int) -> None:
        for turn in range(40):
            path = f"a/{number}/{turn % 3}/x"
            try:
                stored = await created(store, path, f"{turn}".encode())
            except StoreUnavailable as exc:  # its upload was swept: older than -1 s is everything
                assert "swept away" in str(exc) or "removes the folders" in str(exc)  # noqa: PT017
                continue
            assert await store.read(path) == f"{turn}".encode()
            assert await store.delete(path, generation=stored.generation) is True

    sweeper = asyncio.ensure_future(sweeping())
    await asyncio.gather(*(writing(number) for number in range(4)))
    ended.set()
    await sweeper
    assert await store.list() == ([], None)
    await other.close()


# Locks, lists, loops


@pytest.mark.asyncio
async def test_a_lock_that_is_held_for_longer_than_the_deadline_is_a_timeout(root: Path, store: FileObjects) -> None:
    stored = await created(store, "a")
    events: list[Event] = []
    hasty = FileObjects(str(root), namespace="tc", deadline=0.1, notify=events.append)
    with open(root / "tc/.lock", "w") as lock:  # noqa: ASYNC230
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(3):
            with pytest.raises(StoreTimeout, match=r"file://.* of 0\.1 s"):
                await hasty.delete("a", generation=stored.generation)
        assert await store.read("a") == b"hello"
    assert [event.kind for event in events] == ["store.lost"]
    assert await store.delete("a", generation=stored.generation) is True
    await hasty.close()


@pytest.mark.asyncio
async def test_a_page_opens_no_folder_that_it_does_not_tell_of(
    store: FileObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        await created(store, f"a/{number:02}/x")
    scanned: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda fd: scanned.append(fd) or scandir(fd))
    page = await store.list("a/", after="a/20/x", most=2)
    assert [each.path for each in page.objects] == ["a/21/x", "a/22/x"]
    assert len(scanned) == 1 + 4  # a, 20 (which may have something after x), 21, 22, 23
    assert page.after == "a/22/x"


def test_objects_answer_on_trio(root: Path) -> None:
    async def scenario() -> None:
        store = opened(root)
        await store.connect(patience=DEADLINE)
        stored = await created(store, "a/b")
        assert stored.created_at == 1.5
        assert await store.read("a/b") == b"hello"
        with trio.move_on_after(0):
            await create(store, "a/c")
        assert await store.delete("a/b", generation=stored.generation) is True
        await store.close()

    trio.run(scenario)


@pytest.mark.asyncio
async def test_a_closed_store_refuses_and_has_let_go_of_everything(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = opened(root)
    for number in range(50):
        await created(store, f"a/{number}/b")
    await store.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await store.stat("a")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_thread_keeps_few_folders_open(root: Path) -> None:
    folder = Folder(str(root), "tc")
    folder.prepare()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        with folder.durable(["a", f"{number}"]) as fd:
            assert os.fstat(fd).st_nlink
    assert len(os.listdir("/proc/self/fd")) == before + 32
    folder.close()
    assert len(os.listdir("/proc/self/fd")) == before
