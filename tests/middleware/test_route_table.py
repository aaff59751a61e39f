"""The table against the frameworks' own routing: what it says beforehand is what the request then reaches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial, wraps

import pytest
from fastapi import APIRouter, Request
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.middleware.routing import (
    AnyCase,
    AnyCaseAPIRoute,
    Closed,
    LowerCase,
    Noticing,
    SecondVersion,
    Suffix,
    answer,
    bare,
    endpoint,
    http,
    run,
    socket_endpoint,
    status,
    websocket,
)
from traffic_cop_middleware import TrafficCop, exempt, limit
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware import route_table
from traffic_cop_middleware.middleware.marks import Marks, marks_of
from traffic_cop_middleware.middleware.route_table import RouteTable, router_of

# ---------------------------------------------------------------------------------------------------------------------
# One by one


@limit("1/second")
async def marked(request: Request) -> Response:
    return PlainTextResponse("marked")


@limit("2/second")
async def other(request: Request) -> Response:
    return PlainTextResponse("other")


def test_marks_are_seen_in_both_decorator_orders() -> None:
    app = bare()

    @limit("1/second")
    @app.get("/above")
    async def above() -> None: ...

    @app.get("/under")
    @limit("1/second")
    @exempt
    def under() -> None: ...

    table = RouteTable(app)
    assert table.find(http("/above")).endpoint is above
    assert [each.text for each in table.find(http("/above")).marks.limits] == ["1/second"]
    assert table.find(http("/under")).marks == Marks(limits=marks_of(under).limits, exempt=True)


def test_included_routers_are_read_with_their_prefixes() -> None:
    inner, middle, app = APIRouter(prefix="/inner"), APIRouter(), bare()
    inner.add_api_route("/{item}", marked, response_model=None)
    middle.include_router(inner, prefix="/{tenant}")
    app.include_router(middle, prefix="/v1")
    app.include_router(inner)
    table = RouteTable(app)
    assert table.find(http("/v1/blue/inner/7")).template == "/v1/{tenant}/inner/{item}"
    assert table.find(http("/v1/blue/inner/7")).endpoint is marked
    assert table.find(http("/inner/7")).template == "/inner/{item}"
    assert table.find(http("/blue/inner/7")) is table.unmatched


def test_starlette_routes_hosts_and_mounts_are_read_inside_fastapi_and_its_included_routers() -> None:
    below = Starlette(routes=[Route("/x", marked), Mount("/deep/{n:int}", routes=[Route("/y", other)])])
    router, app = APIRouter(), bare()
    router.routes += [Route("/plain", marked), Mount("/mounted", app=below), Host("h.test", app=below)]
    app.include_router(router, prefix="/in")
    app.routes.append(Mount("/m", app=below))
    table = RouteTable(app)
    told = {
        "/in/plain": ("/in/plain", marked),
        "/in/mounted/x": ("/in/mounted/x", marked),
        "/in/mounted/deep/3/y": ("/in/mounted/deep/{n}/y", other),
        "/m/deep/3/y": ("/m/deep/{n}/y", other),
    }
    for path, expected in told.items():
        found = table.find(http(path, host="a.test"))
        assert (found.template, found.endpoint) == expected
    assert table.find(http("/in/x", host="h.test")).endpoint is marked
    assert table.find(http("/in/x", host="a.test")) is table.unmatched


def test_a_websocket_and_a_page_on_one_path_are_told_apart() -> None:
    app, socket = bare(), socket_endpoint()
    app.add_api_websocket_route("/x", socket)
    app.add_api_route("/x", marked, response_model=None)
    table = RouteTable(app)
    for _ in range(2):
        assert table.find(websocket("/x")).endpoint is socket
        assert table.find(http("/x")).endpoint is marked


def test_a_wrong_method_has_no_marks_and_a_redirect_or_unknown_path_no_route() -> None:
    app = Starlette(routes=[Route("/x", marked), Mount("/m", routes=[Route("/x", marked)])])
    table = RouteTable(app)
    for scope, answered in ((http("/x", "POST"), 405), (http("/x/"), 307), (http("/y"), 404), (http("/m/y"), 404)):
        found = table.find(scope)
        assert found.marks == Marks()
        assert (found is table.unmatched) == (answered != 405 and not scope["path"].startswith("/m"))
        assert status(app, scope) == answered
    assert table.find(http("/x", "HEAD")).marks.limits


def test_the_table_knows_whether_anything_is_marked() -> None:
    app, router, below = bare(), APIRouter(), Router([Route("/y", endpoint())])
    app.add_api_route("/x", endpoint(), response_model=None)
    app.include_router(router)
    app.mount("/m", Router([Mount("/n", app=below)]))
    probe = Noticing(app)
    at_first = probe.table.marked
    assert not at_first
    below.routes.append(Route("/x", marked))
    probe.ask(http("/m/n/x"))
    assert probe.table.marked
    del below.routes[-1]
    probe.table.build()
    router.add_api_route("/z", marked, response_model=None)
    probe.ask(http("/z"))
    assert probe.table.marked


def test_marks_of_classes_methods_and_partial_functions_are_seen() -> None:
    class Pages(HTTPEndpoint):
        pass

    class Shop:
        @limit("1/second")
        async def page(self, request: Request) -> Response:
            return PlainTextResponse("page")

    app = Starlette(
        routes=[
            Route("/class", limit("1/second")(Pages)),
            Route("/method", Shop().page),
            Route("/partial", partial(marked)),
        ]
    )
    table = RouteTable(app)
    for path in ("/class", "/method", "/partial"):
        assert [each.text for each in table.find(http(path)).marks.limits] == ["1/second"]


def test_an_exchanged_pattern_is_asked_whatever_the_path_looks_like() -> None:
    app = bare()
    app.routes.append(AnyCase("/shout/{x}", marked))
    app.router.add_api_route("/api", other, route_class_override=AnyCaseAPIRoute, response_model=None)
    table = RouteTable(app)
    assert table.find(http("/SHOUT/1")).endpoint is marked
    assert table.find(http("/Api")).endpoint is other


def test_matches_of_ones_own_is_asked_whatever_the_path_looks_like() -> None:
    app, router = bare(), APIRouter(route_class=LowerCase)
    router.add_api_route("/x", marked, response_model=None)
    app.include_router(router, prefix="/in")
    app.routes.append(Suffix(".suffix", other))
    table = RouteTable(app)
    assert table.find(http("/IN/X")).endpoint is marked
    assert table.find(http("/any/where.suffix")).endpoint is other


def test_a_mount_of_an_app_in_itself_is_read() -> None:
    app = Starlette(routes=[Route("/x", marked)])
    app.mount("/again", app)
    probe = Noticing(app)
    assert probe.table.find(http("/x")).endpoint is marked
    assert status(app, http("/again/again/x")) == 200
    probe.rebuilds(http("/again/x"), http("/again/again/x"))
    assert probe.rebuilds(http("/again/x"), http("/again/again/x")) == 0


def test_a_list_of_something_else_on_a_middleware_is_not_taken_for_routes() -> None:
    class Metrics:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app
            self.routes = ["/health"]

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/x", marked)])
    assert router_of(Metrics(app)) is app
    assert RouteTable(Metrics(app)).find(http("/x")).endpoint is marked


def test_an_app_without_routes_has_nothing_to_find() -> None:
    table = RouteTable(answer)
    assert table.find(http("/x")) is table.unmatched
    assert table.find(http("/x")) is table.unmatched
    assert table.generation == 1


@pytest.mark.parametrize("path", ["/n/" + "9" * 5000, "/m/" + "9" * 5000 + "/x", "/m/1/" + "9" * 5000])
def test_a_number_too_long_to_convert_matches_nothing(path: str) -> None:
    below = [Route("/x", marked), Route("/{n:int}", marked)]
    app = Starlette(routes=[Route("/n/{n:int}", marked), Mount("/m/{i:int}", routes=below)])
    table = RouteTable(app)
    assert table.find(http(path)) is table.unmatched
    with pytest.raises(ValueError, match="integer string conversion"):
        run(app, http(path))


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def test_what_is_kept_is_bounded_in_paths_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_table, "MOST_PATHS", 100)
    app = bare()
    app.add_api_route("/static", marked, methods=None, response_model=None)
    app.router.routes += [
        Route("/p/{x}", marked),
        Route("/q/{x:path}", marked),
        AnyCase("/any", marked),
        Mount("/m/{x}", routes=[Route("/static", marked)]),
        Mount("/o", app=answer),
        Route("/every", Suffix("", other).handle, methods=["GET", "PURGE"]),
        Suffix(".suffix", other),
    ]
    router = APIRouter(route_class=LowerCase)
    router.add_api_route("/lower", marked, response_model=None)
    app.include_router(router, prefix="/{tenant}")
    table = RouteTable(app)
    for number in range(300):
        odd = "".join(letter.upper() if number >> at & 1 else letter for at, letter in enumerate("anylower"))
        for path in (
            *(f"/static{end}" for end in ("", "\n", "\n" * number, "/" * number)),
            *(f"/{kind}/{number}" for kind in "pqmo"),
            f"/m/{number}/static",
            f"/{number}",
            f"/{number}.suffix",
            f"/{odd[:3]}",
            f"/{number}/{odd[3:]}",
        ):
            for method in ("GET", "POST", f"ODD{number}", "get"):
                table.find(http(path, method))
                table.find(http(path, method, root_path=f"/r{number}"))
                table.find(http(f"/r{number}{path}", method, root_path=f"/r{number}"))
        table.find(http("/every", f"M{number}"))
        assert len(table._memo) <= 100
    kept = [(path, method) for path, methods in table._memo.items() for method in methods]
    assert "/q/299" in table._memo
    assert {method for _, method in kept} <= {"GET", "POST"}
    assert not [path for path, _ in kept if path.startswith(("/o", "/any")) or "suffix" in path or "lower" in path]


def test_a_long_path_is_not_kept() -> None:
    table = RouteTable(Starlette(routes=[Route("/p/{x}", marked)]))
    for length in (10, 100_000):
        assert table.find(http(f"/p/{'x' * length}")).endpoint is marked
    assert list(table._memo) == ["/p/xxxxxxxxxx"]


def test_two_hosts_are_told_apart_on_one_path() -> None:
    app = Starlette(
        routes=[
            Host("a.test", app=Router([Route("/x", marked)])),
            Host("{sub}.b.test", app=Router([Route("/x", other)])),
            Route("/x", HTTPEndpoint),
        ]
    )
    table = RouteTable(app)
    for _ in range(2):
        assert table.find(http("/x", host="a.test")).endpoint is marked
        assert table.find(http("/x", host="A.TEST:8000")).endpoint is marked
        assert table.find(http("/x", host="sub.b.test")).endpoint is other
        assert table.find(http("/x", host="c.test")).endpoint is HTTPEndpoint
        assert table.find(http("/x")).endpoint is HTTPEndpoint


def test_what_a_route_class_decides_by_a_header_is_not_kept() -> None:
    app, router = bare(), APIRouter(route_class=SecondVersion)
    router.add_api_route("/x", marked, response_model=None)
    app.include_router(router)
    app.add_api_route("/x", other, response_model=None)
    table = RouteTable(app)
    for _ in range(2):
        assert table.find(http("/x", version="2")).endpoint is marked
        assert table.find(http("/x")).endpoint is other


def test_two_root_paths_are_told_apart_on_one_path() -> None:
    app = Starlette(routes=[Route("/a/x", marked), Route("/x", other)])
    table = RouteTable(app)
    for _ in range(2):
        assert table.find(http("/a/x")).endpoint is marked
        assert table.find(http("/a/x", root_path="/a")).endpoint is other


# ---------------------------------------------------------------------------------------------------------------------
# Staleness


def test_a_route_added_while_the_app_runs_is_seen_at_once() -> None:
    app = bare()
    probe = Noticing(app)
    assert probe.ask(http("/x")) is probe.table.unmatched
    app.add_api_route("/x", marked, response_model=None)
    assert probe.ask(http("/x")).endpoint is marked
    assert probe.rebuilds(http("/x")) == 0


def test_a_route_taken_away_is_seen_at_once() -> None:
    app = Starlette(routes=[Route("/x", marked), Route("/x", other)])
    probe = Noticing(app)
    assert probe.ask(http("/x")).endpoint is marked
    del app.routes[0]
    assert probe.ask(http("/x")).endpoint is other
    del app.routes[0]
    assert probe.ask(http("/x")) is probe.table.unmatched


def test_a_route_added_to_an_included_router_is_noticed_when_it_first_answers() -> None:
    app, router, nested = bare(), APIRouter(), APIRouter()
    router.include_router(nested)
    app.include_router(router, prefix="/in")
    probe = Noticing(app)
    nested.add_api_route("/x", marked, response_model=None)
    assert probe.ask(http("/in/x")).endpoint is None
    assert probe.ask(http("/in/x")).endpoint is marked
    assert probe.rebuilds(*[http("/in/x")] * 3) == 0


def test_each_path_added_for_one_endpoint_is_noticed() -> None:
    app, router = bare(), APIRouter()
    app.include_router(router)
    probe = Noticing(app)
    for number in range(4):
        router.add_api_route(f"/x{number}", marked, response_model=None)
        probe.ask(http(f"/x{number}"))
        assert probe.ask(http(f"/x{number}")).endpoint is marked


def test_a_route_added_below_a_mount_is_seen_at_once() -> None:
    below = Router()
    app = bare()
    app.mount("/m", Router([Mount("/n", app=below)]))
    probe = Noticing(app)
    assert probe.ask(http("/m/n/x")).endpoint is below
    below.routes.append(Route("/x", marked))
    assert probe.ask(http("/m/n/x")).endpoint is marked


def test_a_kept_route_taken_away_below_a_mount_is_noticed_when_it_no_longer_answers() -> None:
    below = Router([Route("/x", marked), Route("/y", other)])
    probe = Noticing(Starlette(routes=[Mount("/m", app=below)]))
    assert probe.ask(http("/m/x")).endpoint is marked
    assert probe.ask(http("/m/x")).endpoint is marked
    del below.routes[0]
    probe.ask(http("/m/x"))
    assert probe.ask(http("/m/x")).endpoint is below


def test_a_kept_route_with_another_before_it_below_a_mount_is_noticed() -> None:
    below = Router([Route("/x", marked)])
    probe = Noticing(Starlette(routes=[Mount("/m", app=below)]))
    probe.ask(http("/m/x"))
    below.routes.insert(0, Route("/x", other))
    probe.ask(http("/m/x"))
    assert probe.ask(http("/m/x")).endpoint is other


def hidden(router: Router) -> ASGIApp:
    """A router that nothing shows from outside."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await router(scope, receive, send)

    return app


