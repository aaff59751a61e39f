"""Workers that count, and a history, under a clock of the test's own."""

from __future__ import annotations

from collections.abc import Sequence

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.metrics.lanes import numbers_in
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.summary import REQUESTS, WIDTHS, summed_up
from traffic_cop_middleware.abstractions.metrics.sums import strict
from traffic_cop_middleware.adapters.memory.metrics import MemoryMetrics
from traffic_cop_middleware.contracts import HistoryStore, MetricsStore, Span
from traffic_cop_middleware.testing import FakeClock

DAY = 86_400
MIDNIGHT = 20_000 * DAY
"""A day begins."""


class SharedMetrics(MemoryMetrics):
    """One store that stands for a shared one."""

    shared = True


class Worker:
    """A worker without an app."""

    def __init__(self, metrics: MetricsStore, history: HistoryStore, clock: FakeClock) -> None:
        self.recorder = Recorder(clock=clock)
        self.analytics = AnalyticsAbstraction(metrics, self.recorder, interval=1.0, history=history)

    def serve(
        self, durations: Sequence[float] = (0.01,), *, path: str = "/a", status: int = 200, user: str = ""
    ) -> None:
        self.recorder.turn()
        series = self.recorder.series((path, "GET", status))
        series.pending.extend((each, each / 2, 1, 2) for each in durations)
        if user:
            for _ in durations:
                self.recorder.running.usage.add("user", user, status, 1, 2)


async def requests_in(history: HistoryStore, span: Span) -> int:
    """How many requests the rows of a span hold."""
    blobs = [past.row.value for past in await history.read([span], kind=REQUESTS)]
    rows = summed_up(blobs, unreadable=strict).rows
    return sum(numbers_in(row, WIDTHS[REQUESTS])[0] for row in rows.values())
