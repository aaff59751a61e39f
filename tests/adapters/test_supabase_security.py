"""Row-level security, as PostgREST and PostgreSQL hold it: requests without our adapter, and its filters."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgrest import Project, token

TABLES = ("state_files", "promotion_history", "state_lineage", "access_patterns")
ITEM = {"namespace": "order", "key": "42"}


def file(app: str, tenant: str, id: str) -> dict[str, Any]:
    rest = {"version": 7, "kind": "promoted", "path": id, "sha256": "ab", "size": 1, "status": "done", "created_at": 1}
    return {"app": app, "tenant": tenant, "id": id, "reason": "", "about": "{}", **ITEM, **rest}


def line(app: str, tenant: str, version: int = 7) -> dict[str, Any]:
    rest = {"from_tier": "delayed", "to_tier": "file", "at": 1, "score": 1, "reasons": [], "file": None}
    return {"app": app, "tenant": tenant, "version": version, **ITEM, **rest}


def edge(app: str, tenant: str, child: str = "b", parent: str = "a") -> dict[str, Any]:
    return {"app": app, "tenant": tenant, "child": child, "parent": parent, "relation": "supersedes", "at": 1}


def access(app: str, tenant: str, worker: str = "w") -> dict[str, Any]:
    return {"app": app, "tenant": tenant, "hour": 1, "worker": worker, "reads": 1, "writes": 1, "last_at": 1, **ITEM}


class Asking:
    """Requests of one role, in an app that has files, history, lineage and counts of the tenants a, b and ""."""

    def __init__(self, project: Project, app: str) -> None:
        self.project = project
        self.app = app

    def ask(
        self, method: str, path: str, key: str | None, body: object = None, *, tenant: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        if tenant is not None:
            headers["x_traffic_cop_tenant"] = json.dumps(tenant)
        content = None if body is None else json.dumps(body).encode()
        status, answer = self.project.ask(method, path, key=key, body=content, **headers)
        return status, json.loads(answer) if answer else None

    def tenants(self, key: str | None, table: str, *, tenant: str | None = None, **headers: str) -> list[str]:
        """Those whose rows are seen, whatever the filter asks for."""
        status, rows = self.ask("GET", f"/{table}?app=eq.{self.app}", key, tenant=tenant, **headers)
        assert status == 200, rows
        return sorted({row["tenant"] for row in rows})

    def fill(self) -> None:
        key = token("service_role")
        for tenant in ("a", "b", ""):
            rows: dict[str, list[dict[str, Any]]] = {
                "state_files": [file(self.app, tenant, "a"), file(self.app, tenant, "b")],
                "promotion_history": [line(self.app, tenant)],
                "state_lineage": [edge(self.app, tenant)],
                "access_patterns": [access(self.app, tenant)],
            }
            for table in TABLES:
                status, said = self.ask("POST", f"/{table}", key, rows[table])
                assert status == 201, said


@pytest.fixture
def asking(supabase_project: Project) -> Iterator[Asking]:
    asking = Asking(supabase_project, f"rls-{secrets.token_hex(4)}")
    asking.fill()
    yield asking
    left = asking.project.postgres.sql(
        f"select tenant, count(*) from state_files where app = '{asking.app}' group by 1"
    )
    assert sorted(left) == ["a|2", "b|2", "|2"], "a test has changed files that it was not to reach"


def test_row_level_security_is_enabled_and_forced_on_every_table(supabase_project: Project) -> None:
    rows = supabase_project.postgres.sql(
        "select relname, relrowsecurity, relforcerowsecurity from pg_class "
        "where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm') order by 1"
    )
    assert rows == [f"{table}|t|t" for table in sorted(TABLES)]


def test_no_function_of_ours_has_its_owners_rights(supabase_project: Project) -> None:
    rows = supabase_project.postgres.sql(
        "select proname, prosecdef, proconfig[1] from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert len(rows) == 5
    assert all(row.endswith('|f|search_path=""') for row in rows), rows


@pytest.mark.parametrize("table", TABLES)
def test_a_user_reads_what_is_of_the_tenant_that_the_token_names(asking: Asking, table: str) -> None:
    user = token("authenticated", tenant="a")
    assert asking.tenants(user, table) == ["a"]
    assert asking.tenants(user, table, tenant="b") == ["a"], "our header is no user's to send"
    assert asking.tenants(user, table, x_traffic_cop_scope="all") == ["a"]
    assert asking.ask("GET", f"/{table}?app=eq.{asking.app}&tenant=eq.b", user) == (200, [])
    assert asking.tenants(token("authenticated"), table) == []
    assert asking.tenants(token("authenticated", tenant=""), table) == [], "the app itself is no user's tenant"
    assert asking.tenants(token("authenticated", tenant=None), table) == []
    assert asking.tenants(token("authenticated", tenant=["a"]), table) == []
    assert asking.tenants(token("authenticated", user_metadata={"tenant": "a"}), table) == []


@pytest.mark.parametrize("role", ["authenticated", "anon", None])
def test_a_user_and_a_stranger_write_nothing(asking: Asking, role: str | None) -> None:
    key = None if role is None else token(role, tenant="a")
    app = asking.app
    for method, path, body in (
        ("POST", "/state_files", file(app, "a", "c")),
        ("POST", "/promotion_history", line(app, "a", 8)),
        ("POST", "/state_lineage", edge(app, "a", "a", "b")),
        ("POST", "/access_patterns", access(app, "a", "x")),
        ("PATCH", f"/state_files?app=eq.{app}", {"status": "deleted"}),
        ("PATCH", f"/access_patterns?app=eq.{app}", {"reads": 100}),
        *(("DELETE", f"/{table}?app=eq.{app}", None) for table in TABLES),
        ("POST", "/rpc/traffic_cop_finish", {"file": file(app, "a", "c"), "promotion": None, "edges": []}),
        ("POST", "/rpc/traffic_cop_relatives", relatives(app, "a")),
        ("POST", "/rpc/traffic_cop_tenant", {}),
    ):
        status, said = asking.ask(method, path, key, body, tenant="a", x_traffic_cop_scope="all")
        assert (status, said["code"]) == (403 if role == "authenticated" else 401, "42501"), (path, said)


@pytest.mark.parametrize("table", TABLES)
def test_a_stranger_reads_nothing(asking: Asking, table: str) -> None:
    for key in (None, token("anon"), token("anon", tenant="a")):
        status, said = asking.ask("GET", f"/{table}", key, tenant="a", x_traffic_cop_scope="all")
        assert (status, said["code"]) == (401, "42501")


@pytest.mark.parametrize("table", TABLES)
def test_our_role_reads_the_tenant_that_the_request_names(asking: Asking, table: str) -> None:
    ours = token("traffic_cop")
    assert asking.tenants(ours, table, tenant="a") == ["a"]
    assert asking.tenants(ours, table, tenant="") == [""]
    assert asking.tenants(ours, table, tenant="nobody") == []
    assert asking.ask("GET", f"/{table}?app=eq.{asking.app}&tenant=eq.b", ours, tenant="a") == (200, [])
    assert asking.tenants(ours, table) == []
    assert asking.tenants(ours, table, x_traffic_cop_scope="some") == []
    assert asking.tenants(ours, table, x_traffic_cop_scope="all") == ["", "a", "b"]
    assert asking.tenants(token("traffic_cop", tenant="a"), table) == []
    assert asking.ask("GET", f"/{table}", ours, x_traffic_cop_tenant="a")[0] == 400, "no JSON: refused, not guessed"


def test_our_role_changes_nothing_of_another_tenant(asking: Asking) -> None:
    ours, app = token("traffic_cop"), asking.app
    theirs = f"app=eq.{app}&tenant=eq.b"
    told = "return=representation"
    assert asking.ask("PATCH", f"/state_files?{theirs}", ours, {"reason": "x"}, tenant="a", prefer=told) == (200, [])
    assert asking.ask("PATCH", f"/access_patterns?{theirs}", ours, {"reads": 9}, tenant="a", prefer=told) == (200, [])
    assert asking.ask("DELETE", f"/access_patterns?{theirs}", ours, tenant="a", prefer=told) == (200, [])
    finish = {"file": file(app, "b", "a"), "promotion": line(app, "b", 9), "edges": []}
    mine = {"file": file(app, "a", "a"), "promotion": line(app, "b", 9), "edges": [edge(app, "b", "a", "b")]}
    for method, path, body in (
        ("POST", "/state_files", file(app, "b", "c")),
        ("PATCH", f"/state_files?app=eq.{app}&id=eq.a", {"tenant": "b", "id": "moved"}),
        ("POST", "/promotion_history", line(app, "b", 8)),
        ("POST", "/state_lineage", edge(app, "b", "a", "b")),
        ("POST", "/access_patterns", access(app, "b", "x")),
        ("POST", "/rpc/traffic_cop_finish", finish),
        ("POST", "/rpc/traffic_cop_finish", finish | {"file": file(app, "b", "new")}),
        ("POST", "/rpc/traffic_cop_finish", mine),
    ):
        status, said = asking.ask(method, path, ours, body, tenant="a")
        assert (status, said["code"]) == (403, "42501"), (path, said)
    for upsert in ("resolution=ignore-duplicates", "resolution=merge-duplicates"):
        status, said = asking.ask("POST", "/state_files", ours, file(app, "b", "a"), tenant="a", prefer=upsert)
        assert (status, said["code"]) == (403, "42501"), said
    assert asking.ask("POST", "/rpc/traffic_cop_relatives", ours, relatives(app, "b"), tenant="a") == (200, [])
    assert len(asking.ask("POST", "/rpc/traffic_cop_relatives", ours, relatives(app, "b"), tenant="b")[1]) == 1


def test_a_chore_over_all_tenants_writes_counts_and_nothing_else(asking: Asking) -> None:
    ours, app = token("traffic_cop"), asking.app
    everything: dict[str, Any] = {"x_traffic_cop_scope": "all"}
    for method, path, body in (
        ("POST", "/state_files", file(app, "b", "c")),
        ("POST", "/promotion_history", line(app, "b", 8)),
        ("POST", "/state_lineage", edge(app, "b", "a", "b")),
        ("POST", "/rpc/traffic_cop_finish", {"file": file(app, "b", "c"), "promotion": None, "edges": []}),
    ):
        status, said = asking.ask(method, path, ours, body, **everything)
        assert (status, said["code"]) == (403, "42501"), (path, said)
    told = "return=representation"
    changed = asking.ask("PATCH", f"/state_files?app=eq.{app}", ours, {"reason": "x"}, prefer=told, **everything)
    assert changed == (200, [])
    assert asking.ask("POST", "/access_patterns", ours, access(app, "b", "x"), **everything)[0] == 201
    assert asking.ask("DELETE", f"/access_patterns?app=eq.{app}", ours, **everything)[0] == 204
    assert asking.tenants(ours, "access_patterns", **everything) == []


def test_our_role_removes_no_file_no_line_and_no_edge(asking: Asking) -> None:
    for table in TABLES[:3]:
        for headers in ({"tenant": "a"}, {"x_traffic_cop_scope": "all"}):
            status, said = asking.ask("DELETE", f"/{table}?app=eq.{asking.app}", token("traffic_cop"), **headers)
            assert (status, said["code"]) == (403, "42501")
    for table in ("promotion_history", "state_lineage"):
        change = asking.ask("PATCH", f"/{table}?app=eq.{asking.app}", token("traffic_cop"), {"at": 2}, tenant="a")
        assert (change[0], change[1]["code"]) == (403, "42501")


@pytest.mark.parametrize("role", ["traffic_cop", "service_role"])
def test_no_edge_joins_files_of_two_tenants(asking: Asking, role: str) -> None:
    key, app, postgres = token(role), asking.app, asking.project.postgres
    postgres.sql(
        f'insert into state_files select (jsonb_populate_record(f, \'{{"id":"only-b"}}\')).* from state_files f '
        f"where app = '{app}' and tenant = 'b' and id = 'a'"
    )
    try:
        for joined in (edge(app, "a", "a", "only-b"), edge(app, "a", "only-b", "a")):
            status, said = asking.ask("POST", "/state_lineage", key, joined, tenant="a")
            assert (status, said["code"]) == (409, "23503")
            finish = {"file": file(app, "a", "a"), "promotion": line(app, "a", 9), "edges": [joined]}
            status, said = asking.ask("POST", "/rpc/traffic_cop_finish", key, finish, tenant="a")
            assert (status, said["code"]) == (409, "23503")
        assert asking.ask("GET", f"/promotion_history?app=eq.{app}&version=eq.9", key, tenant="a") == (200, [])
    finally:
        postgres.sql(f"delete from state_files where app = '{app}' and id = 'only-b'")


def relatives(app: str, tenant: str) -> dict[str, Any]:
    return {"of_app": app, "of_tenant": tenant, "of_id": "b", "upwards": True, "most": 10}
