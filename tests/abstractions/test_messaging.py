"""Records that workers agree on: told, found untold, refused as a whole, given back to a store that lost them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

from traffic_cop_middleware.abstractions.live_table import SLICE, LiveTable
from traffic_cop_middleware.abstractions.messaging import MessagingAbstraction
from traffic_cop_middleware.adapters.memory.bus import MemoryBus
from traffic_cop_middleware.adapters.memory.records import MemoryRecords
from traffic_cop_middleware.contracts import Changes, Record
from traffic_cop_middleware.contracts.records import MOST_CHANGED
from traffic_cop_middleware.errors import ConfigurationError, RecordConflict

pytestmark = pytest.mark.asyncio
KIND = "things"


class Worker:
    """One worker: its view of the records, as numbers by name. Odd numbers can't be used."""

    def __init__(self, records: MemoryRecords, bus: MemoryBus | None) -> None:
        self.swaps: list[dict[str, int | None]] = []
        self.events: list[tuple[str, Any]] = []
        self.table: LiveTable[int] = LiveTable(
            KIND,
            parse=self._parse,
            swap=lambda puts: self.swaps.append(dict(puts)),
            emit=lambda kind, told: self.events.append((kind, told)),
        )
        self.messaging = MessagingAbstraction(records, bus)
        self.messaging.watch(KIND, self.table.heard)

    @staticmethod
    def _parse(name: str, value: Any) -> int:
        if value % 2:
            raise ConfigurationError(f"{value} is odd")
        return int(value)

    @property
    def values(self) -> dict[str, int]:
        return dict(self.table.values)


def store() -> MemoryRecords:
    return MemoryRecords(clock=lambda: 1_700_000_000.0)


async def test_what_one_publishes_all_go_by() -> None:
    records, bus = store(), MemoryBus()
    one, other = Worker(records, bus), Worker(records, bus)
    await one.messaging.converge()
    version = await one.messaging.publish(KIND, {"a": "2", "b": "4"})
    assert one.values == other.values == {"a": 2, "b": 4}
    assert await other.messaging.publish(KIND, {"a": None}, at=version) > version
    assert one.values == other.values == {"b": 4}
    assert one.messaging.version(KIND) == other.messaging.version(KIND)
    assert one.swaps == [{}, {"a": 2, "b": 4}, {"a": None}], "each change once and in order"


async def test_a_change_that_nobody_told_of_is_found() -> None:
    records = store()
    one, other = Worker(records, None), Worker(records, None)
    await one.messaging.publish(KIND, {"a": "2"})
    assert other.values == {}
    await other.messaging.converge()
    assert other.values == {"a": 2}
    await other.messaging.converge()
    assert len(other.swaps) == 1, "nothing new is no change"


async def test_of_two_changes_at_one_version_the_second_is_told_so() -> None:
    records, bus = store(), MemoryBus()
    one = Worker(records, bus)
    version = await one.messaging.publish(KIND, {"a": "2"})
    await one.messaging.publish(KIND, {"a": "4"}, at=version)
    with pytest.raises(RecordConflict, match=f"not at version {version} any more, but at {version + 1}"):
        await one.messaging.publish(KIND, {"a": "6"}, at=version)
    assert one.values == {"a": 4}


async def test_a_record_that_can_not_be_used_holds_the_whole_table_until_it_is_put_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records, bus = store(), MemoryBus()
    worker = Worker(records, bus)
    await worker.messaging.publish(KIND, {"a": "2", "b": "4"})
    await worker.messaging.publish(KIND, {"a": "3", "b": "6", "c": "8"})
    assert worker.values == {"a": 2, "b": 4}
    assert worker.table.refused == {"a": "3 is odd"}
    assert worker.events == [("records.refused", {"kind": KIND, "name": "a", "reason": "3 is odd"})]
    assert "stays as it was" in caplog.text
    await worker.messaging.publish(KIND, {"d": "10"})
    assert worker.values == {"a": 2, "b": 4}
    await worker.messaging.publish(KIND, {"a": "12"})
    assert worker.values == {"a": 12, "b": 6, "c": 8, "d": 10}
    assert worker.table.refused == {}
    assert worker.swaps[-1] == {"a": 12, "b": 6, "c": 8, "d": 10}, "all that waited, at once"


