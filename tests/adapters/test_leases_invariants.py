"""Leases against a simple model, on random operations: memory and real Redis decide alike, and as the model does.

At most one holder of a name at a time, tokens that grow, and writes that are fenced: their tokens never fall, whoever
still believes in a lease. Time passes in hours, so that the seconds a test takes decide nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.adapters.test_leases_contract import FENCED_WRITE, key_of, shift
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Lease, LeaseStore
from traffic_cop_middleware.testing import FakeClock

HOUR = 3_600.0
NAMES = ("sweep", "roll-up")
names = st.sampled_from(NAMES)
holders = st.sampled_from("abc")
hours = st.integers(1, 4)


class Run:
    """A store on memory or Redis, its time, and a log beside it that is written under a lease's token."""

    leases: LeaseStore

    def ask(self, question: Callable[[], Any]) -> Any:
        return question()

    def elapse(self, seconds: float) -> None:
        raise NotImplementedError

    def lose(self, name: str) -> bool:
        """Lose a lease; whether this store can."""
        raise NotImplementedError

    def write(self, lease: Lease) -> bool:
        raise NotImplementedError

    def written(self, name: str) -> list[int]:
        raise NotImplementedError


class MemoryRun(Run):
    """Leases in memory, what they guard in SQLite: another store, with a clock and transactions of its own."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self.leases = MemoryBackend(clock=self._clock).leases
        self._documents = sqlite3.connect(":memory:", isolation_level=None)
        self._documents.execute("create table guarded (name text primary key, value text, fence integer)")
        self._documents.executemany("insert into guarded values (?, '', 0)", [(name,) for name in NAMES])

    def elapse(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def lose(self, name: str) -> bool:
        return False

    def write(self, lease: Lease) -> bool:
        done = self._documents.execute(
            "update guarded set value = value || ' ' || :token, fence = :token where name = :name and fence <= :token",
            {"token": lease.token, "name": lease.name},
        )
        return done.rowcount == 1

    def written(self, name: str) -> list[int]:
        (value,) = self._documents.execute("select value from guarded where name = ?", (name,)).fetchone()
        return [int(token) for token in value.split()]


class RedisRun(Run):
    """Leases and what they guard on a real Redis."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        self.backend = open_redis(
            url, namespace=f"model-{secrets.token_hex(4)}", deadline=10, notify=lambda event: None
        )
        self.leases = self.backend.leases
        runner.run(self.backend.link.connect(10))

    def close(self) -> None:
        self._runner.run(self.backend.close())

    def ask(self, question: Callable[[], Any]) -> Any:
        async def answered() -> Any:
            return await question()

        return self._runner.run(answered())

    def _command(self, *words: str | int) -> Any:
        return self.ask(lambda: self.backend.link.ask(*words))

    def elapse(self, seconds: float) -> None:
        for name in NAMES:
            if self._command("EXISTS", key_of(self.backend, name)):
                self._runner.run(shift(self.backend, seconds, name=name))

    def lose(self, name: str) -> bool:
        self._command("DEL", key_of(self.backend, name))
        return True

    def write(self, lease: Lease) -> bool:
        key = key_of(self.backend, lease.name)
        return bool(self._command("EVAL", FENCED_WRITE, 2, f"{key}:fence", f"{key}:log", lease.token))

    def written(self, name: str) -> list[int]:
        return [int(token) for token in self._command("LRANGE", f"{key_of(self.backend, name)}:log", 0, -1)]


class Leases(RuleBasedStateMachine):
    """`held` is the contract in a dict: holder, token and end of each name. `highest` are the tokens given so far."""

    believed = Bundle("believed")

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.store = run
        self.now = 0
        self.held: dict[str, tuple[str, int, int]] = {}
        self.highest = dict.fromkeys(NAMES, 0)
        self.fences = dict.fromkeys(NAMES, 0)
        self.writes: dict[str, list[int]] = {name: [] for name in NAMES}

    def holds(self, name: str) -> tuple[str, int, int] | None:
        held = self.held.get(name)
        return held if held is not None and held[2] > self.now else None

    @rule(target=believed, name=names, holder=holders, ttl=hours)
    def acquire(self, name: str, holder: str, ttl: int) -> Any:
        lease: Lease | None = self.store.ask(lambda: self.store.leases.acquire(name, holder, ttl=ttl * HOUR))
        held = self.holds(name)
        if held is not None and held[0] != holder:
            assert lease is None
            return multiple()
        assert lease is not None
        assert (lease.name, lease.holder, lease.ends_in) == (name, holder, ttl * HOUR)
        if held is None:
            assert lease.token > self.highest[name]
        else:
            assert lease.token == held[1]
        assert lease.token < 2**53
        self.highest[name] = lease.token
        self.held[name] = (holder, lease.token, self.now + ttl)
        return lease

    @rule(lease=believed)
    def release(self, lease: Lease) -> None:
        held = self.holds(lease.name)
        was_held = held is not None and held[:2] == (lease.holder, lease.token)
        assert self.store.ask(lambda: self.store.leases.release(lease)) == was_held
        if was_held:
            del self.held[lease.name]

    @rule(lease=believed)
    def write(self, lease: Lease) -> None:
        """Whoever believes in a lease writes, whether it is still theirs or not."""
        made = self.store.write(lease)
        assert made == (lease.token >= self.fences[lease.name])
        if made:
            self.fences[lease.name] = lease.token
            self.writes[lease.name].append(lease.token)

    @rule(lease=consumes(believed))
    def leave(self, lease: Lease) -> None:
        """One who believes in a lease is no more."""

    @rule(time=hours)
    def elapse(self, time: int) -> None:
        self.store.elapse(time * HOUR)
        self.now += time

    @rule(name=names)
    def lose(self, name: str) -> None:
        if self.store.lose(name):
            self.held.pop(name, None)

    @invariant()
    def tokens_of_writes_never_fall(self) -> None:
        for name, tokens in self.writes.items():
            assert self.store.written(name) == tokens
            assert tokens == sorted(tokens)


def test_one_holder_at_a_time_in_memory_and_fenced_writes_in_sqlite() -> None:
    run_state_machine_as_test(lambda: Leases(MemoryRun()), settings=settings(max_examples=100, stateful_step_count=40))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_one_holder_at_a_time_and_fenced_writes_in_redis(shared_redis: RedisServer, runner: asyncio.Runner) -> None:
    opened: list[RedisRun] = []

    class OnRedis(Leases):
        def __init__(self) -> None:
            opened.append(RedisRun(shared_redis.url, runner))
            super().__init__(opened[-1])

        def teardown(self) -> None:
            opened.pop().close()

    run_state_machine_as_test(OnRedis, settings=settings(max_examples=40, stateful_step_count=30))
