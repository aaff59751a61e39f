"""Requests that another site made a browser send: refused where a cookie would speak for them.

A browser says where a request comes from in `Sec-Fetch-Site` (W3C Fetch Metadata, on https and localhost), and else in
`Origin` (RFC 6454, section 7). Both are out of a page's reach. A client that sends neither is no browser, or one so
old that only the form token helps.
"""

from __future__ import annotations

from collections.abc import Iterable
from hmac import compare_digest
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from starlette.types import Scope

from traffic_cop_middleware.abstractions.origins import NULL, checked_origin
from traffic_cop_middleware.errors import ConfigurationError

Csrf: TypeAlias = bool | Literal["forms"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.1."""
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
HEADER = b"x-csrf-token"


def trusted_origins(origins: Iterable[str]) -> frozenset[str]:
    """Other sites that may call this one with its cookie, each as browsers write it.

    Raises:
        ConfigurationError: one is written as no browser does, so it would never match; or any page could have it.
    """
    if isinstance(origins, str):
        origins = [origins]
    if not isinstance(origins, Iterable):
        raise ConfigurationError(f"session_trusted_origins={origins!r}: a list of origins")
    return frozenset(_trusted(origin) for origin in origins)


def _trusted(origin: str) -> str:
    if not isinstance(origin, str):
        raise ConfigurationError(f"session_trusted_origins={origin!r}: an origin is text")
    try:
        checked_origin(origin)
    except ConfigurationError as exc:  # it begins with "origins="
        raise ConfigurationError(f"session_trusted_{exc}") from exc
    mend = None
    if origin == NULL:
        mend = "any page can have that origin, in a sandboxed frame. Leave it out"
    elif "*" in origin:
        mend = "one subdomain that was taken over would speak for all visitors; list each origin"
    elif origin.startswith(("ws:", "wss:")):
        mend = f"of a WebSocket too a browser says its page's origin: write {'http' + origin[2:]!r}"
    if mend is not None:
        raise ConfigurationError(f"session_trusted_origins={origin!r}: {mend}")
    return origin


def from_another_site(scope: Scope, trusted: frozenset[str]) -> bool:
    """Whether a browser says that another site made it send this request."""
    site = origin = host = None
    for name, value in scope.get("headers", ()):
        if name == b"sec-fetch-site":
            site = value
        elif name == b"origin":
            origin = value
        elif name == b"host":
            host = value
    said = origin.decode("latin-1").lower() if origin is not None else ""
    if said and said in trusted:
        return False
    if site is not None and scope["type"] == "http":
        return site not in (b"same-origin", b"none")
    if origin is None:
        return False
    secure = scope.get("scheme") in ("https", "wss")
    return not _same_host(said, host.decode("latin-1").lower() if host is not None else "", secure=secure)


def _same_host(origin: str, host: str, *, secure: bool) -> bool:
    """Whether an origin is of this host.

    To a request without TLS both http and https are its own: a proxy in front may speak https for us. One that is
    `secure` has no pages that came without TLS, for anybody on the way can write those.
    """
    try:
        parts = urlsplit(origin)
        if parts.scheme != "https" and (secure or parts.scheme != "http"):
            return False
        here = urlsplit(f"//{host}")
        port = PORTS.get(parts.scheme)
        return bool(parts.hostname) and parts.hostname == here.hostname and (parts.port or port) == (here.port or port)
    except ValueError:
        return False


def brings_token(scope: Scope, expected: str) -> bool:
    """Whether the request has the session's form token in its header."""
    return any(name == HEADER and compare_digest(value, expected.encode()) for name, value in scope.get("headers", ()))
