"""How fast an access log is replayed through the limiter, and what bounds over recorded use cost.

    python benchmarks/advisor.py [--quick] [--rounds N]

The logs have a million lines (--quick: 100,000) of 20,000 clients, few of which make most requests, in times that go
back by up to three seconds: the combined format, the same gzipped, and JSON lines as Caddy writes them. Each row is the
command `python -m traffic_cop_middleware.advisor`, with its start, once in each round, in a new random order. Figures
are medians of its CPU; MiB is its peak. "one limit" is "100/minute" by address over folded paths; "three limits" are
two for all and one on a route, with templates; "suggest" reads twice. "bounds" is a day of minutes of 2,000 users.
Ends with status 1 when a bar is missed: 100,000 lines a second for "one limit" over the combined format.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median

import report
from harness import FIRST_CORE, BenchmarkError, one_at_a_time, stop_on_sigterm

from traffic_cop_middleware.abstractions.advisor.usage import simulate_usage
from traffic_cop_middleware.contracts.usage import UsageCount

BAR = 100_000
START = 1_795_872_449.0
PATHS = ("/search?q=tea", "/items/{}", "/items/{}/parts", "/", "/cart")


def write_logs(folder: Path, lines: int) -> dict[str, Path]:
    """The same traffic in each format."""
    rng = random.Random(1)
    files = {name: folder / name for name in ("combined", "combined.gz", "caddy")}
    at = START
    with (
        files["combined"].open("w") as combined,
        gzip.open(files["combined.gz"], "wt", compresslevel=6) as packed,
        files["caddy"].open("w") as caddy,
    ):
        for _ in range(lines):
            at += rng.expovariate(200)
            said = at - rng.random() ** 8 * 3
            number = int(20_000 * rng.random() ** 4)
            peer = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
            path = rng.choice(PATHS).format(rng.randrange(100_000))
            stamp = datetime.fromtimestamp(said, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
            line = (
                f'{peer} - - [{stamp}] "GET {path} HTTP/1.1" 200 5124 "https://shop.example.com/" "Mozilla/5.0 (X11)"\n'
            )
            combined.write(line)
            packed.write(line)
            request = {
                "remote_ip": peer,
                "remote_port": "48420",
                "proto": "HTTP/1.1",
                "method": "GET",
                "host": "shop.example.com",
                "uri": path,
                "headers": {"User-Agent": ["Mozilla/5.0 (X11)"], "Accept": ["*/*"]},
            }
            entry = {"level": "info", "ts": said, "msg": "handled request", "request": request, "status": 200}
            caddy.write(json.dumps(entry) + "\n")
    return files


def bounds() -> None:
    rng = random.Random(1)
    usage = [
        UsageCount(f"u{user}", START + 60 * minute, 60, rng.randrange(1, 200))
        for user in range(2000)
        for minute in range(1440)
        if rng.random() < 0.1
    ]
    began = time.process_time()
    simulate_usage(usage, "100/minute", by="user")
    spent = time.process_time() - began
    print(f"bounds of {len(usage):,} counts of 2,000 users: {spent:.2f} s, {len(usage) / spent:,.0f} counts/s")


TEMPLATES = ["/search", "/items/{id}", "/items/{id}/parts", "/", "/cart"]
ROWS: dict[str, tuple[str, list[str]]] = {
    "one limit, combined": ("combined", ["--limit", "100/minute"]),
    "one limit, combined.gz": ("combined.gz", ["--limit", "100/minute"]),
    "one limit, caddy": ("caddy", ["--limit", "100/minute"]),
    "three limits, combined": (
        "combined",
        ["--limit", "100/minute; 1000/hour", "--route", "/search=20/minute"]
        + [word for template in TEMPLATES for word in ("--template", template)],
    ),
    "suggest, combined": ("combined", []),
}


def turn(log: Path, arguments: list[str]) -> tuple[float, float]:
    """CPU seconds of the command, and MiB at its peak."""
    command = [sys.executable, "-m", "traffic_cop_middleware.advisor", str(log), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or "refused" not in said:
        raise BenchmarkError(f"{' '.join(command)} ended with {process.returncode} and said {said[:200]!r}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def run(lines: int, rounds: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        files = write_logs(Path(folder), lines)
        empty = Path(folder) / "small"
        with files["combined"].open() as lines_of:  # not the whole file: a child's peak begins with what its parent has
            empty.write_text("".join(islice(lines_of, 100)))
        rates: dict[str, list[float]] = {name: [] for name in ROWS}
        peaks: dict[str, float] = {}
        starts = [turn(empty, ["--limit", "1/minute"]) for _ in range(rounds)]
        for _ in range(rounds):
            for name in random.sample(list(ROWS), len(ROWS)):
                file, arguments = ROWS[name]
                spent, peaks[name] = turn(files[file], arguments)
                rates[name].append(lines / spent)
    rows = [[name, f"{median(found):,.0f}", f"{peaks[name]:.0f}"] for name, found in rates.items()]
    print(report.grid(["", "lines/s", "MiB"], rows))
    print(f"of 100 lines: {median(spent for spent, _ in starts):.2f} s, {starts[0][1]:.0f} MiB")
    bounds()
    rate = median(rates["one limit, combined"])
    met = rate >= BAR
    print(f"{'met' if met else 'MISSED'}: one limit, combined: {rate:,.0f} of {BAR:,} lines/s")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    stop_on_sigterm()
    with one_at_a_time():
        os.sched_setaffinity(0, FIRST_CORE)
        print(report.machine(("starlette",)))
        return 0 if run(100_000 if given.quick else 1_000_000, given.rounds) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
