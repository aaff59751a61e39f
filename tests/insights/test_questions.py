"""What the history is asked for insights: what is known of it, quotas, upstreams, and what can't be asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.history.crew import DAY, MIDNIGHT, SharedMetrics, Worker
from traffic_cop_middleware import Insight, Range
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.contracts import Span
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio

HOUR = 3_600


class Minutes:
    """A worker that leads, minute by minute."""

    def __init__(self) -> None:
        self.clock = FakeClock(MIDNIGHT)
        self.history = MemoryHistory()
        self.worker = Worker(SharedMetrics(clock=self.clock), self.history, self.clock)
        self.analytics = self.worker.analytics

    async def pass_by(self, minutes: int, *, each: int = 4, recorded: bool = True, **more: Any) -> None:
        for _ in range(minutes):
            self.clock.advance(20)
            if recorded:
                if each:
                    self.worker.serve([0.01] * each, **more)
                    await self.analytics.flush()
                await self.analytics.keeper.take(token=None)
            self.clock.advance(40)

    async def kinds(self, range: Any = "1h", **more: Any) -> list[str]:
        return [each.kind for each in await self.analytics.insights(range, **more)]


async def test_when_nobody_asks_it_is_a_drop_and_when_nobody_records_it_is_not() -> None:
    for recorded, kinds in ((True, ["drop"]), (False, [])):
        minutes = Minutes()
        await minutes.pass_by(6 * 60)
        await minutes.pass_by(30, each=0, recorded=recorded)
        await minutes.pass_by(2, each=0)
        assert await minutes.kinds() == kinds
    minutes = Minutes()
    await minutes.pass_by(6 * 60)
    await minutes.pass_by(30, each=0)
    await minutes.pass_by(2, each=0)
    [drop] = await minutes.analytics.insights("1h")
    assert drop.labels == {"method": "GET", "route": "/a"}
    assert drop.severity == "critical"
    assert drop.start == MIDNIGHT + 6 * HOUR


async def test_a_leader_that_follows_knows_of_the_minutes_in_which_it_has_passed() -> None:
    minutes = Minutes()
    await minutes.pass_by(10, each=0)
    minutes.worker = Worker(SharedMetrics(clock=minutes.clock), minutes.history, minutes.clock)
    minutes.analytics = minutes.worker.analytics
    await minutes.pass_by(30, each=0, recorded=False)  # between the two nobody was there
    await minutes.pass_by(10, each=0)
    await minutes.pass_by(1, each=1)
    marks = await minutes.history.read([Span(60, MIDNIGHT, MIDNIGHT + DAY)], kind="counts", name="recorded")
    assert [(past.start - MIDNIGHT) // 60 for past in marks] == [*range(9), *range(40, 50)]


async def test_a_pass_over_empty_minutes_is_repeated_without_a_write() -> None:
    minutes = Minutes()
    await minutes.pass_by(5, each=0)
    due = await minutes.history.due()
    await minutes.analytics.keeper.take(token=None)
    assert await minutes.history.due() == due


async def test_a_tenant_that_is_about_to_use_up_its_quota_is_told_of() -> None:
    minutes = Minutes()
    await minutes.pass_by(12 * 60, each=5, user="ada")
    await minutes.pass_by(1, each=1, user="bob")

    async def told(quotas: Any) -> list[Insight]:
        found = await minutes.analytics.insights("15m", quotas=quotas)
        return [each for each in found if each.kind == "quota"]

    [ada] = await told({"user": "5000/day"})
    assert ada.labels == {"user": "ada"}
    assert ada.severity == "warning"
    assert ada.sentence.startswith("user ada exhausts 5k/day at about 16:")
    [used_up] = await told({"user": {"ada": "2000/day", "bob": "2000/day", "carl": "10/day"}})
    assert used_up.severity == "critical"
    assert await told({"user": {"ada": "50000/day"}}) == []
    assert await told({"tenant": "10/day"}) == []


async def test_an_upstream_is_told_of_by_its_peers_and_by_weights_only_where_they_are_given() -> None:
    minutes = Minutes()
    for _ in range(10):
        minutes.clock.advance(20)
        minutes.worker.recorder.turn()
        for upstream, number, status in (("a", 40, "200"), ("b", 40, "503"), ("c", 4, "200")):
            timing = minutes.worker.recorder.running.timing((families.UPSTREAM, "/billing/*", upstream, status))
            timing.add_all([0.01] * number)
        await minutes.analytics.flush()
        minutes.clock.advance(40)
        await minutes.analytics.keeper.take(token=None)
    await minutes.pass_by(2)
    assert await minutes.kinds() == ["failing_upstream"]
    assert await minutes.kinds(weights={}) == ["failing_upstream", "uneven"]


async def test_what_moved_is_compared_with_the_day_before() -> None:
    minutes = Minutes()
    await minutes.pass_by(120)
    minutes.clock.advance(DAY - 2 * HOUR)
    await minutes.pass_by(60, each=10)
    await minutes.pass_by(1)
    [mover] = [each for each in await minutes.analytics.insights("1h") if each.kind == "mover"]
    assert mover.sentence == "GET /a 4 -> 10 requests a minute (+150 %), 100 % of all change"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"range": "8d"}, "7 days at the most"),
        ({"range": "yesterday"}, "no stretch of the past"),
        ({"routes": 0}, "from 1 to 500"),
        ({"routes": True}, "from 1 to 500"),
        ({"quotas": "10/day"}, "by kind"),
        ({"quotas": {"route": "10/day"}}, "'user', 'tenant'"),
        ({"quotas": {"user": "many"}}, "is not a rate"),
        ({"quotas": {"user": "10/minute"}}, "from an hour to a week"),
        ({"quotas": {"user": {"ada": 10}}}, "written as a string"),
    ],
)
async def test_what_can_not_be_asked_is_said(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await Minutes().analytics.insights(**more)


async def test_nothing_is_said_of_nothing() -> None:
    minutes = Minutes()
    assert await minutes.kinds() == []
    old = Range(MIDNIGHT - 90 * DAY, MIDNIGHT - 89 * DAY)
    assert await minutes.kinds(old) == []
    patterns = await minutes.analytics.patterns()
    assert set(patterns.week) == {None}
    assert (patterns.busiest, patterns.load, patterns.slow_hours) == ((), (), ())
    with pytest.raises(ConfigurationError, match="whole number from 1"):
        await minutes.analytics.patterns(most=0)


async def test_an_outage_of_the_documents_is_told() -> None:
    minutes = Minutes()
    await minutes.pass_by(10)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    minutes.history.read = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await minutes.analytics.insights()
