"""Metadata in Supabase when things go wrong: lost replies, a gateway that fails, keys and migrations that don't fit."""

from __future__ import annotations

import asyncio
import logging
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from postgrest import APIError

from tests.postgrest import Fault, Gateway, Project, postgrest_binary, running_postgrest, token
from traffic_cop_middleware.adapters.supabase import migration_sql
from traffic_cop_middleware.adapters.supabase import open as open_supabase
from traffic_cop_middleware.adapters.supabase.link import Link
from traffic_cop_middleware.adapters.supabase.rows import MOST_FILTER, any_of, batches
from traffic_cop_middleware.adapters.supabase.urls import project_of
from traffic_cop_middleware.contracts import Access, Event, FileMetadataStore, Usage
from traffic_cop_middleware.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.file_metadata_asking import HOUR, NOW, done, edge, key_of, line, row, steps

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[[FileMetadataStore], Awaitable[object]]

# Every method that writes, and the request that it does so by.
WRITES: dict[str, tuple[str, str, Write]] = {
    "announce": ("POST", "/state_files", lambda store: store.announce(row("new"))),
    "finish": (
        *("POST", "/rpc/traffic_cop_finish"),
        lambda store: store.finish(row()._replace(done_at=NOW), line(file="f1"), [edge("f1", "f0")]),
    ),
    "note": ("POST", "/promotion_history", lambda store: store.note(line(8, "delayed"))),
    "set_status": (
        *("PATCH", "/state_files"),
        lambda store: store.set_status("acme", "f1", "abandoned", reason="late", unless="done", at=20.0),
    ),
    "saw": ("POST", "/access_patterns", lambda store: store.saw([Access(key_of(), "w", HOUR, 3, 4, NOW)])),
    "forget_usage": ("DELETE", "/access_patterns", lambda store: store.forget_usage(before_hour=HOUR - 1)),
}


@pytest.fixture
def gateway(supabase_project: Project) -> Iterator[Gateway]:
    with supabase_project.gateway() as gateway:
        yield gateway


@pytest.fixture
def app() -> str:
    return f"faults-{secrets.token_hex(4)}"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest_asyncio.fixture
async def store(gateway: Gateway, app: str, events: list[Event]) -> AsyncIterator[FileMetadataStore]:
    store = open_with(gateway, token("traffic_cop"), app=app, notify=events.append)
    await store.connect(patience=30)
    await done(store, "f0", version=6)
    await store.announce(row())
    await store.saw([Access(key_of(), "w", HOUR - 2, 1, 1, NOW)])
    yield store
    await store.close()


def open_with(
    gateway: Gateway | int,
    key: str,
    *,
    app: str = "faults",
    deadline: float = 30,
    notify: Callable[[Event], None] = lambda event: None,
) -> FileMetadataStore:
    port = gateway if isinstance(gateway, int) else gateway.port
    return open_supabase(f"supabase+http://{key}@127.0.0.1:{port}", namespace=app, deadline=deadline, notify=notify)


def kept(project: Project, app: str) -> list[str]:
    """All that an app has in the tables, without the times that are the database's."""
    return project.postgres.sql(
        f"select tenant, id, status, reason from state_files where app = '{app}' order by id;"
        f"select version, to_tier, at, file from promotion_history where app = '{app}' order by version, to_tier;"
        f"select child, parent, relation from state_lineage where app = '{app}' order by child, parent;"
        f"select worker, hour, reads, writes from access_patterns where app = '{app}' order by hour, worker;"
    )


# Lost replies


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("what", ["lost", "cut"])
@pytest.mark.asyncio
async def test_one_lost_reply_is_made_good_within_the_call(
    store: FileMetadataStore, gateway: Gateway, supabase_project: Project, app: str, name: str, what: str
) -> None:
    method, path, write = WRITES[name]
    gateway.faults.append(Fault("lost" if what == "lost" else "cut", method, path))
    before = kept(supabase_project, app)
    await write(store)
    assert gateway.faults == []
    after = kept(supabase_project, app)
    assert after != before
    await write(store)
    assert kept(supabase_project, app) == after


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.asyncio
async def test_where_the_replies_are_lost_the_same_call_later_leaves_everything_once(
    store: FileMetadataStore, gateway: Gateway, supabase_project: Project, app: str, name: str
) -> None:
    method, path, write = WRITES[name]
    gateway.faults += [Fault("lost", method, path)] * 2
    before = kept(supabase_project, app)
    with pytest.raises(StoreUnavailable):
        await write(store)
    assert gateway.faults == []
    done_unheard = kept(supabase_project, app)
    assert done_unheard != before
    for _ in range(2):
        await write(store)
    assert kept(supabase_project, app) == done_unheard


