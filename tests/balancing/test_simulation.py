"""A service with ill instances, simulated: what its clients notice. `benchmarks/balancing.py` tries much more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.testing.balancing_simulation import Fault, simulate

SHORT: dict[str, Any] = {"rate": 2_000.0, "seconds": 6.0}


@pytest.mark.parametrize("proxies", [1, 4])
@pytest.mark.parametrize("second", ["refuse", "fail", "freeze"])
def test_clients_hardly_notice_a_slow_instance_and_a_bad_one(second: Fault, proxies: int) -> None:
    healthy = simulate(proxies=proxies, **SHORT)
    faults: Mapping[int, Fault] = {0: "slow", 1: second}
    run = simulate(faults=faults, proxies=proxies, **SHORT)
    assert run.p99 <= 1.2 * healthy.p99
    assert run.errors <= (0 if second == "refuse" else 0.005 * run.requests)
    assert run.retries <= 0.02 * run.requests


def test_load_alone_feeds_the_instance_that_fails_fast_until_it_is_ejected() -> None:
    never: dict[str, Any] = {"consecutive_failures": 1_000_000, "error_share": None}
    fed = simulate(BalancingSettings(policy="least-requests", **never), faults={1: "fail"}, **SHORT)
    ejected = simulate(BalancingSettings(policy="least-requests"), faults={1: "fail"}, **SHORT)
    priced = simulate(BalancingSettings(**never), faults={1: "fail"}, **SHORT)
    assert fed.errors > 0.1 * fed.requests
    assert ejected.errors < 0.01 * ejected.requests
    assert priced.errors < 0.01 * priced.requests


def test_failures_that_all_have_upset_nothing() -> None:
    healthy = simulate(**SHORT)
    run = simulate(faults=dict.fromkeys(range(10), "flaky"), **SHORT)
    assert run.p99 <= 1.2 * healthy.p99
    assert max(run.at) <= 2 * min(run.at)


@pytest.mark.parametrize("fault", ["fail", "refuse"])
def test_a_total_outage_is_not_multiplied(fault: Fault) -> None:
    run = simulate(faults=dict.fromkeys(range(4), fault), instances=4, retry=True, rate=500, seconds=4)
    assert run.errors == run.requests
    if fault == "fail":
        assert run.attempts <= 1.2 * run.requests
    else:  # nothing was sent: each instance is tried once
        assert run.attempts == 4 * run.requests


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(**SHORT) == simulate(**SHORT)
    assert simulate(**SHORT) != simulate(seed=2, **SHORT)