def test_a_router_that_is_hidden_costs_one_rebuild_per_endpoint() -> None:
    inner = Router([Route("/x", marked), Route("/y", other)])
    probe = Noticing(Starlette(routes=[Mount("/m", app=hidden(inner)), Route("/z", marked)]))
    assert probe.rebuilds(*[http("/m/x")] * 5) == 1
    assert probe.rebuilds(*[http("/m/y"), http("/m/x")] * 5) == 1
    assert probe.rebuilds(http("/z"), http("/z")) == 0


def test_many_hidden_endpoints_do_not_cost_a_rebuild_each_time() -> None:
    inner = Router([Route(f"/{number}", endpoint()) for number in range(300)])
    probe = Noticing(Starlette(routes=[Mount("/m", app=hidden(inner))]))
    every = [http(f"/m/{number}") for number in range(300)]
    first = probe.rebuilds(*every)
    assert first < 120
    assert probe.rebuilds(*every, *every) < 12


def test_after_many_hidden_endpoints_an_added_route_is_still_noticed() -> None:
    inner = Router([Route(f"/{number}", endpoint()) for number in range(300)])
    app, router = bare(), APIRouter()
    app.include_router(router)
    app.routes.append(Mount("/m", app=hidden(inner)))
    probe = Noticing(app)
    for number in range(300):
        run(probe, http(f"/m/{number}"))
    router.add_api_route("/x", marked, response_model=None)
    for _ in range(300):
        if probe.ask(http("/x")).endpoint is marked:
            break
    assert probe.ask(http("/x")).endpoint is marked


