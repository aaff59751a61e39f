"""An instance in a pool: what is known of it, and in which state that leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from traffic_cop_middleware.abstractions.balancing.latency import PeakLatency
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.errors import ConfigurationError

State = Literal["serving", "starting", "ejected", "unhealthy", "draining", "removed"]
FIRST_WEIGHT = 0.1
"""Of its share, what an instance begins with that starts slowly."""
MOST_NAME = 512
MOST_METADATA = 64


@dataclass(frozen=True, slots=True)
class Member:
    """An instance as it is configured: `Member(Upstream("http://billing-1:8080"), metadata={"zone": "b"})`.

    `name` is what it is called in the pool, by default its URL: keys and affinity cookies go by it, so an instance that
    keeps its name keeps its sessions. The upstream's weight is its share of the requests; 0 gets none.

    Raises:
        ConfigurationError: the name or the metadata can't be used.
    """

    upstream: Upstream
    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.upstream, Upstream):
            raise ConfigurationError(f"Member({self.upstream!r}): an Upstream, such as Upstream('http://billing:8080')")
        if not isinstance(self.name, str) or len(self.name) > MOST_NAME or not (self.name or "-").isprintable():
            raise ConfigurationError(f"Member(name={self.name!r}): printable text of at most {MOST_NAME} characters")
        given = self.metadata
        if not isinstance(given, Mapping) or len(given) > MOST_METADATA:
            raise ConfigurationError(f"Member(metadata={given!r}): a mapping of at most {MOST_METADATA} names to texts")
        if wrong := [key for key, value in given.items() if not isinstance(key, str) or not isinstance(value, str)]:
            raise ConfigurationError(f"Member(metadata=…): {wrong[0]!r}: a text for a text, such as {{'zone': 'b'}}")
        object.__setattr__(self, "name", self.name or self.upstream.name)
        object.__setattr__(self, "metadata", dict(given))


class Instance(PeakLatency):
    """An instance of a pool, as `BalancedPool.pick` gives it and policies see it (`Candidate`).

    What is known of it is kept as facts beside each other, since they hold at the same time; the state is what they
    leave it in. `reason` says why, for people. Changed by its pool only.
    """

    __slots__ = (
        *("candidate", "draining", "ejected_for", "ejected_until", "ejections", "failures", "healthy_since"),
        *("identity", "in_flight", "metadata", "name", "removed", "requests", "share", "slow_until", "streak"),
        *("unhealthy", "upstream", "weight", "window_ends", "window_failures", "window_first", "window_good"),
        "window_seconds",
    )

    def __init__(self, member: Member, *, tau: float, latency: float, now: float) -> None:
        super().__init__(tau, latency, now)
        self.name = member.name
        self.upstream = member.upstream
        self.metadata = member.metadata
        self.share = float(member.upstream.weight)
        self.weight = self.share
        self.in_flight = 0
        self.candidate = False
        self.identity = object()
        """What it shares with its copies in pools that follow this one's."""
        # Facts
        self.draining: str | None = None
        self.unhealthy: str | None = None
        self.ejected_for = ""
        self.ejected_until = 0.0
        self.healthy_since = now
        self.slow_until = 0.0
        self.removed = False
        # Counts
        self.ejections = 0
        self.streak = 0
        self.requests = 0
        self.failures = 0
        self.window_ends = 0.0
        self.window_first = self.window_failures = self.window_good = 0
        self.window_seconds = 0.0

    def state(self, now: float) -> State:
        """What it is in now."""
        if self.removed:
            return "removed"
        if self.draining is not None:
            return "draining"
        if self.unhealthy is not None:
            return "unhealthy"
        if now < self.ejected_until:
            return "ejected"
        return "starting" if now < self.slow_until else "serving"

    def reason(self, now: float) -> str:
        """Why; empty for one that serves."""
        state = self.state(now)
        said = {
            "removed": "it is no longer in the pool",
            "draining": self.draining,
            "unhealthy": self.unhealthy,
            "ejected": self.ejected_for,
            "starting": f"it gets its full share in {self.slow_until - now:.0f} s",
        }
        return said.get(state) or ("" if self.share else "its weight is 0")

    def weigh(self, now: float, slow_start: float) -> None:
        """Bring the weight that is in force up to date: during a slow start it grows evenly with time."""
        left = self.slow_until - now
        part = 1.0 if left <= 0 or not slow_start else max(FIRST_WEIGHT, 1.0 - left / slow_start)
        self.weight = self.share * part

    def __repr__(self) -> str:
        return f"<Instance {self.name}>"
