"""Whatever happens in whatever order, what the roster and the pool promise holds."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.balancing.pools import Bench, members
from traffic_cop_middleware.abstractions.balancing.attempts import Attempt, Nobody, Pending
from traffic_cop_middleware.abstractions.balancing.instances import Instance
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.contracts.balancing import BalancingKey

NAMES = "abcdef"
names = st.sampled_from(NAMES)
outcomes = st.sampled_from(list(Outcome))
keys = st.one_of(st.none(), st.builds(BalancingKey, names, st.one_of(st.none(), names)))


class Request:
    """What a request has been at, where it is, and what it waits for."""

    def __init__(self, key: BalancingKey | None) -> None:
        self.key = key
        self.tried: list[Instance] = []
        self.attempt: Attempt | None = None
        self.pending: Pending | None = None

    def take(self, attempt: Attempt) -> None:
        assert attempt.instance not in self.tried, "a request goes to no instance twice"
        self.attempt = attempt
        self.tried.append(attempt.instance)

    def woken(self) -> None:
        pending, self.pending = self.pending, None
        assert pending is not None
        assert pending.attempt is not None
        self.take(pending.attempt)
        pending.attempt = None


class PoolMachine(RuleBasedStateMachine):
    """Requests, each with its attempts, while everything about the pool changes."""

    policy = "peak-ewma"

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(NAMES, policy=self.policy, slow_start=5.0, most_in_flight=2, consecutive_failures=2)
        self.requests: list[Request] = []

    @property
    def pool(self) -> BalancedPool:
        return self.bench.pool

    @property
    def most(self) -> int:
        return self.pool.settings.most_in_flight or 1_000_000

    def here(self, name: str) -> bool:
        return any(each.name == name for each in self.pool.snapshot().instances)

    def send(self, request: Request) -> None:
        found = self.pool.pick(request.tried, request.key)
        snapshot = self.pool.snapshot()
        if isinstance(found, Instance):
            states = {each.name: each.state for each in snapshot.instances}
            assert states[found.name] in ("serving", "starting") or (snapshot.panic and states[found.name] == "ejected")
            request.take(self.pool.began(found))
            assert found.in_flight <= self.most
            return
        gone = {each.name for each in request.tried if not each.removed}
        fit = [each for each in snapshot.instances if each.chosen_from and each.name not in gone]
        owner = request.key.owner if request.key is not None and self.pool.settings.affinity else None
        assert (found is Nobody.FULL) == bool(fit)
        assert all(
            each.in_flight >= self.most for each in fit if owner not in [one.name for one in fit] or owner == each.name
        )
        if found is Nobody.FULL:
            request.pending = self.pool.wait(request.woken, request.tried, request.key)
        if request.pending is None:
            self.requests.remove(request)

    @rule(key=keys)
    def request(self, key: BalancingKey | None) -> None:
        self.requests.append(Request(key))
        self.send(self.requests[-1])

    @rule(at=st.integers(0, 50), outcome=outcomes, head=st.booleans(), again=st.booleans())
    def end(self, at: int, outcome: Outcome, head: bool, again: bool) -> None:
        under_way = [each for each in self.requests if each.attempt is not None]
        if under_way:
            request = under_way[at % len(under_way)]
            attempt, request.attempt = request.attempt, None
            assert attempt is not None
            if not again:
                self.requests.remove(request)
            if head:
                attempt.answered()
            attempt.ended(outcome)
            attempt.ended(Outcome.FAILED)
            if again:
                self.send(request)

    @rule(at=st.integers(0, 50))
    def leave(self, at: int) -> None:
        waiting = [each for each in self.requests if each.pending is not None]
        if waiting:
            request = waiting[at % len(waiting)]
            assert request.pending is not None
            self.requests.remove(request)
            self.pool.leave(request.pending)

    @rule(some=st.dictionaries(names, st.booleans(), max_size=4))
    def mark(self, some: dict[str, bool]) -> None:
        with self.pool.together():
            for name, healthy in some.items():
                if name in self.pool._instances:
                    self.pool.mark(name, healthy=healthy)

    @rule(name=names, drain=st.booleans())
    def drain(self, name: str, drain: bool) -> None:
        if self.here(name):
            if drain:
                self.pool.drain(name)
            else:
                self.pool.resume(name)

    @rule(kept=st.sets(names), weight=st.integers(0, 3))
    def change(self, kept: set[str], weight: int) -> None:
        self.pool.change(members("".join(sorted(kept)), a=weight))

    @rule(
        policy=st.sampled_from(sorted(POLICIES)),
        affinity=st.sampled_from([None, "session"]),
        most=st.sampled_from([None, 1, 2, 4]),
        share=st.sampled_from([0.0, 0.3, 1.0]),
        slow=st.sampled_from([0.0, 5.0]),
    )
    def configure(
        self, policy: str, affinity: Literal["session"] | None, most: int | None, share: float, slow: float
    ) -> None:
        self.pool.configure(
            BalancingSettings(
                policy=policy,
                affinity=affinity,
                most_in_flight=most,
                most_ejected=share,
                slow_start=slow,
                consecutive_failures=2,
            )
        )

    @rule(seconds=st.sampled_from([0.01, 1.0, 7.0, 30.0, 1e6]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @invariant()
    def what_is_promised(self) -> None:
        snapshot = self.pool.snapshot()
        fit = [each for each in snapshot.instances if each.state not in ("draining", "unhealthy") and each.share]
        kept_away = [each for each in fit if not each.chosen_from]
        assert all(each.state == "ejected" for each in kept_away)
        assert len(kept_away) <= len(fit) * self.pool.settings.most_ejected
        assert snapshot.panic == (
            len([each for each in fit if each.state == "ejected"]) > int(len(fit) * self.pool.settings.most_ejected)
        )
        assert not any(each.chosen_from for each in snapshot.instances if each not in fit)
        assert all(0 <= each.weight <= each.share for each in snapshot.instances)
        assert all(each.latency >= 0 for each in snapshot.instances)

    @invariant()
    def what_is_under_way_is_counted(self) -> None:
        snapshot = self.pool.snapshot()
        attempts = [each.attempt for each in self.requests if each.attempt is not None]
        here = [attempt for attempt in attempts if not attempt.instance.removed]
        assert Counter(attempt.instance.name for attempt in here) == Counter(
            {each.name: each.in_flight for each in snapshot.instances if each.in_flight}
        )
        assert snapshot.in_flight == len(here)
        assert self.pool._in_flight == sum(each.in_flight for each in snapshot.instances if each.chosen_from)
        for instance in {attempt.instance for attempt in attempts}:
            assert instance.owed >= 0

    @invariant()
    def who_waits_has_a_reason(self) -> None:
        waiting = [each for each in self.requests if each.pending is not None]
        snapshot = self.pool.snapshot()
        assert snapshot.pending == len(waiting)
        for request in waiting:
            names = [
                each.name
                for each in snapshot.instances
                if each.chosen_from and self.pool[each.name] not in request.tried and each.in_flight < self.most
            ]
            owner = request.key.owner if request.key is not None and self.pool.settings.affinity else None
            if names and owner is not None and self.here(owner):  # its session is there: it waits for that one
                assert owner not in names
                continue
            assert not names

    def teardown(self) -> None:
        for _ in range(len(self.requests) * (len(NAMES) + 1)):
            if not self.requests:
                break
            request = self.requests.pop()
            if request.pending is not None:
                self.pool.leave(request.pending)
            elif request.attempt is not None:
                request.attempt.ended(Outcome.CANCELLED)
        assert self.pool.snapshot().pending == self.pool.snapshot().in_flight == self.pool._in_flight == 0
        assert all(each.in_flight == each.owed == 0 for each in self.pool._instances.values())


@pytest.mark.parametrize("policy", ["peak-ewma", "least-requests", "weighted", "hash"])
def test_whatever_happens_the_promises_hold(policy: str) -> None:
    machine = type("Machine", (PoolMachine,), {"policy": policy})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=hypothesis_settings(max_examples=100, stateful_step_count=50, deadline=None)
    )
