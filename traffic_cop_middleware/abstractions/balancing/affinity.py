"""Session affinity: a request goes to the instance that it names."""

from __future__ import annotations

from collections.abc import Sequence

from traffic_cop_middleware.contracts.balancing import BalancingKey, BalancingPolicy, Candidate


class SessionAffinity:
    """The instance that the key names as its owner; what another policy says where there is none, or it is gone.

    Theory: state that lives in an instance is found by name, not by hashing, so a change of the set moves nobody but
    whom it must: sessions of instances that went are spread by `policy`, those of others stay.
    Invariant: an owner among the candidates is chosen. Whoever remembers owners compares the chosen name with theirs,
    and writes down the new one.
    """

    def __init__(self, policy: BalancingPolicy) -> None:
        self._policy = policy
        self._seen: Sequence[Candidate] | None = None
        self._named: dict[str, Candidate] = {}

    def changed(self, instances: Sequence[Candidate]) -> None:
        """Names may lead to other instances now."""
        self._seen = None
        self._policy.changed(instances)

    def pick(
        self, candidates: Sequence[Candidate], key: BalancingKey | None, *, now: float, in_flight: int
    ) -> Candidate:
        """The owner, or another."""
        if key is not None and key.owner is not None:
            if candidates is not self._seen:
                self._seen = candidates
                self._named = {each.name: each for each in candidates}
            owner = self._named.get(key.owner)
            if owner is not None:
                return owner
        return self._policy.pick(candidates, key, now=now, in_flight=in_flight)
