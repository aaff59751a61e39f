"""A pool that follows another: what is known of instances that stay, and who hears of attempts under way."""

from __future__ import annotations

import weakref

import pytest

from tests.balancing.pools import Bench, member
from traffic_cop_middleware.abstractions.balancing.attempts import Nobody
from traffic_cop_middleware.abstractions.balancing.instances import Member
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Upstream

SETTINGS = BalancingSettings(slow_start=0.0)


def follower(bench: Bench, *members: Member, settings: BalancingSettings = SETTINGS) -> BalancedPool:
    def emit(kind: str, attributes: object) -> None:
        bench.told.append((kind, attributes))  # type: ignore[arg-type]

    return BalancedPool("bench", members, settings, clock=bench.clock, emit=emit, after=bench.pool)


def test_who_stays_is_known_and_who_comes_is_new() -> None:
    bench = Bench("abcd")
    bench.ends("a", Outcome.FAILED, times=5)
    bench.pool.mark("b", healthy=False, reason="ill")
    bench.pool.drain("c", reason="a new version")
    bench.ends("d", seconds=0.25, times=3)
    bench.told.clear()
    settings = BalancingSettings(slow_start=10.0)
    pool = follower(bench, *map(member, "abcd"), member("e", 3), settings=settings)
    found = {each.name: each for each in pool.snapshot().instances}
    assert {name: each.state for name, each in found.items()} == {
        "a": "ejected",
        "b": "unhealthy",
        "c": "draining",
        "d": "serving",
        "e": "starting",
    }
    assert (found["a"].ejections, found["a"].failures, found["b"].reason) == (1, 5, "ill")
    assert found["d"].latency == bench.pool["d"].latency(bench.clock()) > 0
    assert [(kind, told["instance"]) for kind, told in bench.told] == [("instance.added", "e")]


def test_a_follower_says_who_went_and_the_one_before_says_nothing_more() -> None:
    bench = Bench("ab")
    pool = follower(bench, member("b"), member("c"))
    assert [(kind, told["instance"]) for kind, told in bench.told[2:]] == [
        ("instance.removed", "a"),
        ("instance.added", "c"),
    ]
    bench.told.clear()
    bench.ends("b", Outcome.FAILED, times=5)
    assert [(kind, told["instance"]) for kind, told in bench.told] == [("instance.ejected", "b")]
    assert pool["b"].ejections == 1


def test_requests_of_the_old_pool_go_to_its_instances_alone() -> None:
    bench = Bench("ab")
    pool = follower(bench, member("b"), member("c"))
    assert bench.picked() == {"a", "b"}
    assert bench.picked(tried="b") == {"a"}
    assert bench.pool.pick([bench.pool["a"], bench.pool["b"]]) is Nobody.TRIED
    assert {pool.pick().name for _ in range(100)} == {"b", "c"}  # type: ignore[union-attr]


@pytest.mark.parametrize("answered", ["never", "before", "after"])
def test_attempts_under_way_are_counted_and_judged_in_both(answered: str) -> None:
    bench = Bench("ab")
    attempt = bench.began("a")
    if answered == "before":
        attempt.answered(Outcome.OK)
    pool = follower(bench, member("a"), member("b"))
    later = bench.began("a")
    assert [each["a"].in_flight for each in (bench.pool, pool)] == [2, 2]
    assert pool.snapshot().in_flight == 2
    if answered == "after":
        attempt.answered(Outcome.OK)
    bench.clock.advance(1.0)
    attempt.ended(Outcome.BROKEN)
    later.answered(Outcome.FAILED)
    later.ended()
    mine = pool.began(pool["a"])
    mine.ended()
    assert [(each["a"].failures, each["a"].in_flight, each["a"].owed) for each in (bench.pool, pool)] == [(2, 0, 0)] * 2
    assert (pool["a"].requests, bench.pool["a"].requests) == (3, 2)
    assert pool.snapshot().in_flight == 0
    assert pool.pick() is not Nobody.FULL


def test_an_instance_that_is_full_for_the_one_before_is_for_its_follower() -> None:
    bench = Bench("a", most_in_flight=1)
    attempt = bench.began("a")
    settings = BalancingSettings(slow_start=0.0, most_in_flight=1)
    pool = follower(bench, member("a"), settings=settings)
    assert pool.pick() is Nobody.FULL
    woken: list[bool] = []
    pending = pool.wait(lambda: woken.append(True))
    attempt.ended()
    assert woken
    assert pending is not None
    assert pending.attempt is not None
    assert pool.pick() is Nobody.FULL


