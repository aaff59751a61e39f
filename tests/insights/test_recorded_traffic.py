"""The bar, end to end: traffic of the example shop through the real stack and history, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.adapters.load import started
from tests.insights.recorded import DAY, HOUR, MONDAY
from tests.insights.simulated import Simulated
from traffic_cop_middleware import Insight, TrafficCop
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio

BEGIN = MONDAY + 2 * DAY + 8 * HOUR
SLOW_FROM, FAILS_FROM, END = BEGIN + 5 * HOUR + 300, BEGIN + 5 * HOUR + 900, BEGIN + 6 * HOUR
"""Since 13:05 searches are slow, since 13:15 orders fail."""
BUCKET = 300


def told(insights: Sequence[Insight], kind: str) -> list[tuple[str, str]]:
    return [(each.labels["method"], each.labels["route"]) for each in insights if each.kind == kind]


async def test_an_injected_slow_route_and_an_error_burst_are_named_with_route_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(BEGIN)
    cop = TrafficCop(MemoryBackend(clock=clock), documents=f"sqlite:///{tmp_path}/state.db", metrics=True)
    traffic = Simulated(cop, clock, monkeypatch)
    traffic.slow = lambda name, at: 0.12 if name == "GET /search" and at >= SLOW_FROM else 0.0
    traffic.fails = lambda name, at: 0.4 if name == "POST /orders" and at >= FAILS_FROM else 0.001
    async with started(traffic.app):
        calm: list[Sequence[Insight]] = []
        while clock() < END + 60:
            await traffic.minute()
            if clock() % 600 == 60:  # what is far in the windows is taken, as the leader takes it each minute
                await cop.analytics.traffic("5m")
            if clock() in (SLOW_FROM - 2 * HOUR + 60, SLOW_FROM - HOUR + 60):
                calm.append(await cop.analytics.insights("1h"))
        insights = await cop.analytics.insights("1h")
        patterns = await cop.analytics.patterns("1d")
    assert calm == [[], []]
    assert told(insights, "slow") == [("GET", "/search")]
    assert told(insights, "errors") == [("POST", "/orders")]
    by_kind = {each.kind: each for each in insights}
    slow, errors = by_kind["slow"], by_kind["errors"]
    assert abs(slow.start - SLOW_FROM) <= BUCKET
    assert abs(errors.start - FAILS_FROM) <= BUCKET
    assert slow.sentence.startswith("GET /search p95 ")
    assert " ms since 13:0" in slow.sentence
    assert errors.sentence.startswith("POST /orders fails for ")
    assert " since 13:1" in errors.sentence
    assert {each.kind for each in insights} == {"slow", "errors"}
    assert [insights[0].severity, insights[1].severity] == ["critical", "critical"]
    known = [at for at, rate in enumerate(patterns.week) if rate is not None]
    assert known == [2 * 24 + hour for hour in range(8, 14)]  # Wednesday from 8 to 14
    assert patterns.busiest[0].weekday == 2
    assert patterns.load
