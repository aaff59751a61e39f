"""Histograms, series, usage and blobs: how exact they are, and that merging loses nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.metrics.blobs import blob_of, parts_of
from traffic_cop_middleware.abstractions.metrics.figures import MOST_NAMES, Figures
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, SCALE, Histogram, middle
from traffic_cop_middleware.abstractions.metrics.lanes import BUCKET, Buckets
from traffic_cop_middleware.abstractions.metrics.live import period_of
from traffic_cop_middleware.abstractions.metrics.record import Gone, read, united, with_workers
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, Exemplar, Series
from traffic_cop_middleware.abstractions.metrics.summary import FORM, Summary, encode, summary_of, summed_up
from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed
from traffic_cop_middleware.abstractions.metrics.usage import MOST
from traffic_cop_middleware.contracts.usage import REST

SHARES = (0.5, 0.9, 0.95, 0.99, 0.999)
durations = st.floats(1e-6, 1e4)


def exact(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def uniform(random: random.Random) -> float:
    return random.uniform(0.0005, 0.3)


def log_normal(random: random.Random) -> float:
    return random.lognormvariate(-4, 1.2)


def bimodal(random: random.Random) -> float:
    return random.gauss(0.004, 0.0005) if random.random() < 0.9 else random.gauss(2.5, 0.3)


@pytest.mark.parametrize("draw", [uniform, log_normal, bimodal])
def test_quantiles_are_within_one_point_one_percent_of_exact(draw: Callable[[random.Random], float]) -> None:
    source = random.Random(5)
    values = [max(1e-6, draw(source)) for _ in range(50_000)]
    histogram = Histogram()
    histogram.add_all(values)
    for share in SHARES:
        found = histogram.quantile(share)
        assert found is not None
        assert abs(found / exact(values, share) - 1) <= 0.011, (share, found, exact(values, share))


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from(SHARES))
def test_any_quantile_of_anything_is_within_one_point_one_percent(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.quantile(share)
    assert found is not None
    assert abs(found / exact(values, share) - 1) <= 0.011


@given(st.lists(durations, max_size=100))
def test_adding_many_at_once_is_adding_each(values: list[float]) -> None:
    one, many = Histogram(), Histogram()
    for value in values:
        one.add(value)
    many.add_all(values)
    assert (one.bins, one.bounded) == (many.bins, many.bounded)
    assert math.isclose(one.total, many.total, rel_tol=1e-9)


@given(st.lists(durations, max_size=100))
def test_the_bounds_are_counted_as_prometheus_counts_them(values: list[float]) -> None:
    histogram = Histogram()
    histogram.add_all([*values, *BOUNDS])
    upto = 0
    for bound, count in zip((*BOUNDS, math.inf), histogram.bounded, strict=True):
        upto += count
        assert upto == sum(value <= bound for value in [*values, *BOUNDS])


@given(st.lists(durations, max_size=60), st.integers(0, 4), st.integers(0, 4))
def test_histograms_of_different_scales_merge_to_the_coarser_one(values: list[float], left: int, right: int) -> None:
    half = len(values) // 2
    parts = [Histogram(scale=left), Histogram(scale=right)]
    for part, some in zip(parts, (values[:half], values[half:]), strict=True):
        part.add_all(some)
    whole = Histogram(scale=min(left, right))
    whole.add_all(values)
    parts[0].merge(parts[1])
    assert (parts[0].bins, parts[0].scale) == (whole.bins, whole.scale)
    fine = Histogram()
    fine.add_all(values)
    fine.downscale(left)
    direct = Histogram(scale=left)
    direct.add_all(values)
    assert fine.bins == direct.bins


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


@pytest.mark.parametrize("value", [0.0, -1.0, 1e12])
def test_durations_beyond_all_sense_are_counted_at_the_edge(value: float) -> None:
    histogram = Histogram()
    histogram.add(value)
    histogram.add_all([value])
    assert histogram.count == 2
    assert len(histogram.bins) == 1


# Workers together

request = st.tuples(
    st.sampled_from(["/a", "/b/{id}", "__unmatched__"]),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from([200, 404, 429, 500]),
    durations,
    st.integers(0, 10_000),
    st.integers(0, 3),
)


def count(figures: Figures, one: tuple[str, str, int, float, int, int]) -> None:
    template, method, status, seconds, size, what = one
    series = figures.requests.setdefault((template, method, status), Series())
    series.pending.append((seconds, seconds / 2, size, 2 * size))
    series.exceptions += what == 1
    figures.count(("limit.refused", template, "store"), what)
    figures.timing(("upstream", template, "one", str(status))).add(seconds)
    figures.usage.add("user", f"u{size % 7}", status, size, size)


def settled(figures: Figures) -> Any:
    """All that figures say, without the sums of floats."""
    for series in figures.requests.values():
        series.settle()
    return (
        {
            key: (series.duration.bins, series.duration.bounded, series.first_byte.bins, series.bytes_in)
            for key, series in figures.requests.items()
        },
        figures.counts,
        {name: timed.bins for name, timed in figures.timings.items()},
    )


@given(st.lists(request, max_size=40), st.integers(1, 5))
def test_merging_workers_equals_one_worker_that_saw_everything(
    requests: list[tuple[str, str, int, float, int, int]], workers: int
) -> None:
    alone, parts = Figures(), [Figures() for _ in range(workers)]
    for at, one in enumerate(requests):
        count(alone, one)
        count(parts[at % workers], one)
    blobs = [encode(summary_of(part)) for part in parts]
    halves = [summed_up(some, unreadable=strict) for some in (blobs[::2], blobs[1::2])]
    by_figures, by_summaries = Figures(), Summary()
    for part in parts:
        by_figures.merge(part)
    for half in halves:
        by_summaries.add(half)
    assert settled(by_figures) == settled(alone)
    again = summed_up([encode(by_summaries)], unreadable=strict)
    assert period_of(again, 60) == period_of(by_summaries, 60) == period_of(summary_of(alone), 60)


@given(st.lists(request, max_size=20), st.lists(request, max_size=20))
def test_what_is_taken_away_again_was_never_there(
    first: list[tuple[str, str, int, float, int, int]], second: list[tuple[str, str, int, float, int, int]]
) -> None:
    both, one, rest = Figures(), Figures(), Figures()
    for each in first:
        count(both, each)
        count(one, each)
    for each in second:
        count(both, each)
        count(rest, each)
    both.merge(one, sign=-1)
    for figures in (both, rest):
        settled(figures)
    left = {key: series for key, series in both.requests.items() if series.count}
    assert {key: series.duration.bins for key, series in left.items()} == {
        key: series.duration.bins for key, series in rest.requests.items() if series.count
    }


def test_usage_tells_2000_of_a_kind_apart_and_sums_up_the_rest() -> None:
    figures = Figures()
    usage = figures.usage
    for number in range(MOST + 500):
        usage.add("user", f"u{number}", 500 if number % 2 else 429, 1, 2)
    usage.add("user", "u3", 200, 10, 20)
    table = period_of(summary_of(figures), 60).usage["user"]
    assert len(table) == MOST + 1
    assert table[REST] == (500, 250, 250, 500, 1000, 0)
    assert table["u3"] == (2, 1, 0, 11, 22, 0)
    assert next(iter(table)) == REST
    merged = Summary()
    for _ in range(2):
        merged.add(summary_of(figures))
    table = period_of(merged, 60).usage["user"]
    assert len(table) == MOST + 1
    assert sum(used.requests for used in table.values()) == 2 * (MOST + 501)


def test_a_summary_of_workers_with_other_users_tells_2000_apart() -> None:
    workers = [Figures() for _ in range(3)]
    for at, figures in enumerate(workers):
        for number in range(MOST // 2 + 100):
            figures.usage.add("user", f"u{at}.{number}", 200, 1, 2)
            figures.count(("upstream.failed", f"r{at}.{number}", "u", "e"))
            figures.timing(("upstream", f"r{at}.{number}", "u", "200")).add(0.1)
    whole = summed_up([encode(summary_of(figures)) for figures in workers], unreadable=strict)
    period = period_of(whole, 60)
    each = MOST // 2 + 100
    assert len(period.usage["user"]) == MOST + 1
    assert period.usage["user"][REST].requests == 3 * each - MOST
    assert len(period.upstreams) == MOST_NAMES + 1
    rest = period.upstreams[OVERFLOW, OVERFLOW]
    assert (rest.requests, rest.failures) == (3 * each - MOST_NAMES, {OVERFLOW: 3 * each - MOST_NAMES})


@given(st.lists(st.lists(durations, max_size=30), max_size=5))
def test_buckets_in_lanes_have_the_quantiles_of_the_histogram(parts: list[list[float]]) -> None:
    whole, buckets = Histogram(), Buckets()
    for values in parts:
        histogram = Histogram()
        histogram.add_all(values)
        whole.merge(histogram)
        more = Buckets.of(histogram.bins)
        buckets.add(more.low, more.lanes)
    assert buckets.count == whole.count
    assert buckets.quantiles(*SHARES) == [whole.quantile(share) for share in SHARES]


def test_buckets_hold_what_hundreds_of_busy_workers_count() -> None:
    buckets = Buckets()
    for _ in range(1_000):
        more = Buckets.of({-800: 10**6, -799: 255, 744: 10**6})
        buckets.add(more.low, more.lanes)
    assert buckets.count == 2 * 10**9 + 255_000
    assert buckets.quantiles(0.4, 0.5001) == [middle(-800, SCALE), middle(744, SCALE)]


def test_counters_and_timings_are_capped_by_family() -> None:
    figures = Figures()
    for number in range(MOST_NAMES + 100):
        figures.count(("upstream.failed", f"r{number}", "u", "e"))
        figures.timing(("upstream", f"r{number}", "u", "200")).add(0.1)
    assert len(figures.counts) == MOST_NAMES + 1
    assert figures.counts["upstream.failed", OVERFLOW, OVERFLOW, OVERFLOW] == 100
    assert len(figures.timings) == MOST_NAMES + 1
    assert figures.timings["upstream", OVERFLOW, OVERFLOW, OVERFLOW].count == 100


def test_an_exemplar_is_the_newest_slow_request_of_its_bound() -> None:
    old, new, merged = Series(), Series(), Series()
    old.note(Exemplar(0.2, "a" * 32, 1.0))
    new.note(Exemplar(0.21, "b" * 32, 2.0))
    new.note(Exemplar(3.0, "c" * 32, 2.0))
    for each in (new, old):
        merged.merge(each)
    assert sorted(exemplar.trace[0] for exemplar in merged.slow.values()) == ["b", "c"]


def test_workers_that_count_more_than_narrow_lanes_hold_add_up() -> None:
    blobs = []
    for requests in [*[8_000] * 20, 100_000, 3, *[8_000] * 5]:  # a lane of two bytes holds 65,535
        figures = Figures()
        timed = figures.timing(("upstream", "/a", "one", "200"))
        timed.bins, timed.bounded[0] = {-200: requests, -100: 1}, requests
        blobs.append(encode(summary_of(figures)))
    whole = summed_up(blobs, unreadable=strict)
    (buckets,) = whole.durations.values()
    assert buckets.low == -200
    assert buckets.lanes == 300_003 + (len(blobs) << 100 * BUCKET * 8)
    again = summed_up([encode(whole), *blobs], unreadable=strict)
    assert [each.count for each in again.durations.values()] == [2 * (300_003 + len(blobs))]


def broken_blobs() -> Iterator[bytes]:
    figures = Figures()
    count(figures, ("/a", "GET", 200, 0.1, 1, 1))
    names, numbers, places, lanes, levels = parts_of(encode(summary_of(figures)), FORM, 5)
    yield from (b"", b"garbage", b"4garbage", b"9" + blob_of(b"", (names, numbers, places, lanes, levels)))
    yield blob_of(FORM, (names, numbers, places))
    for wrong in (b"", b"{}", b"[1]", b"[[1],[]]", b"[[[]],[]]", b'[[["nothing"]],[]]', b"[1,2]", b"\xff"):
        yield blob_of(FORM, (wrong, numbers, places, lanes, levels))
    yield blob_of(FORM, (names, numbers[1:], places, lanes, levels))
    yield blob_of(FORM, (names, numbers, places + b"0", lanes, levels))
    yield blob_of(FORM, (names, numbers, places, lanes + b"0", levels))
    for wrong in (b"", b"{}[", b"[1]", b'[[["a"],[1]]]', b"\xff"):
        yield blob_of(FORM, (names, numbers, places, lanes, wrong))


@pytest.mark.parametrize("blob", [*broken_blobs()])
def test_a_blob_that_holds_no_figures_is_left_out_and_told(blob: bytes) -> None:
    figures = Figures()
    count(figures, ("/b/{id}", "GET", 200, 0.1, 1, 1))
    left_out: list[ValueError] = []
    found = summed_up([blob, encode(summary_of(figures)), blob], unreadable=left_out.append)
    assert {name: traffic.requests for name, traffic in period_of(found, 60).routes.items()}["/b/{id}"] == 1
    assert period_of(found, 60).total.requests == 1
    assert ["figures" in str(each) for each in left_out] == [True, True]


def sums(figures: Figures) -> Any:
    """What a scrape tells of figures."""
    return (
        {
            key: (series.duration.bounded, series.first_byte.bounded, series.bytes_in, series.exceptions)
            for key, series in figures.requests.items()
        },
        {name: number for name, number in figures.counts.items() if number},
        {name: timed.bounded for name, timed in figures.timings.items()},
    )


@given(st.lists(request, max_size=40), st.integers(1, 60))
def test_the_sums_of_workers_are_those_of_one_worker_that_saw_everything(
    requests: list[tuple[str, str, int, float, int, int]], workers: int
) -> None:
    alone, parts = Figures(), [Figures() for _ in range(workers)]
    for at, one in enumerate(requests):
        count(alone, one)
        count(parts[at % workers], one)
        parts[at % workers].gauges["in_flight", "/a", "GET"] = 1
    settled(alone)
    found = summed([(encode_sums(part), at == 0) for at, part in enumerate(parts)], unreadable=strict)
    assert sums(found) == sums(alone)
    assert found.gauges == ({("in_flight", "/a", "GET"): 1} if requests else {})


@pytest.mark.parametrize("blob", [b"", b"garbage", b"2garbage", b"3" + encode_sums(Figures())[1:]])
def test_a_blob_that_holds_no_sums_is_left_out_and_told(blob: bytes) -> None:
    left_out: list[ValueError] = []
    figures = Figures()
    figures.count(("session", "created", "user"))
    found = summed([(blob, False), (encode_sums(figures), False)], unreadable=left_out.append)
    assert found.counts == figures.counts
    assert len(left_out) == 1
    with pytest.raises(ValueError, match="figures"):
        summed([(blob, False)], unreadable=strict)


# The record of workers that are gone


def of(*names: str) -> bytes:
    figures = Figures()
    for name in names:
        figures.count(("session", name, "user"))
    return encode_sums(figures)


def names_in(gone: Gone) -> dict[str, int]:
    counts = summed([(gone.figures, False)], unreadable=strict).counts
    return {name: number for (_, name, _), number in counts.items()}


def test_the_record_adds_up_workers_and_is_read_as_it_was_written() -> None:
    gone = with_workers(with_workers(read(b"", 7), [of("a")]), [of("a", "b"), of("c")])
    assert names_in(read(gone.text(), 7)) == {"a": 2, "b": 1, "c": 1}
    assert gone.epochs == {7}


def test_a_lost_record_is_added_to_the_new_one_once() -> None:
    lost = with_workers(read(b"", 1), [of("old")])
    new = with_workers(read(b"", 2), [of("new")])
    whole = united(new, lost)
    assert whole is not None
    assert names_in(whole) == {"old": 1, "new": 1}
    assert united(read(whole.text(), 2), lost) is None
    assert united(new, Gone(frozenset({1}), b"")) is None
