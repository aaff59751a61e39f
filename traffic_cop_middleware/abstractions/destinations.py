"""Where a gateway route leads: upstreams, a redirect, a fixed response, an ASGI app, or the app that is wrapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from traffic_cop_middleware.abstractions.balancing.checks import HealthCheck, check_from
from traffic_cop_middleware.abstractions.forwarding import FRAMING
from traffic_cop_middleware.abstractions.upstreams import Pool, Upstream, upstream_from
from traffic_cop_middleware.contracts.registry import check_word
from traffic_cop_middleware.contracts.transport import Field
from traffic_cop_middleware.errors import ConfigurationError

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_BODY = 32 * 1024


class TheApp:
    """The app that the gateway stands before."""

    def __repr__(self) -> str:
        return "THE_APP"


THE_APP: Final = TheApp()
"""As `to=`: requests that match go to the wrapped app, past routes of less precedence."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to `url`, to which `keep_path` adds the request's path and query (less the route's `strip_prefix`).

    Raises:
        ConfigurationError: the URL or the status can't be used.
    """

    url: str
    status: int = field(default=308, kw_only=True)
    keep_path: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or self.status not in REDIRECTS:
            raise ConfigurationError(f"Redirect(status={self.status!r}): one of {sorted(REDIRECTS)}")
        if not isinstance(self.keep_path, bool):
            raise ConfigurationError(f"Redirect(keep_path={self.keep_path!r}): True or False")
        fits = isinstance(self.url, str) and self.url.isascii() and self.url.isprintable() and " " not in self.url
        if not fits or not self.url.startswith(("http://", "https://", "/")) or self.url.startswith("//"):
            raise ConfigurationError(f"Redirect({self.url!r}): a URL with its scheme, or a path, percent-encoded")
        if self.url[0] != "/" and self.url.partition("://")[2][:1] in ("", "/", "?", "#"):
            raise ConfigurationError(f"Redirect({self.url!r}): it names no host. Write 'https://new.example.com'")
        if self.keep_path and set(self.url) & set("?#"):
            raise ConfigurationError(
                f"Redirect({self.url!r}, keep_path=True): the request's path would come after its query or fragment. "
                "Leave one of the two out"
            )


@dataclass(frozen=True, slots=True)
class FixedResponse:
    """The same response for every request: `FixedResponse(503, "Back at noon.", headers={"Retry-After": "3600"})`.

    Raises:
        ConfigurationError: the status, a header or the body can't be used.
    """

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    fields: tuple[Field, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.status, bool) or not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ConfigurationError(f"FixedResponse({self.status!r}): a status from 200 to 599")
        if not isinstance(self.body, str) or len(self.body) > MOST_BODY:
            raise ConfigurationError(f"FixedResponse(body=…): text of {MOST_BODY} characters at most")
        if any("\ud800" <= each <= "\udfff" for each in self.body):
            raise ConfigurationError("FixedResponse(body=…): text without lone surrogates, which can't be encoded")
        if self.body and self.status in (204, 304):
            raise ConfigurationError(f"FixedResponse({self.status}): this status has no body (RFC 9110, section 6.4.1)")
        fields = header_fields("FixedResponse(headers=…)", self.headers)
        if framing := [name.decode() for name, _ in fields if name in FRAMING]:
            raise ConfigurationError(
                f"FixedResponse(headers=…): {framing[0]!r} is written by the gateway; leave it out"
            )
        if self.body and all(name != b"content-type" for name, _ in fields):
            fields = ((b"content-type", b"text/plain; charset=utf-8"), *fields)
        object.__setattr__(self, "fields", fields)


@dataclass(frozen=True, slots=True)
class Service:
    """The live instances of a service: `route("/billing/*", to=Service("billing"))`.

    They are those that announce themselves under that name (`registered`) on the cop's backend and namespace. With
    `dns="http://billing.internal:8080"` they are the addresses of that host instead, looked up again every five
    seconds; `Host` has its name, where the route does not keep the client's. With https:// the certificate must be for
    that name, not for the address; `ca`, `certificate` and `key` are as in `Upstream`. With `check` one worker asks
    each instance for its health (`HealthCheck`).

    Raises:
        ConfigurationError: the name, the URL or a file can't be used.
    """

    name: str
    dns: str | None = field(default=None, kw_only=True)
    check: HealthCheck | None = field(default=None, kw_only=True)
    ca: str | None = field(default=None, kw_only=True)
    certificate: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    place: Upstream | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigurationError(f"Service({self.name!r}): a service's name, such as 'billing'")
        try:
            check_word("Service: a service's name", self.name)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        if self.check is not None and not isinstance(self.check, HealthCheck):
            raise ConfigurationError(f"Service({self.name!r}, check={self.check!r}): write HealthCheck('/health')")
        if self.dns is None and (tls := tls_files(self)):
            raise ConfigurationError(
                f"Service({self.name!r}, {next(iter(tls))}=…): it is for dns='https://…'. Instances that announce "
                "themselves are checked by the system's certificates"
            )
        place = None if self.dns is None else Upstream(self.dns, ca=self.ca, certificate=self.certificate, key=self.key)
        object.__setattr__(self, "place", place)


def tls_files(to: Service) -> Mapping[str, str]:
    """The files that a service is given for TLS, by the names of their arguments."""
    given = {"ca": to.ca, "certificate": to.certificate, "key": to.key}
    return {name: path for name, path in given.items() if path is not None}


def is_forwarded(to: object) -> bool:
    """Whether requests to a destination go to instances of a service, through a pool."""
    return isinstance(to, (Pool, Service))


Destination = Any
"""A `Pool`, `Service`, `Redirect`, `FixedResponse`, `THE_APP`, or an ASGI app."""


CLASSES: tuple[type, ...] = (Pool, Service, Redirect, FixedResponse, TheApp, Upstream)
"""Whose objects are destinations; a class itself can be called, as an ASGI app can, and is none."""


def destination(to: object, where: str) -> Destination:
    """What `to=` means: a URL, `Upstream`s, `Service`, `Redirect`, `FixedResponse`, `THE_APP`, or an ASGI app.

    Raises:
        ConfigurationError: it is nothing of that kind.
    """
    if isinstance(to, (Pool, Service, Redirect, FixedResponse, TheApp)):
        return to
    if isinstance(to, (str, Upstream)):
        return Pool([to if isinstance(to, Upstream) else Upstream(to)])
    if isinstance(to, Iterable) and not isinstance(to, (bytes, Mapping)):
        each = [one if isinstance(one, Upstream) else upstream_from(one) for one in to]
        return Pool(each)
    if callable(to) and not (isinstance(to, type) and issubclass(to, CLASSES)):
        return to
    raise ConfigurationError(
        f"{where}: to={to!r} is no destination. Write a URL, Upstream(…) or a list of them, Service(…), "
        "Redirect(…), FixedResponse(…), THE_APP, or an ASGI app"
    )


def destination_record(to: Destination) -> Any:
    """A destination as JSON.

    Raises:
        ConfigurationError: it is an ASGI app, which can't be told to other workers.
    """
    if isinstance(to, Pool):
        return {"upstreams": [upstream.record() for upstream in to.upstreams]}
    if isinstance(to, Service):
        found: dict[str, Any] = {"service": to.name}
        if to.dns is not None:
            found.update(dns=to.dns, **tls_files(to))
        if to.check is not None:
            found["check"] = to.check.record()
        return found
    if isinstance(to, Redirect):
        return {"redirect": to.url, "status": to.status, "keep_path": to.keep_path}
    if isinstance(to, FixedResponse):
        return {"status": to.status, "body": to.body, "headers": dict(to.headers)}
    if isinstance(to, TheApp):
        return {"app": True}
    raise ConfigurationError(
        f"to={to!r}: an ASGI app can't be put into a table that other workers share. Add it at start: cop.route(…)"
    )


def destination_from(record: object) -> Destination:
    """The destination of a record.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(record, Mapping):
        members = dict(record)
        if set(members) == {"upstreams"} and isinstance(members["upstreams"], list):
            return Pool([upstream_from(each) for each in members["upstreams"]])
        if "service" in members and set(members) <= {"service", "dns", "check", "ca", "certificate", "key"}:
            if "check" in members:
                members["check"] = check_from(members["check"])
            return Service(members.pop("service"), **members)
        if members == {"app": True}:
            return THE_APP
        if "redirect" in members and set(members) <= {"redirect", "status", "keep_path"}:
            return Redirect(members.pop("redirect"), **members)
        if "status" in members and set(members) <= {"status", "body", "headers"}:
            return FixedResponse(members["status"], members.get("body", ""), headers=members.get("headers", {}))
    raise ConfigurationError(f"a record's destination is no one that is known here: {record!r}")


def header_fields(where: str, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[Field, ...]:
    """Header fields from what a user writes.

    Raises:
        ConfigurationError: a name or value can't stand in a header.
    """
    pairs: Any = headers.items() if isinstance(headers, Mapping) else headers
    found = []
    try:
        for name, value in pairs:
            raw, text = name.lower().encode("ascii"), value.encode("latin-1")
            if not raw or any(not 33 <= byte < 127 or byte in b'"(),/:;<=>?@[\\]{}' for byte in raw):
                raise ConfigurationError(f"{where}: {name!r} is no header's name")
            if any(byte < 32 and byte != 9 for byte in text) or text != text.strip():
                raise ConfigurationError(f"{where}: the value of {name!r} has control characters or space around it")
            found.append((raw, text))
    except (AttributeError, TypeError, ValueError, UnicodeEncodeError) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{where}: header names and values are texts in Latin-1, not {headers!r}") from exc
    return tuple(found)
