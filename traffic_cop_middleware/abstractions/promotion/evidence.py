"""What a preset judges by, and what it says."""

from __future__ import annotations

from typing import NamedTuple

from traffic_cop_middleware.abstractions.promotion.analysis import Analysis
from traffic_cop_middleware.contracts import Tier, Usage

USAGE_HOURS = 24
"""Hours that the `Usage` given to promotion is of: `usage(key, since_hour=now // 3600 - USAGE_HOURS)`."""


class Evidence(NamedTuple):
    """All that is known of an item. `kind` is its state's type, or its namespace, in small letters. `usage` is of the
    last `USAGE_HOURS` hours, `None` where nobody counts. `age`: seconds since it was written."""

    analysis: Analysis
    namespace: str
    kind: str
    usage: Usage | None
    age: float


class Part(NamedTuple):
    """A part of a score: `value`, 0 to 1, counts for `weight` of it, for a reason."""

    name: str
    value: float
    weight: float
    reason: str

    @property
    def told(self) -> str:
        """The reason as a sentence with the figure."""
        return f"{self.reason}: {self.value * self.weight:.2f} of the score"


class Scored(NamedTuple):
    """What a preset says: a score, and the tier that it means. `ttl`: seconds that it would keep the state. `holds`
    says why a lower tier than the present one is not taken ("": it may be)."""

    score: float
    tier: Tier
    parts: tuple[Part, ...]
    ttl: float | None = None
    holds: str = ""


def described(found: Analysis) -> str:
    """The size and shape of a state, for people."""
    least = "at least " if found.truncated else ""
    kinds = sum(1 for count in found.types.values() if count > 0)
    keys, nodes, levels = _many(found.keys, "key"), _many(found.nodes, "value"), _many(found.depth, "level")
    return f"{least}{keys} and {nodes} of {_many(kinds, 'type')}, {levels} deep"


def used(evidence: Evidence) -> str:
    """How often an item is used, for people."""
    usage = evidence.usage
    if usage is None:
        return "nobody counts how it is used"
    return f"{_many(usage.reads, 'read')} and {_many(usage.writes, 'write')} in {USAGE_HOURS} hours"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
