"""The table against the frameworks' own routing: what it says beforehand is what the request then reaches."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.exceptions import FastAPIError
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette._utils import get_route_path
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from traffic_cop_middleware import TrafficCop, exempt, limit
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.marks import Marks, marks_of
from traffic_cop_middleware.middleware.route_table import METHODS, Matched, RouteTable, route_path, router_of

# ---------------------------------------------------------------------------------------------------------------------
# Apps to ask about, and requests to put to them


def http(path: str, method: str = "GET", *, root_path: str = "", **headers: str) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("testserver", 80),
        "client": ("192.0.2.1", 5000),
        "state": {},
    }


def websocket(path: str, *, root_path: str = "", **headers: str) -> Scope:
    scope = {**http(path, root_path=root_path, **headers), "type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    return scope


def endpoint(calls: list[object] | None = None) -> Callable[[Request], Awaitable[Response]]:
    """A new endpoint, which tells `calls` of itself when it is reached."""

    async def reached(request: Request) -> Response:
        if calls is not None:
            calls.append(reached)
        return PlainTextResponse("reached")

    return reached


def socket_endpoint(calls: list[object] | None = None) -> Callable[[WebSocket], Awaitable[None]]:
    async def reached(websocket: WebSocket) -> None:
        if calls is not None:
            calls.append(reached)
        await websocket.accept()
        await websocket.close()

    return reached


async def _run(app: ASGIApp, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        if scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({**scope}, receive, send)
    return sent


def run(app: ASGIApp, scope: Scope) -> list[Message]:
    """What the app sends for one request."""
    return asyncio.run(_run(app, scope))


def status(app: ASGIApp, scope: Scope) -> int:
    started: int = run(app, scope)[0]["status"]
    return started


def bare(*, root_path: str = "", **kwargs: Any) -> FastAPI:
    """FastAPI without its own routes for the documentation."""
    app = FastAPI(openapi_url=None, **kwargs)
    app.root_path = root_path  # as an argument it is deprecated, and still in use
    return app


class Noticing:
    """Asks a table and notices what was reached, as the limiter does: at the response's start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.table = RouteTable(app)
        self.table.build()
        self.found: Matched | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.found = self.table.find(scope)

        async def send_and_notice(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.table.noticed(scope, found)
            await send(message)

        await self.app(scope, receive, send_and_notice)

    def ask(self, scope: Scope) -> Matched:
        """What the table said of a request that then ran."""
        run(self, scope)
        assert self.found is not None
        return self.found

    def rebuilds(self, *scopes: Scope) -> int:
        """How often the table was built again while these requests ran."""
        before = self.table.generation
        for scope in scopes:
            run(self, scope)
        return self.table.generation - before


# ---------------------------------------------------------------------------------------------------------------------
# Route classes that people write


class AnyCase(Route):
    """A well-known recipe: the pattern is exchanged, `matches` is Starlette's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


class AnyCaseAPIRoute(APIRoute):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)


class LowerCase(APIRoute):
    """Matches what it would not by its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "path": scope["path"].lower()})


