"""`arangodb://user:password@host:8529/database`, `arangodb+https://…`: documents and their history in ArangoDB."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from arango.exceptions import ArangoServerError

from traffic_cop_middleware.adapters.arangodb.link import UNIQUE, Link
from traffic_cop_middleware.adapters.arangodb.rows import (
    check_words,
    document_key,
    document_of,
    item_of,
    place_of,
)
from traffic_cop_middleware.adapters.arangodb.store import ArangoStore
from traffic_cop_middleware.adapters.arangodb.urls import server_of
from traffic_cop_middleware.adapters.spans import span
from traffic_cop_middleware.contracts import Event, Item, Page, Revision, StateKey
from traffic_cop_middleware.contracts.documents import KEPT_VERSIONS, as_of, newest_of, shapes_of
from traffic_cop_middleware.contracts.state import WHOLE, check_key
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop.documents")

CLEANED_AT_ONCE = 500
"""Items that one transaction of `clean_up` removes."""
TRIMMED_EVERY = 50
"""Writes of an item after which its history is cut to `KEPT_VERSIONS`."""


class ArangoDocuments(ArangoStore):
    """`DocumentStore` in a database of ArangoDB, over up to `threads` connections.

    Durable: a write waits until the server has synchronised it to its disk. An expired item is answered as a tombstone
    at once, and removed by the server's TTL index within its next round (a minute or so) or by `clean_up`; its history
    goes with `clean_up`.
    """

    durable = True
    outbox = None

    async def load(self, keys: Sequence[StateKey]) -> Sequence[Item | None]:
        for key in keys:
            check_key(key)
        found = await self._threads.ask(lambda link: self._load(link, keys))
        now = self._clock()
        return [as_of(found[key], now) if key in found else None for key in keys]

    def _load(self, link: Link, keys: Sequence[StateKey]) -> dict[StateKey, Item]:
        wanted = {document_key(self._app, key): key for key in keys}
        found = {}
        for document in link.ask("load", collections=["documents"], keys=list(wanted)):
            key = wanted[document["_key"]]
            check_words(self._threads.name, document, self._app, key)
            found[key] = item_of(document)
        return found

    async def store(self, items: Sequence[Item]) -> Sequence[int]:
        newest = newest_of(items)
        documents = [document_of(self._app, item) for item in newest.values()]

        def work(link: Link) -> dict[str, int]:
            now = self._clock()
            try:
                kept = link.ask("store", collections=["documents", "history"], items=documents, now=now)
            except ArangoServerError as exc:
                if exc.error_code == UNIQUE:  # somebody was faster, or the keys of two items collide
                    self._load(link, list(newest))
                raise
            long = [each["key"] for each in kept if each["writes"] % TRIMMED_EVERY == 0]
            if long:
                self._trim(link, long)
            return {each["key"]: each["version"] for each in kept}

        versions = await self._threads.ask(work, writes=True) if documents else {}
        return [versions[document_key(self._app, item.key)] for item in items]

    async def reshape(self, items: Sequence[Item]) -> Sequence[bool]:
        shapes = shapes_of(items)
        documents = [document_of(self._app, item) for item in shapes.values()]

        def work(link: Link) -> set[tuple[str, int]]:
            both = ["documents", "history"]
            found = link.ask("reshape", collections=both, items=documents, now=self._clock())
            return {(each["key"], each["version"]) for each in found}

        there = await self._threads.ask(work, writes=True) if documents else set()
        return [item.value is not None and (document_key(self._app, item.key), item.version) in there for item in items]

    def _trim(self, link: Link, keys: Sequence[str]) -> None:
        try:
            link.ask("trim", collections=["history"], items=keys, kept=KEPT_VERSIONS)
        except (ArangoServerError, StoreError, ConnectionError) as exc:  # the items are kept: that is what was asked
            log.info("%s: old versions stay until later: %s", self._threads.name, exc)

    async def list(
        self, tenant: str, namespace: str, *, prefix: str = "", after: str | None = None, most: int = 100
    ) -> Page:
        check_key(StateKey(tenant, namespace, "-"))
        most = max(1, most)
        first, last = span(prefix, after)

        def work(link: Link) -> list[Item]:
            found = link.ask(
                "list",
                collections=["documents"],
                place=place_of(self._app, tenant, namespace),
                first=first.hex(),
                last=last.hex(),
                now=self._clock(),
                most=most + 1,
            )
            return [item_of(document) for document in found]

        items = await self._threads.ask(work)
        if len(items) <= most:
            return Page(items, None)
        return Page(items[:-1], items[-2].key.key)

    async def history(self, key: StateKey, *, before: int | None = None, most: int = 20) -> Sequence[Revision]:
        check_key(key)

        def work(link: Link) -> list[Revision]:
            found = link.ask(
                "history",
                collections=["history"],
                item=document_key(self._app, key),
                before=WHOLE if before is None else before,
                most=max(1, most),
            )
            for version in found:
                check_words(self._threads.name, version, self._app, key)
            return [Revision(item_of(version), float(version["stored_at"])) for version in found]

        return await self._threads.ask(work)

    async def clean_up(self, *, now: float, tombstones_before: float) -> int:
        def ended(link: Link) -> int:
            link.begin()
            both = ["documents", "history"]
            bounds: dict[str, Any] = {"app": self._app, "now": now, "most": CLEANED_AT_ONCE}
            gone = link.ask("ended", collections=both[:1], tombstones_before=tombstones_before, **bounds)
            link.ask("forget", collections=both[1:], gone=gone)
            link.commit()
            return len(gone)

        def orphaned(link: Link) -> tuple[int, int]:
            link.begin()
            bounds: dict[str, Any] = {"app": self._app, "now": now, "most": CLEANED_AT_ONCE}
            looked_at = link.ask("orphans", collections=["documents", "history"], **bounds)
            gone = [each for each in looked_at if not each["alive"]]
            link.ask("forget", collections=["history"], gone=gone)
            link.ask("looked_at", collections=["history"], keys=[each["key"] for each in looked_at if each["alive"]])
            link.commit()
            return len(looked_at), len({each["item"] for each in gone})

        total = 0
        while True:
            some = await self._threads.ask(ended, writes=True)
            total += some
            if some < CLEANED_AT_ONCE:
                break
        while True:
            seen, some = await self._threads.ask(orphaned, writes=True)
            total += some
            if seen < CLEANED_AT_ONCE:
                return total


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> ArangoDocuments:
    """`arangodb://user:password@host:8529/database`, or `arangodb+https://…` with TLS.

    `?deadline=2` is the seconds of a call, `?threads=4` how many calls are made at once, `?ca_file=/path.pem` the
    authority that signed the server's certificate. A reserved character in a password is written as %XX.
    """
    server, options = server_of(url)
    return ArangoDocuments(
        server,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        threads=int(options["threads"] or 1),
    )
