"""What is usual: the same slot of the week, or, before there are two weeks, the last hours.

Theory of operation. A bucket is compared with those of the same slot of the weeks before, and with their neighbours
(`AROUND` on each side), for four values are too few for a spread. The median is the centre, so what went wrong last
week does not count as usual. Growth, holidays and the mood of a day move all slots together: the centre is moved
along by the median ratio of what came to what was usual over the last day (`Level`), but for the last hour, and
within bounds, or an outage would soon be usual.

How far off a count is, is judged where its spread is the same for little and for much traffic. Chance spreads by the
square root of the mean, moods by a share of it: variance = mean + noise * mean**2. The transform that makes it
constant is asinh(sqrt(noise * count)): a square root for little traffic (Anscombe), a logarithm for much. Judged on
the plain scale, all false alarms were spikes, and as many drops were missed. `noise` is that of the last day; a slot
whose own MAD is above it (a batch that does not come at the minute) has a `wide` above 1. Since neither is below the
noise of chance, a history without any spread makes no alarm of everything.

Invariant: what is said of a bucket depends on nothing after it, so a later look finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import asinh, sqrt
from typing import NamedTuple, Protocol

from traffic_cop_middleware.abstractions.insights.values import WEEK, Series

WEEKS = 4
"""Weeks that are looked back."""
AROUND = 900
"""Seconds on each side of a slot whose buckets count too."""
NORMAL = 1.4826
"""By this a MAD is a standard deviation."""
CHI = 0.4549
"""The median of the square of what is standard normal."""
FEWEST = 6
"""Values that a median and a MAD need."""
LEVEL_HOURS, LEVEL_PAUSE = 24, 1
"""Hours over which the level is compared, and those before now that do not count."""
LEAST_PAIRS = 12
MOST_LEVEL = 2.0
"""By how much the level may move the centre, up or down."""
LEAST_NOISE, MOST_NOISE = 1e-6, 0.09
"""Relative variances: less than the one is chance alone; more than the other is an outage of half a day, not noise."""
CORRECTION = 0.375
"""Anscombe's: by it the square root's spread is right from about 4 requests on."""


class Usual(NamedTuple):
    """What a bucket was expected to have. `noise` is the relative variance beyond chance, `wide` by how much this slot
    spreads more than others, `values` how many it is known from.
    """

    centre: float
    noise: float
    wide: float
    values: int

    def z(self, count: float) -> float:
        """How far off a count is, in standard deviations; below 0 it is too few."""
        seen, expected = sqrt(count + CORRECTION), sqrt(self.centre + CORRECTION)
        if self.noise < LEAST_NOISE:
            return 2 * (seen - expected) / self.wide
        c = sqrt(self.noise)
        return 2 / c * (asinh(c * seen) - asinh(c * expected)) / self.wide


class Baseline(Protocol):
    """What is usual for the buckets of a series."""

    def usual(self, index: int) -> Usual | None:
        """What bucket `index` was expected to have; `None` where too little is known."""
        ...


class Level(NamedTuple):
    """By how much the last hours were above what is usual, and their relative variance beyond chance."""

    ratio: float
    noise: float


def median(values: Sequence[float]) -> float:
    """The middle of some values; there is at least one."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def centre_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and MAD as a standard deviation; there is at least one value."""
    centre = median(values)
    return centre, NORMAL * median([abs(value - centre) for value in values])


def confidence_of(z: float, values: int, *, enough: int) -> float:
    """Between 0 and 1: grows with how far off something is, less where it is known from few values. No probability:
    0.5 is what is just reported, 0.8 twice as far off."""
    far = (z / 3.5) ** 2
    return round(far / (1 + far) * min(1.0, values / enough), 2)


class SlotsOfTheWeek:
    """`Baseline` by the same slots of the weeks before."""

    def __init__(self, series: Series) -> None:
        self._counts = series.counts
        self._week = WEEK // series.step
        self._around = max(1, AROUND // series.step)
        self._hour = 3600 // series.step
        self._began = int(series.start // series.step)
        self._centres: dict[int, float | None] = {}
        self._known: dict[int, Usual | None] = {}
        self._levels: dict[int, Level] = {}

    def usual(self, index: int) -> Usual | None:
        if index not in self._known:
            self._known[index] = self._usual(index)
        return self._known[index]

    def _usual(self, index: int) -> Usual | None:
        values = self._slot(index)
        if len(values) < FEWEST:
            return None
        usual, spread = centre_and_spread(values)
        ratio, noise = self._level(index)
        centre = usual * ratio
        own = spread * ratio / sqrt(max(centre, 1.0) + noise * centre * centre)
        # Halfway between the slot's own spread, of few values, and that of the day.
        return Usual(centre, noise, max(1.0, sqrt((own * own + 1) / 2)), len(values))

    def _centre(self, index: int) -> float | None:
        """The median of the same slot in the weeks before; the level asks for that of each bucket of a day."""
        if index not in self._centres:
            values = self._slot(index)
            self._centres[index] = median(values) if len(values) >= FEWEST else None
        return self._centres[index]

    def _slot(self, index: int) -> list[float]:
        """The same slot in the weeks before."""
        counts, around, found = self._counts, self._around, list[float]()
        for back in range(1, WEEKS + 1):
            place = index - back * self._week
            if place + around < 0:
                break
            found += [each for each in counts[max(0, place - around) : place + around + 1] if each is not None]
        return found

    def _level(self, index: int) -> Level:
        """The level at a bucket; worked out once an hour."""
        hour = (self._began + index) // self._hour
        if hour not in self._levels:
            self._levels[hour] = self._level_before((hour - LEVEL_PAUSE) * self._hour - self._began)
        return self._levels[hour]

    def _level_before(self, upto: int) -> Level:
        pairs = []
        for each in range(max(0, upto - LEVEL_HOURS * self._hour), max(0, upto)):
            count, centre = self._counts[each], self._centre(each)
            if count is not None and centre is not None and centre > 0:
                pairs.append((count, centre))
        if len(pairs) < LEAST_PAIRS:
            return Level(1.0, 0.0)
        ratio = median([count / usual for count, usual in pairs])
        noises = []
        for count, usual in pairs:
            mean = max(usual * ratio, 1.0)
            noises.append(((count - mean) ** 2 / CHI - mean) / (mean * mean))
        return Level(min(max(ratio, 1 / MOST_LEVEL), MOST_LEVEL), min(max(0.0, median(noises)), MOST_NOISE))


class LastHours:
    """`Baseline` by an exponentially weighted mean and variance, with the noise of chance at the least.

    Buckets that are far off count little, or an incident would be usual while it lasts.
    """

    def __init__(self, series: Series, *, alpha: float = 0.1, warm: int = 12, clip: float = 3.0) -> None:
        self._usual: list[Usual | None] = []
        mean = variance = 0.0
        seen = 0
        for count in series.counts:
            spread = sqrt(max(variance, mean, 1.0))
            noise = max(0.0, variance - mean) / (mean * mean) if mean > 1 else 0.0
            self._usual.append(Usual(mean, noise, 1.0, seen) if seen >= warm else None)
            if count is None:
                continue
            seen += 1
            weight = max(alpha, 1 / seen)
            off = count - mean
            if seen > warm:
                off = min(max(off, -clip * spread), clip * spread)
            mean += weight * off
            variance = (1 - weight) * (variance + weight * off * off)

    def usual(self, index: int) -> Usual | None:
        return self._usual[index]
