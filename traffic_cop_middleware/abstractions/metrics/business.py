"""What an app counts of its own: numbers, observations and levels, by the metric's name and the values of its labels.

Theory of operation. Numbers are whole: a count, or a sum in millionths, so they add up exactly over workers and years,
and to any size. Beside the sum of what was observed there are the buckets of its histogram. A level is what was last
said of something, by whatever worker: two of them become the later one, with the lowest and the highest of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.pauses import never

MILLION = 1_000_000
COST = "cost.route"
"""The name under which costs are added up by route; no metric of an app has a dot in its name."""
Labelled = tuple[str, ...]
"""A metric's name, and the values of its labels in their order."""


def fitted(values: Labelled, width: int) -> Labelled:
    """Values of labels where there were more or fewer of them, as another version of an app has declared: by their
    place; those that are missing are empty.
    """
    return (*values, *("" for _ in range(width - len(values))))[:width]


class Level(NamedTuple):
    """What was `last` said, when (seconds since the epoch), and the `low` and `high` of all that was said."""

    time: float
    last: float
    low: float
    high: float

    def with_(self, other: Level) -> Level:
        """Both as one."""
        time, last = max(self[:2], other[:2])
        return Level(time, last, min(self.low, other.low), max(self.high, other.high))


class Business:
    """What was counted in some stretch of time."""

    __slots__ = ("levels", "numbers", "observed")

    def __init__(self) -> None:
        self.numbers: dict[Labelled, int] = {}
        self.observed: dict[Labelled, Histogram] = {}
        self.levels: dict[Labelled, Level] = {}

    def __len__(self) -> int:
        return len(self.numbers) + len(self.levels)

    def add(self, name: Labelled, number: int) -> None:
        """Add to a number."""
        self.numbers[name] = self.numbers.get(name, 0) + number

    def histogram(self, name: Labelled) -> Histogram:
        """The buckets of what was observed."""
        found = self.observed.get(name)
        if found is None:
            found = self.observed[name] = Histogram()
        return found

    def set(self, name: Labelled, level: Level) -> None:
        """Take note of a level."""
        known = self.levels.get(name)
        self.levels[name] = level if known is None else known.with_(level)

    def merge(self, other: Business, *, sign: int = 1, buckets: bool = True, pause: Callable[[], None] = never) -> None:
        """Add another one; with `sign=-1` take it away again, but for its levels, which are no sums."""
        for name, number in other.numbers.items():
            self.add(name, sign * number)
        pause()
        for name, histogram in other.observed.items():
            mine = self.histogram(name)
            if buckets:
                mine.merge(histogram, sign=sign)
            else:
                mine.merge_bounded(histogram, sign=sign)
            pause()
        if sign == 1:
            for name, level in other.levels.items():
                self.set(name, level)
