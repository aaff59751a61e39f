"""How an object lies in its file: a line of ASCII that says what it is, and the content after it.

    TCOBJ1 1f0c22aa {"path": "acme/order/42/9f86…", "size": 5, "crc32": "3610a686", …}
    hello

The first number is the CRC-32 of the JSON. All of it is written before the file has its name, so a file says everything
of itself or is none of ours; `tail -n +2 FILE` gives the content to a person.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from traffic_cop_middleware.contracts import StoredObject

SUFFIX = ".tcobject"
"""What a file's name ends with, so that `a` and `a/b` are a file and a folder."""
MOST_HEAD = 32 * 1024
"""Bytes of the first line; the path and `about` in JSON have less."""
HEAD = re.compile(rb"TCOBJ1 ([0-9a-f]{8}) (\{.*\})")


class Damaged(Exception):
    """A file is not whole, or none of ours; the message says how."""


class Head(NamedTuple):
    """What a file says of its object. The content is `size` bytes from `start` on, of CRC-32 `crc32`."""

    object: StoredObject
    start: int
    crc32: int


def head_of(stored: StoredObject, content: bytes) -> bytes:
    """The first line, its end included."""
    fields = stored._asdict() | {"about": dict(stored.about), "crc32": f"{zlib.crc32(content):08x}"}
    said = json.dumps(fields).encode()
    return b"TCOBJ1 %08x %s\n" % (zlib.crc32(said), said)


def read_head(beginning: bytes) -> Head:
    """What the first bytes of a file say.

    Raises:
        Damaged: they are no such line, or another one than was written.
    """
    line, end, _ = beginning.partition(b"\n")
    match = HEAD.fullmatch(line)
    if not end or match is None:
        raise Damaged("it does not begin as an object of ours")
    if int(match[1], 16) != zlib.crc32(match[2]):
        raise Damaged("its first line is not what was written")
    fields = json.loads(match[2])
    about: Mapping[str, str] = fields["about"]
    stored = StoredObject(
        fields["path"], fields["generation"], fields["size"], fields["created_at"], fields["sha256"], about
    )
    return Head(stored, len(line) + 1, int(fields["crc32"], 16))


def file_name(segment: str) -> str:
    """The name of an object's file."""
    return segment + SUFFIX


def folder_name(segment: str) -> str:
    """The name of a folder. One that ends as a file's does begins with a dot, which no part of a path does."""
    return f".{segment}" if segment.endswith(SUFFIX) else segment


def segment_of_folder(name: str) -> str | None:
    """The part of a path that a folder stands for; `None` where it is none of ours."""
    segment = name.removeprefix(".")
    return segment if folder_name(segment) == name else None
