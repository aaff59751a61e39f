"""Logs of JSON lines, by the names of their fields: those of Caddy, of this package, and usual ones of nginx."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from traffic_cop_middleware.adapters.access_logs.clocks import seconds_of
from traffic_cop_middleware.adapters.access_logs.lines import path_of, request_line
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.errors import ConfigurationError

NAMES: Mapping[str, Sequence[str]] = {
    "time": ("time", "ts", "timestamp", "@timestamp", "msec", "time_iso8601", "time_local"),
    "client": ("client", "request.client_ip", "request.remote_ip", "remote_addr", "client_ip", "remote_ip", "ip"),
    "user": ("user", "user_id", "remote_user"),
    "method": ("method", "request.method", "request_method"),
    "path": ("path", "request.uri", "request_uri", "uri", "url"),
    "forwarded": ("http_x_forwarded_for", "x_forwarded_for", "request.headers.X-Forwarded-For"),
    "route": ("route",),
}
"""Where each part of a request is looked for, in order, where nothing else is said; a dot goes into an object."""
WITH_PROXIES = {"client": ("client", "request.remote_ip", "remote_addr", "remote_ip", "client_ip", "ip")}
"""Where proxies are named here, the peer counts, and not what the server has made of the header."""


LONGEST_PEER = 256
"""Characters of an address: a name, at the most."""


class JsonLines:
    """Reads JSON lines. `fields` says where a part of a request is: `{"time": "ts", "user": "auth.name"}`.

    Raises:
        ConfigurationError: there is no such part.
    """

    def __init__(self, fields: Mapping[str, str] | None = None, *, behind_proxies: bool = False) -> None:
        fields = fields or {}
        unknown = [name for name in fields if name not in NAMES]
        if unknown:
            raise ConfigurationError(f"fields={dict(fields)!r}: {unknown[0]!r} is none of {', '.join(NAMES)}")
        names = {**NAMES, **WITH_PROXIES} if behind_proxies else NAMES
        self._ways = {
            part: tuple((name, name.split(".")) for name in ((fields[part],) if part in fields else names[part]))
            for part in NAMES
        }
        self._wanted = frozenset(fields)

    def parse(self, text: str) -> LoggedRequest:
        """The request of a line.

        Raises:
            ValueError: it is no JSON object, or lacks its time, address or path.
        """
        line = json.loads(text)
        if not isinstance(line, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - a bad line, like others
        get = self._get
        time = get(line, "time")
        if time is None:
            raise ValueError("no time")
        method, target = get(line, "method"), get(line, "path")
        if not isinstance(target, str):
            request = line.get("request")
            if not isinstance(request, str):
                raise ValueError("no path")  # noqa: TRY004 - a bad line, like others
            method, path = request_line(request)
        else:
            path = path_of(target)
        client, user, forwarded, route = (get(line, part) for part in ("client", "user", "forwarded", "route"))
        if isinstance(forwarded, list):
            forwarded = ", ".join(map(str, forwarded))
        peer = word(client)
        if len(peer) > LONGEST_PEER or (client is not None and not peer):
            raise ValueError("no address")
        return LoggedRequest(
            seconds_of(time),
            peer,
            word(user),
            word(method).upper() or "GET",
            path,
            word(forwarded),
            word(route),
            line,
        )

    def _get(self, line: Mapping[str, Any], part: str) -> Any:
        for name, steps in self._ways[part]:
            found = line.get(name)
            if found is None and len(steps) > 1:
                found = within(line, steps)
            if found is not None:
                return found
        if part in self._wanted and part in ("time", "client", "path"):
            raise ValueError(f"no field {self._ways[part][0][0]!r}")
        return None


def word(value: object) -> str:
    """A field that is a text or a number, as text; empty where it is something else, or stands for nothing."""
    if isinstance(value, str):
        return "" if value == "-" else value
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def within(line: Mapping[str, Any], steps: Sequence[str]) -> Any:
    """What an object has at the end of these steps; `None` where there is nothing."""
    found: Any = line
    for step in steps:
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    return found
