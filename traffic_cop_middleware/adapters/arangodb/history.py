"""`arangodb://user:password@host:8529/database`, `arangodb+https://…`: the history of the traffic in ArangoDB.

A document per bucket, source, kind, name and method, with a `_key` made of these, so that what is written again is
replaced. Words are in hexadecimal digits (`rows.py` says why), values in Base64. All of a write is one stream
transaction, and each of these notes itself in one document of the app: so of two at once one is repeated.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from traffic_cop_middleware.adapters.arangodb.link import TRAFFIC_INDEXES, Link
from traffic_cop_middleware.adapters.arangodb.rows import raw_of, text_of
from traffic_cop_middleware.adapters.arangodb.store import ArangoStore
from traffic_cop_middleware.adapters.arangodb.urls import server_of
from traffic_cop_middleware.contracts import Due, Event, HistoryBucket, HistoryRow, Past, Span
from traffic_cop_middleware.contracts.history import around, check_rows
from traffic_cop_middleware.contracts.leases import passes

PRUNED_AT_ONCE = 50
"""Buckets that one transaction of `prune` removes of a resolution."""
PAGE = 1_000
"""Rows of one reply."""
BOTH = ("traffic", "due")


class ArangoHistory(ArangoStore):
    """`HistoryStore` in a database of ArangoDB, over up to `threads` connections, as durable as `ArangoDocuments`."""

    durable = True
    indexes = TRAFFIC_INDEXES

    @cached_property
    def _digits(self) -> str:
        return raw_of(self._app).hex()

    async def write(
        self, bucket: HistoryBucket, rows: Sequence[HistoryRow], *, token: int | None = None, stamp: int | None = None
    ) -> bool:
        check_rows(bucket, rows)
        documents = [self._document(bucket, row) for row in rows]
        kept = [document["_key"] for document in documents]
        coarser = around(bucket.resolution, bucket.start)

        def work(link: Link) -> bool:
            count = self._noted(link, token)
            if count is None:
                return False
            if stamp is not None:
                key = self._key(bucket.resolution, bucket.start)
                if not link.ask("traffic_done", collections=["due"], key=key, stamp=stamp):
                    link.abort()
                    return False
            link.ask("traffic_empty", collections=["traffic"], app=self._app, buckets=[bucket._asdict()], kept=kept)
            if documents:
                link.ask("traffic_write", collections=["traffic"], rows=documents)
            if coarser is not None:
                resolution, start = coarser
                link.ask(
                    "traffic_now_due",
                    collections=["due"],
                    app=self._app,
                    key=self._key(resolution, start),
                    resolution=resolution,
                    start=start,
                    stamp=count,
                )
            link.commit()
            return True

        return await self._threads.ask(work, writes=True)

    def _noted(self, link: Link, token: int | None) -> int | None:
        """Begin a transaction, and note the write in it: the how many-th it is; `None`, and none, where it may not."""
        link.begin(BOTH)
        key = self._key("writes")
        known = link.ask("traffic_writes", collections=["due"], key=key) or [{"fence": None, "count": 0}]
        fence, count = known[0]["fence"], known[0]["count"] + 1
        if token is not None and not passes(token, highest=fence):
            link.abort()
            return None
        fence = fence if token is None else token
        link.ask("traffic_wrote", collections=["due"], app=self._app, key=key, fence=fence, count=count)
        return int(count)

    def _key(self, *words: object) -> str:
        """A `_key` of this app: of digits, or a hash of what is longer than it may be."""
        plain = ":".join([self._digits, *map(str, words)])
        return plain if len(plain) <= 250 else "=" + hashlib.sha256(plain.encode()).hexdigest()

    def _document(self, bucket: HistoryBucket, row: HistoryRow) -> dict[str, Any]:
        words = {name: raw_of(getattr(row, name)).hex() for name in ("kind", "name", "method")}
        key = self._key(bucket.resolution, bucket.start, bucket.source, *words.values())
        value = base64.b64encode(row.value).decode()
        return {"_key": key, "app": self._app, **bucket._asdict(), **words, "value": value}

    async def read(self, spans: Sequence[Span], *, kind: str | None = None, name: str | None = None) -> Sequence[Past]:
        asked = {"kind": _digits(kind), "name": _digits(name)}
        wanted = [span._asdict() for span in spans]

        def work(link: Link) -> list[Past]:
            found = link.ask("traffic_read", collections=["traffic"], page=PAGE, app=self._app, spans=wanted, **asked)
            return sorted(map(_past, found), key=lambda past: past.start)

        return await self._threads.ask(work)

    async def due(self) -> Sequence[Due]:
        return await self._threads.ask(
            lambda link: [
                Due(**each) for each in link.ask("traffic_due", collections=["due"], app=self._app, page=PAGE)
            ]
        )

    async def prune(self, before: Mapping[int, int], *, token: int | None = None) -> int:
        def work(link: Link) -> int:
            if self._noted(link, token) is None:
                return 0
            gone = []
            for resolution, end in before.items():
                coarser, _ = around(resolution, 0) or (resolution, 0)
                gone += link.ask(
                    "traffic_old",
                    collections=BOTH,
                    app=self._app,
                    resolution=resolution,
                    before=end,
                    coarser=coarser,
                    most=PRUNED_AT_ONCE,
                )
            if gone:
                link.ask("traffic_empty", collections=["traffic"], app=self._app, buckets=gone, kept=[])
            link.commit()
            return len(gone)

        return await self._threads.ask(work, writes=True)


def _digits(word: str | None) -> str | None:
    return None if word is None else raw_of(word).hex()


def _past(found: Mapping[str, Any]) -> Past:
    words = [text_of(found[name]) for name in ("kind", "name", "method")]
    return Past(found["start"], HistoryRow(words[0], words[1], words[2], base64.b64decode(found["value"])))


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> ArangoHistory:
    """As `arangodb.documents.open`: the same URL is the same database.

    Raises:
        ConfigurationError: as there.
    """
    server, options = server_of(url)
    return ArangoHistory(
        server,
        namespace=namespace,
        deadline=options["deadline"] or deadline,
        notify=notify,
        threads=int(options["threads"] or 1),
    )
