"""What the presets make of a state, and the rule that people know, to the letter."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.promotion.analysis import analyse
from traffic_cop_middleware.abstractions.promotion.classic import classic
from traffic_cop_middleware.abstractions.promotion.evidence import Evidence, Scored
from traffic_cop_middleware.abstractions.promotion.scoring import balanced, tier_of
from traffic_cop_middleware.abstractions.promotion.settings import CRITICAL_FIELDS, CRITICAL_TYPES, PromotionSettings
from traffic_cop_middleware.contracts import Usage
from traffic_cop_middleware.errors import ConfigurationError


def evidence(state: Any, *, namespace: str = "cart", usage: Usage | None = None, age: float = 0.0) -> Evidence:
    found = analyse(dumps(state), critical_fields=frozenset(CRITICAL_FIELDS), top=True)
    return Evidence(found, namespace, (found.state_type or namespace).casefold(), usage, age)


def weighed(state: Any, **known: Any) -> Scored:
    return balanced(evidence(state, **known), critical_types=CRITICAL_TYPES)


usages = st.none() | st.builds(Usage, st.integers(0, 10**9), st.integers(0, 10**9), st.none())
states = st.dictionaries(
    st.sampled_from(["user_id", "type", "tags", "a", "b", "importance"]),
    st.none() | st.integers() | st.text(max_size=2000) | st.lists(st.integers(), max_size=300) | st.just("payment"),
)


@given(states, usages, st.floats(0, 1e12))
def test_a_score_is_from_0_to_1_and_its_tier_fits_it(state: Any, usage: Usage | None, age: float) -> None:
    for scored in (weighed(state, usage=usage, age=age), classic(evidence(state, usage=usage, age=age))):
        assert 0 <= scored.score <= 1
        assert scored.tier == tier_of(scored.score)
        assert sum(part.weight for part in scored.parts) == pytest.approx(1)
        assert all(0 <= part.value <= 1 for part in scored.parts)


@given(states, st.floats(0, 10), st.floats(0, 10), usages)
def test_a_higher_importance_is_never_a_lower_score(state: Any, one: float, other: float, usage: Usage | None) -> None:
    low, high = sorted((one, other))
    # of one length, or the shorter text would have a point less for its size
    below, above = ({**state, "importance": round(each, 4) + 0.00001} for each in (low, high))
    for score in (lambda s: weighed(s, usage=usage).parts[0].value, lambda s: classic(evidence(s)).parts[2].value):
        assert score(below) <= score(above)


def test_each_thing_that_is_known_moves_the_score() -> None:
    plain = {"a": 1, "b": "text", "c": [1, 2]}
    score = weighed(plain, usage=Usage(1, 0, None), age=100.0).score
    assert weighed({**plain, "d": 5}, usage=Usage(1, 0, None), age=100.0).score > score  # keys
    assert weighed({**plain, "a": {"x": 1}}, usage=Usage(1, 0, None), age=100.0).score > score  # nesting
    assert weighed({**plain, "a": True}, usage=Usage(1, 0, None), age=100.0).score > score  # data types
    assert weighed({**plain, "b": "text" * 100}, usage=Usage(1, 0, None), age=100.0).score > score  # bytes
    assert weighed({**plain, "user_id": 1}, usage=Usage(1, 0, None), age=100.0).score > score + 0.05  # critical fields
    assert weighed(plain, namespace="workflow", usage=Usage(1, 0, None), age=100.0).score > score  # type
    assert weighed(plain, usage=Usage(500, 20, None), age=100.0).score > score  # access
    assert weighed(plain, usage=Usage(1, 0, None), age=50_000.0).score > score  # age


def test_balanced_sorts_what_people_have() -> None:
    assert weighed({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}).tier == "cache"
    cart = {"user_id": "u-1", "lines": [{"sku": f"sku-{n}", "count": n, "gift": False} for n in range(20)]}
    assert weighed(cart).tier == "delayed"
    flow = {
        "type": "workflow",
        "workflow_id": 7,
        "user_id": "u",
        "importance": 5,
        "steps": [{"n": n} for n in range(90)],
    }
    assert weighed(flow).tier == "immediate"
    assert weighed({"page": "x" * 100_000}).tier == "cache"


@pytest.mark.parametrize(
    ("state", "complexity", "importance", "tier"),
    [
        ({}, 0, 1, "cache"),
        ({"a": 1}, 2.5, 1, "cache"),
        ({"a": 1, "b": 2}, 5, 1, "cache"),  # not above 5
        ({"a": 1, "b": 2, "c": 3}, 7.5, 1, "delayed"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, 10, 1, "delayed"),  # not above 10
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, 12.5, 1, "immediate"),
        ({"a": {"x": {"y": {"z": 1}}}}, 3.5, 1, "cache"),  # one level deep
        ({"a": {"x": 1, "y": 2}, "b": [1, [2, 3], 4]}, 4 + 3 + 3.6, 1, "immediate"),
        ({"a": [1, 2, 3]}, 2 + 3.6, 1, "delayed"),
        ({"a": [0] * 99}, 100, 1, "immediate"),
        ({"a": "x" * 492}, 2.5, 1, "cache"),  # 500 bytes
        ({"a": "x" * 493}, 2.5, 1, "delayed"),
        ({"a": "x" * 992}, 2.5, 1, "delayed"),  # 1000 bytes
        ({"a": "x" * 993}, 2.5, 1, "immediate"),
        ({"importance": 5}, 2.5, 5, "cache"),
        ({"importance": 6}, 2.5, 6, "delayed"),
        ({"importance": 8}, 2.5, 8, "delayed"),
        ({"importance": 9}, 2.5, 9, "immediate"),
        ({"user_id": 1}, 2.5, 3, "cache"),
        ({"user_id": 1, "importance": 4}, 5, 6, "delayed"),
        ({"a": {"user_id": 1}}, 3.5, 1, "cache"),
        ({"type": "payment"}, 2.5, 4, "cache"),
        ({"type": "session"}, 2.5, 3, "cache"),
        ({"tags": ["critical", "persistent"]}, 4.4, 6, "delayed"),
        ({"user_id": 1, "session_id": 2, "transaction_id": 3, "workflow_id": 4}, 10, 9, "immediate"),
    ],
)
def test_classic_is_the_rule_that_people_know(state: Any, complexity: float, importance: float, tier: str) -> None:
    said = classic(evidence(state, usage=Usage(1, 1, None), age=7.0))
    assert said.parts[0].reason.startswith(f"complexity {complexity:g} of 100")
    assert said.parts[2].reason.startswith(f"importance {importance:g} of 10")
    assert said.tier == tier


@pytest.mark.parametrize(("importance", "ttl"), [(1, 900), (6, 86_400), (8, 7 * 86_400), (10, 7 * 86_400)])
def test_classic_says_how_long(importance: int, ttl: float) -> None:
    assert classic(evidence({"importance": importance})).ttl == ttl
    assert classic(evidence({"a": "x" * 600})).ttl == 3600


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"preset": "fast"}, "promotion_preset='fast': 'balanced' or 'classic'"),
        ({"critical_fields": "user_id"}, "promotion_critical_fields='user_id': a list"),
        ({"critical_fields": [1]}, r"promotion_critical_fields=\[1\]: 1 is no name"),
        ({"critical_types": 5}, "promotion_critical_types=5: a list"),
        ({"critical_fields": ["x"] * 300}, "promotion_critical_fields has 300 names, and 256 are the most"),
        ({"preferences": {"order": "gold"}}, r"promotion_preferences\['order'\]='gold'"),
        ({"preferences": "order"}, "promotion_preferences='order'"),
        ({"file_bytes": 0}, "promotion_file_bytes=0: bytes from 1 to 262144"),
        ({"file_bytes": True}, "promotion_file_bytes=True"),
        ({"hook_timeout": 0}, "promotion_hook_timeout=0: seconds above 0"),
        ({"hook_timeout": float("nan")}, "promotion_hook_timeout=nan"),
    ],
)
def test_settings_that_cannot_be_used_are_named(kwargs: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        PromotionSettings(**kwargs)
