"""Uses of items: counted once, told absolutely, bounded, and of no harm where the metadata is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from traffic_cop_middleware.abstractions.promotion.uses import HEARD_FOR, HOUR, StateUses
from traffic_cop_middleware.contracts import Access, StateKey, Usage
from traffic_cop_middleware.errors import StoreUnavailable

pytestmark = pytest.mark.asyncio

A, B, C = (StateKey("", "order", key) for key in "abc")


class Metadata:
    """Keeps counts as every store of file metadata does: each row in place of the one before."""

    def __init__(self) -> None:
        self.rows: dict[tuple[StateKey, str, int], Access] = {}
        self.told = 0
        self.asked = 0
        self.away = False
        self.lost_replies = False

    async def saw(self, accesses: Sequence[Access]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.told += len(accesses)
        self.rows |= {(each.key, each.worker, each.hour): each for each in accesses}
        if self.lost_replies:
            raise StoreUnavailable("the reply is lost")

    async def usage(self, key: StateKey, *, since_hour: int) -> Usage:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        mine = [row for row in self.rows.values() if row.key == key and row.hour >= since_hour]
        last = max((row.last_at for row in mine), default=None)
        return Usage(sum(row.reads for row in mine), sum(row.writes for row in mine), last)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0 * HOUR

    def __call__(self) -> float:
        return self.time


def uses_of(metadata: Metadata, clock: Clock, **settings: Any) -> StateUses:
    return StateUses(metadata, now=clock, **settings)  # type: ignore[arg-type]


async def total(metadata: Metadata, key: StateKey) -> tuple[int, int]:
    usage = await metadata.usage(key, since_hour=0)
    return usage.reads, usage.writes


async def test_what_is_told_again_after_a_lost_reply_is_counted_once() -> None:
    metadata, clock = Metadata(), Clock()
    uses = uses_of(metadata, clock)
    for _ in range(3):
        uses.read(A)
    metadata.lost_replies = True
    with pytest.raises(StoreUnavailable):
        await uses.tell()
    uses.read(A)
    metadata.lost_replies = False
    assert await uses.tell() == 1
    assert await total(metadata, A) == (4, 0)
    assert await uses.tell() == 0  # nothing new


async def test_what_makes_room_and_comes_back_is_counted_once_and_counts_are_bounded() -> None:
    metadata, clock = Metadata(), Clock()
    uses = uses_of(metadata, clock, most=2)
    for _ in range(5):
        for key in (A, B, C):
            uses.read(key)
            uses.wrote(key)
    metadata.away = True
    for _ in range(50):
        with pytest.raises(StoreUnavailable):
            await uses.tell()
        for key in (A, B, C):
            uses.read(key)
    assert len(uses._earlier) <= 2
    assert len(uses._counts) <= 2


async def test_each_hour_is_a_row_of_its_own_and_workers_add_up() -> None:
    metadata, clock = Metadata(), Clock()
    one, two = uses_of(metadata, clock), uses_of(metadata, clock)
    for hour in range(3):
        for uses in (one, two):
            uses.read(A)
            uses.wrote(A)
            if hour != 1:
                await uses.tell()
        clock.time += HOUR
    assert await total(metadata, A) == (6, 6)
    assert {row.hour for row in metadata.rows.values()} == {1000, 1001, 1002}


async def test_a_verdict_hears_of_others_once_in_five_minutes_and_of_nobody_where_the_metadata_is_away() -> None:
    metadata, clock = Metadata(), Clock()
    one, two = uses_of(metadata, clock), uses_of(metadata, clock)
    two.read(A)
    await two.tell()
    one.read(A)
    one.read(A)
    for _ in range(3):
        usage = await one.usage(A)
        assert (usage.reads, usage.writes) == (2, 0)
    assert metadata.asked == 1
    await one.tell()
    clock.time += HEARD_FOR
    assert (await one.usage(A)).reads == 3
    metadata.away = True
    clock.time += HEARD_FOR
    for _ in range(3):
        assert (await one.usage(A)).reads == 2
    assert metadata.asked == 3


async def test_this_packages_own_items_are_not_counted() -> None:
    metadata, clock = Metadata(), Clock()
    uses = uses_of(metadata, clock)
    uses.read(StateKey("", "tc.pushes", "a"))
    uses.wrote(StateKey("", "tc.pushes", "a"))
    assert await uses.tell() == 0


async def test_who_is_cancelled_while_telling_tells_it_the_next_time() -> None:
    metadata, clock = Metadata(), Clock()
    uses = uses_of(metadata, clock)
    uses.read(A)
    saw = metadata.saw

    async def hangs(_: Any) -> None:
        await asyncio.Event().wait()

    metadata.saw = hangs  # type: ignore[method-assign]
    telling = asyncio.create_task(uses.tell())
    await asyncio.sleep(0)
    telling.cancel()
    await asyncio.wait([telling])
    metadata.saw = saw  # type: ignore[method-assign]
    assert await uses.tell() == 1
    assert await total(metadata, A) == (1, 0)
