"""Documents in a SQLite file when things go wrong: killed processes, locks, full disks, files that are none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
import trio

from tests.adapters.documents_worker import AT_ONCE
from tests.adapters.load import poll
from tests.mounts import in_mount
from traffic_cop_middleware.adapters.sqlite.documents import SqliteDocuments
from traffic_cop_middleware.adapters.sqlite.documents import open as open_sqlite
from traffic_cop_middleware.composition.state_stores import opener
from traffic_cop_middleware.contracts import Event, Item, StateKey
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.document_asking import item, key_of, load, versions

Task = asyncio.Task[Sequence[int]]
ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 20.0
SHORT = 0.2
"""Seconds: the deadline of a store whose calls are to miss it."""


def opened(path: Path, *, deadline: float = DEADLINE, **options: float) -> SqliteDocuments:
    return SqliteDocuments(str(path), namespace="tc", deadline=deadline, notify=lambda event: None, **options)


def worker(path: Path, *words: str) -> subprocess.Popen[str]:
    """A process of `documents_worker`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.adapters.documents_worker", str(path), *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def lines(process: subprocess.Popen[str]) -> Sequence[str]:
    """All that a process says until it ends, and that it ended well."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.splitlines()


def commits(path: Path) -> int:
    """How many transactions stand in the write-ahead log: frames that say how large the file is after them."""
    log = Path(f"{path}-wal").read_bytes()
    (page,) = struct.unpack(">I", log[8:12])
    frames = range(32, len(log), 24 + page)
    return sum(struct.unpack(">I", log[start + 4 : start + 8])[0] > 0 for start in frames)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def spoil(path: Path) -> None:
    """Write nonsense over all pages but the first and the last."""
    content = bytearray(path.read_bytes())
    content[4096:-4096] = os.urandom(len(content) - 8192)
    path.write_bytes(content)


async def behind_a_lock(path: Path, store: SqliteDocuments, writes: Sequence[Sequence[Item]]) -> list[Task]:
    """Ask for these while another has locked the file: the first waits for the lock, and the others behind it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        asked = [asyncio.ensure_future(store.store(writes[0]))]
        await asyncio.sleep(0)
        await poll(lambda: not store._threads._calls)
        asked += [asyncio.ensure_future(store.store(write)) for write in writes[1:]]
        await poll(lambda: len(store._threads._calls) == len(writes) - 1)
        other.execute("ROLLBACK")
    return asked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteDocuments]:
    store = opened(path)
    await store.connect(patience=DEADLINE)
    yield store
    await store.close()


