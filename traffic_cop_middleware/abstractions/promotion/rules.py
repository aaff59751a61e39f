"""Hard rules: what a state is kept in at least, whatever its score.

Each raises and none lowers, so their order does not matter. A user's wish for "cache" is the one that lowers, and any
rule that raises comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from traffic_cop_middleware.abstractions.promotion.classic import FIELDS
from traffic_cop_middleware.abstractions.promotion.evidence import Evidence
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.contracts import Tier

Trigger = Literal["change", "session_end", "schedule", "explicit"]
DECLARED = 9.0
"""The importance that a state declares itself from which on it is immediate."""


class Rule(NamedTuple):
    """A hard rule that a state falls under: the tier that it is kept in at least, and why."""

    name: str
    tier: Tier
    reason: str


def rules_of(
    evidence: Evidence, settings: PromotionSettings, *, trigger: Trigger, owner: Tier | None, files: bool
) -> Iterator[Rule]:
    """The hard rules that a state falls under. `owner` is the tier that its owner's preferences name; `files`: there
    are some."""
    found = evidence.analysis
    kinds = dict.fromkeys((evidence.kind, evidence.namespace))
    if trigger == "explicit":
        yield Rule("explicit", "delayed", "somebody asked for it to be promoted")
    if found.promote is not None:
        yield Rule("promote", found.promote, f"its member 'promote' asks for {found.promote!r}")
    if found.persistent:
        yield Rule("persistent", "delayed", "its member 'persistent' is true")
    for kind in kinds:
        if kind in settings.critical_types:
            yield Rule("critical_type", "immediate", f"the type {kind!r} is critical")
        if kind in settings.preferences:
            tier = settings.preferences[kind]
            yield Rule("preference", tier, f"promotion_preferences asks for {tier!r} of the type {kind!r}")
    if found.importance is not None and found.importance >= DECLARED:
        yield Rule("importance", "immediate", f"it declares an importance of {found.importance:g}")
    wishes: tuple[tuple[Tier | None, str], ...] = (
        (found.preference, "the preferences in it"),
        (owner, "its owner's preferences"),
    )
    for wish, whose in wishes:
        if wish is not None and wish != "cache":
            yield Rule("user_preference", wish, f"{whose} ask for {wish!r}")
    if settings.preset == "classic" and found.top is not None:
        for name in sorted(found.top.names & (FIELDS | frozenset(settings.critical_fields))):
            yield Rule("critical_field", "delayed", f"it has the critical field {name!r}")
    if files and found.size > settings.file_bytes:
        yield Rule(
            "size",
            "delayed",
            f"{found.size:,} bytes are more than promotion_file_bytes={settings.file_bytes:,}: a file",
        )


def wishes_cache(evidence: Evidence, owner: Tier | None) -> bool:
    """Whether the state's user wishes that it is only cached."""
    return "cache" in (evidence.analysis.preference, owner)
