"""Pools on a clock that stands still, and requests through them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from traffic_cop_middleware.abstractions.balancing.attempts import Attempt
from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.testing import FakeClock


def member(name: str, weight: int = 1, **metadata: str) -> Member:
    return Member(Upstream(f"http://{name}:8080", weight=weight), name, metadata=metadata)


def members(names: str, **weights: int) -> list[Member]:
    return [member(name, weights.get(name, 1)) for name in names]


class Bench:
    """A pool of instances "a", "b", … with its clock and what it told."""

    def __init__(self, names: str = "abcd", *, weights: Mapping[str, int] | None = None, **settings: Any) -> None:
        self.clock = FakeClock()
        self.told: list[tuple[str, Mapping[str, Any]]] = []
        self.pool = BalancedPool(
            "bench",
            members(names, **(weights or {})),
            BalancingSettings(**{"slow_start": 0.0, **settings}),
            clock=self.clock,
            random=Random(7),
            emit=lambda kind, attributes: self.told.append((kind, attributes)),
        )

    def pick(self, tried: str = "", key: BalancingKey | None = None) -> Instance:
        found = self.pool.pick([self.pool[name] for name in tried], key)
        assert isinstance(found, Instance), found
        return found

    def picked(self, count: int = 200, tried: str = "", key: BalancingKey | None = None) -> set[str]:
        """Whom so many requests would go to."""
        return {self.pick(tried, key).name for _ in range(count)}

    def began(self, name: str, **kwargs: Any) -> Attempt:
        return self.pool.began(self.pool[name], **kwargs)

    def ends(self, name: str, outcome: Outcome = Outcome.OK, *, times: int = 1, seconds: float = 0.0) -> None:
        """Attempts on an instance, each of which takes so long."""
        for _ in range(times):
            attempt = self.began(name)
            self.clock.advance(seconds)
            attempt.ended(outcome)

    def state(self, name: str) -> str:
        return {each.name: each.state for each in self.pool.snapshot().instances}[name]

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]