# The URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://state.db", "what follows sqlite:// is no host"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////tmp/", "names no file"),
        ("sqlite:///a.db#1", "has no '#'"),
        ("sqlite:///a.db?mode=ro", "'mode' is no option here; there is deadline"),
        ("sqlite:///a.db?deadline=soon", "deadline='soon' can't be used: write seconds per call"),
        ("sqlite:///a.db?deadline=0", "from 0.01 to 300"),
        ("sqlite:///a.db?max_mb=nan", "max_mb='nan' can't be used: write megabytes"),
    ],
)
def test_a_url_that_names_no_file_is_refused_with_the_mend(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_sqlite(url, namespace="tc", deadline=1, notify=lambda event: None)
    assert says in str(caught.value)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url", ["sqlite:///some%20where.db", "sqlite:////{folder}/some%20where.db?max_mb=50&deadline=9"]
)
async def test_a_url_is_a_relative_or_an_absolute_path(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = url.format(folder=str(tmp_path)[1:])
    store = open_sqlite(url, namespace="tc", deadline=DEADLINE, notify=lambda event: None)
    assert names_in(tmp_path) == []
    await store.connect(patience=DEADLINE)
    await store.store([item(1)])
    await store.close()
    assert names_in(tmp_path) == ["some where.db"]


@pytest.mark.asyncio
async def test_apps_that_share_a_file_do_not_see_each_other(path: Path, store: SqliteDocuments) -> None:
    other = SqliteDocuments(str(path), namespace="other", deadline=DEADLINE, notify=lambda event: None)
    await store.store([item(7)])
    await store.outbox.append([item(8, key="43")])
    assert await other.load([key_of(), key_of("43")]) == [None, None]
    assert await other.store([item(1, expires_at=1.0)]) == [1]
    assert await other.outbox.claim("w", most=10, idle=60) == []
    assert await other.clean_up(now=time.time(), tombstones_before=time.time()) == 1
    assert await load(store) == item(7)
    await other.close()


# Durability


@pytest.mark.asyncio
async def test_synchronous_full_and_a_write_ahead_log(store: SqliteDocuments) -> None:
    def pragmas(connection: sqlite3.Connection) -> list[object]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await store._threads.ask(pragmas) == ["wal", 2]


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["store", "append"])
async def test_what_was_answered_outlives_kill_9_and_nothing_is_there_by_halves(path: Path, what: str) -> None:
    processes = [worker(path, what, name) for name in ("a", "b")]
    acknowledged: list[tuple[str, int]] = []
    for process, name in zip(processes, "ab", strict=True):
        assert process.stdout is not None
        acknowledged += [(name, int(process.stdout.readline())) for _ in range(20)]
    for process, name in zip(processes, "ab", strict=True):
        process.kill()
        said, _ = process.communicate(timeout=30)
        acknowledged += [(name, int(line)) for line in said.split("\n")[:-1]]
    store = opened(path)
    for name, version in [*acknowledged, *((name, acknowledged[-1][1] + more) for name in "ab" for more in range(30))]:
        found = await store.load([StateKey("", "worker", f"{name} {version} {part}") for part in range(AT_ONCE)])
        there = [each is not None and each.version == version for each in found]
        assert all(there) or ((name, version) not in acknowledged and not any(there))
    if what == "append":
        assert await store.outbox.waiting() >= AT_ONCE * len(acknowledged)
    await store.close()


@pytest.mark.asyncio
async def test_processes_that_make_the_file_and_write_the_same_keys_leave_the_highest_version(
    path: Path,
) -> None:
    processes = [worker(path, "contend", str(seed)) for seed in range(3)]
    written = [tuple(map(int, line.split())) for process in processes for line in lines(process)]
    assert len(written) == 180
    store = opened(path)
    for key in range(5):
        highest = max(version for k, version in written if k == key)
        place = StateKey("", "worker", f"k{key}")
        found = await load(store, place)
        assert found is not None
        assert (found.version, found.value) == (highest, f'"{highest}"')
        assert (await versions(store, place))[0] == highest
    await store.close()


@pytest.mark.asyncio
async def test_writes_that_wait_share_one_commit(path: Path, store: SqliteDocuments) -> None:
    await store.store([item(1, key="before")])
    before = commits(path)
    writing = await behind_a_lock(path, store, [[item(1, key=f"k{number}")] for number in range(50)])
    assert await asyncio.gather(*writing) == [[1]] * 50
    assert commits(path) - before == 2  # the first, which found the file locked, and the 49 that waited behind it


# No room


@pytest.mark.asyncio
async def test_a_full_file_refuses_the_whole_write_and_goes_on_when_there_is_room(path: Path) -> None:
    store = opened(path, max_mb=1)
    await store.connect(patience=DEADLINE)
    stored, heard = 0, ""
    for number in range(100):
        try:
            await store.store([item(1, "x" * 20_000, key=f"k{number} {part}") for part in range(3)])
        except StoreUnavailable as exc:
            heard = str(exc)
            break
        stored += 1
    assert str(path) in heard
    assert "Make room on the disk, or raise ?max_mb=" in heard
    assert 0 < stored < 100
    there = await store.load([key_of(f"k{stored} {part}") for part in range(3)])
    assert there == [None, None, None]
    assert await load(store, f"k{stored - 1} 2") is not None
    with pytest.raises(StoreUnavailable, match="Make room"):
        await store.outbox.append([item(1, "x" * 100_000, key="waits")])
    assert await store.outbox.waiting() == 0
    await store.store([item(2, None, key=f"k0 {part}", written_at=1.0) for part in range(3)])
    assert await store.clean_up(now=0, tombstones_before=2) == 3
    assert await store.store([item(1, "x" * 20_000, key="again")]) == [1]
    await store.close()


