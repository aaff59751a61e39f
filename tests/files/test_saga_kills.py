"""A process that takes an item to its file is killed at every external call; what is left is one file, whole."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.files.houses import FileState
from tests.files.saga_checks import (
    CALLS,
    check,
    check_newer,
    check_nothing_is_left_over,
    names_of,
    steps_of,
    waiting,
    written,
)
from tests.files.workers import KILLED, Workers, until_stopped
from traffic_cop_middleware.abstractions.files.naming import content_of
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.contracts import StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import ConfigurationError

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

AT_ONCE = ("state.write", *CALLS[1:7])


async def test_the_external_calls_of_the_saga_are_these(house: FileState, workers: Workers) -> None:
    (item,) = await written(house, "q3")
    assert await workers.run() == (0, CALLS)
    await check(house, item)


@pytest.mark.parametrize(("number", "when"), steps_of(CALLS), ids=names_of(CALLS))
async def test_a_worker_that_is_killed_leaves_one_file(
    number: int, when: str, house: FileState, workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    assert await workers.run(number=number, when=when) == (KILLED, CALLS[:number])
    await house.flush()
    await check(house, item)


@pytest.mark.parametrize("number", range(2, len(CALLS)), ids=[CALLS[n - 1] for n in range(2, len(CALLS))])
async def test_what_is_written_after_a_killed_worker_wins(number: int, house: FileState, workers: Workers) -> None:
    (item,) = await written(house, "q3")
    assert await workers.run(number=number, when="after") == (KILLED, CALLS[:number])
    await check_newer(house, item)


@pytest.mark.parametrize("number", range(2, len(CALLS)), ids=[CALLS[n - 1] for n in range(2, len(CALLS))])
@pytest.mark.parametrize("newer", ["c" * (MOST_STATE + 30), {"small": True}, None], ids=["large", "small", "deleted"])
async def test_a_worker_that_slept_undoes_nothing_of_what_was_done_meanwhile(
    number: int, newer: Any, house: FileState, workers: Workers
) -> None:
    (item,) = await written(house, "q3")

    async def meanwhile(pids: list[int]) -> None:
        await until_stopped(pids[0])
        if newer is None:
            await house.state.delete("report", "q3")
        else:
            await house.state.put("report", "q3", newer, tier="delayed")
        await house.flush()
        await house.files.reconcile(older_than=0.0)

    job = workers.job(number=number, when="before", end=signal.SIGSTOP)
    assert await workers.nursery.run([job], meanwhile) == [0]
    await house.flush()
    await house.files.reconcile(older_than=0.0)
    await check_nothing_is_left_over(house)
    held = await house.state.get("report", "q3", consistency="strong")
    assert (held and held.value) == newer
    (kept,) = await house.stores.documents.load((StateKey("", "report", "q3"),))
    assert kept is not None
    assert kept.version > item.second
    assert await waiting(house) == 0
    for file in await house.files.list():
        assert len(await house.files.read(file)) == file.size


async def test_three_workers_at_once_make_one_file(house: FileState, workers: Workers) -> None:
    (item,) = await written(house, "q3")
    assert await workers.nursery.run([workers.job() for _ in range(3)]) == [0, 0, 0]
    await house.flush()
    await check(house, item)


@pytest.mark.parametrize(("number", "when"), steps_of(AT_ONCE), ids=names_of(AT_ONCE))
async def test_who_is_killed_while_a_large_value_is_kept_at_once_leaves_one_file_or_nothing(
    number: int, when: str, house: FileState, workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    await house.flush()
    value = "c" * (MOST_STATE + 30)
    put = ("put", "report", "q3", value)
    assert await workers.run(*put, tier="immediate", number=number, when=when) == (KILLED, AT_ONCE[:number])
    await house.flush()
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    if number == 1 and when == "before":
        await check(house, item)
        return
    assert held.value == value
    files = await house.files.of_item("report", "q3")
    assert [file.version for file in files] == [held.version, item.second, item.first]
    assert await house.files.read(files[0]) == content_of(dumps(value))
    assert await waiting(house) == 0
    await check_nothing_is_left_over(house)


async def test_the_external_calls_of_a_large_value_that_is_kept_at_once_are_these(
    house: FileState, workers: Workers
) -> None:
    await written(house, "q3")
    assert await workers.run("put", "report", "q3", "c" * (MOST_STATE + 30), tier="immediate") == (0, AT_ONCE)


async def test_a_file_that_only_the_documents_point_to_is_not_deleted(house: FileState, workers: Workers) -> None:
    (item,) = await written(house, "q3")
    number = CALLS.index("documents.store") + 1
    assert await workers.run(number=number, when="after") == (KILLED, CALLS[:number])
    file = (await house.files.of_item("report", "q3"))[0]
    assert file.version == item.second
    with pytest.raises(ConfigurationError, match="report/q3"):
        await house.files.delete(file)
    await house.flush()
    await check(house, item)


async def test_what_waits_for_its_file_gets_another_one_where_that_was_deleted(house: FileState) -> None:
    value = "v" * (MOST_STATE + 1)
    await house.state.put("report", "q3", value, tier="delayed")
    for _ in range(2):
        file = await house.files.promote("report", "q3")
        assert file.status == "done"
        with pytest.raises(ConfigurationError, match="report/q3"):
            await house.files.delete(file)
        await house.stores.metadata.set_status("", file.id, "deleted", reason="", unless="deleted", at=0.0)
    await house.flush()
    await house.files.collect_garbage(grace=0.0)
    await check_nothing_is_left_over(house)
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert held.value == value
    (file,) = await house.files.of_item("report", "q3")
    assert await house.files.read(file) == content_of(dumps(value))
    await house.flush()
    assert len(await house.files.of_item("report", "q3")) == 1
