"""Movers, quotas, uneven instances, unused routes, patterns."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.insights.recorded import DAY, HOUR, MONDAY, STEP, noisy_week, shop
from traffic_cop_middleware.abstractions.insights.failing import failing
from traffic_cop_middleware.abstractions.insights.movers import movers
from traffic_cop_middleware.abstractions.insights.patterns import patterns
from traffic_cop_middleware.abstractions.insights.quotas import Quota, exhaustion
from traffic_cop_middleware.abstractions.insights.sentences import clock, number, percent, rate, seconds, short
from traffic_cop_middleware.abstractions.insights.slow import slower
from traffic_cop_middleware.abstractions.insights.unused import Route, unused
from traffic_cop_middleware.abstractions.insights.upstreams import imbalanced
from traffic_cop_middleware.abstractions.insights.values import Insight, Series
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW


def counted(counts: list[int | None], *, start: float = MONDAY, step: int = STEP, **labels: str) -> Series:
    return Series(start=start, step=step, counts=counts, labels=labels)


# Movers


def test_the_largest_change_comes_first_with_its_share() -> None:
    before = [counted([100] * 12, route="/a"), counted([50] * 12, route="/b"), counted([400] * 12, route="/c")]
    later = MONDAY + DAY
    after = [
        counted([300] * 12, route="/a", start=later),
        counted([10] * 12, route="/b", start=later),
        counted([402] * 12, route="/c", start=later),
    ]
    found = movers(before, after)
    assert [each.labels["route"] for each in found] == ["/a", "/b"]
    assert found[0].sentence == "/a 20 -> 60 requests a minute (+200 %), 83 % of all change"
    assert found[1].sentence == "/b 10 -> 2 requests a minute (-80 %), 17 % of all change"
    assert found[0].start == later
    assert movers(before, before) == []
    assert len(movers(before, after, most=1)) == 1


def test_what_is_new_or_gone_moves_and_windows_may_differ_in_length() -> None:
    before = [counted([100] * 24, route="/old"), counted([100] * 24, route="/same")]
    after = [counted([100] * 12, route="/same"), counted([80] * 12, route="/new")]
    found = {each.labels["route"]: each.sentence for each in movers(before, after)}
    assert set(found) == {"/old", "/new"}
    assert "0 -> 16 requests a minute (new)" in found["/new"]
    assert "20 -> 0 requests a minute (gone)" in found["/old"]


def test_nothing_to_compare_moves_nothing() -> None:
    assert movers([], []) == []
    assert movers([], [counted([5], route="/a")]) == []
    assert movers([counted([None], route="/a")], [counted([5], route="/a")]) == []
    assert movers([counted([0], route="/a")], [counted([0], route="/a")]) == []


# Quotas

TODAY = MONDAY + 4 * DAY


def used(rates: list[float], *, now: float) -> Series:
    """A tenant that uses `rates[hour]` an hour on each of four days before, and today until `now`."""
    count = int((now - MONDAY) // STEP)
    counts: list[int | None] = [round(rates[int(index * STEP % DAY // HOUR)] * STEP / HOUR) for index in range(count)]
    return counted(counts, tenant="acme")


def test_the_example_of_the_issue_exhausts_its_quota_in_the_afternoon() -> None:
    now = TODAY + 12 * HOUR
    [insight] = exhaustion(used([600] * 24, now=now), Quota(10_000), now=now)
    assert insight.kind == "quota"
    assert insight.sentence.startswith("tenant acme exhausts 10k/day at about 16:40 UTC: 72 % is used, ")
    assert insight.evidence["exhausted_at"] == pytest.approx(TODAY + 10_000 / 600 * HOUR, abs=STEP)
    assert insight.severity == "warning"
    assert 0.5 < insight.confidence <= 0.95


def test_the_shape_of_the_days_before_is_what_the_rest_is_forecast_by() -> None:
    office = [0.0] * 8 + [1000.0] * 8 + [0.0] * 8
    now = TODAY + 12 * HOUR
    assert exhaustion(used(office, now=now), Quota(10_000), now=now) == []  # the rate of now would exhaust it at 18:00
    [insight] = exhaustion(used(office, now=now), Quota(7_000), now=now)
    assert insight.evidence["exhausted_at"] == pytest.approx(TODAY + 15 * HOUR, abs=STEP)


def test_a_day_that_uses_more_than_the_days_before_runs_out_sooner() -> None:
    now = TODAY + 10 * HOUR
    found = used([100] * 24, now=now)
    counts = [each if each is None or index < 4 * 288 else each * 3 for index, each in enumerate(found.counts)]
    [insight] = exhaustion(counted(counts, tenant="acme"), Quota(4800), now=now)
    assert insight.evidence["exhausted_at"] == pytest.approx(TODAY + 4800 / 288 * HOUR, abs=2 * STEP)


def test_without_days_before_the_rate_of_the_last_hours_goes_on() -> None:
    now = MONDAY + 4 * HOUR
    found = counted([10] * 48, tenant="acme")
    [insight] = exhaustion(found, Quota(1000), now=now)
    assert insight.evidence["exhausted_at"] == pytest.approx(MONDAY + 1000 / 10 * STEP, abs=STEP)
    assert insight.baseline["days"] == 0
    assert exhaustion(found, Quota(10_000), now=now) == []
    assert exhaustion(counted([10, 10], tenant="acme"), Quota(100), now=MONDAY + 2 * STEP) == []


def test_a_quota_that_is_used_up_says_since_when() -> None:
    now = TODAY + 12 * HOUR
    [insight] = exhaustion(used([600] * 24, now=now), Quota(3_000), now=now)
    assert insight.severity == "critical"
    assert insight.sentence == "tenant acme has used up 3k/day since 05:00 UTC (7,200 so far)"


def test_an_hour_and_an_unused_quota() -> None:
    now = TODAY + 12 * HOUR + 1800
    [insight] = exhaustion(used([1200] * 24, now=now), Quota(1000, HOUR), now=now)
    assert "exhausts 1k/hour at about 12:50 UTC" in insight.sentence
    assert exhaustion(used([0] * 24, now=now), Quota(1000), now=now) == []
    assert exhaustion(counted([], tenant="acme"), Quota(1000), now=MONDAY) == []


# Instances


def instance(name: str, count: int, *, took: float = 0.1, failed: int = 0) -> Series:
    rng = random.Random(name)
    histogram = Histogram()
    histogram.add_all(took * rng.uniform(0.5, 1.5) for _ in range(count))
    return Series(
        start=MONDAY + 14 * HOUR,
        step=HOUR,
        counts=[count],
        errors=[failed],
        durations=[histogram],
        labels={"upstream": name},
    )


def test_an_instance_that_gets_more_than_its_share_is_named() -> None:
    found = imbalanced([instance("a", 900), instance("b", 300), instance("c", 300)])
    assert [(each.kind, each.labels["upstream"]) for each in found] == [("uneven", "a")]
    assert found[0].sentence == (
        "upstream a gets 60 % of the requests since 14:00 UTC (900 of 1,500), its fair share is 33 %"
    )
    assert imbalanced([instance("a", 900), instance("b", 300), instance("c", 300)], weights={"a": 3.0}) == []


def test_one_that_gets_nothing_is_named_and_small_numbers_are_chance() -> None:
    found = imbalanced([instance("a", 500), instance("b", 500), instance("c", 0)])
    assert [(each.kind, each.labels["upstream"]) for each in found] == [("uneven", "c")]
    assert imbalanced([instance("a", 9), instance("b", 3), instance("c", 0)]) == []
    assert imbalanced([instance("a", 900)]) == []
    assert imbalanced([]) == []
    assert imbalanced([instance("a", 500), instance("b", 540)]) == []


def test_a_slow_and_a_failing_one_stand_out_among_their_peers() -> None:
    found = imbalanced([instance("a", 500, took=0.4), instance("b", 500), instance("c", 500, failed=100)])
    kinds = {each.kind: each for each in found}
    assert set(kinds) == {"slow_upstream", "failing_upstream"}
    assert kinds["slow_upstream"].labels == {"upstream": "a"}
    assert "p95 " in kinds["slow_upstream"].sentence
    assert kinds["failing_upstream"].sentence == (
        "upstream c fails 20 % of its requests since 14:00 UTC (100 of 500), the others 0 %"
    )
    assert len({each.key for each in found}) == 2


# Unused routes


ROUTES = [("/a", "GET"), ("/a", "DELETE"), ("/old", "GET"), ("/old", "POST"), ("/any", ""), ("/quiet", "")]
ASKED = {("/a", "GET"): 2000, ("/a", "POST"): 0, ("/any", "PATCH"): 16}


def test_routes_that_nobody_asked_in_weeks_are_named() -> None:
    found = unused(ROUTES, ASKED, start=0.0, end=28.0 * 24 * HOUR, days=28.0)
    assert [each.sentence for each in found] == [
        "DELETE /a had no request in 28 days (2,016 elsewhere)",
        "/old had no request in 28 days (2,016 elsewhere)",
        "/quiet had no request in 28 days (2,016 elsewhere)",
    ]
    assert [each.labels for each in found][:2] == [{"method": "DELETE", "route": "/a"}, {"route": "/old"}]
    assert all(each.confidence == 1 for each in found)


@pytest.mark.parametrize(
    ("asked", "days"),
    [(ASKED, 6.9), ({}, 28.0), ({("/a", "GET"): 0}, 28.0), ({**ASKED, (OVERFLOW, "_OTHER"): 3}, 28.0)],
)
def test_a_few_days_or_no_requests_or_such_without_a_route_say_nothing(asked: dict[Route, int], days: float) -> None:
    assert unused(ROUTES, asked, start=0.0, end=days * 24 * HOUR, days=days) == []


# Patterns


def test_the_busiest_hours_and_the_shape_of_the_week() -> None:
    counts: list[int | None] = [100] * (3 * 168)
    for week in range(3):
        counts[week * 168 + 24 + 14] = 900  # Tuesday, 14:00
        counts[week * 168 + 5 * 24 + 10] = 700
    counts[20] = 5000  # once: no habit
    found = patterns(counted(counts, step=HOUR))
    assert [(each.weekday, each.hour) for each in found.busiest[:2]] == [(1, 14), (5, 10)]
    assert found.busiest[0].rate == 900 / HOUR
    assert found.busiest[0].times_the_mean == pytest.approx(900 * 168 / (100 * 166 + 1600))
    assert len(found.week) == 168
    assert found.week[0] == 100 / HOUR


def test_latency_against_load_and_the_hour_at_which_a_route_is_slow() -> None:
    routes = shop(days=3, slow=lambda name, at: 0.2 if name == "GET /search" and at % DAY // HOUR == 3 else 0.0)
    loaded, counts = list[Histogram | None](), list[int | None]()
    for count in noisy_week(60, weeks=1):
        histogram = Histogram()
        histogram.add_all([0.01 + count / 5000] * count)
        counts.append(count)
        loaded.append(histogram)
    total = Series(start=MONDAY, step=STEP, counts=counts, durations=loaded)
    found = patterns(total, routes)
    assert [(each.route, each.hour) for each in found.slow_hours] == [("GET /search", 3)]
    assert found.slow_hours[0].p95 > 0.2
    assert len(found.load) == 5
    assert [each.p95 for each in found.load] == sorted(each.p95 for each in found.load)
    assert all(each.least_rate <= each.most_rate for each in found.load)
    assert sum(each.requests for each in found.load) == sum(each or 0 for each in counts)


def test_of_nothing_there_is_no_pattern() -> None:
    found = patterns(counted([]))
    assert found.week == (None,) * 168
    assert (found.busiest, found.load, found.slow_hours) == ((), (), ())
    assert patterns(counted([0] * 1000, step=HOUR)).busiest == ()


# Sentences


def test_numbers_and_times_are_written_as_people_do() -> None:
    assert [number(each) for each in (1240.0, 12.5, 0.04, 3)] == ["1,240", "12.5", "0.04", "3"]
    assert [short(each) for each in (10_000, 2_500_000, 800)] == ["10k", "2.5M", "800"]
    assert [percent(each) for each in (0.713, 0.002, 0)] == ["71 %", "0.2 %", "0 %"]
    assert [seconds(0.18, 0.64), seconds(0.5, 2.25)] == ["180 -> 640 ms", "0.5 -> 2.25 s"]
    assert rate(120, 60) == "120 requests a minute"
    assert rate(30, HOUR) == "30 requests an hour"
    assert rate(0, HOUR) == "no requests"
    assert clock(MONDAY + 14 * HOUR + 300) == "14:05"
    assert clock(MONDAY + 14 * HOUR, day=MONDAY + DAY) == "14:00 on 5 January"


def test_a_key_is_of_kind_and_labels_alone() -> None:
    def insight(labels: dict[str, str]) -> Insight:
        return Insight(
            kind="slow",
            sentence="",
            severity="info",
            start=0,
            labels=labels,
            evidence={},
            baseline={},
            confidence=0,
        )

    one, other = insight({"route": "/a", "method": "GET"}), insight({"method": "GET", "route": "/a"})
    assert one.key == other.key
    assert one.key != insight({"route": "/b", "method": "GET"}).key
    assert one.record()["labels"] == {"route": "/a", "method": "GET"}


# All of them


BUCKETS = st.lists(st.none() | st.integers(0, 10**7), min_size=0, max_size=400)


@settings(max_examples=60)
@given(
    counts=BUCKETS,
    other=BUCKETS,
    failing_every=st.integers(1, 5),
    seconds_each=st.floats(1e-6, 100),
    seed=st.integers(),
)
def test_whatever_comes_nothing_fails_and_all_figures_are_numbers(
    counts: list[int | None], other: list[int | None], failing_every: int, seconds_each: float, seed: int
) -> None:
    def made(each: list[int | None], name: str) -> Series:
        rng, timed = random.Random(seed), list[Histogram | None]()
        for count in each:
            histogram = Histogram()
            histogram.add_all(seconds_each * rng.uniform(0.1, 3) for _ in range(min(count or 0, 30)))
            timed.append(histogram if rng.random() > 0.1 else None)
        errors = [(count or 0) // failing_every for count in each]
        labels = {"route": name, "upstream": name}
        return Series(start=MONDAY, step=STEP, counts=each, errors=errors, durations=timed, labels=labels)

    one, two = made(counts, "/a"), made(other, "/b")
    now = one.start + len(counts) // 2 * STEP + 7
    patterns(one, [one, two])
    found = [
        *slower([one, two], since=now),
        *failing(one, since=now),
        *movers([one], [two]),
        *exhaustion(one, Quota(1000), now=now),
        *imbalanced([one, two]),
        *unused([("/c", "")], {("/a", "GET"): len(counts)}, start=one.start, end=one.end, days=28.0),
    ]
    for insight in found:
        figures = [*insight.evidence.values(), *insight.baseline.values(), insight.confidence, insight.start]
        assert all(math.isfinite(each) for each in figures), insight
        assert 0 <= insight.confidence <= 1
