"""State that is promoted by itself, as an app and its clients see it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from traffic_cop_middleware import (
    ConfigurationError,
    OrderError,
    PromotionMiddleware,
    SessionMiddleware,
    TrafficCop,
    Verdict,
    session_of,
    state_of,
    uses_state,
)
from traffic_cop_middleware.contracts import Event, StateKey

SECRET = "a secret of thirty-two bytes, or more"
PAYMENT = {"type": "payment", "amount": 12, "currency": "EUR"}


async def login(request: Request) -> Response:
    await session_of(request).login(request.path_params["name"])
    return Response()


async def logout(request: Request) -> Response:
    await session_of(request).logout()
    return Response()


@uses_state()
async def put(request: Request) -> Response:
    state = state_of(request)
    mapping = state.session if request.path_params["part"] == "session" else state.user
    mapping.update(await request.json())
    return JSONResponse(dict(mapping))


@uses_state()
async def get(request: Request) -> Response:
    state = state_of(request)
    return JSONResponse(dict(state.session if request.path_params["part"] == "session" else state.user))


ROUTES = [
    Route("/login/{name}", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/{part}", put, methods=["PUT"]),
    Route("/{part}", get),
]


def cop_with(folder: Path, **settings: Any) -> TrafficCop:
    return TrafficCop(session_secret=SECRET, session_secure=False, documents=f"sqlite:///{folder}/state.db", **settings)


@contextmanager
def client_of(cop: TrafficCop) -> Iterator[TestClient]:
    app = Starlette(routes=ROUTES)
    cop.install(app)
    with TestClient(app) as client:
        client.post("/login/alice")
        yield client


def until(client: TestClient, ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What `ask` gives in the app's event loop, as soon as that is what is wanted."""
    ends = time.monotonic() + 10
    assert client.portal is not None
    while True:
        found = client.portal.call(ask)
        if wanted(found):
            return found
        assert time.monotonic() < ends, found


def documents_of(cop: TrafficCop, key: StateKey) -> Callable[[], Any]:
    async def ask() -> Any:
        return (await cop.state.house.documents.load((key,)))[0]

    return ask


def waiting_of(cop: TrafficCop) -> Callable[[], Any]:
    async def ask() -> Any:
        outbox = cop.state.house.documents.outbox
        assert outbox is not None
        return await outbox.waiting()

    return ask


ALICE = StateKey("", "user", "alice")


def test_what_deserves_to_last_is_in_the_documents_soon_after_the_request(tmp_path: Path) -> None:
    with client_of(cop := cop_with(tmp_path)) as client:
        assert client.put("/user", json=PAYMENT).json() == PAYMENT
        kept = until(client, documents_of(cop, ALICE), lambda item: item is not None and item.tier == "immediate")
        assert not kept.named
        told = client.portal.call(cop.state.explain, "user", "alice")  # type: ignore[union-attr]
        assert "the type 'payment' is critical" in str(told)
    with client_of(cop_with(tmp_path)) as client:
        assert client.get("/user").json() == PAYMENT


def test_what_does_not_deserve_it_stays_in_memory_alone(tmp_path: Path) -> None:
    told: list[Event] = []
    with client_of(cop := cop_with(tmp_path, observer=told.append)) as client:
        client.put("/user", json={"theme": "dark"})
        until(client, waiting_of(cop), lambda count: count == 0)
        item = until(client, lambda: cop.state.get("user", "alice"), lambda item: item.tier == "cache")
        assert item.value == {"theme": "dark"}
        kept = documents_of(cop, ALICE)
        assert client.portal is not None
        assert client.portal.call(kept) is None or client.portal.call(kept).value is None
        client.put("/user", json=PAYMENT)
        until(client, documents_of(cop, ALICE), lambda item: item is not None and item.tier == "immediate")
    moved = [event for event in told if event.kind == "promotion.moved"]
    assert [(event.attributes["former"], event.attributes["tier"]) for event in moved] == [("cache", "immediate")]
    assert moved[0].attributes["reasons"]


def test_hooks_have_their_say_in_order_and_one_that_fails_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cop = cop_with(tmp_path, promotion_hooks=[lambda state, verdict: verdict.at_least("delayed", "the kwarg")])
    asked: list[tuple[str, str]] = []

    @cop.promotion_hook
    def broken(state: Any, verdict: Verdict) -> Verdict:
        raise RuntimeError("not today")

    @cop.promotion_hook
    async def users_last(state: Any, verdict: Verdict) -> Verdict:
        asked.append((state.namespace, verdict.tier))
        return verdict.at_least("immediate", "users are ours to keep") if state.namespace == "user" else verdict

    with client_of(cop) as client:
        assert client.put("/user", json={"theme": "dark"}).status_code == 200
        until(client, documents_of(cop, ALICE), lambda item: item is not None and item.tier == "immediate")
    assert asked[0] == ("user", "delayed")
    assert "not today" in caplog.text


