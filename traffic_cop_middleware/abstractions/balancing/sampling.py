"""One at random, by weight."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate


class Sampler:
    """Draws from candidates in proportion to their weights; its table lasts as long as their sequence.

    Where all weights are alike a draw is one multiplication, else a search in the sums of the weights.
    """

    __slots__ = ("_random", "_seen", "_sums", "_total", "alike", "mean")

    def __init__(self, random: Random) -> None:
        self._random = random.random
        self._seen: Sequence[Candidate] | None = None
        self._sums: list[float] = []
        self._total = 0.0
        self.alike = True
        self.mean = 1.0

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See to it that the table is theirs."""
        if candidates is self._seen:
            return
        self._seen = candidates
        self._sums = list(accumulate(each.weight for each in candidates))
        self._total = self._sums[-1]
        self.mean = self._total / len(candidates)
        self.alike = all(each.weight == candidates[0].weight for each in candidates)

    def draw(self) -> int:
        """An index into the candidates that were prepared."""
        if self.alike:
            return int(self._random() * len(self._sums))
        # A product rounded up to the total would lie behind the last one.
        return min(bisect_right(self._sums, self._random() * self._total), len(self._sums) - 1)

    def draw_two(self) -> tuple[int, int]:
        """Two different indices, of two candidates at least: the first by weight, the other by weight of the rest."""
        if self.alike:
            count = len(self._sums)
            first = int(self._random() * count)
            second = int(self._random() * (count - 1))
            return first, second + (second >= first)
        sums = self._sums
        first = self.draw()
        before = sums[first - 1] if first else 0.0
        weight = sums[first] - before
        point = self._random() * (self._total - weight)
        if point >= before:
            point += weight
        second = min(bisect_right(sums, point), len(sums) - 1)
        if second == first:  # by rounding only
            second = first - 1 if first else 1
        return first, second


class RandomPolicy:
    """Each candidate in proportion to its weight, without memory.

    Theory: independent draws need no state and never herd, however many workers there are; the price is that with n
    requests on n instances the fullest gets about log n / log log n (Azar, Broder, Karlin and Upfal: Balanced
    Allocations, 1994). Invariant: the chance of a candidate is its weight over all candidates' weights.
    """

    def __init__(self, random: Random) -> None:
        self._sampler = Sampler(random)

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Nothing is remembered of the whole set."""

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """One of them."""
        self._sampler.prepare(candidates)
        return candidates[self._sampler.draw()]
