"""What a rate limit costs: ours and the peers, on the same apps, the same Redis, in the same run.

    python benchmarks/rate_limit.py [--quick] [--rounds N] [--pairs N] [--seconds S] [--framework F] [--only TEXT]

Each round serves every row once, by a fresh process, in a new random order. That process serves the bare app as well,
and the load goes to the one and the other in turns of a quarter of a second. A row's "+ us" is the median over all
pairs of turns of the server's CPU per request less the bare app's; the row "bare" shows how much of it is noise.
Throughput and latency are of a plain run of wrk. Needs `wrk`, `redis-server` and the extra `bench`. Ends with status 1
when a bar is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import report
from harness import BenchmarkError, RedisServer, need, one_at_a_time, pin_beside_server, stop_on_sigterm
from keys import memory_per_key
from plan import Figures, Row, failing, measure, rows


def one_round(figures: dict[Row, Figures], bad: dict[Row, str], redis: RedisServer, pairs: int, seconds: int) -> None:
    """Measure every row once, in random order.

    A row that fails goes from `figures` to `bad`, so that one peer's failure does not cost the whole run.
    """
    for row in random.sample(list(figures), len(figures)):
        try:
            measure(row, figures[row], redis, pairs=pairs if row.is_peer else 2 * pairs, seconds=seconds)
        except BenchmarkError as error:
            print(f"given up: {row.variant} on {row.framework}: {error}", file=sys.stderr)
            bad[row] = str(error).strip().splitlines()[-1]
            del figures[row]


def main() -> int:
    parser = argparse.ArgumentParser(description="What a rate limit costs, ours beside the peers'.")
    parser.add_argument("--quick", action="store_true", help="fewer rows, short runs: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 2, quick 1")
    parser.add_argument("--pairs", type=int, help="pairs of turns per peer and round, ours twice; default 10, quick 6")
    parser.add_argument("--seconds", type=int, help="length of a plain run; default 3, quick 2")
    parser.add_argument("--framework", choices=["starlette", "fastapi"], action="append", help="default both")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has TEXT, ours and bare")
    parser.add_argument("--no-keys", action="store_true", help="leave out the memory per key")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 2)
    pairs = asked.pairs or (6 if asked.quick else 10)
    seconds = asked.seconds or (2 if asked.quick else 3)

    need("wrk", "wrk")
    need("redis-server", "redis-server")
    stop_on_sigterm()
    pin_beside_server()
    begun = time.monotonic()
    with one_at_a_time(), RedisServer() as redis:
        print(report.machine())
        wanted = rows(asked.framework or ["starlette", "fastapi"], quick=asked.quick, only=asked.only)
        bad = {row: why for row in wanted if row.store and not row.refuse and (why := failing(row, redis))}
        for row, why in bad.items():
            print(f"not measured: {row.variant} on {row.framework}: {why}", file=sys.stderr)
        broken = {(row.framework, row.variant) for row in bad}
        wanted = [row for row in wanted if (row.framework, row.variant) not in broken]
        figures = {row: Figures() for row in wanted}
        for number in range(rounds):
            one_round(figures, bad, redis, pairs, seconds)
            print(f"round {number + 1} of {rounds} done after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        keys = {} if asked.no_keys else memory_per_key(redis)
    print(report.tables(figures, bad))
    if keys:
        print(report.keys(keys))
    lines, met = report.bars(figures, bad)
    print(lines)
    if asked.quick or rounds < 2:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