def test_the_end_of_a_session_judges_its_state_once_more(tmp_path: Path) -> None:
    cop = cop_with(tmp_path)
    triggers: list[str] = []

    @cop.promotion_hook
    def hear(state: Any, verdict: Verdict) -> None:
        triggers.append(state.namespace)

    with client_of(cop) as client:
        client.put("/session", json={"cart": 1})
        until(client, waiting_of(cop), lambda count: count == 0)
        assert triggers == ["session"]
        client.post("/logout")

        async def count() -> int:
            return len(triggers)

        until(client, count, lambda number: number == 2)


def test_a_verdict_that_cannot_be_kept_is_warned_of_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    cop = TrafficCop(session_secret=SECRET)
    cop.promotion_hook(lambda state, verdict: None)
    app = Starlette()
    cop.install(app)
    with TestClient(app), caplog.at_level(logging.WARNING):
        pass
    assert "there are no documents that last (write TrafficCop(documents='sqlite:///state.db'))" in caplog.text
    caplog.clear()
    plain = Starlette()
    TrafficCop(session_secret=SECRET).install(plain)
    with TestClient(plain):
        pass
    assert "promotion" not in caplog.text


def test_alone_it_gives_the_sessions_of_the_part_outside_their_state(tmp_path: Path) -> None:
    def app() -> Starlette:
        made = Starlette(routes=ROUTES)
        made.add_middleware(
            PromotionMiddleware,
            documents=f"sqlite:///{tmp_path}/state.db",
            hooks=[lambda state, verdict: verdict.at_least("immediate")],
        )
        made.add_middleware(SessionMiddleware, secret=SECRET, secure=False)
        return made

    with TestClient(app()) as client:
        client.post("/login/alice")
        assert client.put("/user", json={"theme": "dark"}).json() == {"theme": "dark"}
        assert client.get("/user").json() == {"theme": "dark"}
        assert client.get("/session").json() == {}
    with TestClient(app()) as client:
        client.post("/login/alice")
        assert client.get("/user").json() == {"theme": "dark"}


def test_alone_it_stands_inside_of_the_sessions() -> None:
    app = Starlette()
    app.add_middleware(SessionMiddleware, secret=SECRET)
    app.add_middleware(PromotionMiddleware)
    with pytest.raises(OrderError, match="SessionMiddleware stands inside PromotionMiddleware"), TestClient(app):
        pass


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"files": "file:///tmp/files"}, "file_metadata"),
        ({"files": 7, "file_metadata": "sqlite:///f.db"}, "files: a URL"),
        ({"files": "ftp://host/files", "file_metadata": "sqlite:///f.db"}, "Write one of file://, gs://"),
        ({"file_metadata": "postgres://host/db"}, "Write one of sqlite://, supabase"),
        ({"file_metadata": 7}, "file_metadata: a URL"),
        ({"files_deadline": 0}, "files_deadline=0"),
        ({"files_grace": "a day"}, "files_grace='a day'"),
        ({"promotion": "balanced"}, "promotion='balanced'"),
        ({"promotion_preset": "fancy"}, "promotion_preset='fancy'"),
        ({"promotion_hooks": ["not callable"]}, "def hook"),
        ({"promotion_preferences": {"order": "always"}}, "promotion_preferences"),
    ],
)
def test_settings_that_can_not_be_used_are_refused_with_the_mend(settings: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        TrafficCop(**settings)


def test_a_mistyped_setting_of_the_part_alone_is_told() -> None:
    with pytest.raises(ConfigurationError, match="did you mean preset"):
        PromotionMiddleware(Starlette(), presets="classic")  # type: ignore[call-arg]


def test_files_are_the_apps_own_and_made_read_and_drawn_in_it(tmp_path: Path) -> None:
    cop = cop_with(tmp_path, files=f"file://{tmp_path}/files", file_metadata=f"sqlite:///{tmp_path}/files.db")
    with client_of(cop) as client:
        assert client.portal is not None

        async def tour() -> tuple[Any, Any, Any]:
            await cop.state.put("order", "7", {"n": 1}, tier="immediate")
            file = await cop.files.promote("order", "7")
            await cop.state.put("order", "7", {"n": 2})
            restored = await cop.files.restore(file)
            return await cop.files.lineage(restored.file), await cop.state.get("order", "7"), cop.files.migration_sql()

        lineage, item, sql = client.portal.call(tour)
        assert "restored from: promoted" in str(lineage)
        assert item.value == {"n": 1}
        assert sql == ""


def test_without_files_the_cop_says_what_to_write(tmp_path: Path) -> None:
    with client_of(cop := cop_with(tmp_path, promotion=False)) as client:
        assert client.portal is not None

        async def files() -> Any:
            return cop.files

        async def promotion() -> Any:
            return cop.promotion

        for ask, says in ((files, "files='file:///var"), (promotion, "Leave out promotion=False")):
            with pytest.raises(ConfigurationError, match=says):
                client.portal.call(ask)
        with pytest.raises(ConfigurationError, match="leave out promotion=False"):
            client.portal.call(cop.state.explain, "user", "alice")
