"""What counting costs, and what reading the counts costs, beside the peers.

    python benchmarks/metrics.py                # all of it: some minutes
    python benchmarks/metrics.py --only cost    # or "read", or "business"
    python benchmarks/metrics.py --only cost --rounds 3    # whether it runs at all: no figure of it counts

**cost**: microseconds of CPU that each middleware adds to a request, in one process and one event loop without a
server: the app is called with a scope, its response is dropped. Every contestant wraps an app of its own that the same
function has made, and gets the same requests: Starlette with one route, FastAPI with four routes in two included
routers. The garbage collector runs as it does in a server, but for what was there at the start.

In each round every contestant, and the bare app, has one turn of 256 requests, in an order that is drawn anew: we add
up 256 requests at once, so every turn pays for that, and once. The statistic is one, and was fixed before anything was
measured by it: the median over the rounds of the difference to the bare app *in the same round*, by the CPU time of the
process. A slower clock or a busy neighbour moves both sides of such a difference, and half of the rounds would have to
be spoilt to move the median. The bars are judged by it alone, ours and the peers'. In parentheses, for information, the
difference of the shortest turns: what is paid where nothing disturbs.

**read**: 400 workers with 50 series each. Ours: their blobs from a Redis of its own, added up off the loop; then the
text for 300 series. prometheus_client: its multiprocess mode over the files of 400 processes with the same counters and
histograms. And the live view of these workers, and of as many with 300 series, each series with 100 requests in every
10 seconds (1,200,000 requests a second in all): a first look where nothing is sealed, as after an outage; one where
what is over is sealed, as workers do by turns; and the looks that follow on one another, when nobody but the reader has
written since, and when everybody has, as it is every second. All along the event loop may be late by 10 ms at the most.
Told is how late a sleeper of a millisecond woke up, less the time for which a thread of ours was ready to run while
something else had its core; in parentheses all of it.

**business**: microseconds of CPU for one call of `cop.business_metrics`: the shortest and the median of rounds of
10,000, without attributes and with two. And what a cost function adds to a request, by the statistic of **cost**.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from harness import HERE, RedisServer, environment, one_at_a_time

ROUNDS, REQUESTS = 150, 256
WORKERS, SERIES, SHOWN = 400, 50, 300
MOST_LATE = 0.01
"""Seconds by which the event loop may be late while others' counts are read."""
FIRST_LOOK, LATER_LOOK = 5.0, 0.5
"""Seconds that a look at the live view may take, with the most series."""
PATHS = {"starlette": "/search", "fastapi": "/part1/thing1/42"}


# Cost


def bare_app(framework: str) -> Any:
    if framework == "starlette":
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def search(request: Any) -> Any:
            return JSONResponse({"ok": True})

        return Starlette(routes=[Route("/search", search)])
    from fastapi import APIRouter, FastAPI

    app = FastAPI()
    for part in range(2):
        router = APIRouter(prefix=f"/part{part}")
        for number in range(2):

            @router.get(f"/thing{number}/{{thing_id}}")
            async def thing(thing_id: int) -> dict[str, bool]:
                return {"ok": True}

        app.include_router(router)
    return app


def ours(framework: str) -> Any:
    from traffic_cop_middleware import MetricsMiddleware

    app = bare_app(framework)
    app.add_middleware(MetricsMiddleware)
    return app


def instrumentator(framework: str) -> Any:
    from prometheus_client import CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator

    app = bare_app(framework)
    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


def exporter(framework: str) -> Any:
    from starlette_exporter import PrometheusMiddleware

    app = bare_app(framework)
    app.add_middleware(PrometheusMiddleware, prefix=f"bench_{framework}")
    return app


def opentelemetry(framework: str) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.trace import NoOpTracerProvider

    app = bare_app(framework)
    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    app.add_middleware(OpenTelemetryMiddleware, meter_provider=provider, tracer_provider=NoOpTracerProvider())
    return app


def with_costs(framework: str) -> Any:
    from traffic_cop_middleware import TrafficCop

    def price(route: str, method: str, status: int, seconds: float, bytes_out: int) -> float:
        return 1e-6 * bytes_out

    return TrafficCop(metrics=True, business_metrics_cost=price).wrap(bare_app(framework))


def without_costs(framework: str) -> Any:
    from traffic_cop_middleware import TrafficCop

    return TrafficCop(metrics=True).wrap(bare_app(framework))


VARIANTS: dict[str, Callable[[str], Any]] = {
    "bare": bare_app,
    "traffic cop": ours,
    "prometheus-fastapi-instrumentator": instrumentator,
    "starlette_exporter": exporter,
    "opentelemetry-instrumentation-asgi": opentelemetry,
}


def scope_of(framework: str) -> dict[str, Any]:
    path = PATHS[framework]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: Any) -> None:
    return


