"""Choosing which instance of a service gets a request: what a policy sees, and what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Candidate(Protocol):
    """An instance as a policy sees it. The same object for as long as the instance is in its pool.

    `name` is its own in the pool. `share` is its configured weight, `weight` the one that is in force now: less while
    an instance starts slowly. `in_flight` counts this worker's requests whose response has not ended.
    """

    @property
    def name(self) -> str: ...

    @property
    def share(self) -> float: ...

    @property
    def weight(self) -> float: ...

    @property
    def in_flight(self) -> int: ...

    def latency(self, now: float) -> float:
        """Seconds that an answer is to be expected to take: the peak of late, which fades, a failure priced as slow."""
        ...


class BalancingKey(NamedTuple):
    """What a request is placed by: `owner` names an instance, `text` is hashed (a session's id, a tenant, …)."""

    text: str = ""
    owner: str | None = None


class BalancingPolicy(Protocol):
    """Chooses among the instances of one pool, in one event loop. Plain calls: there is nothing to wait for.

    What it remembers it keeps by `name`: an instance that is gone for a while (ejected, drained) comes back.
    """

    def changed(self, instances: Sequence[Candidate]) -> None:
        """All instances of the pool, whatever their state: at the start, and whenever the set or a `share` changes."""
        ...

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """One of the `candidates`: those that may get this request now; there is at least one, of weight above 0.

        It is the same sequence, by identity, while neither its members nor their weights change, so that tables can be
        kept for it. A request that has been tried elsewhere gets a sequence of its own. `now` is the pool's clock in
        seconds, `in_flight` the requests of all candidates together.
        """
        ...
