"""The retry budget."""

from __future__ import annotations

from math import exp

from hypothesis import given
from hypothesis import strategies as st

from tests.balancing.pools import Bench
from traffic_cop_middleware.abstractions.balancing.retry_budget import MEMORY, RetryBudget

steps = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 0.1, 1.0, 30.0])), max_size=60)


@given(steps, st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.5, 3.0]))
def test_retries_are_a_share_of_the_requests_or_the_floor(
    steps: list[tuple[int, int, float]], share: float, floor: float
) -> None:
    budget = RetryBudget(share=share, floor=floor, now=0.0)
    now, requests, retries = 0.0, 0, 0
    for came, wanted, passed in steps:
        for _ in range(came):
            requests += 1
            budget.paid_in(now)
        retries += sum(budget.take(now) for _ in range(wanted))
        assert retries <= share * requests + floor * (now + 1) + (1 if floor else 0) + 1e-6
        now += passed


def test_in_a_total_outage_a_fifth_more_is_sent() -> None:
    bench = Bench()
    retries = 0
    for _ in range(10_000):
        bench.pick()
        retries += bench.pool.may_retry()
        bench.clock.advance(0.001)
    assert 1_900 <= retries <= 2_000


def test_a_quiet_service_may_retry() -> None:
    bench = Bench(retry_floor=1.0)
    for _ in range(10):
        bench.pick()
        assert bench.pool.may_retry()
        assert not bench.pool.may_retry()
        bench.clock.advance(1)


def test_calm_hours_do_not_pay_for_a_storm() -> None:
    budget = RetryBudget(share=0.2, floor=0.0, now=0.0)
    for second in range(1_000):
        for _ in range(10):
            budget.paid_in(float(second))
    assert 15 <= budget.left(1_000.0) <= 25
    assert budget.left(1_100.0) < 0.01


@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=200))
def test_a_payment_loses_a_hundredth_at_most_by_fading_in_steps(waits: list[float]) -> None:
    budget = RetryBudget(share=0.2, floor=0.0, now=0.0)
    now, exact = 0.0, 0.0
    for wait in waits:
        now += wait
        exact = exact * exp(-wait / MEMORY) + 0.2
        budget.paid_in(now)
    assert 0.99 * exact - 1e-9 <= budget.left(now) <= exact + 1e-9


def test_nothing_paid_in_nothing_left() -> None:
    bench = Bench(retry_share=0.0, retry_floor=0.0)
    bench.picked()
    assert not bench.pool.may_retry()
    assert bench.pool.snapshot().retries_left == 0