async def cpu(app: Any, framework: str, requests: int) -> float:
    """Microseconds of CPU per request."""
    scopes = [scope_of(framework) for _ in range(requests)]
    start = time.process_time()
    for scope in scopes:
        await app(scope, receive, send)
    return (time.process_time() - start) / requests * 1e6


async def cost(framework: str, rounds: int, variants: dict[str, Callable[[str], Any]]) -> dict[str, float]:
    """What each contestant adds, by the statistic of the docstring."""
    apps = {name: make(framework) for name, make in variants.items()}
    for app in apps.values():
        await cpu(app, framework, REQUESTS)
    gc.collect()
    gc.freeze()  # as after the start of a server: what the apps are made of is not gone through again and again
    took: dict[str, list[float]] = {name: [] for name in apps}
    order, source = list(apps), random.Random(1)
    for _ in range(rounds):
        source.shuffle(order)
        for name in order:
            took[name].append(await cpu(apps[name], framework, REQUESTS))
    gc.unfreeze()
    bare = took.pop("bare")
    print(f"\n{framework}: microseconds of CPU per request, {rounds} rounds of {REQUESTS}: median (shortest)")
    print(f"   {statistics.median(bare):7.1f} ({min(bare):.1f})  the bare app itself")
    added = {}
    for name, each in took.items():
        added[name] = statistics.median(mine - its for mine, its in zip(each, bare, strict=True))
        print(f"  +{added[name]:7.1f} ({min(each) - min(bare):.1f})  {name}")
    return added


def show_cost(rounds: int) -> bool:
    held = True
    for framework, most in (("starlette", 6.0), ("fastapi", 10.0)):
        found = asyncio.run(cost(framework, rounds, VARIANTS))
        cheapest = min(each for name, each in found.items() if name != "traffic cop")
        mine = found["traffic cop"]
        print(f"  at most {most:g}: {mine:.1f}; the cheapest of the others costs {cheapest / mine:.1f} times as much")
        held &= mine <= most and cheapest >= 4 * mine
    return held


# Business

CALLS, MOST_CALL = 10_000, 3.0
"""Calls of a round, and microseconds that one may take."""


def show_business(rounds: int) -> bool:
    from traffic_cop_middleware import BusinessMetric, TrafficCop

    metrics = [
        BusinessMetric(f"{kind}_{number}", kind, attributes=["plan", "tenant"][:number])
        for kind in ("count", "gauge", "observe")
        for number in (0, 2)
    ]
    it = TrafficCop(metrics=True, business_metrics=metrics).business_metrics
    calls: dict[str, Callable[[str], None]] = {
        "count, no attributes": lambda tenant: it.count("count_0"),
        "count, two attributes": lambda tenant: it.count("count_2", plan="pro", tenant=tenant),
        "gauge, no attributes": lambda tenant: it.gauge("gauge_0", 7.5),
        "gauge, two attributes": lambda tenant: it.gauge("gauge_2", 7.5, plan="pro", tenant=tenant),
        "observe, no attributes": lambda tenant: it.observe("observe_0", 19.99),
        "observe, two attributes": lambda tenant: it.observe("observe_2", 19.99, plan="pro", tenant=tenant),
    }
    tenants = [f"tenant {number % 500}" for number in range(CALLS)]
    print(f"\nbusiness: microseconds of CPU per call, {rounds} rounds of {CALLS}: median (shortest)")
    held = True
    for name, call in calls.items():
        took = []
        for _ in range(rounds):
            start = time.process_time()
            for tenant in tenants:
                call(tenant)
            took.append((time.process_time() - start) / CALLS * 1e6)
        print(f"  {statistics.median(took):6.2f} ({min(took):.2f})  {name}")
        held &= statistics.median(took) <= MOST_CALL
    print(f"  at most {MOST_CALL:g} each")
    added = asyncio.run(cost("starlette", rounds, {"bare": without_costs, "a cost function": with_costs}))
    print(f"  a cost function adds {added['a cost function']:.1f} to a request that is counted")
    return held


# Reading


def figures_of(source: random.Random, series: int, requests: int = 100) -> Any:
    from traffic_cop_middleware.abstractions.metrics.figures import Figures
    from traffic_cop_middleware.abstractions.metrics.series import Series

    figures = Figures()
    for number in range(series):
        one = figures.requests[f"/part{number // 3}/things/{{id}}", "GET", (200, 404, 500)[number % 3]] = Series()
        for _ in range(requests):
            seconds = source.lognormvariate(-4, 1)
            one.pending.append((seconds, seconds * 0.8, 100, 1000))
        one.settle()
    return figures


