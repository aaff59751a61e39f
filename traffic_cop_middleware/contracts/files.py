"""What is known of files: a row for each, the history of promotions, lineage, and how items are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from traffic_cop_middleware.contracts.events import Event
from traffic_cop_middleware.contracts.state import StateKey

FileKind = Literal["promoted", "snapshot", "backup", "archive"]
FILE_KINDS: tuple[FileKind, ...] = ("promoted", "snapshot", "backup", "archive")

FileStatus = Literal["pending", "done", "quarantined", "abandoned", "deleted"]
"""`pending`: announced, the object may be there or not; `done`: the object is there; `quarantined`: something else is
under its path; `abandoned`: never finished, and its item is gone or newer; `deleted`: removed on purpose."""
FILE_STATUSES: tuple[FileStatus, ...] = ("pending", "done", "quarantined", "abandoned", "deleted")

Relation = Literal["supersedes", "restored_from", "part_of", "copy_of"]
"""How a file comes from an earlier one (its parent): the next version of the same item (`supersedes`), made from an
item that was restored from it (`restored_from`), made of it among others, as a backup is of snapshots (`part_of`), or
another kind of file of the same version (`copy_of`)."""
RELATIONS: tuple[Relation, ...] = ("supersedes", "restored_from", "part_of", "copy_of")

MOST_ABOUT = 16 * 1024
"""Bytes (UTF-8) of a row's `about`, as JSON."""
MOST_RELATIVES = 1000
"""Files of one answer to `ancestors` or `descendants`."""


class FileRow(NamedTuple):
    """A file. `id` is made of tenant, namespace, key, version and kind (`file_id`), so the same promotion is the same
    row, whoever does it how often.

    `path` is where the object is, `sha256` (hex) and `size` (bytes) are its content's; two files of equal content may
    share an object. `created_at` and `done_at`, when it got its status, are seconds since the epoch. `reason` says why
    it is quarantined or abandoned. `about` is JSON text: for people, and what a restore needs.
    """

    id: str
    key: StateKey
    version: int
    kind: FileKind
    path: str
    sha256: str
    size: int
    status: FileStatus
    created_at: float
    done_at: float | None = None
    reason: str = ""
    about: str = "{}"


class Promotion(NamedTuple):
    """A line of an item's history: at `version` it went from one tier to another. One for each (item, version, to).

    `to` is a tier, or "file". `file` is the file's id, if there is one. `score` is 0 to 1, `reasons` are sentences.
    """

    key: StateKey
    version: int
    former: str
    to: str
    at: float
    score: float
    reasons: Sequence[str]
    file: str | None = None


class Edge(NamedTuple):
    """A file comes from another. One for each (child, parent, relation)."""

    child: str
    parent: str
    relation: Relation
    at: float


class Relative(NamedTuple):
    """A file among the ancestors or descendants of another: `steps` away, by the edge (`via` -> or <-) named.

    `via` is the file one step nearer.
    """

    row: FileRow
    via: str
    relation: Relation
    steps: int


class Access(NamedTuple):
    """How one worker saw an item used in one hour: absolute counts, so telling it again changes nothing.

    `hour` is hours since the epoch, `last_at` seconds since the epoch.
    """

    key: StateKey
    worker: str
    hour: int
    reads: int
    writes: int
    last_at: float


class Usage(NamedTuple):
    """How all workers saw an item used, since an hour."""

    reads: int
    writes: int
    last_at: float | None


class FileMetadataStore(Protocol):
    """Rows of files, history, lineage, use. A tenant's are seen with that tenant only; `tenant=None` is for chores that
    go over all of them.

    Every method raises:
        ValueError: a word or a number can't be used.
        StoreUnavailable: not reached, or not within the deadline (`StoreTimeout`); a write may have happened or not,
            and asking again does no harm.
        StoreError: the store answered with an error.
    """

    @property
    def name(self) -> str:
        """The store, as it may be printed."""
        ...

    @property
    def migration(self) -> str:
        """The SQL that its database needs, once; "" where the store sees to that itself."""
        ...

    async def announce(self, row: FileRow) -> FileRow:
        """Keep a `pending` row, unless there is one of its id. Gives the one that is there."""
        ...

    async def finish(self, row: FileRow, promotion: Promotion | None, edges: Sequence[Edge]) -> FileRow:
        """The object is there: the row is `done`, the line and the edges are kept, in one step; repeated, it changes
        nothing. Gives the row as it is (one that is `deleted` stays so; any other becomes `done`).

        Edges to or from files that are not of the row's tenant are refused (`ValueError` or `StoreError`).
        """
        ...

    async def note(self, promotion: Promotion) -> None:
        """Keep a line of history without a file."""
        ...

    async def set_status(
        self, tenant: str, id: str, status: FileStatus, *, reason: str, unless: FileStatus, at: float
    ) -> bool:
        """Give a row another status (its `done_at` is `at`), unless it has the status `unless`. Gives whether there was
        such a row."""
        ...

    async def load(self, tenant: str, ids: Sequence[str]) -> Sequence[FileRow | None]:
        """Rows by id, whatever their status; `None` where the tenant has none."""
        ...

    async def of_item(
        self, key: StateKey, *, kind: FileKind | None = None, before: int | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        """The `done` files of an item, newest version first; only those below the version `before`."""
        ...

    async def list(
        self, tenant: str, *, kind: FileKind | None = None, after: str | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        """The tenant's `done` files in the order of their ids, after the id `after`."""
        ...

    async def pending(self, *, before: float, after: str | None = None, most: int = 100) -> Sequence[FileRow]:
        """Of all tenants, the rows that are `pending` and were announced before `before`, in the order of their ids."""
        ...

    async def referred(self, paths: Sequence[str], *, gone_since: float) -> set[str]:
        """Of these paths, over all tenants, those that a row names which is `pending`, `done` or `quarantined`, or was
        given its status since `gone_since` (seconds since the epoch)."""
        ...

    async def history(self, key: StateKey, *, most: int = 100) -> Sequence[Promotion]:
        """An item's lines, newest first."""
        ...

    async def ancestors(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        """What a file comes from, nearest first, each file once, at its fewest steps."""
        ...

    async def descendants(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        """What came from a file, nearest first, each file once, at its fewest steps."""
        ...

    async def saw(self, accesses: Sequence[Access]) -> None:
        """Keep these counts, each in place of what was told of it before."""
        ...

    async def usage(self, key: StateKey, *, since_hour: int) -> Usage:
        """How an item was used since an hour (of the epoch)."""
        ...

    async def forget_usage(self, *, before_hour: int) -> int:
        """Remove counts of hours before `before_hour`. Gives how many."""
        ...

    async def connect(self, *, patience: float = 1.0) -> None:
        """As `Backend.connect`."""
        ...

    async def close(self) -> None:
        """As `DocumentStore.close`."""
        ...


class FileMetadataOpener(Protocol):
    """What an adapter exports as an entry point `traffic_cop_middleware.file_metadata` under a URL scheme's name."""

    def __call__(
        self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]
    ) -> FileMetadataStore:
        """A store for `url`, checked but not yet connected. As `Opener`.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        ...
