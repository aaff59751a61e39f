"""The contract of `HistoryStore`: what any history of the traffic has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from traffic_cop_middleware.contracts import Due, HistoryBucket, HistoryRow, HistoryStore, Span

DAY = 86_400
START = 20_000 * DAY
"""A day begins."""
BLOBS = (b"", b"\x00\xff\r\n'\"", b"x" * 30_000)
NAMES = ("/a/{x}", "/ä/{路}", "with space?&:%/#", "", "x" * 1_000, "a\ud800b", "/A/{x}")


def row(name: str = "/a", value: bytes = b"1", *, kind: str = "requests", method: str = "GET") -> HistoryRow:
    """A row, of a route unless something else is said."""
    return HistoryRow(kind, name, method, value)


def minute(number: int, source: int = 1) -> HistoryBucket:
    """The bucket of a minute after `START`."""
    return HistoryBucket(60, START + number * 60, source)


def day(resolution: int) -> Span:
    """The day of `START`."""
    return Span(resolution, START, START + DAY)


class HistoryStoreContract:
    """Every promise of `HistoryStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: two of several workers on one empty store, or one where the store is
    this process.
    """

    @pytest.fixture
    def store(self, stores: Sequence[HistoryStore]) -> HistoryStore:
        return stores[0]

    # Rows

    @pytest.mark.asyncio
    async def test_an_empty_store_has_no_rows_and_nothing_due(self, store: HistoryStore) -> None:
        assert list(await store.read([day(60), day(DAY)])) == []
        assert list(await store.due()) == []
        assert await store.prune({60: START}) == 0

    @pytest.mark.asyncio
    async def test_everybody_reads_what_was_written(self, stores: Sequence[HistoryStore]) -> None:
        rows = [row(name, blob, method=method) for name in NAMES for blob, method in zip(BLOBS, "abc", strict=True)]
        assert await stores[0].write(minute(0), rows)
        for store in stores:
            found = await store.read([day(60)])
            assert {past.row for past in found} == set(rows)
            assert {past.start for past in found} == {START}

    @pytest.mark.asyncio
    async def test_a_write_that_is_repeated_changes_nothing(self, store: HistoryStore) -> None:
        for _ in range(3):
            assert await store.write(minute(0), [row("/a"), row("/b")])
        assert await names(store, day(60)) == ["/a", "/b"]

    @pytest.mark.asyncio
    async def test_a_bucket_is_replaced_whole(self, store: HistoryStore) -> None:
        await store.write(minute(0), [row("/a", b"1"), row("/b", b"1"), row("user", kind="usage", method="")])
        await store.write(minute(1), [row("/c")])
        await store.write(minute(0), [row("/b", b"2"), row("/d", b"2")])
        found = [(past.start - START, past.row.name, past.row.value) for past in await store.read([day(60)])]
        assert sorted(found) == [(0, "/b", b"2"), (0, "/d", b"2"), (60, "/c", b"1")]
        await store.write(minute(0), [])
        assert await names(store, day(60)) == ["/c"]

    @pytest.mark.asyncio
    async def test_each_source_has_rows_of_its_own(self, store: HistoryStore) -> None:
        await store.write(minute(0, source=1), [row("/a", b"1"), row("/b", b"1")])
        await store.write(minute(0, source=2**52), [row("/a", b"2")])
        await store.write(minute(0, source=1), [row("/a", b"3")])
        assert sorted(past.row.value for past in await store.read([day(60)])) == [b"2", b"3"]

    @pytest.mark.asyncio
    async def test_a_span_has_its_start_and_not_its_end(self, store: HistoryStore) -> None:
        for number in range(6):
            await store.write(minute(number), [row(str(number))])
        await store.write(HistoryBucket(300, START), [row("five")])
        spans = [Span(60, START + 240, START + 300), Span(300, START, START + 60), Span(60, START + 60, START + 180)]
        assert await names(store, *spans) == ["1", "2", "4", "five"]
        starts = [past.start for past in await store.read(spans)]
        assert starts == sorted(starts)
        assert await names(store, Span(60, START, START)) == []

    @pytest.mark.asyncio
    async def test_what_is_asked_for_is_read_alone(self, store: HistoryStore) -> None:
        rows = [row("/a"), row("/a", method="POST"), row("/b"), row("/a", kind="streams")]
        await store.write(minute(0), [*rows, row("user", kind="usage", method="")])
        assert {past.row for past in await store.read([day(60)], kind="requests")} == set(rows[:3])
        assert {past.row for past in await store.read([day(60)], kind="requests", name="/a")} == set(rows[:2])
        assert {past.row for past in await store.read([day(60)], name="/a")} == {*rows[:2], rows[3]}
        assert list(await store.read([day(60)], kind="nothing")) == []

    @pytest.mark.asyncio
    async def test_more_rows_than_fit_in_a_page_are_read(self, store: HistoryStore) -> None:
        for number in range(3):
            await store.write(minute(number), [row(f"/{at}") for at in range(700)])
        assert len(await store.read([day(60)])) == 2_100

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("bucket", "rows"),
        [
            (HistoryBucket(61, START), []),
            (HistoryBucket(60, START + 1), []),
            (HistoryBucket(60, START, -1), []),
            (minute(0), [row("/a", b"1"), row("/a", b"2")]),
            (minute(0), [row(kind="")]),
            (minute(0), [row("x" * 1_001)]),
            (minute(0), [row(method="x" * 51)]),
        ],
    )
    async def test_what_can_not_be_used_is_refused(
        self, store: HistoryStore, bucket: HistoryBucket, rows: Sequence[HistoryRow]
    ) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
            await store.write(bucket, rows)
        assert list(await store.due()) == []

    # What is to be rolled up

    @pytest.mark.asyncio
    async def test_a_write_makes_the_coarser_bucket_due(self, store: HistoryStore) -> None:
        await store.write(minute(7), [row()])
        await store.write(minute(9), [row()])
        assert [due[:2] for due in await store.due()] == [(300, START + 300)]
        await store.write(minute(2), [row()])
        await store.write(HistoryBucket(DAY, START), [row()])
        assert [due[:2] for due in await store.due()] == [(300, START), (300, START + 300)]

    @pytest.mark.asyncio
    async def test_what_is_rolled_up_is_due_no_longer_and_makes_the_next_one_due(self, store: HistoryStore) -> None:
        await store.write(minute(7), [row()])
        for resolution, start in ((300, START + 300), (3_600, START), (DAY, START)):
            (due,) = await store.due()
            assert due[:2] == (resolution, start)
            assert await store.write(HistoryBucket(resolution, start), [row()], stamp=due.stamp)
        assert list(await store.due()) == []
        for resolution in (60, 300, 3_600, DAY):
            assert await names(store, day(resolution)) == ["/a"]

    @pytest.mark.asyncio
    async def test_a_roll_up_that_did_not_see_the_last_write_is_refused(self, stores: Sequence[HistoryStore]) -> None:
        five = HistoryBucket(300, START)
        stamps = set()
        for turn in range(5):
            await stores[0].write(minute(0), [row(value=b"%d" % turn)])
            due = (await stores[-1].due())[0]
            stamps.add(due.stamp)
            await stores[0].write(minute(turn), [row()])
            assert not await stores[-1].write(five, [row("old")], stamp=due.stamp)
            assert await names(stores[0], day(300)) == (["new"] if turn else [])
            due = (await stores[0].due())[0]
            assert await stores[0].write(five, [row("new")], stamp=due.stamp)
            assert not await stores[-1].write(five, [row("old")], stamp=due.stamp)
        assert len(stamps) == 5

    # Fencing

    @pytest.mark.asyncio
    async def test_who_has_a_lower_token_writes_nothing(self, stores: Sequence[HistoryStore]) -> None:
        assert await stores[0].write(minute(0), [row("/old")], token=2**52)
        assert await stores[-1].write(minute(0), [row("/new")], token=2**52 + 1)
        (due,) = await stores[0].due()
        assert not await stores[0].write(minute(0), [row("/late")], token=2**52)
        assert not await stores[0].write(minute(1), [row("/late")], token=2**52)
        assert not await stores[0].write(HistoryBucket(300, START), [row("/late")], token=2**52, stamp=due.stamp)
        assert await stores[0].prune({60: START + DAY, 300: START + DAY}, token=2**52) == 0
        assert list(await stores[0].due()) == [due]
        assert await names(stores[0], day(60), day(300)) == ["/new"]
        assert await stores[-1].write(minute(0), [row("/again")], token=2**52 + 1)
        assert await stores[0].write(minute(1, source=2), [row("/of another process")])
        assert not await stores[0].write(minute(0), [row("/late")], token=2**52)
        assert await names(stores[0], day(60)) == ["/again", "/of another process"]

    # Pruning

    @pytest.mark.asyncio
    async def test_what_is_old_goes_unless_it_is_still_to_be_rolled_up(self, store: HistoryStore) -> None:
        for number in (0, 4, 5, 9, 10):
            for source in (1, 2):
                await store.write(minute(number, source), [row(str(number)), row("user", kind="usage", method="")])
        due = {each.start: each for each in await store.due()}
        for start in (START, START + 600):
            await store.write(HistoryBucket(300, start), [row("five")], stamp=due[start].stamp)
        assert await store.prune({60: START + 600}) == 4
        assert await store.prune({60: START + 600}) == 0
        assert await names(store, Span(60, START, START + DAY), kind="requests") == ["10", "10", "5", "5", "9", "9"]
        assert await store.prune({300: START + DAY}) == 0
        assert await names(store, day(300)) == ["five", "five"]

    @pytest.mark.asyncio
    async def test_writes_at_once_are_all_there(self, stores: Sequence[HistoryStore]) -> None:
        writes = [
            stores[number % len(stores)].write(minute(number), [row(str(number)), row("/a")]) for number in range(30)
        ]
        assert await asyncio.gather(*writes) == [True] * 30
        assert len(await stores[0].read([day(60)])) == 60
        assert [Due(*due).start for due in await stores[0].due()] == [START + at * 300 for at in range(6)]


async def names(store: HistoryStore, *spans: Span, kind: str | None = None) -> list[str]:
    """The names of the rows of these spans, sorted."""
    return sorted(past.row.name for past in await store.read(spans, kind=kind))