class Lag:
    """How late the event loop's timers were, in seconds: a sleeper of a millisecond. `own`: without other programs."""

    def __init__(self) -> None:
        self.worst = self.own = 0.0

    async def watch(self) -> None:
        waited = waited_for_a_core()
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late = time.perf_counter() - start - 0.001
            before, waited = waited, waited_for_a_core()
            self.worst = max(self.worst, late)
            self.own = max(self.own, late - (waited - before))

    def __str__(self) -> str:
        return f"event loop late by {self.own * 1e3:.1f} ms at the most ({self.worst * 1e3:.1f})"


def waited_for_a_core() -> float:
    """Seconds for which threads of this process were ready to run, and had none. One may hold what all wait for."""
    waited = 0
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/schedstat", "rb", 0) as stat:
            waited += int(stat.read().split()[1])
    return waited / 1e9


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[Lag]:
    lag = Lag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0.01)
    try:
        yield lag
    finally:
        watching.cancel()
        await asyncio.wait([watching])


class Live(NamedTuple):
    """Seconds: a first look where what is over is sealed, a later one when all have written; how late the loop was."""

    first: float
    later: float
    late: float


class Read(NamedTuple):
    """What reading took, in seconds: the counters with their text, the live view; how late the loop was at the most."""

    seconds: float
    live: Live
    late: float


async def ours_read(url: str) -> Read:
    from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
    from traffic_cop_middleware.abstractions.metrics.prometheus import exposition
    from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
    from traffic_cop_middleware.abstractions.metrics.sums import encode_sums
    from traffic_cop_middleware.adapters.memory.history import MemoryHistory
    from traffic_cop_middleware.adapters.redis import open as open_redis
    from traffic_cop_middleware.contracts import Flush

    backend = open_redis(url, namespace="bench", deadline=10, notify=lambda event: None)
    await backend.connect()
    source = random.Random(1)
    kinds = [encode_sums(figures_of(source, SERIES)) for _ in range(8)]
    for worker in range(WORKERS):
        blob = kinds[worker % len(kinds)]
        await backend.metrics.flush(f"w{worker}", Flush(1, 0, blob, b"", {}))
    analytics = AnalyticsAbstraction(backend.metrics, Recorder(clock=time.time), interval=1.0, history=MemoryHistory())
    await analytics.totals()
    took = []
    async with watched() as idle:
        await asyncio.sleep(2)
    async with watched() as lag:
        for _ in range(5):
            start = time.perf_counter()
            counted = await analytics.totals()
            took.append(time.perf_counter() - start)
    assert sum(series.count for series in counted.figures.requests.values()) == WORKERS * SERIES * 100
    figures = figures_of(source, SHOWN)
    texts = []
    for openmetrics in (False, True):
        start = time.perf_counter()
        text = exposition(figures, workers=WORKERS, openmetrics=openmetrics)
        texts.append((time.perf_counter() - start, len(text)))
    print(f"\nan idle {idle}")
    print(f"\nreading {WORKERS} workers of {SERIES} series ({len(kinds[0]) / 1024:.1f} KiB each)")
    print(f"  ours: {statistics.median(took) * 1e3:.0f} ms, {lag}")
    for name, (seconds, size) in zip(("text", "OpenMetrics"), texts, strict=True):
        print(f"  {name} for {SHOWN} series: {seconds * 1e3:.1f} ms, {size / 1024:.0f} KiB")
    views = [await live_read(backend.metrics, series) for series in (SERIES, SHOWN)]
    await backend.close()
    return Read(statistics.median(took) + texts[0][0], views[-1], max(lag.own, *(view.late for view in views)))


