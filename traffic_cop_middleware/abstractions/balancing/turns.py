"""Each in its turn: round robin, plain and by weight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from traffic_cop_middleware.abstractions.weighted_turns import WeightedTurns
from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate


class RoundRobin:
    """The next candidate each time, whatever its weight.

    Theory: over n turns each of n candidates gets exactly one, so counts differ by one at most. It knows nothing of how
    long a request takes: a slow instance gets as many as the others. Each worker begins somewhere else, or all of them
    would send their first requests to the same instance.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next = 0

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Begin anywhere: who was next may be gone."""
        self._next = self._random.randrange(len(instances)) if instances else 0

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The next one."""
        at = self._next % len(candidates)
        self._next = at + 1
        return candidates[at]


class WeightedRoundRobin:
    """The next candidate by weight, smoothly: `WeightedTurns`, whose invariant holds here between two changes.

    Credits outlast a change of the candidates, so an instance that comes back does not begin with a burst. A choice
    costs time in proportion to the number of candidates, where their weights differ.
    """

    def __init__(self, random: Random) -> None:
        self._even = RoundRobin(random)
        self._seen: Sequence[Candidate] | None = None
        self._turns = WeightedTurns([])
        self._alike = True
        self._credits: dict[str, float] = {}

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Forget who is gone."""
        self._keep_credits()
        self._seen = None
        names = {each.name for each in instances}
        self._credits = {name: credit for name, credit in self._credits.items() if name in names}
        self._even.changed(instances)

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The next one."""
        if candidates is not self._seen:
            self._keep_credits()
            self._seen = candidates
            weights = [each.weight for each in candidates]
            self._alike = all(weight == weights[0] for weight in weights)
            self._turns = WeightedTurns(weights, [self._credits.get(each.name, 0.0) for each in candidates])
        if self._alike:
            return self._even.pick(candidates, key, now=now, in_flight=in_flight)
        return candidates[self._turns.next(range(len(candidates)))]

    def _keep_credits(self) -> None:
        if self._seen is not None and not self._alike:
            self._credits.update(zip((each.name for each in self._seen), self._turns.credits, strict=True))
