"""The contract of `MetricsStore`: what any backend's counters have to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.contracts import SEALED, Flush, Flushed, MetricsRecord, MetricsStore, Totals

BLOBS = (b"", b"\x00\xff\r\n", b"x" * 20_000)


def flush(sequence: int, through: int = 0, **more: Any) -> Flush:
    """A flush with its whole total, unless something else is said."""
    given = {"total": b"total", "now": b"now", "windows": {}, **more}
    return Flush(sequence, through, **given)


class MetricsStoreContract:
    """Every promise of `MetricsStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on one empty store, or one where the store
    is this process.
    """

    @pytest.fixture
    def store(self, stores: Sequence[MetricsStore]) -> MetricsStore:
        return stores[0]

    # Writing

    @pytest.mark.asyncio
    async def test_an_empty_store_has_no_workers_no_record_and_no_windows(self, store: MetricsStore) -> None:
        totals = await _totals(store)
        assert totals.workers == {}
        assert totals.record[1:] == (0, b"")
        assert await _windows(store, "10s:1", "1m:1") == [{}, {}]

    @pytest.mark.asyncio
    async def test_everybody_reads_what_a_worker_last_wrote(self, stores: Sequence[MetricsStore]) -> None:
        for sequence in (1, 2, 3):
            written = await _flush(stores[0], "a", flush(sequence, total=b"t%d" % sequence, now=b"n%d" % sequence))
            assert written.accepted
            assert written.retired is None
        for store in stores:
            (worker,) = (await _totals(store)).workers.values()
            assert (worker.sequence, worker.total, worker.now, worker.final) == (3, b"t3", b"n3", False)
            assert worker.age >= 0

    @pytest.mark.asyncio
    async def test_a_flush_that_is_repeated_changes_nothing(self, store: MetricsStore) -> None:
        for _ in range(3):
            assert (await _flush(store, "a", flush(1, windows={"10s:1": b"w"}))).accepted
        assert len((await _totals(store)).workers) == 1
        assert await _windows(store, "10s:1") == [{"a": b"w"}]

    @pytest.mark.asyncio
    async def test_an_older_flush_does_not_replace_a_newer_one(self, store: MetricsStore) -> None:
        await _flush(store, "a", flush(5, now=b"newer", windows={"10s:1": b"newer"}))
        assert (await _flush(store, "a", flush(4, now=b"older", windows={"10s:1": b"older"}))).accepted
        assert (await _totals(store)).workers["a"].now == b"newer"
        assert await _windows(store, "10s:1") == [{"a": b"newer"}]

    @pytest.mark.asyncio
    async def test_a_total_stands_until_the_slot_that_it_goes_to_changes(self, store: MetricsStore) -> None:
        await _flush(store, "a", flush(1, 7, total=b"through 7"))
        assert (await _flush(store, "a", flush(2, 7, total=None, now=b"later"))).accepted
        worker = (await _totals(store)).workers["a"]
        assert (worker.total, worker.now) == (b"through 7", b"later")
        assert not (await _flush(store, "a", flush(3, 8, total=None, now=b"of 9"))).accepted
        worker = (await _totals(store)).workers["a"]
        assert (worker.total, worker.now, worker.sequence) == (b"through 7", b"later", 2)

    @pytest.mark.asyncio
    async def test_a_worker_that_the_store_does_not_know_is_asked_for_its_total(self, store: MetricsStore) -> None:
        assert not (await _flush(store, "a", flush(1, total=None))).accepted
        assert (await _totals(store)).workers == {}
        assert (await _flush(store, "a", flush(2))).accepted

    @pytest.mark.asyncio
    async def test_blobs_come_back_as_they_were(self, store: MetricsStore) -> None:
        for sequence, blob in enumerate(BLOBS, 1):
            await _flush(store, "a", flush(sequence, total=blob, now=blob, windows={"10s:1": blob}))
            worker = (await _totals(store)).workers["a"]
            assert (worker.total, worker.now) == (blob, blob)
            assert await _windows(store, "10s:1") == [{"a": blob}]

    @pytest.mark.asyncio
    async def test_a_hundred_workers_are_all_read(self, stores: Sequence[MetricsStore]) -> None:
        for number in range(100):
            await _flush(stores[number % len(stores)], f"w{number}", flush(1, now=b"%d" % number))
        workers = (await _totals(stores[0])).workers
        assert {name: worker.now for name, worker in workers.items()} == {f"w{n}": b"%d" % n for n in range(100)}

    # The record

    @pytest.mark.asyncio
    async def test_workers_go_into_the_record_by_compare_and_set(self, stores: Sequence[MetricsStore]) -> None:
        store, other = stores[0], stores[-1]
        await _flush(store, "a", flush(4, final=True))
        await _flush(store, "b", flush(1))
        totals = await _totals(other)
        assert totals.workers["a"].final
        assert await _retire(other, totals.record, b"with a", {"a": 4})
        after = await _totals(store)
        assert set(after.workers) == {"b"}
        assert after.record == MetricsRecord(totals.record.epoch, 1, b"with a")
        assert await answered(store.record()) == after.record
        assert not await _retire(other, totals.record, b"again", {})
        assert (await answered(store.record())).value == b"with a"

    @pytest.mark.asyncio
    async def test_a_worker_that_has_written_since_is_not_retired(self, store: MetricsStore) -> None:
        await _flush(store, "a", flush(1))
        await _flush(store, "b", flush(1))
        record = (await _totals(store)).record
        await _flush(store, "b", flush(2))
        assert not await _retire(store, record, b"record", {"a": 1, "b": 1})
        assert not await _retire(store, record, b"record", {"nobody": 1})
        totals = await _totals(store)
        assert (set(totals.workers), totals.record.value) == ({"a", "b"}, b"")

    @pytest.mark.asyncio
    async def test_a_worker_that_comes_back_hears_what_was_kept_of_it_and_writes_nothing(
        self, store: MetricsStore
    ) -> None:
        await _flush(store, "a", flush(3, total=b"T", now=b"N"))
        assert await _retire(store, (await _totals(store)).record, b"with a", {"a": 3})
        back = await _flush(store, "a", flush(4, windows={"10s:1": b"w"}))
        assert (back.accepted, back.retired) == (False, (b"T", b"N"))
        assert (await _totals(store)).workers == {}
        assert (await _flush(store, "a2", flush(1))).accepted

    @pytest.mark.asyncio
    async def test_a_final_flush_that_is_repeated_when_its_worker_is_in_the_record_changes_nothing(
        self, store: MetricsStore
    ) -> None:
        late, last = flush(1, windows={"10s:1": b"late"}), flush(2, final=True, windows={"10s:1": b"last"})
        for _ in range(2):
            assert (await _flush(store, "a", last)).accepted
        assert await _retire(store, (await _totals(store)).record, b"with a", {"a": 2})
        for again in (last, late, last):
            flushed = await _flush(store, "a", again)
            assert (flushed.accepted, flushed.retired, flushed.version) == (True, None, 1)
        assert (await _totals(store)).workers == {}
        assert await _windows(store, "10s:1") == [{"a": b"last"}]

    @pytest.mark.asyncio
    async def test_a_flush_tells_of_the_record_that_there_is(self, store: MetricsStore) -> None:
        first = await _flush(store, "a", flush(1))
        assert first.version == 0
        assert await _retire(store, (await _totals(store)).record, b"record", {})
        second = await _flush(store, "a", flush(2))
        assert (second.version, second.epoch) == (1, first.epoch)

    # Windows

    @pytest.mark.asyncio
    async def test_a_window_has_the_parts_of_all_workers(self, stores: Sequence[MetricsStore]) -> None:
        for number, store in enumerate(stores):
            await _flush(store, f"w{number}", flush(1, windows={"10s:5": b"%d" % number, "1m:0": b"minute"}))
        found = await _windows(stores[0], "10s:5", "10s:6", "1m:0")
        workers = [f"w{number}" for number in range(len(stores))]
        assert found == [
            {worker: b"%d" % number for number, worker in enumerate(workers)},
            {},
            dict.fromkeys(workers, b"minute"),
        ]

    @pytest.mark.asyncio
    async def test_a_hundred_parts_of_a_window_are_all_read(self, stores: Sequence[MetricsStore]) -> None:
        for number in range(100):
            await _flush(stores[number % len(stores)], f"w{number}", flush(1, windows={"10s:5": b"%d" % number}))
        assert await _windows(stores[0], "10s:5") == [{f"w{number}": b"%d" % number for number in range(100)}]

    @pytest.mark.asyncio
    async def test_a_windows_stamp_is_another_one_after_each_write_and_stays_without_one(
        self, stores: Sequence[MetricsStore]
    ) -> None:
        store, other = stores[0], stores[-1]
        names = ("10s:5", "1m:0", "1m:1")
        found = [await _stamps(other, *names)]
        assert found == [[0, 0, 0]]
        for sequence, worker in ((1, "a"), (2, "a"), (3, "b")):
            await _flush(store, worker, flush(sequence, windows={"10s:5": b"w", "1m:0": b"w"}))
            found.append(await _stamps(other, *names))
            assert found[-1] == await _stamps(store, *names)
            assert [found[-1][0]] == [(await answered(other.window("10s:5"))).stamp]
        for stamps in zip(*found[:-1], strict=True), zip(*found[1:], strict=True):
            ten, one, nothing = stamps
            assert len({*ten}) == len({*one}) == 3
            assert {*nothing} == {0}

    @pytest.mark.asyncio
    async def test_a_sealed_window_is_one_until_a_worker_writes(self, stores: Sequence[MetricsStore]) -> None:
        store, other = stores[0], stores[-1]
        for worker in ("a", "b"):
            await _flush(store, worker, flush(1, windows={"1m:3": worker.encode()}))
        (stamp,) = await _stamps(store, "1m:3")
        await answered(other.seal("1m:3", b"ab", stamp))
        assert await answered(store.window("1m:3")) == (stamp, {SEALED: b"ab"})
        await _flush(store, "late", flush(1, windows={"1m:3": b"late"}))
        assert await _windows(store, "1m:3") == [{"a": b"a", "b": b"b", "late": b"late"}]
        await answered(store.seal("1m:3", b"all", (await _stamps(store, "1m:3"))[0]))
        assert await _windows(store, "1m:3") == [{SEALED: b"all"}]
        await _flush(store, "a", flush(2, windows={"1m:3": b"more"}))
        assert await _windows(store, "1m:3") == [{"a": b"more", "b": b"b", "late": b"late"}]

    @pytest.mark.asyncio
    async def test_a_window_of_nobody_or_that_was_written_since_is_not_sealed(self, store: MetricsStore) -> None:
        await answered(store.seal("1m:9", b"nothing", 0))
        await _flush(store, "a", flush(1, windows={"1m:3": b"a"}))
        (stamp,) = await _stamps(store, "1m:3")
        await _flush(store, "a", flush(2, windows={"1m:3": b"more"}))
        await answered(store.seal("1m:3", b"older", stamp))
        assert await _windows(store, "1m:9", "1m:3") == [{}, {"a": b"more"}]


async def _flush(store: MetricsStore, worker: str, what: Flush) -> Flushed:
    return await answered(store.flush(worker, what))


async def _totals(store: MetricsStore) -> Totals:
    return await answered(store.totals())


async def _retire(store: MetricsStore, at: MetricsRecord, value: bytes, workers: Mapping[str, int]) -> bool:
    return await answered(store.retire(at, value, workers))


async def _stamps(store: MetricsStore, *names: str) -> list[int]:
    return [*await answered(store.stamps(names))]


async def _windows(store: MetricsStore, *names: str) -> Sequence[Mapping[str, bytes]]:
    return [(await answered(store.window(name))).parts for name in names]