@pytest.mark.asyncio
async def test_a_finish_that_is_cut_off_leaves_nothing_and_one_that_is_repeated_leaves_one_of_each(
    store: FileMetadataStore, gateway: Gateway, supabase_project: Project, app: str
) -> None:
    method, path, write = WRITES["finish"]
    gateway.faults += [Fault("cut", method, path)] * 2
    before = kept(supabase_project, app)
    with pytest.raises(StoreUnavailable):
        await write(store)
    assert kept(supabase_project, app) == before
    gateway.faults += [Fault("lost", method, path)] * 2
    with pytest.raises(StoreUnavailable):
        await write(store)
    await write(store)
    assert await store.load("acme", ["f1"]) == [row()._replace(status="done", done_at=NOW)]
    assert list(await store.history(key_of())) == [line(file="f1")]
    assert steps(await store.ancestors("acme", "f1")) == [("f0", "f1", 1)]


@pytest.mark.asyncio
async def test_a_lost_answer_to_a_question_is_asked_for_again(store: FileMetadataStore, gateway: Gateway) -> None:
    gateway.faults.append(Fault("lost", "GET", "/state_files"))
    assert (await store.load("acme", ["f0"]))[0] is not None
    gateway.faults.append(Fault("lost", "POST", "/rpc/traffic_cop_relatives"))
    assert list(await store.ancestors("acme", "f0")) == []


# A gateway that fails


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 540])
@pytest.mark.asyncio
async def test_a_failing_gateway_is_unavailable_and_told_of_once(
    store: FileMetadataStore, gateway: Gateway, events: list[Event], status: int
) -> None:
    gateway.faults += [Fault(status, "GET", "/state_files"), Fault(status, "GET", "/state_files")]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=f"not ready.*{status}"):
            await store.load("acme", ["f0"])
    assert (await store.load("acme", ["f0"]))[0] is not None
    assert [event.kind for event in events] == ["store.lost", "store.recovered"]


@pytest.mark.asyncio
async def test_a_hanging_gateway_ends_in_a_timeout_at_the_deadline(gateway: Gateway, app: str) -> None:
    store = open_with(gateway, token("traffic_cop"), app=app, deadline=0.5)
    await store.connect(patience=30)
    gateway.faults.append(Fault("slow", "POST", "/state_files"))
    with pytest.raises(StoreTimeout, match=r"deadline of 0\.5 s"):
        await store.announce(row())
    await store.close()
    patient = open_with(gateway, token("traffic_cop"), app=app)
    assert await patient.announce(row()) == row()
    await patient.close()


@pytest.mark.asyncio
async def test_nobody_at_the_port_is_unavailable_and_no_error_of_the_start(gateway: Gateway) -> None:
    store = open_with(gateway, token("traffic_cop"))
    gateway.close()
    await store.connect(patience=5)
    with pytest.raises(StoreUnavailable, match="can't be reached"):
        await store.load("acme", ["f0"])
    await store.close()


@pytest.mark.asyncio
async def test_a_page_in_place_of_an_answer_is_an_error(store: FileMetadataStore, gateway: Gateway) -> None:
    gateway.faults.append(Fault(200, "GET", "/state_files"))
    with pytest.raises(StoreError, match="none of PostgREST"):
        await store.load("acme", ["f0"])
    gateway.faults.append(Fault(404, "GET", "/state_files"))
    with pytest.raises(StoreError, match="no Supabase at"):
        await store.load("acme", ["f0"])
    gateway.faults.append(Fault(302, "GET", "/state_files"))
    with pytest.raises(StoreError, match="no Supabase at"):
        await store.load("acme", ["f0"])


