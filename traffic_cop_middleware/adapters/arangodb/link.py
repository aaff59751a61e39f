"""What a thread asks an ArangoDB by: python-arango over one connection, errors understood, conflicts tried again.

Every request ends by its call's deadline, in the socket's timeout and as `maxRuntime` on the server. A call is made of
steps that may all be repeated, so it is begun anew after a write conflict (409, with jitter, until the deadline), once
when the connection broke (the reply may have been lost), and once when a collection had gone.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Mapping, MutableMapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, cast

from arango.client import ArangoClient
from arango.database import StandardDatabase, TransactionDatabase
from arango.exceptions import ArangoServerError, CollectionCreateError
from arango.http import HTTPClient
from arango.response import Response
from requests import RequestException, Session, Timeout
from requests_toolbelt import MultipartEncoder

from traffic_cop_middleware.adapters.causes import cause_of
from traffic_cop_middleware.adapters.threads import Call, one_by_one
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable

FOLDER = files("traffic_cop_middleware.adapters.arangodb")
QUERIES = {
    name: FOLDER.joinpath(f"{name}.aql").read_text()
    for name in (
        *("load", "store", "reshape", "list", "history", "trim", "ended", "forget", "orphans", "looked_at"),
        *("traffic_writes", "traffic_wrote", "traffic_due", "traffic_done", "traffic_now_due"),
        *("traffic_empty", "traffic_write", "traffic_read", "traffic_old"),
    )
}
DOCUMENTS, HISTORY = "traffic_cop_documents", "traffic_cop_history"
TRAFFIC, DUE = "traffic_cop_traffic", "traffic_cop_traffic_due"
COLLECTIONS = {"documents": DOCUMENTS, "history": HISTORY, "traffic": TRAFFIC, "due": DUE}
"""By the names that queries have for them."""
Indexes = Mapping[str, Sequence[Mapping[str, Any]]]
INDEXES: Indexes = {
    DOCUMENTS: (
        {"type": "persistent", "name": "listed", "fields": ["place", "order"]},
        {"type": "persistent", "name": "expiring", "fields": ["app", "expires_at"]},
        {"type": "persistent", "name": "deleted", "fields": ["app", "tombstone_at"]},
        {"type": "ttl", "name": "ttl", "fields": ["expires_at"], "expireAfter": 0},
    ),
    HISTORY: (
        {"type": "persistent", "name": "versions", "fields": ["item", "version"], "unique": True},
        {"type": "persistent", "name": "orphaned", "fields": ["app", "orphan_from"]},
    ),
}
TRAFFIC_INDEXES: Indexes = {
    TRAFFIC: (
        {"type": "persistent", "name": "read", "fields": ["app", "resolution", "kind", "start"]},
        {"type": "persistent", "name": "buckets", "fields": ["app", "resolution", "start", "source"]},
    ),
    DUE: ({"type": "persistent", "name": "due", "fields": ["app", "resolution", "start"]},),
}
PAGE = 50
"""Documents of one reply; a cursor gives the next ones."""
LEAST_TIMEOUT = 0.01
JITTER = 0.02
"""Seconds between two tries after a conflict, at most."""

CONFLICT, UNIQUE, NO_COLLECTION, NAME_TAKEN, NO_DATABASE = 1200, 1210, 1203, 1207, 1228
KILLED = 1500
NO_ROOM = 32


class Server(NamedTuple):
    """Where the database is. `name` is what may be printed of it: no user, no password."""

    host: str
    database: str
    user: str
    password: str
    ca_file: str | None
    name: str


class Requests(HTTPClient):
    """python-arango's requests: each within what is left until `ends`, none repeated, none through a proxy."""

    def __init__(self, name: str, ca_file: str | None) -> None:
        self.ends = 0.0
        self._name = name
        self._ca_file = ca_file

    def left(self) -> float:
        return max(LEAST_TIMEOUT, self.ends - time.monotonic())

    def create_session(self, host: str) -> Session:
        session = Session()
        session.trust_env = False  # a proxy of the environment, or a password in ~/.netrc, is none of ours
        session.verify = self._ca_file or True
        return session

    def send_request(  # noqa: PLR0917 - python-arango's signature
        self,
        session: Session,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        params: MutableMapping[str, str] | None = None,
        data: str | bytes | MultipartEncoder | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Response:
        try:
            got = session.request(
                method,
                url,
                params=params,
                data=data.encode() if isinstance(data, str) else data,
                headers=dict(headers or {}) | {"authorization": basic(auth)},
                timeout=self.left(),
                allow_redirects=False,
            )
        except Timeout as exc:
            raise StoreTimeout("no answer within the deadline") from exc
        except RequestException as exc:
            raise StoreUnavailable(f"{self._name} can't be reached: {cause_of(exc)}") from exc
        text = got.content.decode("utf-8", "replace")
        return Response(method, got.url, got.headers, got.status_code, got.reason, text)


def basic(auth: tuple[str, str] | None) -> str:
    """Basic authentication, in UTF-8 as the server reads it; requests would write Latin-1."""
    user, password = auth or ("", "")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Link:
    """What a call is given: questions to the database."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.requests = Requests(server.name, server.ca_file)
        self._client = ArangoClient(server.host, http_client=self.requests, resolver_max_tries=1)
        self._database = self._client.db(server.database, username=server.user, password=server.password)
        self.transaction: TransactionDatabase | None = None

    def ask(self, query: str, *, collections: Sequence[str], page: int = PAGE, **binds: Any) -> list[Any]:
        """All that a golden query gives, page by page. `collections` are those that it names."""
        database: StandardDatabase | TransactionDatabase = self.transaction or self._database
        cursor = database.aql.execute(
            QUERIES[query],
            bind_vars=binds | {f"@{each}": COLLECTIONS[each] for each in collections},
            batch_size=page,
            max_runtime=cast("Any", self.requests.left()),
        )
        return list(cast("Any", cursor))

    def begin(self, collections: Sequence[str] = ("documents", "history")) -> None:
        """A stream transaction over these collections, for what is asked from now on."""
        write = [COLLECTIONS[each] for each in collections]
        self.transaction = self._database.begin_transaction(write=write, sync=True)

    def commit(self) -> None:
        if self.transaction is not None:
            self.transaction.commit_transaction()
            self.transaction = None

    def abort(self) -> None:
        """Give up a transaction, if there is one. The server ends it by itself where it does not hear of that."""
        transaction, self.transaction = self.transaction, None
        if transaction is not None:
            try:
                transaction.abort_transaction()
            except (ArangoServerError, StoreError, ConnectionError):
                return

    def set_up(self, collections: Indexes) -> None:
        """Make the collections and indexes that are missing; several may do that at once."""
        there = {each["name"] for each in cast("Any", self._database.collections())}
        for name, indexes in collections.items():
            if name not in there:
                try:
                    self._database.create_collection(name)
                except CollectionCreateError as exc:
                    if exc.error_code != NAME_TAKEN:
                        raise
            for index in indexes:
                self._database.collection(name).add_index(dict(index))

    def close(self) -> None:
        self._client.close()


class SetUp:
    """Whether the collections are there, as all threads know it."""

    def __init__(self, collections: Indexes) -> None:
        self.collections = collections
        self.done = False


class ArangoWorker:
    """A worker of `Threads`."""

    def __init__(self, server: Server, set_up: SetUp) -> None:
        self._link = Link(server)
        self._set_up = set_up

    def run(self, calls: Sequence[Call[Link, Any]]) -> None:
        one_by_one(calls, self._persistently)

    def _persistently(self, call: Call[Link, Any]) -> Any:
        self._link.requests.ends = call.ends
        broke = gone = False
        while True:
            try:
                if not self._set_up.done:
                    self._link.set_up(self._set_up.collections)
                    self._set_up.done = True
                return call.work(self._link)
            except ArangoServerError as exc:
                self._link.abort()
                if exc.error_code == NO_COLLECTION and not gone:
                    gone, self._set_up.done = True, False
                    continue
                if exc.http_code != 409 or exc.error_code not in (CONFLICT, UNIQUE):
                    raise self._understood(exc) from exc
                nap = random.uniform(0, JITTER)  # noqa: S311
                if time.monotonic() + nap >= call.ends or call.given_up:
                    raise StoreTimeout("others changed the same items all along: no write within the deadline") from exc
                time.sleep(nap)
            except StoreTimeout:
                self._link.abort()
                raise
            except (StoreUnavailable, ConnectionError) as exc:
                self._link.abort()
                if broke:
                    if isinstance(exc, StoreUnavailable):
                        raise
                    raise StoreUnavailable(f"{self._link.server.name} is not ready: {exc}") from exc
                broke = True
            except BaseException:
                self._link.abort()
                raise

    def _understood(self, exc: ArangoServerError) -> Exception:
        name, code = self._link.server.name, exc.error_code
        if exc.http_code == 401:
            return ConfigurationError(f"documents: {name} does not accept this user and password")
        if exc.http_code == 403:
            return ConfigurationError(
                f"documents: {name} does not let this user do that. Grant read and write access to the database"
            )
        if code == NO_DATABASE:
            return ConfigurationError(
                f"documents: {name} has no database {self._link.server.database!r}. Create it, or name another one"
            )
        if code == KILLED:
            return StoreTimeout("the server ended the query at the deadline")
        if exc.http_code == 503 or code == NO_ROOM:
            return StoreUnavailable(f"{name} is not ready: {exc.message}")
        return StoreError(f"{name}: {exc.message}")

    def close(self) -> None:
        self._link.close()
