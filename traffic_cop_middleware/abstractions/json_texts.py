"""JSON as sessions keep it: one text for one value, the same each time."""

from __future__ import annotations

import json
from typing import Any

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_decoder = json.JSONDecoder()


def dumps(value: Any) -> str:
    """A value as JSON (RFC 8259), without spaces.

    Raises:
        TypeError: it is no JSON.
        ValueError: it has NaN, infinity, a cycle, or text that is no Unicode (a lone surrogate).
    """
    text = _encoder.encode(value)
    if not text.isascii():
        text.encode()
    return text


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decoder.decode(text)
    except RecursionError as exc:
        raise ValueError("the JSON text is nested too deeply") from exc
