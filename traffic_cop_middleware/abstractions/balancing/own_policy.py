"""A user's policy, so that an error in it costs a log line and no request."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from traffic_cop_middleware.contracts.balancing import BalancingKey, BalancingPolicy, Candidate

log = logging.getLogger("traffic_cop")


class OwnPolicy:
    """Asks `policy`; where that raises, or names what is no candidate, `fallback` chooses and the log says so."""

    def __init__(self, policy: BalancingPolicy, fallback: BalancingPolicy) -> None:
        self._policy = policy
        self._fallback = fallback
        self._seen: Sequence[Candidate] | None = None
        self._members: frozenset[int] = frozenset()

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Tell both."""
        self._seen = None
        self._fallback.changed(instances)
        try:
            self._policy.changed(instances)
        except Exception:
            log.exception("the balancing policy %r raised when the instances changed", self._policy)

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The policy's choice, if it is one."""
        if candidates is not self._seen:
            self._seen, self._members = candidates, frozenset(map(id, candidates))
        try:
            found = self._policy.pick(candidates, key, now=now, in_flight=in_flight)
        except Exception:
            log.exception("the balancing policy %r raised; an instance is chosen without it", self._policy)
        else:
            if id(found) in self._members:
                return found
            log.error("the balancing policy %r chose %r, which is no candidate", self._policy, found)
        return self._fallback.pick(candidates, key, now=now, in_flight=in_flight)
