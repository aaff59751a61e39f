"""Objects in the file system when processes are killed, and where there is no room or no right."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.adapters.load import poll
from tests.adapters.objects_worker import content
from tests.adapters.test_filesystem_objects import DEADLINE, ROOT, files, opened, uploads
from tests.mounts import in_mount
from traffic_cop_middleware.adapters.filesystem.objects import FileObjects
from traffic_cop_middleware.testing.object_contract import create, created, listed, sha256_of


def worker(root: Path, *words: str) -> subprocess.Popen[str]:
    """A process of `objects_worker`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.objects_worker", str(root), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def sizes(root: Path) -> list[int]:
    """The bytes of each, as far as it goes; a file may be gone before one has looked."""
    found = []
    for name in uploads(root):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.stat(root / "tc/.uploads" / name).st_size)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest_asyncio.fixture
async def store(root: Path) -> AsyncIterator[FileObjects]:
    store = opened(root)
    await store.connect(patience=DEADLINE)
    yield store
    await store.close()


# Killed processes


@pytest.mark.asyncio
async def test_kill_9_in_mid_write_leaves_whole_objects_and_what_was_answered(root: Path, store: FileObjects) -> None:
    for turn in range(4):
        process = worker(root, "create", f"run{turn}")
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(5)]
        await poll(lambda: any(0 < size < 2_500_000 for size in sizes(root)), tick=0.0005)
        process.kill()
        said, _ = process.communicate(timeout=30)
        acknowledged += said.split("\n")[:-1]
        found = await listed(store, f"run{turn}/", most=100)
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 1
        for path in found:
            known = await store.stat(path)
            assert known is not None
            assert known.sha256 == sha256_of(content(path))
            assert await store.read(path) == content(path)
    left = len(uploads(root))
    assert await store.sweep(older_than=3600) == 0
    assert await store.sweep(older_than=0) == left
    assert uploads(root) == []
    assert len(await listed(store, most=100)) == len(files(root))


@pytest.mark.asyncio
async def test_kill_9_before_each_step_of_a_creation_leaves_all_of_it_or_nothing(
    root: Path, store: FileObjects
) -> None:
    process = worker(root, "die", "a/{}/b")
    assert process.stdout is not None
    assert process.stdin is not None
    there = []
    for line in process.stdout:
        if line.startswith("ended"):
            break
        number = int(line)
        path = f"a/{number}/b"
        known = await store.stat(path)
        assert (await store.read(path)) == (None if known is None else content(path))
        there.append(known is not None)
        assert await listed(store, f"a/{number}/") == ([path] if known else [])
        await store.sweep(older_than=0)
        assert uploads(root) == []
        assert (await create(store, path) is None) == (known is not None)
        process.stdin.write("\n")
        process.stdin.flush()
    assert line == "ended 0\n"
    process.communicate(timeout=30)
    assert len(there) > 20
    assert there == sorted(there)  # from some step on it is there
    assert there[0] is False
    assert there[-1] is True


@pytest.mark.asyncio
async def test_kill_9_before_each_step_of_a_deletion_holds_up_nobody(root: Path, store: FileObjects) -> None:
    await created(store, "a/b", content("a/b"))
    process = worker(root, "unmake", "a/b")
    assert process.stdout is not None
    assert process.stdin is not None
    there = []
    for line in process.stdout:
        if line.startswith("ended"):
            break
        there.append(await store.read("a/b") == content("a/b"))
        beside = await created(store, "a/c")
        assert await store.delete("a/c", generation=beside.generation) is True
        process.stdin.write("\n")
        process.stdin.flush()
    assert line == "ended 0\n"
    process.communicate(timeout=30)
    assert len(there) > 10
    assert there == sorted(there, reverse=True)
    assert await store.stat("a/b") is None


# No room, no right


def test_a_full_disk_refuses_the_whole_object_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    done = in_mount(tmp_path / "small", f'exec {sys.executable} -m tests.adapters.objects_worker "$0/objects" fill')
    heard, there, known, read, left, removed, again = done.stdout.splitlines()
    assert heard.startswith(f"{tmp_path}/small/objects: No space left on device. Nothing was written. Make room")
    assert (there, known, read, left, removed, again) == ("None", "True", "True", "[]", "a/0", "True")


def test_a_file_system_that_is_read_only_is_told_at_the_start(tmp_path: Path) -> None:
    run = f'{sys.executable} -m tests.adapters.objects_worker "$0/objects" look'
    done = in_mount(tmp_path / "ro", f'mount -o remount,ro "$0" && {run}')
    assert "can't be used (Read-only file system): it is mounted read-only. Mount it for writing" in done.stdout


def test_a_folder_that_belongs_to_somebody_else_is_told_at_the_start(root: Path) -> None:
    root.mkdir(mode=0o500)
    said, _ = worker(root, "beg").communicate(timeout=60)
    assert "can't be used (Permission denied): this user can't write to it. Change its owner" in said
