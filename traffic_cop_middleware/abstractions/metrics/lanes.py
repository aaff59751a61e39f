"""Whole numbers side by side in one, so that two rows of them are added by one addition.

Theory of operation. Python adds integers of any length, 30 bits at a time, in C. Numbers that each have a lane of so
many bytes, the first one lowest, add up lane by lane, as long as no sum outgrows its lane. To add the buckets of two
histograms takes less than a microsecond by that, and one by one ten to twenty times as long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil

from traffic_cop_middleware.abstractions.metrics.histogram import SCALE, middle

NUMBER = 8
"""Bytes of a lane for counts and sizes."""
BUCKET = 5
"""Bytes of a lane for a bucket: of a million requests a second it would take twelve days to outgrow it."""


def numbers_in(lanes: int, count: int) -> Sequence[int]:
    """The first `count` numbers, each in a lane of `NUMBER` bytes."""
    data = lanes.to_bytes(count * NUMBER, "little")
    return [int.from_bytes(data[at : at + NUMBER], "little") for at in range(0, len(data), NUMBER)]


def lanes_of(numbers: Sequence[int]) -> int:
    """Numbers, each in a lane of `NUMBER` bytes."""
    return int.from_bytes(b"".join(number.to_bytes(NUMBER, "little") for number in numbers), "little")


class Buckets:
    """The exponential buckets of a histogram of the scale `SCALE`: `lanes` has them from the index `low` on."""

    __slots__ = ("lanes", "low")

    def __init__(self, low: int = 0, lanes: int = 0) -> None:
        self.low = low
        self.lanes = lanes

    @classmethod
    def of(cls, bins: Mapping[int, int]) -> Buckets:
        """Those of a histogram by their index."""
        if not bins:
            return cls()
        low = min(bins)
        data = bytearray((max(bins) - low + 1) * BUCKET)
        for index, count in bins.items():
            at = (index - low) * BUCKET
            if count < 256:
                data[at] = count
            else:
                data[at : at + BUCKET] = count.to_bytes(BUCKET, "little")
        return cls(low, int.from_bytes(data, "little"))

    def add(self, low: int, lanes: int) -> None:
        """Add others, from the index `low` on."""
        if not self.lanes:
            self.low, self.lanes = low, lanes
        elif low == self.low:
            self.lanes += lanes
        elif low > self.low:
            self.lanes += lanes << (low - self.low) * BUCKET * 8
        elif lanes:
            self.lanes = (self.lanes << (self.low - low) * BUCKET * 8) + lanes
            self.low = low

    def packed(self) -> bytes:
        """The lanes, as bytes."""
        return self.lanes.to_bytes(self.size * BUCKET, "little")

    @property
    def size(self) -> int:
        """How many lanes there are."""
        return -(-self.lanes.bit_length() // (BUCKET * 8))

    @property
    def count(self) -> int:
        """How many durations were counted."""
        # What is left over of a number, divided by a base less one, is what its digits come to (casting out nines).
        return self.lanes % ((1 << BUCKET * 8) - 1)

    def quantiles(self, *shares: float) -> Sequence[float | None]:
        """The values that these shares of all, in ascending order, are not above, within half a bucket."""
        data = self.packed()
        upto = [*accumulate(int.from_bytes(data[at : at + BUCKET], "little") for at in range(0, len(data), BUCKET))]
        if not upto:
            return [None for _ in shares]
        found, at = [], 0
        for share in shares:
            rank = max(1, ceil(share * upto[-1]))
            while upto[at] < rank:
                at += 1
            found.append(middle(self.low + at, SCALE))
        return found
