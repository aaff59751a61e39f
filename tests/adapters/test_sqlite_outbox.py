"""The outbox in a SQLite file, over several stores and several processes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.adapters.test_sqlite_documents import lines, worker
from traffic_cop_middleware.adapters.sqlite import documents, outbox
from traffic_cop_middleware.adapters.sqlite.documents import SqliteDocuments
from traffic_cop_middleware.contracts import Item
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.document_asking import item, key_of, keys, load

DEADLINE = 20.0
IDLE = 30.0


def in_file(path: Path, clock: Callable[[], float]) -> SqliteDocuments:
    return SqliteDocuments(str(path), namespace="tc", deadline=DEADLINE, notify=lambda event: None, clock=clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_800_000_000.0)


@pytest_asyncio.fixture
async def stores(path: Path, clock: FakeClock) -> AsyncIterator[Sequence[SqliteDocuments]]:
    async with contextlib.AsyncExitStack() as stack:
        stores = [in_file(path, clock) for _ in range(2)]
        for store in stores:
            stack.push_async_callback(store.close)
        yield stores


@pytest.fixture
def store(stores: Sequence[SqliteDocuments]) -> SqliteDocuments:
    return stores[0]


async def claim(store: SqliteDocuments, worker: str = "w", *, most: int = 100) -> list[tuple[Item, int]]:
    return [(entry.item, entry.tries) for entry in await store.outbox.claim(worker, most=most, idle=IDLE)]


@pytest.mark.asyncio
async def test_what_is_appended_is_claimed_once_in_its_order(stores: Sequence[SqliteDocuments]) -> None:
    first, other = stores
    await first.outbox.append([item(1, key="a"), item(2, key="b")])
    await other.outbox.append([item(3, None, key="c", expires_at=5.0)])
    assert await first.outbox.waiting() == 3
    assert await claim(other, "w1", most=2) == [(item(1, key="a"), 0), (item(2, key="b"), 0)]
    assert await claim(first, "w2", most=2) == [(item(3, None, key="c", expires_at=5.0), 0)]
    assert await claim(other, "w1") == await claim(first, "w2") == []
    assert await other.outbox.waiting() == 3


@pytest.mark.asyncio
async def test_appending_nothing_is_nothing(store: SqliteDocuments) -> None:
    await store.outbox.append([])
    assert await store.outbox.waiting() == 0


@pytest.mark.asyncio
async def test_all_of_an_append_or_none(store: SqliteDocuments) -> None:
    with pytest.raises(ValueError, match="no NUL"):
        await store.outbox.append([item(1), item(2, key="a\0b")])
    assert await store.outbox.waiting() == 0


@pytest.mark.asyncio
async def test_several_entries_of_an_item_come_with_its_newest_version(store: SqliteDocuments) -> None:
    await store.outbox.append([item(1, '"a"')])
    await store.outbox.append([item(3, '"c"'), item(2, '"b"')])
    entries = await store.outbox.claim("w", most=10, idle=IDLE)
    assert [entry.item for entry in entries] == [item(3, '"c"')] * 3
    assert len({entry.id for entry in entries}) == 3
    await store.outbox.settle(entries)
    assert await store.outbox.waiting() == 0


@pytest.mark.asyncio
async def test_what_a_dead_worker_claimed_is_claimed_again_after_the_idle_time(
    stores: Sequence[SqliteDocuments], clock: FakeClock
) -> None:
    first, other = stores
    await first.outbox.append([item(1)])
    assert await claim(first, "dies") == [(item(1), 0)]
    clock.advance(IDLE)
    assert await claim(other, "w2") == []
    clock.advance(0.001)
    assert await claim(other, "w2") == [(item(1), 1)]
    assert await claim(first, "w3") == []
    clock.advance(IDLE + 1)
    assert await claim(first, "w3") == [(item(1), 2)]


@pytest.mark.asyncio
async def test_a_claim_of_a_clock_that_was_set_back_does_not_last_for_ever(path: Path, clock: FakeClock) -> None:
    ahead = in_file(path, FakeClock(clock() + 86_400))
    await ahead.outbox.append([item(1)])
    assert await claim(ahead) == [(item(1), 0)]
    await ahead.close()
    store = in_file(path, clock)
    assert await claim(store) == [(item(1), 1)]
    await store.close()


@pytest.mark.asyncio
async def test_settling_late_or_twice_takes_out_nothing_else(
    stores: Sequence[SqliteDocuments], clock: FakeClock
) -> None:
    first, other = stores
    await first.outbox.append([item(1)])
    late = await first.outbox.claim("w1", most=10, idle=IDLE)
    clock.advance(IDLE + 1)
    again = await other.outbox.claim("w2", most=10, idle=IDLE)
    await other.outbox.settle(again)
    await other.outbox.append([item(2)])
    await first.outbox.settle(late)
    await first.outbox.settle([entry._replace(id="no entry") for entry in late])
    assert await claim(first) == [(item(2), 0)]


@pytest.mark.asyncio
async def test_a_write_after_the_claim_waits_on_when_the_claim_is_settled(store: SqliteDocuments) -> None:
    await store.outbox.append([item(1)])
    claimed = await store.outbox.claim("w", most=10, idle=IDLE)
    await store.outbox.append([item(2)])
    await store.store([entry.item for entry in claimed])
    await store.outbox.settle(claimed)
    assert await claim(store) == [(item(2), 0)]


@pytest.mark.asyncio
async def test_what_waits_counts_when_items_are_loaded_and_listed(store: SqliteDocuments, clock: FakeClock) -> None:
    await store.store([item(1, key=word) for word in "acdef"])
    await store.outbox.append(
        [
            *(item(2, '"newer"', key="a"), item(3, '"newest"', key="a"), item(1, '"waits"', key="b")),
            *(item(2, None, key="c"), item(0, '"older"', key="d"), item(2, key="e", expires_at=clock() - 1)),
        ]
    )
    found = await store.load([key_of(word) for word in "abcdef"])
    assert [each and (each.version, each.value) for each in found] == [
        *((3, '"newest"'), (1, '"waits"'), (2, None), (1, '{"a":1}'), (2, None), (1, '{"a":1}')),
    ]
    assert (await store.list("acme", "order")).items == [found[0], found[1], found[3], found[5]]
    for most in (1, 2, 3):
        assert await keys(store, most=most) == ["a", "b", "d", "f"]
    assert await store.history(key_of("b")) == []
    claimed = await store.outbox.claim("w", most=10, idle=IDLE)
    await store.store([entry.item for entry in claimed])
    await store.outbox.settle(claimed)
    assert await store.load([key_of(word) for word in "abcdef"]) == found


@pytest.mark.asyncio
async def test_what_waits_is_not_cleaned_up(store: SqliteDocuments, clock: FakeClock) -> None:
    await store.outbox.append([item(1, expires_at=clock() - 10), item(2, None, key="gone", written_at=1.0)])
    assert await store.clean_up(now=clock(), tombstones_before=clock()) == 0
    assert await store.outbox.waiting() == 2
    assert await load(store, "gone") == item(2, None, key="gone", written_at=1.0)


@pytest.mark.asyncio
async def test_a_document_with_an_older_entry_that_waits_is_not_cleaned_up_before_it(
    store: SqliteDocuments, clock: FakeClock
) -> None:
    await store.outbox.append([item(4), item(5, expires_at=clock() - 1)])
    older, newer = await store.outbox.claim("w", most=10, idle=IDLE)
    await store.store([newer.item])
    await store.outbox.settle([newer])
    assert await store.clean_up(now=clock(), tombstones_before=0) == 0
    clock.advance(IDLE + 1)
    (again,) = await store.outbox.claim("w", most=10, idle=IDLE)
    assert (again.id, again.item.version) == (older.id, 5)
    await store.outbox.settle([again])
    assert await store.clean_up(now=clock(), tombstones_before=0) == 1


@pytest.mark.asyncio
async def test_the_dead_are_kept_with_their_reasons_and_come_back(
    stores: Sequence[SqliteDocuments], clock: FakeClock
) -> None:
    first, other = stores
    await first.outbox.append([item(1, key="a"), item(2, key="b"), item(3, key="c")])
    await claim(first)
    clock.advance(IDLE + 1)
    a, b, c = await first.outbox.claim("w", most=10, idle=IDLE)
    assert a.tries == 1
    await first.outbox.bury(b, "too large: \udc80")
    clock.advance(1)
    await other.outbox.bury(a, "no such tenant")
    await other.outbox.settle([c])
    await other.outbox.bury(c, "settled by now")
    assert await first.outbox.waiting() == 0
    assert await other.outbox.dead() == [(b, "too large: ?"), (a, "no such tenant")]
    assert await other.outbox.dead(most=1) == [(b, "too large: ?")]
    assert await other.outbox.revive([a.id, "12345", "none", "9" * 30]) == 1
    assert await other.outbox.revive([a.id]) == 0
    assert await first.outbox.dead() == [(b, "too large: ?")]
    assert await claim(first) == [(item(1, key="a"), 0)]


@pytest.mark.asyncio
async def test_ids_are_not_used_again(store: SqliteDocuments) -> None:
    seen = set()
    for _ in range(5):
        await store.outbox.append([item(1)])
        (entry,) = await store.outbox.claim("w", most=10, idle=IDLE)
        assert entry.id not in seen
        seen.add(entry.id)
        await store.outbox.settle([entry])


@pytest.mark.asyncio
async def test_processes_share_the_work_and_each_entry_is_settled_once(path: Path) -> None:
    store = SqliteDocuments(str(path), namespace="tc", deadline=DEADLINE, notify=lambda event: None)
    for start in range(0, 60, 30):
        await store.outbox.append([item(1, key=f"k{number}") for number in range(start, start + 30)])
    settled = [lines(process) for process in [worker(path, "claim", name) for name in ("a", "b")]]
    assert sorted(int(id) for each in settled for id in each) == list(range(1, 61))
    assert await store.outbox.waiting() == 0
    assert len(await keys(store, most=100)) == 60
    await store.close()


@pytest.mark.asyncio
async def test_what_waits_is_reshaped_there_and_in_the_documents(stores: Sequence[SqliteDocuments]) -> None:
    first, other = stores
    waits, both, older = item(7, "x" * 300_000, key="waits"), item(7, key="both"), item(7, key="older")
    await first.store([both, older])
    await first.outbox.append([waits, both, item(8, key="older")])
    shapes = [each._replace(value='@{"file":"f"}', tier="delayed") for each in (waits, both, older)]
    assert await other.reshape(shapes) == [True, True, False]
    assert await first.load([waits.key, both.key, older.key]) == [*shapes[:2], item(8, key="older")]
    assert await claim(first) == [(shapes[0], 0), (shapes[1], 0), (item(8, key="older"), 0)]
    assert [revision.item for revision in await first.history(both.key)] == [shapes[1]]
    assert [revision.item for revision in await first.history(older.key)] == [older]


@pytest.mark.asyncio
async def test_what_the_documents_have_in_another_shape_at_the_same_version_is_claimed_so(
    store: SqliteDocuments,
) -> None:
    large = item(7, "x" * 300_000)
    shape = large._replace(value='@{"file":"f"}')
    await store.outbox.append([large, large])
    await store.store([shape])
    assert await load(store) == shape
    assert await claim(store) == [(shape, 0), (shape, 0)]


@pytest.mark.asyncio
async def test_large_items_are_claimed_and_listed_a_few_at_a_time(
    store: SqliteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CLAIM_CHARACTERS", 3_000_000)
    monkeypatch.setattr(documents, "PAGE_CHARACTERS", 3_000_000)
    items = [item(7, "x" * 2_000_000, key=f"k{number}") for number in range(5)]
    for each in items:
        await store.outbox.append([each, each])
    pages = [await store.list("acme", "order", after=after) for after in (None, "k1", "k3")]
    assert [([each.key.key for each in page.items], page.after) for page in pages] == [
        (["k0", "k1"], "k1"),
        (["k2", "k3"], "k3"),
        (["k4"], None),
    ]
    for some in (items[:2], items[2:4], items[4:]):
        assert await claim(store) == [(each, 0) for each in some for _ in range(2)]
    assert await claim(store) == []


@pytest.mark.asyncio
async def test_an_outbox_that_is_full_refuses_what_comes_and_takes_it_when_there_is_room(
    store: SqliteDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_WAITING", 10)
    for number in range(10):
        await store.outbox.append([item(number, key=f"k{number}")])
    with pytest.raises(StoreUnavailable, match="the outbox is full"):
        await store.outbox.append([item(11, key="more")])
    assert await store.outbox.waiting() == 10
    done = await store.outbox.claim("w", most=5, idle=IDLE)
    await store.outbox.settle(done[1:])  # the first one stays, so ids lie further apart than entries are
    await store.outbox.append([item(11, key="more")])
    assert await store.outbox.waiting() == 7
