"""Stretches of the past, and the buckets that make one up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history.crew import DAY, MIDNIGHT
from traffic_cop_middleware.abstractions.history.ranges import KEPT, Range, Window, aligned, bounds_of, cover, step_of
from traffic_cop_middleware.contracts import Span
from traffic_cop_middleware.contracts.history import RESOLUTIONS
from traffic_cop_middleware.errors import ConfigurationError

MINUTES = st.integers(0, 3 * 24 * 60)


@pytest.mark.parametrize(
    ("window", "seconds"), [("90s", 90), ("15m", 900), ("24h", DAY), (" 7d", 7 * DAY), ("4w", 28 * DAY)]
)
def test_a_length_ends_now(window: str, seconds: int) -> None:
    assert bounds_of(window, MIDNIGHT) == (MIDNIGHT - seconds, MIDNIGHT)
    assert bounds_of(timedelta(seconds=seconds), MIDNIGHT) == (MIDNIGHT - seconds, MIDNIGHT)


def test_a_range_is_of_datetimes_or_of_seconds() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert bounds_of(Range(start, start + timedelta(hours=1)), 0) == (start.timestamp(), start.timestamp() + 3_600)
    assert bounds_of(Range(5, 7.5), 0) == (5, 7.5)
    assert bounds_of(Range(5), 9) == (5, 9)


@pytest.mark.parametrize("window", ["", "h", "5", "5y", "-5m", "0m", "5 minutes", timedelta(0), 5, None])
def test_what_is_no_stretch_is_refused(window: Window) -> None:
    with pytest.raises(ConfigurationError, match="no stretch"):
        bounds_of(window, MIDNIGHT)


@pytest.mark.parametrize(
    "bounds",
    [
        (5, 5),
        (7, 5),
        (float("nan"), 5),
        (-1, 5),
        (5, 1e15),
        (10**400,),
        (5, float("inf")),
        (datetime(2026, 1, 1),),
        (datetime.min.replace(tzinfo=UTC),),
        ("5",),
    ],
)
def test_what_is_no_range_is_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="Range"):
        Range(*bounds)


def test_what_begins_in_the_future_is_no_stretch_of_the_past() -> None:
    with pytest.raises(ConfigurationError, match="future"):
        bounds_of(Range(MIDNIGHT + 1), MIDNIGHT)


def test_a_step_is_a_resolution() -> None:
    assert [step_of(each) for each in ("1m", "5m", "1h", "1d", timedelta(hours=1))] == [*RESOLUTIONS, 3_600]
    for step in ("2h", "1 day", 60):
        with pytest.raises(ConfigurationError, match=f"step={step!r}: there are '1m'"):
            step_of(step)  # type: ignore[arg-type]


@given(
    st.tuples(MINUTES, MINUTES).map(sorted),
    st.sets(st.sampled_from([(resolution, at * resolution) for resolution in RESOLUTIONS[1:] for at in range(40)])),
    st.sampled_from(RESOLUTIONS),
)
def test_buckets_cover_a_stretch_once_and_none_of_them_is_due(
    minutes: list[int], late: set[tuple[int, int]], coarsest: int
) -> None:
    start, end = (MIDNIGHT + minute * 60 for minute in minutes)
    due = {(resolution, MIDNIGHT + at) for resolution, at in late}
    at = start
    for span in cover(start, end, due=due, coarsest=coarsest):
        assert span.start == at < span.end
        assert span.resolution <= coarsest
        assert span.start % span.resolution == span.end % span.resolution == 0
        assert not due & {(span.resolution, each) for each in range(span.start, span.end, span.resolution)}
        at = span.end
    assert at == end


def test_a_month_takes_few_buckets() -> None:
    start, end = MIDNIGHT - 30 * DAY + 3_660, MIDNIGHT + 7_500
    assert cover(start, end, due=()) == [
        Span(60, start, start + 240),
        Span(300, start + 240, start + 3_540),
        Span(3_600, start + 3_540, MIDNIGHT - 29 * DAY),
        Span(DAY, MIDNIGHT - 29 * DAY, MIDNIGHT),
        Span(3_600, MIDNIGHT, MIDNIGHT + 7_200),
        Span(300, MIDNIGHT + 7_200, MIDNIGHT + 7_500),
    ]


@given(st.floats(0, 500 * DAY), st.floats(1, 500 * DAY))
def test_a_stretch_is_made_of_what_is_still_kept(ago: float, length: float) -> None:
    now = MIDNIGHT + 12_345.6
    through = MIDNIGHT + 12_300
    start, end = aligned(now - ago - length, now - ago, now=now, through=through)
    assert start <= max(now - ago - length, 0) or start == through
    assert end >= min(now - ago, through) or end == through
    assert end <= through
    for span in cover(start, end, due=()):
        assert span.start >= now - KEPT.get(span.resolution, 1e12) or span.start == span.end
