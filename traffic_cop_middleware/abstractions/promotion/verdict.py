"""The verdict on a state: where it is to be kept, and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from traffic_cop_middleware.contracts import Tier
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a state is to be kept. Frozen: each method gives a new verdict, with the reason added.

    `tier` is where; `file`: its value is to go into a file, and a pointer in its place. `score` is 0 to 1, `reasons`
    are sentences. `present` is the tier that it is in. `vetoed`: nothing is to change, and no hook is asked any more.
    `ttl` is how long the preset would keep it, in seconds; `None`: as long as it was put for. `uncut` is the tier
    before the configuration cut it down, where it did.

    Raises:
        ConfigurationError: there is no such tier, or the score is none.
    """

    tier: Tier
    score: float = 0.0
    reasons: tuple[str, ...] = ()
    file: bool = False
    present: Tier = "cache"
    vetoed: bool = False
    ttl: float | None = None
    uncut: Tier | None = None

    def __post_init__(self) -> None:
        for tier in (self.tier, self.present, self.wanted):
            rank(tier)
        if not 0 <= self.score <= 1:
            raise ConfigurationError(f"Verdict(score={self.score!r}): from 0 to 1")

    @property
    def wanted(self) -> Tier:
        """The tier that it would be, could every one be kept."""
        return self.uncut or self.tier

    def at_least(self, tier: Tier, reason: str | None = None) -> Verdict:
        """This verdict, raised to `tier` where it is below."""
        if self.vetoed:
            return self
        told = reason or f"it is to be kept in {tier!r} at least"
        if rank(tier) <= rank(self.tier):
            return self._with(self.tier, reason)
        return self._with(tier, f"{told}: {self.tier!r} becomes {tier!r}")

    def at_most(self, tier: Tier, reason: str | None = None) -> Verdict:
        """This verdict, lowered to `tier` where it is above."""
        if self.vetoed:
            return self
        told = reason or f"it is to be kept in {tier!r} at most"
        if rank(tier) >= rank(self.tier):
            return self._with(self.tier, reason)
        return self._with(tier, f"{told}: {self.tier!r} becomes {tier!r}")

    def as_file(self, reason: str | None = None) -> Verdict:
        """This verdict, with the value in a file; so it outlasts the backend, in "delayed" at least."""
        if self.vetoed:
            return self
        told = self.at_least("delayed", reason or "its value is to be kept in a file")
        return replace(told, file=True)

    def veto(self, reason: str | None = None) -> Verdict:
        """Nothing changes: the item stays where it is, and no further hook is asked."""
        if self.vetoed:
            return self
        told = f"{reason or 'vetoed'}: it stays in {self.present!r}"
        return replace(self._with(self.present, told), file=False, vetoed=True)

    def within(self, tiers: Collection[Tier], reason: str) -> Verdict:
        """This verdict, at the best tier of those that can be kept: the next one above, or else the one below.
        `wanted` stays what it is."""
        if self.tier in tiers or not tiers:
            return self
        above = [tier for tier in TIERS if tier in tiers and rank(tier) > rank(self.tier)]
        best = above[0] if above else max(tiers, key=rank)
        told = f"{reason}: {best!r} in place of {self.tier!r}"
        file = self.file and best != "cache"
        return replace(self, tier=best, uncut=self.wanted, reasons=(*self.reasons, told), file=file)

    def _with(self, tier: Tier, reason: str | None) -> Verdict:
        reasons = self.reasons if reason is None else (*self.reasons, reason)
        return replace(self, tier=tier, uncut=None, reasons=reasons, file=self.file and tier != "cache")


def rank(tier: Tier) -> int:
    """How far up a tier is: 0 for "cache".

    Raises:
        ConfigurationError: there is no such tier.
    """
    try:
        return TIERS.index(tier)
    except ValueError:
        raise ConfigurationError(f"tier={tier!r}: write one of {', '.join(map(repr, TIERS))}") from None
