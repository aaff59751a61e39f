"""Records in Redis: a collection per kind, each operation one script (records.lua).

Many records are read in pages, so that no script holds the server up and no reply takes the link's deadline. Redis must
not evict (`maxmemory-policy noeviction`): a collection that lost a part is as good as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script, text_of
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import Changes, Record
from traffic_cop_middleware.contracts.records import MOST_CHANGED, check_change, check_kind
from traffic_cop_middleware.errors import StoreError

RECORDS = Script("records.lua")

MOST_GONE = 1_000
MOST_VERSIONS = 1_000
"""How many removals and how many versions of a kind are remembered; who knows an older one reads all."""
PAGE, PAGE_BYTES = 1_000, 256 * 1024
"""A page ends with the version that brings it to so many records, or bytes."""
MOST_PAGES = 100_000
MOST_TURNS = 100
"""How often a reader begins anew, because what it had read was forgotten or lost meanwhile."""


class RedisRecords:
    """`RecordStore` on Redis. Keys begin with `<namespace>:{records:<kind>}:`."""

    shared = True

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:"

    def read(self, kind: str, *, since: int = 0) -> Awaitable[Changes]:
        """As in the contract. One command, and one more per page of 1,000 records or 256 KB."""
        check_kind(kind)
        return self._read(self._page(kind, since, since, since), kind, since)

    def change(self, kind: str, values: Mapping[str, str | None], *, at: int | None) -> asyncio.Future[int | None]:
        """As in the contract. One command."""
        check_change(kind, values)
        written = [part for name, value in values.items() if value is not None for part in (name, value)]
        removed = [name for name, value in values.items() if value is None]
        expected = "" if at is None else at
        arguments = ("change", expected, MOST_GONE, MOST_VERSIONS, len(written) // 2, *written, *removed)
        return RECORDS.ask(self._link, self._keys(kind), arguments)

    def _keys(self, kind: str) -> list[str]:
        return [
            f"{self._prefix}{{records:{kind}}}:{name}" for name in ("version", "order", "values", "gone", "versions")
        ]

    def _page(self, kind: str, after: int, begun_with: int, told: int) -> asyncio.Future[Any]:
        return RECORDS.ask(
            self._link, self._keys(kind), ("read", after, begun_with, told, PAGE, PAGE_BYTES, MOST_CHANGED)
        )

    async def _read(self, asked: asyncio.Future[Any], kind: str, begun_with: int) -> Changes:
        found: dict[str, Record] = {}
        whole, turns = False, 0
        for _ in range(MOST_PAGES):
            version, anew, further, *flat = await asked
            if anew:
                whole, begun_with = True, version
                found.clear()
                turns += 1
            for name, at, value in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
                record = Record(text_of(name), at, None if value is None else text_of(value))
                found.pop(record.name, None)  # it was changed while it was read: its place is at the end
                found[record.name] = record
            if not further:
                return Changes(version, [each for each in found.values() if not whole or each.value is not None], whole)
            if turns > MOST_TURNS:
                break
            asked = self._page(kind, further, begun_with, version)
        raise StoreError(f"the records {kind!r} change faster than they can be read")
