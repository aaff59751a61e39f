"""What one look keeps for the next: the same is found as by one that reads everything, and little is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.history.crew import DAY, MIDNIGHT, SharedMetrics
from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.history.rows import RECORDED, rows_of
from traffic_cop_middleware.abstractions.history.series import Grid, Slot
from traffic_cop_middleware.abstractions.insights import kept
from traffic_cop_middleware.abstractions.insights.values import Insight
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.series import Series
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, summary_of
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.contracts import HistoryBucket, HistoryRow, Past, Span
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio

FIVE, HOUR = 300, 3_600
END = MIDNIGHT + 16 * DAY


def bucket(count: int, *, seconds: float = 0.01, failed: int = 0) -> Sequence[HistoryRow]:
    figures = Figures()
    for status, number in ((200, count), (500, failed)):
        series = figures.requests["/a", "GET", status] = Series()
        series.pending.extend((seconds, seconds / 2, 1, 2) for _ in range(number))
    summary = summary_of(figures)
    summary.add_row((COUNTS, RECORDED), FIVE // 60)
    return rows_of(summary)


class Counting(MemoryHistory):
    """How many rows were read. A question makes none, as if a leader did."""

    durable = True
    rows = 0

    async def read(self, spans: Sequence[Span], *, kind: str | None = None, name: str | None = None) -> Sequence[Past]:
        found = await super().read(spans, kind=kind, name=name)
        self.rows += len(found)
        return found


class Looks:
    def __init__(self) -> None:
        self.clock = FakeClock(END + 20)
        self.history = Counting()
        self.analytics = self.another()

    def another(self) -> AnalyticsAbstraction:
        recorder = Recorder(clock=self.clock)
        return AnalyticsAbstraction(SharedMetrics(clock=self.clock), recorder, interval=1.0, history=self.history)

    async def write(self, start: int, rows: Sequence[HistoryRow]) -> None:
        await self.history.write(HistoryBucket(FIVE, start), rows)

    async def fill(self, *, until: int = END) -> None:
        kinds = [bucket(each) for each in range(40, 60)]
        for start in range(MIDNIGHT, until, FIVE):
            await self.write(start, kinds[start // FIVE * 7 % len(kinds)])

    async def look(self) -> Sequence[Insight]:
        """A look, which finds what one finds that reads all."""
        before = self.history.rows
        found = await self.analytics.insights("1h")
        self.read = self.history.rows - before
        assert found == await self.another().insights("1h")
        self.whole = self.history.rows - before - self.read
        return found

    async def go_on(self, **more: Any) -> Sequence[Insight]:
        await self.write(int(self.clock()) // FIVE * FIVE, bucket(50, **more))
        self.clock.advance(FIVE)
        return await self.look()


async def test_looks_that_follow_find_what_is_new_and_read_a_tenth() -> None:
    looks = Looks()
    await looks.fill()
    assert await looks.look() == []
    assert looks.read == looks.whole
    kinds = []
    for more in ({}, {"seconds": 0.5}, {"seconds": 0.5}, {"failed": 50}, {"failed": 50}, {}):
        kinds.append({each.kind for each in await looks.go_on(**more)})
        assert looks.read < looks.whole / 5
    assert kinds[0] == set()
    assert {"slow", "errors"} <= kinds[-1]


def grid_of(starts: Sequence[int], *, end: int = END) -> Grid:
    grid = Grid(END - DAY, end, FIVE, timed=END - 6 * HOUR)
    grid.add(Past(start, row) for start in starts for row in bucket(10))
    return grid


async def test_kept_is_what_is_whole_old_and_not_due() -> None:
    old, timed, due, young, partial = (END - minutes * 60 for minutes in (720, 300, 240, 30, 180))
    grid = grid_of([old, timed, due, young])
    grid.slots[partial] = Slot(timed=True)
    slots = kept.KeptSlots()
    slots.keep(grid, due={(FIVE, due)})
    next_grid, starts = grid_of([], end=END + FIVE), range(END - DAY, END, FIVE)
    assert set(slots.of(next_grid, starts, due=())) <= {old, timed}
    # A look in 36 reads it again.
    ends = [END + FIVE * look for look in range(kept.LOOKS)]
    given = {end: set(slots.of(grid_of([], end=end), starts, due=())) for end in ends}
    for start in (old, timed):
        assert sum(start not in each for each in given.values()) == 1
    end = next(end for end in ends if given[end] == {old, timed})
    assert set(slots.of(grid_of([], end=end), starts, due={(FIVE, old)})) == {timed}
    # Its durations are not kept where the look did not compare them; who wants them reads it.
    longer = Grid(END - DAY, end, FIVE)
    assert set(slots.of(longer, starts, due=())) == {timed}


async def test_more_than_is_kept_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FIGURES", 100)
    looks = Looks()
    await looks.fill()
    await looks.look()
    await looks.go_on()
    assert looks.whole - 250 < looks.read < looks.whole


async def test_a_longer_look_keeps_nothing_and_finds_the_same() -> None:
    looks = Looks()
    await looks.fill()
    for start in range(END - 4 * HOUR, END - 3 * HOUR, FIVE):
        await looks.write(start, bucket(50, seconds=0.5))
    await looks.look()
    found = await looks.analytics.insights("24h")
    assert [each.kind for each in found] == ["slow"]
    assert found == await looks.another().insights("24h")
    assert await looks.look() == await looks.another().insights("1h")
    assert looks.read < looks.whole / 5
