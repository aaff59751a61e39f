"""A process that takes judged items where they deserve to be is killed at every external call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.files.houses import FileState, file_state
from tests.files.saga_checks import check_nothing_is_left_over, names_of, steps_of, waiting
from tests.files.workers import KILLED, Nursery, Workers
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.contracts import StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

LARGE = {"rows": [{"id": n, "total": n * 1.5, "who": {"name": "x" * 40}} for n in range(MOST_STATE // 60)]}
ORDER = {"user_id": 7, "status": "paid", "amount": 12.5, "lines": [{"id": n, "price": 1.5} for n in range(40)]}


class Case(NamedTuple):
    """What is written, where it ends, and the external calls until then."""

    value: Any
    tier: str
    calls: tuple[str, ...]


CLAIM = ("outbox.claim", "documents.load", "metadata.usage")
KEEP = ("metadata.of_item", "metadata.announce", "objects.create", "metadata.finish", "documents.store")
SETTLE = ("outbox.settle", "outbox.claim")
CASES = {
    "file": Case(LARGE, "delayed", (*CLAIM, *KEEP, "state.reshape", *SETTLE)),
    "up": Case(ORDER, "delayed", (*CLAIM, "metadata.note", "documents.store", *SETTLE)),
    "cache": Case(1, "cache", (*CLAIM, "documents.store", "state.reshape", *SETTLE)),
}
STEPS = [(name, *step) for name, case in CASES.items() for step in steps_of(case.calls)]
NAMES = [f"{name}-{each}" for name, case in CASES.items() for each in names_of(case.calls)]


@pytest.fixture
def workers(nursery: Nursery, where: tuple[str, ...], tmp_path: Path) -> Workers:
    return Workers(nursery, tmp_path, where, judges=True)


@pytest_asyncio.fixture
async def house(where: tuple[str, ...]) -> AsyncIterator[FileState]:
    async with file_state(*where, promotion=PromotionSettings()) as each:
        yield each


async def check(house: FileState, case: Case, version: int) -> None:
    """The item is where it deserves to be, with one line of history where it moved."""
    item = await house.state.get("order", "7", consistency="strong")
    assert item is not None
    assert (item.version, item.value, item.tier) == (version, case.value, case.tier)
    (kept,) = await house.stores.documents.load((StateKey("", "order", "7"),))
    if case.tier == "cache":
        assert kept is None
    else:
        assert kept is not None
        assert (kept.version, kept.tier) == (version, case.tier)
    moved = [] if case.tier == "cache" else [version]
    assert [line.version for line in await house.files.history("order", "7")] == moved
    assert [file.version for file in await house.files.of_item("order", "7")] == [version] * (case.value is LARGE)
    assert await waiting(house) == 0
    await check_nothing_is_left_over(house)


@pytest.mark.parametrize("name", CASES)
async def test_the_external_calls_are_these(name: str, house: FileState, workers: Workers) -> None:
    case = CASES[name]
    item = await house.state.put("order", "7", case.value)
    assert await workers.run() == (0, case.calls)
    await check(house, case, item.version)


@pytest.mark.parametrize(("name", "number", "when"), STEPS, ids=NAMES)
async def test_a_worker_that_is_killed_leaves_the_item_where_it_deserves_to_be(
    name: str, number: int, when: str, house: FileState, workers: Workers
) -> None:
    case = CASES[name]
    item = await house.state.put("order", "7", case.value)
    assert await workers.run(number=number, when=when) == (KILLED, case.calls[:number])
    assert (await workers.run())[0] == 0
    await check(house, case, item.version)
