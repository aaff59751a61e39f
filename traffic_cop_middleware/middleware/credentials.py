"""What a request says of who sends it: the session cookie, and a bearer token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST_COOKIE_HEADER = 16_384
LONGEST_TOKEN = 16_384


def credentials(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> tuple[Sequence[bytes], bytes]:
    """The values of the cookies with this `name` (more than one: somebody meddled), and the bearer token, if any.

    HTTP/2 may split the Cookie header (RFC 9113, section 8.2.3). The scheme "Bearer" is case-insensitive (RFC 9110,
    section 11.1).
    """
    cookies: list[bytes] = []
    bearer = b""
    for key, value in headers:
        if key == b"cookie":
            if name in value and len(value) <= LONGEST_COOKIE_HEADER:
                cookies += values_of(value, name)
        elif key == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return cookies, bearer[: LONGEST_TOKEN + 1]


def values_of(header: bytes, name: bytes) -> list[bytes]:
    """The values that a Cookie header has under a name (RFC 6265, section 4.2)."""
    found = []
    for pair in header.split(b";"):
        key, equals, value = pair.partition(b"=")
        if equals and key.strip() == name:
            found.append(value.strip().strip(b'"'))
    return found
