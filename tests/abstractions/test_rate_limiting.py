"""What is remembered of refusals, and what they then say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from traffic_cop_middleware.abstractions.denials import DenyCache
from traffic_cop_middleware.abstractions.policies import Policy
from traffic_cop_middleware.abstractions.rate_limiting import Charge, Decision, RateLimitAbstraction, bill
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Guard, Take, Taken
from traffic_cop_middleware.testing import FakeClock


class Shared:
    """A store that answers later and counts how often it is asked."""

    shared = True

    def __init__(self, clock: FakeClock) -> None:
        self.asked = 0
        self._memory = MemoryBackend(clock=clock).buckets

    def take(
        self, requests: Sequence[Take], *, guard: Guard | None = None, now: float | None = None
    ) -> Awaitable[Taken]:
        self.asked += 1
        answer = self._memory.take(requests, guard=guard, now=now)
        future: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        future.set_result(answer)
        return future


async def decided(decision: Decision | Awaitable[Decision]) -> Decision:
    return decision if isinstance(decision, Decision) else await decision


@pytest.mark.asyncio
async def test_a_standing_refusal_states_the_longest_wait_without_asking_again() -> None:
    clock = FakeClock()
    store = Shared(clock)
    limits = RateLimitAbstraction(store, clock=clock, local=MemoryBackend(clock=clock).buckets)
    short, long = Policy("2/second", "2/second", 2, 2.0), Policy("2/hour", "2/hour", 2, 2 / 3600)
    owed = bill([Charge(short, "ip:192.0.2.1"), Charge(long, "ip:192.0.2.1")])
    sources = [(await decided(limits.take(owed))) for _ in range(4)]
    assert [decision.source for decision in sources] == ["store", "store", "store", "cache"]
    assert [decision.retry_after for decision in sources] == [0, 0, 1800, 1800]
    assert store.asked == 3
    clock.advance(1)
    assert (await decided(limits.take(owed))).retry_after == 1799
    clock.advance(1799)
    assert (await decided(limits.take(owed))).admitted


def test_a_refusal_stands_for_its_cost_and_above_and_no_longer_than_its_wait() -> None:
    denials = DenyCache(size=2)
    denials.remember("a", 3, 10)
    assert denials.wait("a", 2, 5) == 0
    assert denials.wait("a", 3, 5) == pytest.approx(5, abs=0.01)
    assert denials.wait("a", 4, 5) > 0
    assert denials.wait("a", 3, 10) == 0
    for key in "abc":
        denials.remember(key, 1, 10)
    assert [denials.wait(key, 1, 5) > 0 for key in "abc"] == [False, True, True]
