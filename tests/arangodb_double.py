"""A double of ArangoDB's HTTP interface, for the contract suite where no server can be had.

What it imitates, over real HTTP/1.1 with kept connections:
- Basic authentication (401/11), databases (404/1228), collections (409/1207 where the name is taken, 404/1203 where
  there is none), indexes that are made once (`persistent`, `unique`, `ttl` with `expireAfter`);
- `_key` (400/1221 for what is none), `_rev`, unique keys (409/1210);
- queries with bind variables (400/1551, 1552), cursors in pages (`POST /_api/cursor/{id}`, 404/1600), `maxRuntime` as
  far as that it has to be there;
- stream transactions (`x-arango-trx-id`, begin, commit, abort): what they write is seen by others when they commit, and
  409/1200 where others wrote the same documents meanwhile;
- what a TTL index does, when a test says so (`expire`).

The golden queries are recognised by their exact text and done in Python; any other query is 501, so that nothing passes
by accident. Faults: `conflicts`, `lost_replies`, `failures`, `freeze`.

What it does NOT imitate: AQL itself, its collation and its optimizer; the documents' own interface (If-Match, bulk
inserts), which the adapter does not use; the conflict that `ignoreRevs: false` finds within a query, since here a query
has the whole server to itself; waiting for the disk; clusters, shards, permissions of users, TLS, JWT.
`TRAFFIC_COP_ARANGODB_URL=… pytest -m arangodb` asks a real server.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.doubles import HttpDouble
from traffic_cop_middleware.adapters.arangodb.link import QUERIES

Document = dict[str, Any]
Collections = dict[str, dict[str, Document]]
KEY = re.compile(r"[A-Za-z0-9_\-:.@()+,=;$!*'%]{1,254}")
BIND = re.compile(r"@@?[a-z_]+")
COMMENT = re.compile(r"//.*")
WRITING = (
    *("store", "reshape", "trim", "ended", "forget", "looked_at"),
    *("traffic_wrote", "traffic_done", "traffic_now_due", "traffic_empty", "traffic_write"),
)


class ArangoError(Exception):
    """An answer that says why not."""

    def __init__(self, status: int, number: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.number = number


def version_of(document: Document, now: float) -> Document:
    """A document as the history has it."""
    names = ("app", "place", "order", "version", "value", "tier", "named", "written_at", "expires_at")
    kept = {name: document[name] for name in names}
    kept |= {"_key": f"{document['_key']}:{document['version']}", "item": document["_key"]}
    return kept | {"orphan_from": document["expires_at"], "stored_at": now}


def comes_back(old: Document, new: Document) -> bool:
    """Whether a value stands in place of the tombstone of its version."""
    return bool(old["version"] == new["version"] and old["value"] is None and new["value"] is not None)


class Golden:
    """The golden queries, over the collections that a request sees."""

    def __init__(self, collections: Collections, revisions: Iterator[int]) -> None:
        self._collections = collections
        self._revisions = revisions

    def _in(self, name: str) -> dict[str, Document]:
        if name not in self._collections:
            raise ArangoError(404, 1203, f"collection or view not found: {name}")
        return self._collections[name]

    def _put(self, collection: str, document: Document) -> Document:
        if not KEY.fullmatch(document["_key"]):
            raise ArangoError(400, 1221, "illegal document key")
        kept = document | {"_id": f"{collection}/{document['_key']}", "_rev": f"_r{next(self._revisions)}"}
        self._in(collection)[document["_key"]] = kept
        return kept

    def load(self, documents: str, keys: list[str]) -> list[Document]:
        return [self._in(documents)[key] for key in reversed(keys) if key in self._in(documents)]

    def store(self, documents: str, history: str, items: list[Document], now: float) -> list[Document]:
        given = []
        for item in items:
            old = self._in(documents).get(item["_key"])
            if old is None:
                kept = self._put(documents, item | {"writes": 1})
            elif (old["place"], old["order"]) != (item["place"], item["order"]):
                raise ArangoError(409, 1210, "unique constraint violated - in index primary")
            elif old["version"] < item["version"] or comes_back(old, item):
                kept = self._put(documents, old | item | {"writes": old["writes"] + 1})
            else:
                kept = self._put(documents, old)
            version = version_of(kept, now)
            there = self._in(history).get(version["_key"])
            shape = {"value": kept["value"], "tier": kept["tier"]}
            self._put(history, version if there is None else there | shape)
            given.append({"key": kept["_key"], "version": kept["version"], "writes": kept["writes"]})
        return given[::-1]

    def reshape(self, documents: str, history: str, items: list[Document], now: float) -> list[Document]:
        given = []
        for item in items:
            old = self._in(documents).get(item["_key"])
            if (
                old is None
                or any(old[name] != item[name] for name in ("place", "order", "version"))
                or old["value"] is None
                or (old["expires_at"] is not None and old["expires_at"] <= now)
            ):
                continue
            new = {"value": item["value"], "tier": item["tier"]}
            version = version_of(self._put(documents, old | new), now)
            there = self._in(history).get(version["_key"])
            self._put(history, version if there is None else there | new)
            given.append({"key": item["_key"], "version": item["version"]})
        return given[::-1]

    def list(self, documents: str, place: str, first: str, last: str, now: float, most: int) -> list[Document]:
        found = [
            document
            for document in self._in(documents).values()
            if document["place"] == place
            and first <= document["order"] < last
            and document["value"] is not None
            and (document["expires_at"] is None or document["expires_at"] > now)
        ]
        return sorted(found, key=lambda document: document["order"])[:most]

    def history(self, history: str, item: str, before: int, most: int) -> list[Document]:
        return [version for version in self._versions(history, item) if version["version"] < before][:most]

    def _versions(self, history: str, item: str) -> list[Document]:
        found = [version for version in self._in(history).values() if version["item"] == item]
        return sorted(found, key=lambda version: version["version"], reverse=True)

    def trim(self, history: str, items: list[str], kept: int) -> list[Document]:
        for item in items:
            for version in self._versions(history, item)[kept:]:
                del self._in(history)[version["_key"]]
        return []

    def ended(self, documents: str, app: str, now: float, tombstones_before: float, most: int) -> list[Document]:
        gone = [
            document
            for document in self._in(documents).values()
            if document["app"] == app
            and (0 < (document["expires_at"] or 0) < now or 0 < (document["tombstone_at"] or 0) < tombstones_before)
        ][:most]
        for document in gone:
            del self._in(documents)[document["_key"]]
        return [{"item": document["_key"], "version": document["version"]} for document in gone]

    def forget(self, history: str, gone: list[Document]) -> list[Document]:
        for each in gone:
            for version in self._versions(history, each["item"]):
                if version["version"] <= each["version"]:
                    del self._in(history)[version["_key"]]
        return []

    def orphans(self, documents: str, history: str, app: str, now: float, most: int) -> list[Document]:
        found = [
            version
            for version in self._in(history).values()
            if version["app"] == app and 0 < (version["orphan_from"] or 0) < now
        ][:most]
        return [
            {
                "key": version["_key"],
                "item": version["item"],
                "version": version["version"],
                "alive": version["item"] in self._in(documents),
            }
            for version in found
        ]

    def looked_at(self, history: str, keys: list[str]) -> list[Document]:
        for key in keys:
            if key not in self._in(history):
                raise ArangoError(404, 1202, "document not found")
            self._put(history, self._in(history)[key] | {"orphan_from": None})
        return []

    # The history of the traffic

    def traffic_writes(self, due: str, key: str) -> list[Document]:
        found = self._in(due).get(key)
        return [] if found is None else [{"fence": found["fence"], "count": found["count"]}]

    def traffic_wrote(self, due: str, **document: Any) -> list[Document]:
        return self._upsert(due, document)

    def traffic_now_due(self, due: str, **document: Any) -> list[Document]:
        return self._upsert(due, document)

    def _upsert(self, collection: str, document: Document) -> list[Document]:
        key = document.pop("key")
        self._put(collection, {**self._in(collection).get(key, {}), **document, "_key": key})
        return []

    def traffic_due(self, due: str, app: str) -> list[Document]:
        found = [each for each in self._in(due).values() if each["app"] == app and (each.get("stamp") or 0) > 0]
        found.sort(key=lambda each: (each["resolution"], each["start"]))
        return [{name: each[name] for name in ("resolution", "start", "stamp")} for each in found]

    def traffic_done(self, due: str, key: str, stamp: int) -> list[Any]:
        if self._in(due).get(key, {}).get("stamp") != stamp:
            return []
        del self._in(due)[key]
        return [key]

    def traffic_empty(self, traffic: str, app: str, buckets: list[Document], kept: list[str]) -> list[Document]:
        places = {(app, bucket["resolution"], bucket["start"], bucket["source"]) for bucket in buckets}
        for key, each in [*self._in(traffic).items()]:
            place = (each["app"], each["resolution"], each["start"], each["source"])
            if place in places and key not in kept:
                del self._in(traffic)[key]
        return []

    def traffic_write(self, traffic: str, rows: list[Document]) -> list[Document]:
        for row in rows:
            self._put(traffic, row)
        return []

    def traffic_read(
        self, traffic: str, app: str, spans: list[Document], kind: str | None, name: str | None
    ) -> list[Document]:
        return [
            {word: each[word] for word in ("start", "kind", "name", "method", "value")}
            for span in spans
            for each in self._in(traffic).values()
            if each["app"] == app
            and each["resolution"] == span["resolution"]
            and span["start"] <= each["start"] < span["end"]
            and kind in (None, each["kind"])
            and name in (None, each["name"])
        ][::-1]

    def traffic_old(
        self, traffic: str, due: str, app: str, resolution: int, before: int, coarser: int, most: int
    ) -> list[Document]:
        needed = {each["start"] for each in self.traffic_due(due, app) if each["resolution"] == coarser}
        found = {
            (each["start"], each["source"])
            for each in self._in(traffic).values()
            if each["app"] == app
            and each["resolution"] == resolution
            and each["start"] < before
            and each["start"] // coarser * coarser not in needed
        }
        buckets = sorted(found)[:most]
        return [{"resolution": resolution, "start": start, "source": source} for start, source in buckets]


class Transaction:
    """What a stream transaction sees, and what it began with."""

    def __init__(self, collections: Collections, names: list[str]) -> None:
        self.began = {name: dict(collections[name]) for name in names}
        self.sees = {name: dict(collections[name]) for name in names}

    def commit(self, collections: Collections) -> None:
        written = {
            (name, key)
            for name, began in self.began.items()
            for key in began.keys() | self.sees[name].keys()
            if began.get(key) != self.sees[name].get(key)
        }
        if any(collections[name].get(key) != self.began[name].get(key) for name, key in written):
            raise ArangoError(409, 1200, "write-write conflict")
        for name, key in written:
            if key in self.sees[name]:
                collections[name][key] = self.sees[name][key]
            else:
                collections[name].pop(key, None)


class ArangoDouble(HttpDouble):
    """The server. `user` and `password` are those of its one database."""

    def __init__(self, *, user: str = "root", password: str = "pass:word/ü", database: str = "app") -> None:
        self.user, self.password, self.database = user, password, database
        self.collections: Collections = {}
        self.indexes: dict[str, list[Document]] = {}
        self.requests: list[str] = []
        """What was asked, as `METHOD path` or `AQL name`."""
        self.conflicts = 0
        """So many of the next writing queries are 409/1200."""
        self.lost_replies = 0
        """So many of the next writing queries are done, and the connection closed in place of a reply."""
        self.failures: dict[str, list[ArangoError]] = {}
        """What the next queries of a name are answered."""
        self.poison: Callable[[Document], bool] = lambda item: False
        """Items that it refuses to store."""
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._cursors: dict[str, list[Any]] = {}
        self._transactions: dict[str, Transaction] = {}
        super().__init__()

    @property
    def url(self) -> str:
        return f"arangodb://{self.user}:pass%3Aword%2F%C3%BC@{self.place}/{self.database}"

    def expire(self) -> int:
        """Do what TTL indexes do in the background; how many documents went."""
        gone = 0
        with self._lock:
            for name, indexes in self.indexes.items():
                for index in indexes:
                    if index["type"] == "ttl":
                        before, (field,) = time.time() - index["expireAfter"], index["fields"]
                        over = [key for key, each in self.collections[name].items() if (each[field] or 1e99) < before]
                        for key in over:
                            del self.collections[name][key]
                        gone += len(over)
        return gone

    # One request

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        self._thawed.wait(60)
        lost = False
        try:
            self._check(request)
            with self._lock:
                status, answer, lost = self._route(request, json.loads(body) if body else None)
        except ArangoError as exc:
            status = exc.status
            answer = {"error": True, "code": exc.status, "errorNum": exc.number, "errorMessage": str(exc)}
        request.close_connection = lost
        if lost:
            return
        said = json.dumps({"error": False, "code": status} | answer).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json; charset=utf-8")
        request.send_header("content-length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)
        request.wfile.flush()

    def _check(self, request: BaseHTTPRequestHandler) -> None:
        right = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {right}":
            raise ArangoError(401, 11, "not authorized to execute this request")
        if not request.path.startswith(f"/_db/{self.database}/"):
            raise ArangoError(404, 1228, "database not found")

    def _route(self, request: BaseHTTPRequestHandler, body: Any) -> tuple[int, Any, bool]:
        parts = urlsplit(request.path)
        asked = f"{request.command} {unquote(parts.path).removeprefix(f'/_db/{self.database}')}"
        if asked == "POST /_api/cursor":
            name = next((name for name, text in QUERIES.items() if text == body["query"]), None)
            if name is None:
                raise ArangoError(501, 9, "this double knows the golden queries alone")
            self.requests.append(f"AQL {name}")
            return self._query(name, body, request.headers.get("x-arango-trx-id"))
        self.requests.append(asked)
        if asked == "GET /_api/collection":
            known = {"id": "1", "status": 3, "type": 2, "isSystem": False}
            return 200, {"result": [known | {"name": name} for name in self.collections]}, False
        if asked == "POST /_api/collection":
            return 200, self._create(body["name"]), False
        if asked == "POST /_api/index":
            (collection,) = parse_qs(parts.query)["collection"]
            return *self._index(collection, body), False
        if match := re.fullmatch(r"POST /_api/cursor/(\w+)", asked):
            return 200, self._page(match[1]), False
        if asked == "POST /_api/transaction/begin":
            id = str(next(self._numbers))
            self._transactions[id] = Transaction(self.collections, body["collections"]["write"])
            return 201, {"result": {"id": id, "status": "running"}}, False
        if match := re.fullmatch(r"(PUT|DELETE) /_api/transaction/(\w+)", asked):
            transaction = self._transaction(match[2], take=True)
            if match[1] == "PUT":
                transaction.commit(self.collections)
            return 200, {"result": {"id": match[2], "status": "over"}}, False
        raise ArangoError(501, 9, f"this double knows no {asked}")

    def _create(self, name: str) -> Document:
        if name in self.collections:
            raise ArangoError(409, 1207, "duplicate name")
        self.collections[name], self.indexes[name] = {}, []
        return {"name": name, "id": str(next(self._numbers)), "status": 3, "type": 2, "isSystem": False}

    def _index(self, collection: str, body: Document) -> tuple[int, Document]:
        if collection not in self.collections:
            raise ArangoError(404, 1203, "collection or view not found")
        known = self.indexes[collection]
        new = body not in known
        if new:
            known.append(body)
        return 201 if new else 200, body | {"id": f"{collection}/{known.index(body)}", "isNewlyCreated": new}

    def _transaction(self, id: str, *, take: bool = False) -> Transaction:
        transaction = self._transactions.pop(id, None) if take else self._transactions.get(id)
        if transaction is None:
            raise ArangoError(404, 1655, "transaction not found")
        return transaction

    # Queries

    def _query(self, name: str, body: Document, transaction: str | None) -> tuple[int, Any, bool]:
        if self.failures.get(name):
            raise self.failures[name].pop(0)
        if name in WRITING and self.conflicts:
            self.conflicts -= 1
            raise ArangoError(409, 1200, "AQL: conflict, write-write conflict")
        binds = body["bindVars"]
        wanted = {bind[1:] for bind in BIND.findall(COMMENT.sub("", body["query"]))}
        if wanted - binds.keys():
            raise ArangoError(400, 1551, f"no value specified for declared bind parameters {wanted - binds.keys()}")
        if binds.keys() - wanted:
            raise ArangoError(400, 1552, f"bind parameters {binds.keys() - wanted} were not declared")
        if not 0 < body["options"]["maxRuntime"] < 600:
            raise ArangoError(400, 10, "maxRuntime")
        sees = self.collections if transaction is None else self._transaction(transaction).sees
        if name == "store" and any(map(self.poison, binds["items"])):
            raise ArangoError(400, 1504, "a document that this server does not take")
        mine = {each: dict(documents) for each, documents in sees.items()}
        golden: Callable[..., list[Any]] = getattr(Golden(mine, self._numbers), name)
        result = golden(**{bind.removeprefix("@"): value for bind, value in binds.items()})
        sees.update(mine)  # all of the query, or nothing where it raised
        lost = name in WRITING and self.lost_replies > 0
        self.lost_replies -= lost
        id = str(next(self._numbers))
        self._cursors[id] = [copy.deepcopy(result), body["batchSize"]]
        return 201, self._page(id), lost

    def _page(self, id: str) -> Document:
        if id not in self._cursors:
            raise ArangoError(404, 1600, "cursor not found")
        result, size = self._cursors[id]
        page, rest = result[:size], result[size:]
        self._cursors[id][0] = rest
        answer = {"result": page, "hasMore": bool(rest), "cached": False, "extra": {}}
        if rest:
            return answer | {"id": id}
        del self._cursors[id]
        return answer


def running_double(**options: str) -> contextlib.AbstractContextManager[ArangoDouble]:
    """A double, closed afterwards."""
    return contextlib.closing(ArangoDouble(**options))
