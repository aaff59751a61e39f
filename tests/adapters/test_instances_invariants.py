"""The registry against a simple model, on random operations: memory and real Redis decide alike, and as the model does.

A watcher who asks by version knows at every moment what lives, never hears of a heartbeat, and hears of all else. Time
passes in hours, so that the seconds a test takes decide nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.adapters.test_instances_contract import keys_of, shift
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Instance, InstanceStore
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.instance_contract import SERVICE

HOUR = 3_600.0
names = st.sampled_from("abc")
holders = st.sampled_from(["one", "two"])
weights = st.sampled_from([1, 1, 1, 2])
hours = st.integers(1, 4)


class Run:
    """The registry in memory, and its time."""

    store: InstanceStore

    def __init__(self) -> None:
        self._clock = FakeClock()
        self.store = MemoryBackend(clock=self._clock).instances

    def ask(self, question: Callable[[], Any]) -> Any:
        return question()

    def elapse(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def lose(self) -> bool:
        """Lose everything; whether this store can."""
        return False

    def close(self) -> None:
        """Nothing is open."""


class RedisRun(Run):
    """The registry on a real Redis."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self._runner = runner
        namespace = f"model-{secrets.token_hex(4)}"
        self.backend = open_redis(url, namespace=namespace, deadline=10, notify=lambda event: None)
        self.store = self.backend.instances
        runner.run(self.backend.link.connect(10))

    def ask(self, question: Callable[[], Any]) -> Any:
        async def answered() -> Any:
            return await question()

        return self._runner.run(answered())

    def elapse(self, seconds: float) -> None:
        self._runner.run(shift(self.backend, seconds))

    def lose(self) -> bool:
        self.ask(lambda: self.backend.link.ask("DEL", *keys_of(self.backend)))
        return True

    def close(self) -> None:
        self._runner.run(self.backend.close())


class Registry(RuleBasedStateMachine):
    """`held` is the contract in dicts: what lives, and when each holder's announcement ends."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.now = 0
        self.held: dict[str, tuple[Instance, dict[str, int]]] = {}
        self.version = self.begun = 0
        self.moved = False
        """Whether the list has changed since the watcher looked."""
        self.lost = True
        self.known: dict[str, Instance] = {}

    def teardown(self) -> None:
        self.run.close()

    @rule(name=names, holder=holders, weight=weights, ttl=hours)
    def register(self, name: str, holder: str, weight: int, ttl: int) -> None:
        before = self.held.get(name)
        # an instance's ttl is one of its properties, so the holders of one that is the same have the same
        instance = Instance(SERVICE, name, f"http://{name}:{weight}", weight, {"w": str(weight)}, ttl * HOUR)
        changed = self.run.ask(lambda: self.run.store.register(instance, holder=holder))
        assert changed == (before is None or before[0] != instance)
        self.held[name] = (instance, {**(before[1] if before else {}), holder: self.now + ttl})
        self.moved |= changed

    @rule(name=names, holder=holders)
    def unregister(self, name: str, holder: str) -> None:
        _, ends = self.held.get(name, (None, {}))
        changed = self.run.ask(lambda: self.run.store.unregister(SERVICE, name, holder=holder))
        assert changed == (list(ends) == [holder])
        ends.pop(holder, None)
        if changed:
            del self.held[name]
        self.moved |= changed

    @rule(time=hours)
    def elapse(self, time: int) -> None:
        self.run.elapse(time * HOUR)
        self.now += time
        for name, (instance, ends) in list(self.held.items()):
            self.held[name] = (instance, {holder: end for holder, end in ends.items() if end > self.now})
            if not self.held[name][1]:
                del self.held[name]
                self.moved = True

    @rule()
    def lose(self) -> None:
        if self.run.lose():
            self.held.clear()
            self.moved = self.lost = True

    @invariant()
    def a_watcher_knows_what_lives_and_hears_of_changes_alone(self) -> None:
        found = self.run.ask(lambda: self.run.store.read(SERVICE, since=self.version))
        if found is None:
            assert not self.moved
            assert self.version
        else:
            assert self.moved or not found.version
            assert [each.name for each in found.instances] == sorted(each.name for each in found.instances)
            self.known = {each.name: each for each in found.instances}
            if found.version:
                assert found.version > self.version
                assert (found.begun > self.version) == self.lost
                self.version, self.begun, self.lost = found.version, found.begun, False
            else:
                assert self.lost
        self.moved = False
        assert self.known == {name: instance for name, (instance, _) in self.held.items()}


def test_a_watcher_of_a_registry_in_memory_knows_what_lives() -> None:
    run_state_machine_as_test(lambda: Registry(Run()), settings=settings(max_examples=150, stateful_step_count=40))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_a_watcher_of_a_registry_in_redis_knows_what_lives(shared_redis: RedisServer, runner: asyncio.Runner) -> None:
    run_state_machine_as_test(
        lambda: Registry(RedisRun(shared_redis.url, runner)),
        settings=settings(max_examples=40, stateful_step_count=30),
    )
