"""Figures without their exponential buckets, as they are summed over the workers for a scrape.

Theory of operation. A blob has the names of its rows (JSON) and then all their numbers in a row, as doubles, which hold
whole numbers below 2**53 exactly. Levels, which are no sums, come last (JSON). Workers of one app mostly have the same
rows, so blobs with the same names are added up column by column, and the names are read once for all of them: 400
workers take tens of milliseconds. Quantiles come from the windows, which have the buckets (`figures.py`).
"""

from __future__ import annotations

import json
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from traffic_cop_middleware.abstractions.metrics.blobs import blob_of, parts_of
from traffic_cop_middleware.abstractions.metrics.business import Level
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses, never
from traffic_cop_middleware.abstractions.metrics.series import Exemplar, Series

FORM = b"2"
TIMED = len(BOUNDS) + 2
"""Numbers of a histogram: its total, then how many up to each bound."""
SERIES = 2 * TIMED + 4
WIDTHS = {"requests": SERIES, "streams": SERIES, "timings": TIMED, "counts": 1, "gauges": 1}
WIDTHS |= {"business": 2, "observed": TIMED}
MOST_EXEMPLARS = 16
"""The slowest requests that a blob tells of."""
HIGH = 1 << 40
"""An app's own numbers may be larger than a double holds exactly: they are two, and this is one of the first."""
AT_ONCE = 16
"""Blobs that are added up without a pause: that takes about a millisecond."""


def encode_sums(figures: Figures, *, pause: Callable[[], None] = never) -> bytes:
    """Figures as a blob: without exponential buckets and usage."""
    names: list[Any] = []
    numbers = array("d")
    for kind, series_by in (("requests", figures.requests), ("streams", figures.streams)):
        for key in sorted(series_by):
            series = series_by[key]
            series.settle()
            names.append([kind, *key])
            numbers.extend(_timed(series.duration))
            numbers.extend(_timed(series.first_byte))
            numbers.extend((series.bytes_in, series.bytes_out, series.exceptions, series.disconnects))
            pause()
    business = figures.business
    for kind, timed_by in (("timings", figures.timings), ("observed", business.observed)):
        for name in sorted(timed_by):
            names.append([kind, *name])
            numbers.extend(_timed(timed_by[name]))
    for name in sorted(business.numbers):
        names.append(["business", *name])
        numbers.extend(divmod(business.numbers[name], HIGH))
    for kind, numbers_by in (("counts", figures.counts), ("gauges", figures.gauges)):
        for name in sorted(numbers_by):
            names.append([kind, *name])
            numbers.append(numbers_by[name])
    slow = [(*exemplar, *key) for key, series in figures.requests.items() for exemplar in series.slow.values()]
    slow = sorted(slow, reverse=True)[:MOST_EXEMPLARS]
    if sys.byteorder == "big":
        numbers.byteswap()
    told = (names, slow, sorted(business.levels.items()))
    named, slowest, levels = (json.dumps(each).encode("ascii") for each in told)
    return blob_of(FORM, (named, numbers.tobytes(), slowest, levels))


def _timed(histogram: Histogram) -> Sequence[float]:
    return [histogram.total, *histogram.bounded]


def summed(blobs: Iterable[tuple[bytes, bool]], *, unreadable: Callable[[ValueError], None]) -> Figures:
    """Blobs as one; of each it is said whether its gauges count. `unreadable` hears of those that are left out."""
    figures, pause = Figures(), Pauses()
    columns: dict[tuple[bytes, bool], list[array[float]]] = defaultdict(list)
    for blob, gauges in blobs:
        try:
            names, numbers, slow, levels = _decoded(blob)
        except ValueError as exc:
            unreadable(exc)
            continue
        columns[names, gauges].append(numbers)
        for seconds, trace, when, template, method, status in json.loads(slow):
            figures.requests.setdefault((template, method, status), Series()).keep(Exemplar(seconds, trace, when))
        for name, level in json.loads(levels):
            figures.business.set(tuple(name), Level(*level))
        pause()
    for (names, gauges), rows in columns.items():
        _add(figures, json.loads(names), _column_sums(rows, pause), gauges=gauges, pause=pause)
        pause()
    return figures


def _column_sums(rows: list[array[float]], pause: Callable[[], None]) -> Sequence[float]:
    whole: Sequence[float] = rows[0]
    for start in range(1, len(rows), AT_ONCE):
        whole = list(map(sum, zip(whole, *rows[start : start + AT_ONCE], strict=True)))
        pause()
    return whole


def _decoded(blob: bytes) -> tuple[bytes, array[float], bytes, bytes]:
    """The names, the numbers, the exemplars and the levels of a blob.

    Raises:
        ValueError: it is none, or of another form, as another version of this package writes it.
    """
    names, numbers, slow, levels = parts_of(blob, FORM, 4)
    found = array("d")
    try:
        found.frombytes(numbers)
    except ValueError as exc:
        raise ValueError(f"a blob that holds no figures: {exc}") from exc
    if sys.byteorder == "big":
        found.byteswap()
    return names, found, slow, levels


def _add(
    figures: Figures, names: list[Any], numbers: Sequence[float], *, gauges: bool, pause: Callable[[], None]
) -> None:
    at = 0
    for kind, *labels in names:
        row = numbers[at : at + WIDTHS[kind]]
        at += WIDTHS[kind]
        if kind in ("requests", "streams"):
            template, method, status = labels
            of = figures.requests if kind == "requests" else figures.streams
            series = of.setdefault((template, method, status), Series())
            _add_timed(series.duration, row[:TIMED])
            _add_timed(series.first_byte, row[TIMED : 2 * TIMED])
            bytes_in, bytes_out, exceptions, disconnects = map(int, row[2 * TIMED :])
            series.bytes_in += bytes_in
            series.bytes_out += bytes_out
            series.exceptions += exceptions
            series.disconnects += disconnects
        elif kind == "timings":
            _add_timed(figures.timing(tuple(labels)), row)
        elif kind == "counts":
            figures.count(tuple(labels), int(row[0]))
        elif kind == "business":
            figures.business.add(tuple(labels), int(row[0]) * HIGH + int(row[1]))
        elif kind == "observed":
            _add_timed(figures.business.histogram(tuple(labels)), row)
        elif gauges:
            figures.gauges[tuple(labels)] = figures.gauges.get(tuple(labels), 0) + int(row[0])
        pause()


def _add_timed(histogram: Histogram, row: Sequence[float]) -> None:
    histogram.total += row[0]
    histogram.bounded = [known + int(more) for known, more in zip(histogram.bounded, row[1:], strict=True)]


def strict(exc: ValueError) -> None:
    """For `unreadable`, where nothing may be left out.

    Raises:
        ValueError: always.
    """
    raise exc
