"""Spikes and drops: what is told, and what is not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.insights.recorded import DAY, HOUR, MONDAY, STEP, noisy_week
from traffic_cop_middleware.abstractions.insights.runs import Run, runs
from traffic_cop_middleware.abstractions.insights.unusual import unusual
from traffic_cop_middleware.abstractions.insights.values import Insight, Series

LABELS = {"method": "GET", "route": "/search"}
WEEK = 7 * DAY // STEP


def series(counts: list[int | None], *, start: float = MONDAY, step: int = STEP) -> Series:
    return Series(start=start, step=step, counts=counts, labels=LABELS)


def with_event(counts: list[int], times: float, *, begin: int, length: int) -> list[int | None]:
    changed: list[int | None] = [*counts]
    changed[begin : begin + length] = [round(each * times) for each in counts[begin : begin + length]]
    return changed


def look(found: Series, *, hours: float = 2) -> list[Insight]:
    return unusual(found, since=found.end - hours * HOUR)


def test_a_spike_is_told_with_its_time_and_figures() -> None:
    counts = noisy_week(200)
    at = len(counts) - 12
    [insight] = look(series(with_event(counts, 3, begin=at, length=12)))
    assert insight.kind == "spike"
    assert insight.start == MONDAY + at * STEP
    assert insight.labels == LABELS
    assert insight.severity == "warning"
    assert insight.sentence.startswith("GET /search has ")
    assert "requests a minute since 23:00 UTC, " in insight.sentence
    assert insight.sentence.endswith("requests a minute that are usual at this time of the week")
    assert insight.evidence["requests"] == sum(counts[at:]) * 3
    assert insight.evidence["requests"] / insight.baseline["requests"] == pytest.approx(3, rel=0.15)
    assert insight.confidence > 0.8


def test_a_drop_that_is_over_has_an_end() -> None:
    counts = noisy_week(200)
    at = len(counts) - 18
    [insight] = look(series(with_event(counts, 0.2, begin=at, length=6)))
    assert (insight.kind, insight.severity) == ("drop", "critical")
    assert insight.start == MONDAY + at * STEP
    assert insight.evidence["until"] == MONDAY + (at + 6) * STEP
    assert "from 22:30 to 23:00 UTC" in insight.sentence
    assert insight.sentence.startswith("GET /search had ")


def test_what_began_before_the_look_and_goes_on_is_told_with_its_begin() -> None:
    counts = noisy_week(200)
    at = len(counts) - 48
    [insight] = look(series(with_event(counts, 0.2, begin=at, length=48)), hours=0.5)
    assert insight.start == MONDAY + at * STEP


def test_what_goes_on_for_days_keeps_its_begin() -> None:
    counts = noisy_week(200)
    at = len(counts) - 2 * 288
    changed = with_event(counts, 0.05, begin=at, length=2 * 288)
    found = [look(series(changed[:upto]), hours=1) for upto in (-560, -300, -100, -1)]
    assert [[each.start for each in insights] for insights in found] == [[MONDAY + at * STEP]] * 4
    assert "since 00:00 on 7 February UTC" in found[-1][0].sentence


def test_what_was_over_before_the_look_is_not_told() -> None:
    counts = noisy_week(200)
    changed = with_event(counts, 4, begin=len(counts) - 48, length=12)
    assert look(series(changed), hours=2) == []


def test_the_same_hour_of_every_night_is_no_spike() -> None:
    counts = noisy_week(50)
    nightly: list[int | None] = [
        each * 6 if index % 288 in range(24, 30) else each for index, each in enumerate(counts)
    ]
    for day in range(1, 8):
        upto = len(nightly) - day * 288 + 36
        assert unusual(series(nightly[:upto]), since=MONDAY + (upto - 24) * STEP) == []


def test_one_bucket_alone_is_chance() -> None:
    counts = noisy_week(100)
    assert look(series(with_event(counts, 2, begin=len(counts) - 8, length=1))) == []


def test_an_incident_a_week_ago_is_not_what_is_usual() -> None:
    counts = noisy_week(200)
    at = len(counts) - 12
    before = with_event(counts, 0, begin=at - WEEK, length=12)
    assert look(series(before)) == []
    again: list[int | None] = [*before[:at], *([0] * 12)]
    assert [each.kind for each in look(series(again))] == ["drop"]


def test_growth_by_a_tenth_each_week_is_no_spike() -> None:
    counts: list[int | None] = [round(each * 1.1 ** (index / WEEK)) for index, each in enumerate(noisy_week(200))]
    for day in range(7):
        assert look(series(counts[: len(counts) - day * 288]), hours=24) == []


def test_a_history_without_any_spread_does_not_make_chance_an_alarm() -> None:
    counts: list[int | None] = [100] * (5 * WEEK)
    counts[-6:] = [110, 92, 108, 117, 91, 105]
    assert look(series(counts)) == []
    counts[-6:] = [180] * 6
    assert [each.kind for each in look(series(counts))] == ["spike"]


def test_where_nobody_ever_comes_a_few_are_nothing_and_many_are_a_spike() -> None:
    counts: list[int | None] = [0] * (5 * WEEK)
    assert look(series(counts)) == []
    counts[-3:] = [1, 0, 2]
    assert look(series(counts)) == []
    counts[-3:] = [40, 50, 60]
    [insight] = look(series(counts))
    assert insight.kind == "spike"
    assert "where next to none are usual at this time of the week" in insight.sentence


def test_what_nobody_knows_is_no_drop() -> None:
    counts: list[int | None] = [*noisy_week(200)]
    counts[-20:-4] = [None] * 16
    assert look(series(counts)) == []
    weeks_ago = len(counts) - WEEK
    counts[weeks_ago - 100 : weeks_ago + 1] = [None] * 101
    assert look(series(counts)) == []
    assert look(series([None] * (5 * WEEK))) == []


@pytest.mark.parametrize("length", [0, 1, 5, 100])
def test_with_hardly_any_history_nothing_is_told_at_first(length: int) -> None:
    assert look(series([*noisy_week(100)][:length])) == []


def test_before_two_weeks_the_hours_before_are_the_measure() -> None:
    counts = noisy_week(200, weeks=1)
    at = len(counts) - 6
    [insight] = look(series(with_event(counts, 3, begin=at, length=6)))
    assert (insight.kind, insight.start) == ("spike", MONDAY + at * STEP)
    assert insight.sentence.endswith("that are usual in the hours before")
    [insight] = look(series(with_event(counts, 0, begin=at, length=6)))
    assert (insight.kind, insight.severity) == ("drop", "critical")
    assert insight.sentence.startswith("GET /search has no requests since 23:30 UTC, where ")


def test_the_same_traffic_gives_the_same_insights_and_a_later_look_finds_the_same_begin() -> None:
    counts = noisy_week(200)
    changed = with_event(counts, 3, begin=len(counts) - 24, length=12)
    first, second = look(series(changed)), look(series(list(changed)))
    assert first == second
    [earlier] = look(series(changed[:-14]))
    assert earlier.start == first[0].start


@settings(max_examples=40)
@given(
    counts=st.lists(st.none() | st.integers(0, 10**9), min_size=0, max_size=60),
    repeat=st.integers(1, 120),
    step=st.sampled_from([60, 300, 3600]),
)
def test_whatever_comes_the_figures_are_numbers(counts: list[int | None], repeat: int, step: int) -> None:
    whole = series(counts * repeat, step=step)
    for insight in unusual(whole, since=whole.end - 100 * step):
        figures = [*insight.evidence.values(), *insight.baseline.values(), insight.confidence, insight.start]
        assert all(math.isfinite(each) for each in figures)
        assert 0 <= insight.confidence <= 1
        assert "nan" not in insight.sentence


def test_two_of_three_make_a_run_and_one_does_not() -> None:
    def found(flags: str) -> list[Run]:
        return runs([each == "x" for each in flags])

    assert found("..x....x...x") == []
    assert found(".xx..") == [Run(1, 3, 2)]
    assert found(".x.x.x..") == [Run(1, 6, 3)]
    assert found("xx...xx") == [Run(0, 2, 1), Run(5, 7, 6)]
    assert found("xx..x.x") == [Run(0, 2, 1), Run(4, 7, 6)]


def test_a_series_is_on_a_grid_and_its_figures_are_of_one_length() -> None:
    with pytest.raises(ValueError, match="step divides 3600"):
        series([1], start=MONDAY + 1)
    with pytest.raises(ValueError, match="step divides 3600"):
        Series(start=0, step=7, counts=[])
    with pytest.raises(ValueError, match="one figure for each bucket"):
        Series(start=0, step=60, counts=[1, 2], errors=[0])


def test_wider_buckets_lie_on_their_own_grid() -> None:
    found = replace(series([1, 2, 3, 4, None, 6, 7]), start=MONDAY + 2 * STEP).coarser(3)
    assert (found.start, found.step, list(found.counts)) == (MONDAY + 900, 900, [9, None])  # 2+3+4
    assert found.index(MONDAY) == 0
    assert found.index(MONDAY + 901) == 1
    assert found.index(MONDAY + 9999) == 2
