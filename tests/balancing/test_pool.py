"""Who is fit: ejection, panic, marks, drain, slow start, limits, and changes of the set."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.balancing.pools import Bench, member, members
from traffic_cop_middleware.abstractions.balancing.attempts import Nobody
from traffic_cop_middleware.abstractions.balancing.outcomes import FAILURES, Outcome, outcome_of
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.errors import (
    ConfigurationError,
    UpstreamBroken,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)

# Ejection


@pytest.mark.parametrize("outcome", sorted(FAILURES, key=lambda each: each.name))
def test_five_failures_in_a_row_put_an_instance_out_for_ten_seconds(outcome: Outcome) -> None:
    bench = Bench(policy="random")
    bench.ends("a", outcome, times=4)
    assert bench.state("a") == "serving"
    bench.ends("a", outcome)
    (a, *_) = bench.pool.snapshot().instances
    assert (a.state, a.chosen_from, a.seconds_left) == ("ejected", False, 10.0)
    assert a.reason == f"5 failures in a row: {outcome.value}"
    assert "a" not in bench.picked()
    bench.clock.advance(10)
    assert "a" in bench.picked()
    assert [kind for kind in bench.kinds() if kind != "instance.added"] == ["instance.ejected", "instance.returned"]


def test_a_good_answer_ends_a_row_and_a_client_that_left_does_not() -> None:
    bench = Bench(error_share=None)
    bench.ends("a", Outcome.FAILED, times=4)
    bench.ends("a", Outcome.OK)
    bench.ends("a", Outcome.FAILED, times=4)
    assert bench.state("a") == "serving"
    bench.ends("a", Outcome.CANCELLED, times=9)
    bench.ends("a", Outcome.FAILED)
    assert bench.state("a") == "ejected"


def test_who_comes_back_is_on_probation_and_out_for_longer_each_time() -> None:
    bench = Bench()
    bench.ends("a", Outcome.FAILED, times=5)
    for seconds in (20.0, 30.0, 40.0):
        bench.clock.advance(bench.pool.snapshot().instances[0].seconds_left)
        assert bench.state("a") == "serving"
        bench.ends("a", Outcome.FAILED)
        assert bench.pool.snapshot().instances[0].seconds_left == seconds
    bench.clock.advance(40)
    bench.ends("a")  # ends the probation
    bench.ends("a", Outcome.FAILED, times=4)
    assert bench.state("a") == "serving"


def test_ejections_are_forgotten_while_it_serves_well_and_never_too_long() -> None:
    bench = Bench(longest_ejection=25.0)
    bench.ends("a", Outcome.FAILED, times=5)
    for seconds in (20.0, 25.0, 25.0):
        bench.clock.advance(bench.pool.snapshot().instances[0].seconds_left)
        bench.ends("a", Outcome.FAILED)
        assert bench.pool.snapshot().instances[0].seconds_left == seconds
    bench.clock.advance(25 + 35)
    bench.ends("a", Outcome.FAILED)
    assert bench.pool.snapshot().instances[0].seconds_left == 20.0


def test_half_of_the_requests_failing_is_enough_where_there_are_enough() -> None:
    bench = Bench()
    for _ in range(9):
        bench.ends("a")
        bench.ends("a", Outcome.FAILED)
    assert bench.state("a") == "serving"
    bench.ends("a")
    bench.ends("a", Outcome.FAILED)
    assert bench.pool.snapshot().instances[0].reason == "10 of 20 requests failed: it answered with an error"


def test_failures_of_an_older_window_do_not_count() -> None:
    bench = Bench()
    for _ in range(9):
        bench.ends("a")
        bench.ends("a", Outcome.FAILED)
    bench.clock.advance(10)
    bench.ends("a")
    bench.ends("a", Outcome.FAILED)
    assert bench.state("a") == "serving"


def test_an_instance_far_slower_than_the_others_is_put_out_on_wish() -> None:
    for factor, state in ((None, "serving"), (3.0, "ejected")):
        bench = Bench(latency_factor=factor)
        for name in "bcd":
            bench.ends(name, times=20, seconds=0.01)
        bench.ends("a", times=19, seconds=0.05)
        assert bench.state("a") == "serving"
        bench.ends("a", seconds=0.05)
        assert bench.state("a") == state
        bench.ends("b", times=5, seconds=0.01)
        assert bench.state("b") == "serving"


def test_bodies_that_break_after_a_good_head_are_failures_in_a_row() -> None:
    bench = Bench(error_share=None)
    for _ in range(5):
        attempt = bench.began("a")
        attempt.answered()
        attempt.ended(Outcome.BROKEN)
    assert bench.state("a") == "ejected"
    assert bench.pool["a"].requests == bench.pool["a"].failures == 5


def test_an_attempt_is_heard_once() -> None:
    bench = Bench()
    attempt = bench.began("a")
    attempt.answered(Outcome.FAILED)
    attempt.answered(Outcome.FAILED)
    attempt.ended(Outcome.BROKEN)
    attempt.ended(Outcome.BROKEN)
    a = bench.pool["a"]
    assert (a.in_flight, a.owed, a.requests, a.failures) == (0, 0, 1, 1)


def test_more_than_half_out_is_panic_and_all_are_in() -> None:
    bench = Bench("abcd", policy="random")
    for name in "ab":
        bench.ends(name, Outcome.TIMEOUT, times=5)
    assert bench.picked() == {"c", "d"}
    bench.ends("c", Outcome.TIMEOUT, times=5)
    assert bench.pool.snapshot().panic
    assert bench.picked() == set("abcd")
    assert bench.told[-1] == ("pool.panic", {"pool": "bench", "panic": True, "ejected": 3, "instances": 4})
    bench.ends("c")  # in panic a good answer is what brings an instance back
    assert bench.state("c") == "serving"
    assert not bench.pool.snapshot().panic
    assert bench.picked() == {"c", "d"}


def test_a_single_instance_is_never_without_requests() -> None:
    bench = Bench("a")
    bench.ends("a", Outcome.UNREACHABLE, times=50)
    assert bench.picked() == {"a"}


# Marks, drains, slow starts


def test_marks_of_active_checks_are_not_capped() -> None:
    bench = Bench("abcd", policy="random")
    for name in "abc":
        bench.pool.mark(name, healthy=False, reason="GET /health: 500")
    assert bench.picked() == {"d"}
    assert bench.pool.snapshot().instances[0].reason == "GET /health: 500"
    bench.pool.mark("d", healthy=False)
    assert bench.pool.pick() is Nobody.UNFIT
    bench.pool.mark("a", healthy=True)
    assert bench.picked() == {"a"}


def test_half_of_those_that_are_fit_may_be_ejected() -> None:
    bench = Bench("abcdef", policy="random")
    for name in "abcd":
        bench.pool.mark(name, healthy=False)
    bench.ends("e", Outcome.FAILED, times=5)
    assert bench.picked() == {"f"}
    bench.ends("f", Outcome.FAILED, times=5)
    assert bench.picked() == {"e", "f"}


def test_who_drains_gets_nothing_new_and_ends_what_it_has() -> None:
    bench = Bench("ab", policy="random")
    attempt = bench.began("a")
    bench.pool.drain("a", reason="deploy 7")
    bench.ends("b", Outcome.FAILED, times=99)  # whatever happens to the others
    assert bench.picked() == {"b"}
    (a, _) = bench.pool.snapshot().instances
    assert (a.state, a.reason, a.in_flight) == ("draining", "deploy 7", 1)
    attempt.ended()
    assert bench.pool.snapshot().instances[0].in_flight == 0
    bench.clock.advance(10)
    bench.pool.resume("a")
    assert bench.picked() == {"a", "b"}


@pytest.mark.parametrize("policy", ["random", "p2c", "weighted", "peak-ewma"])
def test_an_instance_that_came_starts_slowly(policy: str) -> None:
    bench = Bench("a", policy=policy, slow_start=10.0)
    bench.pool.change(members("ab"))
    shares = []
    for _ in range(4):
        assert bench.pool["b"].weight == pytest.approx(max(0.1, len(shares) * 0.25))
        found = Counter(bench.pick().name for _ in range(1_000))
        shares.append(found["b"] / 1_000)
        bench.clock.advance(2.5)
        bench.picked(1)
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[3] < 0.55
    assert bench.pool["b"].weight == 1.0
    assert bench.state("b") == "serving"


def test_those_of_the_start_and_those_that_stay_do_not_start_slowly() -> None:
    bench = Bench("ab", slow_start=10.0)
    assert {bench.state(name) for name in "ab"} == {"serving"}
    bench.pool.change(members("abc"))
    assert [bench.state(name) for name in "abc"] == ["serving", "serving", "starting"]
    assert bench.pool.snapshot().instances[2].reason == "it gets its full share in 10 s"


def test_who_is_healthy_again_starts_slowly_with_a_clean_sheet() -> None:
    bench = Bench("ab", slow_start=10.0)
    bench.ends("a", Outcome.FAILED, times=5)
    bench.pool.mark("a", healthy=False)
    assert bench.state("a") == "unhealthy"
    bench.pool.mark("a", healthy=True)
    (a, _) = bench.pool.snapshot().instances
    assert (a.state, a.ejections) == ("starting", 0)


# Changes


def test_a_change_of_the_set_keeps_what_is_known_of_the_others() -> None:
    bench = Bench("abc")
    bench.ends("a", Outcome.FAILED, times=5)
    attempt = bench.began("b")
    gone = bench.began("c")
    bench.pool.change([member("a"), member("b", 3, zone="x"), member("d")])
    assert bench.state("a") == "ejected"
    b = bench.pool["b"]
    assert (b.in_flight, b.share, b.metadata) == (1, 3.0, {"zone": "x"})
    gone.ended()
    attempt.ended()
    assert bench.pool.snapshot().in_flight == 0
    assert gone.instance.state(0.0) == "removed"
    with pytest.raises(LookupError, match="no instance named 'c'"):
        bench.pool.drain("c")


def test_another_url_under_the_same_name_is_another_process() -> None:
    bench = Bench("ab", slow_start=10.0)
    bench.ends("a", Outcome.FAILED, times=5)
    before = bench.pool["a"]
    bench.pool.change([member("a"), member("b")])
    assert bench.pool["a"] is before
    moved = members("z")[0]
    bench.pool.change([type(moved)(moved.upstream, "a"), member("b")])
    assert bench.pool["a"] is not before
    assert bench.state("a") == "starting"


def test_two_of_one_name_are_refused_and_nothing_changes() -> None:
    bench = Bench("ab")
    with pytest.raises(ConfigurationError, match="two instances named 'c'"):
        bench.pool.change(members("cc"))
    assert bench.picked() == {"a", "b"}


def test_no_weight_means_no_request() -> None:
    bench = Bench("ab", weights={"a": 0})
    assert bench.picked() == {"b"}
    bench.pool.change(members("ab", a=0, b=0))
    assert bench.pool.pick() is Nobody.UNFIT
    bench.pool.change([])
    assert bench.pool.pick() is Nobody.NONE


def test_settings_change_at_run_time_and_the_state_stays() -> None:
    bench = Bench("abcd", consecutive_failures=2)
    bench.ends("a", Outcome.FAILED, times=2)
    bench.pool.configure(BalancingSettings(policy="round-robin", consecutive_failures=7, slow_start=0.0))
    assert bench.state("a") == "ejected"
    assert bench.picked() == set("bcd")
    bench.ends("b", Outcome.FAILED, times=6)
    assert bench.state("b") == "serving"
    assert bench.pool.snapshot().policy == "round-robin"


# Limits


def test_an_instance_with_all_it_may_have_gets_no_more() -> None:
    bench = Bench("abc", most_in_flight=2)
    attempts = [bench.pool.began(bench.pick()) for _ in range(6)]
    assert {bench.pool[name].in_flight for name in "abc"} == {2}
    assert bench.pool.pick() is Nobody.FULL
    attempts[0].ended()
    assert bench.pick() is attempts[0].instance


def test_a_session_is_not_split_because_its_owner_is_full() -> None:
    bench = Bench("ab", most_in_flight=1, affinity="session")
    key = BalancingKey("", "a")
    bench.pool.began(bench.pick(key=key))
    assert bench.pool.pick(key=key) is Nobody.FULL
    assert bench.picked() == {"b"}


def test_those_that_wait_get_what_is_free_in_their_order() -> None:
    bench = Bench("ab", most_in_flight=1, most_pending=2)
    attempts = [bench.pool.began(bench.pick()) for _ in range(2)]
    woken: list[str] = []
    first = bench.pool.wait(lambda: woken.append("first"))
    second = bench.pool.wait(lambda: woken.append("second"))
    assert first is not None
    assert second is not None
    assert bench.pool.wait(lambda: None) is None
    assert bench.pool.snapshot().pending == 2
    attempts[0].ended()
    assert woken == ["first"]
    assert first.attempt is not None
    assert bench.pool.pick() is Nobody.FULL  # what is free was handed out already
    bench.pool.leave(first)  # cancelled before it could begin: on to the next
    assert woken == ["first", "second"]
    assert second.attempt is not None
    second.attempt.ended()
    assert bench.pick() is second.attempt.instance


def test_an_instance_that_comes_takes_those_that_wait() -> None:
    bench = Bench("a", most_in_flight=1)
    bench.pool.began(bench.pick())
    woken: list[str] = []
    pending = bench.pool.wait(lambda: woken.append("now"))
    bench.pool.change(members("ab"))
    assert woken == ["now"]
    assert pending is not None
    assert pending.attempt is not None
    assert pending.attempt.instance.name == "b"


# Outcomes


def test_what_an_answer_or_an_error_says_of_an_instance() -> None:
    found: list[tuple[Any, Outcome]] = [
        (200, Outcome.OK),
        (404, Outcome.OK),
        (500, Outcome.FAILED),
        (501, Outcome.OK),
        (503, Outcome.FAILED),
        (UpstreamUnreachable(""), Outcome.UNREACHABLE),
        (UpstreamTimeout(""), Outcome.TIMEOUT),
        (UpstreamBroken(""), Outcome.BROKEN),
        (UpstreamBroken("", stale=True), Outcome.CANCELLED),
        (UpstreamRefused("", status=403), Outcome.OK),
        (UpstreamRefused("", status=503), Outcome.FAILED),
    ]
    assert [outcome_of(answer) for answer, _ in found] == [outcome for _, outcome in found]


def test_a_slow_upload_says_nothing_of_the_instance() -> None:
    bench = Bench("ab")
    bench.ends("a", seconds=0.01)
    attempt = bench.began("a", timed=False)
    bench.clock.advance(30)
    attempt.answered()
    attempt.ended()
    assert bench.pool["a"].latency(bench.clock()) < 0.01