async def test_a_worker_that_starts_leaves_out_what_can_not_be_used(caplog: pytest.LogCaptureFixture) -> None:
    records = store()
    await Worker(records, None).messaging.publish(KIND, {"a": "2", "b": "3"})
    caplog.clear()
    late = Worker(records, None)
    await late.messaging.converge()
    assert late.values == {"a": 2}
    assert late.table.refused == {"b": "3 is odd"}
    assert "it is left out" in caplog.text
    await late.messaging.publish(KIND, {"b": None})
    assert (late.values, late.table.refused) == ({"a": 2}, {})


async def test_what_can_be_used_but_not_together_is_refused_as_a_whole() -> None:
    def swap(puts: Any) -> None:
        if len(table.values) > 2:
            raise ConfigurationError("too many")

    told: list[Any] = []
    table: LiveTable[int] = LiveTable(
        KIND, parse=lambda _, value: int(value), swap=swap, emit=lambda *e: told.append(e)
    )
    table.heard(Changes(1, [Record("a", 1, "1"), Record("b", 1, "2")], True))
    table.heard(Changes(2, [Record("a", 2, "10"), Record("c", 2, "3")], False))
    assert table.values == {"a": 1, "b": 2}
    assert table.refused == {"a": "too many", "c": "too many"}
    table.heard(Changes(3, [Record("b", 3, None)], False))
    assert (table.values, table.refused) == ({"a": 10, "c": 3}, {})


async def test_at_the_start_of_what_does_not_go_together_the_first_is_taken() -> None:
    def swap(puts: Any) -> None:
        if len(set(table.values.values())) < len(table.values):
            raise ConfigurationError("two are alike")

    told: list[Any] = []
    table: LiveTable[int] = LiveTable(
        KIND, parse=lambda _, value: int(value), swap=swap, emit=lambda *e: told.append(e)
    )
    table.heard(Changes(3, [Record(name, 1, value) for name, value in zip("abcde", "12132", strict=True)], True))
    assert table.values == {"a": 1, "b": 2, "d": 3}
    assert table.refused == {"c": "two are alike", "e": "two are alike"}
    table.heard(Changes(4, [Record("a", 4, None), Record("f", 4, "6")], False))
    assert table.values == {"a": 1, "b": 2, "d": 3}, "it stays until all goes together"
    table.heard(Changes(5, [Record("e", 5, None)], False))
    assert (table.values, table.refused) == ({"b": 2, "d": 3, "c": 1, "f": 6}, {})


@pytest.mark.parametrize("error", [OverflowError("too large"), TypeError("no number"), ValueError("none")])
async def test_whatever_a_record_makes_of_its_reader_it_is_refused(error: Exception) -> None:
    def parse(name: str, value: Any) -> int:
        if name == "bad":
            raise error
        return int(value)

    table: LiveTable[int] = LiveTable(KIND, parse=parse, swap=lambda _: None, emit=lambda *_: None)
    table.heard(Changes(1, [Record("good", 1, "1"), Record("bad", 1, "2")], True))
    assert (table.values, table.refused) == ({"good": 1}, {"bad": str(error)})


async def test_what_comes_and_goes_while_a_record_can_not_be_used_is_not_kept() -> None:
    worker = Worker(store(), None)
    await worker.messaging.publish(KIND, {"bad": "1"})
    await worker.messaging.publish(KIND, {"a": "2"})
    for number in range(50):
        await worker.messaging.publish(KIND, {f"n{number}": "2"})
        await worker.messaging.publish(KIND, {f"n{number}": None})
    assert set(worker.table._waiting) == {"a"}


async def test_where_nothing_was_ever_written_a_look_changes_nothing() -> None:
    worker = Worker(store(), None)
    for _ in range(3):
        await worker.messaging.converge()
    assert worker.swaps == [{}], "the limiter forgets its plans and standing refusals with every change"


async def test_a_change_right_after_the_store_lost_all_takes_nothing_away() -> None:
    records = store()
    one, other = Worker(records, None), Worker(records, None)
    await one.messaging.publish(KIND, {"a": "2", "b": "4"})
    await other.messaging.converge()
    records._collections.clear()
    await one.messaging.publish(KIND, {"c": "6"})
    await other.messaging.converge()
    assert one.values == other.values == {"a": 2, "b": 4, "c": 6}


