"""Subjects: whose bucket, whose session. A kind and a value (`ip:203.0.113.7`), safe inside a store's key."""

from __future__ import annotations

import hashlib
import re

PLAIN = re.compile(r"[A-Za-z0-9._:/@+=-]{1,96}")


def subject_of(kind: str, value: str) -> str:
    """`kind:value`, with a value that is long or has other than plain characters hashed.

    A hashed one begins with a tilde, which no plain one has: nobody can choose a name that is another's hash.
    """
    return f"{kind}:{value}" if PLAIN.fullmatch(value) else f"{kind}:~{digest(value)}"


def digest(value: str) -> str:
    """32 hexadecimal digits that stand for a text, and tell nothing of one that can't be guessed."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
