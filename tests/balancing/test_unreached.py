"""How many instances a request may fail to reach, and where it goes on to when most of a pool is out."""

from __future__ import annotations

import pytest

from tests.balancing.pools import Bench, member
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome


@pytest.mark.parametrize(
    ("size", "out", "most"),
    [
        (1, 0, 3),
        (5, 0, 6),
        (5, 4, 3),
        (10, 5, 6),
        (10, 10, 3),
        (100, 0, 51),
        (100, 50, 51),
        (100, 80, 21),
        (100, 100, 3),
    ],
)
def test_half_may_be_dead_unseen_and_a_pool_that_is_out_is_left_after_a_few(size: int, out: int, most: int) -> None:
    bench = Bench("", consecutive_failures=1)
    bench.pool.change([member(f"a{number}") for number in range(size)])
    for each in bench.pool.snapshot().instances[:out]:
        bench.ends(each.name, Outcome.UNREACHABLE)
    assert bench.pool.most_unreached == most


def test_the_drained_and_unhealthy_do_not_count() -> None:
    bench = Bench("abcdefghijklmnopqrstuvwxyz")
    assert bench.pool.most_unreached == 14
    for name in "abc":
        bench.pool.drain(name)
    for name in "def":
        bench.pool.mark(name, healthy=False)
    assert bench.pool.most_unreached == 11


def test_in_panic_who_has_been_at_one_goes_on_to_those_that_are_not_ejected() -> None:
    bench = Bench("abcdef", policy="random", consecutive_failures=1, most_in_flight=1)
    for name in "abcd":
        bench.ends(name, Outcome.UNREACHABLE)
    assert bench.pool.snapshot().panic
    assert bench.picked() == set("abcdef")
    assert bench.picked(tried="a") == set("ef")
    held = bench.began("e")
    assert bench.picked(tried="a") == {"f"}
    bench.began("f")
    assert bench.picked(tried="a") == set("bcd"), "it does not wait while an ejected one has room"
    held.ended(Outcome.CANCELLED)
    assert bench.picked(tried="ae") == set("bcd")
