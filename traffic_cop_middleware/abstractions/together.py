"""Several questions at a time, some at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import anyio

T = TypeVar("T")


async def outcomes(works: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T | Exception]:
    """What came of each, in their order: its answer, or its error. At most `at_once` run at a time."""
    found: list[Any] = [None] * len(works)
    places = iter(range(len(works)))

    async def take_turns() -> None:
        for place in places:
            try:
                found[place] = await works[place]()
            except Exception as exc:  # noqa: BLE001 - the caller gets it
                found[place] = exc

    async with anyio.create_task_group() as tasks:
        for _ in range(min(at_once, len(works))):
            tasks.start_soon(take_turns)
    return cast("list[T | Exception]", found)


async def answers(works: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T]:
    """What came of each, in their order.

    Raises:
        Exception: the first error, when all have ended.
    """
    found = await outcomes(works, at_once=at_once)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return cast("list[T]", found)
