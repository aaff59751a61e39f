"""What was refused and can't be granted yet, so that nobody need ask the store again.

A bucket gains tokens at a fixed rate and nobody gives any back (but for `forget`), so a refusal with a wait of `w`
holds until `w` after the question was *sent*: for that cost and for every higher one, exactly. Timing it from the
sending can only end it early, never late.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

SLACK_SECONDS = 0.001
"""A refusal is forgotten this much early: clocks of two machines do not tick alike."""


class Denial(NamedTuple):
    until: float
    cost: float


class DenyCache:
    """At most `size` standing refusals, by bucket key; the oldest makes room."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._denials: OrderedDict[str, Denial] = OrderedDict()

    def wait(self, key: str, cost: float, now: float) -> float:
        """Seconds for which `cost` tokens of the bucket at `key` are certainly refused; 0 when the store must say."""
        denial = self._denials.get(key)
        if denial is None:
            return 0.0
        if denial.until <= now:
            del self._denials[key]
            return 0.0
        return denial.until - now if cost >= denial.cost else 0.0

    def remember(self, key: str, cost: float, until: float) -> None:
        """The store refused `cost` tokens of the bucket at `key` until then (on this process's clock)."""
        self._denials[key] = Denial(until - SLACK_SECONDS, cost)
        self._denials.move_to_end(key)
        if len(self._denials) > self._size:
            self._denials.popitem(last=False)

    def forget(self, keys: Iterable[str]) -> None:
        """These buckets were filled up."""
        for key in keys:
            self._denials.pop(key, None)

    def __bool__(self) -> bool:
        return bool(self._denials)
