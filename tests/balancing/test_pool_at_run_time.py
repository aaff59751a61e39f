"""What people and checks say of a pool while requests are under way."""

from __future__ import annotations

from tests.balancing.pools import Bench, members
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings


def test_shorter_ejections_hold_for_those_that_are_out_already() -> None:
    bench = Bench(policy="random", ejection=86_400.0, longest_ejection=86_400.0)
    bench.ends("a", Outcome.FAILED, times=5)
    bench.pool.configure(BalancingSettings(policy="random", ejection=10.0, longest_ejection=30.0))
    assert bench.pool.snapshot().instances[0].seconds_left == 30.0
    bench.clock.advance(30)
    assert "a" in bench.picked()


def test_retries_that_are_taken_away_are_gone_at_once() -> None:
    bench = Bench(retry_share=1.0, retry_floor=1_000.0)
    bench.picked(500)
    assert bench.pool.may_retry()
    bench.pool.configure(BalancingSettings(retry_share=0.0, retry_floor=3.0))
    bench.clock.advance(10)
    assert [bench.pool.may_retry() for _ in range(4)] == [True, True, True, False]
    bench.pool.configure(BalancingSettings(retry_share=0.0, retry_floor=0.0))
    bench.clock.advance(10)
    assert not bench.pool.may_retry()


def test_who_waits_gets_the_instance_whose_ejection_is_over_though_nobody_else_asks() -> None:
    bench = Bench("ab", most_in_flight=1, consecutive_failures=1)
    bench.ends("b", Outcome.FAILED)
    first = bench.began("a")
    second = bench.pool.wait(lambda: None)
    third = bench.pool.wait(lambda: None)
    bench.clock.advance(10)
    first.ended()
    assert second is not None
    assert third is not None
    assert second.attempt is not None
    assert third.attempt is not None
    assert {second.attempt.instance.name, third.attempt.instance.name} == {"a", "b"}


def test_downloads_that_break_later_count_among_the_requests_of_their_own_time() -> None:
    bench = Bench(consecutive_failures=1_000)
    for _ in range(11):
        bench.ends("a")
    downloads = [bench.began("a") for _ in range(9)]
    for each in downloads:
        each.answered()
    bench.ends("a", Outcome.FAILED, times=5)
    bench.clock.advance(3_600)
    for each in downloads:
        each.ended(Outcome.BROKEN)
    assert bench.state("a") == "serving", "14 of 25, but over an hour"


class Counting(BalancedPool):
    """Counts how often the candidates are drawn."""

    drawn = 0

    def _settle(self, now: float) -> None:
        self.drawn += 1
        super()._settle(now)


def test_many_facts_at_once_draw_the_candidates_once_and_the_same_facts_again_never() -> None:
    pool = Counting("bench", members("abcdef"))
    for turn in range(2):
        pool.drawn = 0
        with pool.together():
            for name in "abc":
                pool.mark(name, healthy=False, reason="ill")
            pool.drain("d")
        assert pool.drawn == 1 - turn
    assert [each.name for each in pool.snapshot().instances if each.chosen_from] == ["e", "f"]
    with pool.together():
        pool.mark("a", healthy=True)
        pool.resume("d")
    assert [each.name for each in pool.snapshot().instances if each.chosen_from] == ["a", "d", "e", "f"]


def test_in_flight_comes_back_to_nothing_whatever_becomes_of_the_instances() -> None:
    bench = Bench("abc", most_in_flight=2)
    attempts = [bench.pool.began(bench.pick()) for _ in range(6)]
    bench.pool.change(members("def"))
    assert bench.pool.snapshot().in_flight == 0
    bench.pool.configure(BalancingSettings(policy="hash"))
    attempts += [bench.pool.began(bench.pick()) for _ in range(6)]
    bench.pool.change(members("abcdef"))
    assert bench.pool.snapshot().in_flight == 6
    for each in attempts:
        each.ended(Outcome.CANCELLED)
    assert bench.pool.snapshot().in_flight == 0
    assert all(each.in_flight == 0 for each in bench.pool.snapshot().instances)
    assert {each.instance.in_flight for each in attempts} == {0}
