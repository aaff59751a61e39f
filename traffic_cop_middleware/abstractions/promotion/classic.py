"""The preset `classic`: the rule of thumb that state was promoted by before, counted one level deep as it always was.

    complexity (at most 100) = 2 per key + 1.5 per dict entry + 1.2 per list entry + 0.5 per scalar
    importance (at most 10)  = 1 or the state's own, + fields, type and tags (`importance`)
    immediate where complexity > 10, bytes > 1000 or importance > 8; delayed where > 5, > 500, > 5; else cache

Keys are the state's own, entries those of the dicts and lists under them. Five scalar keys come to 12.5 and so into the
documents, which is why it is no default.

The rule says where a state goes by what is in it. How an item is used and how old it is say whether it comes down
again: what is used once an hour stays where it is, what was written lately waits for a second verdict (`hysteresis`).
"""

from __future__ import annotations

from traffic_cop_middleware.abstractions.promotion.analysis import Top
from traffic_cop_middleware.abstractions.promotion.evidence import USAGE_HOURS, Evidence, Part, Scored, described, used
from traffic_cop_middleware.abstractions.promotion.hysteresis import THRESHOLDS
from traffic_cop_middleware.abstractions.promotion.importance import importance_of
from traffic_cop_middleware.contracts import Tier
from traffic_cop_middleware.contracts.state import MOST_STATE

FIELDS = frozenset({"user_id", "session_id", "transaction_id", "workflow_id"})
TYPES = frozenset({"authentication", "authorization", "payment"})
MOST_COMPLEX = 100.0
OVER: dict[str, tuple[float, float, float]] = {
    "complexity": (5.0, 10.0, MOST_COMPLEX),
    "size": (500.0, 1000.0, float(MOST_STATE)),
    "importance": (5.0, 8.0, 10.0),
}
"""Of each measure: above what a state is delayed, above what it is immediate, and what counts as 1."""
CACHE_TTL = 900.0
TTLS = ((8.0, 7 * 86_400.0), (5.0, 86_400.0), (0.0, 3600.0))
"""From an importance on, seconds that a state is kept which is not only cached."""
NOTHING = Top(0, 0, (), 0, frozenset())


def classic(evidence: Evidence) -> Scored:
    """The rule's verdict. The score is made to fit: 0.30 where a state begins to be delayed, 0.65 to be immediate."""
    top = evidence.analysis.top or NOTHING
    complexity = min(MOST_COMPLEX, 2.0 * top.keys + 1.5 * top.dict_entries + 1.2 * sum(top.lists) + 0.5 * top.scalars)
    matters = importance_of(evidence.analysis, evidence.kind, fields=FIELDS & top.names, types=TYPES)
    measures = {
        "complexity": (complexity, f"complexity {complexity:g} of 100 ({described(evidence.analysis)})"),
        "size": (float(evidence.analysis.size), f"{evidence.analysis.size:,} bytes"),
        "importance": (matters.value, f"importance {matters.value:g} of 10 ({', '.join(matters.reasons)})"),
    }
    values = {name: _fitted(measure, *OVER[name]) for name, (measure, _) in measures.items()}
    decides = max(values, key=values.__getitem__)
    parts = [Part(name, values[name], float(name == decides), told) for name, (_, told) in measures.items()]
    parts.append(Part("access", 0.0, 0.0, used(evidence)))
    parts.append(Part("age", 0.0, 0.0, f"written {evidence.age:,.0f} s ago"))
    tier: Tier = "cache"
    if any(measure > OVER[name][1] for name, (measure, _) in measures.items()):
        tier = "immediate"
    elif any(measure > OVER[name][0] for name, (measure, _) in measures.items()):
        tier = "delayed"
    ttl = CACHE_TTL if tier == "cache" else next(ttl for least, ttl in TTLS if matters.value >= least)
    usage = evidence.usage
    often = usage is not None and usage.reads + usage.writes >= USAGE_HOURS
    return Scored(values[decides], tier, tuple(parts), ttl, f"{used(evidence)}, so it stays" if often else "")


def _fitted(measure: float, delayed: float, immediate: float, most: float) -> float:
    """A measure on the scale of the thresholds, so that `>` of the rule is `>=` of the score."""
    low, high = THRESHOLDS["delayed"], THRESHOLDS["immediate"]
    if measure <= delayed:
        return (low - 0.01) * max(0.0, measure) / delayed
    if measure <= immediate:
        return low + (high - 0.01 - low) * (measure - delayed) / (immediate - delayed)
    return high + (1 - high) * min(1.0, (measure - immediate) / (most - immediate))
