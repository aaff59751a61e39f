"""The better of two at random, by requests in flight or by what an answer is to be expected to take."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from traffic_cop_middleware.abstractions.balancing.sampling import Sampler
from traffic_cop_middleware.contracts.balancing import BalancingKey, Candidate

TICK = 1e-6
"""Seconds that any answer takes: where nothing is known, requests in flight decide."""
FAR = 2.0
"""Times the usual, from which the better of two is bad enough to look at two more."""
TWICE = (0, 1)
PAIR = 2
LEARN = 1 / 64
"""What one choice more counts in what is usual."""


class P2c:
    """Of two candidates at random, the one with fewer requests in flight for its weight.

    Theory: the power of two choices (Azar et al.: Balanced Allocations, 1994; Mitzenmacher: The Power of Two Choices in
    Randomized Load Balancing, 2001). With one random choice the fullest of n has about log n / log log n, with the
    better of two log log n / log 2; nobody herds, since each request looks at two others, and a choice costs the same
    for 10 and 1,000. Both are drawn by weight, so that weights hold where nobody is busy; in-flight requests are
    counted per weight, so that they hold under load.
    Invariant: of the two that were drawn the less busy one is chosen; where weights are alike no candidate gets more
    than twice its share.
    """

    def __init__(self, random: Random) -> None:
        self._sampler = Sampler(random)

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Nothing is remembered of the whole set."""

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The less busy of two."""
        if len(candidates) == 1:
            return candidates[0]
        sampler = self._sampler
        sampler.prepare(candidates)
        one, other = sampler.draw_two()
        first, second = candidates[one], candidates[other]
        if sampler.alike:
            return first if first.in_flight <= second.in_flight else second
        return first if first.in_flight / first.weight <= second.in_flight / second.weight else second


class PeakEwma:
    """Of two candidates at random, the one whose next answer is to be expected sooner. The default.

    Theory: Finagle's `p2c` with `PeakEwma` (twitter/finagle, `PeakEwma.scala`). The expected time of an answer is the
    candidate's latency figure times the requests before it, this one included. The figure follows a rise at once (a
    peak) and fades with the time constant tau, also while nothing is asked of the instance: so a slow one is tried
    again after tau * ln(how many times slower). Three things are added. A failure counts as an answer that took many
    times as long as usual: whatever goes by load feeds the instance that fails fast. An instance that owes answers and
    gives none for a time is at least as slow as that time (`PeakLatency`). And where both are bad, which with two ill
    ones of ten happens in one draw of 45, two more are drawn.
    Invariant: of those that were drawn the one with the least latency * (1 + in flight per relative weight) is chosen.
    """

    def __init__(self, random: Random) -> None:
        self._sampler = Sampler(random)
        self._usual = 0.0

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Nothing is remembered of the whole set; the figures are the instances' own."""

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The sooner of two."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        sampler = self._sampler
        sampler.prepare(candidates)
        found, least = candidates[0], inf
        for _ in TWICE:
            if count == PAIR:
                first, second = candidates
            else:
                one, other = sampler.draw_two()
                first, second = candidates[one], candidates[other]
            before: float = first.in_flight
            behind: float = second.in_flight
            if not sampler.alike:
                before *= sampler.mean / first.weight
                behind *= sampler.mean / second.weight
            cost, less = (first.latency(now) + TICK) * (before + 1.0), (second.latency(now) + TICK) * (behind + 1.0)
            if count == PAIR:  # there is nothing to draw but who is the first, and drawing again finds no others
                return second if less < cost or (less == cost and sampler.draw()) else first
            if less < cost:
                first, cost = second, less
            if cost < least:
                found, least = first, cost
            if least <= self._usual * FAR:
                break
        self._usual += (least - self._usual) * LEARN
        return found
