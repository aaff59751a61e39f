"""Slow routes and error bursts, in series made of what the example shop took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.insights.recorded import DAY, HOUR, MONDAY, STEP, labels_of, shop
from traffic_cop_middleware.abstractions.insights.failing import failing
from traffic_cop_middleware.abstractions.insights.slow import slower
from traffic_cop_middleware.abstractions.insights.values import Insight, Series
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram

NOON = MONDAY + 2 * DAY + 14 * HOUR + 300
"""14:05 of the third day."""
UPTO = (2 * DAY + 15 * HOUR) // STEP


def cut(series: list[Series], upto: int = UPTO) -> list[Series]:
    return [
        replace(each, counts=each.counts[:upto], errors=each.errors[:upto], durations=each.durations[:upto])
        for each in series
    ]


def bursts(series: list[Series], *, since: float) -> list[Insight]:
    return [insight for each in series for insight in failing(each, since=since)]


def test_an_injected_slow_route_is_named_with_its_time_and_share() -> None:
    routes = cut(shop(slow=lambda name, at: 0.12 if name == "GET /search" and at >= NOON else 0.0))
    [insight] = slower(routes, since=NOON - 1800)
    assert insight.kind == "slow"
    assert insight.labels == labels_of("GET /search")
    assert insight.start == NOON
    assert insight.sentence.startswith("GET /search p95 ")
    assert " ms since 14:05 UTC, " in insight.sentence
    assert insight.sentence.endswith(" % of added latency")
    assert insight.evidence["share_of_added"] > 0.9
    assert insight.evidence["p95"] > 0.12 > 0.02 > insight.baseline["p95"]
    assert insight.severity == "critical"


def test_of_two_slow_routes_the_one_that_adds_more_comes_first_and_the_shares_make_one() -> None:
    added = {"GET /products": 0.03, "GET /search": 0.1}
    routes = cut(shop(slow=lambda name, at: added.get(name, 0.0) if at >= NOON else 0.0))
    found = slower(routes, since=NOON)
    assert [each.labels["route"] for each in found] == ["/search", "/products"]
    shares = [each.evidence["share_of_added"] for each in found]
    assert sum(shares) == pytest.approx(1, abs=0.02)
    per_route = {each.labels["route"]: sum(each.counts[-11:]) for each in routes}  # type: ignore[arg-type]
    expected = 0.1 * per_route["/search"] / (0.1 * per_route["/search"] + 0.03 * per_route["/products"])
    assert shares[0] == pytest.approx(expected, abs=0.05)


def test_a_slow_route_of_little_traffic_is_found_in_wider_buckets() -> None:
    routes = cut(shop(slow=lambda name, at: 0.5 if name == "POST /orders" and at >= NOON else 0.0))
    [insight] = slower(routes, since=NOON - 1800)
    assert insight.labels == labels_of("POST /orders")
    assert abs(insight.start - NOON) <= 900


def test_a_hiccup_of_milliseconds_before_is_not_told_as_the_beginning() -> None:
    def took(at: float) -> float:
        return 0.04 if at >= NOON else 0.005 if NOON - 4 * STEP <= at < NOON - 2 * STEP else 0.002

    [search] = [each for each in cut(shop()) if each.name == "GET /search"]
    times = [Histogram() for _ in search.counts]
    for index, each in enumerate(times):
        each.add_all([took(search.time(index))] * 30)
    [insight] = slower([replace(search, counts=[30] * len(times), durations=times)], since=NOON - 1800)
    assert insight.start == NOON


@pytest.mark.parametrize("seed", range(1, 7))
def test_calm_days_have_neither_slow_routes_nor_bursts(seed: int) -> None:
    routes = shop(seed=seed)
    assert slower(routes, since=MONDAY + 2 * DAY) == []
    assert bursts(routes, since=MONDAY + 2 * DAY) == []


def test_what_is_slow_at_the_same_hour_of_every_day_is_usual() -> None:
    routes = cut(shop(days=8, slow=lambda name, at: 0.1 if at % DAY // HOUR == 14 else 0.0), 8 * 288 - 100)
    assert slower(routes, since=MONDAY + 7 * DAY + 13 * HOUR) == []


def test_what_was_never_timed_is_passed_over() -> None:
    routes = [replace(each, durations=()) for each in shop(days=1)]
    assert slower(routes, since=MONDAY) == []
    empty = [replace(each, durations=[None] * len(each)) for each in routes]
    assert slower(empty, since=MONDAY + DAY / 2) == []
    nothing = [replace(each, durations=[Histogram() for _ in each.counts]) for each in routes]
    assert slower(nothing, since=MONDAY + DAY / 2) == []
    assert slower([], since=MONDAY) == []


def test_an_injected_error_burst_is_named_with_its_route_time_and_share() -> None:
    routes = cut(shop(fails=lambda name, at: 0.3 if name == "POST /orders" and at >= NOON else 0.001))
    [insight] = bursts(routes, since=NOON - 1800)
    assert insight.kind == "errors"
    assert insight.labels == labels_of("POST /orders")
    assert insight.start == NOON
    assert insight.severity == "critical"
    assert insight.sentence.startswith("POST /orders fails for ")
    assert " since 14:05 UTC (" in insight.sentence
    assert insight.evidence["share"] == pytest.approx(0.3, abs=0.1)
    assert insight.baseline["share"] < 0.01


def test_a_burst_that_is_over_has_an_end() -> None:
    end = NOON + 1800
    routes = cut(shop(fails=lambda name, at: 0.4 if name == "GET /search" and NOON <= at < end else 0.0))
    [insight] = bursts(routes, since=NOON - 1800)
    assert (insight.start, insight.evidence["until"]) == (NOON, end)
    assert "failed for" in insight.sentence
    assert "from 14:05 to 14:35 UTC" in insight.sentence
    assert insight.sentence.endswith("usual is next to none")


def test_a_route_that_always_fails_for_a_part_is_no_burst_until_it_is_worse() -> None:
    def usual(name: str, at: float) -> float:
        return 0.1

    assert bursts(shop(fails=usual), since=MONDAY + 2 * DAY) == []
    worse = cut(shop(fails=lambda name, at: 0.6 if at >= NOON else 0.1))
    assert {each.labels["route"] for each in bursts(worse, since=NOON)} == {"/products", "/search", "/orders"}


def test_a_single_failure_and_a_route_without_history_are_no_burst() -> None:
    labels = labels_of("GET /x")
    quiet = Series(start=MONDAY, step=STEP, counts=[1] * 300, errors=[0] * 298 + [1, 1], labels=labels)
    assert failing(quiet, since=quiet.end - HOUR) == []
    new = Series(start=MONDAY, step=STEP, counts=[20, 30, 30], errors=[0, 20, 25], labels=labels)
    [insight] = failing(new, since=MONDAY)
    assert insight.start == MONDAY + STEP
    unknown = Series(start=MONDAY, step=STEP, counts=[None] * 50, errors=[0] * 50)
    assert failing(unknown, since=MONDAY) == []
    assert failing(replace(new, errors=()), since=MONDAY) == []
