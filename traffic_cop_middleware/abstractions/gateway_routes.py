"""A gateway route: which requests it takes, as a frozen value that is checked when made.

A pattern's path is brought into the form in which requests are compared (RFC 3986, section 6.2.2): percent-encoded
unreserved characters are decoded, hex digits are upper-case, and what can't stand in a path is percent-encoded.

Some paths are no gateway route's, whatever the table says, because two servers would read them differently; they go to
the app and are never forwarded:

- "." or ".." as a segment, also written "%2e", beside "%2F" or "%5C", or before ";" ("/public/..;/admin");
- a backslash (some read it as "/"), "?" or "#" (the end of a path), and "%00" (the end of a string);
- bytes that are not printable ASCII, and a "%" without two hex digits: no path by RFC 3986.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import IPv6Address
from math import isfinite
from typing import Any, TypedDict, cast
from urllib.parse import quote

from traffic_cop_middleware.errors import ConfigurationError

Scalar = str | int | float | bool | None

PRESENT = "*"
"""As a header's or query parameter's value: any, if only it is there."""
MOST = 2**53
MOST_SEGMENTS = 100
MOST_PREDICATES = 32
LONGEST_PATTERN = 2048
LONGEST_HOST = 255

PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~/!$&'()*+,;=:@"
"""A path of these alone is compared as it is. The dot stands for itself too, but may make a dot segment."""

UNRESERVED = re.compile(rb"[A-Za-z0-9\-._~]")
UNROUTABLE = re.compile(rb"[^!-~]|[\\?#]|%(?![0-9A-Fa-f]{2})|%00")
ENCODED = re.compile(rb"%..|[\"<>\[\]^`{|}]")
DOT_SEGMENT = re.compile(rb"(?:/|%2F|%5C)\.\.?(?:[/;]|%2F|%5C|%3B|\Z)")
PARAM = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
LABELS = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
FIELD_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
PORT = re.compile(r":[0-9]*")
PRINTABLE = bytes(range(0x21, 0x7F)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRoute:
    """Which requests go `to` a destination. Made by `gateway_route`, which checks it; all in one form, to be compared.

    `methods`: upper-case, or None for any. `hosts`: "api.example.com" or "*.example.com", sorted; empty for any.
    `headers` and `query`: sorted pairs of a name (a header's in lower case) and its exact value, or "*" for any value.
    `session`: sorted pairs of an attribute and its value, for the caller to decide. `weight` is the share of this route
    among those that tie with it (`ties`). `priority`: higher comes first, before all else.
    """

    name: str
    pattern: str
    methods: frozenset[str] | None = None
    hosts: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    session: tuple[tuple[str, Scalar], ...] = ()
    weight: int = 1
    priority: int = 0
    to: Any = field(default=None, hash=False)


class RouteRecord(TypedDict, total=False):
    """A route as JSON, without its destination; what is left out has its default."""

    name: str
    pattern: str
    methods: list[str]
    hosts: list[str]
    headers: dict[str, str]
    query: dict[str, str]
    session: dict[str, Scalar]
    weight: int
    priority: int


def gateway_route(
    name: str,
    pattern: str,
    *,
    to: Any,
    methods: str | Iterable[str] | None = None,
    hosts: str | Iterable[str] = (),
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] | None = None,
    query: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    session: Mapping[str, Scalar] | Iterable[tuple[str, Scalar]] | None = None,
    weight: int = 1,
    priority: int = 0,
) -> GatewayRoute:
    """A route from what a user writes.

    `pattern` is "/exact", "/prefix/*" (also "/prefix" and "/prefix/", not "/prefixed"), or has "{param}" segments, each
    for one segment that is not empty: "/users/{id}/orders", "/users/{id}/*". "/*" is everything. GET does not imply
    HEAD. A host's port is ignored. Text of a header's value is Latin-1, as ASGI apps read it; where a header comes
    several times, one of its lines has to be equal. Of a query parameter the first counts, form-decoded ("+" is a
    space).

    Raises:
        ConfigurationError: a value can't be used.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ConfigurationError(f"name={name!r}: a route has a name of 1 to 200 printable characters")
    return GatewayRoute(
        name=name,
        pattern=_pattern(name, pattern),
        methods=_methods(name, methods),
        hosts=tuple(sorted({_host(name, host) for host in _texts(name, "hosts", hosts)})),
        headers=tuple(sorted(_header(name, *pair) for pair in _pairs(name, "headers", headers))),
        query=tuple(sorted(_parameter(name, *pair) for pair in _pairs(name, "query", query))),
        session=tuple(sorted(_attribute(name, *pair) for pair in _pairs(name, "session", session))),
        weight=_integer(name, "weight", weight, least=0),
        priority=_integer(name, "priority", priority, least=-MOST),
        to=to,
    )


def ties(one: GatewayRoute, other: GatewayRoute) -> bool:
    """Whether two routes take the same requests with the same precedence: a group whose weights decide."""
    return (
        one.priority == other.priority
        and one.methods == other.methods
        and one.pattern == other.pattern
        and one.hosts == other.hosts
        and one.headers == other.headers
        and one.query == other.query
        and one.session == other.session
        and all(type(a[1]) is type(b[1]) for a, b in zip(one.session, other.session, strict=True))
    )


def record_of(route: GatewayRoute) -> RouteRecord:
    """The route as JSON, without `to`; `from_record` makes an equal route of it."""
    record: dict[str, Any] = {}
    for each in fields(route):
        value = getattr(route, each.name)
        if each.name == "to" or (each.default is not MISSING and value == each.default):
            continue
        if each.name in ("headers", "query", "session"):
            value = dict(value)
        elif each.name in ("methods", "hosts"):
            value = sorted(value)
        record[each.name] = value
    return cast("RouteRecord", record)


def from_record(record: Mapping[str, Any], *, to: Any) -> GatewayRoute:
    """The route of a record, checked.

    Raises:
        ConfigurationError: it can't be used, lacks its name or pattern, or has a key that no route has.
    """
    known = RouteRecord.__annotations__
    if unknown := [key for key in record if key not in known]:
        raise ConfigurationError(f"a route's record has the key {unknown[0]!r}: its keys are {', '.join(known)}")
    if missing := [key for key in ("name", "pattern") if key not in record]:
        raise ConfigurationError(f"a route's record has no {missing[0]!r}: {dict(record)!r}")
    return gateway_route(**record, to=to)


def canonical_path(raw_path: bytes) -> bytes | None:
    """A path in the form in which it is compared; None for one that no gateway route takes (this module says why)."""
    if raw_path[:1] == b"/" and b"/." not in raw_path and not raw_path.translate(None, PLAIN).strip(b"."):
        return raw_path
    if raw_path[:1] != b"/" or UNROUTABLE.search(raw_path) is not None:
        return None
    path = ENCODED.sub(_canonical, raw_path)
    return None if DOT_SEGMENT.search(path) is not None else path


def _canonical(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if len(text) == 1:
        return b"%%%02X" % text[0]
    byte = bytes.fromhex(text[1:].decode())
    return byte if UNRESERVED.match(byte) else text.upper()


def canonical_host(host: str) -> str:
    """A host in lower case without its port and final dot; "" for what is none."""
    if host.islower() and host.isascii() and not (":" in host or host[0] == "[" or host[-1] == "."):
        return host if len(host) <= LONGEST_HOST else ""
    if not host.isascii() or len(host) > LONGEST_HOST + 6:
        return ""
    host = host.lower()
    if host[:1] == "[":
        address, end, port = host[1:].partition("]")
        try:
            return f"[{IPv6Address(address)}]" if end and (not port or PORT.fullmatch(port)) else ""
        except ValueError:
            return ""
    if ":" in host:
        host, _, port = host.partition(":")
        if port and not port.isdecimal():
            return ""
    return host[:-1] if host[-1:] == "." else host


def _wrong(name: str, argument: str, value: object, mend: str) -> ConfigurationError:
    return ConfigurationError(f"route {name!r}: {argument}={value!r}: {mend}")


def _pattern(name: str, pattern: str) -> str:
    if not isinstance(pattern, str) or pattern[:1] != "/" or len(pattern) > LONGEST_PATTERN:
        raise _wrong(name, "pattern", pattern, f"a path that begins with '/', of {LONGEST_PATTERN} characters at most")
    segments = pattern[1:].split("/")
    if len(segments) > MOST_SEGMENTS:
        raise _wrong(name, "pattern", pattern, f"it has {len(segments)} segments, and {MOST_SEGMENTS} is the most")
    params: set[str] = set()
    written = []
    for at, segment in enumerate(segments):
        last = at == len(segments) - 1
        if segment == "*" and last:
            written.append(segment)
        elif found := PARAM.fullmatch(segment):
            if found[1] in params:
                raise _wrong(name, "pattern", pattern, f"{segment} stands in it twice; give each a name of its own")
            params.add(found[1])
            written.append(segment)
        elif "*" in segment:
            raise _wrong(
                name, "pattern", pattern, "'*' is the whole last segment: '/prefix/*'; for one segment '{any}'"
            )
        elif "{" in segment or "}" in segment:
            raise _wrong(name, "pattern", pattern, f"{segment!r}: a parameter is a whole segment: '/users/{{id}}'")
        elif not segment and not last:
            raise _wrong(name, "pattern", pattern, "it has an empty segment; write one '/' for '//'")
        else:
            written.append(_literal(name, pattern, segment))
    return "/" + "/".join(written)


def _literal(name: str, pattern: str, segment: str) -> str:
    try:
        path = canonical_path(b"/" + quote(segment, safe=PRINTABLE).encode())
    except UnicodeEncodeError:
        path = None
    if path is None:
        mend = (
            f"{segment!r} is in no path that is forwarded: no '.', '..', '?', '#' or '\\', and a '%' is written '%25'"
        )
        raise _wrong(name, "pattern", pattern, mend)
    return path[1:].decode()


def _methods(name: str, methods: str | Iterable[str] | None) -> frozenset[str] | None:
    if methods is None:
        return None
    found = _texts(name, "methods", methods)
    if not found:
        raise _wrong(name, "methods", methods, "name at least one, or leave methods out for any")
    if wrong := [each for each in found if not TOKEN.fullmatch(each)]:
        raise _wrong(name, "methods", wrong[0], "a method is a word like 'GET'")
    return frozenset(each.upper() for each in found)


def _host(name: str, host: str) -> str:
    rest = host.removeprefix("*.")
    found = canonical_host(rest)
    is_address = found[:1] == "[" and rest == host
    if not (is_address or LABELS.fullmatch(found)) or len(found) > LONGEST_HOST:
        mend = "a host is 'api.example.com', '*.example.com' or '[::1]'; a name beyond ASCII in its 'xn--' form"
        raise _wrong(name, "hosts", host, f"{mend}. Leave hosts out for any" if host in ("*", "") else mend)
    return found if rest == host else f"*.{found}"


def _header(name: str, header: str, value: object) -> tuple[str, str]:
    if not TOKEN.fullmatch(header):
        raise _wrong(name, "headers", header, "a header's name is a word like 'x-canary'")
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not FIELD_VALUE.fullmatch(text):
        mend = f"the value of {header!r} is Latin-1 text without control characters or space around it, or '*' for any"
        raise _wrong(name, "headers", value, mend)
    return header.lower(), text


def _parameter(name: str, parameter: str, value: object) -> tuple[str, str]:
    if not isinstance(value, str) or not _is_unicode(value) or not _is_unicode(parameter):
        raise _wrong(name, "query", value, f"the value of {parameter!r} is the decoded text, or '*' for any")
    return parameter, value


def _attribute(name: str, attribute: str, value: Scalar) -> tuple[str, Scalar]:
    is_scalar = value is None or isinstance(value, (str, int, float))
    if not is_scalar or (isinstance(value, float) and not isfinite(value)):
        raise _wrong(name, "session", value, f"the value of {attribute!r} is text, a number, true, false or None")
    return attribute, value


def _is_unicode(text: str) -> bool:
    """Whether it has no lone surrogates, so that it can be encoded."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _texts(name: str, argument: str, values: str | Iterable[str]) -> list[str]:
    found: list[Any] = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if wrong := [each for each in found if not isinstance(each, str)]:
        raise _wrong(name, argument, wrong[0], "text, or a sequence of texts")
    return found


def _pairs(name: str, argument: str, values: Any) -> list[tuple[str, Any]]:
    """The pairs of a mapping or a sequence of pairs, whose names differ."""
    if values is None:
        return []
    try:
        found = [(key, value) for key, value in (values.items() if isinstance(values, Mapping) else values)]
    except (TypeError, ValueError):
        raise _wrong(name, argument, values, "a mapping of names to values, or a sequence of such pairs") from None
    if wrong := [key for key, _ in found if not isinstance(key, str) or not key]:
        raise _wrong(name, argument, wrong[0], "a name is text, and not empty")
    if len({key.lower() if argument == "headers" else key for key, _ in found}) < len(found):
        raise _wrong(name, argument, values, "a name stands in it twice; one request can't be asked for two values")
    if len(found) > MOST_PREDICATES:
        raise _wrong(name, argument, values, f"it has {len(found)} names, and {MOST_PREDICATES} is the most")
    return found


def _integer(name: str, argument: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise _wrong(name, argument, value, "a whole number, 0 or more" if least == 0 else "a whole number")
    return value