@pytest.mark.asyncio
async def test_one_write_for_which_there_is_no_room_leaves_those_beside_it_alone(path: Path) -> None:
    store = opened(path, max_mb=1)
    await store.store([item(1, key="before")])
    sizes = [10, 10, 200_000, 200_000, 200_000, 200_000, 10]
    writes = [[item(1, "x" * size, key=f"k{number}")] for number, size in enumerate(sizes)]
    writing = await behind_a_lock(path, store, writes)
    heard = await asyncio.gather(*writing, return_exceptions=True)
    assert [heard[number] for number in (0, 1, 6)] == [[1]] * 3
    assert any(isinstance(each, StoreUnavailable) for each in heard)
    for number, each in enumerate(heard):
        assert (await load(store, f"k{number}") is not None) == (each == [1])
    await store.close()


def test_a_full_disk_refuses_the_whole_write(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    done = in_mount(folder, f'exec {sys.executable} -m tests.adapters.documents_worker "$0/state.db" fill')
    heard, kept = done.stdout.splitlines()
    assert heard.startswith(f"{folder}/state.db: ")
    assert "full" in heard
    assert kept == "True"


def test_a_file_system_that_is_read_only_is_told_at_the_start(tmp_path: Path) -> None:
    run = f'{sys.executable} -m tests.adapters.documents_worker "$0/state.db" fill'
    done = in_mount(tmp_path / "ro", f'mount -o remount,ro "$0" && {run} 2>&1 | tail -1')
    assert "ConfigurationError" in done.stdout
    assert "can't be written to by this user" in done.stdout


# Locks and deadlines


@pytest.mark.asyncio
async def test_a_file_that_is_locked_for_longer_than_the_deadline_is_a_timeout_and_nothing_is_written(
    path: Path,
) -> None:
    events: list[Event] = []
    store = SqliteDocuments(str(path), namespace="tc", deadline=SHORT, notify=events.append)
    await store.connect(patience=DEADLINE)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(4):
            with pytest.raises(StoreTimeout, match=r"state\.db: .*0\.2 s"):
                await store.store([item(7)])
        other.execute("ROLLBACK")
    other.close()
    for _ in range(100):
        try:
            assert await load(store) is None
            break
        except StoreTimeout:  # a busy machine
            continue
    assert [event.kind for event in events] == ["store.lost", "store.recovered"]
    assert events[0].attributes["store"] == str(path)
    await store.close()


@pytest.mark.asyncio
async def test_reads_go_on_while_another_process_writes(path: Path, store: SqliteDocuments) -> None:
    await store.store([item(7)])
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await load(store) == item(7)
        other.execute("ROLLBACK")
    other.close()


@pytest.mark.asyncio
async def test_what_is_cancelled_before_its_turn_is_not_done(path: Path, store: SqliteDocuments) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.ensure_future(store.store([item(1, key="k0")]))
        await asyncio.sleep(0)
        await poll(lambda: not store._threads._calls)
        cancelled = asyncio.ensure_future(store.store([item(1, key="k1")]))
        await poll(lambda: store._threads._calls)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        other.execute("ROLLBACK")
    assert await first == await store.store([item(1, key="k2")]) == [1]
    assert [await load(store, f"k{number}") is not None for number in range(3)] == [True, False, True]


@pytest.mark.asyncio
async def test_close_does_what_was_asked_for_and_then_refuses(path: Path) -> None:
    store = opened(path)
    writing = [asyncio.ensure_future(store.store([item(1, key=f"k{number}")])) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*writing) == [[1]] * 20
    with pytest.raises(StoreUnavailable, match="is closed"):
        await load(store)
    await opened(path).close()  # never used
    assert names_in(path.parent) == ["state.db"]


def test_documents_answer_on_trio(path: Path) -> None:
    async def scenario() -> None:
        store = opened(path)
        await store.connect(patience=DEADLINE)
        assert await store.store([item(7)]) == [7]
        assert await load(store) == item(7)
        with trio.move_on_after(0):
            await store.store([item(8)])
        await store.close()
        again = opened(path)
        assert (await load(again)) in (item(7), item(8))
        await again.close()

    trio.run(scenario)


# Files that can't be used


@pytest.mark.asyncio
async def test_a_missing_folder_is_named_with_the_mend(tmp_path: Path) -> None:
    store = opened(tmp_path / "nowhere" / "state.db")
    with pytest.raises(ConfigurationError, match=r"there is no folder .*nowhere\. Make it"):
        await store.connect()
    with pytest.raises(StoreError, match="there is no folder"):
        await store.store([item(1)])
    (tmp_path / "nowhere").mkdir()
    assert await store.store([item(1)]) == [1]
    await store.close()


@pytest.mark.asyncio
async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(ConfigurationError, match="is a folder"):
        await store.connect()
    await store.close()


@pytest.mark.asyncio
async def test_what_is_no_sqlite_file_is_refused_and_left_alone(path: Path) -> None:
    await asyncio.to_thread(path.write_bytes, b"dear diary, " * 1000)
    store = opened(path)
    with pytest.raises(ConfigurationError, match=r"state\.db: .*It is no SQLite file: name another one"):
        await store.connect()
    await store.close()
    assert await asyncio.to_thread(path.read_bytes) == b"dear diary, " * 1000


@pytest.mark.asyncio
async def test_the_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE documents (title TEXT)")
    other.close()
    store = opened(path)
    with pytest.raises(ConfigurationError, match="is the SQLite file of another program"):
        await store.connect()
    await store.close()
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("documents",)]
    other.close()


