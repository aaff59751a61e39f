"""The saga on Redis, ArangoDB, Cloud Storage and Supabase: workers that die and race, and replies that are lost."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.adapters.load import poll
from tests.files.cloud import Cloud
from tests.files.houses import FileState
from tests.files.saga_checks import (
    CALLS,
    caught_up,
    check,
    check_newer,
    names_of,
    steps_of,
    waiting,
    written,
)
from tests.files.workers import KILLED, Workers, calls_of
from traffic_cop_middleware.adapters.gcs.objects import CHUNK

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

LARGE = CHUNK + 1_000_000
"""Bytes of a value that goes up in two requests."""
SHORT = {
    "redis": ["claim", "claim", "reshape", "settle", "claim"],
    "documents": ["AQL store"],
    "objects": ["create"],
    "metadata": ["GET /state_files", "POST /state_files", "POST /rpc/traffic_cop_finish"],
}
"""What each server is asked on the wire while an item goes to its file. A new one fails a test, and has its reply lost
by another as soon as it stands here."""
LONG = SHORT | {"objects": ["start", "chunk", "chunk"]}
REPLIES = [
    *((SHORT, server, number) for server in SHORT for number in range(len(SHORT[server]))),
    *((LONG, "objects", number) for number in range(len(LONG["objects"]))),
]
AFTER = CALLS.index("objects.create") + 1
RESUMED = (*CALLS[:AFTER], "objects.read", *CALLS[AFTER:])
"""The calls of a worker that finds an object which another one made, and looks whether it is the right one."""
MANY = [f"q{number}" for number in range(12)]


@pytest_asyncio.fixture
async def house(cloud: Cloud) -> AsyncIterator[FileState]:
    async with cloud.house() as each:
        yield each


# Workers that die


async def test_the_external_calls_of_the_saga_are_these(house: FileState, cloud_workers: Workers) -> None:
    (item,) = await written(house, "q3")
    assert await cloud_workers.run() == (0, CALLS)
    await check(house, item)


@pytest.mark.parametrize(("number", "when"), steps_of(CALLS), ids=names_of(CALLS))
async def test_a_worker_that_is_killed_leaves_one_file(
    number: int, when: str, house: FileState, cloud_workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    assert await cloud_workers.run(number=number, when=when) == (KILLED, CALLS[:number])
    assert (await cloud_workers.run())[0] == 0
    await check(house, item)


async def test_the_calls_after_a_worker_that_died_behind_its_upload_are_these(
    house: FileState, cloud_workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    assert await cloud_workers.run(number=AFTER, when="after") == (KILLED, CALLS[:AFTER])
    assert await cloud_workers.run() == (0, RESUMED)
    await check(house, item)


@pytest.mark.parametrize(("number", "when"), steps_of(RESUMED), ids=names_of(RESUMED))
async def test_who_goes_on_may_be_killed_as_well(
    number: int, when: str, house: FileState, cloud_workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    await cloud_workers.run(number=AFTER, when="after")
    assert await cloud_workers.run(number=number, when=when) == (KILLED, RESUMED[:number])
    await house.flush()
    await check(house, item)


@pytest.mark.parametrize("number", range(2, len(CALLS)), ids=[CALLS[n - 1] for n in range(2, len(CALLS))])
async def test_what_is_written_after_a_killed_worker_wins(
    number: int, house: FileState, cloud_workers: Workers
) -> None:
    (item,) = await written(house, "q3")
    assert await cloud_workers.run(number=number, when="after") == (KILLED, CALLS[:number])
    await check_newer(house, item)


async def test_a_worker_that_is_killed_in_the_middle_of_an_upload_leaves_one_file(
    house: FileState, cloud: Cloud, cloud_workers: Workers
) -> None:
    (item,) = await written(house, "q3", size=LARGE)
    objects = cloud.objects
    objects.requests.clear()
    objects.faults["chunk"] = [None, *[503] * 1000]

    async def kill_between_two_chunks(pids: list[int]) -> None:
        await poll(lambda: objects.requests.count("chunk") >= 2)
        os.kill(pids[0], signal.SIGKILL)

    job = cloud_workers.job()
    assert await cloud_workers.nursery.run([job], kill_between_two_chunks) == [KILLED]
    assert calls_of(job) == CALLS[:4]
    assert [len(upload.content) for upload in objects.uploads.values() if upload.answer is None] == [CHUNK]
    objects.faults.clear()
    await house.flush()
    await check(house, item)


# Workers that race


@pytest.mark.parametrize("keys", [["q3"], MANY], ids=["one", "many"])
async def test_three_workers_at_once_make_one_file_of_each_item(
    keys: list[str], house: FileState, cloud_workers: Workers
) -> None:
    items = await written(house, *keys)
    assert await cloud_workers.nursery.run([cloud_workers.job() for _ in range(3)]) == [0, 0, 0]
    await house.flush()
    await check(house, *items)


async def test_workers_and_reconcilers_at_once_make_one_file_of_each_item(
    house: FileState, cloud_workers: Workers
) -> None:
    items = await written(house, *MANY)
    reconciling = [cloud_workers.job("reconcile", older_than=0.0) for _ in range(2)]
    jobs = [cloud_workers.job(), *reconciling, cloud_workers.job()]
    assert await cloud_workers.nursery.run(jobs) == [0] * 4
    await house.flush()
    await check(house, *items)


async def test_of_three_workers_at_once_one_dies_with_what_it_claimed(house: FileState, cloud_workers: Workers) -> None:
    items = await written(house, *MANY)
    jobs = [cloud_workers.job(number=1, when="after"), cloud_workers.job(), cloud_workers.job()]
    assert await cloud_workers.nursery.run(jobs) == [KILLED, 0, 0]
    await house.flush()
    await check(house, *items)


@pytest.mark.parametrize("number", [14, 37, len(MANY) * 4 + 2])
async def test_two_workers_at_once_go_on_after_one_died_in_the_middle_of_many_items(
    number: int, house: FileState, cloud_workers: Workers
) -> None:
    items = await written(house, *MANY)
    assert (await cloud_workers.run(number=number, when="after"))[0] == KILLED
    assert await cloud_workers.nursery.run([cloud_workers.job(), cloud_workers.job()]) == [0, 0]
    await house.flush()
    await check(house, *items)


# Replies that are lost


@pytest.mark.parametrize("size", [300_000, LARGE])
async def test_on_the_wire_the_saga_asks_this(cloud: Cloud, size: int) -> None:
    async with cloud.house(proxy=True) as house:
        (item,) = await written(house, "q3", size=size)
        cloud.forget_requests()
        await house.flush()
        assert cloud.requests() == (LONG if size > CHUNK else SHORT)
        await check(house, item)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("asked", "server", "number"),
    REPLIES,
    ids=[f"{server}-{number}-{asked[server][number].rpartition('/')[2]}" for asked, server, number in REPLIES],
)
async def test_where_a_reply_is_lost_there_is_one_file(
    asked: dict[str, list[str]], server: str, number: int, times: int, cloud: Cloud
) -> None:
    async with cloud.house(proxy=True) as house:
        (item,) = await written(house, "q3", size=LARGE if asked is LONG else 300_000)
        cloud.lose(server, asked[server], number, times=times)
        await caught_up(house)
        assert cloud.all_are_lost()
        await check(house, item)
        assert await waiting(house) == 0
