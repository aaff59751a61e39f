"""A pool and its instances as they are at a moment, for people and dashboards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from traffic_cop_middleware.abstractions.balancing.instances import Instance, State


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSnapshot:
    """An instance, as this worker sees it.

    `reason` says why it is in its `state`, and is empty for one that serves; `seconds_left` until an ejection or a slow
    start ends. `chosen_from`: requests may go to it (in panic also to ejected ones). `share` is its configured weight,
    `weight` what is in force. `latency` is the figure in seconds that "peak-ewma" goes by. `requests` and `failures`
    are counted since it came into the pool.
    """

    name: str
    url: str
    metadata: Mapping[str, str]
    state: State
    reason: str
    seconds_left: float
    chosen_from: bool
    share: float
    weight: float
    in_flight: int
    latency: float
    requests: int
    failures: int
    ejections: int

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.name}: {self.state}{why}, {self.in_flight} in flight, {self.failures} of {self.requests} failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """A pool, as this worker sees it.

    `panic`: so many were ejected that all are chosen from. `pending` requests wait for an instance; `retries_left`
    could be made at once.
    """

    name: str
    policy: str
    panic: bool
    in_flight: int
    pending: int
    retries_left: float
    instances: Sequence[InstanceSnapshot]

    def __str__(self) -> str:
        panic = ", panic" if self.panic else ""
        return "\n  ".join([f"{self.name} ({self.policy}{panic}, {self.pending} waiting)", *map(str, self.instances)])


def snapshot_of(instance: Instance, now: float) -> InstanceSnapshot:
    """An instance as it is now."""
    state = instance.state(now)
    until = {"ejected": instance.ejected_until, "starting": instance.slow_until}.get(state, now)
    return InstanceSnapshot(
        name=instance.name,
        url=instance.upstream.url,
        metadata=instance.metadata,
        state=state,
        reason=instance.reason(now),
        seconds_left=until - now,
        chosen_from=instance.candidate,
        share=instance.share,
        weight=instance.weight,
        in_flight=instance.in_flight,
        latency=instance.latency(now),
        requests=instance.requests,
        failures=instance.failures,
        ejections=instance.ejections,
    )
