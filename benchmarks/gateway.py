"""What the gateway carries: ours beside bare aiohttp proxies, fastapi-proxy-lib, nginx and caddy, before a real nginx.

    python benchmarks/gateway.py [--quick] [--rounds N] [--seconds S] [--rate R] [--only TEXT]

Each round starts every proxy anew, alone on the first core, in a new random order; wrk and the upstream have the other
cores. "uvicorn alone" has no upstream: more no app on it can do. The bars are judged by the median over the rounds of
the ratio within a round. CPU per request tells the same and moves less when something else runs on the machine. Then
latency at a fixed rate, and memory while 1 GiB goes through. Needs `nginx`, `caddy`, `wrk` and the extra `bench`. Ends
with status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import gateway_report as report
from gateway_runs import Figures, Memory, latencies, memory, run
from gateway_servers import Proxy, Upstream, version
from harness import BenchmarkError, need, one_at_a_time, pin_beside_server, stop_on_sigterm
from load import plain
from report import machine

PROXIES = ("ours", report.BARE, report.OTHER_BARE, report.LIB, "caddy", "nginx", "uvicorn alone")
LATENCIES = ("ours", report.BARE, "caddy", "nginx")
MEMORIES = ("ours", report.BARE)


def one_round(
    figures: dict[str, Figures], bad: dict[str, str], upstream: Upstream, *, seconds: int, rate: float
) -> None:
    """Measure every proxy once. One that fails goes to `bad`, so that a peer does not cost the whole run."""
    for name in random.sample(list(figures), len(figures)):
        try:
            if name == report.DIRECT:
                paced(figures[name], upstream.ports[0], rate, seconds)
                continue
            with Proxy(name, upstream) as proxy:
                plain(proxy.url + "/files/100", 1)
                for path in random.sample(list(report.SIZES), len(report.SIZES)):
                    figures[name].runs.setdefault(path, []).append(run(proxy, path, seconds))
                if name in LATENCIES:
                    paced(figures[name], proxy.port, rate, seconds)
        except BenchmarkError as error:
            print(f"given up: {name}: {error}", file=sys.stderr)
            bad[name] = str(error).strip().splitlines()[0]
            del figures[name]


def paced(figures: Figures, port: int, rate: float, seconds: int) -> None:
    for path in random.sample(list(report.SIZES), len(report.SIZES)):
        p50, p99 = latencies(port, path, rate=rate, seconds=seconds)
        figures.p50.setdefault(path, []).append(p50)
        figures.p99.setdefault(path, []).append(p99)


def memories(figures: dict[str, Figures], bad: dict[str, str], upstream: Upstream) -> dict[str, Memory]:
    found = {}
    for name in MEMORIES:
        if name in figures:
            try:
                with Proxy(name, upstream) as proxy:
                    found[name] = memory(proxy)
            except (BenchmarkError, OSError) as error:
                bad[f"{name}, memory"] = str(error).strip().splitlines()[0]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="What the gateway carries, ours beside others.")
    parser.add_argument("--quick", action="store_true", help="three short rounds, 3 minutes: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 7, quick 3")
    parser.add_argument("--seconds", type=int, help="length of a run; default 5, quick 2")
    parser.add_argument("--rate", type=float, default=500, help="requests per second for latencies; default 500")
    parser.add_argument("--only", default="", metavar="TEXT", help="only proxies whose name has TEXT, and ours")
    asked = parser.parse_args()
    rounds = asked.rounds or (3 if asked.quick else 7)
    seconds = asked.seconds or (2 if asked.quick else 5)
    wrk, nginx, caddy = need("wrk", "wrk"), need("nginx", "nginx-light"), need("caddy", "caddy")
    stop_on_sigterm()
    pin_beside_server()
    begun = time.monotonic()
    bad: dict[str, str] = {}
    names = [name for name in PROXIES if asked.only in name or name == "ours"]
    figures = {name: Figures() for name in [*names, report.DIRECT]}
    with one_at_a_time(), Upstream() as upstream:
        print(machine(report.LIBRARIES))
        print(", ".join([version(nginx, "-v"), version(caddy, "version"), version(wrk, "-v")]))
        for number in range(rounds):
            one_round(figures, bad, upstream, seconds=seconds, rate=asked.rate)
            print(f"round {number + 1} of {rounds} done after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        through = memories(figures, bad, upstream)
    print(report.throughput(figures))
    if report.DIRECT in figures:
        print(report.latency(figures, asked.rate))
    print(report.memory(through))
    lines, met = report.bars(figures, through, bad)
    print(lines)
    if asked.quick or rounds < 3:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
