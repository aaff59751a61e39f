"""Large state of sessions and users, as a request meets it: from a file, and nobody sees that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from starlette.testclient import TestClient

from traffic_cop_middleware import RequestState, Session, TrafficCop, session_of, state_of, uses_state

SECRET = "a secret for the tests of large state in requests"
LARGE = "ü" * 200_000

State = Annotated[RequestState, Depends(state_of)]


def app_of(cop: TrafficCop) -> FastAPI:
    app = FastAPI()
    cop.install(app)

    @app.post("/login/{name}")
    async def login(name: str, session: Annotated[Session, Depends(session_of)], tenant: str) -> str:
        await session.login(name, claims={"tenant": tenant})
        return name

    @app.post("/regenerate")
    async def regenerate(session: Annotated[Session, Depends(session_of)]) -> None:
        await session.regenerate()

    @app.get("/state")
    @uses_state("session", "user")
    async def read(state: State) -> dict[str, Any]:
        return {"session": dict(state.session), "user": dict(state.user)}

    @app.put("/{part}/{key}")
    @uses_state("session", "user")
    async def write(part: str, key: str, state: State, request: Request) -> None:
        getattr(state, part)[key] = (await request.body()).decode()

    @app.get("/files")
    async def files(tenant: str) -> list[str]:
        return [f"{file.namespace}/{file.key}" for file in await cop.files.of_tenant(tenant).list()]

    return app


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    cop = TrafficCop(
        "memory://" if request.param == "memory" else request.getfixturevalue("redis_server").url,
        documents=f"sqlite:///{tmp_path}/state.db",
        files=f"file://{tmp_path}/files",
        file_metadata=f"sqlite:///{tmp_path}/files.db",
        session_secret=SECRET,
        limits="10000/minute",
        deadline=10,
    )
    with TestClient(app_of(cop), base_url="https://testserver") as each:
        yield each


def files_of(client: TestClient, tenant: str, *, least: int) -> list[str]:
    ends = time.monotonic() + 30
    while True:
        found: list[str] = client.get("/files", params={"tenant": tenant}).json()
        if len(found) >= least:
            return found
        assert time.monotonic() < ends, found
        time.sleep(0.02)


def test_large_state_of_a_session_and_a_user_comes_from_its_file_and_moves_with_the_session(client: TestClient) -> None:
    client.post("/login/ada", params={"tenant": "acme"})
    for part in ("session", "user"):
        assert client.put(f"/{part}/rows", content=LARGE.encode()).status_code == 200
    assert {each.split("/")[0] for each in files_of(client, "acme", least=2)} == {"session", "user"}
    for _ in range(2):
        assert client.get("/state").json() == {"session": {"rows": LARGE}, "user": {"rows": LARGE}}
    assert client.post("/regenerate").status_code == 200
    assert client.get("/state").json() == {"session": {"rows": LARGE}, "user": {"rows": LARGE}}
    assert client.put("/session/n", content=b"1").status_code == 200
    assert client.get("/state").json()["session"] == {"rows": LARGE, "n": "1"}
    files_of(client, "acme", least=3)
    assert client.get("/state").json()["session"] == {"rows": LARGE, "n": "1"}
    assert client.get("/files", params={"tenant": ""}).json() == []
    client.cookies.clear()
    client.post("/login/ada", params={"tenant": "other"})
    assert client.get("/state").json() == {"session": {}, "user": {}}