def test_a_follower_of_a_follower_hears_it_too_and_goes_and_comes_are_anew() -> None:
    bench = Bench("ab")
    attempt = bench.began("a")
    second = follower(bench, member("a"))
    third = BalancedPool("bench", [member("a"), member("b")], SETTINGS, clock=bench.clock, after=second)
    attempt.ended(Outcome.FAILED)
    assert [each["a"].failures for each in (bench.pool, second, third)] == [1, 1, 1]
    assert [each["a"].in_flight for each in (bench.pool, second, third)] == [0, 0, 0]
    assert third["b"].requests == 0
    other = Member(Upstream("http://elsewhere:1"), "a")
    assert BalancedPool("bench", [other], SETTINGS, clock=bench.clock, after=third)["a"].failures == 0


def test_the_retry_budget_is_one_for_both() -> None:
    bench = Bench("ab", retry_share=0.0, retry_floor=3.0)
    assert [bench.pool.may_retry() for _ in range(2)] == [True, True]
    pool = follower(bench, member("b"), settings=BalancingSettings(retry_share=0.0, retry_floor=3.0))
    assert [pool.may_retry(), pool.may_retry(), bench.pool.may_retry()] == [True, False, False]


def test_many_followers_leave_no_chain_behind() -> None:
    bench = Bench("ab")
    attempt = bench.began("a")
    pool, gone = bench.pool, list[weakref.ref[BalancedPool]]()
    for _ in range(3_000):
        gone.append(weakref.ref(pool))
        pool = BalancedPool("bench", [member("a"), member("b")], SETTINGS, clock=bench.clock, after=pool)
    assert sum(each() is not None for each in gone) == 1, "that which has the attempt"
    attempt.ended(Outcome.FAILED)
    assert (pool["a"].failures, pool["a"].in_flight) == (1, 0)


def test_panic_is_told_of_where_it_begins_or_ends_alone() -> None:
    bench = Bench("abc")
    for name in "ab":
        bench.ends(name, Outcome.FAILED, times=5)
    assert bench.kinds().count("pool.panic") == 1
    pool = follower(bench, *map(member, "abc"))
    assert pool.snapshot().panic
    assert bench.kinds().count("pool.panic") == 1
    follower_of_many = BalancedPool(
        "bench",
        [member(each) for each in "abcdefg"],
        SETTINGS,
        clock=bench.clock,
        emit=lambda kind, attributes: bench.told.append((kind, attributes)),
        after=pool,
    )
    assert not follower_of_many.snapshot().panic
    assert bench.kinds().count("pool.panic") == 2


def test_a_follower_goes_by_its_own_settings_at_once() -> None:
    bench = Bench("ab", retry_share=0.0, retry_floor=9.0, longest_ejection=300.0)
    for _ in range(4):
        bench.ends("a", Outcome.FAILED, times=5)
        bench.clock.advance(bench.pool["a"].ejected_until - bench.clock())
        bench.pool.fit()
    bench.ends("a", Outcome.FAILED, times=5)
    bench.pool.mark("b", healthy=False)
    bench.pool.mark("b", healthy=True)
    own = BalancingSettings(retry_share=0.0, retry_floor=0.0, ejection=2.0, longest_ejection=2.0, slow_start=1.0)
    pool = follower(bench, member("a"), member("b"), member("c"), settings=own)
    assert not pool.may_retry()
    assert {each.name: each.state for each in pool.snapshot().instances}["a"] == "ejected"
    bench.clock.advance(2.0)
    assert {each.name: each.state for each in pool.snapshot().instances} == dict.fromkeys("abc", "serving")


def test_the_one_before_has_no_say_in_the_retry_budget_any_more() -> None:
    bench = Bench("a", retry_share=0.0, retry_floor=0.0)
    pool = follower(bench, member("a"), member("b"), settings=BalancingSettings(retry_share=0.0, retry_floor=9.0))
    bench.clock.advance(1.0)
    bench.pool.configure(BalancingSettings(retry_share=0.0, retry_floor=0.0))
    assert pool.may_retry()
    last = weakref.ref(pool)
    del pool
    assert last() is None
    bench.pool.configure(BalancingSettings(retry_share=0.0, retry_floor=0.0))
    assert not bench.pool.may_retry()
