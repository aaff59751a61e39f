"""What callers get of the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.json_texts import loads
from traffic_cop_middleware.contracts import Item, Tier
from traffic_cop_middleware.errors import FileCorrupt

UNREAD = object()


class StateItem:
    """An item as it was read: `value` is the caller's own, and changing it changes nothing else.

    `version` counts up with each write, an integer below 2**53. `written_at` and `expires_at` are seconds since the
    epoch; `expires_at` is `None` where it stays. One of several whose file is gone, or is not what was kept, has no
    value: `lost` tells of that, and to ask for `value` or `text` raises it (`FileCorrupt`).
    """

    __slots__ = ("_item", "_lost", "_value")

    def __init__(self, item: Item, lost: FileCorrupt | None = None) -> None:
        self._item = item
        self._lost = lost
        self._value: Any = UNREAD

    @property
    def value(self) -> Any:
        """What was put: a JSON value. Decoded when it is first looked at."""
        if self._value is UNREAD:
            self._value = loads(self.text)
        return self._value

    @property
    def text(self) -> str:
        """The value as its JSON text."""
        if self._lost is not None:
            raise self._lost
        return self._item.value or "null"

    @property
    def lost(self) -> str:
        """Why there is no value; empty where there is one."""
        return "" if self._lost is None else str(self._lost)

    @property
    def tenant(self) -> str:
        """Whose state this is; "" is the app's own."""
        return self._item.key.tenant

    @property
    def namespace(self) -> str:
        return self._item.key.namespace

    @property
    def key(self) -> str:
        return self._item.key.key

    @property
    def version(self) -> int:
        return self._item.version

    @property
    def tier(self) -> Tier:
        return self._item.tier

    @property
    def named(self) -> bool:
        """Whether a caller named the tier; of any other item promotion chooses it."""
        return self._item.named

    @property
    def written_at(self) -> float:
        return self._item.written_at

    @property
    def expires_at(self) -> float | None:
        return self._item.expires_at

    def __repr__(self) -> str:
        return f"<StateItem {self.namespace}/{self.key} version {self.version} {self.tier}>"


def items_of(items: Sequence[Item], found: Sequence[Item | FileCorrupt]) -> list[StateItem]:
    """Items for callers, each with its value or why that can't be had."""
    return [
        StateItem(item, lost=each) if isinstance(each, FileCorrupt) else StateItem(each)
        for item, each in zip(items, found, strict=True)
    ]


class StatePage(NamedTuple):
    """Items in the order of their keys, and the `cursor` that gives the next page; `None` at the end."""

    items: Sequence[StateItem]
    cursor: str | None


class StateChange(NamedTuple):
    """A write, as a watcher hears of it. `cursor` is where `watch(…, from_cursor=…)` goes on after it."""

    namespace: str
    key: str
    version: int
    deleted: bool
    cursor: str


class StateRevision(NamedTuple):
    """A version that the documents had; `value` is `None` where it was deleted, or held `None`, or was in a file that
    is gone by now, which `lost` tells of."""

    version: int
    value: Any
    deleted: bool
    written_at: float
    stored_at: float
    lost: str = ""


def revision_of(item: Item, stored_at: float, *, lost: str = "") -> StateRevision:
    """What callers see of a version that the documents had."""
    value = None if item.value is None or lost else loads(item.value)
    return StateRevision(item.version, value, item.value is None, item.written_at, stored_at, lost)


class StateSnapshot(NamedTuple):
    """Items as they were when the snapshot was made. `taken_at` is seconds since the epoch."""

    id: str
    namespace: str
    prefix: str
    taken_at: float
    items: int
