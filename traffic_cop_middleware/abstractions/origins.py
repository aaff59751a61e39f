"""Origins as browsers write them: scheme, host and port (Fetch standard, section "`Origin` header")."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from traffic_cop_middleware.abstractions.gateway_routes import LABELS, LONGEST_HOST
from traffic_cop_middleware.errors import ConfigurationError

NULL = "null"
"""The origin of what has none of its own: sandboxed frames, files, some redirects."""
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)
NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label that makes a browser read the host as an IPv4 address (URL standard, section "Host parsing")."""
PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}
FORM = "an origin is 'https://app.example.com', with a port if it has one; its subdomains are 'https://*.example.com'"


def checked_origin(origin: str) -> str:
    """The origin, or the pattern of origins, if a browser can write such a one.

    Raises:
        ConfigurationError: it can't.
    """
    if origin == NULL:
        return origin
    found = ORIGIN.fullmatch(origin)
    if found is None:
        raise _wrong(origin, _mend(origin))
    scheme, star, host, port = found.groups()
    if port is not None and (port[0] == "0" or int(port) > 65535):
        raise _wrong(origin, "a port is a number from 1 to 65535")
    if port is not None and port == PORTS.get(scheme):
        raise _wrong(origin, f"browsers leave out the port of the scheme: write {origin[: -len(port) - 1]!r}")
    if host[0] == "[" or NUMERIC.fullmatch(host.rpartition(".")[2]):
        if star:
            raise _wrong(origin, "an address has no subdomains; '*.' stands before a name")
        if (written := _address(origin, host)) != host:
            raise _wrong(origin, f"browsers write this address as {written!r}")
    elif not LABELS.fullmatch(host) or len(host) > LONGEST_HOST:
        raise _wrong(origin, FORM)
    return origin


def _address(origin: str, host: str) -> str:
    try:
        if host[0] != "[":
            return str(IPv4Address(host))
        address = IPv6Address(host[1:-1])
    except ValueError as exc:
        raise _wrong(origin, f"{host!r} is no address") from exc
    mapped = address.ipv4_mapped
    if mapped is not None:  # in hexadecimal, which is not what all versions of Python write
        return f"[::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}]"
    return f"[{address}]"


def _mend(origin: str) -> str:
    """What to write instead of something that looks like no origin."""
    tidied = origin.strip().rstrip("/").lower()
    if tidied != origin and (tidied == NULL or ORIGIN.fullmatch(tidied)):
        return f"browsers write it in lower case and without a final '/': {tidied!r}"
    if not origin.isascii():
        return f"{FORM}; a name beyond ASCII is in its 'xn--' form"
    return FORM


def _wrong(origin: str, mend: str) -> ConfigurationError:
    return ConfigurationError(f"origins={origin!r}: {mend}")
