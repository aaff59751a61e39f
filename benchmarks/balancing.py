"""What load balancing does for clients, simulated with the real policies and pools, and what a choice costs.

    python benchmarks/balancing.py [--quick]

A service of 10 to 1,000 instances behind 1 to 64 proxies that know nothing of each other, on a clock that the program
moves (`traffic_cop_middleware/testing/balancing_simulation.py`, seeded: the same figures each time). Instances have 16
workers and take 8 ms on average (log-normal); up to 100 of them get 300 requests per second each, 1,000 get 60. Ill
ones are ill from the first request on, and everything counts from there; an equal share overloads a slow one, and
nobody waits for longer than 5 s. p99 is over all requests, those at ill instances too. Connections that are refused are
tried elsewhere; an answer of 500 goes to the client. "No ejection" is the policy alone.
Then the CPU of one choice by the whole pool, which looks at its clock and pays into its budget too, in microseconds,
medians over the rounds; "cycle" is a choice with all that follows it: began, answered, ended.
Ends with status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from math import sqrt
from statistics import median
from typing import Any

import report
from harness import FIRST_CORE, BenchmarkError, one_at_a_time, stop_on_sigterm

from traffic_cop_middleware.abstractions.balancing.instances import Instance, Member
from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts.balancing import BalancingKey
from traffic_cop_middleware.testing.balancing_simulation import Fault, Simulated, simulate

SIZES, PROXIES = (10, 100, 1000), (1, 4, 64)
RATES = {10: 3_000.0, 100: 30_000.0, 1000: 60_000.0}
SECONDS = {10: 30.0, 100: 6.0, 1000: 4.0}
FAULTS: Mapping[str, Mapping[int, Fault]] = {
    "slow, refusing": {0: "slow", 1: "refuse"},
    "slow, failing": {0: "slow", 1: "fail"},
    "slow, frozen": {0: "slow", 1: "freeze"},
}
NO_EJECTION: dict[str, Any] = {"consecutive_failures": 1_000_000, "error_share": None, "latency_factor": None}
WITHIN, RETRIES, ERRORS, PICK = 1.2, 0.02, 0.005, 2.0
OUTAGE = 1.2
"""Attempts per request under a total outage."""
SESSIONS = 1_000
TURN = 0.004
"""Seconds that a turn is to take."""

Bars = list[tuple[bool, str]]


def ms(run: Simulated) -> str:
    return f"{run.p99 * 1e3:.1f} ms"


def share(part: int, run: Simulated) -> str:
    return f"{part / run.requests:.2%}"


def defaults(quick: bool) -> tuple[str, Bars]:
    """The default policy, by the number of instances and proxies."""
    lines, bars = [], []
    for size in SIZES:
        for proxies in PROXIES:
            least = 15.0 if size == 10 else 2.0  # the price of learning is paid once by each proxy
            known: dict[str, Any] = {
                "instances": size,
                "proxies": proxies,
                "rate": RATES[size],
                "seconds": max(least, SECONDS[size] / 3) if quick else SECONDS[size],
            }
            healthy = simulate(**known)
            where = f"{size:,} instances, {proxies} proxies"
            lines.append([where, "none", ms(healthy), "1.00", "0", share(healthy.retries, healthy), ""])
            for name, faults in FAULTS.items():
                run = simulate(faults=faults, **known)
                ratio = run.p99 / healthy.p99
                at_slow = f"{run.at[0] / run.attempts:.2%}"
                told = [ms(run), f"{ratio:.2f}", share(run.errors, run), share(run.retries, run), at_slow]
                lines.append([where, name, *told])
                errors, retries = run.errors / run.requests, run.retries / run.requests
                most = 0.0 if name == "slow, refusing" else ERRORS
                met = ratio <= WITHIN and errors <= most and retries <= RETRIES
                bars.append(
                    (
                        met,
                        f"{where}, {name}: p99 {ratio:.2f} of the healthy (at most {WITHIN}), errors {errors:.2%} "
                        f"({most:.1%}), retries {retries:.2%} ({RETRIES:.0%})",
                    )
                )
    header = ["default policy", "ill", "p99", "of healthy", "errors", "retries", "at the slow one"]
    return report.grid(header, lines), bars


def policies(quick: bool) -> str:
    """All policies beside each other: 10 instances, four proxies, one instance slow and one failing at once."""
    lines = []
    seconds = 10.0 if quick else 30.0
    faults = FAULTS["slow, failing"]
    variants: dict[str, dict[str, Any]] = {name: {"policy": name} for name in POLICIES if name != "hash"}
    variants["peak-ewma, failures not priced"] = {"policy": "peak-ewma", "failure_price": 0.0}
    variants["round-robin, latency_factor=3"] = {"policy": "round-robin", "latency_factor": 3.0}
    for name, given in variants.items():
        row = [name, ms(simulate(BalancingSettings(**given), seconds=seconds))]
        for more in (NO_EJECTION, {}):
            run = simulate(BalancingSettings(**{**given, **more}), faults=faults, seconds=seconds)
            good = sorted(run.at[2:])
            row += [ms(run), share(run.errors, run), f"{good[-1] / good[0]:.2f}"]
        lines.append(row)
    header = ["policy", "healthy", "no ejection", "errors", "busiest/idlest", "ejection", "errors", "busiest/idlest"]
    return report.grid(header, lines)


def outage(quick: bool) -> Bars:
    """Every instance fails, and every failure is worth a retry: how many are made."""
    bars = []
    for proxies in (1, 4):
        settings = BalancingSettings()
        seconds = 5.0 if quick else 20.0
        run = simulate(settings, faults=dict.fromkeys(range(10), "fail"), proxies=proxies, seconds=seconds, retry=True)
        ratio = run.attempts / run.requests
        bars.append((ratio <= OUTAGE, f"total outage, {proxies} proxies: at most {OUTAGE} attempts each: {ratio:.3f}"))
    return bars


def affinity() -> tuple[str, Bars]:
    """1,000 sessions on 10 instances, of which one goes and another comes."""
    lines, bars = [], []
    names = [f"http://instance-{at}:8080" for at in range(11)]
    keys = [f"session-{at}" for at in range(SESSIONS)]
    for policy in ("hash", "affinity"):
        own = {"affinity": "session"} if policy == "affinity" else {"policy": "hash"}
        pool = BalancedPool(
            "sessions", members(names[:10]), BalancingSettings(slow_start=0.0, **own), random=random.Random(1)
        )
        owners: dict[str, str] = {}

        def moved(pool: BalancedPool = pool, owners: dict[str, str] = owners) -> list[tuple[str, str]]:
            """Whose owner changed: from where, to where."""
            found = []
            for key in keys:
                got = pool.pick(key=BalancingKey(key, owners.get(key)))
                if not isinstance(got, Instance):
                    raise BenchmarkError(f"nobody for {key}: {got}")
                before = owners.get(key)
                owners[key] = got.name
                if before is not None and before != got.name:
                    found.append((before, got.name))
            return found

        moved()
        owned = sum(owner == names[3] for owner in owners.values())
        pool.change(members([name for name in names[:10] if name != names[3]]))
        left = moved()
        pool.change(members([name for name in names if name != names[3]]))
        came = moved()
        expected = SESSIONS / 10
        # Who is on the new one is a draw of the sessions, and on a ring its share is one too (within 9 %).
        most = expected + 3 * sqrt(expected * 0.9 + (0.09 * expected) ** 2)
        lines.append([policy, str(owned), str(len(left)), str(len(came)), f"{most:.0f}"])
        only = len(left) == owned and all(before == names[3] for before, _ in left)
        bars.append((only, f"{policy}: of one that went, its own {owned} sessions move and no other: {len(left)}"))
        fits = len(came) <= most and all(after == names[10] for _, after in came)
        bars.append((fits, f"{policy}: to one that came, at most {most:.0f} move and to no other: {len(came)}"))
    return report.grid(
        ["1,000 sessions", "on the one that goes", "moved then", "moved to a new one", "at most"], lines
    ), bars


def members(names: list[str], *, weighted: bool = False) -> list[Member]:
    return [Member(Upstream(name, weight=1 + at % 3 if weighted else 1)) for at, name in enumerate(names)]


def turn(act: Callable[[], Any], times: int) -> float:
    """CPU per call, in microseconds."""
    start = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - start) / times * 1e6


def costs(rounds: int) -> tuple[str, Bars]:
    """A choice by each policy."""
    rows: dict[tuple[str, int], Callable[[], Any]] = {}
    for size in SIZES:
        names = [f"http://instance-{at}:8080" for at in range(size)]
        for name in POLICIES:
            pool = BalancedPool("cost", members(names, weighted=name == "weighted"), BalancingSettings(policy=name))
            key = BalancingKey("session-7") if name == "hash" else None
            for _ in range(size * 3):
                cycle(pool, key)
            rows[name, size] = lambda pool=pool, key=key: pool.pick((), key)  # type: ignore[misc]
            if name == "peak-ewma":
                rows["peak-ewma, cycle", size] = lambda pool=pool: cycle(pool, None)  # type: ignore[misc]
    calls = {row: max(1, int(TURN * 1e6 / max(0.1, turn(act, 20)))) for row, act in rows.items()}
    found: dict[tuple[str, int], list[float]] = {row: [] for row in rows}
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):  # the first one only warms up
        for row in random.sample(list(rows), len(rows)):
            figure = turn(rows[row], calls[row])
            if number >= 0:
                found[row].append(figure)
    gc.unfreeze()
    us = {row: median(each) for row, each in found.items()}
    names = list(dict.fromkeys(name for name, _ in rows))
    lines = [[name, *(f"{us[name, size]:.2f}" for size in SIZES)] for name in names]
    bars = []
    for size in SIZES:
        figure = us["peak-ewma", size]
        bars.append((figure <= PICK, f"the default of {size:,} instances: at most {PICK} us: {figure:.2f} us"))
    return report.grid(["CPU us per choice", *(f"{size:,} instances" for size in SIZES)], lines), bars


def cycle(pool: BalancedPool, key: BalancingKey | None) -> None:
    found = pool.pick((), key)
    if not isinstance(found, Instance):
        raise BenchmarkError(f"nobody: {found}")
    attempt = pool.began(found)
    attempt.answered()
    attempt.ended()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of the time: figures to develop by")
    given = parser.parse_args()
    stop_on_sigterm()
    with one_at_a_time():
        os.sched_setaffinity(0, FIRST_CORE)
        print(report.machine(report.LIBRARIES[:1]))
        cost, bars = costs(9 if given.quick else 41)
        print(cost, flush=True)
        table, more = defaults(given.quick)
        print(f"\n{table}", flush=True)
        bars += more
        print(f"\n{policies(given.quick)}", flush=True)
        table, more = affinity()
        print(f"\n{table}")
        bars += more + outage(given.quick)
    print("\nBars")
    for met, told in bars:
        print(f"  {'met   ' if met else 'MISSED'}  {told}")
    if given.quick:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if all(met for met, _ in bars) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
