"""Histograms, series, usage and blobs: how exact they are, and that merging loses nothing."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_cop_middleware.abstractions.metrics.figures import MOST_NAMES, Figures, decode, encode
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram
from traffic_cop_middleware.abstractions.metrics.record import Gone, read, united, with_workers
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, Exemplar, Series
from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed
from traffic_cop_middleware.abstractions.metrics.usage import MOST, REST, Usage

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


def told(figures: Figures) -> Any:
    """All that figures say, in one order, without the sums of floats."""
    packed = figures.packed()

    def sorted_bins(histogram: list[Any]) -> Any:
        scale, _, indexes, counts, bounded = histogram
        return scale, sorted(zip(indexes, counts, strict=True)), bounded

    return (
        sorted((*key, sorted_bins(series[0]), sorted_bins(series[1]), *series[2:6]) for *key, series in packed[1]),
        sorted(packed[3]),
        sorted((*name, sorted_bins(histogram)) for *name, histogram in packed[4]),
        {kind: dict(sorted(names.items())) for kind, names in packed[6].items()},
    )


@given(st.lists(request, max_size=40), st.integers(1, 5))
def test_merging_workers_equals_one_worker_that_saw_everything(
    requests: list[tuple[str, str, int, float, int, int]], workers: int
) -> None:
    alone, parts = Figures(), [Figures() for _ in range(workers)]
    for at, one in enumerate(requests):
        count(alone, one)
        count(parts[at % workers], one)
    by_blobs, by_figures = Figures(), Figures()
    for part in parts:
        by_blobs.merge_packed(decode(encode(part.packed())))
        by_figures.merge(part)
    assert told(by_blobs) == told(by_figures) == told(alone)


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
        figures.packed()  # adds up what is pending
    left = {key: series for key, series in both.requests.items() if series.count}
    assert {key: series.duration.bins for key, series in left.items()} == {
        key: series.duration.bins for key, series in rest.requests.items() if series.count
    }


def test_usage_tells_2000_of_a_kind_apart_and_sums_up_the_rest() -> None:
    usage = Usage()
    for number in range(MOST + 500):
        usage.add("user", f"u{number}", 500 if number % 2 else 429, 1, 2)
    usage.add("user", "u3", 200, 10, 20)
    table = usage.table()["user"]
    assert len(table) == MOST + 1
    assert table[REST] == (500, 250, 250, 500, 1000)
    assert table["u3"] == (2, 1, 0, 11, 22)
    assert next(iter(table)) == REST
    merged = Usage()
    merged.merge(usage.kinds)
    merged.merge(usage.kinds)
    assert len(merged.kinds["user"]) == MOST + 1
    assert sum(used[0] for used in merged.kinds["user"].values()) == 2 * (MOST + 501)


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
        merged.merge_packed(each.packed())
    assert sorted(exemplar.trace[0] for exemplar in merged.slow.values()) == ["b", "c"]


@pytest.mark.parametrize("blob", [b"", b"garbage", *map(zlib.compress, (b"", b"[]", b"[1]", b"[2,0]", b"[3,0,0,0,0]"))])
def test_a_blob_that_holds_no_figures_is_an_error(blob: bytes) -> None:
    with pytest.raises(ValueError, match="figures"):
        decode(blob)


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
    alone.packed()  # adds up what is pending
    found = summed([(encode_sums(part), at == 0) for at, part in enumerate(parts)], unreadable=strict)
    assert sums(found) == sums(alone)
    assert found.gauges == ({("in_flight", "/a", "GET"): 1} if requests else {})


@pytest.mark.parametrize("blob", [b"", b"garbage", b"1garbage", b"2" + encode_sums(Figures())[1:]])
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