# Keys and migrations that don't fit


MISFITS: dict[str, tuple[Callable[[], str], str]] = {
    "anon": (lambda: token("anon"), "Use a token of the role traffic_cop"),
    "a user's": (lambda: token("authenticated", tenant="acme"), "Use a token of the role traffic_cop"),
    "not to be had": (lambda: token("postgres"), "Use a token of the role traffic_cop"),
    "unknown role": (lambda: token("nobody_there"), "Run the migration"),
    "another project's": (lambda: token("traffic_cop", secret="another secret " * 3), "does not accept this key"),
    "expired": (lambda: token("traffic_cop", exp=1), "does not accept this key.*expired"),
    "no token": (lambda: "no-token-at-all", "does not accept this key"),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.asyncio
async def test_a_key_that_does_not_fit_is_an_error_of_the_start_that_names_the_mend(
    gateway: Gateway, misfit: str
) -> None:
    make, why = MISFITS[misfit]
    key = make()
    store = open_with(gateway, key)
    with pytest.raises(ConfigurationError, match=why) as refused:
        await store.connect(patience=30)
    with pytest.raises(StoreError, match=why) as late:
        await store.announce(row())
    assert not isinstance(late.value, StoreUnavailable)
    assert key not in str(refused.value) + str(late.value)
    await store.close()


@pytest.mark.asyncio
async def test_a_gateway_that_does_not_know_the_key_is_an_error_of_the_start(gateway: Gateway) -> None:
    gateway.faults.append(Fault(401, "POST", "/rpc/"))
    store = open_with(gateway, token("traffic_cop"))
    with pytest.raises(ConfigurationError, match="KEY:TOKEN"):
        await store.connect(patience=30)
    await store.close()


@pytest.mark.asyncio
async def test_without_the_migration_the_start_says_so(supabase_project: Project) -> None:
    for statement in ("drop database if exists bare", "create database bare"):
        supabase_project.postgres.sql(statement)
    with running_postgrest(postgrest_binary() or "", supabase_project.postgres, "bare") as port:
        # No gateway here: PostgREST itself knows no prefix, so this is a function that it does not have either.
        store = open_with(port, token("traffic_cop"))
        with pytest.raises(ConfigurationError, match=r"no Supabase at|Run the migration"):
            await store.connect(patience=30)
        await store.close()
        with Project(supabase_project.postgres, port).gateway() as gateway:
            store = open_with(gateway, token("traffic_cop"))
            with pytest.raises(ConfigurationError, match=r"Run the migration.*python -m"):
                await store.connect(patience=30)
            await store.close()


@pytest.mark.asyncio
async def test_a_project_that_was_not_looked_at_at_the_start_is_at_the_first_call(gateway: Gateway, app: str) -> None:
    gateway.faults += [Fault(503, "POST", "/rpc/")]
    store = open_with(gateway, token("traffic_cop"), app=app)
    await store.connect(patience=30)
    assert await store.announce(row()) == row()
    asked = [path for _, path, _ in gateway.requests]
    assert asked.count("/rpc/traffic_cop_relatives") == 2
    await store.close()


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("57014", 500, StoreTimeout),
        ("PGRST003", 504, StoreTimeout),
        ("PGRST000", 503, StoreUnavailable),
        ("PGRST001", 503, StoreUnavailable),
        ("PGRST002", 503, StoreUnavailable),
        ("40001", 500, StoreUnavailable),
        ("40P01", 500, StoreUnavailable),
        ("53300", 500, StoreUnavailable),
        ("57P01", 500, StoreUnavailable),
        ("08006", 503, StoreUnavailable),
        ("25006", 405, StoreUnavailable),
        ("42P01", 404, ConfigurationError),
        ("PGRST205", 404, ConfigurationError),
        ("PGRST202", 404, ConfigurationError),
        ("42501", 403, ConfigurationError),
        ("PGRST301", 401, ConfigurationError),
        (None, 401, ConfigurationError),
        ("22P02", 400, StoreError),
        ("23514", 400, StoreError),
        ("23503", 409, StoreError),
    ],
)
def test_errors_are_told_apart_by_their_codes(code: str | None, status: int, error: type[Exception]) -> None:
    link = Link(project_of("supabase+http://key@127.0.0.1:1")[0])
    link._status = status
    understood = link.understood(APIError({"message": "said", "code": code, "hint": None, "details": None}))
    assert type(understood) is error
    link.close()


