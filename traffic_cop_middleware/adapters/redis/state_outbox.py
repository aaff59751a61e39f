"""The outbox in Redis: a stream per partition, with one consumer group (state.lua)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.state_places import (
    ID,
    PARTITIONS,
    Partition,
    Places,
    Spot,
    by_partition,
    item_of,
)
from traffic_cop_middleware.contracts import Pending, StateKey
from traffic_cop_middleware.contracts.state import MOST_HOT

T = TypeVar("T")

CLAIM = Script("state.lua", "state_claim.lua")
SETTLE = Script("state.lua", "state_settle.lua")
BURY = Script("state.lua", "state_bury.lua")
REVIVE = Script("state_revive.lua")
LOAD = Script("state_load.lua")

TOMBSTONE = 3_600_000
"""Milliseconds that a tombstone is kept, from when the documents have it."""
MOST_DEAD = 1_000
"""Dead letters of a partition; then the oldest go."""
MOST_REASON = 2_000
AT_ONCE = 50
"""Entries in one script."""
CLAIM_BYTES = 256 * 1024
"""What a partition gives at once ends with the item that brings it to so many bytes."""
LARGEST = 256 * 1024
"""Bytes of an item that is given along with others. What is larger is asked for by itself, one partition at a time."""
LARGE_BYTES = 16 * 1024 * 1024
"""A claim ends with the large item that brings it to so many bytes."""
ANY = 2 * MOST_HOT
"""More bytes than an item has."""
MOST_TURNS = 64
GROUP = "documents"


class RedisOutbox:
    """`Outbox` on Redis. Entries of one partition are claimed in the order in which they were written."""

    def __init__(self, link: Link, places: Places) -> None:
        self._link = link
        self._places = places
        self._turn = 0

    def claim(self, worker: str, *, most: int, idle: float) -> Awaitable[Sequence[Pending]]:
        """As in the contract. One command per partition, all in one write; more where some have more than others, and
        one for each large item, of which no more are claimed at once than a worker can hold."""
        turn = self._turn % PARTITIONS
        self._turn += 1
        partitions = self._places.partitions[turn:] + self._places.partitions[:turn]
        ask = partial(self._claim, worker, idle)
        share = max(1, most // PARTITIONS)
        return self._go_on(self._claimed(ask, most, partitions, [ask(where, share) for where in partitions[:most]]))

    def _claim(
        self, worker: str, idle: float, where: Partition, most: int, largest: int = LARGEST
    ) -> asyncio.Future[Any]:
        arguments = (GROUP, worker, most, max(0, round(idle * 1000)), where.items, CLAIM_BYTES, largest)
        return CLAIM.ask(self._link, (where.outbox, where.queued), arguments)

    async def _claimed(
        self,
        ask: Callable[..., asyncio.Future[Any]],
        most: int,
        partitions: Sequence[Partition],
        asked: Sequence[asyncio.Future[Any]],
    ) -> Sequence[Pending]:
        """The first of `partitions` were `asked` for their share each; the others come when these have less."""
        found: dict[str, Pending] = {}
        share = max(1, most // PARTITIONS)
        behind: dict[Partition, None] = {}
        for _ in range(MOST_TURNS):
            more = []
            for where, (larger, *flat) in zip(partitions, await asyncio.gather(*asked), strict=False):
                if larger:
                    behind[where] = None
                fresh = [entry for entry in pendings(where, flat) if entry.id not in found]
                found |= {entry.id: entry for entry in fresh}
                if len(fresh) >= share:
                    more.append(where)
            partitions = [*partitions[len(asked) :], *more]
            room = most - len(found) - bool(behind)  # the small ones leave a place to a large one
            if room <= 0 or not partitions:
                break
            share = max(1, room // len(partitions))
            asked = [ask(where, share) for where in partitions[:room]]
        size = 0
        for where in behind:
            if len(found) >= most or size >= LARGE_BYTES:
                break
            _, *flat = await ask(where, 1, ANY)
            found |= {entry.id: entry for entry in pendings(where, flat)}
            size += sum(map(len, flat[3::4]))
        return list(found.values())

    def settle(self, done: Sequence[Pending]) -> Awaitable[None]:
        """As in the contract. One command per partition and 50 entries, all in one write."""
        spots = [self._spot(entry) for entry in done]
        asked = []
        for where, positions in by_partition(spots, AT_ONCE):
            arguments: list[str | int] = [GROUP, where.items, TOMBSTONE]
            for position in positions:
                arguments += (stream_id(done[position]), spots[position].place, done[position].item.version)
            asked.append(SETTLE.ask(self._link, (where.outbox, where.queued), arguments))
        return self._go_on(settled(asked))

    def bury(self, entry: Pending, reason: str) -> Awaitable[None]:
        """As in the contract. One command. The first 2,000 characters of the reason are kept."""
        where, place = self._spot(entry)
        arguments = (
            *(GROUP, where.items, TOMBSTONE, MOST_DEAD),
            *(stream_id(entry), place, entry.tries, reason[:MOST_REASON]),
        )
        return BURY.ask(self._link, (where.outbox, where.queued, where.dead), arguments, lambda reply: None)

    def dead(self, *, most: int = 100) -> Awaitable[Sequence[tuple[Pending, str]]]:
        """As in the contract, each with its item as it is now; those whose items were lost are left out."""
        asked = [self._link.ask("XRANGE", where.dead, "-", "+", "COUNT", most) for where in self._places.partitions]
        return self._go_on(self._dead(most, asked))

    async def _dead(self, most: int, asked: Sequence[asyncio.Future[Any]]) -> Sequence[tuple[Pending, str]]:
        letters = [
            (tuple(map(int, id.split(b"-"))), where, text_of(id), fields)
            for where, entries in zip(self._places.partitions, await asyncio.gather(*asked), strict=True)
            for id, fields in entries
        ]
        letters.sort(key=lambda letter: letter[0])
        letters = letters[:most]
        found = []
        for start in range(0, len(letters), AT_ONCE):
            some = letters[start : start + AT_ONCE]
            items = [LOAD.ask(self._link, (f"{where.items}{text_of(fields[1])}",), ()) for _, where, _, fields in some]
            for (_, where, id, fields), (_, text) in zip(some, await asyncio.gather(*items), strict=True):
                item = item_of(StateKey(*text_of(fields[1]).split("\0")), text, None)
                if item is not None:
                    entry = Pending(f"{where.number:02d}-{id}", item, int(fields[3]))
                    found.append((entry, text_of(fields[5])))
        return found

    def revive(self, ids: Sequence[str]) -> Awaitable[int]:
        """As in the contract. One command per partition and 50 ids, all in one write."""
        spots = [Spot(self._partition(id), "") for id in ids]
        asked = [
            REVIVE.ask(
                self._link,
                (where.outbox, where.queued, where.dead),
                [ids[position].partition("-")[2] for position in positions],
            )
            for where, positions in by_partition(spots, AT_ONCE)
        ]
        return self._go_on(total(asked))

    def waiting(self) -> Awaitable[int]:
        """As in the contract. One command per partition, all in one write."""
        return self._go_on(total([self._link.ask("XLEN", where.outbox) for where in self._places.partitions]))

    def _partition(self, id: str) -> Partition:
        number, _, rest = id.partition("-")
        if not (number.isascii() and number.isdigit() and int(number) < PARTITIONS and ID.fullmatch(rest)):
            raise ValueError(f"{id[:40]!r} is no entry's id: give those that `claim` or `dead` gave")
        return self._places.partitions[int(number)]

    def _spot(self, entry: Pending) -> Spot:
        return Spot(self._partition(entry.id), "\0".join(entry.item.key))

    def _go_on(self, steps: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Several replies, or round trips, of which the first is asked already."""
        return self._link.loop.create_task(steps)


def stream_id(entry: Pending) -> str:
    return entry.id.partition("-")[2]


def pendings(where: Partition, flat: Sequence[Any]) -> list[Pending]:
    """What state_claim.lua answered."""
    found = []
    for id, tries, place, text in zip(*(flat[part::4] for part in range(4)), strict=True):
        item = item_of(StateKey(*text_of(place).split("\0")), text, None)
        if item is not None:
            found.append(Pending(f"{where.number:02d}-{text_of(id)}", item, tries))
    return found


async def settled(asked: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*asked)


async def total(asked: Sequence[asyncio.Future[int]]) -> int:
    return sum(await asyncio.gather(*asked))
