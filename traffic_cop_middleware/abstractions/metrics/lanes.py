"""Whole numbers side by side in one, so that two rows of them are added by one addition.

Theory of operation. Python adds integers of any length, 30 bits at a time, in C. Numbers that each have a lane of so
many bytes, the first one lowest, add up lane by lane, as long as no sum outgrows its lane. To add the buckets of two
histograms takes less than a microsecond by that, and one by one ten to twenty times as long.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil

from traffic_cop_middleware.abstractions.metrics.histogram import SCALE, middle

NUMBER = 8
"""Bytes of a lane for counts and sizes."""
BUCKET = 5
"""Bytes of a lane for a bucket: of a million requests a second it would take twelve days to outgrow it."""
NARROW = 2
"""Bytes of a lane for a bucket where the counts are known to be small: half the time."""


def numbers_in(lanes: int, count: int) -> Sequence[int]:
    """The first `count` numbers, each in a lane of `NUMBER` bytes."""
    return struct.unpack(f"<{count}Q", lanes.to_bytes(count * NUMBER, "little"))


def lanes_of(numbers: Sequence[int]) -> int:
    """Numbers, each in a lane of `NUMBER` bytes."""
    return int.from_bytes(struct.pack(f"<{len(numbers)}Q", *numbers), "little")


def relaned(data: bytes, width: int, to: int) -> bytes:
    """Lanes of `width` bytes as lanes of `to` bytes; what is above that is left out."""
    if width == to:
        return data
    found = bytearray(len(data) // width * to)
    for place in range(min(width, to)):
        found[place::to] = data[place::width]
    return bytes(found)


class Buckets:
    """The exponential buckets of a histogram of the scale `SCALE`: `lanes` of `width` bytes from the index `low` on."""

    __slots__ = ("lanes", "low", "width")

    def __init__(self, low: int = 0, lanes: int = 0, *, width: int = BUCKET) -> None:
        self.low = low
        self.lanes = lanes
        self.width = width

    @classmethod
    def of(cls, bins: Mapping[int, int]) -> Buckets:
        """Those of a histogram by their index."""
        if not bins:
            return cls()
        low = min(bins)
        counts = [0] * (max(bins) - low + 1)
        for index, count in bins.items():
            counts[index - low] = count
        data = struct.pack(f"<{len(counts)}Q", *counts)
        return cls(low, int.from_bytes(relaned(data, NUMBER, BUCKET), "little"))

    def add(self, low: int, lanes: int) -> None:
        """Add others of the same width, from the index `low` on."""
        if low == self.low or not self.lanes:
            self.low = low
            self.lanes += lanes
        elif low > self.low:
            self.lanes += lanes << (low - self.low) * self.width * 8
        elif lanes:
            self.lanes = (self.lanes << (self.low - low) * self.width * 8) + lanes
            self.low = low

    def packed(self) -> bytes:
        """The lanes, as bytes."""
        return self.lanes.to_bytes(-(-self.lanes.bit_length() // (self.width * 8)) * self.width, "little")

    def widened(self) -> Buckets:
        """The same in lanes that any number of them is added up in."""
        if self.width == BUCKET:
            return self
        return Buckets(self.low, int.from_bytes(relaned(self.packed(), self.width, BUCKET), "little"))

    @property
    def count(self) -> int:
        """How many durations were counted."""
        # What is left over of a number, divided by a base less one, is what its digits come to (casting out nines).
        return self.lanes % ((1 << self.width * 8) - 1)

    def bins(self) -> Mapping[int, int]:
        """How many there are by index, without the empty buckets."""
        data = relaned(self.packed(), self.width, NUMBER)
        counts = struct.unpack(f"<{len(data) // NUMBER}Q", data)
        return {self.low + at: count for at, count in enumerate(counts) if count}

    def quantiles(self, *shares: float) -> Sequence[float | None]:
        """The values that these shares of all are not above, within half a bucket."""
        small = self.count < 1 << 8 * NARROW  # then no bucket has more: half the time
        width, code = (NARROW, "H") if small else (NUMBER, "Q")
        data = relaned(self.packed(), self.width, width)
        upto = [*accumulate(struct.unpack(f"<{len(data) // width}{code}", data))]
        if not upto:
            return [None for _ in shares]
        return [middle(self.low + bisect_left(upto, max(1, ceil(share * upto[-1]))), SCALE) for share in shares]
