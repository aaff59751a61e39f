"""The items that this worker keeps in front of a shared store, for as long as the store tells of what others write.

Theory of operation. The store tells which items were written, on a connection of its own, so an answer and the news
that it is out of date may come in either order. News that comes first finds nothing to drop: so each question that is
under way is known here (`Fill`), and news of one of its keys spoils it: its answer goes to the caller, and is not kept.
Where the news themselves were lost, everything goes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.contracts.state import is_large

MISSING = object()


class Fill:
    """A question to the store that is under way."""

    __slots__ = ("keys", "spoilt")

    def __init__(self, keys: Iterable[StateKey]) -> None:
        self.keys = frozenset(keys)
        self.spoilt: set[StateKey] | None = set()
        """Keys of which there was news meanwhile; `None`: of any."""


class NearCache:
    """The most recently used items, at most `most`, by key; `None` is kept too: the store has nothing there. What is
    too large for a document is not kept.

    `now` gives seconds since the epoch; an item that has expired by it is not given any more.
    """

    def __init__(self, *, most: int, now: Callable[[], float]) -> None:
        self._most = most
        self._now = now
        self._kept: OrderedDict[StateKey, Item | None] = OrderedDict()
        self._fills: set[Fill] = set()
        self.hits = 0

    def find(self, key: StateKey) -> Item | object | None:
        """What is kept, or `MISSING`; `None` is an answer."""
        try:
            item = self._kept[key]
        except (KeyError, TypeError):  # what can't be hashed is no key, which is for others to say
            return MISSING
        if item is not None and item.expires_at is not None and item.expires_at <= self._now():
            del self._kept[key]
            return MISSING
        self.hits += 1
        self._kept.move_to_end(key)
        return item

    def __contains__(self, key: StateKey) -> bool:
        return self.find(key) is not MISSING

    def asking(self, keys: Sequence[StateKey]) -> Fill:
        """The store is about to be asked for these."""
        fill = Fill(keys)
        self._fills.add(fill)
        return fill

    def answered(self, fill: Fill, found: Mapping[StateKey, Item | None]) -> None:
        """Keep what the store said, but for what is out of date already."""
        self._fills.discard(fill)
        if fill.spoilt is None:
            return
        for key, item in found.items():
            if key not in fill.spoilt:
                self._keep(key, item)

    def given_up(self, fill: Fill) -> None:
        """The question got no answer."""
        self._fills.discard(fill)

    def heard(self, keys: Sequence[StateKey] | None) -> None:
        """Somebody has written these, or this worker has; `None`: what others wrote was not heard for a while."""
        if keys is None:
            self._kept.clear()
            for fill in self._fills:
                fill.spoilt = None
            return
        for key in keys:
            self._kept.pop(key, None)
        for fill in self._fills:
            if fill.spoilt is not None:
                fill.spoilt.update(fill.keys.intersection(keys))

    def _keep(self, key: StateKey, item: Item | None) -> None:
        if item is not None and is_large(item.value):
            self._kept.pop(key, None)
            return
        self._kept[key] = item
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
