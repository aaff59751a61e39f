"""How the backend is reached, as configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from traffic_cop_middleware.abstractions.rate_limiting import OUTAGE_POLICIES, OnOutage
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How the backend is reached, and what an outage of it means. Checked when made."""

    backend: str | Backend = field(default="memory://", repr=False)
    namespace: str = "tc"
    deadline: float = 0.05
    on_outage: OnOutage | Mapping[str, OnOutage] = "local"
    expected_workers: int = 1
    state: StateSettings = field(default_factory=StateSettings)

    def __post_init__(self) -> None:
        if not isinstance(self.backend, str) and not hasattr(self.backend, "buckets"):
            kind = type(self.backend).__name__  # its value may hold a password
            raise ConfigurationError(
                f"backend: a URL such as 'redis://localhost:6379/0' or an opened backend, not a {kind}. Write str(…) "
                "around a URL of another type"
            )
        if not isinstance(self.namespace, str) or not self.namespace or set(self.namespace) & set("{} \r\n"):
            raise ConfigurationError(
                f"namespace={self.namespace!r}: the prefix of every key is a short word such as 'tc', without braces "
                "and spaces"
            )
        if (
            isinstance(self.deadline, bool)
            or not isinstance(self.deadline, (int, float))
            or not 0 < self.deadline <= 60
        ):
            raise ConfigurationError(
                f"deadline={self.deadline!r}: seconds that a call to the backend may take, above 0; 0.05 is usual"
            )
        if (
            isinstance(self.expected_workers, bool)
            or not isinstance(self.expected_workers, int)
            or self.expected_workers < 1
        ):
            raise ConfigurationError(f"expected_workers={self.expected_workers!r}: a whole number from 1")
        for part, policy in self.on_outage.items() if isinstance(self.on_outage, Mapping) else ():
            if part not in ("limits", "sessions"):
                raise ConfigurationError(
                    f"on_outage={self.on_outage!r}: {part!r} is no part; there are 'limits' and 'sessions'"
                )
            if part == "sessions" and policy != "refuse":
                raise ConfigurationError(
                    f"on_outage={self.on_outage!r}: while the backend is away nobody can say who is logged in, so a "
                    "request with a session is refused (503); for 'sessions' there is 'refuse' only"
                )
        if self.limits_on_outage not in OUTAGE_POLICIES:
            raise ConfigurationError(
                f"on_outage={self.limits_on_outage!r}: what the limits do while the backend is away is one of "
                f"{', '.join(map(repr, OUTAGE_POLICIES))}"
            )

    @property
    def limits_on_outage(self) -> OnOutage:
        return self.on_outage.get("limits", "local") if isinstance(self.on_outage, Mapping) else self.on_outage
