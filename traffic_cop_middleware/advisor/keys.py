"""Whose bucket a logged request takes from: the keys of limits, as far as a log tells them."""

from __future__ import annotations

from collections.abc import Callable

from traffic_cop_middleware.abstractions.subjects import subject_of
from traffic_cop_middleware.adapters.access_logs.json_lines import within
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.client_address import ClientAddress
from traffic_cop_middleware.middleware.keys import Key, by_everyone, by_ip, by_route, by_user

SubjectOf = Callable[[LoggedRequest, str, str], str]
"""The subject of a request, of a client's address and of a route's template."""
NAMES: dict[str, Key] = {"ip": by_ip, "user": by_user, "route": by_route, "everyone": by_everyone}
FIELD = "field:"


class ByField(Key):
    """A field of JSON lines; a line without it counts by its client's address."""

    def __init__(self, name: str) -> None:
        self.kind = name
        self.steps = name.split(".")


def named_key(by: str | Key) -> Key:
    """What `by=` says: "ip", "user", "route", "everyone", or "field:" and the name of a field of JSON lines.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(by, Key):
        subject_in_log(by, "by")
        return by
    if isinstance(by, str) and by.startswith(FIELD) and len(by) > len(FIELD):
        return ByField(by.removeprefix(FIELD))
    if not isinstance(by, str) or by not in NAMES:
        raise ConfigurationError(
            f"by={by!r}: write {', '.join(map(repr, NAMES))}, or 'field:tenant' for a field of JSON lines"
        )
    return NAMES[by]


def subject_in_log(key: Key, where: str) -> SubjectOf:
    """How a key's subject is found in a log.

    Raises:
        ConfigurationError: a log does not tell it.
    """
    if key is by_ip:
        return lambda _request, client, _route: f"ip:{client}"
    if key is by_user:
        return lambda request, client, _route: subject_of("user", request.user) if request.user else f"ip:{client}"
    if key is by_route:
        return lambda _request, _client, route: subject_of("route", route)
    if key is by_everyone:
        return lambda _request, _client, _route: "everyone:all"
    if isinstance(key, ByField):
        return _by_field(key)
    raise ConfigurationError(
        f"{where}: the key {key!r} can't be told from an access log, which has no sessions and no API keys. by_ip, "
        "by_user, by_route and by_everyone can; or name a field of JSON lines: by='field:tenant'"
    )


def _by_field(key: ByField) -> SubjectOf:
    def subject(request: LoggedRequest, client: str, _route: str) -> str:
        found = within(request.fields, key.steps) if request.fields is not None else None
        if isinstance(found, (str, int)) and found not in ("", "-"):
            return subject_of(key.kind, str(found))
        return f"ip:{client}"

    return subject


class Clients:
    """The clients of logged requests, by the rules that the limiter has: trusted proxies, IPv6 by its /64 network."""

    def __init__(self, address: ClientAddress) -> None:
        self._of = address.of
        self._trusting = address.trusting
        self._known: dict[str, str] = {}

    def of(self, request: LoggedRequest) -> str:
        peer = request.peer
        if self._trusting:
            forwarded = [(b"x-forwarded-for", request.forwarded.encode())] if request.forwarded else []
            return self._of((peer, 0) if peer else None, forwarded)
        client = self._known.get(peer)
        if client is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            client = self._known[peer] = self._of((peer, 0) if peer else None, ())
        return client


MOST_KNOWN = 100_000
