"""What the history answers: from an app with real requests, and against what was really served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import started
from tests.asgi import http_scope, send_through
from tests.history.crew import DAY, MIDNIGHT, SharedMetrics, Worker
from traffic_cop_middleware import Range, TrafficCop
from traffic_cop_middleware.abstractions.metrics.blobs import parts_of
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.contracts import Event, Span
from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.testing import FakeClock

pytestmark = pytest.mark.asyncio


async def answer(request: Request) -> Response:
    return PlainTextResponse("ok", status_code=int(request.query_params.get("status", 200)))


def app_of(cop: TrafficCop) -> Any:
    return cop.wrap(Starlette(routes=[Route("/a/{x}", answer), Route("/b", answer)]))


async def test_an_app_tells_of_its_past(tmp_path: Path) -> None:
    clock = FakeClock(MIDNIGHT - 600)
    settings: Mapping[str, Any] = {"documents": f"sqlite:///{tmp_path}/state.db", "metrics": True}
    cop = TrafficCop(MemoryBackend(clock=clock), **settings)
    app = app_of(cop)
    async with started(app):
        for turn in range(40):
            await send_through(app, http_scope(f"/a/{turn}"))
            if turn % 4 == 0:
                await send_through(app, http_scope("/b", query_string=b"status=500"))
            clock.advance(30)
            await cop.analytics.traffic("1h")  # in the background it is once a minute
        history = await cop.analytics.traffic(Range(MIDNIGHT - 600, MIDNIGHT + 600), by="route", step="5m")
    assert {route: each.requests for route, each in history.groups.items()} == {"/a/{x}": 38, "/b": 10}
    assert history.groups["/b"].errors == history.total.errors == 10
    assert (history.start, history.end) == (MIDNIGHT - 600, MIDNIGHT + 540)
    assert [point.start - MIDNIGHT for point in history.points] == [-600, -300, 0, 300]
    assert sum(point.total.requests for point in history.points) == 48
    assert history.points[0].total.rate == history.points[0].total.requests / 300
    # and after a restart, with what came before the stop
    cop = TrafficCop(MemoryBackend(clock=clock), **settings)
    app = app_of(cop)
    clock.advance(DAY)
    async with started(app):
        statuses = await cop.analytics.traffic("2d", by="status")
        assert {status: each.requests for status, each in statuses.groups.items()} == {"200": 40, "500": 10}
        assert (await cop.analytics.traffic("2d", by="status", route="/b")).groups.keys() == {"500"}
        (first, second) = await cop.analytics.top(2, range="2d", by="route", order="errors") + [None]
        assert (first and first.name, first and first.share, second) == ("/b", 1.0, None)


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    """A worker that has served for an hour."""
    clock = FakeClock(MIDNIGHT)
    worker = Worker(SharedMetrics(clock=clock), MemoryHistory(), clock)
    for minute in range(60):
        worker.serve([0.01] * 6, path="/a", user="ada")
        worker.serve([0.2 if minute < 30 else 0.8] * 2, path="/b", user="bob", status=500 if minute >= 50 else 200)
        worker.recorder.running.usage.add("tenant", "acme", 429, 1, 1)
        for upstream, status in (("one", 200), ("one", 503), ("two", 200)):
            told = {"route": "billing", "upstream": upstream, "status": status, "seconds": 0.05}
            worker.recorder.hear(Event("route.forwarded", 0.0, told))
        lost = {"route": "billing", "upstream": "two", "error": "ConnectionRefused"}
        worker.recorder.hear(Event("upstream.failed", 0.0, lost))
        clock.advance(60)
        await worker.analytics.flush()
        await worker.analytics.keeper.take(token=1)
    clock.advance(60)
    await worker.analytics.keeper.take(token=1)
    yield worker


async def test_traffic_by_whom(worker: Worker) -> None:
    users = await worker.analytics.traffic("2h", by="user")
    assert {name: (each.requests, each.errors) for name, each in users.groups.items()} == {
        "ada": (360, 0),
        "bob": (120, 20),
    }
    assert users.total.requests == 480
    tenants = await worker.analytics.traffic("2h", by="tenant")
    assert {name: each.refused for name, each in tenants.groups.items()} == {"acme": 60}


async def test_traffic_by_upstream(worker: Worker) -> None:
    found = await worker.analytics.traffic("2h", by="upstream")
    told = {name: (each.requests, each.errors, each.exceptions) for name, each in found.groups.items()}
    assert told == {"one": (120, 60, 0), "two": (60, 0, 60)}
    assert found.total.requests == 180
    assert found.groups["one"].p95 == pytest.approx(0.05, rel=0.011)
    assert found == await worker.analytics.traffic("2h", by="upstream", route="billing")
    assert (await worker.analytics.traffic("2h", by="upstream", route="nowhere")).total.requests == 0


async def test_percentiles_are_of_a_route_and_a_method(worker: Worker) -> None:
    slow = await worker.analytics.percentiles("2h", route="/b")
    assert slow.requests == sum(slow.buckets.values()) == 120
    assert slow.p50 == pytest.approx(0.2, rel=0.011)
    assert slow.p99 == pytest.approx(0.8, rel=0.011)
    assert slow.first_byte_p95 == pytest.approx(0.4, rel=0.011)
    assert (await worker.analytics.percentiles("2h", method="POST")).p50 is None
    assert (await worker.analytics.percentiles("2h")).requests == 480


async def test_the_first_ones(worker: Worker) -> None:
    ranked = await worker.analytics.top(1, range="2h", by="user")
    assert [(each.name, each.share) for each in ranked] == [("ada", 0.75)]
    slowest = await worker.analytics.top(range="2h", order="p95")
    assert [(each.name, each.share) for each in slowest] == [("/b", None), ("/a", None)]
    for wrong in ({"n": 0}, {"n": True}, {"order": "speed"}):
        with pytest.raises(ConfigurationError):
            await worker.analytics.top(**wrong)  # type: ignore[arg-type]


async def test_two_stretches_are_compared(worker: Worker) -> None:
    half = MIDNIGHT + 1_800
    by_itself = await worker.analytics.compare(Range(half, MIDNIGHT + 3_600))
    changed = await worker.analytics.compare(Range(half, MIDNIGHT + 3_600), Range(MIDNIGHT, half))
    assert by_itself == changed
    assert (changed.before.end, changed.after.start) == (half, half)
    routes = {change.name: change for change in changed.changes}
    assert routes["/b"].p95_ratio == pytest.approx(4, rel=0.022)
    assert routes["/b"].error_share == pytest.approx(1 / 3)
    assert (routes["/a"].rate_ratio, changed.total.rate_ratio) == (1, 1)
    new = await worker.analytics.compare(Range(MIDNIGHT, half))
    assert new.changes[0].name == "/a"
    assert (new.changes[0].before.requests, new.changes[0].rate_ratio) == (0, None)


async def test_what_can_not_be_asked_is_refused(worker: Worker) -> None:
    for wrong in ({"by": "colour"}, {"by": "user", "route": "/a"}, {"range": "3d", "step": "1m"}, {"step": "7m"}):
        with pytest.raises(ConfigurationError):
            await worker.analytics.traffic(**wrong)  # type: ignore[arg-type]
    nothing = await worker.analytics.traffic(Range(MIDNIGHT + DAY, MIDNIGHT + 2 * DAY))
    assert (nothing.total.requests, nothing.groups) == (0, {})


async def test_users_beyond_the_most_are_one_and_the_largest_are_kept() -> None:
    clock = FakeClock(MIDNIGHT)
    worker = Worker(SharedMetrics(clock=clock), MemoryHistory(), clock)
    for minute in range(3):
        for number in range(1_500):
            worker.recorder.running.usage.add("user", f"{minute}-{number}", 200, 1, 1)
        for _ in range(5):
            worker.recorder.running.usage.add("user", "whale", 200, 1, 1)
        clock.advance(60)
        await worker.analytics.flush()
    clock.advance(300)
    await worker.analytics.keeper.take(token=1)
    found = await worker.analytics.traffic(Range(MIDNIGHT, MIDNIGHT + 300), by="user")
    assert found.total.requests == 4_515
    assert len(found.groups) == 2_001
    assert found.groups["whale"].requests == 15
    assert found.groups["__other__"].requests == 4_515 - 15 - 1_999


DURATIONS = st.lists(st.floats(1e-4, 100), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(st.integers(0, 59), DURATIONS), min_size=1, max_size=15), st.integers(0, 59), st.integers(1, 60)
)
async def test_quantiles_of_any_range_are_within_a_hundredth(
    served: Sequence[tuple[int, Sequence[float]]], first: int, length: int
) -> None:
    clock = FakeClock(MIDNIGHT)
    metrics, history = SharedMetrics(clock=clock), MemoryHistory()
    crew = [Worker(metrics, history, clock) for _ in range(2)]
    by_minute: dict[int, list[Sequence[float]]] = {}
    for minute, durations in served:
        by_minute.setdefault(minute, []).append(durations)
    for minute in range(60):
        for at, durations in enumerate(by_minute.get(minute, ())):
            crew[at % 2].serve(durations)
        clock.advance(60)
        for worker in crew:
            if minute in by_minute:
                await worker.analytics.flush()
        if minute % 7 == 0 or minute == 59:
            clock.advance(0 if minute < 59 else 60)
            await crew[0].analytics.keeper.take(token=1)
    found = await crew[1].analytics.percentiles(Range(MIDNIGHT + first * 60, MIDNIGHT + (first + length) * 60))
    exact = sorted(each for minute, them in served if first <= minute < first + length for each in them)
    assert found.requests == len(exact)
    for share, got in ((0.5, found.p50), (0.75, found.p75), (0.9, found.p90), (0.99, found.p99), (0.999, found.p999)):
        expected = exact[max(1, ceil(share * len(exact))) - 1] if exact else None
        assert got == (None if expected is None else pytest.approx(expected, rel=0.011))


async def test_a_question_while_buckets_are_rolled_up_counts_nothing_twice() -> None:
    clock = FakeClock(MIDNIGHT)
    worker = Worker(SharedMetrics(clock=clock), MemoryHistory(), clock)
    for _ in range(4):
        worker.serve([0.01])
        clock.advance(60)
        await worker.analytics.flush()
    clock.advance(30)
    await worker.analytics.keeper.take(token=1)
    clock.advance(300)
    asking = [worker.analytics.traffic(Range(MIDNIGHT, MIDNIGHT + 300)) for _ in range(3)]
    *found, _ = await asyncio.gather(*asking, worker.analytics.keeper.take(token=1))
    assert [each.total.requests for each in found] == [4, 4, 4]
    assert (await worker.analytics.traffic(Range(MIDNIGHT, MIDNIGHT + 300))).total.requests == 4


async def test_a_histogram_of_the_history_has_the_bounds_of_its_buckets(worker: Worker) -> None:
    histogram = Histogram()
    histogram.add(0.01)
    (index,) = histogram.bins
    found = await worker.analytics.percentiles("2h", route="/a")
    assert found.buckets == {2 ** ((index + 1) / 32): 360}


async def of_a_year(clock: FakeClock) -> Worker:
    """A worker that served ada, of acme, a year and a half ago, and eve today."""
    worker = Worker(SharedMetrics(clock=clock), MemoryHistory(), clock)
    for user, days in (("ada", 0), ("eve", 550)):
        clock.advance(MIDNIGHT + days * DAY - clock())
        worker.serve([0.01] * 3, user=user)
        worker.recorder.running.usage.add("tenant", "acme", 200, 1, 2)
        worker.recorder.running.usage.add("api_key", f"key of {user}", 200, 1, 2)
        clock.advance(60)
        await worker.analytics.flush()
        clock.advance(20)
        assert await worker.analytics.keeper.take(token=1)
        clock.advance(DAY)
        assert await worker.analytics.keeper.take(token=1)
    return worker


async def test_days_forget_users_and_keys_when_hours_do() -> None:
    clock = FakeClock(MIDNIGHT)
    worker = await of_a_year(clock)
    for by, names, complete in (
        ("user", {"eve"}, False),
        ("api_key", {"key of eve"}, False),
        ("tenant", {"acme"}, True),
        ("route", {"/a"}, True),
    ):
        found = await worker.analytics.traffic(Range(MIDNIGHT), by=by, step="1d")  # type: ignore[arg-type]
        assert (found.groups.keys(), found.complete) == (names, complete)
        assert found.points[0].start == (MIDNIGHT if complete else MIDNIGHT + (551 - 395) * DAY)
    assert (await worker.analytics.traffic("600d")).total.requests == 6
    assert (await worker.analytics.traffic("100d", by="user")).complete
    assert not (await worker.analytics.traffic(Range(MIDNIGHT, MIDNIGHT + DAY), by="user")).complete
    old = await worker.analytics._history.read([Span(DAY, MIDNIGHT, MIDNIGHT + DAY)])
    assert b"ada" not in b"".join(parts_of(past.row.value, b"4", 5)[0] for past in old)
    assert {past.row.name for past in old} == {"/a", "tenant", "recorded"}


async def test_steps_that_are_kept_no_longer_are_no_zeros() -> None:
    clock = FakeClock(MIDNIGHT)
    worker = await of_a_year(clock)
    with pytest.raises(ConfigurationError, match="step=60 s"):
        await worker.analytics.traffic(Range(MIDNIGHT, MIDNIGHT + 600), step="1m")
    today = MIDNIGHT + 550 * DAY
    clock.advance(today + 50 * 3_600 - clock())
    cut = await worker.analytics.traffic(Range(today, today + 49 * 3_600), step="1m")
    assert (cut.complete, cut.start, cut.total.requests, cut.first) == (False, today + 2 * 3_600, 0, None)
    two_days = await worker.analytics.traffic("48h", step="1m")
    assert two_days.complete
    assert two_days.end - two_days.start <= 48 * 3_600
    whole = await worker.analytics.traffic(Range(today, today + 49 * 3_600), step="5m")
    assert (whole.complete, whole.total.requests, whole.first) == (True, 3, today)


async def test_a_route_with_a_name_that_is_too_long_can_be_asked_for() -> None:
    clock = FakeClock(MIDNIGHT)
    worker = Worker(SharedMetrics(clock=clock), MemoryHistory(), clock)
    worker.serve([0.01] * 3, path="/" + "x" * 2_000)
    worker.serve([0.01] * 2, path="/")
    clock.advance(60)
    await worker.analytics.flush()
    clock.advance(20)
    assert await worker.analytics.keeper.take(token=1)
    assert (await worker.analytics.percentiles("1h", route="/" + "x" * 2_000)).requests == 3
    assert (await worker.analytics.traffic("1h", by="status", route="/" + "x" * 2_000)).total.requests == 3
