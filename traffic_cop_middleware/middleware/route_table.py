"""Which endpoint a request will reach, before it gets there.

Theory of operation. The routes of an app are walked once, in order, into a trie over path segments (`route_index.py`).
A look-up asks the trie for the few routes whose shape fits the path and then lets each route's own `matches` decide,
exactly as the framework's router will: the first full match, else the first partial one (a 405), else nothing.
Mounts and hosts are levels of their own, entered with the scope that the framework would enter them with. FastAPI's
included routers are lazy since 0.137; `fastapi.routing.iter_route_contexts` lists what they hold, in order.

What the frameworks' own routes answered is kept for the last paths, where their parameters are of the frameworks' own
types too: their `matches` look at the type, method and path alone.

A table can go stale: routes may be added while the app runs. A change of the number of routes is seen at once; a route
added to an included router is seen when a response starts, because the endpoint in the scope is not the expected one
(`noticed`). Then the table is built anew. Where that changes nothing, a router stands behind an app that shows no
routes: such endpoints are remembered, and past a bound they are looked into ever more rarely.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from starlette.convertors import FloatConvertor, IntegerConvertor, PathConvertor, StringConvertor, UUIDConvertor
from starlette.routing import BaseRoute, Host, Match, Mount, WebSocketRoute
from starlette.types import Scope

from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.framework_routes import Matches, is_compiled, is_frameworks, matches_of, shape_of
from traffic_cop_middleware.middleware.marks import Marks, is_marked, marks_of
from traffic_cop_middleware.middleware.request_state import state_marks
from traffic_cop_middleware.middleware.route_index import RouteIndex, Shape

log = logging.getLogger("traffic_cop")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
MOST_FOREIGN = 100
MOST_PATIENCE = 1000
MOST_PATHS = 4096
LONGEST_PATH = 256
"""Characters of a path that is kept."""
CONVERTORS = frozenset({StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor, PathConvertor})


class StaleError(LookupError):
    """Routes were added below a mount since the table was built."""


class Matched:
    """What a request reaches: `template` ("/items/{id}"), its `endpoint`, and the `marks` on it.

    `plans` is room for the limiter to keep what it worked out for this route, `told` what it says of most requests.
    """

    __slots__ = ("__weakref__", "endpoint", "marks", "plans", "template", "told")

    def __init__(self, template: str, endpoint: object, marks: Marks) -> None:
        self.template = template
        self.endpoint = endpoint
        self.marks = marks
        self.plans: dict[Any, Any] = {}
        self.told: Mapping[str, str] = {"route": template, "source": "store"}


UNMATCHED = Matched("__unmatched__", None, Marks())


class Entry:
    """One route at its place in the order."""

    __slots__ = ("full", "inner", "lasting", "matches", "partial", "pure")

    def __init__(
        self, template: str, endpoint: object, matches: Matches, inner: Level | None, lasting: bool, *, marks: Marks
    ) -> None:
        self.full = Matched(template, endpoint, marks)
        # A wrong method is answered 405 without entering the endpoint, so its marks say nothing.
        self.partial = Matched(template, endpoint, Marks())
        self.matches = matches
        self.inner = inner
        self.pure = is_frameworks(matches) and getattr(matches, "__func__", None) is not Host.matches
        self.lasting = lasting


class Reading:
    """What is gathered while an app's routes are read."""

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self.marks: list[tuple[str, Marks]] = []
        """The marks on each route's endpoint that has some, with its template."""
        self.routes: list[tuple[str, int, int]] = []
        """Each route's template, identity and endpoint's identity: whether two readings saw the same."""
        self.declared: dict[str, set[str]] = {}
        """The methods of each route that is part of the app's API, by template; none where it takes any."""
        self.above: list[Any] = []
        """The routers that are being read, so that an app mounted in itself comes to an end."""

    def declare(self, template: str, route: Any) -> None:
        """Note a route for HTTP, unless it is left out of the API's description as FastAPI's own pages are."""
        if getattr(route, "include_in_schema", True):
            methods = set(getattr(route, "methods", None) or ())
            # Starlette answers HEAD where GET is: that nobody asks for it says nothing.
            self.declared.setdefault(template, set()).update(methods - {"HEAD"} if "GET" in methods else methods)

    def level(self, app: Any, prefix: str) -> Level | None:
        """The routes of `app`, if it shows any."""
        router = router_of(app)
        if router is None or any(router is each for each in self.above):
            return None
        self.above.append(router)
        level = Level(router, prefix, self)
        self.above.pop()
        return level


