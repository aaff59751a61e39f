"""Metadata of files in SQLite: in the file of the documents, or in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from traffic_cop_middleware.adapters.sqlite.documents import open as open_documents
from traffic_cop_middleware.adapters.sqlite.files import SqliteFiles
from traffic_cop_middleware.adapters.sqlite.files import open as open_files
from traffic_cop_middleware.contracts import DocumentStore
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.document_contract import item, load
from traffic_cop_middleware.testing.file_metadata_asking import NOW, done, edge, key_of, line, row

DEADLINE = 20.0


def files(path: Path, query: str = "", *, app: str = "tc", deadline: float = DEADLINE) -> SqliteFiles:
    return open_files(f"sqlite:///{path}{query}", namespace=app, deadline=deadline, notify=lambda event: None)


def documents(path: Path) -> DocumentStore:
    return open_documents(f"sqlite:///{path}", namespace="tc", deadline=DEADLINE, notify=lambda event: None)


@pytest.mark.asyncio
async def test_metadata_and_documents_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    kept, about = documents(path), files(path)
    for store in (kept, about):
        await store.connect(patience=DEADLINE)

    async def promote(number: int) -> None:
        await kept.store([item(number, key=f"{number}")])
        await done(about, f"f{number:02d}", version=number)

    await asyncio.gather(*(promote(number) for number in range(1, 21)))
    assert await load(kept, "7") == item(7, key="7")
    assert len(await about.list("acme")) == 20
    for store in (kept, about):
        await store.close()


@pytest.mark.asyncio
async def test_a_file_of_documents_from_before_gets_the_tables_and_keeps_its_documents(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    kept = documents(path)
    await kept.store([item(7)])
    await kept.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'state_files'").fetchone() == (0,)
    about = files(path)
    await done(about, "f1")
    await about.close()
    kept = documents(path)
    assert await load(kept) == item(7)
    await kept.close()


@pytest.mark.asyncio
async def test_what_was_answered_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    store = files(tmp_path / "state.db")
    await done(store, "f0")
    finished = await store.finish(row(), line(file="f1"), [edge("f1", "f0")])
    await store.close()
    again = files(tmp_path / "state.db")
    assert await again.load("acme", ["f1"]) == [finished]
    assert list(await again.history(key_of())) == [line(file="f1")]
    assert [each.row.id for each in await again.ancestors("acme", "f1")] == ["f0"]
    await again.close()


@pytest.mark.asyncio
async def test_what_is_refused_takes_nothing_of_the_others_with_it(tmp_path: Path) -> None:
    store = files(tmp_path / "state.db")
    told = await asyncio.gather(
        *(store.finish(row(f"f{n}"), line(n), [edge(f"f{n}", "none")] if n == 5 else []) for n in range(10)),
        return_exceptions=True,
    )
    assert [n for n, each in enumerate(told) if isinstance(each, StoreError)] == [5]
    assert len(await store.list("acme")) == 9
    assert len(await store.history(key_of())) == 9
    await store.close()


@pytest.mark.asyncio
async def test_a_file_that_another_process_holds_is_a_timeout_and_free_again_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = files(path, deadline=0.3)
    await store.connect(patience=DEADLINE)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreTimeout):
        await store.announce(row())
    other.execute("ROLLBACK")
    other.close()
    patient = files(path)
    assert await patient.announce(row()) == row()
    for each in (store, patient):
        await each.close()


@pytest.mark.asyncio
async def test_a_full_file_says_so_and_keeps_nothing_half(tmp_path: Path) -> None:
    store = files(tmp_path / "state.db", "?max_mb=1")
    count = 0
    with contextlib.suppress(StoreUnavailable):
        while count < 1000:
            await store.finish(row(f"f{count}", about='"' + "x" * 16_000 + '"'), line(count), [])
            count += 1
    with pytest.raises(StoreUnavailable, match="max_mb"):
        await store.finish(row(f"f{count}", about='"' + "x" * 16_000 + '"'), line(count), [])
    assert await store.load("acme", [f"f{count}"]) == [None]
    assert len(await store.history(key_of(), most=1000)) == count
    await store.close()


@pytest.mark.asyncio
async def test_a_time_that_the_row_does_not_bring_is_the_clocks(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    store = SqliteFiles(path, namespace="tc", deadline=DEADLINE, notify=lambda event: None, clock=lambda: NOW + 5)
    assert (await store.finish(row(), None, [])).done_at == NOW + 5
    assert store.name == f"sqlite:///{path}"
    await store.close()


@pytest.mark.parametrize(
    "url", ["sqlite://host/file.db", "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db#b", "sqlite:///a.db?unknown=1"]
)
def test_a_url_that_names_no_file_is_refused_under_its_own_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^file_metadata="):
        open_files(url, namespace="tc", deadline=1, notify=lambda event: None)


@pytest.mark.asyncio
async def test_a_folder_that_is_not_there_is_an_error_of_the_start(tmp_path: Path) -> None:
    store = files(tmp_path / "none" / "state.db")
    with pytest.raises(ConfigurationError, match=r"^file_metadata: .*no folder"):
        await store.connect(patience=DEADLINE)
    await store.close()
