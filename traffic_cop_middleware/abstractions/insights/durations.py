"""How long the requests of a bucket took, as the history has it: unpacked no further than it is read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from operator import mul

from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, SCALE, Histogram, middle
from traffic_cop_middleware.abstractions.metrics.lanes import Buckets


class Durations(Buckets):
    """Durations of which a detector mostly reads one quantile.

    A histogram of each bucket of a week took a quarter of a second, and 5 KB each. What was read is remembered, for the
    next look reads it again.
    """

    __slots__ = ("_count", "_share", "_value")

    def __init__(self, buckets: Buckets) -> None:
        super().__init__(buckets.low, buckets.lanes, width=buckets.width)
        self._count = super().count
        self._share = -1.0
        self._value: float | None = None

    @property
    def count(self) -> int:
        """How many there are; nothing is added any more."""
        return self._count

    def quantile(self, share: float) -> float | None:
        """As that of a histogram."""
        if self._share != share:
            (self._value,) = self.quantiles(share)
            self._share = share
        return self._value


def added(every: Iterable[Durations]) -> Buckets:
    """All of them together."""
    whole = Buckets()
    for each in every:
        wide = each.widened()
        whole.add(wide.low, wide.lanes)
    return whole


def histogram_of(buckets: Buckets) -> Histogram:
    """Durations as a histogram; their sum is that of the buckets' middles, so within 1.1 %."""
    found = Histogram(scale=SCALE)
    found.bins = dict(buckets.bins())
    found.total = sum(map(mul, map(_middle, found.bins), found.bins.values()))
    found.bounded = [0] * len(BOUNDS) + [sum(found.bins.values())]
    return found


@cache
def _middle(index: int) -> float:
    """There are 1,500 at the most."""
    return middle(index, SCALE)
