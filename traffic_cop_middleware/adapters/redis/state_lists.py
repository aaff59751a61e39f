"""Many items of a namespace, and its changes: what is put together from all partitions of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.state_places import (
    NOTHING,
    PARTITIONS,
    Places,
    by_partition,
    cursor_of,
    id_after,
    item_of,
)
from traffic_cop_middleware.contracts import Change, Changed, Item, Page, StateKey

LOAD = Script("state_load.lua")
PRUNE = Script("state_prune.lua")
CHANGES = Script("state_changes.lua")

AT_ONCE = 50
"""Items in one script."""
PAGE_BYTES = 1024 * 1024
"""A page of a list ends with the items that bring it to so many bytes."""
LARGEST = 256 * 1024
"""Bytes of an item that a list asks for along with others. What is larger has a round trip of its own."""
LOOKED_AT = 500
"""Changes that one script looks at."""
MOST_TURNS = 64
"""Round trips of a list or of changes; then the answer ends early."""

Asked = Sequence[asyncio.Future[Any]]


# Items of several partitions


def ask_all(
    link: Link, places: Places, keys: Sequence[StateKey], *, largest: int | None = None
) -> list[tuple[list[int], asyncio.Future[Any]]]:
    """Ask for items, or only for those of up to `largest` bytes: the positions of their keys, and what will answer."""
    only = () if largest is None else (largest,)
    spots = [places.of(key) for key in keys]
    return [
        (positions, LOAD.ask(link, [spots[position].key for position in positions], only))
        for _, positions in by_partition(spots, AT_ONCE)
    ]


async def load_all(
    keys: Sequence[StateKey],
    asked: Sequence[tuple[list[int], asyncio.Future[Any]]],
    *,
    larger: set[StateKey] | None = None,
) -> Sequence[Item | None]:
    """The items that `ask_all` asked for. The keys of what is too large for that are put into `larger`."""
    found: list[Item | None] = [None] * len(keys)
    replies = await asyncio.gather(*(texts for _, texts in asked))
    for (positions, _), reply in zip(asked, replies, strict=True):
        for position, item in zip(positions, loaded([keys[each] for each in positions], reply), strict=True):
            found[position] = item
        if larger is not None:
            larger.update(keys[position] for position, text in zip(positions, reply[1:], strict=True) if text == 0)
    return found


def loaded(keys: Sequence[StateKey], reply: Sequence[Any]) -> Sequence[Item | None]:
    """What state_load.lua answered."""
    now, *texts = reply
    return [item_of(key, text, now) for key, text in zip(keys, texts, strict=True)]


class Listing:
    """The items of a namespace whose keys begin with a prefix, in order, by the indexes of all partitions."""

    def __init__(self, link: Link, places: Places, tenant: str, namespace: str, prefix: str) -> None:
        self._link = link
        self._places = places
        self._tenant = tenant
        self._namespace = namespace
        self._prefix = prefix.encode("utf-8", "surrogatepass")
        self._room = 0

    def ask(self, after: str | None, most: int) -> Asked:
        """Ask each partition for its share of the next `most` keys, and some more, for shares are not equal."""
        self._room = max(1, most // (PARTITIONS // 2)) + 8
        begin = b"[" + self._prefix if self._prefix else b"-"
        if after is not None and (past := after.encode("utf-8", "surrogatepass")) >= self._prefix:
            begin = b"(" + past
        end = b"(" + self._prefix[:-1] + bytes([self._prefix[-1] + 1]) if self._prefix else b"+"
        return [
            self._link.ask("ZRANGEBYLEX", self._index(where.indexes), begin, end, "LIMIT", 0, self._room)
            for where in self._places.partitions
        ]

    async def page(self, asked: Asked, after: str | None, most: int) -> Page:
        """The items after `after`, whose keys were `asked` for."""
        items: list[Item] = []
        size = 0
        for _ in range(MOST_TURNS):
            names, more = self._merged(await asyncio.gather(*asked))
            while names:
                step = max(1, min(AT_ONCE, most - len(items)))
                keys = [StateKey(self._tenant, self._namespace, name) for name in names[:step]]
                names = names[step:]
                larger: set[StateKey] = set()
                asked_small = ask_all(self._link, self._places, keys, largest=LARGEST)
                found = await load_all(keys, asked_small, larger=larger)
                nothing = [key for key, item in zip(keys, found, strict=True) if item is None and key not in larger]
                await self._prune(nothing)
                for key, small in zip(keys, found, strict=True):
                    item = small
                    if key in larger:
                        if size >= PAGE_BYTES:
                            return Page(items, after)
                        (item,) = await load_all((key,), ask_all(self._link, self._places, (key,)))
                    if item is not None and item.value is not None:
                        items.append(item)
                        size += len(item.value)
                    after = key.key
                if len(items) >= most or size >= PAGE_BYTES:
                    return Page(items, after if names or more else None)
            if not more:
                return Page(items, None)
            asked = self.ask(after, most - len(items))
        return Page(items, after)

    def _merged(self, replies: Iterable[Sequence[bytes]]) -> tuple[list[str], bool]:
        """The next keys, and whether there are more. Where a partition has more, nothing after its last one counts."""
        replies = list(replies)
        cut = min((reply[-1] for reply in replies if len(reply) >= self._room), default=None)
        names = sorted(name for reply in replies for name in reply if cut is None or name <= cut)
        return [text_of(name) for name in names], cut is not None

    async def _prune(self, keys: Sequence[StateKey]) -> None:
        """Take keys out of the indexes under which nothing was found."""
        spots = [self._places.of(key) for key in keys]
        asked = []
        for where, positions in by_partition(spots, AT_ONCE):
            names = [keys[position].key for position in positions]
            prefix = f"{where.items}{self._tenant}\0{self._namespace}\0"
            asked.append(PRUNE.ask(self._link, (self._index(where.indexes),), (prefix, *names)))
        await asyncio.gather(*asked)

    def _index(self, indexes: str) -> str:
        return f"{indexes}{self._tenant}\0{self._namespace}"


# Changes


class Following:
    """What was written of the places that begin with `begins`, since what was `seen` of each partition.

    `seen` has ids of entries (state_changes.lua); `None` asks where all partitions are at present.
    """

    def __init__(self, link: Link, places: Places, begins: str, seen: list[str] | None) -> None:
        self._link = link
        self._places = places
        self._begins = begins
        self._seen = seen
        self._last = [NOTHING] * PARTITIONS

    def ask(self, most: int, numbers: Iterable[int] = range(PARTITIONS)) -> Asked:
        """Ask partitions for their next changes."""
        asked = []
        for number in numbers:
            arguments: tuple[str | int, ...] = ("", "", "", 0, 0)
            if self._seen is not None:
                seen = self._seen[number]
                arguments = (seen, id_after(seen), self._begins, LOOKED_AT, max(1, most))
            asked.append(CHANGES.ask(self._link, (self._places.partitions[number].changes,), arguments))
        return asked

    async def changed(self, asked: Asked, most: int) -> Changed:
        """The changes, of which the first of all partitions were `asked` for."""
        changes: list[Change] = []
        numbers = list(range(PARTITIONS))
        for _ in range(MOST_TURNS):
            replies = dict(zip(numbers, await asyncio.gather(*asked), strict=True))
            for number, reply in replies.items():
                self._last[number] = text_of(reply[0])
            if self._seen is None or any(reply[1] for reply in replies.values()):
                return Changed([], cursor_of(self._last), lost=self._seen is not None)
            for id, number, place, version, deleted in in_order(replies):
                self._seen[number] = text_of(id)
                key = StateKey(*text_of(place).split("\0"))
                changes.append(Change(key, int(version), deleted == b"1", cursor_of(self._seen)))
                if len(changes) >= most:
                    return Changed(changes, changes[-1].cursor)
            for number, reply in replies.items():
                self._seen[number] = text_of(reply[2])
            numbers = [number for number, reply in replies.items() if reply[3]]
            if not numbers:
                break
            asked = self.ask(most - len(changes), numbers)
        return Changed(changes, cursor_of(self._seen or []))


def in_order(replies: dict[int, Any]) -> list[tuple[bytes, int, bytes, bytes, bytes]]:
    """The changes of several partitions, by when they were written: id, partition, place, version, deleted."""
    found = [
        (id, number, place, version, deleted)
        for number, (_, _, _, _, *flat) in replies.items()
        for id, place, version, deleted in zip(*(flat[part::4] for part in range(4)), strict=True)
    ]
    return sorted(found, key=lambda change: tuple(map(int, change[0].split(b"-"))))
