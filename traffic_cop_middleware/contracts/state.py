"""State, as the fast shared store sees it: items with one version each, what changed, and what is to be kept for good.

An item's *version* is one integer below 2**53 in memory, in Redis and in the documents. A write gets the larger of the
version before it plus one and the store's time in microseconds: so a version is never used twice, also where a store
lost everything, and wherever two stores disagree the higher version wins. A deletion is a write too: it leaves a
*tombstone*, an item without a value.

A write of the tier `delayed` or `immediate` is put into the outbox by the same step that writes the item. What is
in the outbox does not expire and is not forgotten before the documents have it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, Protocol

Tier = Literal["cache", "delayed", "immediate"]
"""What an acknowledgement means: `cache`: the backend has it, and nobody else ever will; `delayed`: the backend has it
in its outbox, and the documents get it later; `immediate`: the documents have it."""
TIERS: tuple[Tier, ...] = ("cache", "delayed", "immediate")

MOST_WORD = 512
"""Bytes (UTF-8) of a tenant, a namespace or a key."""
MOST_STATE = 256 * 1024
"""Bytes (UTF-8) of a value. What is larger belongs into a file."""
WHOLE = 2**53


class StateKey(NamedTuple):
    """Where an item lives. The tenant `""` is the app itself; no operation reaches over two tenants."""

    tenant: str
    namespace: str
    key: str


class Item(NamedTuple):
    """An item. `value` is a JSON text, or `None` where it was deleted.

    `written_at` and `expires_at` are seconds since the epoch, on the clock of the store that wrote it; `expires_at` is
    `None` where it stays until it is deleted. From `expires_at` on it is answered as if it had been deleted.
    """

    key: StateKey
    version: int
    value: str | None
    tier: Tier
    written_at: float
    expires_at: float | None = None


class Written(NamedTuple):
    """What came of a write.

    `written`: `item` is what is there now. `conflict`: the item is not at the version that was asked for, nothing was
    written, and `item` is what is there (`None`: nothing). `unknown`: a version was asked for and the store holds
    nothing of this key, neither an item nor a tombstone: who has documents reads them, tells the store (`warm`, or
    `missing=True`), and writes again. `full`: the outbox is, and nothing was written.
    """

    outcome: Literal["written", "conflict", "unknown", "full"]
    item: Item | None = None


class Change(NamedTuple):
    """A write, as a watcher hears of it. The value is read by `load`, and may be a newer one by then."""

    key: StateKey
    version: int
    deleted: bool


class Changed(NamedTuple):
    """Changes in the order of each item's versions, and the cursor to go on from.

    `lost` is true where the cursor given lies further back than the store remembers: the watcher lists anew.
    """

    changes: Sequence[Change]
    cursor: str
    lost: bool = False


class Page(NamedTuple):
    """Items in the order of their keys (by code point), without the deleted and expired. `after` is the key to go on
    after, `None` at the end."""

    items: Sequence[Item]
    after: str | None


class Pending(NamedTuple):
    """An item that waits in the outbox, at the newest version that the store has. `id` is the entry's.

    `tries` counts how often it was claimed before.
    """

    id: str
    item: Item
    tries: int = 0


class Outbox(Protocol):
    """Items that the documents are to get, each at least once, and kept until `settle`.

    Every method raises:
        StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`).
        StoreError: the store answered with an error.
    """

    def claim(self, worker: str, *, most: int, idle: float) -> Awaitable[Sequence[Pending]]:
        """Up to `most` items for `worker` to flush: new ones, and those that another worker claimed more than `idle`
        seconds ago and never settled. Several entries of one item come as several entries with the same item."""
        ...

    def settle(self, done: Sequence[Pending]) -> Awaitable[None]:
        """The documents have these, at the versions that they were claimed at: take them out.

        An item that has an end, and no newer version since, may expire from now on.
        """
        ...

    def bury(self, entry: Pending, reason: str) -> Awaitable[None]:
        """Take an entry out that can't be flushed, and keep it among the dead letters with the reason."""
        ...

    def dead(self, *, most: int = 100) -> Awaitable[Sequence[tuple[Pending, str]]]:
        """Dead letters, oldest first, with their reasons."""
        ...

    def revive(self, ids: Sequence[str]) -> Awaitable[int]:
        """Put dead letters back, so that they are flushed again. Gives how many there were."""
        ...

    def waiting(self) -> Awaitable[int]:
        """How many entries wait, claimed ones included."""
        ...


class StateStore(Protocol):
    """Items.

    A store in this process answers at once; a shared one gives something to await, and its question is asked by the
    call: several asked before the first is awaited share one round trip.

    Every method raises:
        ValueError: a word can't be used (`check_key`), a value is too large.
        StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`); a write may have happened or not.
        StoreError: the store answered with an error.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see the same items (asking then costs a round trip)."""
        ...

    @property
    def outbox(self) -> Outbox | None:
        """Where `delayed` and `immediate` writes wait for the documents; `None`: this store keeps none."""
        ...

    def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None] | Awaitable[Sequence[Item | None]]:
        """The items, tombstones included; `None` where the store holds nothing. An expired item is a tombstone of its
        version. One round trip."""
        ...

    def write(
        self,
        key: StateKey,
        value: str | None,
        *,
        tier: Tier,
        if_version: int | None = None,
        expires_at: float | None = None,
        missing: bool = False,
    ) -> Written | Awaitable[Written]:
        """Write an item, or delete it (`value=None`). One round trip.

        `if_version` is the version that it must have, 0: it must not exist (deleted and expired count as such).
        `missing=True`: the caller knows that the documents have nothing of it either. Where the store has an outbox, a
        tier other than `cache` appends to it.
        """
        ...

    def warm(self, items: Sequence[Item]) -> Awaitable[None] | None:
        """Take over what the documents have, each where the store has nothing or an older version. No watcher hears."""
        ...

    def forget(self, key: StateKey, *, version: int) -> Awaitable[None] | None:
        """Drop an item, if it is at this version and not in the outbox: the next read asks the documents."""
        ...

    def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page | Awaitable[Page]:
        """The items whose keys begin with `prefix`, from the first key after `after` on."""
        ...

    def changes(
        self, tenant: str, namespace: str, *, prefix: str = "", since: str | None = None, most: int = 1000
    ) -> Changed | Awaitable[Changed]:
        """What was written since the cursor `since`; `None` gives no changes and the cursor of now.

        Raises:
            ValueError: `since` is no cursor of this store.
        """
        ...

    def invalidations(self, heard: Callable[[Sequence[StateKey] | None], None]) -> Callable[[], None] | None:
        """Call `heard` with the items that others may have written; with `None` where anything may have been, since
        the connection that tells of it was lost. Calling what this returns ends that.

        `None`: the store tells of nothing, so nothing is to be kept in front of it.
        """
        ...


def check_key(key: StateKey) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: a namespace or key is empty; a word has NUL, or is longer than 512 bytes.
    """
    for name, word in zip(StateKey._fields, key, strict=True):
        size = len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))
        if (not word and name != "tenant") or "\0" in word or size > MOST_WORD:
            raise ValueError(f"{name} {word[:80]!r}: a {name} has from 1 to {MOST_WORD} bytes, and no NUL")


def check_value(key: StateKey, value: str | None) -> None:
    """Refuse a value that no store takes.

    Raises:
        ValueError: it has more than 256 KB.
    """
    if value is not None:
        size = len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        if size > MOST_STATE:
            raise ValueError(
                f"the state {key.namespace}/{key.key} has {size} bytes, and {MOST_STATE} is the most: keep it in "
                "several items, or in a file"
            )