async def live_read(store: Any, series: int) -> Live:
    from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
    from traffic_cop_middleware.abstractions.metrics.recorder import MINUTE, SLOT, Recorder
    from traffic_cop_middleware.abstractions.metrics.summary import encode, summary_of
    from traffic_cop_middleware.abstractions.metrics.windows import tails_of, windows_at
    from traffic_cop_middleware.adapters.memory.history import MemoryHistory
    from traffic_cop_middleware.contracts import Flush

    moment = time.time() // MINUTE * MINUTE + MINUTE - 5  # when the most windows are read; there the clock stands
    slots, minutes = windows_at(int(moment) // SLOT)
    source = random.Random(2)
    ten, sixty = ([encode(summary_of(figures_of(source, series, each))) for _ in range(8)] for each in (100, 600))
    minute = [dict.fromkeys(minutes, blob) | dict.fromkeys(tails_of(minutes), b"") for blob in sixty]
    expected = WORKERS * series * (100 * len(slots) + 600 * len(minutes))
    sequence = round(time.time() * 1000)

    async def write(windows: list[dict[str, bytes]]) -> None:
        nonlocal sequence
        sequence += 1
        for worker in range(WORKERS):
            await store.flush(f"w{worker}", Flush(sequence, 0, None, b"", windows[worker % 8]))

    print(f"\nlive view of {WORKERS} workers of {series} series ", end="")
    print(f"({len(ten[0]) / 1024:.1f} KiB for 10 seconds, {len(sixty[0]) / 1024:.1f} for a minute)")
    gc.collect()
    gc.freeze()  # as in `cost`
    found = []
    for name, which in (("nothing is sealed", slots), ("what is over is sealed", slots[-2:])):
        await write([dict.fromkeys(which, ten[kind]) | (minute[kind] if which is slots else {}) for kind in range(8)])
        analytics = AnalyticsAbstraction(store, Recorder(clock=lambda: moment), interval=1.0, history=MemoryHistory())
        took, used, lags = [], [], []
        for look in range(6):
            if look > 2:
                await write([{slots[-1]: ten[kind]} for kind in range(8)])
            async with watched() as lag:
                start, cpu_before = time.perf_counter(), time.process_time()
                live = await analytics.live()
                took.append(time.perf_counter() - start)
                used.append(time.process_time() - cpu_before)
            lags.append(lag)
            assert live.last_15_minutes.total.requests == expected
        late = max(lags, key=lambda lag: lag.own)
        print(f"  {name}: first {took[0]:.1f} s ({used[0]:.1f} s of CPU); ", end="")
        for what, some in (("nobody", slice(1, 3)), ("everybody", slice(3, 6))):
            print(f"when {what} has written since {statistics.median(took[some]):.2f} s ", end="")
            print(f"({statistics.median(used[some]):.2f}); ", end="")
        print(late)
        found.append(Live(took[0], statistics.median(took[3:]), late.own))
    gc.unfreeze()
    return Live(found[-1].first, max(each.later for each in found), max(each.late for each in found))


WRITER = """
import random, sys
import prometheus_client as p
first, last, series = map(int, sys.argv[1:])
import prometheus_client.values as values
for pid in range(first, last):
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda pid=pid: pid)
    import prometheus_client.metrics as metrics
    metrics.values.ValueClass = values.ValueClass
    registry = p.CollectorRegistry()
    labels = ["method", "route", "status"]
    bounds = (.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10)
    kinds = [p.Histogram(n, n, labels, buckets=bounds, registry=registry) for n in ("duration", "first_byte")]
    counters = [p.Counter(n, n, labels, registry=registry) for n in ("bytes_in", "bytes_out", "exceptions")]
    for number in range(series):
        place = ("GET", f"/part{number // 3}/things/{{id}}", str((200, 404, 500)[number % 3]))
        for kind in kinds:
            child = kind.labels(*place)
            for _ in range(3):
                child.observe(random.lognormvariate(-4, 1))
        for counter in counters:
            counter.labels(*place).inc(100)
"""
READER = """
import time
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
took = []
for _ in range(3):
    start = time.perf_counter()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    text = generate_latest(registry)
    took.append(time.perf_counter() - start)
print(sorted(took)[1])
"""


def theirs_read() -> float:
    with tempfile.TemporaryDirectory(prefix="traffic-cop-bench-") as folder:
        variables = environment(PROMETHEUS_MULTIPROC_DIR=folder)
        run = partial(subprocess.run, env=variables, check=True, capture_output=True, text=True)
        run([sys.executable, "-c", WRITER, "1", str(WORKERS + 1), str(SERIES)])
        files = list(Path(folder).iterdir())
        size = sum(file.stat().st_size for file in files)
        took = float(run([sys.executable, "-c", READER]).stdout)
    print(f"  prometheus_client's multiprocess mode: {took * 1e3:.0f} ms ({len(files)} files, {size / 2**20:.0f} MiB)")
    return took


def show_read() -> bool:
    with RedisServer() as redis:
        mine, live, late = asyncio.run(ours_read(redis.url))
    theirs = theirs_read()
    print(f"  with the text, ours takes {mine * 1e3:.0f} ms: theirs takes {theirs / mine:.1f} times as long")
    print(f"  event loop late by at most {MOST_LATE * 1e3:.0f} ms: {late * 1e3:.1f}")
    looks = f"{live.first:.2f}; later ones at most {LATER_LOOK:g} s: {live.later:.2f}"
    print(f"  with {SHOWN} series: first look at most {FIRST_LOOK:g} s: {looks}")
    return theirs >= 5 * mine and late < MOST_LATE and live.first <= FIRST_LOOK and live.later <= LATER_LOOK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["cost", "read", "business"])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the cost (default: %(default)s)")
    asked = parser.parse_args()
    os.chdir(HERE.parent)
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    shows: dict[str, Callable[[], bool]] = {"cost": partial(show_cost, asked.rounds), "read": show_read}
    shows["business"] = partial(show_business, asked.rounds)
    with one_at_a_time():
        held = [show() for name, show in shows.items() if asked.only in (None, name)]
    print("\nall bars held" if all(held) else "\na bar was missed")
    raise SystemExit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
