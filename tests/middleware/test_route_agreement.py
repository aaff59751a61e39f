"""On random tables the route table says what the running framework then does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
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
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.middleware.routing import (
    AnyCase,
    AnyCaseAPIRoute,
    LowerCase,
    SecondVersion,
    Suffix,
    _run,
    answer,
    bare,
    endpoint,
    http,
    socket_endpoint,
    websocket,
)
from traffic_cop_middleware import limit
from traffic_cop_middleware.middleware.marks import Marks
from traffic_cop_middleware.middleware.route_table import RouteTable, route_path

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
