"""The history of the traffic: figures by stretch of time, and which stretches are to be rolled up.

A *bucket* is a stretch of `resolution` seconds from `start` on. Its rows are written as a whole, so a write that is
repeated changes nothing, and a part of one is never there. What the figures of a row are no store knows: to it they are
blobs.

Writing a bucket makes the coarser one around it *due*, in the same operation; writing that one, from what was read
after it became due, ends it. So whoever rolls up may be killed anywhere: what is still to be done is known, and nothing
is added twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from traffic_cop_middleware.contracts.events import Event

RESOLUTIONS = (60, 300, 3_600, 86_400)
"""Seconds of the buckets, finest first; each is a part of the next. All begin at multiples of theirs since the epoch,
so a day is one of UTC."""
MOST_WORD = 1_000
"""Characters of a row's name; of a kind and a method 50."""


class HistoryBucket(NamedTuple):
    """`resolution` seconds from `start` (seconds since the epoch) on, as `source` has counted them.

    A source is who counts for itself: a shared metrics store, or a process that shares none, each since it began. A
    bucket that is rolled up is of all sources, and its own is 0.
    """

    resolution: int
    start: int
    source: int = 0


class HistoryRow(NamedTuple):
    """Figures of a bucket. `kind` says what of, `name` and `method` (a route's, or empty) tell the rows apart."""

    kind: str
    name: str
    method: str
    value: bytes


class Past(NamedTuple):
    """A row that was found, and when its bucket began."""

    start: int
    row: HistoryRow


class Span(NamedTuple):
    """The buckets of a resolution that begin at `start` or later, and before `end` (seconds since the epoch)."""

    resolution: int
    start: int
    end: int


class Due(NamedTuple):
    """A bucket that is to be rolled up. `stamp` is another one after each write into a finer bucket within."""

    resolution: int
    start: int
    stamp: int


class HistoryStore(Protocol):
    """Keeps figures by bucket.

    Every method raises `StoreUnavailable` where the store is not reached or not within the deadline (what was to be
    written then may or may not have been), and `StoreError` where it answers with an error.
    """

    @property
    def durable(self) -> bool:
        """Whether a row outlives this process."""
        ...

    async def write(
        self, bucket: HistoryBucket, rows: Sequence[HistoryRow], *, token: int | None = None, stamp: int | None = None
    ) -> bool:
        """Put these rows in place of all that the bucket has, and make the coarser bucket around it due.

        `token` is the fencing token of the leader (`contracts/leases.py`; `None`: there is none). With `stamp` this is
        what a bucket that was due at that stamp came to, and it is due no longer. False, and nothing done, where a
        higher token has written, or the bucket is no longer due at that stamp.

        Raises:
            ValueError: the bucket is none, or a row can't be used (`check_rows`).
        """
        ...

    async def read(self, spans: Sequence[Span], *, kind: str | None = None, name: str | None = None) -> Sequence[Past]:
        """The rows of these spans, of all sources, or those of a kind, or of a name: the oldest bucket first."""
        ...

    async def due(self) -> Sequence[Due]:
        """The buckets that are to be rolled up: the finest resolution first, and of one the oldest first."""
        ...

    async def prune(self, before: Mapping[int, int], *, token: int | None = None) -> int:
        """Remove buckets of a resolution that begin before its time; not of one around which the coarser one is due.

        Gives how many buckets went. They may be some of those that are to go: whoever wants all asks until it is 0. It
        is 0 where a higher token has written.
        """
        ...

    async def connect(self, *, patience: float = 1.0) -> None:
        """As `Backend.connect`."""
        ...

    async def close(self) -> None:
        """Let go of everything, when what was asked for is done. A closed store is not opened again."""
        ...


class HistoryOpener(Protocol):
    """What an adapter exports as an entry point `traffic_cop_middleware.history` under the name of a URL scheme."""

    def __call__(self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> HistoryStore:
        """A store for `url` (that of the documents), checked but not yet connected.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        ...


def around(resolution: int, start: int) -> tuple[int, int] | None:
    """Resolution and start of the coarser bucket around this one; `None` around the coarsest."""
    at = RESOLUTIONS.index(resolution) + 1
    if at == len(RESOLUTIONS):
        return None
    return RESOLUTIONS[at], start // RESOLUTIONS[at] * RESOLUTIONS[at]


def check_rows(bucket: HistoryBucket, rows: Sequence[HistoryRow]) -> None:
    """Refuse what no store takes.

    Raises:
        ValueError: the bucket is of no resolution that there is, or begins elsewhere; a word is too long, or two rows
            have the same words.
    """
    if bucket.resolution not in RESOLUTIONS or bucket.start % bucket.resolution or bucket.source < 0:
        raise ValueError(f"{bucket}: a bucket of {RESOLUTIONS} seconds begins at a multiple of these")
    words = {row[:3] for row in rows}
    if len(words) != len(rows):
        raise ValueError(f"{bucket}: two rows of one kind, name and method")
    for kind, name, method in words:
        if not kind or max(len(kind), len(method)) > 50 or len(name) > MOST_WORD:
            raise ValueError(f"{bucket}: {kind!r} {name[:80]!r} {method!r}: words that are empty, or too long")
