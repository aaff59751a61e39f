"""Snapshots: items as they were, kept in the documents beside the items themselves.

A snapshot is a few documents of its own in a namespace of ours: parts with the items, and at the end a head, without
which the parts are nothing. So one that was cut off half-way is no snapshot.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.state.items import StateItem, StateSnapshot
from traffic_cop_middleware.contracts import MICRO, DocumentStore, Item, StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import NoSnapshot, NotDurable

if TYPE_CHECKING:
    from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction

HEADS, PARTS = "tc.snapshots", "tc.snapshot_parts"
PAGE = 500
MOST_PAGES = 100_000
PART_BYTES = MOST_STATE // 2
"""A part is closed when its items come to so many bytes; the last one may be as large as an item."""


class StateSnapshots:
    """Takes and restores snapshots. `now` gives seconds since the epoch."""

    def __init__(self, documents: DocumentStore, *, now: Callable[[], float]) -> None:
        self._documents = documents
        self._now = now

    async def take(self, state: StateManagementAbstraction, namespace: str, *, prefix: str) -> StateSnapshot:
        """Keep the items whose keys begin with `prefix`."""
        if not self._documents.durable:
            raise NotDurable(
                "a snapshot outlives the backend, and there is nothing to keep it in. Write "
                "TrafficCop(documents='sqlite:///state.db'), or arangodb://…"
            )
        taken_at = self._now()
        id = f"{int(taken_at * 1000):014d}-{os.urandom(6).hex()}"
        count = parts = 0
        texts: list[dict[str, Any]] = []
        size = 0
        async for item in items_of(state, namespace, prefix=prefix):
            if texts and size + len(item.text.encode()) > PART_BYTES:
                await self._keep_part(state.tenant, id, parts, texts)
                texts, size, parts = [], 0, parts + 1
            texts.append({"k": item.key, "v": item.text, "n": item.version, "t": item.tier, "e": item.expires_at})
            size += len(item.text.encode())
            count += 1
        if texts:
            await self._keep_part(state.tenant, id, parts, texts)
            parts += 1
        head = {"namespace": namespace, "prefix": prefix, "taken_at": taken_at, "count": count, "parts": parts}
        await self._keep(StateKey(state.tenant, HEADS, id), dumps(head))
        return StateSnapshot(id, namespace, prefix, taken_at, count)

    async def restore(self, state: StateManagementAbstraction, id: str, *, exact: bool) -> int:
        """Write the items of a snapshot as new versions."""
        (held,) = await self._documents.load((StateKey(state.tenant, HEADS, id),))
        if held is None or held.value is None:
            raise NoSnapshot(
                f"there is no snapshot {id!r} here: await cop.state.snapshots() lists those that there are"
            )
        head = loads(held.value)
        namespace, count = head["namespace"], 0
        restored: set[str] = set()
        now = self._now()
        for number in range(head["parts"]):
            (part,) = await self._documents.load((StateKey(state.tenant, PARTS, _part(id, number)),))
            if part is None or part.value is None:
                raise NoSnapshot(f"the snapshot {id!r} lacks its part {number}: {count} items are restored")
            for each in loads(part.value):
                if each["e"] is not None and each["e"] <= now:
                    continue
                ttl = None if each["e"] is None else each["e"] - now
                await state.put(namespace, each["k"], loads(each["v"]), tier=each["t"], ttl=ttl)
                restored.add(each["k"])
                count += 1
        if exact:
            async for item in items_of(state, namespace, prefix=head["prefix"]):
                if item.key not in restored:
                    await state.delete(namespace, item.key)
        return count

    async def all_of(self, tenant: str) -> Sequence[StateSnapshot]:
        """A tenant's snapshots, oldest first."""
        found: list[StateSnapshot] = []
        after: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._documents.list(tenant, HEADS, after=after, most=PAGE)
            for item in page.items:
                head = loads(item.value or "null")
                found.append(
                    StateSnapshot(item.key.key, head["namespace"], head["prefix"], head["taken_at"], head["count"])
                )
            if page.after is None:
                break
            after = page.after
        return found

    async def _keep_part(self, tenant: str, id: str, number: int, items: list[dict[str, Any]]) -> None:
        await self._keep(StateKey(tenant, PARTS, _part(id, number)), dumps(items))

    async def _keep(self, key: StateKey, text: str) -> None:
        now = self._now()
        await self._documents.store((Item(key, int(now * MICRO), text, "immediate", now),))


def _part(id: str, number: int) -> str:
    return f"{id}/{number:06d}"


async def items_of(state: StateManagementAbstraction, namespace: str, *, prefix: str) -> AsyncIterator[StateItem]:
    """All items of a namespace whose keys begin with `prefix`, page by page."""
    cursor: str | None = None
    for _ in range(MOST_PAGES):
        page = await state.list(namespace, prefix=prefix, cursor=cursor, most=PAGE)
        for item in page.items:
            yield item
        cursor = page.cursor
        if cursor is None:
            return
