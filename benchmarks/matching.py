"""What it costs to find a gateway route, in tables of 10, 1,000 and 100,000 routes, beside Starlette's router.

    python benchmarks/matching.py [--quick] [--rounds N]

A turn is one look-up for each of 1,000 requests, drawn at random from those that the table's routes take; each has ten
headers, as a browser's. In each round every row has two turns in a row, in a new random order of rows. The second is
what the bars are for: its requests' parts of the table are in the processor's caches, as far as these hold them. "cold"
is the first, after all other rows have had their turns. All are medians of this process's CPU per look-up in
microseconds, the call included. "build" is the whole table, "change" one route put anew in a copied table. Starlette's
router is asked the question of the row "exact", by its routes' own `matches`, and no more.
Ends with status 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import report
from harness import FIRST_CORE, BenchmarkError, one_at_a_time, stop_on_sigterm
from starlette.routing import Match, Route

from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute, gateway_route
from traffic_cop_middleware.abstractions.route_matching import GatewayTable

BAR = 2.0
BAR_BUILD = 1.5
SIZES = (10, 1000, 100_000)
REQUESTS = 1000
CHANGES = 100

HEADERS = [(b"host", b"shop.example.com"), *((b"header-%d" % number, b"value %d" % number) for number in range(9))]

Asked = tuple[str, str, bytes, list[tuple[bytes, bytes]], bytes]


def asked(path: str, *, host: str = "shop.example.com", more: tuple[tuple[bytes, bytes], ...] = ()) -> Asked:
    return ("GET", host, path.encode(), [*HEADERS, *more], b"page=2")


def route(name: str, pattern: str, **predicates: Any) -> GatewayRoute:
    return gateway_route(name, pattern, to="http://10.0.0.1:8080", **predicates)


MIXES: dict[str, tuple[Callable[[int], GatewayRoute], Callable[[int], Asked]]] = {
    "exact": (lambda n: route(f"r{n}", f"/service-{n}/orders"), lambda n: asked(f"/service-{n}/orders")),
    "exact, by method": (
        lambda n: route(f"r{n}", f"/service-{n // 2}/orders", methods=("GET", "POST")[n % 2]),
        lambda n: asked(f"/service-{n // 2}/orders"),
    ),
    "prefix": (lambda n: route(f"r{n}", f"/service-{n}/*"), lambda n: asked(f"/service-{n}/orders/7")),
    "params": (lambda n: route(f"r{n}", f"/service-{n}/{{id}}/orders"), lambda n: asked(f"/service-{n}/7/orders")),
    "hosts": (
        lambda n: route(f"r{n}", "/*", hosts=f"t{n}.example.com"),
        lambda n: asked("/orders/7", host=f"t{n}.example.com"),
    ),
    "wildcard hosts": (
        lambda n: route(f"r{n}", "/*", hosts=f"*.t{n}.example.com"),
        lambda n: asked("/orders/7", host=f"api.t{n}.example.com"),
    ),
    "one path, by header": (
        lambda n: route(f"r{n}", "/orders/*", headers={"x-tenant": f"t{n}"}),
        lambda n: asked("/orders/7", more=((b"x-tenant", b"t%d" % n),)),
    ),
    "prefix, one priority": (
        lambda n: route(f"r{n}", f"/service-{n}/*", priority=int(n == 0)),
        lambda n: asked(f"/service-{n}/orders/7"),
    ),
}


@dataclass
class Row:
    """One table and its requests, and what was measured of it."""

    mix: str
    size: int
    find: Callable[..., Any]
    requests: list[Asked]
    build: float = 0.0
    change: float = 0.0
    turns: list[float] = field(default_factory=list)
    cold_turns: list[float] = field(default_factory=list)

    def turn(self) -> float:
        find, requests = self.find, self.requests
        start = time.process_time()
        for method, host, path, headers, query in requests:
            find(method, host, path, headers, query)
        return (time.process_time() - start) / len(requests) * 1e6

    @property
    def us(self) -> float:
        return median(self.turns)

    @property
    def cold(self) -> float:
        return median(self.cold_turns)


def drawn(ask: Callable[[int], Asked], size: int, count: int) -> list[Asked]:
    return [ask(random.randrange(size)) for _ in range(count)]


def ours(mix: str, size: int) -> Row:
    """A table, built and changed."""
    make, ask = MIXES[mix]
    routes = [make(number) for number in range(size)]
    gc.collect()
    start = time.process_time()
    table = GatewayTable(routes)
    build = time.process_time() - start
    puts = [make(random.randrange(size)) for _ in range(CHANGES)]
    changed = table
    start = time.process_time()
    for each in puts:
        changed = changed.changed({each.name: each})
    change = (time.process_time() - start) / CHANGES * 1e6
    row = Row(mix, size, table.find, drawn(ask, size, REQUESTS), build, change)
    if not all(len(table.find(*request)) == 1 == len(changed.find(*request)) for request in row.requests):
        raise BenchmarkError(f"{mix}, {size} routes: a request did not find its one route")
    return row


def starlettes(size: int, count: int) -> Row:
    """Starlette's own routes, tried one after the other as its router does."""

    async def endpoint(request: Any) -> None: ...

    routes = [Route(f"/service-{number}/orders", endpoint) for number in range(size)]
    scopes = {
        request[2]: {"type": "http", "method": "GET", "path": request[2].decode(), "root_path": "", "headers": []}
        for request in drawn(MIXES["exact"][1], size, count)
    }

    def find(_method: str, _host: str, path: bytes, _headers: object, _query: bytes) -> Route | None:
        scope = scopes[path]
        for each in routes:
            if each.matches(scope)[0] is Match.FULL:
                return each
        return None

    return Row("Starlette, exact", size, find, [("GET", "", path, [], b"") for path in scopes])


