"""From settings to the policy that chooses."""

from __future__ import annotations

from random import Random

from traffic_cop_middleware.abstractions.balancing.affinity import SessionAffinity
from traffic_cop_middleware.abstractions.balancing.consistent_hash import ConsistentHash
from traffic_cop_middleware.abstractions.balancing.own_policy import OwnPolicy
from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.balancing.two_choices import P2c
from traffic_cop_middleware.contracts.balancing import BalancingPolicy


def policy_for(settings: BalancingSettings, random: Random) -> BalancingPolicy:
    """The policy that the settings name, new."""
    given = settings.policy
    policy: BalancingPolicy
    if given == "hash":
        policy = ConsistentHash(random, bound=settings.bound)
    elif isinstance(given, str):
        policy = POLICIES[given](random)
    else:
        policy = OwnPolicy(given, P2c(random))
    return SessionAffinity(policy) if settings.affinity else policy
