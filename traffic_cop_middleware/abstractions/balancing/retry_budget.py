"""How many retries a pool may afford."""

from __future__ import annotations

from math import exp

MEMORY = 10.0
"""Seconds after which what was not used of the budget has faded to 1/e."""
STEP = 0.1
"""Seconds for which what is paid in fades with what was there before: it loses 1 % at most, for an `exp` less."""


class RetryBudget:
    """Retries as a share of the traffic, with a floor per second.

    Theory: a count per request multiplies the load of a service that is down by that count. A budget bounds the sum
    (Finagle's `RetryBudget`; The SRE book, chapter 22: Addressing Cascading Failures). Each request pays in `share`, a
    retry takes 1; what is not used fades, so that calm hours do not pay for a storm, and grows with the rate by itself.
    So that a quiet service may retry at all, `floor` retries per second are allowed whatever was paid in; they too are
    charged, and make a debt that later requests pay off, so where there is traffic enough the floor adds nothing.
    Invariant: after n requests in t seconds there were at most share * n + floor * (t + 1) + 1 retries. Debts fade too.
    """

    __slots__ = ("_at", "_balance", "_least", "floor", "share")

    def __init__(self, *, share: float, floor: float, now: float) -> None:
        self.share = share
        self.floor = floor
        self._at = now
        self._balance = 0.0
        self._least = _most(floor)

    def configure(self, *, share: float, floor: float) -> None:
        """Go by another share and floor at once: what those before would still allow is no more than these do."""
        self.share, self.floor = share, floor
        self._least = min(self._least, _most(floor))
        if not share:
            self._balance = min(self._balance, 0.0)

    def paid_in(self, now: float) -> None:
        """A request came."""
        if now - self._at > STEP:
            self._pass(now)
        self._balance += self.share

    def take(self, now: float) -> bool:
        """Whether a retry may be made; if so it is taken out."""
        self._pass(now)
        if self._balance < 1 and self._least < 1:
            return False
        self._balance -= 1
        self._least = max(0.0, self._least - 1)
        return True

    def left(self, now: float) -> float:
        """Retries that could be made at once."""
        self._pass(now)
        return max(self._balance, self._least)

    def _pass(self, now: float) -> None:
        passed = now - self._at
        if passed > 0:
            self._at = now
            self._balance *= exp(-passed / MEMORY)
            if self.floor:
                self._least = min(_most(self.floor), self._least + passed * self.floor)


def _most(floor: float) -> float:
    """Retries that the floor saves up: those of a second, one at least."""
    return max(1.0, floor) if floor else 0.0
