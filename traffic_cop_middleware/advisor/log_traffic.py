"""The traffic of an access log, in order, with the clients, routes and keys that the limiter would see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.advisor.ordering import InOrder
from traffic_cop_middleware.adapters.access_logs.reading import AccessLog, LogFormat
from traffic_cop_middleware.advisor.keys import Clients
from traffic_cop_middleware.advisor.routes import LoggedRoutes
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.client_address import ClientAddress, TrustedProxies
from traffic_cop_middleware.middleware.marks import Limit
from traffic_cop_middleware.middleware.route_table import Matched

_new = tuple.__new__  # half the time of a call of the class


class Seen(NamedTuple):
    """A request with its client and its route."""

    request: LoggedRequest
    client: str
    route: Matched


class LogTraffic:
    """Reads a log once or several times."""

    def __init__(
        self,
        log: str | Path,
        *,
        format: LogFormat = "auto",
        fields: Mapping[str, str] | None = None,
        trusted_proxies: TrustedProxies = (),
        app: Any = None,
        templates: Iterable[str] = (),
        limits: Mapping[str, tuple[Limit, ...]] | None = None,
        marks: bool = False,
        window: float = 5.0,
    ) -> None:
        if not 0 <= window <= 3600:
            raise ConfigurationError(f"window={window!r}: lines are sorted within 0 to 3600 seconds")
        address = ClientAddress(trusted_proxies)
        self._log = AccessLog(log, format=format, fields=fields, behind_proxies=address.trusting)
        self._clients = Clients(address)
        self._templates = tuple(templates)
        self._app, self._marks = app, marks
        self._routes = LoggedRoutes(app=app, templates=self._templates, limits=limits, marks=marks)
        self._window = window
        self._late = 0

    def under(self, limits: Mapping[str, tuple[Limit, ...]]) -> LogTraffic:
        """The same lines once more, with other limits on routes."""
        again = copy(self)
        again._routes = LoggedRoutes(app=self._app, templates=self._templates, limits=limits, marks=self._marks)
        return again

    def __iter__(self) -> Iterator[Seen]:
        """The requests in order of time.

        Raises:
            ConfigurationError: the log can't be read.
        """
        ordered = InOrder(self._log, window=self._window)
        client_of, route_of = self._clients.of, self._routes.of
        for request in ordered:
            yield _new(Seen, (request, client_of(request), route_of(request)))
        self._late = ordered.late

    def notes(self, *, whole_seconds: bool) -> list[str]:
        """What is to be said of the last reading."""
        log, said = self._log, []
        if log.bad:
            said.append(f"{log.bad:,} of {log.lines:,} lines could not be read and are left out ({log.first_bad})")
        if self._late:
            said.append(
                f"{self._late:,} lines were more than {self._window:g} s late and were replayed at the time "
                "of the line before; a larger window sorts them"
            )
        if whole_seconds:
            said.append("the log's times are whole seconds: requests of one second were replayed at once")
        return said
