"""JSON as sessions keep it: one text for one value, the same each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no number that JSON has")
    return number


_decoder = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]
"""`decode` without its search for white space, which costs as much as a small value itself."""


def is_unicode(text: str) -> bool:
    """Whether a text is Unicode: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def dumps(value: Any) -> str:
    """A value as JSON (RFC 8259), without spaces.

    Raises:
        TypeError: it is no JSON.
        ValueError: it has NaN, infinity, a cycle, text that is no Unicode (a lone surrogate), or is nested too deeply.
    """
    try:
        text = _encoder.encode(value)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not text.isascii():
        text.encode()
    return text


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, has a number beyond a float, or text that is no Unicode (a lone surrogate).
    """
    try:
        value, end = _scan(text, 0)
        if end != len(text):
            value = _decoder.decode(text)  # white space around it, or something else
    except StopIteration as exc:
        raise ValueError("it is no JSON text") from exc
    except RecursionError as exc:
        raise ValueError("the JSON text is nested too deeply") from exc
    if "\\u" in text:
        dumps(value)
    return value


_plain_decoder = json.JSONDecoder()
"""Takes numbers that JSON does not have, which no encoder here gives again."""
_sorted_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def dumps_sorted(value: Any) -> str:
    """As `dumps`, with sorted keys: `canonical` gives the same again, where all keys are texts.

    Raises:
        TypeError, ValueError: as `dumps`.
    """
    try:
        text = _sorted_encoder.encode(value)
    except TypeError:  # keys of several kinds, which can't be sorted before they are texts
        return canonical(dumps(value))
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not text.isascii():
        text.encode()
    return text


def canonical(text: str) -> str:
    """The JSON text of the same value with sorted keys and no spaces: one text for one value.

    Raises:
        ValueError: as `loads`.
    """
    try:
        found = _sorted_encoder.encode(_plain_decoder.decode(text))
    except RecursionError as exc:
        raise ValueError("the JSON text is nested too deeply") from exc
    if not found.isascii():
        found.encode()
    return found
