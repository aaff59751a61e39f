"""What several threads do at once in the stores of one `memory://`: nothing is lost, and nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.loops.crew import Crew
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.sessions import TOPIC
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Flush, SessionKey, Take

THREADS = 4
TURNS = 1_500

pytestmark = pytest.mark.usefixtures("often_switched")


def hammer(work: Callable[[int], object], *, turns: int = TURNS) -> None:
    def again(thread: int) -> None:
        for turn in range(turns):
            work(turn * THREADS + thread)

    Crew([lambda thread=thread: again(thread) for thread in range(THREADS)])  # type: ignore[misc]


def test_no_token_is_given_twice() -> None:
    buckets = MemoryBackend(clock=lambda: 1_000.0).buckets
    most = THREADS * TURNS // 2
    taken: list[bool] = []
    both = [Take("a", most, 1e-6, 1), Take("b", 10 * most, 1e-6, 1)]
    hammer(lambda n: taken.append(buckets.take(both[: 1 + n % 2]).admitted))
    assert taken.count(True) == most


def test_buckets_make_room_in_all_threads() -> None:
    backend = MemoryBackend(clock=lambda: 1_000.0, max_keys=50)
    hammer(lambda n: backend.buckets.take([Take(f"{n}", 10, 1e-6, 1)]))
    assert len(backend.buckets) <= 50


def test_no_change_of_a_session_is_lost() -> None:
    sessions = MemoryBackend(clock=lambda: 1_000.0).sessions
    key = SessionKey("tag", "id")
    generation = sessions.create(key, kind="user", meta="", data={}, idle=60, lifetime=600).generation
    hammer(lambda _: sessions.add(key, "n", 1, generation=generation, idle=60, most=1_000))
    found = sessions.load(key, generation=generation)
    assert found is not None
    assert found.data == {"n": str(THREADS * TURNS)}


def test_sessions_begin_and_end_in_all_threads() -> None:
    now = [1_000.0]
    sessions = MemoryBackend(clock=lambda: now[0]).sessions

    def one(n: int) -> None:
        now[0] += 0.01
        key = SessionKey(f"{n % 5}", f"{n}")
        generation = sessions.create(
            key, kind="user", meta="", data={}, idle=1 + n % 3, lifetime=9, limit=20
        ).generation
        sessions.load(SessionKey(f"{n % 5}", f"{n - 7}"), generation=generation)
        sessions.merge(key, {"a": "1"}, generation=generation, idle=1, most=100)
        sessions.list(f"{n % 5}")
        if n % 3 == 0:
            sessions.end(key)
        if n % 11 == 0:
            sessions.revoke(f"{(n + 1) % 5}")
        if n % 7 == 0:
            sessions.figures(), sessions.sweep()
        sessions.tally({"begun": 1})

    hammer(one, turns=400)
    assert sessions.figures().counts["begun"] == THREADS * 400


def test_routes_of_sessions_begin_and_end_in_all_threads() -> None:
    now = [1_000.0]
    routes = MemoryBackend(clock=lambda: now[0]).session_routes

    def one(n: int) -> None:
        now[0] += 0.01
        routes.create(f"{n % 50}", service=f"s{n % 3}", instance="a", ttl=0.1)
        routes.validate(f"{n % 50}", service="s1", ttl=0.1)
        routes.of(f"{n % 50}"), routes.active(), routes.figures()
        routes.end(f"{(n + 3) % 50}")
        routes.sweep()

    hammer(one, turns=400)


def test_counters_are_written_and_read_in_all_threads() -> None:
    metrics = MemoryBackend(clock=lambda: 1_000.0).metrics

    def one(n: int) -> None:
        worker = f"w{n}"
        windows = {f"10s:{n}": b"x", f"1m:{n // 6}": b"x"}
        assert metrics.flush(worker, Flush(1, 0, b"t", b"n", windows, final=True)).accepted
        totals = metrics.totals()
        metrics.retire(totals.record, b"r", {name: each.sequence for name, each in totals.workers.items()})
        metrics.window(f"1m:{n // 6}"), metrics.stamps(list(windows))

    hammer(one, turns=400)


def test_the_end_of_a_session_is_heard_while_other_threads_begin_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend()
    management = SessionManagementAbstraction(cast("Any", None), routes=None, bus=backend.bus)
    told: list[int] = []
    standing = [management.watch(SessionKey(f"standing {i}", "id"), lambda sure: None) for i in range(2_000)]

    def one(n: int) -> None:
        others = [management.watch(SessionKey(f"{n} {i}", "id"), lambda sure: None) for i in range(3)]
        stop = management.watch(SessionKey("tag", f"{n}"), lambda sure: told.append(n))
        backend.bus.publish(TOPIC, f'{{"ids": ["{n}"]}}')
        for each in others:
            each()
        stopped.append(stop)

    stopped: list[Callable[[], None]] = []
    hammer(one, turns=100)
    assert not caplog.records
    assert sorted(told) == list(range(THREADS * 100))
    for stop in (*stopped, *standing):
        stop()
    assert not management._watched