async def test_of_all_that_is_read_again_only_what_differs_is_told() -> None:
    seconds = [20.0, 10.0]  # a version that the new collection never had
    records = MemoryRecords(clock=lambda: seconds.pop(0))
    one, other = Worker(records, None), Worker(records, None)
    await one.messaging.publish(KIND, {"a": "2", "b": "4", "c": "6"})
    await other.messaging.converge()
    records._collections.clear()
    records.change(KIND, {"a": "2", "b": "8"}, at=0)
    await other.messaging.converge()
    assert other.swaps[1:] == [{"b": 8, "c": None}], "thousands of routes are not read anew for one"
    assert other.values == {"a": 2, "b": 8}


async def test_what_is_changed_while_a_lost_store_is_filled_again_stays_changed() -> None:
    count = 2 * MOST_CHANGED + 7
    records = store()
    one = Worker(records, None)
    names = [f"n{number}" for number in range(count)]
    for start in range(0, count, MOST_CHANGED):
        await one.messaging.publish(KIND, dict.fromkeys(names[start : start + MOST_CHANGED], "2"))
    records._collections.clear()
    change, changes = records.change, 0

    def while_another_one_writes(kind: str, values: Any, *, at: int | None) -> int | None:
        nonlocal changes
        version = change(kind, values, at=at)
        changes += 1
        if changes == 1:
            change(kind, {names[-1]: "4", names[0]: None, "new": "6"}, at=version)
        return version

    records.change = while_another_one_writes  # type: ignore[method-assign]
    await one.messaging.converge()
    assert one.values == {**dict.fromkeys(names[1:], 2), names[-1]: 4, "new": 6}


async def test_changes_of_one_worker_at_once_all_hold() -> None:
    records, bus = store(), MemoryBus()
    one, other = Worker(records, bus), Worker(records, bus)
    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon((one, other)[number % 2].messaging.publish, KIND, {f"n{number}": "2"})
    assert one.values == other.values == {f"n{number}": 2 for number in range(50)}


@pytest.mark.parametrize("count", [3, MOST_CHANGED + 7])
async def test_a_store_that_lost_its_records_gets_them_back(count: int, caplog: pytest.LogCaptureFixture) -> None:
    records = store()
    one, other = Worker(records, None), Worker(records, None)
    for start in range(0, count, MOST_CHANGED):
        values = {f"n{number}": str(2 * number) for number in range(start, min(count, start + MOST_CHANGED))}
        await one.messaging.publish(KIND, values)
    await other.messaging.converge()
    records._collections.clear()
    await one.messaging.converge()
    await other.messaging.converge()
    fresh = Worker(records, None)
    await fresh.messaging.converge()
    assert fresh.values == one.values == other.values == {f"n{number}": 2 * number for number in range(count)}
    assert [record.levelno for record in caplog.records] == [logging.WARNING], (
        "one gave them back, the other found them"
    )


async def test_an_emptied_table_is_no_lost_one() -> None:
    records = store()
    one = Worker(records, None)
    await one.messaging.publish(KIND, {"a": "2"})
    await one.messaging.publish(KIND, {"a": None})
    fresh = Worker(records, None)
    await fresh.messaging.converge()
    await one.messaging.converge()
    assert one.values == fresh.values == {}


async def test_one_that_closed_hears_nothing_more() -> None:
    records, bus = store(), MemoryBus()
    one, other = Worker(records, bus), Worker(records, bus)
    other.messaging.close()
    await one.messaging.publish(KIND, {"a": "2"})
    assert other.values == {}


async def test_what_is_parsed_beforehand_is_not_parsed_again_and_gives_way_to_requests() -> None:
    parsed: list[str] = []

    def parse(name: str, value: Any) -> int:
        parsed.append(name)
        if value % 2:
            raise ConfigurationError("odd")
        return int(value) + 1

    turns = 0

    async def requests() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    table: LiveTable[int] = LiveTable(KIND, parse=parse, swap=lambda puts: None, emit=lambda *told: None)
    changes = Changes(1, [Record(f"n{number}", 1, str(2 * number)) for number in range(10 * SLICE)], True)
    others = asyncio.create_task(requests())
    await table.ready(changes)
    others.cancel()
    table.heard(changes)
    assert turns >= 9
    assert len(parsed) == len(table.values) == 10 * SLICE
    await table.ready(Changes(2, [Record("n1", 2, "3"), Record("n2", 2, None)], False))
    table.heard(Changes(2, [Record("n1", 2, "3"), Record("n2", 2, None)], False))
    assert (table.refused, table.values["n2"]) == ({"n1": "odd"}, 5)
