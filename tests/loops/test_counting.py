"""Counting on several event loops at once: what one loop counts while another one puts the figures aside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.asgi import http_scope, send_through, status
from tests.loops.crew import Crew
from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.abstractions.metrics import recorder as recorders
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.series import MOST_PENDING, Series
from traffic_cop_middleware.contracts import Event

KEY = ("/", "GET", 200)
REQUEST = (0.1, 0.1, 0, 0)
REFUSED = Event("limit.refused", 0.0, {"limits": ["a"], "source": "backend"})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(clock=lambda: 1_000.0, keeps_whole=True)


def requests_in(recorder: Recorder) -> int:
    recorder.turn(early=True)
    return sum(series.count for series in recorder.whole().requests.values())


class Watched(dict[str, Any]):
    """A scope in which a request of another event loop begins while this one is looked at."""

    look: Any = None

    def get(self, key: str, default: Any = None) -> Any:
        if key == "endpoint" and self.look is not None:
            look, self.look = self.look, None
            look()
        return super().get(key, default)


def test_what_is_under_way_is_told_while_another_loop_begins_a_request() -> None:
    began, told = threading.Event(), threading.Event()

    async def wait(request: Request) -> PlainTextResponse:
        began.set()
        await asyncio.to_thread(told.wait, 20)
        return PlainTextResponse("waited")

    async def look(request: Request) -> PlainTextResponse:
        scope.look = begin
        recorder = cop._parts.recorder
        assert recorder is not None
        return PlainTextResponse(str(sum(recorder.under_way().gauges.values())))

    def begin() -> None:
        thread.start()
        assert began.wait(20)

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/wait", wait), Route("/look", look)]))
    scope = Watched(http_scope("/look"))
    thread = threading.Thread(target=lambda: asyncio.run(send_through(app, http_scope("/wait"))), daemon=True)
    try:
        sent = asyncio.run(send_through(app, scope))
    finally:
        told.set()
        thread.join(20)
    assert sent[-1]["body"] in {b"1", b"2"}
    assert scope.look is None
    assert began.is_set()


@pytest.mark.parametrize("keeps", ["requests", "streams"])
def test_what_comes_too_late_for_a_slot_does_not_break_it(keeps: str, recorder: Recorder) -> None:
    """As of a loop that had the figures in its hands while another one put them aside."""
    late, number = recorder.running, iter(range(100))

    def write() -> None:
        getattr(late, keeps)[f"late {next(number)}", "GET", 200] = Series()

    for at in range(3):
        recorder.series((f"/{at}", "GET", 200)).pending.append(REQUEST)
        recorder.series((f"/{at}", "GET", 200), stream=True)
    recorder.cut()
    recorder.fold(pause=write)
    assert requests_in(recorder) == 3


def test_loops_that_meet_a_new_series_at_once_count_into_the_same(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Series] = []

    def made_by_another_one_too() -> Series:
        if not others:
            others.append(Series())
            others[0] = recorder.series(KEY)
        return Series()

    monkeypatch.setattr(recorders, "Series", made_by_another_one_too)
    assert recorder.series(KEY) is others[0]


def test_a_series_that_was_put_aside_while_a_request_looked_it_up_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))
    recorder = cop._parts.recorder
    assert recorder is not None
    series = recorder.series

    def put_aside_by_another_one(*key: Any, **more: Any) -> Series:
        found = series(*key, **more)
        recorder.cut()
        return found

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(recorder, "series", put_aside_by_another_one)
            assert status(await send_through(app, http_scope())) == 200
        recorder.fold()
        assert status(await send_through(app, http_scope())) == 200
        recorder.turn(early=True)
        recorder.fold()
        assert sum(each.count for each in recorder._sum.requests.values()) == 2

    asyncio.run(scenario())


def test_a_loop_that_writes_while_another_one_turns_the_slot_loses_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_aside, others = recorder._put_aside, list[threading.Thread]()

    def and_another_one_cuts(*, over: bool) -> None:
        put_aside(over=over)
        if over and not others:
            others.append(threading.Thread(target=write, daemon=True))
            others[0].start()
            others[0].join(0.2)

    def write() -> None:
        recorder.series(KEY).pending.append(REQUEST)
        recorder.cut()

    now = [1_000.0]
    recorder.clock = lambda: now[0]
    monkeypatch.setattr(recorder, "_put_aside", and_another_one_cuts)
    recorder.series(KEY).pending.append(REQUEST)
    now[0] += 10
    recorder.turn()
    others[0].join(20)
    assert requests_in(recorder) == 2


@pytest.mark.usefixtures("often_switched")
def test_what_other_parts_tell_on_all_loops_at_once_is_counted_once(recorder: Recorder) -> None:
    def tell() -> None:
        for number in range(5_000):
            recorder.hear(REFUSED)
            if number % 50 == 0:
                recorder.cut()

    Crew([tell] * 3)
    recorder.turn(early=True)
    assert [*recorder.whole().counts.values()] == [15_000]


def test_one_loop_at_a_time_adds_up_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """They write into the same buckets: one would undo what another does."""
    add_all, adding, most = Histogram.add_all, [0], [0]

    def in_its_time(histogram: Histogram, values: Iterable[float]) -> None:
        adding[0] += 1
        most[0] = max(most[0], adding[0])
        threading.Event().wait(0.01)  # the others go on
        add_all(histogram, values)
        adding[0] -= 1

    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    cop = TrafficCop(metrics=True)
    app = cop.wrap(Starlette(routes=[Route("/", ok)]))

    async def scenario() -> None:
        for _ in range(3 * MOST_PENDING):
            await send_through(app, http_scope())

    with monkeypatch.context() as patch:
        patch.setattr(Histogram, "add_all", in_its_time)
        Crew([lambda: asyncio.run(scenario())] * 3)
    assert most == [1]
