"""The least busy one."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate


class LeastRequests:
    """The candidate with the fewest requests in flight for its weight.

    Theory: join the shortest queue (Winston: Optimality of the shortest line discipline, 1977), seen from one worker.
    Invariant: no candidate has a smaller (in flight + 1) / weight than the one that is chosen. The search begins
    anywhere, so that workers do not all choose the first of several idle ones. It costs time in proportion to the
    number of candidates; `P2c` has nearly the same balance at a fixed cost. An instance that fails fast is always idle,
    and drinks up the traffic until it is ejected.
    """

    def __init__(self, random: Random) -> None:
        self._random = random.random

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Nothing is remembered of the whole set."""

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The least busy one."""
        count = len(candidates)
        start = int(self._random() * count)
        best, least = candidates[start], inf
        for at in range(start - count, start):
            each = candidates[at]
            load = (each.in_flight + 1) / each.weight
            if load < least:
                best, least = each, load
        return best
