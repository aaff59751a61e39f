"""Documents in dicts, bounded: for tests, and for an app that keeps nothing for good."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from traffic_cop_middleware.adapters.options import Bounds, numbers
from traffic_cop_middleware.contracts import Event, Item, Page, Revision, StateKey
from traffic_cop_middleware.contracts.documents import KEPT_VERSIONS, as_of, newest_of, shapes_of
from traffic_cop_middleware.contracts.state import check_key
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable

DEFAULT_MAX_MB = 256
MEGABYTE = 1024 * 1024
BESIDE = 500
"""Bytes that a revision takes beside its words and its value, about."""


class Document(NamedTuple):
    """An item, and its versions, oldest first, the present one included."""

    item: Item
    revisions: list[Revision]


class MemoryDocuments:
    """`DocumentStore` in this process. `clock` gives the seconds since the epoch, `max_mb` bounds what is kept."""

    durable = False
    outbox = None

    def __init__(self, *, clock: Callable[[], float] = time.time, max_mb: float = DEFAULT_MAX_MB) -> None:
        self._clock = clock
        self._max_mb = max_mb
        self._lock = threading.Lock()
        """`memory://name` is shared by the event loops of several threads."""
        self._size = 0
        self._documents: dict[StateKey, Document] = {}
        self._order: dict[tuple[str, str], list[str]] = {}
        """Of each tenant and namespace the keys, by code point."""

    async def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None]:
        for key in keys:
            check_key(key)
        now = self._clock()
        with self._lock:
            found = [self._documents.get(key) for key in keys]
        return [None if document is None else as_of(document.item, now) for document in found]

    async def store(self, items: Sequence[Item]) -> Sequence[int]:
        newest = newest_of(items)
        with self._lock:
            self._store(newest.values())
            return [self._version(item.key) for item in items]

    def _store(self, items: Iterable[Item]) -> None:
        newer = [item for item in items if self._is_newer(item)]
        self._check_room(sum(size_of(item) for item in newer))
        now = self._clock()
        for item in newer:
            self._keep(item, now)

    def _check_room(self, size: int) -> None:
        if size > 0 and self._size + size > self._max_mb * MEGABYTE:
            raise StoreUnavailable(
                f"memory documents have no room for {size} bytes more: {self._max_mb:g} MB is the most. Give "
                f"documents='sqlite:///state.db', or 'memory://?max_mb={2 * self._max_mb:g}'"
            )

    def _is_newer(self, item: Item) -> bool:
        document = self._documents.get(item.key)
        if document is None or document.item.version != item.version:
            return document is None or document.item.version < item.version
        return document.item.value is None and item.value is not None

    def _version(self, key: StateKey) -> int:
        document = self._documents.get(key)
        return -1 if document is None else document.item.version

    def _keep(self, item: Item, now: float) -> None:
        document = self._documents.get(item.key)
        if document is None:
            insort(self._order.setdefault(item.key[:2], []), item.key.key)
        revisions = [] if document is None else document.revisions
        if revisions and revisions[-1].item.version == item.version:
            self._size -= size_of(revisions.pop().item)
        revisions.append(Revision(item, now))
        self._size += size_of(item)
        for old in revisions[:-KEPT_VERSIONS]:
            self._size -= size_of(old.item)
        del revisions[:-KEPT_VERSIONS]
        self._documents[item.key] = Document(item, revisions)

    async def reshape(self, items: Sequence[Item]) -> Sequence[bool]:
        shapes = shapes_of(items)
        now = self._clock()
        with self._lock:
            there = {place: shape for place, shape in shapes.items() if self._has(shape, now)}
            formers = [self._documents[key].item for key, _ in there]
            self._check_room(sum(map(size_of, there.values())) - sum(map(size_of, formers)))
            for former, shape in zip(formers, there.values(), strict=True):
                self._reshape(former, former._replace(value=shape.value, tier=shape.tier))
        return [item.value is not None and (item.key, item.version) in there for item in items]

    def _has(self, item: Item, now: float) -> bool:
        """Whether this version is the present one, and not over."""
        return self._version(item.key) == item.version and as_of(self._documents[item.key].item, now).value is not None

    def _reshape(self, former: Item, item: Item) -> None:
        revisions = self._documents[item.key].revisions
        revisions[-1] = revisions[-1]._replace(item=item)
        self._documents[item.key] = Document(item, revisions)
        self._size += size_of(item) - size_of(former)

    async def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page:
        check_key(StateKey(tenant, namespace, "-"))
        with self._lock:
            return self._page(tenant, namespace, prefix, after, max(1, most))

    def _page(self, tenant: str, namespace: str, prefix: str, after: str | None, most: int) -> Page:
        keys = self._order.get((tenant, namespace), [])
        start = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
        now = self._clock()
        items: list[Item] = []
        for place in range(start, len(keys)):
            if not keys[place].startswith(prefix):
                break
            item = as_of(self._documents[StateKey(tenant, namespace, keys[place])].item, now)
            if item.value is not None:
                if len(items) == most:
                    return Page(items, items[-1].key.key)
                items.append(item)
        return Page(items, None)

    async def history(self, key: StateKey, *, before: int | None = None, most: int = 20) -> Sequence[Revision]:
        check_key(key)
        with self._lock:
            document = self._documents.get(key)
            revisions = [] if document is None else document.revisions[::-1]
        return [each for each in revisions if before is None or each.item.version < before][: max(1, most)]

    async def clean_up(self, *, now: float, tombstones_before: float) -> int:
        with self._lock:
            gone = [
                item
                for item, _ in self._documents.values()
                if (item.expires_at is not None and item.expires_at < now)
                or (item.value is None and item.written_at < tombstones_before)
            ]
            for item in gone:
                self._forget(item.key)
        return len(gone)

    def _forget(self, key: StateKey) -> None:
        self._size -= sum(size_of(revision.item) for revision in self._documents.pop(key).revisions)
        keys = self._order[key[:2]]
        del keys[bisect_left(keys, key.key)]
        if not keys:
            del self._order[key[:2]]

    async def connect(self, *, patience: float = 1.0) -> None:
        """Nothing to reach."""

    async def close(self) -> None:
        """Nothing to let go of: the documents live as long as this object."""


def size_of(item: Item) -> int:
    """Bytes that a version of an item takes, about."""
    return BESIDE + sum(map(len, item.key)) + len(item.value or "")


OPTIONS = {"max_mb": Bounds(1, 1_000_000, DEFAULT_MAX_MB, "megabytes that are kept at most")}


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> MemoryDocuments:
    """`memory://`, or `memory://name` for one that is shared in this process; `?max_mb=256` bounds it."""
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.fragment:
        raise ConfigurationError(f"documents={url!r}: memory documents are 'memory://' or 'memory://name'")
    max_mb = numbers(parts.query, OPTIONS, name=f"documents='memory://{parts.netloc}'")["max_mb"]
    return MemoryDocuments(max_mb=max_mb or DEFAULT_MAX_MB)
