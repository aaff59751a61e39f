"""The session's mapping is a dict to everybody who looks, and is filled only then."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.lazy_mapping import LazyMapping
from traffic_cop_middleware.errors import SessionNotReady

CONTENT = {"a": 1, "b": [1, {"c": None}]}


def _matched(mapping: Any) -> Any:
    match mapping:
        case {"a": found}:
            return found
    return None


LOOKS: dict[str, Callable[[Any], Any]] = {
    "getitem": lambda m: m["b"],
    "get": lambda m: m.get("a"),
    "contains": lambda m: "a" in m,
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda m: list(reversed(m)),
    "keys": lambda m: list(m.keys()),
    "values": lambda m: list(m.values()),
    "items": lambda m: list(m.items()),
    "eq": lambda m: m == CONTENT,
    "ne": lambda m: m != CONTENT,
    "eq from the left": lambda m: m == CONTENT,
    "repr": repr,
    "str": str,
    "copy": lambda m: m.copy(),
    "dict()": dict,
    "{**}": lambda m: {**m},
    "call(**)": lambda m: dict(**m),
    "or": lambda m: m | {"z": 1},
    "ror": lambda m: {"z": 1} | m,
    "update into": lambda m: {}.update(m) or len({"q": 1} | dict(m)),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "json": json.dumps,
    "setdefault": lambda m: (m.setdefault("a", 5), m.setdefault("n", 6), dict(m)),
    "pop": lambda m: (m.pop("a"), m.pop("zz", 3), dict(m)),
    "popitem": lambda m: (m.popitem(), dict(m)),
    "setitem": lambda m: (m.__setitem__("x", 1), dict(m)),
    "delitem": lambda m: (m.__delitem__("a"), dict(m)),
    "update": lambda m: (m.update({"a": 2}, k=3), m.update([("z", 1)]), dict(m)),
    "ior": lambda m: (m.__ior__({"a": 2}), dict(m)),
    "clear": lambda m: (m.clear(), dict(m)),
    "match": _matched,
}


def filled(content: dict[str, Any]) -> LazyMapping:
    mapping = LazyMapping()
    mapping._hold({key: dumps(value) for key, value in content.items()})
    return mapping


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_each_way_to_look_sees_what_is_in_it(look: Callable[[Any], Any]) -> None:
    mapping = filled(CONTENT)
    assert not mapping.accessed
    assert look(mapping) == look(copy.deepcopy(CONTENT))
    assert mapping.accessed


def test_what_is_never_looked_at_is_never_decoded() -> None:
    mapping = filled(CONTENT)
    assert mapping._changes() == {}
    assert not mapping.accessed
    assert not mapping._filled


def test_it_has_no_hash_and_its_copies_are_plain() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(LazyMapping())
    assert type(copy.copy(filled(CONTENT))) is dict


def test_it_can_not_be_looked_at_before_it_came() -> None:
    mapping = filled(CONTENT)
    mapping.unsettled = True
    with pytest.raises(SessionNotReady):
        mapping.get("a")
    mapping.unsettled = False
    assert mapping.get("a") == 1


def test_what_is_no_json_in_a_record_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    mapping = LazyMapping()
    mapping._hold({"good": "1", "bad": "gASVBQ==", "deep": "[" * 100_000})
    assert dict(mapping) == {"good": 1}
    assert "'bad' that is no JSON" in caplog.text


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé☃\n\"'\\"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(
    before=st.dictionaries(st.text("abc", max_size=2), JSON), after=st.dictionaries(st.text("abc", max_size=2), JSON)
)
def test_the_changes_lead_from_one_content_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    mapping = filled(before)
    mapping.clear()
    mapping.update(after)
    texts: dict[str, str | None] = {**{key: dumps(value) for key, value in before.items()}, **mapping._changes()}
    assert {key: loads(text) for key, text in texts.items() if text is not None} == after
    untouched = filled(before)
    dict(untouched)
    assert untouched._changes() == {}


def test_serializers_that_look_past_the_methods_see_it_once_it_was_asked_for() -> None:
    mapping = filled(CONTENT)
    mapping.mark_accessed()
    assert dict.copy(mapping) == CONTENT
