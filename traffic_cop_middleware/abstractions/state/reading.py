"""How an item is found: in this worker's memory, in the backend, in the documents.

Readers of one item share one question to the backend, and one to the documents. Who asks after a write was made here
does not join a question from before it. That the documents have nothing of a key is remembered for a moment: whatever
is written goes to the backend first, so nothing new is missed by that.

A backend may go back: a fail-over of Redis loses its last writes. Of an `immediate` item the documents have what was
acknowledged, so a strong reading asks them as well, and the higher version wins.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from traffic_cop_middleware.abstractions.asking import answered, let_go
from traffic_cop_middleware.abstractions.files.following import FileReader
from traffic_cop_middleware.abstractions.promotion.uses import StateUses
from traffic_cop_middleware.abstractions.state.near_cache import MISSING, Fill, NearCache
from traffic_cop_middleware.abstractions.together import answers, outcomes
from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey, StateStore
from traffic_cop_middleware.contracts.state import is_pointer
from traffic_cop_middleware.errors import FileCorrupt, StoreError
from traffic_cop_middleware.loops import Signal

log = logging.getLogger("traffic_cop.state")

NOTHING_FOR = 2.0
"""Seconds that it is remembered that the documents have nothing of a key."""
MOST_NOTHINGS = 10_000
MOST_TURNS = 10
AT_ONCE = 8
"""Files that one reading asks for at a time."""


class Flight:
    """A question that several wait for."""

    __slots__ = ("answered", "failure", "item", "landed")

    def __init__(self) -> None:
        self.landed = Signal()
        self.answered = False
        self.item: Item | None = None
        self.failure: StoreError | None = None


class Question:
    """An item that was asked for, and whose answer nobody has waited for yet."""

    __slots__ = ("asked", "fill", "key")

    def __init__(self, key: StateKey, asked: Any, fill: Fill | None) -> None:
        self.key = key
        self.asked = asked
        self.fill = fill


class StateReader:
    """Finds items.

    `documents` is `None` where no item outlives the backend. `now` gives seconds since the epoch, `clock` seconds that
    never go back. `files` reads what pointers point to, `uses` counts what is read.
    """

    def __init__(
        self,
        store: StateStore,
        documents: DocumentStore | None,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        most: int,
        files: FileReader | None = None,
        uses: StateUses | None = None,
    ) -> None:
        self._store = store
        self._documents = documents
        self._files = files
        self.uses = uses
        self._clock = clock
        self._flights: dict[StateKey, Flight] = {}
        self._nothings: OrderedDict[StateKey, float] = OrderedDict()
        self._now = now
        self._most = most
        self._near: NearCache | None = None
        self._stop: Callable[[], None] | None = None

    @property
    def near(self) -> NearCache | None:
        """What this worker keeps; `None` where it keeps nothing. From the first look on the store tells of writes."""
        if self._near is None and self._most:
            near = NearCache(most=self._most, now=self._now)
            self._stop = self._store.invalidations(near.heard)
            if self._stop is None:
                self._most = 0
            else:
                self._near = near
        return self._near

    def close(self) -> None:
        """Keep nothing any more, and hear no longer what others write."""
        self._most = 0
        if self._stop is not None:
            self._stop()
            self._stop = self._near = None

    def wrote(self, key: StateKey) -> None:
        """It was written here, or may have been: what was asked before is not good enough any more."""
        self._flights.pop(key, None)
        self._nothings.pop(key, None)
        if self._near is not None:
            self._near.heard((key,))

    def kept(self, key: StateKey) -> Item | object | None:
        """What this worker keeps of an item, or `MISSING`."""
        near = self._near
        found = MISSING if near is None else near.find(key)
        if self.uses is not None and found is not MISSING:
            self.uses.read(key)
        return found

    async def whole(self, item: Item) -> Item:
        """An item with its value, where a file has that. One round trip to the files, unless this worker keeps it.

        Raises:
            FileCorrupt: the file is gone, or is not what was kept.
        """
        if not is_pointer(item.value):
            return item
        if self._files is None:
            raise StoreError(
                f"the value of {item.key.namespace}/{item.key.key} is in a file, and there are no files here. Write "
                "TrafficCop(files=…, file_metadata=…) as where it was written"
            )
        return await self._files.follow(item)

    async def all_whole(self, items: Sequence[Item]) -> Sequence[Item]:
        """As `whole`, for several, some at a time."""
        if not any(is_pointer(item.value) for item in items):
            return items
        return await answers([partial(self.whole, item) for item in items], at_once=AT_ONCE)

    async def each_whole(self, items: Sequence[Item]) -> Sequence[Item | FileCorrupt]:
        """As `all_whole`; one whose file is gone, or is not what was kept, hides no other."""
        if not any(is_pointer(item.value) for item in items):
            return items
        found = list[Item | FileCorrupt]()
        for each in await outcomes([partial(self.whole, item) for item in items], at_once=AT_ONCE):
            if isinstance(each, Exception) and not isinstance(each, FileCorrupt):
                raise each
            found.append(each)
        return found

    async def one(self, key: StateKey, *, strong: bool) -> Item | None:
        """An item or a tombstone; `None` where nothing is known of it. At most one round trip to each store."""
        if self.uses is not None:
            self.uses.read(key)
        item = await self.raw(key, strong=strong)
        return item if item is None else await self.whole(item)

    async def raw(self, key: StateKey, *, strong: bool) -> Item | None:
        """As `one`, and a pointer as it is."""
        if strong:
            return (await self._ask((key,), strong=True))[key]
        near = self.near
        if near is not None and (kept := near.find(key)) is not MISSING:
            return cast("Item | None", kept)
        for _ in range(MOST_TURNS):
            flight = self._flights.get(key)
            if flight is None:
                break
            await flight.landed.wait()
            if flight.failure is not None:
                raise StoreError(str(flight.failure)) from flight.failure
            if flight.answered:  # else whoever asked gave up
                return flight.item
        return await self._lead(key)

    def ask(self, key: StateKey) -> Question:
        """Ask for an item without waiting: what else is asked in this tick travels along. `hear` has the answer.

        Raises:
            StoreUnavailable: the backend is away.
        """
        near = self.near
        if near is not None and (kept := near.find(key)) is not MISSING:
            return Question(key, (kept,), None)
        fill = near.asking((key,)) if near is not None else None
        return Question(key, self._store.load((key,)), fill)

    async def hear(self, question: Question) -> Item | None:
        """The answer, as `one` would give it."""
        key, near, fill = question.key, self._near, question.fill
        try:
            item: Item | None = (await answered(question.asked))[0]
            if item is None and self._documents is not None:
                item = (await self.from_documents((key,), strong=False))[key]
        except BaseException:
            if near is not None and fill is not None:
                near.given_up(fill)
            raise
        if near is not None and fill is not None:
            near.answered(fill, {key: item})
        if self.uses is not None:
            self.uses.read(key)
        return item if item is None else await self.whole(item)

    def let_go(self, question: Question) -> None:
        """Nobody will wait for this answer."""
        let_go(question.asked)
        if self._near is not None and question.fill is not None:
            self._near.given_up(question.fill)

    async def _lead(self, key: StateKey) -> Item | None:
        flight = self._flights[key] = Flight()
        try:
            flight.item = (await self._ask((key,)))[key]
            flight.answered = True
        except StoreError as exc:
            flight.failure = exc
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set()
        return flight.item

    async def several(self, keys: Sequence[StateKey], *, strong: bool) -> Mapping[StateKey, Item | None]:
        """As `one`, for several at once, in as many round trips."""
        found = await self.several_raw(keys, strong=strong)
        whole = await self.all_whole([item for item in found.values() if item is not None])
        return {**found, **{item.key: item for item in whole}}

    async def several_raw(self, keys: Sequence[StateKey], *, strong: bool) -> Mapping[StateKey, Item | None]:
        """As `several`, and pointers as they are."""
        near = None if strong else self.near
        found: dict[StateKey, Item | None] = {}
        if near is not None:
            kept = {key: near.find(key) for key in keys}
            found.update({key: cast("Item | None", item) for key, item in kept.items() if item is not MISSING})
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            found.update(await self._ask(missing, strong=strong))
        if self.uses is not None:
            for key in found:
                self.uses.read(key)
        return found

    async def _ask(self, keys: Sequence[StateKey], *, strong: bool = False) -> dict[StateKey, Item | None]:
        near = self._near
        fill = near.asking(keys) if near is not None else None
        try:
            found = dict(zip(keys, await answered(self._store.load(keys)), strict=True))
            if self._documents is not None:
                asked = [key for key in keys if (item := found[key]) is None or (strong and item.tier == "immediate")]
                kept = await self.from_documents(asked, strong=strong) if asked else {}
                found.update({key: item for key, item in kept.items() if _is_newer(item, found[key])})
        except BaseException:
            if near is not None and fill is not None:
                near.given_up(fill)
            raise
        if near is not None and fill is not None:
            near.answered(fill, found)
        return found

    async def from_documents(self, keys: Sequence[StateKey], *, strong: bool = True) -> dict[StateKey, Item | None]:
        """What the documents have of keys that the backend does not know; the backend knows it then."""
        now = self._clock()
        asked = list(keys) if strong else [key for key in keys if self._nothings.get(key, 0.0) <= now]
        found: dict[StateKey, Item | None] = dict.fromkeys(keys)
        if not asked or self._documents is None:
            return found
        found.update(zip(asked, await self._documents.load(asked), strict=True))
        held = [item for item in found.values() if item is not None]
        for key in asked:
            if found[key] is None:
                self._nothings[key] = now + NOTHING_FOR
                if len(self._nothings) > MOST_NOTHINGS:
                    self._nothings.popitem(last=False)
        if held:
            await answered(self._store.warm(held))
        return found


def _is_newer(item: Item | None, known: Item | None) -> bool:
    return item is not None and (known is None or known.version < item.version)
