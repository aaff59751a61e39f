"""The beginning and the end of a JSON text that is too long to be parsed for a verdict.

Theory of operation. Of a long text the first bytes are cut off after the last whole member in them, and what is open
there is closed: that is a JSON text of its own. The members of the outermost object that stand behind everything large
in it are had from the end: `{` and the text after a comma in front of a key. Where that is JSON, its last `}` closes
the outermost object, so the comma stood between two members of that object and of no other. It was no comma inside of
a string either: there a quotation mark of the text ends a string where it was taken to begin one, an odd number of
them is left, and what has an odd number of them is no JSON.

What is left out is the middle, and whoever asks is told so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

WHOLE = 8192
"""Characters of a text that is looked at as a whole."""
LOOKED = 4096
"""Characters of the beginning of a longer one."""
END = 2048
"""Characters of its end."""
MOST_TRIES = 8
"""Commas that are tried in the end."""

_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_loose = json.JSONDecoder(parse_int=float)
"""Takes integers of more digits than Python turns into an `int`."""
_brackets = re.compile(r"[\[\]{}]").findall
_CLOSED_BY = {"{": "}", "[": "]"}


def parsed(text: str) -> Any:
    """The value of a JSON text, `None` where it is none or is nested too deeply.

    Numbers beyond a float are infinite and text may have lone surrogates: what is only looked at may.
    """
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return _parsed_loosely(text)
    return value if end == len(text) else _parsed_loosely(text)


def _parsed_loosely(text: str) -> Any:
    """As `parsed`, with white space around, and with integers of any length."""
    try:
        return _loose.decode(text)
    except (ValueError, RecursionError):
        return None


def pieces(text: str) -> list[str]:
    """A text cut at the quotation marks of its strings: in turn what is outside and inside of them.

    Escapes inside are put out of shape; lengths stay.
    """
    if "\\" in text:
        text = text.replace("\\\\", "__").replace('\\"', "__")
    return text.split('"')


def first_members(text: str, cut: list[str]) -> Any:
    """The value of a JSON text whose end is missing, without the member that is cut; `None` where it has no whole one.

    `cut` are its pieces.
    """
    offset = sum(map(len, cut)) + len(cut) - 1
    for at in range(len(cut) - 1, -1, -1):
        offset -= len(cut[at])
        if not at & 1 and (comma := cut[at].rfind(",")) >= 0:
            return parsed(text[: offset + comma] + _closing("".join(cut[:at:2]) + cut[at][:comma]))
        offset -= 1
    return None


def _closing(structure: str) -> str:
    """What closes all that is open at the end of a text, by its part outside of the strings."""
    still_open: list[str] = []
    for bracket in _brackets(structure):
        if bracket in _CLOSED_BY:
            still_open.append(_CLOSED_BY[bracket])
        elif still_open:
            still_open.pop()
    still_open.reverse()
    return "".join(still_open)


def last_members(text: str) -> dict[str, Any]:
    """The last members of an object that is a JSON text, as many as are had cheaply; there may be none."""
    found: dict[str, Any] = {}
    end = text[-END:]
    at = len(end)
    for _ in range(MOST_TRIES):
        at = max(end.rfind('],"', 0, at), end.rfind('},"', 0, at), end.rfind('","', 0, at))
        wider = _object("{" + end[at + 2 :]) if at >= 0 else None
        if wider is None:
            break
        found = wider
    return found


def outermost(text: str, names: Iterable[str]) -> dict[str, Any] | None:
    """Those of the outermost members of an object that have these names, without a look at the others; `None` where
    that can't be told so cheaply.

    What stands before the first bracket in a text is outermost, and so is what closes with the text (`last_members`).
    """
    if "\\" in text or not text.startswith("{"):
        return None
    found: dict[str, Any] = {}
    brace, bracket = text.find("{", 1), text.find("[")
    nested = min(brace if brace >= 0 else len(text), bracket if bracket >= 0 else len(text))
    last = len(text)
    for name in names:
        key = f'"{name}":'
        at = text.find(key)
        if at < 0:  # a string that is no key, or white space
            return None
        if at > nested:
            last = min(last, at)
            continue
        try:
            found[name], _ = _scan(text, at + len(key))
        except (StopIteration, ValueError, RecursionError):
            return None
    if last == len(text):
        return found
    end = _object("{" + text[last:])
    return None if end is None else {**end, **found}


def _object(text: str) -> dict[str, Any] | None:
    """An object, if the text is one and nothing else."""
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None
    return value if end == len(text) and isinstance(value, dict) else None
