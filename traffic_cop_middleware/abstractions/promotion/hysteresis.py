"""What keeps an item from going up and down all the time.

Up it goes at once. Down it goes one tier at a time, and only where its score lies well under the threshold of the tier
that it is in: at the second such verdict in a row, or at the first if nobody has written it for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from traffic_cop_middleware.abstractions.promotion.verdict import rank
from traffic_cop_middleware.contracts import StateKey, Tier
from traffic_cop_middleware.contracts.state import TIERS

THRESHOLDS: dict[Tier, float] = {"cache": 0.0, "delayed": 0.30, "immediate": 0.65}
"""The least score of each tier."""
MARGIN = 0.20
VERDICTS = 2
QUIET = 60.0
"""Seconds since the first such verdict, or since the item was written."""
MOST_ITEMS = 10_000


class Low(NamedTuple):
    """An item was judged `times` times in a row to be well under its `tier`, first at `since` (seconds, epoch)."""

    tier: Tier
    times: int
    since: float


class Settled(NamedTuple):
    """The tier after hysteresis, why it is not the one that was judged (""), and what is to be remembered."""

    tier: Tier
    reason: str
    low: Low | None


class Hysteresis:
    """What this worker remembers of items that may go down; at most `most`, the longest unseen one makes room."""

    def __init__(self, *, most: int = MOST_ITEMS) -> None:
        self._most = most
        self._lows: OrderedDict[StateKey, Low] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lows)

    def settle(
        self, key: StateKey, present: Tier, judged: Tier, score: float, *, written_at: float, now: float
    ) -> Settled:
        """Where an item goes that is in `present` and was judged to belong into `judged`. Changes nothing: what is to
        be remembered is kept by `remember`."""
        if rank(judged) >= rank(present):
            return Settled(judged, "", None)
        threshold = THRESHOLDS[present]
        edge = threshold - MARGIN
        if score >= edge:
            return Settled(
                present, f"{score:.2f} is not {MARGIN:.2f} under the {threshold:.2f} of {present!r}, so it stays", None
            )
        known = self._lows.get(key)
        if known is None or known.tier != present:
            known = Low(present, 0, now)
        low = Low(present, known.times + 1, known.since)
        quiet = now - min(low.since, written_at)
        if low.times < VERDICTS and quiet < QUIET:
            reason = (
                f"{score:.2f} is under the {edge:.2f} at which {present!r} is left, for the first time: it stays until "
                f"that is so again, or nobody wrote it for {QUIET:.0f} s"
            )
            return Settled(present, reason, low)
        lower = TIERS[rank(present) - 1]
        why = f"{low.times} times in a row" if low.times >= VERDICTS else f"and nobody wrote it for {quiet:.0f} s"
        return Settled(lower, f"{score:.2f} is under the {edge:.2f} at which {present!r} is left, {why}", None)

    def remember(self, key: StateKey, low: Low | None) -> None:
        """Keep what `settle` gave; `None`: there is nothing to wait for."""
        if low is None:
            self._lows.pop(key, None)
            return
        self._lows.pop(key, None)
        self._lows[key] = low
        if len(self._lows) > self._most:
            self._lows.popitem(last=False)
