"""Callers who leave at any point: nothing hangs, nothing stale stays near, and the state is one that was written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.servers import RedisServer
from tests.state.houses import on_redis
from traffic_cop_middleware.contracts import StateKey

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

CALLS: dict[str, Callable[[Any, int], Any]] = {
    "put": lambda state, n: state.put("a", "b", {"n": n}, tier="immediate"),
    "patch": lambda state, n: state.patch("a", "b", {"n": n}, tier="delayed"),
    "update": lambda state, n: state.update("a", "b", lambda _: {"n": n}, tier="immediate"),
    "delete": lambda state, n: state.delete("a", "b"),
    "get": lambda state, n: state.get("a", "b", consistency="strong"),
    "several": lambda state, n: state.get_many("a", ["b", "c"], consistency="strong"),
}


@pytest.mark.parametrize("kind", CALLS)
async def test_a_caller_who_leaves_at_any_point_leaves_the_state_whole(
    kind: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with on_redis(redis_server.url, tmp_path / "state.db") as house:
        state, reader = house.state, house.house.reader
        came_through = left = 0
        for number in range(1, 400):
            before = await state.put("a", "b", {"n": 0}, tier="immediate" if number % 2 else None)
            await state.get("a", "b")
            scope = anyio.CancelScope()

            async def call(scope: anyio.CancelScope = scope, number: int = number) -> None:
                with scope:
                    await CALLS[kind](state, number)

            calling = asyncio.create_task(call())
            beside = asyncio.create_task(state.get("a", "b"))
            for _ in range(number):
                await asyncio.sleep(0)
            if number > 380:  # however slow the disk is
                await asyncio.wait([calling], timeout=10)
            scope.cancel()
            await calling
            left += scope.cancelled_caught
            came_through += not scope.cancelled_caught
            await beside
            near, strong = await state.get("a", "b"), await state.get("a", "b", consistency="strong")
            assert (near and near.version) == (strong and strong.version)
            assert strong is None or (strong.version >= before.version and strong.value in ({"n": 0}, {"n": number}))
            assert reader._flights == {}
            assert reader.near is not None
            assert reader.near._fills == set()
            if came_through > 5:
                break
        assert left
        assert came_through
        await house.flush()
        (kept,) = await house.documents.load([StateKey("", "a", "b")])
        strong = await state.get("a", "b", consistency="strong")
        assert kept is not None
        assert (kept.value is None) == (strong is None)
        assert strong is None or strong.version == kept.version
