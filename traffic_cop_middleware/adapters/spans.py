"""The keys with a prefix, as one span of an index that is sorted by bytes."""

from __future__ import annotations


def span(prefix: str, after: str | None) -> tuple[bytes, bytes]:
    """The first key that may be meant, and the first beyond those, as bytes in UTF-8.

    A key has no NUL, so what comes next after it is itself and a NUL; UTF-8 has no byte 0xFF, so the last byte of a
    prefix can be counted up.
    """
    first = prefix.encode("utf-8", "surrogatepass")
    last = first[:-1] + bytes([first[-1] + 1]) if first else b"\xff"
    if after is not None:
        first = max(first, after.encode("utf-8", "surrogatepass") + b"\0")
    return first, last
