"""What a file is called: its id, its object's path, and the bytes that are hashed.

An id is made of what is promoted, so whoever promotes the same version again means the same row. A path ends in the
hash of the content and begins with the tenant, so no two tenants ever share an object.
"""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote

import anyio.to_thread

from traffic_cop_middleware.abstractions.json_texts import canonical
from traffic_cop_middleware.contracts import FileKind, StateKey
from traffic_cop_middleware.contracts.objects import MOST_SEGMENT
from traffic_cop_middleware.contracts.state import is_large

ID_LENGTH = 32
LARGE = 512 * 1024
"""Bytes from which on content is hashed in a thread: that takes about 1 ms."""


def file_id(key: StateKey, version: int, kind: FileKind, *, deleted: int = 0) -> str:
    """The id of a file: 128 bits of a hash of what it is of, in hex; and of how many files of that were deleted before
    it, for they stay so."""
    again = [str(deleted)] if deleted else []
    words = "\0".join((key.tenant, key.namespace, key.key, str(version), kind, *again))
    return hash_of(words.encode("utf-8", "surrogatepass"))[:ID_LENGTH]


def object_path(key: StateKey, id: str, digest: str) -> str:
    """Where the content of a new file goes: `tenant/namespace/id/sha256`."""
    return "/".join((_segment(key.tenant), _segment(key.namespace), id, digest))


def _segment(word: str) -> str:
    """A word as a part of a path: percent-encoded, or its hash where that is too long. `~` begins what is no word."""
    encoded = quote(word, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if not encoded:
        return "~"
    return encoded if len(encoded) <= MOST_SEGMENT else f"~{hash_of(encoded.encode())}"


def content_of(text: str) -> bytes:
    """What a file of this JSON text holds: the same value with sorted keys, so equal values are equal files.

    A text that is too large for a document was written so (`arguments.json_of`): making it anew costs more than the
    upload.
    """
    return (text if is_large(text) else canonical(text)).encode()


async def digest_of(content: bytes) -> str:
    """As `hash_of`, and of much content without holding up the event loop."""
    return await anyio.to_thread.run_sync(hash_of, content) if len(content) >= LARGE else hash_of(content)


def hash_of(content: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return sha256(content).hexdigest()
