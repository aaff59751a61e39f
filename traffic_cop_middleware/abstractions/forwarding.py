"""What of a request and of a response goes through a gateway: header fields and the request's target.

Fields keep their bytes, order and repetitions. What concerns one connection only stays behind (RFC 9110, section
7.6.1); what a client may not say of itself is taken out before the gateway says it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from traffic_cop_middleware.contracts.transport import Field

HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
ALWAYS_KEPT = frozenset({b"host", b"content-length"})
"""What a Connection field can't take out: without them the message would be another one."""
INTERNAL = b"x-traffic-"
"""Fields that only a gateway writes; a client's own are taken out."""
ABOUT_THE_CLIENT = frozenset(
    {
        *(b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"),
        *(b"x-forwarded-prefix", b"x-forwarded-server", b"x-real-ip"),
    }
)
NAME = b"traffic-cop"
"""What this gateway calls itself in Via (RFC 9110, section 7.6.3): a pseudonym, for its address is its own business."""
FORBIDDEN = (b"\r", b"\n", b"\0")

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
    named = _connection_options(given)
    kept: list[Field] = [(b"host", host)]
    about: dict[bytes, list[bytes]] = {}
    via: list[bytes] = []
    lengths: set[bytes] = set()
    chunked = False
    for name, value in given:
        _check(name, value)
        plain = name.replace(b"_", b"-") if b"_" in name else name
        if plain in ABOUT_THE_CLIENT:
            about.setdefault(plain, []).append(value)
        elif name == b"via":
            via.append(value)
        elif name == b"content-length":
            lengths.add(value)
        elif name == b"host" or name == b"expect" or name in HOP_BY_HOP:  # noqa: PLR1714 - the faster way
            chunked = chunked or name == b"transfer-encoding"
        elif not (plain.startswith(INTERNAL) or (name in named and name not in ALWAYS_KEPT)):
            kept.append((name, value))
    length = _length(lengths)
    if length is not None and not chunked:
        kept.append((b"content-length", length))
    kept += _about_client(about if client.trusted else {}, client, style)
    kept.append((b"via", b", ".join([*via, http_version.encode() + b" " + NAME])))
    if own:
        names = {name for name, _ in own}
        kept = [field for field in kept if field[0] not in names]
        kept += own
    return changes.applied(kept) if changes is not NO_CHANGES else kept


def response_fields(fields: Iterable[Field], *, changes: FieldChanges = NO_CHANGES) -> list[Field]:
    """The fields of a response as the client gets them. Names in lower case, as ASGI has them."""
    given = [(name.lower(), value) for name, value in fields]
    named = _connection_options(given)
    kept = []
    for field in given:
        name = field[0]
        if name in HOP_BY_HOP or (name in named and name not in ALWAYS_KEPT) or name.startswith(INTERNAL):
            continue
        kept.append(field)
    kept.append((b"via", b"1.1 " + NAME))
    return changes.applied(kept) if changes is not NO_CHANGES else kept


def socket_fields(fields: Iterable[Field]) -> list[Field]:
    """Of fields that are ready to go out, those that a WebSocket handshake keeps; `sec-websocket-*` are its own."""
    return [field for field in fields if not field[0].startswith(b"sec-websocket-") and field[0] != b"content-length"]


def target(raw_path: bytes, query: bytes, *, strip_prefix: bytes = b"", prefix: bytes = b"") -> bytes:
    """The path and query as they go out: byte by byte as they came, but for a prefix that is taken off or put on."""
    path = raw_path
    if strip_prefix and path.startswith(strip_prefix):
        path = path[len(strip_prefix) :]
        if not path.startswith(b"/"):
            path = b"/" + path
    if prefix:
        path = prefix + path
    return path + b"?" + query if query else path


def _connection_options(fields: Iterable[Field]) -> Collection[bytes]:
    """What a Connection field names beside: it concerns this connection only."""
    found: set[bytes] = set()
    for name, value in fields:
        if name == b"connection":
            found.update(option.strip(b" \t").lower() for option in value.split(b","))
    return found


def _check(name: bytes, value: bytes) -> None:
    for byte in FORBIDDEN:
        if byte in value or byte in name:
            raise MalformedRequest("a header field holds a line break or a NUL")


def _length(lengths: set[bytes]) -> bytes | None:
    """The one content length (RFC 9112, section 6.3)."""
    if not lengths:
        return None
    length, *others = lengths
    if others or not length.isdigit():
        raise MalformedRequest("Content-Length is no number, or is there twice with different ones")
    return length


def _about_client(said: dict[bytes, list[bytes]], client: Client, style: ForwardedStyle) -> list[Field]:
    """X-Forwarded-* and Forwarded (RFC 7239), added to what a trusted proxy said, and in place of what others said."""
    if style == "off":
        return []
    peer, proto = client.peer.encode("latin-1"), client.scheme.encode("ascii")
    fields: list[Field] = []
    if style in ("both", "x-forwarded"):
        fields.append((b"x-forwarded-for", b", ".join([*said.get(b"x-forwarded-for", ()), peer])))
        fields.append((b"x-forwarded-proto", _first(said, b"x-forwarded-proto", proto)))
        fields.append((b"x-forwarded-host", _first(said, b"x-forwarded-host", client.host)))
    if style in ("both", "forwarded"):
        node = b'"[%b]"' % peer if b":" in peer else peer
        element = b"for=%b;host=%b;proto=%b" % (node, _quoted(client.host), proto)
        fields.append((b"forwarded", b", ".join([*said.get(b"forwarded", ()), element])))
    return fields


def _first(said: dict[bytes, list[bytes]], name: bytes, otherwise: bytes) -> bytes:
    values = said.get(name)
    return values[0] if values else otherwise


def _quoted(value: bytes) -> bytes:
    """A parameter's value as a quoted string where it is no token (RFC 9110, section 5.6.4)."""
    if value and all(byte in b"!#$%&'*+-.^_`|~" or (chr(byte).isalnum() and byte < 128) for byte in value):
        return value
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
