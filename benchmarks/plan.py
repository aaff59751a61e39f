"""Which rows are measured, and what one round of one row is."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field

from apps import PATHS
from harness import CONNECTIONS, AppServer, BenchmarkError, RedisServer
from load import Load, Pair, plain, turns

MARKED = ("ours mark memory", "ours mark redis")


@dataclass(frozen=True)
class Row:
    """One line of the tables: a variant of apps.py on a framework, admitting or refusing every request."""

    framework: str
    variant: str
    refuse: bool = False

    @property
    def store(self) -> str:
        last = self.variant.split()[-1]
        return last if last in ("memory", "redis") else ""

    @property
    def is_peer(self) -> bool:
        return bool(self.store) and not self.is_ours

    @property
    def is_ours(self) -> bool:
        return self.variant.startswith("ours")


@dataclass
class Figures:
    """What was measured of a row, over all rounds: pairs of turns with the bare app, and plain runs."""

    pairs: list[Pair] = field(default_factory=list)
    plain: list[Load] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        return statistics.median(pair.limited.server for pair in self.pairs)

    @property
    def bare_cpu(self) -> float:
        return statistics.median(pair.bare.server for pair in self.pairs)

    @property
    def redis_cpu(self) -> float:
        return statistics.median(pair.limited.redis for pair in self.pairs)

    @property
    def over_bare(self) -> float:
        return statistics.median(pair.added for pair in self.pairs)

    @property
    def uncertainty(self) -> float:
        """Half the width of a 95 % interval of `over_bare`, by the median absolute deviation."""
        deviation = statistics.median(abs(pair.added - self.over_bare) for pair in self.pairs)
        return 2 * 1.2533 * 1.4826 * deviation / math.sqrt(len(self.pairs))


def rows(frameworks: list[str], *, quick: bool, only: str) -> list[Row]:
    """The rows asked for; the bare app and those of ours that the bars are about are always among them."""
    stores = ("memory", "redis")
    served = ["bare", *(f"ours {part} {store}" for store in stores for part in ("mark", "stack+mark", "2+2"))]
    served += ["limits fixed memory", "limits fixed redis", "limits fixed coredis redis", "throttled gcra redis"]
    refused = [*MARKED, "limits fixed redis"]
    if not quick:
        served += ["layer", "ours idle memory", "ours idle redis", "throttled gcra memory"]
        peers = ("slowapi decorator", "slowapi middleware", "throttled token bucket", "limits moving")
        served += [f"{peer} {store}" for peer in peers for store in stores]
        refused += ["limits fixed memory", "throttled gcra memory", "throttled gcra redis"]
        refused += ["slowapi decorator memory", "slowapi decorator redis"]
    on_fastapi = [] if quick else [f"slowapi middleware flat {store}" for store in stores]
    on_fastapi.append("fastapi-limiter flat redis")
    if not quick:
        on_fastapi += ["fastapi-limiter flat memory", "fastapi-limiter redis"]
    found = []
    for framework in frameworks:
        extra = on_fastapi if framework == "fastapi" else []
        found += [Row(framework, variant) for variant in served + extra]
        found += [Row(framework, variant, refuse=True) for variant in refused]
        if extra and not quick:
            found.append(Row(framework, "fastapi-limiter flat redis", refuse=True))
    return [row for row in found if only in row.variant or row.variant in ("bare", *MARKED)]


def failing(row: Row, redis: RedisServer) -> str:
    """Why a row is not worth measuring, or an empty string: one that limits nothing would win every table."""
    redis.ask("FLUSHALL")
    try:
        with AppServer(row.variant, row.framework, redis.url, refuse=True) as server:
            statuses = [server.status(PATHS[row.framework]) for _ in range(2)]
    except BenchmarkError as error:
        return str(error).strip().splitlines()[-1]
    if statuses == [200, 200 if "idle" in row.variant else 429]:
        return ""
    return {200: "limits nothing", 500: "answers 500"}.get(statuses[1], f"answers {statuses}") + " on this app"


def measure(row: Row, figures: Figures, redis: RedisServer, *, pairs: int, seconds: int) -> None:
    """One round of a row by a fresh process: a plain run, which warms it up as well, then turns with the bare app."""
    redis.ask("FLUSHALL")
    path = PATHS[row.framework]
    with AppServer(row.variant, row.framework, redis.url, refuse=row.refuse) as server:
        run = plain(server.url + path, seconds)
        found, *loads = turns(server, redis, path, pairs)
        refused = [(run, row.refuse), *zip(loads, (row.refuse, False), strict=True)]
        for load, refuse in refused:
            expected = range(load.requests - CONNECTIONS, load.requests + 1) if refuse else range(1)
            if not load.requests or load.unserved not in expected or load.socket_errors:
                print(server.said()[-2000:], file=sys.stderr)
                raise BenchmarkError(f"expected {'only' if refuse else 'no'} refusals and no errors, saw {load}")
    figures.pairs += found
    figures.plain.append(run)
