"""`FileMetadataStore` in a Supabase project, over up to `threads` connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from postgrest import CountMethod, ReturnMethod, SyncRequestBuilder, SyncSelectRequestBuilder

from traffic_cop_middleware.adapters.supabase import migration_sql
from traffic_cop_middleware.adapters.supabase.link import Link, Looked, SupabaseWorker
from traffic_cop_middleware.adapters.supabase.rows import (
    COLUMNS,
    LINE_COLUMNS,
    Row,
    access_json,
    any_of,
    batches,
    check_texts,
    edge_json,
    file_json,
    file_of,
    item_words,
    line_json,
    line_of,
)
from traffic_cop_middleware.adapters.supabase.urls import Project
from traffic_cop_middleware.adapters.threads import OnThreads, Threads
from traffic_cop_middleware.contracts import (
    Access,
    Edge,
    Event,
    FileKind,
    FileRow,
    FileStatus,
    Promotion,
    Relative,
    StateKey,
    Usage,
)
from traffic_cop_middleware.contracts.file_checks import (
    check_access,
    check_counts,
    check_finish,
    check_one_of,
    check_promotion,
    check_row,
    check_tenant,
    check_times,
    check_word,
    plain,
)
from traffic_cop_middleware.contracts.files import FILE_STATUSES, MOST_RELATIVES
from traffic_cop_middleware.contracts.state import check_key
from traffic_cop_middleware.errors import StoreError

PAGE = 1000
"""Rows of a reply: what a project gives at most, unless it was told otherwise."""
FILES, LINES, EDGES, ACCESSES = "state_files", "promotion_history", "state_lineage", "access_patterns"
REFERRING = ("pending", "done", "quarantined")
FILE_KEY = "app,tenant,id"
LINE_KEY = "app,tenant,namespace,key,version,to_tier"
ACCESS_KEY = "app,tenant,namespace,key,hour,worker"


class SupabaseFiles(OnThreads[Link]):
    """`FileMetadataStore` in the tables of migration.sql. A call is one round trip, where it does not say otherwise.

    What is asked of more than 1000 rows, or of so many ids or paths that no URL holds them, is a round trip for each
    such part. A word with a lone surrogate is refused.
    """

    def __init__(
        self, project: Project, *, namespace: str, deadline: float, notify: Callable[[Event], None], threads: int
    ) -> None:
        self._app = namespace
        looked, name = Looked(), project.name
        super().__init__(
            Threads(lambda: SupabaseWorker(project, looked), name=name, count=threads, deadline=deadline, notify=notify)
        )

    @property
    def name(self) -> str:
        return self._threads.name

    @property
    def migration(self) -> str:
        return migration_sql()

    # Rows

    async def announce(self, row: FileRow) -> FileRow:
        """As the contract; a second round trip where there is a row already."""
        check_row(row)
        check_texts(*row.key, row.id, row.path, row.sha256, row.about)
        tenant = row.key.tenant
        given = file_json(self._app, row._replace(status="pending", done_at=None, reason=""))

        def work(link: Link) -> FileRow:
            table = link.of(tenant).table(FILES)
            kept = table.upsert(given, ignore_duplicates=True, on_conflict=FILE_KEY).execute().data
            found = link.rows(kept) or link.rows(self._file(table.select(COLUMNS), tenant, row.id).execute().data)
            if not found:
                raise StoreError(f"{self.name}: the row {row.id!r} is there, and is not given")
            return file_of(found[0])

        return await self._threads.ask(work, writes=True)

    async def finish(self, row: FileRow, promotion: Promotion | None, edges: Sequence[Edge]) -> FileRow:
        check_finish(row, promotion, edges)
        check_texts(*row.key, row.id, row.path, row.sha256, row.about)
        if promotion is not None:
            self._check_line(promotion)
        check_texts(*(end for edge in edges for end in (edge.child, edge.parent)))
        tenant = row.key.tenant
        given: dict[str, Any] = {
            "file": file_json(self._app, row),
            "promotion": None if promotion is None else line_json(self._app, promotion),
            "edges": [edge_json(self._app, tenant, edge) for edge in edges],
        }

        def work(link: Link) -> FileRow:
            kept = link.of(tenant).rpc("traffic_cop_finish", given).execute().data
            return file_of(cast("Row", link.rows([kept] if isinstance(kept, dict) else kept)[0]))

        return await self._threads.ask(work, writes=True)

    async def set_status(
        self, tenant: str, id: str, status: FileStatus, *, reason: str, unless: FileStatus, at: float
    ) -> bool:
        check_tenant(tenant)
        check_times(at=at)
        check_word("id", id)
        check_texts(tenant, id)
        check_one_of("status", status, FILE_STATUSES)
        check_one_of("status", unless, FILE_STATUSES)
        change: Row = {"status": status, "reason": plain(reason), "done_at": at}

        def work(link: Link) -> bool:
            update = self._file(link.of(tenant).table(FILES).update(change), tenant, id)
            return bool(link.rows(update.neq("status", unless).select("id").execute().data))

        return await self._threads.ask(work, writes=True)

    async def load(self, tenant: str, ids: Sequence[str]) -> Sequence[FileRow | None]:
        check_tenant(tenant)
        for id in ids:
            check_word("id", id)
        check_texts(tenant, *ids)

        def work(link: Link) -> list[FileRow | None]:
            found: dict[str, FileRow] = {}
            for some in batches(ids):
                query = link.of(tenant).table(FILES).select(COLUMNS).eq("app", self._app).eq("tenant", tenant)
                rows = link.rows(query.filter("id", "in", any_of(some)).execute().data)
                found |= {row["id"]: file_of(row) for row in rows}
            return [found.get(id) for id in ids]

        return await self._threads.ask(work)

    async def of_item(
        self, key: StateKey, *, kind: FileKind | None = None, before: int | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        check_key(key)
        check_texts(*key)

        def query(table: SyncRequestBuilder) -> SyncSelectRequestBuilder:
            asked = self._item(table.select(COLUMNS), key).eq("status", "done")
            asked = asked if before is None else asked.lt("version", before)
            asked = asked if kind is None else asked.eq("kind", kind)
            return asked.order("version", desc=True).order("id")

        return await self._files(key.tenant, query, most)

    async def list(
        self, tenant: str, *, kind: FileKind | None = None, after: str | None = None, most: int = 100
    ) -> Sequence[FileRow]:
        check_tenant(tenant)
        check_texts(tenant, after)

        def query(table: SyncRequestBuilder) -> SyncSelectRequestBuilder:
            asked = table.select(COLUMNS).eq("app", self._app).eq("tenant", tenant).eq("status", "done")
            asked = asked if after is None else asked.gt("id", after)
            asked = asked if kind is None else asked.eq("kind", kind)
            return asked.order("id")

        return await self._files(tenant, query, most)

    async def pending(self, *, before: float, after: str | None = None, most: int = 100) -> Sequence[FileRow]:
        check_times(before=before)
        check_texts(after)

        def query(table: SyncRequestBuilder) -> SyncSelectRequestBuilder:
            asked = table.select(COLUMNS).eq("app", self._app).eq("status", "pending").lt("created_at", before)
            asked = asked if after is None else asked.gt("id", after)
            return asked.order("id").order("tenant")

        return await self._files(None, query, most)

    async def _files(
        self, tenant: str | None, query: Callable[[SyncRequestBuilder], SyncSelectRequestBuilder], most: int
    ) -> Sequence[FileRow]:
        rows = await self._threads.ask(lambda link: pages(link, tenant, FILES, query, max(1, most)))
        return [file_of(row) for row in rows]

    async def referred(self, paths: Sequence[str], *, gone_since: float) -> set[str]:
        """As the contract; over all tenants, so it says so."""
        check_texts(*paths)
        check_times(gone_since=gone_since)

        def work(link: Link) -> set[str]:
            found: set[str] = set()
            for some in batches(paths):
                found |= self._referred(link, some, gone_since)
            return found

        return await self._threads.ask(work)

    def _referred(self, link: Link, paths: Sequence[str], gone_since: float) -> set[str]:
        left = set(paths)
        while left:  # files may share an object, so there may be more rows than a reply has
            query = link.of(None).table(FILES).select("path").eq("app", self._app)
            query = query.filter("path", "in", any_of(sorted(left)))
            query = query.or_(f"status.in.({','.join(REFERRING)}),done_at.gte.{gone_since!r}")
            rows = link.rows(query.limit(PAGE).execute().data)
            left -= {row["path"] for row in rows}
            if len(rows) < PAGE:
                break
        return set(paths) - left

    # History

    async def note(self, promotion: Promotion) -> None:
        check_promotion(promotion)
        self._check_line(promotion)
        line = line_json(self._app, promotion)

        def work(link: Link) -> None:
            table = link.of(promotion.key.tenant).table(LINES)
            table.upsert(line, ignore_duplicates=True, on_conflict=LINE_KEY, returning=ReturnMethod.minimal).execute()

        await self._threads.ask(work, writes=True)

    async def history(self, key: StateKey, *, most: int = 100) -> Sequence[Promotion]:
        check_key(key)
        check_texts(*key)

        def query(table: SyncRequestBuilder) -> SyncSelectRequestBuilder:
            asked = self._item(table.select(LINE_COLUMNS), key)
            return asked.order("at", desc=True).order("version", desc=True).order("to_tier", desc=True)

        rows = await self._threads.ask(lambda link: pages(link, key.tenant, LINES, query, max(1, most)))
        return [line_of(key, row) for row in rows]

    # Lineage

    async def ancestors(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        return await self._relatives(tenant, id, upwards=True, most=most)

    async def descendants(self, tenant: str, id: str, *, most: int = MOST_RELATIVES) -> Sequence[Relative]:
        return await self._relatives(tenant, id, upwards=False, most=most)

    async def _relatives(self, tenant: str, id: str, *, upwards: bool, most: int) -> Sequence[Relative]:
        check_tenant(tenant)
        check_word("id", id)
        check_texts(tenant, id)
        asked: dict[str, Any] = {
            "of_app": self._app,
            "of_tenant": tenant,
            "of_id": id,
            "upwards": upwards,
            "most": max(1, min(most, MOST_RELATIVES)),
        }

        def work(link: Link) -> list[Relative]:
            rows = link.rows(link.of(tenant).rpc("traffic_cop_relatives", asked).execute().data)
            return [Relative(file_of(row["file"]), row["via"], row["relation"], row["steps"]) for row in rows]

        return await self._threads.ask(work)

    # Use

    async def saw(self, accesses: Sequence[Access]) -> None:
        """As the contract; of several tenants at once over all of them, so that it stays one round trip."""
        for access in accesses:
            check_access(access)
            check_texts(*access.key, access.worker)
        newest = {(access.key, access.hour, access.worker): access for access in accesses}
        rows = [access_json(self._app, access) for access in newest.values()]
        tenants = {access.key.tenant for access in accesses}
        tenant = tenants.pop() if len(tenants) == 1 else None

        def work(link: Link) -> None:
            table = link.of(tenant).table(ACCESSES)
            for start in range(0, len(rows), PAGE):
                some = rows[start : start + PAGE]
                table.upsert(some, on_conflict=ACCESS_KEY, returning=ReturnMethod.minimal).execute()

        if rows:
            await self._threads.ask(work, writes=True)

    async def usage(self, key: StateKey, *, since_hour: int) -> Usage:
        check_key(key)
        check_texts(*key)

        def query(table: SyncRequestBuilder) -> SyncSelectRequestBuilder:
            asked = self._item(table.select("reads,writes,last_at"), key).gte("hour", since_hour)
            return asked.order("hour").order("worker")

        rows = await self._threads.ask(lambda link: pages(link, key.tenant, ACCESSES, query, None))
        reads, writes = sum(row["reads"] for row in rows), sum(row["writes"] for row in rows)
        return Usage(reads, writes, max((float(row["last_at"]) for row in rows), default=None))

    async def forget_usage(self, *, before_hour: int) -> int:
        check_counts(before_hour=before_hour)

        def work(link: Link) -> int:
            table = link.of(None).table(ACCESSES)
            delete = table.delete(count=CountMethod.exact, returning=ReturnMethod.minimal)
            return delete.eq("app", self._app).lt("hour", before_hour).execute().count or 0

        return await self._threads.ask(work, writes=True)

    # Filters

    def _file(self, query: SyncSelectRequestBuilder, tenant: str, id: str) -> SyncSelectRequestBuilder:
        return query.eq("app", self._app).eq("tenant", tenant).eq("id", id)

    def _item(self, query: SyncSelectRequestBuilder, key: StateKey) -> SyncSelectRequestBuilder:
        for column, word in item_words(self._app, key).items():
            query = query.eq(column, word)
        return query

    def _check_line(self, promotion: Promotion) -> None:
        check_texts(*promotion.key, promotion.former, promotion.to, promotion.file)


def pages(
    link: Link,
    tenant: str | None,
    table: str,
    query: Callable[[SyncRequestBuilder], SyncSelectRequestBuilder],
    most: int | None,
) -> list[Row]:
    """The first `most` rows of what `query` asks of a table, or all of them."""
    found: list[Row] = []
    while most is None or len(found) < most:
        size = PAGE if most is None else min(PAGE, most - len(found))
        asked = query(link.of(tenant).table(table)).range(len(found), len(found) + size - 1)
        rows = link.rows(asked.execute().data)
        found += rows
        if len(rows) < size:
            break
    return found