# Round trips, headers, keys


@pytest.mark.asyncio
async def test_each_call_is_one_round_trip_for_one_tenant(store: FileMetadataStore, gateway: Gateway) -> None:
    calls: dict[str, Awaitable[object]] = {
        "announce": store.announce(row("new")),
        "finish": store.finish(row(), line(file="f1"), [edge("f1", "f0")]),
        "note": store.note(line(9)),
        "set_status": store.set_status("acme", "new", "abandoned", reason="", unless="done", at=20.0),
        "load": store.load("acme", ["f0", "f1"]),
        "of_item": store.of_item(key_of()),
        "list": store.list("acme"),
        "history": store.history(key_of()),
        "ancestors": store.ancestors("acme", "f1"),
        "descendants": store.descendants("acme", "f0"),
        "saw": store.saw([Access(key_of(), "w", HOUR, 1, 1, NOW)]),
        "usage": store.usage(key_of(), since_hour=0),
    }
    chores: dict[str, Awaitable[object]] = {
        "pending": store.pending(before=NOW),
        "referred": store.referred(["a", "b"], gone_since=30.0),
        "forget_usage": store.forget_usage(before_hour=1),
        "saw": store.saw([Access(key_of(tenant=tenant), "w", HOUR, 1, 1, NOW) for tenant in "ab"]),
    }
    for name, call in [*calls.items(), *chores.items()]:
        gateway.requests.clear()
        await call
        ((_, _, fields),) = gateway.requests
        headers = {field.lower(): value for field, value in fields.items()}
        if call in chores.values():
            assert headers["x-traffic-cop-scope"] == "all", name
            assert "x-traffic-cop-tenant" not in headers, name
        else:
            assert headers["x-traffic-cop-tenant"] == '"acme"', name
            assert "x-traffic-cop-scope" not in headers, name


@pytest.mark.asyncio
async def test_several_calls_at_once_keep_their_tenants_apart(store: FileMetadataStore) -> None:
    tenants = [f"t{number}" for number in range(20)]
    await asyncio.gather(*(store.announce(row("f", key=key_of(tenant=tenant))) for tenant in tenants))
    found = await asyncio.gather(*(store.load(tenant, ["f"]) for tenant in tenants))
    assert [rows[0].key.tenant if rows[0] else None for rows in found] == tenants


