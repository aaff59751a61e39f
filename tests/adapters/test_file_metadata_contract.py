"""The contract suite of `FileMetadataStore` on every adapter: SQLite, and Supabase's PostgREST over PostgreSQL.

`test_supabase_server.py` asks a real project.
"""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.postgrest import Gateway, Project, token
from traffic_cop_middleware.adapters.sqlite.files import open as open_sqlite
from traffic_cop_middleware.adapters.supabase import open as open_supabase
from traffic_cop_middleware.contracts import Access, Edge, FileMetadataStore
from traffic_cop_middleware.contracts.files import FILE_KINDS, FILE_STATUSES, RELATIONS
from traffic_cop_middleware.errors import StoreError
from traffic_cop_middleware.testing import FileMetadataStoreContract
from traffic_cop_middleware.testing.file_metadata_asking import HOUR, NOW, done, edge, key_of, line, row

DEADLINE = 30.0
"""Seconds: generous, for this suite asks what is kept, not how fast."""


@contextlib.asynccontextmanager
async def opened(open_one: Callable[[], FileMetadataStore]) -> AsyncIterator[Sequence[FileMetadataStore]]:
    """The stores of several workers."""
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for _ in range(2):
            store = open_one()
            await store.connect(patience=DEADLINE)
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores


def supabase(url: str, *, app: str | None = None, deadline: float = DEADLINE) -> FileMetadataStore:
    """A store on files of its own, in a project."""
    namespace = app or f"contract-{secrets.token_hex(4)}"
    return open_supabase(url, namespace=namespace, deadline=deadline, notify=lambda event: None)


class TestSqlite(FileMetadataStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[Sequence[FileMetadataStore]]:
        url = f"sqlite:///{tmp_path}/state.db"
        async with opened(
            lambda: open_sqlite(url, namespace="tc", deadline=DEADLINE, notify=lambda event: None)
        ) as stores:
            yield stores


class OnPostgrest(FileMetadataStoreContract):
    role = ""

    @pytest.fixture
    def gateway(self, supabase_project: Project) -> Iterator[Gateway]:
        with supabase_project.gateway() as gateway:
            yield gateway

    @pytest_asyncio.fixture
    async def stores(self, gateway: Gateway) -> AsyncIterator[Sequence[FileMetadataStore]]:
        app = f"contract-{secrets.token_hex(4)}"
        url = f"supabase+http://{token(self.role)}@127.0.0.1:{gateway.port}"
        async with opened(lambda: supabase(url, app=app)) as stores:
            yield stores


class TestSupabase(OnPostgrest):
    role = "traffic_cop"


class TestSupabaseWithoutRowLevelSecurity(OnPostgrest):
    """Where the key is that of `service_role`, our own filters keep the tenants apart."""

    role = "service_role"


@pytest.mark.asyncio
async def test_two_apps_in_one_project_see_nothing_of_each_other(supabase_project: Project) -> None:
    with supabase_project.gateway() as gateway:
        url = f"supabase+http://{token('traffic_cop')}@127.0.0.1:{gateway.port}"
        await apart(supabase(url), supabase(url))


@pytest.mark.asyncio
async def test_two_apps_in_one_file_see_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = (
        open_sqlite(f"sqlite:///{tmp_path}/state.db", namespace=app, deadline=DEADLINE, notify=lambda event: None)
        for app in ("one", "two")
    )
    await apart(one, two)


async def apart(one: FileMetadataStore, two: FileMetadataStore) -> None:
    await done(one, "f0")
    await one.finish(row(), line(file="f1"), [edge("f1", "f0")])
    await one.announce(row("f2"))
    await one.saw([Access(key_of(), "w", HOUR, 1, 1, NOW)])
    assert await two.load("acme", ["f1"]) == [None]
    assert [*await two.list("acme"), *await two.of_item(key_of()), *await two.pending(before=NOW * 2)] == []
    assert [*await two.history(key_of()), *await two.ancestors("acme", "f1")] == []
    assert await two.referred(["acme/order/f1"], gone_since=30.0) == set()
    assert await two.forget_usage(before_hour=HOUR + 1) == 0
    assert not await two.set_status("acme", "f1", "deleted", reason="", unless="pending", at=20.0)
    await done(two, "f1")
    assert len(await one.ancestors("acme", "f1")) == 1
    assert (await one.usage(key_of(), since_hour=0)).reads == 1
    for store in (one, two):
        await store.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.asyncio
async def test_both_stores_answer_the_same(supabase_project: Project, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    ids = [f"{letter}{number}" for letter in "aÄz" for number in range(4)]
    sqlite = open_sqlite(f"sqlite:///{tmp_path}/a.db", namespace="a", deadline=DEADLINE, notify=lambda event: None)
    with supabase_project.gateway() as gateway:
        both = (sqlite, supabase(f"supabase+http://{token('traffic_cop')}@127.0.0.1:{gateway.port}"))

        async def same(ask: Callable[[FileMetadataStore], Awaitable[object]]) -> None:
            told = []
            for store in both:
                try:
                    told.append(await ask(store))
                except StoreError as exc:
                    told.append(type(exc))
            first, second = (list(each) if isinstance(each, Sequence) else each for each in told)
            assert first == second

        for turn in range(150):
            id, other, tenant = chance.choice(ids), chance.choice(ids), chance.choice("xy")
            key, version = key_of(chance.choice("12"), tenant=tenant), chance.randrange(3)
            kind, status, unless = chance.choice(FILE_KINDS), chance.choice(FILE_STATUSES), chance.choice(FILE_STATUSES)
            given = row(id, key=key, version=version, kind=kind, created_at=NOW + turn)._replace(done_at=NOW + turn)
            edges = [Edge(id, other, chance.choice(RELATIONS), NOW + turn)] if other != id else []
            noted = line(version, chance.choice(("file", "cache")), key=key, at=NOW + turn)
            asked: list[Callable[[FileMetadataStore], Awaitable[object]]] = [
                lambda store, given=given: store.announce(given),
                lambda store, given=given, noted=noted, edges=edges: store.finish(given, noted, edges),
                lambda store, given=given, edges=edges: store.finish(given, None, edges),
                lambda store, noted=noted: store.note(noted),
                lambda store, of=(tenant, id, status), unless=unless: store.set_status(
                    *of, reason="r", unless=unless, at=20.0
                ),
                lambda store, tenant=tenant: store.load(tenant, ids),
                lambda store, key=key, kind=kind: store.of_item(key, kind=kind),
                lambda store, key=key: store.of_item(key, before=2, most=3),
                lambda store, tenant=tenant, id=id: store.list(tenant, after=id, most=4),
                lambda store, id=id, turn=turn: store.pending(before=NOW + turn / 2, after=id, most=4),
                lambda store: store.referred([f"acme/order/{each}" for each in ids], gone_since=30.0),
                lambda store, key=key: store.history(key),
                lambda store, tenant=tenant, id=id: store.ancestors(tenant, id),
                lambda store, tenant=tenant, id=id: store.descendants(tenant, id, most=3),
            ]
            await same(chance.choice([*asked, *asked[1:3] * 4]))
        for tenant in "xy":
            for id in ids:
                await same(lambda store, tenant=tenant, id=id: store.ancestors(tenant, id))
                await same(lambda store, tenant=tenant, id=id: store.descendants(tenant, id))
        for store in both:
            await store.close()