class SecondVersion(APIRoute):
    """Matches by a header."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if (b"version", b"2") not in scope["headers"]:
            return Match.NONE, {}
        return super().matches(scope)


class Suffix(BaseRoute):
    """A route of one's own, with no path at all."""

    def __init__(self, suffix: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        self.suffix = suffix
        self.endpoint = endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"].endswith(self.suffix):
            return Match.FULL, {"endpoint": self.endpoint}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class Closed(BaseRoute):
    """A route that hides its endpoint."""

    def __init__(self, path: str, reached: Callable[[Request], Awaitable[Response]]) -> None:
        self._path = path
        self._reached = reached

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and scope["path"] == self._path:
            return Match.FULL, {"endpoint": self._reached}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._reached(Request(scope, receive, send))
        await response(scope, receive, send)


# ---------------------------------------------------------------------------------------------------------------------
# Random tables. A specification is plain data, so that Hypothesis can shrink and print it.


@dataclass(frozen=True)
class Item:
    kind: str
    path: str
    methods: tuple[str, ...] | None = None
    below: Table | None = None


@dataclass(frozen=True)
class Table:
    kind: str
    items: tuple[Item, ...]
    root_path: str = ""
    redirect_slashes: bool = True


TEXTS = ("a", "b", "A", "\u00e9", "a.b", "1", "", "x+y", "{odd-text}")
PARAMS = (
    "{%s}",
    "{%s:int}",
    "{%s:float}",
    "{%s:uuid}",
    "{%s:path}",
    "v{%s:int}",
    "{%s}.json",
    "{%s}-{%s_2}",
    "a{%s:path}b",
)
VALUES = {
    "str": ("a", "b", "1", "\u00e9", "a\nb", "a-b", "a.json", "A", "\n"),
    "int": ("1", "007", "\u0661", "9" * 5000),
    "float": ("1.5", "2", "1."),
    "uuid": ("12345678-1234-5678-1234-567812345678", "12345678123456781234567812345678"),
    "path": ("", "a", "a/b", "b/", "/", "a\n"),
}
HTTP_KINDS = ("route", "route", "any_case", "suffix", "marked_class")
API_KINDS = ("api", "api", "api", "lower_case", "second_version", "any_case_api", *HTTP_KINDS)
METHOD_SETS = (None, ("GET",), ("POST",), ("GET", "POST"), ("PURGE",))
HOSTS = ("a.test", "{sub}.test", "b.test")
PARAM = re.compile(r"{[a-zA-Z_]\w*(?::(\w+))?}", re.ASCII)


@st.composite
def paths(draw: st.DrawFn, depth: int, most: int = 3) -> str:
    path = ""
    for position in range(draw(st.integers(1, most))):
        if draw(st.integers(0, 2)) < 2:
            path += "/" + draw(st.sampled_from(TEXTS))
        else:
            path += "/" + draw(st.sampled_from(PARAMS)).replace("%s", f"p{depth}_{position}")
    return path


@st.composite
def tables(draw: st.DrawFn, depth: int = 0, inside: str = "") -> Table:
    """`inside` is the kind of the table above: FastAPI's routes only run inside a FastAPI app."""
    kinds = ["starlette", "fastapi", "fastapi", "fastapi"] if depth == 0 else ["starlette", "fastapi", "router"]
    if inside == "fastapi":
        kinds.append("api_router")
    kind = draw(st.sampled_from(kinds if inside != "include" else ["include"]))
    api = kind in ("fastapi", "api_router", "include")
    items = []
    for _ in range(draw(st.integers(0 if depth else 1, 4 if depth else 7))):
        choices = [*(API_KINDS if api else HTTP_KINDS), "socket"]
        if depth < 3:
            choices += ["mount", "mount", "host", "opaque"]
            if api:
                choices += ["include", "include"]
        each = draw(st.sampled_from(choices))
        below = None
        methods = None
        if each == "host":
            path = draw(st.sampled_from(HOSTS))
        elif each in ("mount", "include", "opaque"):
            path = draw(st.one_of(st.just(""), paths(depth, 2)))
            if each == "include":
                path = path.rstrip("/")
        else:
            path = draw(paths(depth))
            methods = draw(st.sampled_from(METHOD_SETS))
        if each in ("mount", "host"):
            below = draw(tables(depth + 1, "fastapi" if api else ""))
        elif each == "include":
            below = draw(tables(depth + 1, "include"))
        items.append(Item(each, path, methods, below))
    return Table(
        kind,
        tuple(items),
        draw(st.sampled_from(("", "", "", "/a", "/api"))) if kind == "fastapi" else "",
        draw(st.booleans()) or depth > 1,
    )


@dataclass
class Built:
    """A specification as an app."""

    calls: list[object] = field(default_factory=list)

    def app(self, table: Table) -> Any:
        redirect = table.redirect_slashes
        if table.kind == "starlette":
            app: Any = Starlette()
            app.router.redirect_slashes = redirect
        elif table.kind == "fastapi":
            app = bare(root_path=table.root_path, redirect_slashes=redirect)
        elif table.kind == "router":
            app = Router(redirect_slashes=redirect)
        else:
            app = APIRouter(redirect_slashes=redirect)
        for number, item in enumerate(table.items):
            self._add(app, item, number)
        return app

    def _add(self, app: Any, item: Item, number: int) -> None:
        router = getattr(app, "router", app)
        kind, path, methods = item.kind, item.path, list(item.methods) if item.methods else None
        if kind == "include":
            assert item.below is not None
            with suppress(FastAPIError):  # prefix and path both empty: refused, at times
                app.include_router(self.app(item.below), prefix=path)
        elif kind == "mount":
            assert item.below is not None
            below: ASGIApp = self.app(item.below)
            wrapped = [Middleware(RequestBodyLimitMiddleware, max_body_size=1000)] if number % 2 else None
            router.routes.append(Mount(path, app=below, middleware=wrapped))
        elif kind == "host":
            assert item.below is not None
            router.routes.append(Host(path, app=self.app(item.below)))
        elif kind == "opaque":
            router.routes.append(Mount(path, app=answer))
        elif kind == "socket":
            reached = self._marked(socket_endpoint(self.calls))
            if hasattr(app, "add_api_websocket_route") and number % 2:
                app.add_api_websocket_route(path, reached)
            else:
                router.routes.append(WebSocketRoute(path, reached))
        else:
            self._add_http(app, router, kind, path, methods, number)

    def _add_http(self, app: Any, router: Any, kind: str, path: str, methods: list[str] | None, number: int) -> None:
        calls = self.calls
        reached: Any = endpoint(calls)
        if kind == "marked_class":

            class Reached(HTTPEndpoint):
                async def get(self, request: Request) -> Response:
                    calls.append(Reached)
                    return PlainTextResponse("reached")

            router.routes.append(Route(path, self._marked(Reached), methods=methods))
        elif kind == "suffix":
            router.routes.append(Suffix(path[-2:], self._marked(reached)))
        elif kind in ("route", "any_case"):
            made = AnyCase if kind == "any_case" else Route
            if number % 2 and methods:  # Starlette's own way with an endpoint that is not a plain function
                reached = partial(reached)
            router.routes.append(made(path, self._marked(reached), methods=methods))
        else:
            classes = {"lower_case": LowerCase, "second_version": SecondVersion, "any_case_api": AnyCaseAPIRoute}
            api_router = getattr(app, "router", app)
            if number % 2:
                self._marked(reached)
            api_router.add_api_route(
                path, reached, methods=methods, route_class_override=classes.get(kind, APIRoute), response_model=None
            )
            if not number % 2:
                self._marked(reached)

    def _marked(self, reached: Any) -> Any:
        return MARK(reached)


MARK = limit("5/minute")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without routes."""
    if scope["type"] == "http":
        await PlainTextResponse("answer")(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


def templates(table: Table, prefix: str = "", host: str = "") -> Iterator[tuple[str, str]]:
    """Every path with a route at its end, and the host it is on."""
    for item in table.items:
        if item.kind == "host":
            assert item.below is not None
            yield from templates(item.below, prefix, item.path)
        elif item.below is not None:
            # Of a sub-app with a root path of its own: the path is then seen whole unless it begins with that.
            own = item.below.root_path
            yield prefix + item.path, host
            yield from templates(item.below, own or prefix + item.path.rstrip("/"), host)
            if own:
                yield from templates(item.below, prefix + item.path.rstrip("/"), host)
        else:
            yield prefix + item.path, host


@st.composite
def requests(draw: st.DrawFn, table: Table) -> Scope:
    known = list(templates(table)) or [("/", "")]
    template, host = draw(st.sampled_from(known))

    def fill(match: re.Match[str]) -> str:
        convertor = match[1] or "str"
        foreign = draw(st.integers(0, 7)) == 7
        return draw(st.sampled_from(VALUES["str"] if foreign else VALUES[convertor]))

    path = PARAM.sub(fill, template) or "/"
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        path = draw(st.sampled_from(MUTATIONS))(path, draw(st.integers(0, len(path))))
    root_path = draw(st.sampled_from(("", "", "", "", "/a", "/api", "/a/")))
    if draw(st.integers(0, 3)):
        path = (table.root_path or root_path) + path
    headers = {"host": host.replace("{sub}", "c") or draw(st.sampled_from(("a.test", "c.test:80", "B.TEST", "\u00e9")))}
    if draw(st.booleans()):
        headers["version"] = "2"
    if draw(st.integers(0, 5)) == 5:
        return websocket(path, root_path=root_path, **headers)
    method = draw(st.sampled_from(("GET", "GET", "GET", "HEAD", "POST", "OPTIONS", "PURGE", "get", "\u00e9", "")))
    return http(path, method, root_path=root_path, **headers)


MUTATIONS: tuple[Callable[[str, int], str], ...] = (
    lambda path, at: path + "/",
    lambda path, at: path.rstrip("/"),
    lambda path, at: path + "\n",
    lambda path, at: path + "\n\n",
    lambda path, at: path + "/\n",
    lambda path, at: path.replace("/", "//", 1),
    lambda path, at: path[:at] + "/" + path[at:],
    lambda path, at: path[:at] + "\u00e9" + path[at:],
    lambda path, at: path[:at] + path[at + 1 :],
    lambda path, at: path.upper(),
    lambda path, at: path + "/a" * 3000,
    lambda path, at: path + "x" * 5000,
    lambda path, at: path + "9" * 5000,
)


class Probe:
    """Asks the table, twice, before the app runs, and tells what the app then reached."""

    def __init__(self, app: ASGIApp, calls: list[object], outcomes: list[str]) -> None:
        self.app = app
        self.table = RouteTable(app)
        self.table.build()
        self.calls = calls
        self.outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        before = {**scope}
        found = self.table.find(scope)
        again = self.table.find(scope)
        assert scope == before, "asking leaves the scope alone"
        assert again is found
        self.calls.clear()
        statuses: list[int] = []

        async def send_and_see(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        generation = self.table.generation
        try:
            await self.app(scope, receive, send_and_see)
        except ValueError as exc:
            # A convertor failed inside the framework's own routing: an error 500, and no endpoint.
            if "integer string conversion" not in str(exc) or found.marks != Marks():
                raise
            self.outcomes.append("error")
            return
        reached = scope.get("endpoint")
        if self.calls:
            marked = self.calls[0]
            assert getattr(found.endpoint, "func", found.endpoint) is marked
            assert found.marks.limits == (MARK,)
        elif not (isinstance(found.endpoint, type) and statuses == [405]):
            # Starlette's HTTPEndpoint answers methods that it lacks inside the endpoint.
            assert found.marks == Marks()
        assert found.endpoint is reached
        if reached is None:
            assert found is self.table.unmatched
        self.table.noticed(scope, found)
        assert self.table.generation == generation, "nothing to notice in a fresh table"
        self.outcomes.append("reached" if self.calls else f"{statuses}")


def check(table: Table, scopes: Sequence[Scope], installed: bool) -> list[str]:
    """Put requests to an app with the probe around it, or installed in it; what became of them."""
    built = Built()
    app = built.app(table)
    outcomes: list[str] = []
    if installed:
        app.add_middleware(Probe, calls=built.calls, outcomes=outcomes)
    else:
        app = Probe(app, built.calls, outcomes)

    async def run_all() -> None:
        for scope in scopes:
            await _run(app, scope)

    asyncio.run(run_all())
    assert len(outcomes) == len(scopes)
    return outcomes


@st.composite
def cases(draw: st.DrawFn) -> tuple[Table, list[Scope], bool]:
    table = draw(tables())
    return table, draw(st.lists(requests(table), min_size=1, max_size=6)), draw(st.booleans())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_the_table_says_what_a_request_then_reaches(case: tuple[Table, list[Scope], bool]) -> None:
    check(*case)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_table_agrees_on_a_plain_starlette_router(data: st.DataObject) -> None:
    table = data.draw(tables(depth=2))
    check(table, data.draw(st.lists(requests(table), min_size=1, max_size=8)), installed=False)


@given(
    st.text(alphabet="/ab\n\u00e9", max_size=8),
    st.one_of(st.just(""), st.text(alphabet="/ab\n\u00e9", max_size=5)),
)
def test_the_path_below_a_root_path_is_cut_as_starlette_does(path: str, root_path: str) -> None:
    assert route_path(path, root_path) == get_route_path({"path": path, "root_path": root_path})


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


def test_what_is_kept_has_at_most_the_static_routes_and_their_methods() -> None:
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
    static = 2  # and with a last newline
    assert len(table._memo) <= static * 2 * len(METHODS)


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
