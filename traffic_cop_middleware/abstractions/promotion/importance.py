"""How much a state matters, from 0 to 10: what it declares itself, and what its fields, type and tags say beside."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from traffic_cop_middleware.abstractions.promotion.analysis import MOST_IMPORTANT, Analysis

USUAL = 1.0
"""The importance of a state that declares none."""
FIELD = 2.0
CRITICAL_TYPE = 3.0
KNOWN_TYPES = frozenset({"workflow", "session", "user"})
KNOWN_TYPE = 2.0
TAGS = {"critical": 3.0, "persistent": 2.0}


class Importance(NamedTuple):
    """`value` is 0 to 10, `reasons` say what makes it up."""

    value: float
    reasons: tuple[str, ...]


def importance_of(analysis: Analysis, kind: str, *, fields: Collection[str], types: Collection[str]) -> Importance:
    """The importance of a state of the type `kind` that has these critical fields, where these types are critical."""
    declared = analysis.importance
    value = USUAL if declared is None else float(declared)
    reasons = ["no importance of its own: 1" if declared is None else f"an importance of its own of {value:g}"]

    def add(worth: float, reason: str) -> None:
        nonlocal value
        value += worth
        reasons.append(f"{reason}: +{worth:g}")

    for name in sorted(fields):
        add(FIELD, f"the field {name!r}")
    if kind in types:
        add(CRITICAL_TYPE, f"the critical type {kind!r}")
    elif kind in KNOWN_TYPES:
        add(KNOWN_TYPE, f"the type {kind!r}")
    for tag, worth in TAGS.items():
        if tag in analysis.tags:
            add(worth, f"the tag {tag!r}")
    return Importance(min(MOST_IMPORTANT, value), tuple(reasons))
