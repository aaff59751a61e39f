"""From a verdict to where an item is kept: its tier, its file, and what the documents are to have of it.

An item whose tier no caller named is judged when it leaves the outbox, off the request path. Until then it waits there
as `delayed`, so nothing is lost if nobody comes to judge it for a while. What is too large for a document becomes a
file first, and a pointer stands in its place from then on: in the documents, and in the backend where the item is still
at the same version.

All of it may be done again, by anybody, after any step: the same version gives the same file, the documents keep the
highest version, and the backend's form of an item changes only at that version.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.pointers import pointer_text
from traffic_cop_middleware.abstractions.files.saga import Why
from traffic_cop_middleware.abstractions.promotion.explanation import Explanation
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.rules import Trigger
from traffic_cop_middleware.abstractions.promotion.uses import StateUses
from traffic_cop_middleware.abstractions.promotion.verdict import Verdict
from traffic_cop_middleware.abstractions.together import outcomes
from traffic_cop_middleware.contracts import DocumentStore, Item, Promotion, StateKey, StateStore, Tier
from traffic_cop_middleware.contracts.state import MOST_STATE, is_pointer, size_of
from traffic_cop_middleware.errors import StoreError

AT_ONCE = 16
"""Items that are judged, or made files of, at a time."""
MOST_JUDGED = 10_000
"""Items that are looked at again; the oldest go first."""
NAMED = ("a caller named the tier",)


class Shaped(NamedTuple):
    """An item as it is to be kept, and what the documents are to have of it; `None`: nothing, and they have nothing."""

    item: Item
    lasting: Item | None


class StatePromoter:
    """Sees that items get where they deserve to be.

    Without `judge` no item is judged; without `files` there are none. `now` gives seconds since the epoch,
    `clock` seconds that never go back.
    """

    def __init__(
        self,
        store: StateStore,
        documents: DocumentStore,
        *,
        judge: StatePromotionAbstraction | None,
        files: FileHouse | None,
        uses: StateUses | None,
        now: Callable[[], float],
        clock: Callable[[], float],
        emit: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._clock = clock
        self._judged: OrderedDict[StateKey, float] = OrderedDict()
        """When an item was judged here last."""
        self._store = store
        self._documents = documents
        self._judge = judge
        self._files = files
        self._uses = uses
        self._now = now
        self._emit = emit

    async def shape(
        self, items: Sequence[Item], *, trigger: Trigger = "change", provisional: bool = False
    ) -> list[Shaped | Exception]:
        """How each is to be kept, or why that can't be had now. Files that it takes are made by then.

        `provisional`: they come out of an outbox, so the tier of one that is to be judged says nothing yet.
        One round trip to the documents for all that are judged, and one for each that waits in an outbox of theirs;
        those of a file for each that becomes one. One to the metadata for each that moves, and every five minutes for
        each that is judged.
        """
        judged = [item for item in items if self.judges(item)]
        kept: dict[Any, Item | None] = {}
        if judged and provisional:
            keys = [item.key for item in judged]
            kept = dict(zip(keys, await self._documents.load(keys), strict=True))
        return await outcomes(
            [partial(self._shape, item, trigger, kept.get(item.key), provisional) for item in items], at_once=AT_ONCE
        )

    def due(self, *, before: float) -> list[StateKey]:
        """Items that were judged here, not again since `before` (`clock`), oldest first. They count as judged now."""
        found = []
        while self._judged:
            key, at = next(iter(self._judged.items()))
            if at > before:
                break
            self._note_judged(key)  # so that one that can't be judged now comes again
            found.append(key)
        return found

    def _note_judged(self, key: StateKey) -> None:
        self._judged.pop(key, None)
        self._judged[key] = self._clock()
        if len(self._judged) > MOST_JUDGED:
            self._judged.popitem(last=False)

    def forget(self, key: StateKey) -> None:
        """There is nothing any more to be judged again."""
        self._judged.pop(key, None)

    def needs_file(self, item: Item) -> bool:
        """Whether the documents are to have this item's value in a file for its size."""
        if item.value is None or is_pointer(item.value):
            return False
        most = self._judge.settings.file_bytes if self._judge is not None and self._files is not None else MOST_STATE
        return size_of(item.value) > most

    def judges(self, item: Item) -> bool:
        """Whether this item's tier is promotion's to choose."""
        return self._judge is not None and not item.named and item.value is not None and not is_pointer(item.value)

    async def _shape(self, item: Item, trigger: Trigger, kept: Item | None, provisional: bool) -> Shaped:
        if item.value is None or is_pointer(item.value):
            return Shaped(item, item._replace(value=None) if item.tier == "cache" else item)
        if kept is not None and kept.version == item.version:
            kept = await self._stored(item.key)  # what waits in the documents' own outbox is this very item
        had = None if kept is None or kept.value is None else kept.tier
        former = (had or "cache") if provisional and self.judges(item) else item.tier
        tier, verdict = item.tier, None
        if self._judge is not None:
            usage = await self._uses.usage(item.key) if self._uses is not None and not item.named else None
            verdict = await self._judge.judge(item._replace(tier=former), trigger=trigger, usage=usage)
            tier = verdict.tier
            if not item.named:
                self._note_judged(item.key)
        shaped = item._replace(tier=tier)
        size = size_of(item.value)
        if tier != "cache" and (size > MOST_STATE or (verdict is not None and verdict.file)):
            shaped = await self._as_file(shaped, size, verdict, former)
        elif verdict is not None and tier != former:
            await self._note(item, former, verdict)
        if tier != "cache":
            return Shaped(shaped, shaped)
        absent = had is None and self.judges(item)
        return Shaped(shaped, None if absent else shaped._replace(value=None))

    async def explain(self, item: Item, judge: StatePromotionAbstraction) -> Explanation:
        """What `judge` would say of an item now. One round trip to the documents, one to the metadata at most."""
        if self.judges(item) and item.tier == "delayed":  # it may wait to be judged, which says nothing of where it was
            stored = await self._stored(item.key)
            if stored is None or stored.value is None:
                item = item._replace(tier="cache")
            elif stored.version < item.version:
                item = item._replace(tier=stored.tier)
        usage = None if self._uses is None else await self._uses.usage(item.key)
        return await judge.explain(item, usage=usage)

    async def _stored(self, key: StateKey) -> Item | None:
        """What the documents have of an item, without what waits in an outbox of theirs."""
        for revision in await self._documents.history(key, most=1):
            return revision.item
        return None

    async def filed(self, item: Item) -> Item:
        """An item with a pointer to its file in place of its value. Round trips as `FileSaga.keep`.

        Raises:
            StoreError: there are no files, or they refuse it.
        """
        return item if item.value is None else await self._as_file(item, size_of(item.value), None, item.tier)

    async def _as_file(self, item: Item, size: int, verdict: Verdict | None, former: Tier) -> Item:
        if self._files is None:
            raise StoreError(
                f"{item.key.namespace}/{item.key.key} has {size} bytes, which is too large for a document, and there "
                "are no files. Write TrafficCop(files='file:///…', file_metadata='sqlite:///…')"
            )
        why = Why(former, 1.0, NAMED) if verdict is None else Why(former, verdict.score, verdict.reasons)
        row = await self._files.keep_item(item, kind="promoted", why=why)
        return item._replace(value=pointer_text(row))

    async def _note(self, item: Item, former: Tier, verdict: Verdict) -> None:
        key = item.key
        told = {"namespace": key.namespace, "key": key.key, "version": item.version}
        told |= {"former": former, "tier": verdict.tier, "score": verdict.score, "reasons": list(verdict.reasons)}
        self._emit("promotion.moved", told)
        if self._files is not None:
            line = Promotion(key, item.version, former, verdict.tier, self._now(), verdict.score, verdict.reasons)
            await self._files.note(line)

    async def settle(self, pairs: Sequence[tuple[Item, Item]]) -> None:
        """Let the backend have the form of these that was found: of each `(before, after)` that differ. One round trip.

        What has a newer version by now is left alone.
        """
        changed = [after for before, after in pairs if before != after]
        if changed:
            await answered(self._store.reshape(changed))
