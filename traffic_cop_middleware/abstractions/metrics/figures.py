"""All that was counted in one stretch of time, by one worker or by several together."""

from __future__ import annotations

from collections.abc import Callable

from traffic_cop_middleware.abstractions.metrics.business import Business
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, Key, Series
from traffic_cop_middleware.abstractions.metrics.usage import Usage

MOST_NAMES = 2_000
"""How many counters, and how many timings, are told apart; the rest of a family is one."""
Name = tuple[str, ...]
"""A family's name and the values of its labels (`families.py`)."""


class Figures:
    """`requests` and `streams` by route, method and status; `counts` and `timings` by family and labels; `usage`.

    `business` is what the app counts of its own.

    `gauges` are what is under way at this moment; they are not part of a sum over time.
    """

    __slots__ = ("business", "counts", "gauges", "requests", "streams", "timings", "usage")

    def __init__(self) -> None:
        self.requests: dict[Key, Series] = {}
        self.streams: dict[Key, Series] = {}
        self.counts: dict[Name, int] = {}
        self.timings: dict[Name, Histogram] = {}
        self.gauges: dict[Name, int] = {}
        self.usage = Usage()
        self.business = Business()

    def count(self, name: Name, number: int = 1) -> None:
        """Add to a counter."""
        counts = self.counts
        if name not in counts and len(counts) >= MOST_NAMES:
            name = (name[0], *(OVERFLOW for _ in name[1:]))
        counts[name] = counts.get(name, 0) + number

    def timing(self, name: Name) -> Histogram:
        """The histogram of a family and labels."""
        timings = self.timings
        found = timings.get(name)
        if found is None:
            if len(timings) >= MOST_NAMES:
                name = (name[0], *(OVERFLOW for _ in name[1:]))
            found = timings[name] = timings.get(name) or Histogram()
        return found

    def merge(self, other: Figures, *, sign: int = 1, buckets: bool = True, pause: Callable[[], None] = never) -> None:
        """Add what is in another one, but for its usage; with `sign=-1` take it away again.

        Without `buckets` no exponential ones, nor what others tell of as well: as sums have none.
        """
        for mine, theirs in ((self.requests, other.requests), (self.streams, other.streams)):
            for key, series in theirs.copy().items():  # a late request of another loop may come in
                known = mine.get(key)
                if known is None:
                    known = mine[key] = Series()
                known.merge(series, sign=sign, buckets=buckets)
                pause()
        for name, number in other.counts.items():
            self.count(name, sign * number)
        for name, timed in other.timings.items():
            known_timed = self.timing(name)
            if buckets:
                known_timed.merge(timed, sign=sign)
            else:
                known_timed.merge_bounded(timed, sign=sign)
        self.business.merge(other.business, sign=sign, buckets=buckets, pause=pause)
