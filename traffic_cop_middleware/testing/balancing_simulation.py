"""A service with instances that are slow, refuse, fail or freeze, simulated: what a pool makes of it.

The pools are real ones, with their policies, on a clock that the simulation moves; nothing waits, so that a minute of
3,000 requests per second takes some seconds. With one seed it always comes out the same. To try a policy of your own:

    run = simulate(BalancingSettings(policy=Mine()), faults={0: "slow"}, proxies=1)
    assert run.p99 < 0.030
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import exp, log
from random import Random
from typing import Literal, NamedTuple

from traffic_cop_middleware.abstractions.balancing.attempts import Attempt
from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Upstream

Fault = Literal["slow", "refuse", "fail", "freeze", "flaky"]
"""Ten times slower; no connection; status 500 at once; no answer until the deadline; one 500 in a hundred answers."""
SLOWER = 10.0
AT_ONCE = 0.0005
"""Seconds of a refused connection and of a failure at once."""
FLAKY = 0.01
MEAN, SPREAD = 0.008, 0.6
"""Of the time that a request keeps one of an instance's workers busy (seconds, log-normal)."""
WORKERS = 16
DEADLINE = 5.0
"""Seconds after which nobody waits for an answer."""


class Simulated(NamedTuple):
    """What came of a run.

    `seconds` are the times that clients waited, sorted; `errors` answers that they saw as an error; `attempts` requests
    that instances got, refused connections among them; `retries` attempts after the first; `at` attempts by instance.
    """

    seconds: Sequence[float]
    errors: int
    attempts: int
    retries: int
    at: Sequence[int]

    @property
    def requests(self) -> int:
        """Requests of clients."""
        return len(self.seconds)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 clients waited at most."""
        return self.seconds[int(len(self.seconds) * 0.99)]


class _Service:
    """The instances: when each of their workers is free again."""

    def __init__(self, count: int, faults: Mapping[int, Fault], random: Random) -> None:
        self._free = [[0.0] * WORKERS for _ in range(count)]
        for each in self._free:
            heapify(each)
        self._faults = faults
        self._random = random
        self._middle = log(MEAN) - SPREAD * SPREAD / 2

    def asked(self, at: int, now: float) -> tuple[float, Outcome]:
        """When an attempt that begins now is over, and how."""
        fault = self._faults.get(at)
        if fault in ("refuse", "fail"):
            return now + AT_ONCE, Outcome.UNREACHABLE if fault == "refuse" else Outcome.FAILED
        if fault == "freeze":
            return now + DEADLINE, Outcome.TIMEOUT
        free = self._free[at]
        busy = exp(self._random.gauss(self._middle, SPREAD)) * (SLOWER if fault == "slow" else 1.0)
        until = max(now, free[0]) + busy
        heapreplace(free, until)
        if until > now + DEADLINE:
            return now + DEADLINE, Outcome.TIMEOUT
        failed = fault == "flaky" and self._random.random() < FLAKY
        return until, Outcome.FAILED if failed else Outcome.OK


class _Request(NamedTuple):
    began: float
    pool: BalancedPool
    tried: tuple[Instance, ...]


def simulate(
    settings: BalancingSettings | None = None,
    *,
    instances: int = 10,
    faults: Mapping[int, Fault] | None = None,
    proxies: int = 4,
    rate: float = 3_000.0,
    seconds: float = 20.0,
    retry: bool = False,
    seed: int = 1,
) -> Simulated:
    """Send `rate` requests per second, at random times, through so many proxies that know nothing of each other.

    A connection that is refused is tried elsewhere, as the gateway does; with `retry` an answer of 500 too, under the
    budget. `faults` names the ill instances by number.
    """
    random = Random(seed)
    now = 0.0
    members = [Member(Upstream(f"http://instance-{at}:8080")) for at in range(instances)]
    number = {member.name: at for at, member in enumerate(members)}
    pools = [
        BalancedPool("simulated", members, settings, clock=lambda: now, random=Random(random.random()))
        for _ in range(proxies)
    ]
    service = _Service(instances, faults or {}, random)
    under_way: list[tuple[float, int, Attempt, Outcome, _Request]] = []
    waited: list[float] = []
    at = [0] * instances
    errors = retries = turn = 0

    def send(request: _Request) -> bool:
        nonlocal turn
        found = request.pool.pick(request.tried)
        if not isinstance(found, Instance):
            return False
        which = number[found.name]
        at[which] += 1
        turn += 1
        until, outcome = service.asked(which, now)
        heappush(under_way, (until, turn, request.pool.began(found), outcome, request))
        return True

    arrival = random.expovariate(rate)
    while under_way or arrival < seconds:
        if arrival < seconds and (not under_way or arrival <= under_way[0][0]):
            now = arrival
            arrival = now + random.expovariate(rate)
            if not send(_Request(now, pools[int(random.random() * proxies)], ())):
                waited.append(0.0)
                errors += 1
            continue
        now, _, attempt, outcome, request = heappop(under_way)
        attempt.ended(outcome)
        again = outcome is Outcome.UNREACHABLE or (
            retry and outcome is Outcome.FAILED and not request.tried and request.pool.may_retry()
        )
        if again and send(request._replace(tried=(*request.tried, attempt.instance))):
            retries += 1
            continue
        waited.append(now - request.began)
        errors += outcome is not Outcome.OK
    return Simulated(sorted(waited), errors, sum(at), retries, at)
