"""The preset `balanced`: a weighted score of all that is known of a state.

Each part is 0 to 1, log-scaled where its measure has no end. The weights of the parts that are known are brought to a
sum of 1, so an item whose use nobody counts can reach every tier.
"""

from __future__ import annotations

from collections.abc import Collection
from math import log2

from traffic_cop_middleware.abstractions.promotion.analysis import MOST_IMPORTANT
from traffic_cop_middleware.abstractions.promotion.evidence import Evidence, Part, Scored, described, used
from traffic_cop_middleware.abstractions.promotion.hysteresis import THRESHOLDS
from traffic_cop_middleware.abstractions.promotion.importance import importance_of
from traffic_cop_middleware.contracts import Tier
from traffic_cop_middleware.contracts.state import MOST_STATE

WEIGHTS = {"importance": 0.40, "size": 0.20, "shape": 0.20, "access": 0.12, "age": 0.08}
SMALL, LARGE = 64, MOST_STATE
"""Bytes that count for 0 and for 1."""
MANY_NODES = 256
DEEP = 8
KINDS = 6
OFTEN = 1000
"""Uses within `USAGE_HOURS` that count for 1."""
YOUNG, OLD = 60.0, 86_400.0
"""Seconds since an item was written that count for 0 and for 1."""


def balanced(evidence: Evidence, *, critical_types: Collection[str]) -> Scored:
    """The score of a state, and the tier that it means."""
    analysis = evidence.analysis
    matters = importance_of(analysis, evidence.kind, fields=analysis.critical, types=critical_types)
    values = {
        "importance": (
            matters.value / MOST_IMPORTANT,
            f"importance {matters.value:g} of 10 ({', '.join(matters.reasons)})",
        ),
        "size": (_log_scaled(analysis.size, SMALL, LARGE), f"{analysis.size:,} bytes"),
        "shape": (_shape(evidence), described(evidence.analysis)),
        "age": (_log_scaled(evidence.age, YOUNG, OLD), f"written {evidence.age:,.0f} s ago"),
    }
    if evidence.usage is not None:
        uses = max(0, evidence.usage.reads) + max(0, evidence.usage.writes)
        values["access"] = (_log_scaled(uses + 1, 1, OFTEN), used(evidence))
    whole = sum(WEIGHTS[name] for name in values)
    parts = tuple(
        Part(name, values[name][0], weight / whole, values[name][1])
        for name, weight in WEIGHTS.items()
        if name in values
    )
    score = min(1.0, max(0.0, sum(part.value * part.weight for part in parts)))
    return Scored(score, tier_of(score), parts)


def tier_of(score: float) -> Tier:
    """The highest tier whose threshold a score reaches."""
    return max((tier for tier in THRESHOLDS if score >= THRESHOLDS[tier]), key=THRESHOLDS.__getitem__)


def _shape(evidence: Evidence) -> float:
    """Half of it by how many values there are, a third by nesting, the rest by how many types of them."""
    analysis = evidence.analysis
    kinds = sum(1 for count in analysis.types.values() if count > 0)
    nodes = _log_scaled(analysis.nodes, 1, MANY_NODES)
    return nodes / 2 + min(1.0, analysis.depth / DEEP) / 3 + max(0, kinds - 1) / (KINDS - 1) / 6


def _log_scaled(value: float, least: float, most: float) -> float:
    if value <= least:
        return 0.0
    return min(1.0, log2(value / least) / log2(most / least))
