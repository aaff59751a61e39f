"""State in Redis: each operation on an item is one script (state.lua), in the item's partition.

Redis must not evict (`maxmemory-policy noeviction`): an item that was evicted before the documents had it is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from redis.asyncio.connection import Connection

from traffic_cop_middleware.adapters.redis.calls import Script
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.state_lists import (
    AT_ONCE,
    LOAD,
    Following,
    Listing,
    ask_all,
    load_all,
    loaded,
)
from traffic_cop_middleware.adapters.redis.state_outbox import TOMBSTONE, RedisOutbox
from traffic_cop_middleware.adapters.redis.state_places import (
    TIERS,
    Places,
    by_partition,
    end_of,
    item_of,
    kept_value,
    letter_of,
    place_of,
    read_cursor,
    text_for,
)
from traffic_cop_middleware.adapters.redis.state_tracking import Tracking
from traffic_cop_middleware.contracts import MICRO, Changed, Item, Page, StateKey, Tier, Written
from traffic_cop_middleware.contracts.state import MOST_HOT, check_end, check_key, check_value

T = TypeVar("T")

WRITE = Script("state.lua", "state_write.lua")
WARM = Script("state.lua", "state_warm.lua")
RESHAPE = Script("state.lua", "state_reshape.lua")
FORGET = Script("state.lua", "state_forget.lua")

MOST_WAITING = 10_000
"""Entries in the outbox of one of 32 partitions; then writes that need it are answered `full`."""
MOST_CHANGES = 10_000
"""Changes that a partition remembers, about."""


class RedisState:
    """`StateStore` on Redis. Keys begin with `<namespace>:st:` (items), `si`, `se`, `sq`, `so`, `sd`, `sc`.

    An item that has ended, and is not in the outbox, is held no longer. A tombstone is for an hour.
    """

    shared = True

    def __init__(self, link: Link, open_connection: Callable[[], Connection], *, namespace: str) -> None:
        self._link = link
        self._places = Places(namespace)
        self.outbox = RedisOutbox(link, self._places)
        self.tracking = Tracking(link, open_connection, self._places)

    # One item

    def load(self, keys: Sequence[StateKey]) -> Awaitable[Sequence[Item | None]]:
        """As in the contract. One command per partition and 50 items, all in one write."""
        for key in keys:
            check_key(key)
        if len(keys) == 1:
            return LOAD.ask(self._link, (self._places.of(keys[0]).key,), (), partial(loaded, keys))
        return self._go_on(load_all(keys, ask_all(self._link, self._places, keys)))

    def write(
        self,
        key: StateKey,
        value: str | None,
        *,
        tier: Tier | None,
        if_version: int | None = None,
        expires_at: float | None = None,
        missing: bool = False,
        judge: bool = False,
    ) -> asyncio.Future[Written]:
        """As in the contract. One command."""
        check_key(key)
        check_value(key, value, most=MOST_HOT)
        check_end(expires_at)
        (where, place), index = self._places.of(key), self._index(key)
        arguments = (
            *(place, key.key, kept_value(value)),
            *(asked_tier(tier, judge=judge), "" if if_version is None else if_version),
            *(end_of(expires_at), int(missing), where.indexes, TOMBSTONE, MOST_WAITING, MOST_CHANGES, int(judge)),
        )
        keys = (where.items + place, index, where.ends, where.queued, where.outbox, where.changes)
        return WRITE.ask(self._link, keys, arguments, partial(written, key, value, expires_at))

    def warm(self, items: Sequence[Item]) -> Awaitable[None]:
        """As in the contract. One command per partition and 50 items, all in one write."""
        for item in items:
            check_key(item.key)
            check_value(item.key, item.value, most=MOST_HOT)
            check_end(item.expires_at)
        spots = [self._places.of(item.key) for item in items]
        asked = []
        for where, positions in by_partition(spots, AT_ONCE):
            arguments: list[str | int] = [where.items, where.indexes, TOMBSTONE]
            for position in positions:
                item = items[position]
                arguments += (spots[position].place, f"{item.key.tenant}\0{item.key.namespace}", item.key.key)
                arguments += (item.version, text_for(item), end_of(item.expires_at))
            asked.append(WARM.ask(self._link, (where.ends, where.queued), arguments))
        return self._go_on(done(asked))

    def reshape(self, items: Sequence[Item]) -> Awaitable[Sequence[bool]]:
        """As in the contract. One command per partition and 50 items, all in one write."""
        for item in items:
            check_key(item.key)
            check_value(item.key, item.value, most=MOST_HOT)
        spots = [self._places.of(item.key) for item in items]
        asked = []
        for where, positions in by_partition(spots, AT_ONCE):
            arguments: list[str | int] = [where.items]
            for position in positions:
                item = items[position]
                arguments += (spots[position].place, item.version, letter_of(item.tier, named=False))
                arguments.append(kept_value(item.value))
            asked.append((positions, RESHAPE.ask(self._link, (where.queued,), arguments)))
        return self._go_on(reshaped(len(items), asked))

    def forget(self, key: StateKey, *, version: int) -> Awaitable[None]:
        """As in the contract. One command."""
        check_key(key)
        where, place = self._places.of(key)
        keys = (where.items + place, self._index(key), where.ends, where.queued)
        return FORGET.ask(self._link, keys, (place, key.key, version), lambda reply: None)

    def _index(self, key: StateKey) -> str:
        return f"{self._places.of(key).partition.indexes}{key.tenant}\0{key.namespace}"

    # Many

    def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Awaitable[Page]:
        """As in the contract. Two round trips for 50 items: their keys, then what they hold."""
        place_of(tenant, namespace, prefix)
        listing = Listing(self._link, self._places, tenant, namespace, prefix)
        return self._go_on(listing.page(listing.ask(after, most), after, most))

    def changes(
        self, tenant: str, namespace: str, *, prefix: str = "", since: str | None = None, most: int = 1000
    ) -> Awaitable[Changed]:
        """As in the contract. One command per partition, all in one write, and more for what is far behind."""
        begins = place_of(tenant, namespace, prefix)
        following = Following(self._link, self._places, begins, None if since is None else read_cursor(since))
        return self._go_on(following.changed(following.ask(most), most))

    def invalidations(self, heard: Callable[[Sequence[StateKey] | None], None]) -> Callable[[], None] | None:
        """As in the contract, within `STALE_BOUND` seconds. Own writes are told too. Needs Redis 6."""
        return self.tracking.tell(heard)

    def _go_on(self, steps: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Several replies, or round trips, of which the first is asked already."""
        return self._link.loop.create_task(steps)


def asked_tier(tier: Tier | None, *, judge: bool) -> str:
    """What state_write.lua is told of the tier."""
    if tier is not None:
        return letter_of(tier, named=True)
    return letter_of("delayed", named=False) if judge else ""


def written(key: StateKey, value: str | None, expires_at: float | None, reply: Sequence[Any]) -> Written:
    """What state_write.lua answered."""
    outcome, *rest = reply
    if outcome == 0:
        return Written("conflict", item_of(key, rest[1], rest[0]))
    if outcome > 1:
        return Written("unknown" if outcome == 2 else "full")
    now, version, letter, there = rest
    tier, named = TIERS[letter]
    if not there:
        value = expires_at = None
    return Written("written", Item(key, version, value, tier, now / MICRO, expires_at, named))


async def done(asked: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*asked)


async def reshaped(number: int, asked: Sequence[tuple[list[int], asyncio.Future[Any]]]) -> Sequence[bool]:
    """What state_reshape.lua answered."""
    found = [False] * number
    replies = await asyncio.gather(*(reply for _, reply in asked))
    for (positions, _), reply in zip(asked, replies, strict=True):
        for position, there in zip(positions, reply, strict=True):
            found[position] = bool(there)
    return found
