"""What is counted of the requests to one route with one method and one status."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram

Key = tuple[str, str, int]
"""Route template, method, status."""

UNMATCHED = "__unmatched__"
OVERFLOW = "__overflow__"
OTHER_METHOD = "_OTHER"
MOST_PENDING = 256
"""Requests of a series that are added up at once."""
DISCONNECTED = 499
"""The status of a request whose client left before the response had ended (as nginx logs it)."""


class Exemplar(NamedTuple):
    """A slow request: how long it took (seconds), its trace id, and when it ended (seconds since the epoch)."""

    seconds: float
    trace: str
    time: float


class Series:
    """Requests of one key.

    `duration` and `first_byte` are in seconds, `bytes_in` and `bytes_out` those of the bodies as they passed here.
    `slow` has for each of the `BOUNDS` (and for what is above) the slowest request of late. `elsewhere` are the
    durations among `duration` that the app's framework reports by itself; it stays in this process.
    """

    __slots__ = (
        *("bytes_in", "bytes_out", "disconnects", "duration", "elsewhere", "exceptions", "first_byte", "pending"),
        *("slow", "slowest"),
    )

    def __init__(self) -> None:
        self.pending: list[tuple[float, float, int, int]] = []
        """Requests that are not in the sums yet: duration, first byte (0: none), bytes in, bytes out."""
        self.duration = Histogram()
        self.first_byte = Histogram()
        self.elsewhere: Histogram | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.exceptions = 0
        self.disconnects = 0
        self.slow: dict[int, Exemplar] = {}
        self.slowest = 0.0

    @property
    def count(self) -> int:
        return self.duration.count + len(self.pending)

    def settle(self) -> None:
        """Add up what is pending: many at once take a third of the time."""
        pending = self.pending
        if pending:
            self.pending = []
            seconds, first_byte, bytes_in, bytes_out = zip(*pending, strict=True)
            self.duration.add_all(seconds)
            self.first_byte.add_all([each for each in first_byte if each])
            self.bytes_in += sum(bytes_in)
            self.bytes_out += sum(bytes_out)

    def count_elsewhere(self, seconds: float) -> None:
        """Note that a request of this series is reported by the framework as well."""
        if self.elsewhere is None:
            self.elsewhere = Histogram()
        self.elsewhere.add(seconds)

    def note(self, exemplar: Exemplar) -> None:
        """Remember a slow request."""
        self.slowest = max(self.slowest, exemplar.seconds)
        self.slow[bisect_left(BOUNDS, exemplar.seconds)] = exemplar

    def merge(self, other: Series, *, sign: int = 1, buckets: bool = True) -> None:
        """Add what another one counted; with `sign=-1` take it away again. Without `buckets` no exponential ones."""
        self.settle()
        other.settle()
        for mine, theirs in ((self.duration, other.duration), (self.first_byte, other.first_byte)):
            if buckets:
                mine.merge(theirs, sign=sign)
            else:
                mine.merge_bounded(theirs, sign=sign)
        self.bytes_in += sign * other.bytes_in
        self.bytes_out += sign * other.bytes_out
        self.exceptions += sign * other.exceptions
        self.disconnects += sign * other.disconnects
        if buckets and other.elsewhere is not None:
            self.elsewhere = self.elsewhere or Histogram()
            self.elsewhere.merge(other.elsewhere, sign=sign)
        if sign == 1:
            for exemplar in other.slow.copy().values():
                self.keep(exemplar)

    def keep(self, exemplar: Exemplar) -> None:
        """Remember it, unless a newer one of its bound is known."""
        place = bisect_left(BOUNDS, exemplar.seconds)
        known = self.slow.get(place)
        if known is None or known.time < exemplar.time:
            self.note(exemplar)
