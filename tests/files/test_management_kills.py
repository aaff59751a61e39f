"""What `cop.files` is asked for, in a process that is killed at every external call: what was begun is finished or
given up, the state is intact, and the same call succeeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from tests.files.houses import FileState
from tests.files.saga_checks import check_nothing_is_left_over, names_of, steps_of
from tests.files.workers import KILLED, Workers
from traffic_cop_middleware.contracts.state import MOST_STATE

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

LARGE = "x" * (MOST_STATE + 1)
NEW = {("order", "1"): "new", ("order", "2"): LARGE, ("cart", "1"): "new"}
"""The items as they are; there are files of them as they were before."""
OLD = {("order", "1"): "old", ("order", "2"): "small", ("cart", "1"): "old"}


class Case(NamedTuple):
    """A method of `cop.files`, what it is given (what is callable makes it), its external calls, and how the items may
    be different after it."""

    do: str
    words: tuple[Any, ...]
    calls: tuple[str, ...]
    restores: tuple[tuple[str, str], ...] = ()


def promoted(house: FileState) -> Awaitable[Any]:
    return house.files.promote("order", "1")


def snapshot(house: FileState) -> Awaitable[Any]:
    return house.files.snapshot("order")


def backup(house: FileState) -> Awaitable[Any]:
    return house.files.backup(["order", "cart"])


READ = ("state.load", "documents.load", "state.warm")
KEEP = ("metadata.of_item", "metadata.announce", "objects.create", "metadata.finish")
TAKE = ("state.list", "documents.list", *KEEP)
TAKE_LARGE = ("state.list", "documents.list", "objects.read", *KEEP)
WRITE = ("state.write", "documents.store")
FIND = ("metadata.load", "objects.read")
CASES = {
    "promote": Case("promote", ("order", "1"), (*READ, *KEEP)),
    "archive": Case(
        "archive", ("order", "1"), (*READ, *KEEP, "documents.store", "documents.reshape", "state.reshape", *KEEP[:2])
    ),
    "snapshot": Case("snapshot", ("order",), TAKE_LARGE),
    "backup": Case("backup", (["order", "cart"],), (*TAKE_LARGE, *TAKE, *KEEP)),
    "restore-item": Case(
        "restore",
        (promoted,),
        # The content is that of the file which it comes from, and so is the object.
        (*FIND, *READ, *WRITE, *KEEP[:3], "objects.read", KEEP[3]),
        (("order", "1"),),
    ),
    "restore-snapshot": Case("restore", (snapshot,), (*FIND, *WRITE, *WRITE, *TAKE), (("order", "1"), ("order", "2"))),
    "restore-backup": Case(
        "restore",
        (backup,),
        (*FIND, *FIND, "objects.read", *WRITE, *WRITE, *WRITE, *TAKE, *TAKE, *KEEP),
        tuple(OLD),
    ),
}
STEPS = [(name, *step) for name, case in CASES.items() for step in steps_of(case.calls)]
NAMES = [f"{name}-{each}" for name, case in CASES.items() for each in names_of(case.calls)]


async def prepared(house: FileState, case: Case) -> list[Any]:
    """The words of a case, once the items are there."""
    for (namespace, key), value in OLD.items():
        await house.state.put(namespace, key, value, tier="immediate")
    made: dict[Callable[..., Any], str] = {}
    for word in case.words:
        if callable(word):
            made[word] = (await word(house)).id
    for (namespace, key), value in NEW.items():
        await house.state.put(namespace, key, value, tier="immediate")
    await house.flush()
    return [made[word] if callable(word) else word for word in case.words]


async def values(house: FileState) -> dict[tuple[str, str], Any]:
    found = {}
    for where in NEW:
        item = await house.state.get(*where, consistency="strong")
        found[where] = None if item is None else item.value
    return found


@pytest.mark.parametrize("name", CASES)
async def test_the_external_calls_are_these(name: str, house: FileState, workers: Workers) -> None:
    case = CASES[name]
    words = await prepared(house, case)
    assert await workers.run(case.do, *words) == (0, case.calls)
    await check_done(house, case)


@pytest.mark.parametrize(("name", "number", "when"), STEPS, ids=NAMES)
async def test_who_is_killed_leaves_nothing_half_done_and_the_same_call_succeeds(
    name: str, number: int, when: str, house: FileState, workers: Workers
) -> None:
    case = CASES[name]
    words = await prepared(house, case)
    assert await workers.run(case.do, *words, number=number, when=when) == (KILLED, case.calls[:number])
    await house.files.reconcile(older_than=0.0)
    await check_nothing_is_left_over(house)
    for where, value in (await values(house)).items():
        assert value == NEW[where] or (where in case.restores and value == OLD[where])
    await getattr(house.files, case.do)(*words)
    await check_done(house, case)


async def check_done(house: FileState, case: Case) -> None:
    """The items are as they are to be, and every file can be read."""
    expected = NEW | {where: OLD[where] for where in case.restores}
    assert await values(house) == expected
    await house.flush()
    assert await values(house) == expected
    await check_nothing_is_left_over(house)
    files = [file for file in await house.files.list() if file.status == "done"]
    assert files
    for file in files:
        assert len(await house.files.read(file)) == file.size
