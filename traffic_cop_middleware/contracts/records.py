"""Records that all workers must agree on: gateway routes, limits, pools, CORS policies.

The records of one *kind* are a collection with one version: what a change writes gets the version that the collection
then has, so whoever knows a version reads only what has changed since. Versions grow and are never used twice, also
where the store lost everything: the first one is the time in microseconds. They are integers below 2**53.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

MOST_KIND = 128
MOST_NAME = 512
MOST_VALUE = 64 * 1024
"""Bytes (UTF-8) of a kind, of a record's name and of its value."""
MOST_CHANGED = 1_000
MOST_CHANGED_BYTES = 1024 * 1024
"""What one change may hold: so many records, and bytes (names and values together)."""


class Record(NamedTuple):
    """A record: `version` is the one that the collection had when it was last changed.

    `value` is a JSON text, or `None` where the record was removed.
    """

    name: str
    version: int
    value: str | None


class Changes(NamedTuple):
    """What has changed in a collection.

    `version` is the collection's (0 where nothing was ever written). `records` are in order of their version. With
    `whole` true these are all there are, and what is not among them is gone.
    """

    version: int
    records: Sequence[Record]
    whole: bool


class RecordStore(Protocol):
    """Collections of records, changed by compare-and-set and read as what has changed.

    A store in this process answers at once; a shared one gives something to await.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see the same records (asking then costs a round trip)."""
        ...

    def read(self, kind: str, *, since: int = 0) -> Changes | Awaitable[Changes]:
        """What has changed since the collection had the version `since`: one consistent state, read in one piece.

        It is `whole` where `since` is 0, is no version of this collection, or lies so far back that removals since
        then are forgotten. A small change costs one round trip; many records take several.

        Raises:
            ValueError: the kind can't be used.
            StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`).
            StoreError: the store answered with an error, or the records change faster than they can be read.
        """
        ...

    def change(
        self, kind: str, values: Mapping[str, str | None], *, at: int | None
    ) -> int | Awaitable[int | None] | None:
        """Write records, and remove those whose value is `None`: all of them, or none.

        Gives the collection's new version, or `None` where it is no longer at the version `at` (0: where something was
        ever written). With `at=None` it is changed whatever its version is. Removing what is not there counts as a
        change too.

        Raises:
            ValueError: a kind, name or value can't be used, or these are too many at once (`check_change`).
            StoreUnavailable: not reached, or not in time; it may or may not have been changed.
            StoreError: the store answered with an error.
        """
        ...


def check_kind(kind: str) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: it is empty, has braces or NUL, or is longer than 128 bytes.
    """
    if not kind or set(kind) & set("{}\0") or _size(kind) > MOST_KIND:
        raise ValueError(f"kind {kind!r}: a kind is a plain word without braces, of at most {MOST_KIND} bytes")


def check_change(kind: str, values: Mapping[str, str | None]) -> None:
    """Refuse a change that no store takes.

    Raises:
        ValueError: it has no record, more than 1,000, or more than 1 MB; a name is empty, has NUL, or is longer than
            512 bytes; a value has more than 64 KB.
    """
    check_kind(kind)
    if not values:
        raise ValueError(f"a change of 0 records of {kind!r}: name what is to be written or removed")
    if len(values) > MOST_CHANGED:
        raise ValueError(
            f"a change of {len(values)} records of {kind!r}: from 1 to {MOST_CHANGED} are changed at once. Make "
            "several changes of it"
        )
    total = 0
    for name, value in values.items():
        length = _size(name)
        if not name or "\0" in name or length > MOST_NAME:
            raise ValueError(
                f"a record of {kind!r} named {name[:80]!r}: a name has from 1 to {MOST_NAME} bytes, and no NUL"
            )
        size = 0 if value is None else _size(value)
        if size > MOST_VALUE:
            raise ValueError(
                f"the record {name!r} of {kind!r} has {size} bytes, and {MOST_VALUE} is the most: make several of it"
            )
        total += length + size
    if total > MOST_CHANGED_BYTES:
        raise ValueError(
            f"a change of {total} bytes in {len(values)} records of {kind!r}: {MOST_CHANGED_BYTES} bytes are changed "
            "at once at the most. Make several changes of it"
        )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
