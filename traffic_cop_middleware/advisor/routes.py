"""Which route a logged request reached, and which limits stand on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from traffic_cop_middleware.abstractions.advisor.folding import folded
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.contracts.usage import REST
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.marks import Limit, Marks
from traffic_cop_middleware.middleware.route_table import Matched, RouteTable

MOST_ROUTES = 5_000
"""Routes that are told apart where paths are folded: a scanner's paths are endless."""
MOST_PATHS = 50_000


class LoggedRoutes:
    """Finds a request's route: as `app` or `templates` ("/items/{id}") say, else as the log says, else by its path.

    `limits` are limits on routes, by template. Of an app's routes the `@exempt` marks count, and with `marks` the
    `@limit` marks too.

    Raises:
        ConfigurationError: app and templates are both given, a template can't be read, or a limit is on a route that
            the app does not have.
    """

    def __init__(
        self,
        *,
        app: Any = None,
        templates: Iterable[str] = (),
        limits: Mapping[str, tuple[Limit, ...]] | None = None,
        marks: bool = False,
    ) -> None:
        templates = tuple(templates)
        if app is not None and templates:
            raise ConfigurationError("app= and templates= both say which routes there are: give one of them")
        if templates:
            app = _app_of(templates)
        self._limits = limits or {}
        self._marks = marks
        self._table = RouteTable(app) if app is not None else None
        if self._table is not None:
            self._table.build()
        self._routes: dict[str, Matched] = {}
        self._found: dict[tuple[str, str], Matched] = {}

    def of(self, request: LoggedRequest) -> Matched:
        """The route that the request reached, with its limits as marks."""
        if self._table is None and request.route:
            return self._matched(request.route, exempt=False, own=())
        place = request.method, request.path
        found = self._found.get(place)
        if found is None:
            if len(self._found) >= MOST_PATHS:
                self._found.clear()
            found = self._found[place] = self._look_up(request)
        return found

    def _look_up(self, request: LoggedRequest) -> Matched:
        if self._table is None:
            return self._matched(folded(request.path), exempt=False, own=())
        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "raw_path": request.path.encode("utf-8", "surrogateescape"),
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        reached = self._table.find(scope)
        own = reached.marks.limits if self._marks else ()
        return self._matched(reached.template, exempt=reached.marks.exempt, own=own, at=id(reached))

    def _matched(self, template: str, *, exempt: bool, own: tuple[Limit, ...], at: int = 0) -> Matched:
        # A template may stand under several methods with other marks: the app's own entry tells them apart.
        name = f"{template} {at}" if at else template
        known = self._routes.get(name)
        if known is None:
            if not at and len(self._routes) >= MOST_ROUTES and template not in self._limits:
                return self._matched(REST, exempt=False, own=()) if template != REST else self._new(REST, REST, Marks())
            known = self._new(name, template, Marks(limits=(*self._limits.get(template, ()), *own), exempt=exempt))
        return known

    def _new(self, name: str, template: str, marks: Marks) -> Matched:
        found = self._routes[name] = Matched(template, None, marks)
        return found


def _app_of(templates: Iterable[str]) -> Starlette:
    def endpoint(request: Any) -> None:
        """Never called: only its path is asked for."""

    routes = []
    for template in templates:
        try:
            routes.append(Route(template, endpoint, methods=METHODS))
        except (ValueError, AssertionError) as exc:
            raise ConfigurationError(f"templates: {template!r} can't be read as a route's path: {exc}") from exc
    return Starlette(routes=routes)


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