class Level:
    """The routes of one router; a mount's or host's app is a level below."""

    def __init__(self, router: Any, prefix: str, reading: Reading) -> None:
        self.root_path: str = getattr(router, "root_path", "") or ""
        self.router = getattr(router, "router", router)
        self.count = len(self.router.routes)
        self.index: RouteIndex[Entry] = RouteIndex()
        self.marked = False
        for shape, entry in _entries(self.router.routes, prefix, reading):
            self.index.add(shape, entry)
            if entry.full.marks != Marks():
                self.marked = True
                reading.marks.append((entry.full.template, entry.full.marks))
            self.marked |= entry.inner is not None and entry.inner.marked


class RouteTable:
    """Looks up what a request will reach in `app`. Built when first asked.

    `check` is called at the start with the template and marks of each marked route, and may raise.

    Raises:
        ConfigurationError: with `strict`, a route is of a class that can't be read.
    """

    def __init__(self, app: Any, *, strict: bool = False, check: Callable[[str, Marks], None] | None = None) -> None:
        self._app = app
        self._check = check
        self._strict = strict
        self._level: Level | None = None
        self._built = False
        self._memo: dict[str, dict[str | None, Matched]] = {}
        self._memo_root: str | None = None
        self._routes: list[tuple[str, int, int]] = []
        self._declared: Mapping[str, Collection[str]] = {}
        self._told = ""
        self._foreign: dict[tuple[str, int], object] = {}
        self._patience = 0
        self._let_pass = 0
        self.unmatched = Matched(UNMATCHED.template, None, Marks())
        self.marked = False
        self.generation = 0

    def build(self) -> None:
        """Read the app's routes.

        Raises:
            ConfigurationError: with `strict`, a route is of a class that can't be read, or `check` says so.
        """
        for template, marks in self._read(strict=self._strict).marks:
            if self._check is not None:
                self._check(template, marks)

    def _read(self, *, strict: bool = False) -> Reading:
        """Read the routes; while requests run, what can't be read is a warning only."""
        reading = Reading()
        self._level = reading.level(self._app, "")
        self._routes = reading.routes
        self._declared = reading.declared
        self._memo = {}
        self._memo_root = None
        self._built = True
        self.marked = self._level is not None and self._level.marked
        self.generation += 1
        if reading.unreadable:
            told = (
                f"routes that can't be read, so that marks on their endpoints are not seen: "
                f"{', '.join(reading.unreadable)}. A route class gives `matches` and `endpoint` as "
                "starlette.routing.Route does"
            )
            if strict:
                raise ConfigurationError(told)
            if told != self._told:
                self._told = told
                log.warning("%s", told)
        return reading

    def find(self, scope: Scope) -> Matched:
        """What the request will reach; `unmatched` for a 404, a redirect, or an app without routes."""
        level = self._level
        if level is None or len(level.router.routes) != level.count:
            if self._built and level is None:
                return self.unmatched
            self._read(strict=self._strict and not self._built)
            level = self._level
            if level is None:
                return self.unmatched
        root = level.root_path or scope.get("root_path", "")
        if root == self._memo_root:
            known = self._memo.get(scope["path"])
            if known is not None and (matched := known.get(scope.get("method"))) is not None:
                return matched
        try:
            try:
                matched, lasting = _find(level, scope)
            except StaleError:
                self._read()
                matched, lasting = _find(self._level or level, scope)
        except Exception:
            # The route's own `matches` failed on this request, and will again when the app routes it.
            log.debug("a route failed to match %r", scope["path"], exc_info=True)
            return self.unmatched
        if matched is UNMATCHED:
            return self.unmatched
        if lasting and scope.get("method", "GET") in METHODS and len(scope["path"]) <= LONGEST_PATH:
            if self._memo_root is None:
                self._memo_root = root
            if root == self._memo_root:
                self._keep(scope, matched)
        return matched

    def _keep(self, scope: Scope, matched: Matched) -> None:
        if len(self._memo) >= MOST_PATHS:
            self._memo.clear()
        self._memo.setdefault(scope["path"], {})[scope.get("method")] = matched

    def templates(self) -> Mapping[int, str]:
        """The template of each endpoint to which only one leads, by its identity; empty for one of several."""
        if not self._built:
            self._read(strict=self._strict)
        found: dict[int, str] = {}
        for template, _, endpoint in self._routes:
            found[endpoint] = template if found.get(endpoint, template) == template else ""
        return found

    def declared(self) -> Mapping[str, Collection[str]]:
        """The methods of each HTTP route that is part of the app's API, by its template; none where it takes any."""
        level = self._level
        if not self._built or (level is not None and len(level.router.routes) != level.count):
            self._read(strict=self._strict and not self._built)
        return self._declared

    def path(self, scope: Scope) -> str:
        """The request's path below the app's root path: as its routes see it."""
        root = self._level.root_path if self._level is not None else ""
        return route_path(scope["path"], root or scope.get("root_path", ""))

    def noticed(self, scope: Scope, matched: Matched) -> None:
        """Compare with what the request reached; rebuild when the table is stale."""
        endpoint = scope.get("endpoint")
        if endpoint is matched.endpoint or endpoint is None:
            return
        place = (matched.template, id(endpoint))
        if place in self._foreign:
            return
        if self._let_pass:
            self._let_pass -= 1
            return
        # The old level keeps its routes alive, so that no identity is given twice.
        level, routes = self._level, self._routes
        self._read()
        if routes != self._routes:
            self._patience = 0
        elif len(self._foreign) < MOST_FOREIGN:
            self._foreign[place] = endpoint
            if is_marked(endpoint):
                log.warning(
                    "the marks on %r are not seen: it is reached through an app that shows no routes (a middleware "
                    "keeps what it wraps as `app`). Install the cop in the app that has the routes",
                    endpoint,
                )
        else:
            self._let_pass = self._patience = min(2 * self._patience + 1, MOST_PATIENCE)
        del level


