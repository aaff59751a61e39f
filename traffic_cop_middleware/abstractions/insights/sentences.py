"""Numbers and times as people write them. Times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from traffic_cop_middleware.abstractions.insights.values import Series

MINUTE, HOUR, DAY = 60, 3600, 86_400
UNITS = ((MINUTE, "minute"), (HOUR, "hour"), (DAY, "day"))


def clock(moment: float, *, day: float | None = None) -> str:
    """ "14:05"; with the date where it is on another day than `day`, both Unix seconds."""
    at = datetime.fromtimestamp(moment, UTC)
    other = day is not None and datetime.fromtimestamp(day, UTC).date() != at.date()
    return f"{at:%H:%M} on {at.day} {at:%B}" if other else f"{at:%H:%M}"


def span(series: Series, first: int, end: int) -> str:
    """ "since 14:05 UTC" where it goes on, else "from 14:05 to 14:50 UTC"."""
    start, over = series.time(first), series.time(end)
    if end >= len(series) - 1:
        return f"since {clock(start, day=series.end - 1)} UTC"
    return f"from {clock(start, day=over)} to {clock(over, day=series.end - 1)} UTC"


def number(value: float) -> str:
    """ "1,240", "12.5", "0.04"."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def short(value: float) -> str:
    """ "10k", "2.5M", "800"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """ "71 %", "0.2 %"."""
    value = share * 100
    return f"{value:.0f} %" if abs(value) >= 10 or value == 0 else f"{value:.2g} %"


def seconds(*values: float) -> str:
    """ "180 -> 640 ms", in the unit of the largest."""
    largest = max(values)
    size, unit = (1.0, "s") if largest >= 1 else (1e-3, "ms")
    return " -> ".join(f"{value / size:.3g}" for value in values) + f" {unit}"


def rate(requests: float, over: float) -> str:
    """ "133 requests a minute", in the shortest unit that makes at least one of it."""
    if not requests:
        return "no requests"
    each = requests / over if over else 0.0
    for length, unit in UNITS:
        if each * length >= 1:
            return f"{number(round(each * length, 1))} requests {'an' if unit == 'hour' else 'a'} {unit}"
    return f"{number(round(each * DAY, 2))} requests a day"
