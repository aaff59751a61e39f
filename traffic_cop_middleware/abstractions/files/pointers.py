"""Pointers: what stands in place of a value that a file has."""

from __future__ import annotations

from typing import NamedTuple

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.contracts import FileRow
from traffic_cop_middleware.contracts.state import POINTER, is_pointer
from traffic_cop_middleware.errors import FileCorrupt


class Pointer(NamedTuple):
    """The file that has a value: its id, its object's path, and what its content must be."""

    file: str
    path: str
    sha256: str
    size: int


def pointer_text(row: FileRow) -> str:
    """What stands in the state in place of the content of this file."""
    return POINTER + dumps({"file": row.id, "path": row.path, "sha256": row.sha256, "size": row.size})


def pointer_of(value: str | None) -> Pointer | None:
    """The pointer that a value is; `None` where it is a JSON text, or nothing.

    Raises:
        FileCorrupt: it begins as a pointer and is none.
    """
    if value is None or not is_pointer(value):
        return None
    try:
        held = loads(value[len(POINTER) :])
        return Pointer(str(held["file"]), str(held["path"]), str(held["sha256"]), int(held["size"]))
    except (ValueError, TypeError, KeyError) as exc:
        raise FileCorrupt(f"the state has a pointer that can't be read ({exc}): {value[:200]!r}") from exc