def measure(rows: list[Row], rounds: int) -> None:
    """All rows, in `rounds` rounds after one that only warms up."""
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):
        for row in random.sample(rows, len(rows)):
            cold, warm = row.turn(), row.turn()
            if number >= 0:
                row.cold_turns.append(cold)
                row.turns.append(warm)
    gc.unfreeze()


def table(rows: list[Row]) -> str:
    header = ["us per look-up, by routes", *(f"{size:,}" for size in SIZES), "cold", "build s", "change us"]
    lines = []
    for mix in dict.fromkeys(row.mix for row in rows):
        mine = {row.size: row for row in rows if row.mix == mix}
        cells = [f"{mine[size].us:.2f}" if size in mine else "" for size in SIZES]
        largest = mine[max(mine)]
        built = ["", "", ""]
        if largest.build:
            built = [f"{largest.cold:.2f}", f"{largest.build:.2f}", f"{largest.change:.0f}"]
        lines.append([mix, *cells, *built])
    return f"\n{report.grid(header, lines)}\ncold, build and change: of {SIZES[-1]:,} routes."


def bars(rows: list[Row]) -> tuple[str, bool]:
    """Every bar with its figure, and whether all were met."""
    lines, verdicts = [], []
    for row in rows:
        if row.build:
            verdicts.append(row.us <= BAR)
            met = "met   " if verdicts[-1] else "MISSED"
            lines.append(f"  {met}  {row.mix}, {row.size:,} routes: at most {BAR:.0f} us: {row.us:.2f} us")
            if row.size == SIZES[-1]:
                verdicts.append(row.build <= BAR_BUILD)
                met = "met   " if verdicts[-1] else "MISSED"
                lines.append(f"  {met}  {row.mix}, built in at most {BAR_BUILD} s: {row.build:.2f} s")
    return "\nBars\n" + "\n".join(lines), all(verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description="What it costs to find a gateway route.")
    parser.add_argument("--quick", action="store_true", help="few rounds: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 60, quick 10")
    given = parser.parse_args()
    rounds = given.rounds or (10 if given.quick else 60)
    stop_on_sigterm()
    with one_at_a_time():
        os.sched_setaffinity(0, FIRST_CORE)
        print(report.machine())
        peers = [starlettes(10, REQUESTS), starlettes(1000, 50)]
        rows = [*peers, *(ours(mix, size) for mix in MIXES for size in SIZES)]
        measure(rows, rounds)
    print(table(rows))
    lines, met = bars(rows)
    print(lines)
    if rounds < 60:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if met else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
