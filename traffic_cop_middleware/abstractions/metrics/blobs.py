"""How figures are written for others: a form, and then their parts, compressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence


def blob_of(form: bytes, parts: Sequence[bytes]) -> bytes:
    """Parts as a blob."""
    return form + zlib.compress(b"".join(len(part).to_bytes(4, "little") + part for part in parts), 1)


def parts_of(blob: bytes, form: bytes, number: int) -> Sequence[bytes]:
    """So many parts of a blob.

    Raises:
        ValueError: it is none, or of another form, as another version of this package writes it.
    """
    if blob[:1] != form:
        raise ValueError(f"figures of the form {blob[:1]!r}, and this worker reads {form!r}")
    try:
        parts = [*_parts(zlib.decompress(memoryview(blob)[1:]))]
    except zlib.error as exc:
        raise ValueError(f"a blob that holds no figures: {exc}") from exc
    if len(parts) != number:
        raise ValueError(f"a blob that holds no figures: {len(parts)} parts, and not {number}")
    return parts


def _parts(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : end]
        at = end
