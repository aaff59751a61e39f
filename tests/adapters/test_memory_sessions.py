"""Sessions in memory: bounded, shrinking by themselves, and seen by guards."""

from __future__ import annotations

import pytest

from traffic_cop_middleware.adapters.memory import MemoryBackend, MemorySessions
from traffic_cop_middleware.adapters.memory.deadlines import Deadlines
from traffic_cop_middleware.contracts import Created, Guard, Loaded, SessionKey, Take
from traffic_cop_middleware.testing import FakeClock

MINE, ADDRESS = Take("{user:a}mine", 10, 1), Take("{ip:1}all", 10, 1)


def create(
    store: MemorySessions, number: int, *, kind: str = "user", idle: float = 60, tag: str | None = None
) -> Created:
    key = key_of(number, tag)
    return store.create(key, kind=kind, meta="", data={}, idle=idle, lifetime=600)


def key_of(number: int, tag: str | None = None) -> SessionKey:
    return SessionKey(tag or f"tag{number}", f"id{number}")


def alive(store: MemorySessions, made: dict[int, Created]) -> list[int]:
    return [n for n, created in made.items() if store.load(key_of(n), generation=created.generation) is not None]


def small(clock: FakeClock, most: int) -> MemorySessions:
    return MemorySessions(clock=clock, max_sessions=most, keyspace={})


def test_the_least_recently_used_session_makes_room() -> None:
    store = small(FakeClock(), 3)
    made = {n: create(store, n) for n in range(3)}
    assert store.load(key_of(0), generation=made[0].generation) is not None
    made[3] = create(store, 3)
    assert alive(store, made) == [0, 2, 3]
    assert len(store) == 3


def test_a_flood_of_anonymous_sessions_costs_no_user_theirs(caplog: pytest.LogCaptureFixture) -> None:
    store = small(FakeClock(), 100)
    made = {n: create(store, n) for n in range(50)}
    for n in range(50, 2_000):
        made[n] = create(store, n, kind="anonymous")
    assert alive(store, made) == [*range(50), *range(1_950, 2_000)]
    assert [record.message for record in caplog.records] == [
        "100 sessions are the most, so the least recently used make room"
    ]
    for n in range(2_000, 2_060):
        made[n] = create(store, n)
    assert alive(store, made) == [*range(10, 50), *range(2_000, 2_060)]


def test_what_made_room_did_not_run_out() -> None:
    clock = FakeClock()
    store = small(clock, 2)
    for n in range(5):
        create(store, n)
    clock.advance(61)
    assert store.sweep() == [(key_of(3), "user"), (key_of(4), "user")]


def test_a_store_that_nobody_sweeps_shrinks_as_sessions_come() -> None:
    clock = FakeClock()
    store = small(clock, 10_000)
    for n in range(1_000):
        create(store, n)
        clock.advance(0.01)
    clock.advance(61)
    assert len(store) == 1_000
    for n in range(1_000, 1_500):
        create(store, n)
    assert len(store) <= 501
    assert store.figures().active == {"user": 500}


def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    backend = MemoryBackend(clock=FakeClock())
    store = backend.sessions
    for n in range(500):
        generation = create(store, n, tag=f"tag{n % 7}").generation
        store.merge(key_of(n, f"tag{n % 7}"), {"k": "1"}, generation=generation, idle=500, most=100)
        assert store.end(key_of(n, f"tag{n % 7}"))
    assert len(store) == len(backend.keyspace) == 0
    assert vars(store._deadlines)["_seconds"] == {}
    assert store._tags == store._anonymous == store._others == {}


def test_a_guard_holds_while_the_session_lives_and_no_longer() -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)
    created = create(backend.sessions, 1)
    guard = Guard(key_of(1).record, key_of(1).generation, created.generation, (ADDRESS,))
    assert backend.buckets.take([MINE], guard=guard).guard_held
    clock.advance(60)
    assert not backend.buckets.take([MINE], guard=guard).guard_held
    assert len(backend.sessions) == 1


@pytest.mark.parametrize("how", ["end", "revoke", "moved", "evicted", "swept"])
def test_a_guard_does_not_hold_for_what_was_ended(how: str) -> None:
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)
    store = backend.sessions
    created = create(store, 1, tag="user:a")
    key = key_of(1, "user:a")
    guard = Guard(key.record, key.generation, created.generation, (ADDRESS,))
    assert not backend.buckets.take([MINE], guard=guard._replace(generation=created.generation + 1)).guard_held
    if how == "end":
        store.end(key)
    elif how == "revoke":
        store.revoke("user:a")
        create(store, 2, tag="user:a")
    elif how == "moved":
        moved = SessionKey("user:a", "new")
        assert store.move(key, moved, meta="", generation=created.generation, idle=60)
        assert backend.buckets.take([MINE], guard=guard._replace(record=moved.record)).guard_held
    elif how == "evicted":
        store._make_room()
    else:
        clock.advance(61)
        store.sweep()
    assert not backend.buckets.take([MINE], guard=guard).guard_held


def test_what_was_loaded_does_not_change_under_the_reader() -> None:
    store = small(FakeClock(), 10)
    given = {"a": "1"}
    created = store.create(key_of(1), kind="user", meta="", data=given, idle=60, lifetime=60)
    given["a"] = "spoilt"
    before = store.load(key_of(1), generation=created.generation)
    store.merge(key_of(1), {"a": "2", "b": "3"}, generation=created.generation, idle=60, most=100)
    assert type(before) is Loaded
    assert before.data == {"a": "1"}


def test_endless_durations_are_held_to_a_lifetime_of_years() -> None:
    store = small(FakeClock(), 10)
    created = store.create(key_of(1), kind="user", meta="", data={}, idle=float("inf"), lifetime=float("inf"))
    loaded = store.load(key_of(1), generation=created.generation)
    assert loaded is not None
    assert loaded.left > 30 * 365 * 86_400


class Ending:
    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.second = 0


def test_deadlines_give_out_each_record_once_after_its_end_and_no_more_than_asked() -> None:
    deadlines: Deadlines[Ending] = Deadlines()
    records = [Ending(1_000 + n * 0.25) for n in range(40)]
    for record in records:
        deadlines.put(record)
    records[0].expires = 1_500  # used: it is found, and put off
    assert deadlines.over(999, 100) == []
    assert deadlines.over(1_002.5, 100) == records[1:11]
    first = deadlines.over(1_020, 5)
    assert first == records[11:16]
    deadlines.discard(records[16])
    assert deadlines.over(1_020, 100) == records[17:]
    assert deadlines.over(1_499.9, 100) == []
    assert deadlines.over(1_000_000, 100) == [records[0]]
    assert deadlines.over(2_000_000, 100) == []
    deadlines.put(records[1])  # long over when it came
    assert deadlines.over(2_000_000, 100) == [records[1]]
