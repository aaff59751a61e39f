"""What is found in a state's JSON text: exactly where all of it is looked at, bounded where it is long."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.promotion.analysis import Analysis, analyse
from traffic_cop_middleware.abstractions.promotion.glimpse import END, LOOKED, WHOLE, last_members, outermost

FIELDS = frozenset({"user_id", "payment"})
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                ["user_id", "type", "tags", "importance", "preferences", "promote", '"', "\\", "a:b", "{["]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=40,
)
KINDS = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    type(None): "null",
    int: "number",
    float: "number",
}


def walked(value: Any) -> tuple[int, int, int, dict[str, int]]:
    """Keys, nodes, depth and types, the plain way."""
    types = dict.fromkeys(["object", "array", "string", "boolean", "null", "number"], 0)
    keys = nodes = depth = 0
    level = [value]
    while level:
        below: list[Any] = []
        for each in level:
            nodes += 1
            types[KINDS[type(each)]] += 1
            if isinstance(each, dict):
                keys += len(each)
                below += each.values()
            elif isinstance(each, list):
                below += each
        depth += any(isinstance(each, dict | list) for each in level)
        level = below
    return keys, nodes, depth, types


def names_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


@given(values, st.booleans())
def test_counting_characters_counts_what_a_walk_would(value: Any, indented: bool) -> None:
    text = json.dumps(value, indent=2) if indented else dumps(value)
    found = analyse(text, critical_fields=FIELDS)
    if not found.truncated:
        assert (found.keys, found.nodes, found.depth, dict(found.types)) == walked(value)
        assert set(found.critical) == FIELDS & names_in(value)
    assert found.size == len(text.encode())


TELLING = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["order", 7, "{"]),
        "state_type": st.just("cart"),
        "tags": st.sampled_from([["a", "]"], [], ["}", {"tags": 1}], "type"]),
        "importance": st.sampled_from([3, 12, -1, 10**400, True, None]),
        "preferences": st.sampled_from([{"tier": "delayed"}, {"persist": False}]),
        "promote": st.booleans(),
        "persistent": st.just(True),
    },
)


@given(
    st.lists(TELLING | st.dictionaries(st.text(max_size=3), values | TELLING, max_size=3), max_size=4), st.booleans()
)
def test_members_found_without_a_look_at_the_others_are_those_of_the_whole(parts: list[Any], indented: bool) -> None:
    value = {key: each for part in parts for key, each in part.items()}
    text = json.dumps(value, indent=1) if indented else dumps(value)
    if len(text) <= WHOLE:
        assert analyse(text) == analyse(text, top=True)._replace(top=None)
        names = [name for name in value if f'"{name}":' in text]
        found = outermost(text, names)
        assert found is None or {name: found[name] for name in names} == {name: value[name] for name in names}


@given(st.text() | values.map(dumps), st.booleans())
def test_no_text_raises(text: str, top: bool) -> None:
    for each in (text, text * 500, "{" + text, '{"a":' + text + ',"type":"x"}'):
        assert isinstance(analyse(each, critical_fields=FIELDS, top=top), Analysis)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        "[" * 3000 + "]" * 3000,
        '{"type":' * 900 + "1" + "}" * 900,
        '{"importance":' + "9" * 6000 + "}",
        '{"importance":1e999,"tags":[1e999]}',
        '{"type":"\\ud800","user_id":1}',
        '{"user_id":"\\\\\\"","type":"a\\\\"}',
        "",
        "-",
        '"',
        "\ud800" * 9000,
        '{"tags":[{"a":1},["critical"],null],"preferences":[],"promote":[],"type":{}}',
    ],
)
def test_odd_texts_are_looked_at_all_the_same(text: str) -> None:
    found = analyse(text, critical_fields=FIELDS, top=True)
    assert 0 <= (found.importance or 0) <= 10
    assert found.nodes >= 0


def test_depth_is_found_however_deep() -> None:
    for depth in (0, 1, 15, 16, 17, 500, 3000):
        assert analyse("[" * depth + "1" + "]" * depth).depth == depth
    assert analyse("[" * 100_000).depth == LOOKED


def test_a_state_tells_of_itself() -> None:
    state = {
        "type": "order",
        "importance": 12,
        "tags": ["critical", 3],
        "persistent": True,
        "promote": "immediate",
        "preferences": {"tier": "delayed"},
        "lines": [1, 2, 3],
        "nested": [{"payment": 1}, {"text": "user_id"}],
    }
    found = analyse(dumps(state), critical_fields=FIELDS, top=True)
    assert (found.state_type, found.importance, found.tags) == ("order", 10, ("critical",))
    assert (found.persistent, found.promote, found.preference) == (True, "immediate", "delayed")
    assert found.critical == ("payment",)
    assert found.top is not None
    assert (found.top.keys, found.top.dict_entries, found.top.lists, found.top.scalars) == (8, 1, (2, 3, 2), 4)


def test_only_outermost_members_tell_of_the_state() -> None:
    found = analyse(dumps({"other": {"type": "payment", "importance": 10, "persistent": True, "promote": True}}))
    assert (found.state_type, found.importance, found.persistent, found.promote) == (None, None, False, None)
    assert analyse(dumps({"state_type": "cart", "type": 7})).state_type == "cart"
    assert analyse(dumps({"importance": True})).importance is None
    assert analyse(dumps({"importance": 10**400})).importance == 10
    assert analyse(dumps({"preferences": {"persist": False}})).preference == "cache"


def test_of_a_long_state_the_beginning_and_the_end_are_looked_at() -> None:
    lines = [{"id": number, "note": 'a "quoted" note, with \\ and },"'} for number in range(2000)]
    state = {"type": "order", "lines": lines, "payment": {"card": 1}, "tags": ["critical"], "importance": 7}
    text = dumps(state)
    found = analyse(text, critical_fields=FIELDS, top=True)
    assert found.truncated
    assert found.looked == LOOKED
    assert found.size == len(text)
    assert (found.state_type, found.tags, found.importance) == ("order", ("critical",), 7)
    assert found.critical == ("payment",)
    assert found.depth == 3
    assert 100 < found.nodes < 2000


@given(st.dictionaries(st.text(max_size=6), values, min_size=1, max_size=6), values)
def test_members_had_from_the_end_are_those_of_the_outermost_object(members: dict[str, Any], large: Any) -> None:
    whole = {"large": [large] * 50, **members}
    found = last_members(dumps(whole))
    read = json.loads(dumps(whole))
    assert all(read[key] == value for key, value in found.items())


def test_what_is_looked_at_is_bounded() -> None:
    """However long the text, no more than this is ever taken out of it."""

    class Counted(str):
        taken = 0

        def __getitem__(self, at: Any) -> str:
            got = super().__getitem__(at)
            Counted.taken += len(got)
            return got

    state = {"type": "x", "rows": [{"user_id": number, "b": [True, None]} for number in range(50_000)], "tags": []}
    analyse(Counted(dumps(state)), critical_fields=FIELDS)
    assert 0 < Counted.taken <= WHOLE + LOOKED + END
