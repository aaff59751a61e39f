"""Paths as templates, where no app says which routes there are: what looks like an id is folded."""

from __future__ import annotations

import re
from functools import lru_cache

ID = re.compile(
    r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9a-fA-F]{12,}"
    r"|(?=[^.]*\d)[A-Za-z0-9_-]{20,}"
)
"""Digits; a UUID; a long hexadecimal number; any long word with a digit in it."""
DEEPEST = 12


@lru_cache(maxsize=8192)
def folded(path: str) -> str:
    """`/items/4711/parts/9` as `/items/{id}/parts/{id}`; of very deep paths the beginning."""
    segments = path.split("/")
    if len(segments) > DEEPEST:
        segments = [*segments[:DEEPEST], "…"]
    return "/".join("{id}" if ID.fullmatch(segment) else segment for segment in segments)