@pytest.mark.asyncio
async def test_a_key_for_the_gateway_goes_beside_the_token_and_neither_is_told(
    gateway: Gateway, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = token("traffic_cop")
    store = open_with(gateway, f"sb_publishable_abc:{secret}", app=app)
    await store.connect(patience=30)
    await store.announce(row())
    gateway.faults.append(Fault(503, "GET", "/state_files"))
    with pytest.raises(StoreUnavailable) as told:
        await store.load("acme", ["f1"])
    headers = {field.lower(): value for field, value in gateway.requests[-1][2].items()}
    assert (headers["apikey"], headers["authorization"]) == ("sb_publishable_abc", f"Bearer {secret}")
    assert store.name == f"supabase+http://127.0.0.1:{gateway.port}"
    project, _ = project_of(f"supabase+http://sb_publishable_abc:{secret}@127.0.0.1:1")
    for text in (caplog.text, repr(store), store.name, str(told.value), repr(told.value.__cause__), repr(project)):
        assert secret not in text
        assert "sb_publishable_abc" not in text
    await store.close()


@pytest.mark.asyncio
async def test_use_of_more_hours_than_a_reply_has_is_counted_whole(store: FileMetadataStore) -> None:
    key = key_of("much")
    await store.saw([Access(key, f"w{n % 3}", HOUR - n // 3, 1, 1, NOW) for n in range(2500)])
    assert await store.usage(key, since_hour=0) == Usage(2500, 2500, NOW)


@pytest.mark.asyncio
async def test_lists_of_more_rows_than_a_reply_has_are_given_whole(
    store: FileMetadataStore, supabase_project: Project, app: str
) -> None:
    other = "jsonb_build_object('id', 'n' || to_char(n, 'FM0000'), 'path', 'shared')"
    supabase_project.postgres.sql(
        f"insert into state_files select (jsonb_populate_record(f, {other})).* "
        f"from state_files f, generate_series(1, 2100) n where app = '{app}' and id = 'f0'"
    )
    listed = [each.id for each in await store.list("acme", most=5000)]
    assert listed == ["f0", *(f"n{number:04d}" for number in range(1, 2101))]
    assert [each.id for each in await store.list("acme", after="n0001", most=1500)] == listed[2:1502]
    assert len(await store.of_item(key_of(), most=2000)) == 2000
    assert await store.referred(["shared", "acme/order/f0", "none"], gone_since=30.0) == {"shared", "acme/order/f0"}


def test_lists_in_a_url_are_cut_to_what_gateways_take() -> None:
    words = [f"{number}{'ä' * 100}" for number in range(100)]
    parts = list(batches([*words, *words]))
    assert [word for part in parts for word in part] == words
    assert all(len(any_of(part)) <= MOST_FILTER for part in parts)
    assert list(batches(["x" * 10_000])) == [["x" * 10_000]]
    assert list(batches([])) == []
    assert any_of(['a"b', "c\\d", ""]) == '("a\\"b","c\\\\d","")'


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "supabase+https://key@",
        "supabase+https://key@host/rest/v1",
        "supabase+https://key@host:0",
        "supabase+https://key@host:x",
        "supabase+https://secret/key@host",
        "supabase+https://host",
        "supabase+https://a%20b@host",
        "supabase+https://a%0ab@host",
        "supabase+https://key@host?threads=0",
        "supabase+https://key@host?unknown=1",
        "supabase+https://key@host#x",
        "supabase+http://secret@project.supabase.co",
        "supabase+http://secret@8.8.8.8",
        "supabase+http://secret@127.0.0.1?ca_file=/x",
    ],
)
def test_a_url_that_can_not_be_used_is_refused_without_its_key(url: str) -> None:
    with pytest.raises(ConfigurationError, match="file_metadata") as refused:
        open_supabase(url, namespace="tc", deadline=1, notify=lambda event: None)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("supabase+https://key@project.supabase.co", "https://project.supabase.co"),
        ("supabase+https://key@project.supabase.co:8443/", "https://project.supabase.co:8443"),
        ("supabase+http://key@127.0.0.1:54321", "http://127.0.0.1:54321"),
        ("supabase+http://key@[::1]:54321", "http://[::1]:54321"),
        ("supabase+http://key@10.0.0.7", "http://10.0.0.7"),
        ("supabase+http://key@localhost", "http://localhost"),
        ("supabase+http://key@kong:8000?insecure=1", "http://kong:8000"),
    ],
)
def test_a_url_names_the_project_and_its_key(url: str, place: str) -> None:
    project, _ = project_of(url)
    assert (project.url, project.key, project.token) == (place, "key", "key")


@pytest.mark.asyncio
async def test_an_authority_that_can_not_be_read_is_an_error_of_the_start(tmp_path: Path) -> None:
    url = f"supabase+https://key@127.0.0.1:1?ca_file={tmp_path}/none.pem"
    store = open_supabase(url, namespace="tc", deadline=5, notify=lambda event: None)
    with pytest.raises(ConfigurationError, match="ca_file"):
        await store.connect(patience=30)
    await store.close()


def test_the_migration_is_read_without_the_driver() -> None:
    script = (
        "import sys; from traffic_cop_middleware.adapters.supabase import migration_sql; "
        "print(len(migration_sql()), [d for d in ('supabase', 'postgrest', 'httpx') if d in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == f"{len(migration_sql())} []"


@pytest.mark.asyncio
async def test_a_row_without_a_time_is_done_at_the_databases_time(store: FileMetadataStore) -> None:
    finished = await store.finish(row(), None, [])
    assert finished.done_at is not None
    assert abs(finished.done_at - time.time()) < 60
