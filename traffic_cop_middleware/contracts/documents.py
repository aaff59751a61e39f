"""Documents: the items that last, and their history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import NamedTuple, Protocol

from traffic_cop_middleware.contracts.events import Event
from traffic_cop_middleware.contracts.state import MOST_STATE, Item, Outbox, Page, StateKey, check_key, check_value

KEPT_VERSIONS = 100
"""How many versions of an item the history keeps at least; the oldest go first."""


class Revision(NamedTuple):
    """A version of an item that the documents once had. `stored_at` is seconds since the epoch."""

    item: Item
    stored_at: float


class DocumentOutbox(Outbox, Protocol):
    """An outbox for a backend that has none of its own."""

    async def append(self, items: Sequence[Item]) -> None:
        """Keep these until the documents have them. They are durable when this returns, all of them or none."""
        ...


class DocumentStore(Protocol):
    """Items by key, the highest version of each, and the versions before it.

    Every method raises:
        ValueError: a word can't be used (`check_key`).
        StoreUnavailable: not reached, busy beyond the deadline, or no room left; nothing was half-written.
        StoreError: the store answered with an error.
    """

    @property
    def durable(self) -> bool:
        """Whether an item outlives this process."""
        ...

    @property
    def outbox(self) -> DocumentOutbox | None: ...

    async def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None]:
        """The items, tombstones included; `None` where there never was one. An expired item is a tombstone of its
        version. What waits in this store's own outbox counts."""
        ...

    async def store(self, items: Sequence[Item]) -> Sequence[int]:
        """Keep these: each where the documents have nothing or an older version of it, so that a repetition or a
        latecomer does no harm. All of them or none. Gives the version of each that the documents have now.

        Of one version a value stands in place of a tombstone, never the other way: an item that left the documents for
        the cache has a tombstone there of its own version, until it comes back."""
        ...

    async def reshape(self, items: Sequence[Item]) -> Sequence[bool]:
        """As `StateStore.reshape`: of an item that the documents have at this very version, the tier and the value; in
        its history too. All of them or none. What waits in this store's own outbox counts, and is reshaped there."""
        ...

    async def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page:
        """As `StateStore.list`. What waits in this store's own outbox counts here too."""
        ...

    async def history(self, key: StateKey, *, before: int | None = None, most: int = 20) -> Sequence[Revision]:
        """The versions that the documents had, newest first, the present one included; only those below `before`."""
        ...

    async def clean_up(self, *, now: float, tombstones_before: float) -> int:
        """Remove what expired before `now` and tombstones written before `tombstones_before` (seconds since the
        epoch), with their histories. Gives how many items went."""
        ...

    async def connect(self, *, patience: float = 1.0) -> None:
        """As `Backend.connect`."""
        ...

    async def close(self) -> None:
        """Let go of everything, when what was asked for is done. A closed store is not opened again."""
        ...


class DocumentOpener(Protocol):
    """What an adapter exports as an entry point `traffic_cop_middleware.documents` under the name of a URL scheme."""

    def __call__(self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> DocumentStore:
        """A store for `url`, checked but not yet connected. As `Opener`.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        ...


def newest_of(items: Sequence[Item], *, most: int = MOST_STATE) -> dict[StateKey, Item]:
    """The newest item of each key, checked: what the documents would have of these, or with `most=MOST_HOT` an outbox.

    Raises:
        ValueError: a word or a value can't be used, or an end is no finite number.
    """
    newest: dict[StateKey, Item] = {}
    for item in items:
        check_key(item.key)
        check_value(item.key, item.value, most=most)
        if item.expires_at is not None and not isfinite(item.expires_at):
            raise ValueError(f"expires_at={item.expires_at}: seconds since the epoch, or None for no end")
        known = newest.get(item.key)
        if known is None or known.version < item.version:
            newest[item.key] = item
    return newest


def shapes_of(items: Sequence[Item]) -> dict[tuple[StateKey, int], Item]:
    """What `reshape` is to make of items at these versions, checked; without tombstones, which are left alone.

    Raises:
        ValueError: a word or a value can't be used.
    """
    for item in items:
        check_key(item.key)
        check_value(item.key, item.value)
    return {(item.key, item.version): item for item in items if item.value is not None}


def as_of(item: Item, now: float) -> Item:
    """The item as it is answered at `now` (seconds since the epoch): an expired one is a tombstone of its version."""
    return item if item.expires_at is None or now < item.expires_at else item._replace(value=None)
