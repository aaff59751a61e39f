"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from traffic_cop_middleware.abstractions.balancing.consistent_hash import ConsistentHash
from traffic_cop_middleware.abstractions.balancing.least_requests import LeastRequests
from traffic_cop_middleware.abstractions.balancing.sampling import RandomPolicy
from traffic_cop_middleware.abstractions.balancing.turns import RoundRobin, WeightedRoundRobin
from traffic_cop_middleware.abstractions.balancing.two_choices import P2c, PeakEwma
from traffic_cop_middleware.contracts.balancing import BalancingPolicy

POLICIES: Mapping[str, Callable[[Random], BalancingPolicy]] = {
    "peak-ewma": PeakEwma,
    "p2c": P2c,
    "least-requests": LeastRequests,
    "weighted": WeightedRoundRobin,
    "round-robin": RoundRobin,
    "random": RandomPolicy,
    "hash": ConsistentHash,
}