def test_an_app_that_stands_below_another_router_costs_no_rebuild_for_unknown_paths() -> None:
    probe = Noticing(Starlette(routes=[Route("/x", marked)]))
    outer = Starlette(routes=[Mount("/sub", app=probe)])
    run(outer, http("/sub/y"))
    before = probe.table.generation
    for _ in range(5):
        run(outer, http("/sub/y"))
        run(outer, http("/sub/x"))
    assert probe.found is not None
    assert probe.found.endpoint is marked
    assert probe.table.generation == before


# ---------------------------------------------------------------------------------------------------------------------
# Cost


@pytest.mark.parametrize("size", [10, 1_000, 10_000])
def test_few_routes_are_asked_however_many_there_are(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    routes: list[BaseRoute] = []
    for number in range(size // 5):
        routes += [
            Route(f"/static/{number}", marked),
            Route(f"/items/{{id}}/part{number}", marked),
            Route(f"/v{number}/{{a}}/{{b:int}}", marked),
            Route(f"/{{tenant}}/{number}/{{rest:path}}", marked),
            Mount(f"/mount{number}", routes=[Route("/x", marked)]),
        ]
    table = RouteTable(Starlette(routes=routes))
    asked: list[object] = []
    for kind in (Route, Mount):
        monkeypatch.setattr(kind, "matches", _counted(kind.matches, asked))
    table.build()
    last = size // 5 - 1
    unknown = ("/nowhere", "/items/x/nowhere", "/" + "a/" * 1000)
    for path in (
        f"/static/{last}",
        f"/items/7/part{last}",
        f"/v{last}/a/7",
        f"/t/{last}/a/b/c",
        f"/mount{last}/x",
        *unknown,
    ):
        asked.clear()
        found = table.find(http(path))
        assert (found is table.unmatched) == (path in unknown)
        assert len(asked) <= 3
    asked.clear()
    table.find(http(f"/static/{last}"))
    assert asked == []


def _counted(matches: Callable[..., tuple[Match, Scope]], asked: list[object]) -> Callable[..., tuple[Match, Scope]]:
    @wraps(matches)
    def counted(self: BaseRoute, scope: Scope) -> tuple[Match, Scope]:
        asked.append(self)
        return matches(self, scope)

    return counted


# ---------------------------------------------------------------------------------------------------------------------
# Routes that can't be read


async def started(app: ASGIApp) -> Message:
    """What an app answers to its start."""
    first: list[Message] = []
    received = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(received)}

    async def send(message: Message) -> None:
        first.append(message)

    with contextlib.suppress(ConfigurationError):  # raised after it was told
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return first[0]


class Group(Closed):
    """Hides an endpoint below routes of its own."""

    routes: Sequence[BaseRoute] = ()


@pytest.mark.parametrize("hides", [Closed, Group])
def test_a_route_that_hides_its_endpoint_is_a_warning_at_start(
    hides: type[Closed], caplog: pytest.LogCaptureFixture
) -> None:
    app = bare()
    app.routes.append(hides("/x", marked))
    TrafficCop().install(app)
    with caplog.at_level(logging.WARNING, "traffic_cop"):
        assert asyncio.run(started(app)) == {"type": "lifespan.startup.complete"}
    [told] = [record.getMessage() for record in caplog.records if "can't be read" in record.getMessage()]
    assert hides.__name__ in told
    assert "`matches` and `endpoint`" in told


@pytest.mark.parametrize("below", [False, True])
def test_a_route_that_hides_its_endpoint_stops_a_strict_start(below: bool) -> None:
    app = Starlette(routes=[Mount("/m", routes=[Closed("/x", marked)])] if below else [Closed("/x", marked)])
    TrafficCop(strict_routes=True).install(app)
    for _ in range(2):
        answered = asyncio.run(started(app))
        assert answered["type"] == "lifespan.startup.failed"
        assert "Closed" in answered["message"]
        assert answered["message"].startswith("Traffic Cop: routes that can't be read")


def test_routes_that_can_be_read_let_a_strict_start_pass(caplog: pytest.LogCaptureFixture) -> None:
    app, router = bare(), APIRouter(route_class=LowerCase)
    router.add_api_route("/x", marked, response_model=None)
    router.routes.append(Host("h.test", app=answer))
    app.include_router(router, prefix="/in")
    app.router.routes += [Suffix("x", marked), Mount("/m", app=answer), AnyCase("/y", marked)]
    TrafficCop(strict_routes=True).install(app)
    assert asyncio.run(started(app)) == {"type": "lifespan.startup.complete"}
    assert "can't be read" not in caplog.text


def test_an_unreadable_route_added_while_a_strict_app_runs_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=[Route("/x", marked)])
    table = RouteTable(app, strict=True)
    table.build()
    app.routes.append(Closed("/y", marked))
    with caplog.at_level(logging.WARNING, "traffic_cop"):
        assert table.find(http("/x")).endpoint is marked
        assert caplog.text.count("can't be read") == 1
        app.routes.append(Route("/z", other))
        assert table.find(http("/z")).endpoint is other
    assert caplog.text.count("can't be read") == 1
    with pytest.raises(ConfigurationError, match="Closed"):
        table.build()
