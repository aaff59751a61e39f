"""Figures on their way to a telemetry system: families of points, as one worker has them at a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

Kind = Literal["counter", "level", "histogram"]
"""What only grows; what is at this moment, and adds up over workers; how often each duration came."""


class Distribution(Protocol):
    """How often each duration (seconds) came. `total` is the sum of all of them.

    `bins` has exponential buckets by index: `i` holds what lies in (base**i, base**(i + 1)], base = 2**(2**-scale).
    `bounded` counts those up to each of a family's bounds and above the one before, and at last those above all.
    """

    scale: int
    total: float
    bins: dict[int, int]
    bounded: list[int]

    @property
    def count(self) -> int: ...


class Example(NamedTuple):
    """One of the requests in a histogram: how long it took (seconds), its trace id in hex, when (since the epoch)."""

    seconds: float
    trace: str
    time: float


class Point(NamedTuple):
    """What a family says of one set of attributes. `examples` are there for histograms only."""

    attributes: Mapping[str, str | int]
    value: int | float | Distribution
    examples: Sequence[Example] = ()


class Reading(NamedTuple):
    """A family at the moment `time`, counted since `start` (both in seconds since the epoch).

    `delta` says that `start` moves on with each reading; else it stays, and the values are sums since then. `unit` is
    UCUM's. `bounds` are those of the histograms.
    """

    name: str
    unit: str
    help: str
    kind: Kind
    delta: bool
    start: float
    time: float
    points: Sequence[Point]
    bounds: Sequence[float] = ()


class TelemetryExporter(Protocol):
    """Brings readings out of this process. Called by one thread at a time, and not by one with an event loop."""

    @property
    def deltas(self) -> frozenset[Kind]:
        """The kinds that it wants as differences and not as sums."""
        ...

    def begin(self, *, several: bool) -> None:
        """Get ready, in the process that exports, one of `several` or the only one. May look around for a while."""
        ...

    def export(self, readings: Sequence[Reading], *, timeout: float) -> None:
        """Send them, within about `timeout` seconds.

        Raises:
            ExportFailed: they were not sent, or nobody knows whether they were.
        """
        ...
