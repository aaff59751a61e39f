"""Stretches of the past as people write them, and the buckets that make one up.

Theory of operation. A stretch is covered by the coarsest buckets that lie within it, and its ends by finer ones: so a
month takes some days, hours, five minutes and minutes, and begins and ends at the minute all the same. Where the finest
buckets of an end are no longer kept, or not yet rolled up, others stand in: an old end goes out to the next bucket that
is kept, and a bucket that is still due is read as the finer ones within it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from traffic_cop_middleware.contracts import Span
from traffic_cop_middleware.contracts.history import RESOLUTIONS
from traffic_cop_middleware.errors import ConfigurationError

MINUTE, FIVE, HOUR, DAY = RESOLUTIONS
KEPT: Mapping[int, int] = {MINUTE: 48 * HOUR, FIVE: 35 * DAY, HOUR: 396 * DAY}
"""Seconds that buckets of a resolution are kept; the coarsest ones are for ever. 396 days are 13 months."""
UNITS = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
WRITTEN = re.compile(r"(\d{1,6})\s*([smhdw])")
LATEST = 253_402_300_800
"""The year 10,000."""


@dataclass(frozen=True, slots=True)
class Range:
    """From `start` to `end`: aware datetimes, or seconds since the epoch. Without an `end`, until now.

    Raises:
        ConfigurationError: a datetime has no time zone, or there is nothing between the two.
    """

    start: datetime | float
    end: datetime | float | None = None

    def __post_init__(self) -> None:
        start, end = _seconds(self.start, "start"), self.end
        if end is not None and _seconds(end, "end") <= start:
            raise ConfigurationError(f"Range({self.start!r}, {self.end!r}): it ends before it begins")


Window = Range | timedelta | str
"""A `Range`; or how long ago it began: a timedelta, or "15m", "24h", "7d", "4w"."""


def bounds_of(window: Window, now: float) -> tuple[float, float]:
    """Where a stretch begins and ends, in seconds since the epoch.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(window, Range):
        start = _seconds(window.start, "start")
        end = now if window.end is None else _seconds(window.end, "end")
        if start >= end:
            raise ConfigurationError(f"{window}: it begins in the future")
        return start, end
    return max(0.0, now - length_of(window)), now


def length_of(written: timedelta | str) -> float:
    """Seconds.

    Raises:
        ConfigurationError: it is no length.
    """
    length = _length(written)
    if not 0 < length < LATEST:
        raise ConfigurationError(
            f"{written!r} is no stretch of the past: write '15m', '24h', '7d', '4w', a timedelta, or Range(start, end)"
        )
    return length


def step_of(written: timedelta | str) -> int:
    """The resolution that a step of this length is.

    Raises:
        ConfigurationError: it is none.
    """
    step = _length(written)
    if step not in RESOLUTIONS:
        raise ConfigurationError(f"step={written!r}: there are '1m', '5m', '1h' and '1d'")
    return int(step)


def _length(written: object) -> float:
    """Seconds; 0 for what is no length."""
    if isinstance(written, timedelta):
        return written.total_seconds()
    found = WRITTEN.fullmatch(written.strip()) if isinstance(written, str) else None
    return int(found[1]) * UNITS[found[2]] if found else 0.0


def _seconds(moment: datetime | float, name: str) -> float:
    seconds: object = moment
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ConfigurationError(f"Range({name}={moment!r}): a time without its zone; add tzinfo=timezone.utc")
        seconds = moment.timestamp()
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < LATEST:
        raise ConfigurationError(
            f"Range({name}={str(moment)[:80]}): an aware datetime, or seconds since the epoch, from 1970 on"
        )
    return float(seconds)


def aligned(start: float, end: float, *, now: float, through: int) -> tuple[int, int]:
    """The whole buckets around a stretch, as fine as they are kept at its ends, and no later than `through`."""
    first = _down(min(start, through), _kept_at(start, now))
    last = min(_up(min(end, through), _kept_at(end, now)), through)
    return first, max(first, last)


def kept_from(resolution: int, now: float, *, step: int) -> int:
    """From which step on all buckets of a resolution are kept."""
    return max(0, _up(now - KEPT[resolution], step)) if resolution in KEPT else 0


def cover(start: int, end: int, *, due: Collection[tuple[int, int]], coarsest: int = DAY) -> Sequence[Span]:
    """The buckets that make up an aligned stretch, without those that are `due` (resolution, start), oldest first."""
    spans: list[Span] = []
    for resolution, first, last in _cover(start, end, coarsest, due):
        joins = bool(spans) and (spans[-1].resolution, spans[-1].end) == (resolution, first)
        spans.append(Span(resolution, spans.pop().start if joins else first, last))
    return spans


def _cover(start: int, end: int, resolution: int, due: Collection[tuple[int, int]]) -> list[Span]:
    if start >= end:
        return []
    if resolution == MINUTE:
        return [Span(MINUTE, start, end)]
    finer = RESOLUTIONS[RESOLUTIONS.index(resolution) - 1]
    first, last = _up(start, resolution), _down(end, resolution)
    if first >= last:
        return _cover(start, end, finer, due)
    found = _cover(start, first, finer, due)
    at = first
    for of, missing in sorted(due):
        if of == resolution and first <= missing < last:
            if at < missing:
                found.append(Span(resolution, at, missing))
            found += _cover(missing, missing + resolution, finer, due)
            at = missing + resolution
    if at < last:
        found.append(Span(resolution, at, last))
    return found + _cover(last, end, finer, due)


def _kept_at(moment: float, now: float) -> int:
    """The finest resolution that is kept at a moment, and before it as far as the coarser bucket around it goes."""
    for resolution, coarser in pairwise(RESOLUTIONS):
        if _down(moment, coarser) >= now - KEPT[resolution]:
            return resolution
    return DAY


def _down(moment: float, resolution: int) -> int:
    return int(moment // resolution) * resolution


def _up(moment: float, resolution: int) -> int:
    return -int(-moment // resolution) * resolution


def finest(
    start: int, end: int, *, now: float, due: Collection[tuple[int, int]], since: Mapping[int, int] | None = None
) -> Sequence[Span]:
    """The finest buckets that are kept of an aligned stretch, oldest first: so coarser ones for what is long ago.

    `since`: from when on buckets of a resolution are there, where that is later than they are kept for.
    """
    spans: list[Span] = []
    at = start
    for finer, resolution in reversed([*pairwise(RESOLUTIONS)]):
        kept = _up(max(now - KEPT[finer], (since or {}).get(finer, 0)), resolution)
        until = min(end, kept)
        if at < until:
            spans += cover(at // resolution * resolution, until, due=due, coarsest=resolution)
            at = until
    return [*spans, *cover(at, end, due=due, coarsest=MINUTE)] if at < end else spans