def router_of(app: Any) -> Any:
    """The router in `app`, looking through the middlewares around it; `None` when there is none."""
    for _ in range(100):
        routes = getattr(app, "routes", None)
        if isinstance(routes, list) and all(isinstance(route, BaseRoute) for route in routes):
            return app
        app = getattr(app, "app", None)
        if app is None:
            return None
    return None


def _find(level: Level, scope: Scope) -> tuple[Matched, bool]:
    """The match, and whether it will be the same for every request of this type, method and path."""
    root = level.root_path or scope.get("root_path", "")
    if level.root_path:
        scope = {**scope, "root_path": root}
    lasting = True
    fallback: Matched | None = None
    for entry in level.index.candidates(route_path(scope["path"], root)):
        lasting = lasting and entry.pure
        match, child_scope = entry.matches(scope if entry.pure else dict(scope))
        if match is Match.FULL:
            if entry.inner is None:
                return entry.full, lasting and entry.lasting
            inner = entry.inner
            if len(inner.router.routes) != inner.count:
                raise StaleError
            matched, below = _find(inner, {**scope, **child_scope})
            return (matched, lasting and below and entry.lasting) if matched is not UNMATCHED else (entry.full, False)
        if match is Match.PARTIAL and fallback is None:
            fallback = entry.partial
    return fallback or UNMATCHED, False


def route_path(path: str, root_path: str) -> str:
    """The path that routes see: below `root_path`, as starlette.routing cuts it."""
    if not root_path or not path.startswith(root_path):
        return path
    if path == root_path:
        return ""
    return path[len(root_path) :] if path[len(root_path)] == "/" else path


def _entries(routes: Sequence[BaseRoute], prefix: str, reading: Reading) -> Iterator[tuple[Shape, Entry]]:
    """Each route as the shape of its path (`route_index.py`) and its entry, in the order they are tried."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    for route in contexts(routes) if contexts is not None else routes:
        original = getattr(route, "original_route", route)
        effective = getattr(route, "_effective_route", route)
        path: str | None = getattr(effective, "path_format", None)
        convertors = getattr(effective, "param_convertors", {})
        matches = matches_of(original, effective)
        # Elsewhere the path is but a name: what is matched, `matches` or an exchanged `path_regex` knows.
        by_path = is_frameworks(matches) and path is not None and is_compiled(effective, path, convertors)
        inner: Level | None = None
        if isinstance(effective, (Mount, Host)):
            here = "" if isinstance(effective, Host) else (path or "").removesuffix("/{path}")
            endpoint: object = effective.app
            template = prefix + here + ("/{path}" if isinstance(effective, Mount) else "")
            inner = reading.level(effective.app, prefix + here)
            lasting = by_path and inner is not None
            if inner is None:
                reading.declare(template, effective)
        else:
            endpoint = getattr(effective, "endpoint", None)
            template = prefix + (path or "")
            lasting = by_path
            if endpoint is None:
                reading.unreadable.append(repr(original))
            elif not isinstance(original, WebSocketRoute):
                reading.declare(template, effective)
        reading.routes.append((template, id(original), id(endpoint)))
        lasting = lasting and CONVERTORS.issuperset(map(type, convertors.values()))
        marks = state_marks(effective, marks_of(endpoint))
        yield (
            shape_of(path if by_path else None, convertors),
            Entry(template, endpoint, matches, inner, lasting, marks=marks),
        )
