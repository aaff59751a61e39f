"""Replays requests through the real limiter, on a clock that is set to the time of each."""

from __future__ import annotations

from traffic_cop_middleware.abstractions.advisor.tally import Tally
from traffic_cop_middleware.abstractions.rate_limiting import Bill, Decision, RateLimitAbstraction


class ReplayClock:
    """Seconds, as the replayed request has them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Replay:
    """Asks `limits` what it would have decided, and counts that.

    `limits` is over an in-process store, both on `clock`: what they decide is what they would have decided then, for it
    is the same code. Buckets are full when the replay begins.
    """

    def __init__(self, limits: RateLimitAbstraction, clock: ReplayClock, tally: Tally, *, by_limit: bool) -> None:
        self._take = limits.take
        self._clock = clock
        self._tally = tally
        self._by_limit = by_limit

    def request(self, time: float, owed: Bill, key: str, route: str) -> bool:
        """Replay one request, and say whether it would have been admitted. Times do not go back."""
        if not owed.takes:
            self._tally.add(time, key, route, False)
            return True
        self._clock.now = time
        decision = self._take(owed)
        if type(decision) is not Decision:
            raise TypeError("a replay needs a store that answers at once: one in this process")
        admitted = decision.admitted
        self._tally.add(time, key, route, not admitted)
        if self._by_limit:
            refusing = () if admitted else [charge.policy.name for charge in decision.refusing()]
            self._tally.charge([policy.name for policy in owed.policies], refusing)
        return admitted
