"""Whatever lay within the spans of recorded use, what the real limiter refuses is within the bounds."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.advisor.bounds import Span
from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation
from traffic_cop_middleware.abstractions.advisor.usage import MICRO, RecordedUse, bucket_of, simulate_usage
from traffic_cop_middleware.abstractions.policies import capacity, parse_rates
from traffic_cop_middleware.adapters.memory import MemoryBuckets
from traffic_cop_middleware.contracts import Take
from traffic_cop_middleware.contracts.usage import REST, UsageCount
from traffic_cop_middleware.errors import ConfigurationError

Arrivals = dict[str, list[float]]


def truth(arrivals: Arrivals, limit: str, burst: float | None, cost: float) -> dict[str, list[float]]:
    """When the real limiter refuses each key."""
    (rate,) = parse_rates(limit)
    size = capacity(rate, burst)
    store = MemoryBuckets(clock=lambda: 0.0, max_keys=10_000, keyspace={})
    found: dict[str, list[float]] = {key: [] for key in arrivals}
    for at, key in sorted((at, key) for key, times in arrivals.items() for at in times):
        if not store.take([Take(key, size, rate.count / rate.seconds, cost)], now=at).admitted:
            found[key].append(at)
    return found


def recorded(arrivals: Arrivals, step: float, hidden: frozenset[tuple[str, int]] = frozenset()) -> list[UsageCount]:
    """The counts per span; those of `hidden` keys and spans as the rest."""
    counts: Counter[tuple[str, int]] = Counter()
    for key, times in arrivals.items():
        for at in times:
            span = int(at // step)
            counts[REST if (key, span) in hidden else key, span] += 1
    return [UsageCount(key, span * step, step, count) for (key, span), count in counts.items()]


def assert_within(found: LimitSimulation, refused: dict[str, list[float]], arrivals: Arrivals) -> None:
    total = sum(map(len, refused.values()))
    assert found.refused.low <= total <= found.refused.high
    touched = sum(1 for each in refused.values() if each)
    assert found.keys_refused.low <= touched <= found.keys_refused.high
    there = sum(1 for times in arrivals.values() if times)
    assert found.keys <= there <= found.keys + found.keys_hidden
    least, most = found.share_of_keys_refused
    assert not there or least <= touched / there <= most
    told = {each.name: each.refused for each in found.who}
    if REST not in told:
        for key, times in refused.items():
            assert told.get(key, Between(0, 0)).low <= len(times) <= told.get(key, Between(0, 0)).high
    seen = 0
    for span in found.when:
        inside = sum(span.start <= at < span.start + span.step for times in refused.values() for at in times)
        assert span.refused.low <= inside <= span.refused.high
        seen += inside
    assert len(found.when) == 100 or seen == total  # the rest had none


LIMITS = st.sampled_from(["1/minute", "3/minute", "10/minute", "1/second", "7/30 seconds", "5/hour", "40/7 minutes"])
MOMENTS = st.one_of(
    st.integers(0, 20 * 60).map(float),
    st.integers(0, 20 * 60 * 8).map(lambda eighths: eighths / 8),
    st.integers(0, 20).map(lambda minute: minute * 60.0),
    st.integers(1, 20).map(lambda minute: minute * 60 - 0.001),
)
BUNCHES = st.lists(st.tuples(MOMENTS, st.integers(1, 25)), max_size=14).map(
    lambda bunches: [at for at, count in bunches for _ in range(count)]
)


@settings(max_examples=600, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), BUNCHES, max_size=3),
    LIMITS,
    st.one_of(st.none(), st.sampled_from([1.0, 2.5, 6.0, 20.0])),
    st.sampled_from([1.0, 0.5, 0.75]),
    st.sampled_from([15.0, 60.0, 300.0]),
    st.frozensets(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=8),
)
@example({"a": [59.999] * 4 + [60.0] * 4 + [179.999] * 4 + [180.0] * 4}, "3/minute", None, 1.0, 60.0, frozenset())
def test_what_the_limiter_refuses_is_within_the_bounds(
    arrivals: Arrivals, limit: str, burst: float | None, cost: float, step: float, hidden: frozenset[tuple[str, int]]
) -> None:
    refused = truth(arrivals, limit, burst, cost)
    exact = simulate_usage(recorded(arrivals, step), limit, by="user", burst=burst, cost=cost)
    assert_within(exact, refused, arrivals)
    found = simulate_usage(recorded(arrivals, step, hidden), limit, by="user", burst=burst, cost=cost)
    assert_within(found, refused, arrivals)


DELAYED = st.lists(st.tuples(MOMENTS, st.integers(1, 12), st.floats(0, 8)), max_size=14)


@settings(max_examples=600, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), DELAYED, min_size=1, max_size=3),
    LIMITS,
    st.sampled_from([10.0, 20.0]),
    st.sampled_from([15.0, 60.0]),
    st.sampled_from([0.25, 1.0, 4.0, 8.0]),
)
@example({"a": [(59.0, 4, 8.0), (60.0, 9, 0.0), (70.0, 9, 0.0)]}, "3/minute", 10.0, 60.0, 4.0)
@example({"a": [(119.9, 100, 0.0), (172.0, 68, 8.0)]}, "1/second", 100.0, 60.0, 8.0)
@example({"a": [(59.0, 10, 8.0), (59.5, 5, 0.0)]}, "1/minute", 10.0, 60.0, 8.0)
@example(
    {
        "a": [
            (52.0, 10, 8.0),
            *[(53.0 + each, 1, 7.5 if each < 7 else 0.4) for each in range(67)],
            (119.5, 40, 0.0),
        ]
    },
    "1/second",
    10.0,
    60.0,
    8.0,
)
def test_requests_that_are_counted_at_their_end_are_within_the_bounds_too(
    bunches: dict[str, list[tuple[float, int, float]]], limit: str, burst: float, step: float, delay: float
) -> None:
    arrivals = {key: [at for at, number, _ in each for _ in range(number)] for key, each in bunches.items()}
    ends = {key: {at: at + long for at, _, long in each} for key, each in bunches.items()}  # one end for each moment
    refused = {key: [ends[key][at] for at in times] for key, times in truth(arrivals, limit, burst, 1).items()}
    counted = {key: sorted(ends[key][at] for at in times) for key, times in arrivals.items()}
    late = sum(ends[key][at] - at > delay for key, times in arrivals.items() for at in times)
    found = RecordedUse(bucket_of(limit, burst, 1, delay=delay), late=late)
    for each in sorted(recorded(counted, step), key=lambda each: each.start):
        start, end = round(each.start * MICRO), round((each.start + each.step) * MICRO)
        found.add(each.key, Span(start, end, each.requests))
    assert_within(found.simulation(limit, "user"), refused, arrivals)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.sampled_from([(3, 2.0), (2, 1.0), (6, 3.0), (1, 4.0)]))
def test_arrangements_come_up_to_the_bounds(counts: list[int], limit: tuple[int, float]) -> None:
    """The bounds are not only safe: bunches and even spreads of the same counts refuse nearly as much and as little."""
    per_minute, burst = limit
    text = f"{per_minute}/minute"
    usage = [UsageCount("a", 60.0 * index, 60.0, count) for index, count in enumerate(counts)]
    found = simulate_usage(usage, text, by="user", burst=burst).refused
    rng = random.Random(repr(counts))
    worst, best = 0, sum(counts)
    spots = [0.0, 59.999] * 6 + [rng.uniform(0, 59.999) for _ in range(6)]
    for _ in range(200):
        times = [60 * index + rng.choice(spots) for index in range(len(counts))]
        bunched = [at for at, count in zip(times, counts, strict=True) for _ in range(count)]
        worst = max(worst, len(truth({"a": bunched}, text, burst, 1)["a"]))
    for phase in (0.0, 0.25, 0.5, 0.75, 0.999):
        spread = [
            60 * index + 60 * (each + phase) / count for index, count in enumerate(counts) for each in range(count)
        ]
        best = min(best, len(truth({"a": spread}, text, burst, 1)["a"]))
    assert worst >= found.high - 1 - len(counts) // 2
    assert best <= found.low + 1 + len(counts)


def test_the_bounds_of_usual_traffic_are_close() -> None:
    """Four hours of 200 users, a tenth of them busy, one a script."""
    rng = random.Random(7)
    arrivals: Arrivals = {}
    for number in range(200):
        per_minute = 300.0 if number == 0 else 20.0 if number < 20 else 1.0
        at, times = rng.uniform(0, 600), []
        while at < 4 * 3600:
            times.append(at)
            at += rng.expovariate(per_minute / 60)
        arrivals[f"user-{number}"] = times
    refused = truth(arrivals, "100/minute", None, 1)
    found = simulate_usage(recorded(arrivals, 60.0), "100/minute", by="user")
    assert_within(found, refused, arrivals)
    total = sum(map(len, refused.values()))
    assert total > 40_000
    # The script's 72,000 requests alone are apart: bunched as badly as can be, half as many of them pass.
    assert found.refused.high - found.refused.low <= 0.06 * found.requests
    assert 0.99 * total <= found.refused.low
    roomy = simulate_usage(recorded(arrivals, 60.0), "100/minute", by="user", burst=300)
    assert roomy.refused.high - roomy.refused.low <= 0.002 * found.requests
    assert found.keys_refused == (1, 1)
    assert found.who[0].name == "user-0"


def test_few_requests_are_never_refused_and_floods_always() -> None:
    quiet = simulate_usage([UsageCount("a", 0, 60, 5), UsageCount("a", 60, 60, 5)], "10/minute", by="user")
    assert (quiet.refused, quiet.keys_refused) == ((0, 0), (0, 0))
    flood = simulate_usage([UsageCount("a", 0, 60, 1000)], "10/minute", by="user")
    assert flood.refused == (980, 990)
    assert flood.keys_refused == (1, 1)


def test_parts_of_workers_add_up_and_routes_are_told_apart() -> None:
    usage = [
        UsageCount("a", 0, 60, 30, "/search"),
        UsageCount("a", 0, 60, 30, "/search"),
        UsageCount("a", 0, 60, 40, "/items"),
    ]
    assert simulate_usage(usage, "10/minute", by="user").refused == (80, 90)
    search = simulate_usage(usage, "10/minute", by="user", route="/search")
    assert (search.requests, search.refused) == (60, (40, 50))
    assert search.where[0].name == "/search"


def test_the_rest_adds_to_the_upper_bound_alone() -> None:
    found = simulate_usage([UsageCount("a", 0, 60, 30), UsageCount(REST, 0, 60, 500)], "10/minute", by="user")
    assert found.refused == (10, 520)
    assert any("500 requests" in note for note in found.notes)


def test_keys_can_be_hashed() -> None:
    found = simulate_usage([UsageCount("alice", 0, 60, 30)], "1/minute", by="user", hash_keys=True)
    assert "alice" not in str(found)
    assert len(found.who) == 1


@pytest.mark.parametrize(
    ("usage", "limit", "said"),
    [
        ([UsageCount("a", 0, 300, 1), UsageCount("a", 60, 60, 1)], "1/minute", "overlap"),
        ([UsageCount("a", 0, 60, -1)], "1/minute", "0 or more"),
        ([("a", 7)], "1/minute", r"\('a', 7\): usage is of UsageCount"),
        ({"a": 7}, "1/minute", "'a': usage is of UsageCount"),
        ([], "1/second; 10/minute", "each of 2"),
        ([], "often", "not a rate"),
    ],
)
def test_what_cannot_be_used_is_said(usage: Any, limit: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        simulate_usage(usage, limit, by="user")


def test_nothing_recorded_refuses_nothing() -> None:
    found = simulate_usage([], "1/minute", by="user")
    assert (found.requests, found.refused, found.share_refused) == (0, (0, 0), (0.0, 0.0))
    assert "0 of 0 requests" in str(found)
