"""What there is to say of a state, had from its JSON text without a walk over its values.

Theory of operation. A text cut at its quotation marks is in turn what is outside of its strings and what is inside.
Outside, each `:` belongs to one key, each `{` and `[` to one object and list, each `t` or `f` to one truth value, each
`n` to one null, and commas tell how many members there are: so counting characters, which is quick, counts values. The
text is parsed only to read the members that say something of the state itself, where there are any. Of a text of more
than `WHOLE` characters the beginning is counted, and the end is asked for such members (`glimpse`): the cost is
bounded, and `truncated` says that there is more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from traffic_cop_middleware.abstractions.promotion.glimpse import (
    LOOKED,
    WHOLE,
    first_members,
    last_members,
    outermost,
    parsed,
    pieces,
)
from traffic_cop_middleware.contracts import Tier
from traffic_cop_middleware.contracts.state import TIERS

MOST_IMPORTANT = 10.0
MOST_TAGS = 64
MOST_ROUNDS = 16
_TELLING = frozenset({"importance", "type", "state_type", "tags", "persistent", "promote", "preferences"})
"""Members of a state that say something of the state itself."""
_NOT_COUNTED = bytes(code for code in range(256) if code not in b"{}[]:,tfn")
_TRUTH = bytes.maketrans(b"f", b"t")
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"{}[]")
_ROUND = bytes.maketrans(b"{}[]", b"()()")
_STEPS = bytes.maketrans(b"()", b"\x01\xff")
_NO_NAMES: frozenset[str] = frozenset()
_Told = tuple[float | None, str | None, tuple[str, ...], bool, Tier | None, Tier | None]
"""`importance` to `preference` of an `Analysis`."""
_UNTOLD: _Told = (None, None, (), False, None, None)


class Top(NamedTuple):
    """The outermost members of a state alone: how many `keys`, entries of dicts among their values, and scalars;
    `lists` are the lengths of the lists. `names` are the keys."""

    keys: int
    dict_entries: int
    lists: tuple[int, ...]
    scalars: int
    names: frozenset[str]


class Analysis(NamedTuple):
    """What a state is like.

    `size`: bytes (UTF-8). `keys`, `nodes` (values of any kind, the state itself included), `depth` (a scalar has 0, an
    object of scalars 1) and `types` (how many of each JSON type there are: "object", "array", "string", "number",
    "boolean", "null") are counted in its first `looked` characters; `truncated`: there are more.
    `critical`: names of critical fields in it, wherever they stand.

    What the state says of itself, by outermost members of these names: `importance` (0 to 10), `state_type` (`type`,
    or `state_type`), `tags`, `persistent`, `promote` (a tier; true is "delayed"), `preference` (the tier that
    `preferences` name). `top` is `None` where nobody asked for it.
    """

    size: int
    looked: int
    truncated: bool
    keys: int
    nodes: int
    depth: int
    types: Mapping[str, int]
    critical: tuple[str, ...] = ()
    importance: float | None = None
    state_type: str | None = None
    tags: tuple[str, ...] = ()
    persistent: bool = False
    promote: Tier | None = None
    preference: Tier | None = None
    top: Top | None = None


def analyse(
    text: str, *, critical_fields: frozenset[str] = frozenset(), size: int | None = None, top: bool = False
) -> Analysis:
    """What there is to say of a state, by its JSON text. Never raises, whatever the text is.

    `size` is the text's in bytes (UTF-8), where that is known; `top` asks for the outermost members, counted.
    """
    if size is None:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    truncated = len(text) > WHOLE
    seen = text[:LOOKED] if truncated else text
    cut = pieces(seen) if "\\" in seen else seen.split('"')
    strings = cut[1::2]
    value: Any = None
    if top:
        value = first_members(seen, cut) if truncated else parsed(text)
        keys = value if value.__class__ is dict else ()
        critical = [name for name in critical_fields.intersection(strings) if name in keys or _is_key(name, cut)]
    else:
        named = _watched(critical_fields).intersection(strings)
        critical = [name for name in critical_fields.intersection(named) if _is_key(name, cut)]
        telling = _TELLING.intersection(named)
        if telling and truncated:
            value = first_members(seen, cut)
        elif telling:
            value = outermost(text, telling)
            if value is None:
                value = parsed(text)
    if truncated and text.startswith("{") and (end := last_members(text)):
        value = {**value, **end} if isinstance(value, dict) else end
        critical.extend(critical_fields.intersection(end).difference(critical))
    if len(critical) > 1:
        critical.sort()
    counted = _counted(cut[::2], len(strings))
    is_object = value.__class__ is dict
    told = _told(value) if is_object else _UNTOLD
    counts = _top(value, is_object) if top and value is not None else None
    return Analysis._make((size, len(seen), truncated, *counted, tuple(critical), *told, counts))


@lru_cache(maxsize=64)
def _watched(critical_fields: frozenset[str]) -> frozenset[str]:
    """The strings that make a difference where they are in a state."""
    return critical_fields | _TELLING


def preferred(preferences: object) -> Tier | None:
    """The tier that a user's `preferences` name: by their member "tier", or by "persist" (true is "delayed", false
    "cache")."""
    if preferences is None or not isinstance(preferences, Mapping):
        return None
    tier, persist = _tier(preferences.get("tier")), preferences.get("persist")
    if tier is not None:
        return tier
    if isinstance(persist, bool):
        return "delayed" if persist else "cache"
    return None


def _is_key(name: str, cut: list[str]) -> bool:
    """Whether one of the strings of a text, by its pieces, is a key."""
    at = -1
    try:
        while True:
            at = cut.index(name, at + 1, -1)
            if at & 1 and ((after := cut[at + 1])[:1] == ":" or after.lstrip()[:1] == ":"):
                return True
    except ValueError:  # there is no further one
        return False


def _counted(outside: list[str], strings: int) -> tuple[int, int, int, dict[str, int]]:
    """Keys, nodes, depth and types, by what is outside of the strings and how many strings there are."""
    text = '"'.join(outside)  # so that ["a"] does not look empty
    if " " in text or "\n" in text or "\t" in text or "\r" in text:
        text = "".join(text.split())
    structure = text.encode("utf-8", "surrogatepass")
    empty = structure.count(b"{}") + structure.count(b"[]")
    structure = structure.translate(_TRUTH, _NOT_COUNTED)  # far shorter, and counted six times
    count = structure.count
    keys, objects, arrays = count(b":"), count(b"{"), count(b"[")
    booleans, nulls, texts = count(b"t"), count(b"n"), strings - keys
    nodes = 1 + count(b",") + objects + arrays - empty
    numbers = nodes - objects - arrays - texts - booleans - nulls
    types = {
        "object": objects,
        "array": arrays,
        "string": texts,
        "boolean": booleans,
        "null": nulls,
        "number": numbers,
    }
    # Innermost pairs of brackets are taken out again and again. Where that takes long, or leaves some whose partner is
    # missing, they are counted one by one.
    left = brackets = structure.translate(_ROUND, _NO_BRACKETS)
    for depth in range(MOST_ROUNDS):
        if not left:
            return keys, nodes, depth, types
        left = left.replace(b"()", b"")
    return keys, nodes, max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0), types


def _told(value: dict[str, Any]) -> _Told:
    """What a state says of itself."""
    get = value.get
    declared, kind, tags = get("importance"), get("type"), get("tags")
    promote, preferences = get("promote"), get("preferences")
    importance: float | None = None
    if isinstance(declared, (int, float)) and declared is not True and declared is not False:
        if 0 <= declared <= MOST_IMPORTANT:
            importance = declared
        elif declared == declared:  # noqa: PLR0124 - NaN is not
            importance = 0.0 if declared < 0 else MOST_IMPORTANT
    if kind.__class__ is not str:
        kind = get("state_type")
    return (
        importance,
        kind if kind.__class__ is str else None,
        tuple([tag for tag in tags[:MOST_TAGS] if tag.__class__ is str]) if isinstance(tags, list) else (),
        get("persistent") is True,
        None if promote is None else "delayed" if promote is True else _tier(promote),
        None if preferences is None else preferred(preferences),
    )


def _tier(word: object) -> Tier | None:
    return None if word is None else next((tier for tier in TIERS if tier == word), None)


def _top(value: Any, is_object: bool) -> Top:
    lists: list[int] = []
    entries = 0
    members = value.values() if is_object else (value,)
    nested = 0
    for each in members:
        if each.__class__ is list:
            lists.append(len(each))
        elif each.__class__ is dict:
            entries += len(each)
            nested += 1
    names = frozenset(value) if is_object else _NO_NAMES
    return Top._make((len(names), entries, tuple(lists), len(members) - nested - len(lists), names))
