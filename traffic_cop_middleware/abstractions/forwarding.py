"""What of a request and of a response goes through a gateway: header fields and the request's target.

Fields keep their bytes, order and repetitions. What concerns one connection only stays behind (RFC 9110, section
7.6.1); what a client may not say of itself is taken out before the gateway says it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from traffic_cop_middleware.contracts.transport import Field

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"),
    }
)
FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"te", b"trailer", b"upgrade"})
"""What says where a message ends and what becomes of its connection: no route may set it."""
SPECIAL = HOP_BY_HOP | {b"content-length", b"host", b"expect", b"via", b"max-forwards"}
"""Fields of a request that do not just pass, nor with "_" for "-": some upstreams take the one for the other."""
ORDINARY = frozenset(
    {
        *(b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control", b"content-type"),
        *(b"cookie", b"if-modified-since", b"if-none-match", b"origin", b"pragma", b"priority", b"range", b"referer"),
        *(b"sec-fetch-dest", b"sec-fetch-mode", b"sec-fetch-site", b"sec-fetch-user", b"user-agent"),
    }
)
"""Most of the fields that come, which are none of those; just so that they are found out sooner."""
ALWAYS_KEPT = frozenset({b"host", b"content-length"})
"""What a Connection field can't take out: without them the message would be another one."""
INTERNAL = b"x-traffic-"
"""Fields that only a gateway writes; a client's own are taken out."""
ABOUT_THE_CLIENT = (b"x-forwarded-", b"x-real-ip", b"forwarded")
"""How fields begin that say who a client is; they are a proxy's to write."""
OURS = (*ABOUT_THE_CLIENT, INTERNAL)
WRITTEN = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
"""Those of them that this gateway writes."""
NAME = b"traffic-cop"
"""What this gateway calls itself in Via (RFC 9110, section 7.6.3): a pseudonym, for its address is its own business."""
TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""The bytes of a field's value (RFC 9110, section 5.5), obs-text among them."""
VISIBLE = bytes(each for each in range(0x21, 0x100) if each not in b"#\x7f")
"""The bytes of a request's target that are sent on. "#" would be where some readers end it."""
HOST = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+;=%]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""RFC 3986, section 3.2.2, without the comma, by which some join two hosts."""

VERSIONS = ("1.1", "2", "3", "1.0")
"""As ASGI names them; "2.0" is what some parsers take from a line of HTTP/1."""
VIA: Mapping[str, Field] = {version: (b"via", version.encode() + b" " + NAME) for version in VERSIONS}
BODILESS = frozenset({204, 304})
MOST_DIGITS = 18
"""Digits of a content length: below 2**63, above which readers overflow."""
PLAIN = re.compile(rb"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")

ForwardedStyle = Literal["both", "x-forwarded", "forwarded", "off"]


class MalformedRequest(Exception):
    """A request that two readers could take for two different ones; the message says why (answered 400)."""


class Client(NamedTuple):
    """Who sent the request to this gateway.

    `trusted`: the peer is a proxy that is believed, so what it says of the client is kept and added to.
    """

    peer: str
    scheme: str
    host: bytes
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChanges:
    """Fields that a route sets, adds and removes. Names in lower case."""

    set: tuple[Field, ...] = ()
    add: tuple[Field, ...] = ()
    remove: frozenset[bytes] = frozenset()

    def applied(self, fields: list[Field]) -> list[Field]:
        if not (self.set or self.add or self.remove):
            return fields
        if self.remove or self.set:
            gone = self.remove.union(name for name, _ in self.set)
            fields = [field for field in fields if field[0] not in gone]
        return [*fields, *self.set, *self.add]


NO_CHANGES = FieldChanges()


def request_fields(
    fields: Iterable[Field],
    *,
    client: Client,
    host: bytes,
    method: str = "GET",
    http_version: str = "1.1",
    style: ForwardedStyle = "both",
    own: Sequence[Field] = (),
    changes: FieldChanges = NO_CHANGES,
) -> list[Field]:
    """The fields of a request as its upstream gets them.

    `host` is the Host that it gets, `own` what the gateway says besides (request id, identity).

    Raises:
        MalformedRequest: the request can be read in two ways.
    """
    given = list(fields)
    if not sound(given):
        raise MalformedRequest("a header field holds a byte that none may hold")
    named = _connection_options(given)
    mine = dict(own)
    if changes.set:
        mine.update(changes.set)
    kept: list[Field] = []
    about: dict[bytes, list[bytes]] = {}
    via: list[bytes] = []
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    hosts = 0
    for field in given:
        name, value = field
        special = name not in ORDINARY and (name in SPECIAL or name.startswith(OURS) or b"_" in name)
        if not (special or name in mine or name in named):
            kept.append(field)
            continue
        plain = name.replace(b"_", b"-")
        if name == b"host":
            if not hosts:
                kept.append((name, host))
            hosts += 1
        elif plain.startswith(ABOUT_THE_CLIENT):
            about.setdefault(plain, []).append(value)
        elif plain in mine or plain.startswith(INTERNAL) or (plain != name and plain in SPECIAL):
            continue
        elif name == b"via":
            via.append(value)
        elif name == b"content-length":
            if not lengths:
                kept.append(field)
            lengths.add(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name not in SPECIAL and name not in named:
            kept.append(field)
        elif name == b"max-forwards" and name not in named:
            counted = method == "OPTIONS" and value.isdigit() and int(value)
            kept.append((name, b"%d" % (counted - 1)) if counted else field)
    _check_host(client.host, hosts, http_version)
    if lengths or codings:
        _check_length(lengths, codings, http_version)
    if not hosts:
        kept.insert(0, (b"host", host))
    kept += _about_client(about if client.trusted else {}, client, style)
    kept.append(VIA[http_version] if not via else (b"via", b", ".join([*via, VIA[http_version][1]])))
    kept += own
    return changes.applied(kept)


def response_fields(
    fields: Iterable[Field], *, status: int = 200, http_version: str = "1.1", changes: FieldChanges = NO_CHANGES
) -> list[Field]:
    """The fields of a response as the client gets them. Names in lower case, as ASGI has them.

    A 204 has no Content-Length (RFC 9110, section 8.6), and a 304 loses the one that it may have, for a server that
    takes it for the length of what follows would wait for that.
    """
    given = [(name.lower(), value) for name, value in fields]
    left = HOP_BY_HOP
    if named := _connection_options(given):
        left = left.union(named) - ALWAYS_KEPT
    if status in BODILESS:
        left = left.union((b"content-length",))
    kept = [field for field in given if field[0] not in left and not field[0].startswith(INTERNAL)]
    kept.append(VIA[http_version])
    return changes.applied(kept)


def sound(fields: Sequence[Field]) -> bool:
    """Whether names are tokens and values hold no control characters (RFC 9110, sections 5.1 and 5.5)."""
    if not fields:
        return True
    names, values = zip(*fields, strict=True)
    return not (b"" in names or b"".join(names).translate(None, TOKEN) or b"".join(values).translate(None, TEXT))


def socket_fields(fields: Iterable[Field]) -> list[Field]:
    """Of fields that are ready to go out, those that a WebSocket handshake keeps; `sec-websocket-*` are its own."""
    return [field for field in fields if not field[0].startswith(b"sec-websocket-") and field[0] != b"content-length"]


def target(path: bytes, query: bytes) -> bytes:
    """The path and query as they go out, in the bytes that came.

    Raises:
        MalformedRequest: they hold bytes that end a target.
    """
    found = path + b"?" + query if query else path
    if found.translate(None, VISIBLE):
        raise MalformedRequest("its target holds a byte that none may hold")
    return found


def _connection_options(fields: Iterable[Field]) -> Collection[bytes]:
    """What a Connection field names beside: it concerns this connection only."""
    found: set[bytes] = set()
    for name, value in fields:
        if name == b"connection" and value != b"keep-alive":  # which stays behind anyway
            found.update(option.strip(b" \t").lower() for option in value.split(b","))
    return found


def _check_host(host: bytes, times: int, http_version: str) -> None:
    """RFC 9112, section 3.2: one Host, or two readers take two."""
    if http_version not in VERSIONS:
        raise MalformedRequest("its version of HTTP is none that is spoken here")
    if times > 1 or (not times and http_version == "1.1"):
        raise MalformedRequest("it has no Host" if not times else "it has more than one Host")
    if host and not HOST.fullmatch(host):
        raise MalformedRequest("its Host is none")


def _check_length(lengths: Collection[bytes], codings: Sequence[bytes], http_version: str) -> None:
    """RFC 9112, section 6.3: one length, or chunks, or two readers see two bodies."""
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or http_version == "1.0"):
        raise MalformedRequest("Transfer-Encoding is not just chunked, or there is a Content-Length beside")
    if len(lengths) > 1 or not all(length.isdigit() and len(length) <= MOST_DIGITS for length in lengths):
        raise MalformedRequest("Content-Length is no number, or is there twice with different ones")


def _about_client(said: dict[bytes, list[bytes]], client: Client, style: ForwardedStyle) -> list[Field]:
    """X-Forwarded-* and Forwarded (RFC 7239), added to what a trusted proxy said, and in place of what others said."""
    if style == "off":
        return []
    peer, proto = client.peer.encode("latin-1"), client.scheme.encode("ascii")
    element = b"for=%b;host=%b;proto=%b" % (b'"[%b]"' % peer if b":" in peer else peer, _quoted(client.host), proto)
    more: list[Field] = []
    if said:
        more = [(name, value) for name, values in said.items() if name not in WRITTEN for value in values]
        peer = b", ".join([*said.get(b"x-forwarded-for", ()), peer])
        element = b", ".join([*said.get(b"forwarded", ()), element])
    if style != "forwarded":
        more += (
            (b"x-forwarded-for", peer),
            (b"x-forwarded-proto", _first(said, b"x-forwarded-proto", proto)),
            (b"x-forwarded-host", _first(said, b"x-forwarded-host", client.host)),
        )
    if style != "x-forwarded":
        more.append((b"forwarded", element))
    return more


def _first(said: dict[bytes, list[bytes]], name: bytes, otherwise: bytes) -> bytes:
    values = said.get(name)
    return values[0] if values else otherwise


def _quoted(value: bytes) -> bytes:
    """A parameter's value as a quoted string where it is no token (RFC 9110, section 5.6.4)."""
    if PLAIN.fullmatch(value):
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
