"""What a request says of who sends it: the session cookie, and a bearer token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST_COOKIE_HEADER = 16_384
LONGEST_TOKEN = 16_384
SPACES = b" \t"
"""What may stand around a field's parts (RFC 9110, section 5.6.3); what Python's strip takes beside is part of a name.
"""


def credentials(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The values of the cookies with this `name`, and the bearer tokens: more than one of a kind, and somebody meddled.

    HTTP/2 may split the Cookie header (RFC 9113, section 8.2.3). The scheme "Bearer" is case-insensitive (RFC 9110,
    section 11.1).
    """
    cookies: Sequence[bytes] = ()
    bearers: Sequence[bytes] = ()
    for key, value in headers:
        if key == b"cookie":
            if name in value and len(value) <= LONGEST_COOKIE_HEADER:
                cookies = [*cookies, *values_of(value, name)]
        elif key == b"authorization" and value[:7].lower() == b"bearer ":
            bearers = [*bearers, value[7:].strip(SPACES)[: LONGEST_TOKEN + 1]]
    return cookies, bearers


def values_of(header: bytes, name: bytes) -> list[bytes]:
    """The values that a Cookie header has under a name (RFC 6265, section 4.2)."""
    found = []
    for pair in header.split(b";"):
        key, equals, value = pair.partition(b"=")
        if equals and key.strip(SPACES) == name:
            found.append(value.strip(SPACES).strip(b'"'))
    return found