@pytest.mark.asyncio
async def test_a_newer_schema_is_refused(path: Path) -> None:
    first = opened(path)
    await first.store([item(1)])
    await first.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 2")
    other.close()
    store = opened(path)
    with pytest.raises(ConfigurationError, match=r"by a newer Traffic Cop \(its schema is 2, this one knows 1\)"):
        await store.connect()
    await store.close()


@pytest.mark.asyncio
async def test_a_damaged_file_is_an_error_that_names_it_and_the_mend(path: Path) -> None:
    first = opened(path)
    for number in range(50):
        await first.store([item(1, "x" * 2000, key=f"k{number}")])
    await first.close()
    spoil(path)
    store = opened(path)
    with pytest.raises(StoreError, match=r"state\.db: .*damaged: bring back a backup"):
        await store.load([key_of(f"k{number}") for number in range(50)])
    await store.close()


@pytest.mark.asyncio
async def test_a_file_that_was_removed_is_made_anew(path: Path, store: SqliteDocuments) -> None:
    await store.store([item(7)])
    for name in names_in(path.parent):
        os.unlink(path.parent / name)
    assert await store.store([item(8, key="43")]) == [8]
    again = opened(path)
    assert await again.load([key_of(), key_of("43")]) == [None, item(8, key="43")]
    await again.close()


def test_a_python_without_sqlite_is_told_as_such_and_names_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("traffic_cop_middleware.adapters.sqlite", "sqlite3"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "_sqlite3", None)
    with pytest.raises(MissingExtra, match="built without") as caught:
        opener("documents", "sqlite:///state.db")
    assert "pip install" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_number_that_no_row_can_hold_fails_its_own_call_and_no_other(tmp_path: Path) -> None:
    store = SqliteDocuments(str(tmp_path / "state.db"), namespace="tc", deadline=20.0, notify=lambda event: None)
    too_large = item(1, key="b")._replace(version=2**70)
    calls = (store.store([item(1, key="a")]), store.store([too_large]), store.history(item(1).key, before=2**70))
    stored, *refused = await asyncio.gather(*calls, return_exceptions=True)
    assert stored == [1]
    assert [type(each) for each in refused] == [StoreError, StoreError]
    await store.close()
