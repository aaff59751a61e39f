"""Turns by weight: smooth weighted round robin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class WeightedTurns:
    """Whose turn it is, as an index into `weights`, which are above 0.

    As nginx has it (`ngx_http_upstream_round_robin.c`, since 1.3.1): each round every credit grows by its weight, and
    the one with the most pays all weights together. So weights 3 and 1 give a a b a, not a a a b.
    Invariant: the credits add up to what they added up to before; with all of them among, each gets its exact share of
    as many turns as the (whole) weights add up to.
    """

    __slots__ = ("credits", "weights")

    def __init__(self, weights: Sequence[float], credits: Iterable[float] = ()) -> None:
        self.weights = weights
        self.credits: list[float] = list(credits) or [0] * len(weights)

    def next(self, among: Iterable[int]) -> int:
        """The next one among these; -1 where there is none."""
        credit, weights = self.credits, self.weights
        best, total = -1, 0.0
        for index in among:
            weight = weights[index]
            credit[index] += weight
            total += weight
            if best < 0 or credit[index] > credit[best]:
                best = index
        if best >= 0:
            credit[best] -= total
        return best
