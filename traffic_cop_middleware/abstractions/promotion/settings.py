"""How promotion judges: the preset, what is critical, what is kept at least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from traffic_cop_middleware.contracts import Tier
from traffic_cop_middleware.contracts.state import MOST_STATE, TIERS
from traffic_cop_middleware.errors import ConfigurationError

Preset = Literal["balanced", "classic"]
CRITICAL_FIELDS = ("user_id", "session_id", "transaction_id", "workflow_id", "payment", "payment_id")
CRITICAL_TYPES = ("authentication", "authorization", "payment")
MOST_NAMES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionSettings:
    """What `TrafficCop` takes with the prefix `promotion_`. Checked when made.

    `preset`: "balanced" weighs all that is known of a state; "classic" is the rule of thumb that counts one level deep.
    `critical_fields`: keys, wherever they stand in a state, that make it matter more. `critical_types`: types of state
    (its member `type` or `state_type`, or its namespace) that are always "immediate". `preferences`: the tier that a
    type of state, or a namespace, has at least. `file_bytes`: a larger value (bytes, UTF-8) goes into a file, where
    there are files. `hook_timeout`: seconds that an async promotion hook may take; after that its word is not waited
    for.

    Raises:
        ConfigurationError: a value can't be used.
    """

    preset: Preset = "balanced"
    critical_fields: Iterable[str] = CRITICAL_FIELDS
    critical_types: Iterable[str] = CRITICAL_TYPES
    preferences: Mapping[str, Tier] = field(default_factory=dict)
    file_bytes: int = MOST_STATE
    hook_timeout: float = 1.0

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ConfigurationError(f"promotion_preset={self.preset!r}: 'balanced' or 'classic'")
        for name in ("critical_fields", "critical_types"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        object.__setattr__(self, "critical_types", frozenset(map(str.casefold, self.critical_types)))
        if not isinstance(self.preferences, Mapping):
            raise ConfigurationError(f"promotion_preferences={self.preferences!r}: {{'order': 'immediate'}}")
        floors: dict[str, Tier] = {}
        for name, tier in self.preferences.items():
            if not isinstance(name, str) or tier not in TIERS:
                raise ConfigurationError(
                    f"promotion_preferences[{name!r}]={tier!r}: a type of state, and one of "
                    f"{', '.join(map(repr, TIERS))}"
                )
            floors[name.casefold()] = tier
        object.__setattr__(self, "preferences", floors)
        size = self.file_bytes
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_STATE:
            raise ConfigurationError(
                f"promotion_file_bytes={size!r}: bytes from 1 to {MOST_STATE}, which is what documents take"
            )
        wait = self.hook_timeout
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not isfinite(wait) or not 0 < wait <= 60:
            raise ConfigurationError(f"promotion_hook_timeout={wait!r}: seconds above 0 and up to 60")


def _names(setting: str, names: object) -> frozenset[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigurationError(f"promotion_{setting}={names!r}: a list of names, as in ['order_id']")
    found = list(names)
    wrong = [name for name in found if not isinstance(name, str) or not name]
    if wrong:
        raise ConfigurationError(f"promotion_{setting}={found!r}: {wrong[0]!r} is no name")
    if len(found) > MOST_NAMES:
        raise ConfigurationError(f"promotion_{setting} has {len(found)} names, and {MOST_NAMES} are the most")
    return frozenset(found)
