"""What was begun and not finished: one row that can't be seen to holds up no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.files.houses import FileState, begun, file_state, local
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[FileState]:
    async with file_state("memory://", *local(tmp_path)) as each:
        yield each


async def test_an_object_that_can_not_be_read_holds_up_no_other(house: FileState) -> None:
    paths = [await begun(house, key) for key in "abc"]
    read = house.stores.objects.read

    async def refuses(path: str, **kwargs: Any) -> Any:
        if path == paths[1]:
            raise StoreError("its checksum is wrong")
        return await read(path, **kwargs)

    house.stores.objects.read = refuses  # type: ignore[method-assign]
    done = await house.files.reconcile(older_than=0.0)
    assert {row.key: row.action for row in done.rows} == {"a": "finished", "b": "failed", "c": "finished"}
    assert "its checksum is wrong" in str(done)
    assert {file.key for file in await house.files.list()} == {"a", "c"}

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the objects are away")

    house.stores.objects.read = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await house.files.reconcile(older_than=0.0)


async def test_an_object_that_comes_and_goes_is_looked_at_a_few_times(house: FileState) -> None:
    await begun(house, "a")
    looks = 0

    async def gone(*_: Any, **__: Any) -> Any:
        nonlocal looks
        looks += 1

    house.stores.objects.read = gone  # type: ignore[method-assign]
    done = await house.files.reconcile(older_than=0.0)
    assert [row.action for row in done.rows] == ["failed"]
    assert looks < 20


async def test_what_another_finishes_meanwhile_is_not_told_of_as_given_up(house: FileState) -> None:
    await begun(house, "a", "create")
    await house.state.delete("order", "a")
    await house.stores.documents.clean_up(now=2**40, tombstones_before=2**40)
    metadata = house.stores.metadata
    (row,) = await metadata.pending(before=2**40)
    set_status = metadata.set_status

    async def late(*args: Any, **kwargs: Any) -> bool:
        await metadata.finish(row._replace(status="done", done_at=1.0), None, [])
        return await set_status(*args, **kwargs)

    metadata.set_status = late  # type: ignore[method-assign]
    done = await house.files.reconcile(older_than=0.0)
    assert [each.action for each in done.rows] == ["finished"]
    assert "file.abandoned" not in house.kinds()
