"""Paths as templates, where no app says which routes there are: what looks like an id is folded."""

from __future__ import annotations

import re
from functools import lru_cache

ID = re.compile(
    r"\d+|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9a-fA-F]{12,}"
    r"|(?=[^.]*\d)[A-Za-z0-9_-]{20,}"
)
"""Digits; a UUID; a long hexadecimal number; any long word with a digit in it."""
SHORTEST = 12
"""Characters of an id that is no plain number."""
DEEPEST = 12
LONGEST = 300
"""Characters: of a longer path only the beginning counts."""


@lru_cache(maxsize=8192)
def folded(path: str) -> str:
    """`/items/4711/parts/9` as `/items/{id}/parts/{id}`; of very deep and very long paths the beginning."""
    segments = (path if len(path) <= LONGEST else path[:LONGEST] + "…").split("/")
    if len(segments) > DEEPEST:
        segments = [*segments[:DEEPEST], "…"]
    return "/".join(["{id}" if _is_id(segment) else segment for segment in segments])


def _is_id(segment: str) -> bool:
    # Most are shorter than any but a plain number.
    return segment.isdecimal() if len(segment) < SHORTEST else ID.fullmatch(segment) is not None
