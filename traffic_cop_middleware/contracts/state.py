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
from math import isfinite
from typing import Literal, NamedTuple, Protocol

Tier = Literal["cache", "delayed", "immediate"]
"""What an acknowledgement means: `cache`: the backend has it, and nobody else ever will; `delayed`: the backend has it
in its outbox, and the documents get it later; `immediate`: the documents have it."""
TIERS: tuple[Tier, ...] = ("cache", "delayed", "immediate")

RESERVED = "tc."
"""Namespaces that begin so are this package's own."""
MOST_WORD = 512
"""Bytes (UTF-8) of a tenant, a namespace or a key."""
MOST_STATE = 256 * 1024
"""Bytes (UTF-8) of a value in the documents. What is larger belongs into a file."""
MOST_HOT = 16 * 1024 * 1024
"""Bytes (UTF-8) of a value in the backend and its outbox, where what is larger than `MOST_STATE` waits for its file."""
POINTER = "@"
"""What a value begins with that is no JSON, but a pointer to the file that has it: `@` and a JSON object."""
WHOLE = 2**53


class StateKey(NamedTuple):
    """Where an item lives. The tenant `""` is the app itself; no operation reaches over two tenants."""

    tenant: str
    namespace: str
    key: str


class Item(NamedTuple):
    """An item. `value` is a JSON text, a pointer (`POINTER`), or `None` where it was deleted.

    `written_at` and `expires_at` are seconds since the epoch, on the clock of the store that wrote it; `expires_at` is
    `None` where it stays until it is deleted. From `expires_at` on it is answered as if it had been deleted.
    `named`: a caller named the tier. Of any other item promotion chooses it.
    """

    key: StateKey
    version: int
    value: str | None
    tier: Tier
    written_at: float
    expires_at: float | None = None
    named: bool = False


class Written(NamedTuple):
    """What came of a write.

    `written`: `item` is what is there now. `conflict`: the item is not at the version that was asked for, nothing was
    written, and `item` is what is there (`None`: nothing). `unknown`: a version, or `tier=None`, was asked for and the
    store holds nothing of this key, neither an item nor a tombstone: who has documents reads them, tells the store
    (`warm`, or `missing=True`), and writes again. `full`: the outbox is, and nothing was written.
    """

    outcome: Literal["written", "conflict", "unknown", "full"]
    item: Item | None = None


class Change(NamedTuple):
    """A write, as a watcher hears of it. The value is read by `load`, and may be a newer one by then.

    `cursor` is the one to go on from right after it.
    """

    key: StateKey
    version: int
    deleted: bool
    cursor: str


class Changed(NamedTuple):
    """Changes in the order of each item's versions, and the cursor to go on from after all of them.

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
        version, until the store holds nothing of it. One round trip."""
        ...

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
    ) -> Written | Awaitable[Written]:
        """Write an item, or delete it (`value=None`). One round trip.

        `if_version` is the version that it must have, 0: it must not exist. Deleted and expired count as such, and have
        no other version to ask for. An `expires_at` that has passed makes of the write a deletion.
        `tier=None`: the one that the item has, `cache` where there is none (a store that holds nothing of the key
        answers `unknown` then too). A tier that is given makes the item `named`; `None` leaves that as it is, and with
        `judge=True` an item that is not `named` becomes `delayed`, until promotion has judged it (`reshape`).
        `missing=True`: the caller knows that the documents have nothing of it either.
        Where the store has an outbox, a write is appended to it when the item's tier is, or was, other than `cache`, or
        with `judge=True` nobody had named it: what comes down to `cache` is to leave the documents. An entry that
        nobody has claimed yet serves for later writes of the same item too.

        Raises:
            ValueError: as above, and where `expires_at` is no finite number.
        """
        ...

    def warm(self, items: Sequence[Item]) -> Awaitable[None] | None:
        """Take over what the documents have, each where the store has nothing or an older version. No watcher hears."""
        ...

    def reshape(self, items: Sequence[Item]) -> Sequence[bool] | Awaitable[Sequence[bool]]:
        """Keep each item in this tier and with this value, if it is at this very version and not deleted, and give
        whether it is. One round trip.

        For what changes nothing that a caller sees: the tier that promotion chose, a pointer in place of the value that
        its file has, or the value in place of a pointer. The version, the end and `named` stay, no watcher hears. What
        waits in the outbox stays there until it is settled.
        """
        ...

    def forget(self, key: StateKey, *, version: int) -> Awaitable[None] | None:
        """Drop an item, if it is at this version and not in the outbox: the next read asks the documents."""
        ...

    def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page | Awaitable[Page]:
        """The items whose keys begin with `prefix`, from the first key after `after` on. A page may have fewer than
        `most`, and another one after it."""
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
        the connection that tells of it was lost: then, again and again until it is back, and when it is. Calling what
        this returns ends that. Own writes may be told too.

        `None`: the store tells of nothing, so nothing is to be kept in front of it.
        """
        ...


def is_ours(namespace: str) -> bool:
    """Whether a namespace is this package's own."""
    return namespace.startswith(RESERVED)


def check_key(key: StateKey) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: a namespace or key is empty; a word has NUL, or is longer than 512 bytes.
    """
    for name, word in zip(StateKey._fields, key, strict=True):
        size = len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))
        if (not word and name != "tenant") or "\0" in word or size > MOST_WORD:
            raise ValueError(f"{name} {word[:80]!r}: a {name} has from 1 to {MOST_WORD} bytes, and no NUL")


def check_value(key: StateKey, value: str | None, *, most: int = MOST_STATE) -> None:
    """Refuse a value that is too large: for the documents, or with `most=MOST_HOT` for any store.

    Raises:
        ValueError: it has more than `most` bytes (UTF-8).
    """
    if value is not None and (size := size_of(value)) > most:
        raise ValueError(
            f"the state {key.namespace}/{key.key} has {size} bytes, and {most} is the most: keep it in several items, "
            "or in a file (files=…)"
        )


def size_of(value: str) -> int:
    """Bytes (UTF-8) of a value."""
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


def is_large(value: str | None) -> bool:
    """Whether a value is too large for a document."""
    return value is not None and size_of(value) > MOST_STATE


def is_pointer(value: str | None) -> bool:
    """Whether a value is a pointer to a file, and no JSON text."""
    return value is not None and value.startswith(POINTER)


def check_end(expires_at: float | None) -> None:
    """Refuse an end that no clock comes to.

    Raises:
        ValueError: it is infinite, or no number.
    """
    if expires_at is not None and not isfinite(expires_at):
        raise ValueError(f"expires_at={expires_at}: seconds since the epoch, or None for no end")
