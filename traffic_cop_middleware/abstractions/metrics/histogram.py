"""Durations as two histograms at once: exponential ones for quantiles, and the fixed bounds that Prometheus reads.

Theory of operation. Bucket `i` of scale `s` holds what lies in (base**i, base**(i + 1)] with base = 2**(2**-s), as in
OpenTelemetry's exponential histograms (data model, section "Exponential Histogram"). At scale 5 a bucket's harmonic
middle is at most 1.09 % off from anything in it. Two histograms merge by adding their buckets, and nothing is lost by
that. Two buckets of scale `s` are one of scale `s - 1`: its index is theirs `>> 1`.

The fixed bounds (those of the semantic conventions for `http.server.request.duration`) are counted beside it, for a
bound that falls into a bucket can't be told from the buckets.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import repeat
from math import ceil, fsum, log2
from operator import add

SCALE = 5
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds. Each is the largest that its bucket holds; a last bucket has what is above."""
SMALLEST, LARGEST = 1e-7, 1e7
"""What is less or more counts as this, so that there are never more than 1,500 buckets."""


class Histogram:
    """How often each duration came. `total` is the sum of all; `bins` the exponential buckets by their index.

    `bounded` counts those up to each of `BOUNDS` and above the one before, and at last those above all.
    """

    __slots__ = ("bins", "bounded", "scale", "total")

    def __init__(self, *, scale: int = SCALE) -> None:
        self.scale = scale
        self.total = 0.0
        self.bins: dict[int, int] = {}
        self.bounded = [0] * (len(BOUNDS) + 1)

    @property
    def count(self) -> int:
        return sum(self.bounded)

    def add(self, value: float) -> None:
        """Count a duration (seconds)."""
        value = SMALLEST if value < SMALLEST else min(value, LARGEST)
        index = ceil(log2(value) * (1 << self.scale)) - 1
        bins = self.bins
        bins[index] = bins.get(index, 0) + 1
        self.bounded[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def add_all(self, values: Iterable[float]) -> None:
        """Count many."""
        values = sorted(values)
        if not values:
            return
        if values[0] < SMALLEST or values[-1] > LARGEST:
            values = [min(max(value, SMALLEST), LARGEST) for value in values]
        factor = 1 << self.scale
        bins = self.bins
        for index, count in Counter([ceil(log2(value) * factor) for value in values]).items():
            bins[index - 1] = bins.get(index - 1, 0) + count
        before = 0
        for at, bound in enumerate(BOUNDS):
            upto = bisect_right(values, bound, before)
            self.bounded[at] += upto - before
            before = upto
        self.bounded[-1] += len(values) - before
        self.total += fsum(values)

    def quantile(self, share: float) -> float | None:
        """The value that this share of all is not above, within half a bucket; `None` where there is none."""
        count = self.count
        if not count:
            return None
        rank, seen = max(1, ceil(share * count)), 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if seen >= rank:
                return middle(index, self.scale)
        return None

    def downscale(self, scale: int) -> None:
        """Make the buckets wider; a scale that is not less changes nothing."""
        shift = self.scale - scale
        if shift <= 0:
            return
        wider: dict[int, int] = {}
        for index, count in self.bins.items():
            wider[index >> shift] = wider.get(index >> shift, 0) + count
        self.bins, self.scale = wider, scale

    def merge(self, other: Histogram, *, sign: int = 1) -> None:
        """Add what another one counted; with `sign=-1` take it away again."""
        self.merge_bounded(other, sign=sign)
        shift = 0
        if other.scale != self.scale:
            self.downscale(other.scale)
            shift = other.scale - self.scale
        bins = self.bins
        if not shift and sign == 1:
            counts = map(add, other.bins.values(), map(bins.get, other.bins, repeat(0)))
            bins.update(zip(list(other.bins), counts, strict=True))
        else:
            for index, count in other.bins.items():
                place = index >> shift
                left = bins.get(place, 0) + sign * count
                if left:
                    bins[place] = left
                else:
                    bins.pop(place, None)

    def merge_bounded(self, other: Histogram, *, sign: int = 1) -> None:
        """The same, without the exponential buckets."""
        self.bounded = [a + sign * b for a, b in zip(self.bounded, other.bounded, strict=True)]
        self.total += sign * other.total


def bucket_of(value: float, scale: int) -> int:
    """The index of the bucket that a value is in."""
    return ceil(log2(min(max(value, SMALLEST), LARGEST)) * (1 << scale)) - 1


def middle(index: int, scale: int) -> float:
    """The value whose relative distance to both ends of a bucket is the same."""
    base: float = 2.0 ** (2.0**-scale)
    lower: float = 2.0 ** (index * 2.0**-scale)
    return 2 * lower * base / (1 + base)
