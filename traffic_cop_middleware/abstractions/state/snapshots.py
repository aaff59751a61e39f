"""Snapshots: items as they were, kept in the documents beside the items themselves.

A snapshot is a few documents of its own in a namespace of ours: parts with the items, the values of large items each by
itself, and at the end a head, without which the others are nothing. So one that was cut off half-way is no snapshot.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.state.items import StateSnapshot
from traffic_cop_middleware.contracts import MICRO, DocumentStore, Item, StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE, is_large, is_pointer
from traffic_cop_middleware.errors import NoSnapshot, NotDurable

if TYPE_CHECKING:
    from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction

HEADS, PARTS = "tc.snapshots", "tc.snapshot_parts"
PAGE = 500
MOST_PAGES = 100_000
ID = re.compile(r"[0-9]{14,20}-[0-9a-f]{12}")
PART_BYTES = MOST_STATE // 2
"""Bytes that the items of a part come to at most. The value of an item that is larger is a document of its own: a part
holds texts within a text, and what is quoted in it takes up to twice its room."""


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
        count = parts = large = size = 0
        texts: list[str] = []
        async for item in items_of(state, namespace, prefix=prefix):
            if is_large(item.value) and state.house.promoter is not None:
                item = await state.house.promoter.filed(item)  # noqa: PLW2901 - a pointer in place of what is too large
            value = item.value or "null"
            entry: dict[str, Any] = {"k": item.key.key, "t": item.tier, "m": item.named, "e": item.expires_at}
            text = dumps({**entry, "v": value})
            if len(text.encode()) >= PART_BYTES:
                await self._keep(StateKey(state.tenant, PARTS, _large(id, large)), value)
                text = dumps({**entry, "large": large})
                large += 1
            if texts and size + len(text.encode()) >= PART_BYTES:
                await self._keep_part(state.tenant, id, parts, texts)
                texts, size, parts = [], 0, parts + 1
            texts.append(text)
            size += len(text.encode()) + 1
            count += 1
        if texts:
            await self._keep_part(state.tenant, id, parts, texts)
            parts += 1
        head = {"namespace": namespace, "prefix": prefix, "taken_at": taken_at, "count": count, "parts": parts}
        await self._keep(StateKey(state.tenant, HEADS, id), dumps(head))
        return StateSnapshot(id, namespace, prefix, taken_at, count)

    async def restore(self, state: StateManagementAbstraction, id: str, *, exact: bool) -> int:
        """Write the items of a snapshot as new versions."""
        held = await self._text(StateKey(state.tenant, HEADS, id)) if ID.fullmatch(id) else None
        if held is None:
            raise NoSnapshot(
                f"there is no snapshot {id[:80]!r} here: await cop.state.snapshots() lists those that there are"
            )
        head = loads(held)
        namespace, count = head["namespace"], 0
        restored: set[str] = set()
        for number in range(head["parts"]):
            for each in loads(await self._part_of(state.tenant, _part(id, number), restored=count)):
                if each["e"] is not None and each["e"] <= self._now():
                    continue
                text = each.get("v")
                if text is None:
                    text = await self._part_of(state.tenant, _large(id, each["large"]), restored=count)
                key, tier = StateKey(state.tenant, namespace, each["k"]), each["t"] if each["m"] else None
                if is_pointer(text):  # the file of another version, which may be deleted by now, or be so later
                    text = (await state.house.reader.whole(Item(key, 0, text, each["t"], head["taken_at"]))).value
                state.house.wrote(await state.house.writer.write(key, text, tier=tier, expires_at=each["e"]))
                restored.add(each["k"])
                count += 1
        if exact:
            async for item in items_of(state, namespace, prefix=head["prefix"]):
                if item.key.key not in restored:
                    await state.delete(namespace, item.key.key)
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

    async def _keep_part(self, tenant: str, id: str, number: int, texts: Sequence[str]) -> None:
        await self._keep(StateKey(tenant, PARTS, _part(id, number)), f"[{','.join(texts)}]")

    async def _part_of(self, tenant: str, name: str, *, restored: int) -> str:
        text = await self._text(StateKey(tenant, PARTS, name))
        if text is None:
            raise NoSnapshot(f"the snapshot lacks its part {name!r}: {restored} items are restored")
        return text

    async def _text(self, key: StateKey) -> str | None:
        (held,) = await self._documents.load((key,))
        return None if held is None else held.value

    async def _keep(self, key: StateKey, text: str) -> None:
        now = self._now()
        await self._documents.store((Item(key, int(now * MICRO), text, "immediate", now),))


def _part(id: str, number: int) -> str:
    return f"{id}/{number:06d}"


def _large(id: str, number: int) -> str:
    return f"{id}/large/{number:06d}"


async def items_of(state: StateManagementAbstraction, namespace: str, *, prefix: str) -> AsyncIterator[Item]:
    """All items of a namespace whose keys begin with `prefix`, page by page; pointers as they are."""
    after: str | None = None
    for _ in range(MOST_PAGES):
        page = await state.house.list(state.tenant, namespace, prefix=prefix, after=after, most=PAGE)
        for item in page.items:
            yield item
        after = page.after
        if after is None:
            return
