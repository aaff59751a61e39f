"""What an answer of an instance is to be expected to take."""

from __future__ import annotations

from math import exp, log

FEW = 1 - 1 / 16
"""What an old figure counts at most beside a new answer: after some dozens of answers it is all theirs."""
SOON = -log(FEW)
"""Times tau, before which the old figure would count more than that."""


class PeakLatency:
    """The peak of late, in seconds, which fades with the time constant `tau`.

    Theory: a moving average over time that rises at once (Finagle's `PeakEwma`): after a time t the old figure counts
    exp(-t / tau), a new one what is left, and a new one that is above takes its place. Between answers it fades towards
    0, so that who gets no requests is tried again. While answers are owed it is at least as long as nothing was heard
    since the oldest debt may have begun: an instance that is frozen grows slower by the second, before any deadline.
    Invariant: after `took(s)` the figure is at least s; without debts it only falls between two calls.
    """

    __slots__ = ("_at", "_figure", "_since", "owed", "tau")

    def __init__(self, tau: float, figure: float, now: float) -> None:
        self.tau = tau
        self._figure = figure
        self._at = now
        self._since = now
        self.owed = 0

    def latency(self, now: float) -> float:
        """The figure as it is now."""
        found = self._figure * exp((self._at - now) / self.tau)
        if self.owed and now - self._since > found:
            return now - self._since
        return found

    def asked(self, now: float) -> None:
        """An answer is owed from now on."""
        if not self.owed:
            self._since = now
        self.owed += 1

    def took(self, seconds: float, now: float, *, owed: bool = False) -> None:
        """An answer, or what counts as one, took so long.

        `owed`: it is one that was asked for; if more are owed, they have been since now at the latest.
        """
        if owed:
            self.owed -= 1
            self._since = now
        more = self._figure - seconds
        if more > 0:
            passed = now - self._at
            more *= FEW if passed < self.tau * SOON else exp(-passed / self.tau)
            self._figure = seconds + more
        else:
            self._figure = seconds
        self._at = now

    def given_up(self) -> None:
        """Nobody waits for the answer any more, which says nothing of the others that are owed."""
        self.owed -= 1

    def took_at_least(self, seconds: float, now: float) -> None:
        """An answer that nobody waited for to its end would have taken longer than this."""
        if seconds > self._figure * exp((self._at - now) / self.tau):
            self._figure, self._at = seconds, now
