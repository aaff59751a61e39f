"""What each policy chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.balancing.pools import Bench, members
from traffic_cop_middleware.abstractions.balancing.attempts import Nobody
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.abstractions.balancing.sampling import Sampler
from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate

NAMES = "abcdefgh"
by_weight = ("random", "weighted", "p2c", "peak-ewma")
weights = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def weighted(given: Sequence[int], **settings: Any) -> Bench:
    names = NAMES[: len(given)]
    return Bench(names, weights=dict(zip(names, given, strict=True)), **settings)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_instance_gets_everything(policy: str) -> None:
    assert Bench("a", policy=policy).picked(10) == {"a"}


@pytest.mark.parametrize("policy", POLICIES)
def test_idle_instances_of_equal_weight_get_equally_much(policy: str) -> None:
    bench = Bench("abcd", policy=policy)
    found = Counter(bench.pick(key=BalancingKey(f"k{at}")).name for at in range(4_000))
    assert set(found) == set("abcd")
    assert all(700 <= count <= 1_300 for count in found.values())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("weight", [1, 3])
def test_what_was_tried_is_not_chosen_again(policy: str, weight: int) -> None:
    bench = Bench("abcd", weights={"b": weight}, policy=policy)
    assert bench.picked(100, "ac", BalancingKey("k", "a")) <= {"b", "d"}
    assert bench.picked(10, "acd") == {"b"}
    assert bench.pool.pick([bench.pool[name] for name in "abcd"]) is Nobody.TRIED


@pytest.mark.parametrize("policy", by_weight)
def test_idle_instances_get_their_shares(policy: str) -> None:
    bench = Bench("abc", weights={"a": 6, "b": 3, "c": 1}, policy=policy)
    found = Counter(bench.pick().name for _ in range(6_000))
    if policy in ("random", "weighted"):
        assert 3_300 <= found["a"] <= 3_900
        assert 1_600 <= found["b"] <= 2_000
        assert 450 <= found["c"] <= 750
    else:  # of two idle ones the first that was drawn, which is drawn by weight
        assert found["a"] > found["b"] > found["c"] > 450


@given(weights)
def test_in_turn_by_weight_each_gets_exactly_its_share_of_a_round(given: list[int]) -> None:
    bench = weighted(given, policy="weighted")
    found = Counter(bench.pick().name for _ in range(3 * sum(given)))
    if len(set(given)) > 1:
        assert [found[name] for name in NAMES[: len(given)]] == [3 * weight for weight in given]
    else:
        assert max(found.values()) - min(found.values()) <= sum(given)


def test_turns_are_spread_within_a_round() -> None:
    bench = Bench("ab", weights={"a": 3, "b": 1}, policy="weighted")
    assert [bench.pick().name for _ in range(8)] == ["a", "a", "b", "a", "a", "a", "b", "a"]


def test_credits_outlast_an_instance_that_is_away_for_a_while() -> None:
    bench = Bench("abc", weights={"a": 5, "b": 4, "c": 1}, policy="weighted")
    before = Counter(bench.pick().name for _ in range(7))
    bench.pool.drain("c")
    bench.pool.resume("c")
    assert before + Counter(bench.pick().name for _ in range(3)) == Counter(a=5, b=4, c=1)


def test_round_robin_takes_turns_whatever_the_weights() -> None:
    bench = Bench("abc", weights={"a": 9}, policy="round-robin")
    found = [bench.pick().name for _ in range(6)]
    assert found[:3] == found[3:]
    assert set(found[:3]) == set("abc")


def test_the_least_busy_for_its_weight_is_chosen() -> None:
    bench = Bench("abc", weights={"c": 4}, policy="least-requests")
    for name in "abccc":
        bench.began(name)
    assert bench.picked() == {"c"}
    for _ in range(6):
        bench.began("c")
    assert bench.picked() == {"a", "b"}


def test_of_two_the_less_busy_one_is_chosen() -> None:
    bench = Bench("ab", policy="p2c")
    bench.began("a")
    assert bench.picked() == {"b"}
    bench.began("b")
    bench.began("b")
    assert bench.picked() == {"a"}


def test_the_busiest_of_many_gets_nothing_by_two_choices() -> None:
    bench = Bench(NAMES, policy="p2c")
    for _ in range(3):
        bench.began("a")
    assert "a" not in bench.picked()


def test_a_slow_instance_is_left_alone_and_tried_again_later() -> None:
    bench = Bench("ab", tau=10.0)
    bench.ends("a", seconds=1.0)
    bench.ends("b", seconds=0.1)
    assert bench.picked() == {"b"}
    bench.clock.advance(20)
    bench.ends("b", seconds=0.1)
    assert bench.picked() == {"b"}
    bench.clock.advance(10)
    bench.ends("b", seconds=0.1)
    assert bench.picked() == {"a"}


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNREACHABLE, Outcome.BROKEN])
def test_a_failure_at_once_counts_as_a_slow_answer(outcome: Outcome) -> None:
    bench = Bench("ab")
    bench.ends("a", seconds=0.1)
    bench.ends("b", seconds=0.1)
    bench.ends("a", outcome)
    bench.began("b")
    assert bench.picked() == {"b"}


def test_an_instance_that_says_nothing_grows_slower_by_the_second() -> None:
    bench = Bench("ab")
    bench.ends("a", seconds=0.010)
    bench.ends("b", seconds=0.020)
    frozen = bench.began("a")
    bench.clock.advance(0.2)
    for _ in range(3):
        bench.began("b")
    assert bench.picked() == {"b"}
    frozen.ended(Outcome.CANCELLED)  # the client did not wait: no verdict, but it was at least that slow
    assert bench.picked() == {"b"}
    assert bench.pool["a"].failures == 0


def test_a_choice_between_two_bad_ones_is_made_anew() -> None:
    bench = Bench(NAMES)
    for name in NAMES:
        bench.ends(name, seconds=0.01)
    for name in "ab":
        bench.ends(name, seconds=0.2)
    found = Counter(bench.pick().name for _ in range(20_000))
    assert found["a"] + found["b"] < 20_000 / 28 / 8  # one draw in 28 is of those two


def test_of_two_of_whom_nothing_is_known_each_gets_its_weight() -> None:
    bench = Bench("ab", weights={"a": 3})
    drawn = Counter(bench.pick().name for _ in range(4_000))
    assert drawn["a"] == pytest.approx(3_000, abs=150)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(0, 99))
def test_two_that_are_drawn_are_two(given: list[int], seed: int) -> None:
    bench = weighted(given)
    sampler = Sampler(Random(seed))
    sampler.prepare([bench.pool[name] for name in NAMES[: len(given)]])
    for _ in range(50):
        one, other = sampler.draw_two()
        assert one != other
        assert 0 <= min(one, other) <= max(one, other) < len(given)


# Keys


def owners(bench: Bench, keys: Sequence[str]) -> dict[str, str]:
    return {key: bench.pick(key=BalancingKey(key)).name for key in keys}


KEYS = [f"session-{at}" for at in range(500)]


def test_all_workers_find_the_same_instance_for_a_key() -> None:
    first, second = Bench(NAMES, policy="hash"), Bench(NAMES[::-1], policy="hash")
    assert owners(first, KEYS) == owners(second, KEYS)
    assert owners(first, KEYS[:3]) == {"session-0": "d", "session-1": "e", "session-2": "c"}  # in each version of ours


def test_only_keys_of_the_instance_that_went_move() -> None:
    bench = Bench(NAMES, policy="hash")
    before = owners(bench, KEYS)
    bench.pool.drain("c")
    after = owners(bench, KEYS)
    assert {key for key in KEYS if before[key] != after[key]} == {key for key in KEYS if before[key] == "c"}
    assert len({after[key] for key in KEYS if before[key] == "c"}) > 3
    bench.pool.resume("c")
    assert owners(bench, KEYS) == before


def test_keys_move_to_an_instance_that_came_and_nowhere_else() -> None:
    bench = Bench(NAMES, policy="hash")
    before = owners(bench, KEYS)
    bench.pool.change(members(NAMES + "i"))
    after = owners(bench, KEYS)
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved
    assert {after[key] for key in moved} == {"i"}


def test_shares_of_the_ring_go_by_weight() -> None:
    bench = Bench("ab", weights={"a": 3, "b": 1}, policy="hash")
    found = Counter(owners(bench, [f"k{at}" for at in range(2_000)]).values())
    assert 1_350 <= found["a"] <= 1_650


@pytest.mark.parametrize("heaviest", [2, 5, 10])
def test_keys_of_others_stay_when_the_heaviest_instance_goes_or_comes(heaviest: int) -> None:
    bench = Bench(NAMES, weights={"c": heaviest}, policy="hash")
    before = owners(bench, KEYS)
    bench.pool.change(members(NAMES.replace("c", "")))
    after = owners(bench, KEYS)
    assert {key for key in KEYS if before[key] != after[key]} == {key for key in KEYS if before[key] == "c"}
    bench.pool.change(members(NAMES, c=heaviest))
    assert owners(bench, KEYS) == before


def test_a_weight_that_changes_moves_keys_of_that_instance_or_to_it_and_no_others() -> None:
    bench = Bench(NAMES, policy="hash")
    before = owners(bench, KEYS)
    for weight in (3, 2, 7, 1):
        bench.pool.change(members(NAMES, c=weight))
        after = owners(bench, KEYS)
        assert all("c" in (before[key], after[key]) for key in KEYS if before[key] != after[key])
        before = after


def test_a_ring_is_the_same_whatever_was_there_before() -> None:
    bench = Bench(NAMES, policy="hash")
    for names, weights in (("abc", {}), ("abcxyz", {"x": 400, "y": 90}), ("bx", {"x": 3}), (NAMES, {"b": 3, "h": 9})):
        bench.pool.change(members(names, **weights))
        fresh = Bench(names, weights=weights, policy="hash")
        assert owners(bench, KEYS) == owners(fresh, KEYS)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=120), weights)
def test_no_instance_is_above_its_bound_of_what_is_in_flight(steps: list[tuple[int, bool]], given: list[int]) -> None:
    bench = weighted(given, policy="hash", bound=1.25)
    under_way = []
    for key, ends in steps:
        if ends and under_way:
            under_way.pop(key % len(under_way)).ended()
            continue
        found = bench.pick(key=BalancingKey(f"hot-{key % 2}"))
        under_way.append(bench.pool.began(found))
        assert found.in_flight <= ceil(1.25 * len(under_way) * found.share / sum(given))


def test_without_a_key_hashing_takes_the_less_busy_of_two() -> None:
    bench = Bench("ab", policy="hash")
    bench.began("a")
    assert bench.picked() == {"b"}


def test_a_request_goes_to_the_owner_that_it_names() -> None:
    bench = Bench(NAMES, affinity="session")
    for _ in range(9):
        bench.began("c")
    assert bench.picked(key=BalancingKey("", "c")) == {"c"}
    assert "c" not in bench.picked()
    assert len(bench.picked(key=BalancingKey("", "nobody"))) > 3
    bench.pool.drain("c")
    assert "c" not in bench.picked(key=BalancingKey("", "c"))


def test_without_affinity_an_owner_is_only_a_word() -> None:
    bench = Bench(NAMES)
    assert len(bench.picked(key=BalancingKey("", "c"))) > 3


# Own ones


class Last:
    """Chooses the last one, by what it was told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.fail: Any = None

    def changed(self, instances: Sequence[Candidate]) -> None:
        self.names = [each.name for each in instances]

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        if self.fail is not None:
            return self.fail()  # type: ignore[no-any-return]
        return max(candidates, key=lambda each: self.names.index(each.name))


def test_a_policy_of_ones_own_chooses_and_hears_of_changes() -> None:
    policy = Last()
    bench = Bench("abc", policy=policy)
    assert bench.picked() == {"c"}
    assert bench.picked(tried="c") == {"b"}
    bench.pool.change(members("abcd"))
    assert policy.names == list("abcd")
    assert bench.picked() == {"d"}


def test_an_error_in_it_costs_a_log_line_and_no_request(caplog: pytest.LogCaptureFixture) -> None:
    policy = Last()
    bench = Bench("abc", policy=policy)
    policy.fail = lambda: 1 / 0
    assert bench.picked(20) == set("abc")
    assert "ZeroDivisionError" in caplog.text
    policy.fail = lambda: bench.pool["a"]
    assert bench.picked(20, tried="a") == set("bc")
    assert "no candidate" in caplog.text
