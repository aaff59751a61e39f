"""What the traffic has been doing, and since when: recorded, asked, and told in sentences.

    pip install traffic-cop-middleware
    python examples/analytics.py

The traffic is simulated: two days pass in 10 to 15 seconds, on a clock of the example's own. But each request goes
through the app and the cop, is counted by it, and takes the time that it takes; so on a busy machine it is slower.
In an app of yours `metrics_on_insight=` is called with what stands out, in one of all workers.
"""

import asyncio
import math
import random
import sys
import tempfile
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from traffic_cop_middleware import TrafficCop, simulate_log
from traffic_cop_middleware.adapters.memory import MemoryBackend

DAY, HOUR, MINUTE = 86_400, 3_600, 60
END = datetime(2026, 3, 4, 15, 0, tzinfo=UTC).timestamp()
SLOW_FROM, FAILS_FROM = END - 50 * MINUTE, END - 20 * MINUTE
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
A_MINUTE = {("GET", "/products"): 3.0, ("GET", "/search"): 5.0, ("POST", "/orders"): 2.0}
"""Requests of each route in a minute of the middle of the day."""


class Calendar:
    """The time of the simulation. Without it a backend goes by the time of the day."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def products(request: Request) -> Response:
    return PlainTextResponse("green tea, black tea")


async def search(request: Request) -> Response:
    await asyncio.sleep(random.uniform(0.0005, 0.0015) if calendar() < SLOW_FROM else 0.04)
    return PlainTextResponse("green tea")


async def order(request: Request) -> Response:
    return PlainTextResponse("no stock service", 503) if calendar() >= FAILS_FROM else PlainTextResponse("sold")


INTRODUCTION = """\
A shop's app serves {days:g} simulated days, until {end:%A, %H:%M} UTC. It takes 10 to 15 seconds.
Two things go wrong near the end, and nobody tells the cop:
  from 14:10 on searches wait for a slow index, and from 14:40 on orders fail.
Then it is asked what the traffic was, what stands out since when, and whom a limit would have refused."""

calendar = Calendar(END)
routes = [Route("/products", products), Route("/search", search), Route("/orders", order, methods=["POST"])]


async def request(app: Any, method: str, path: str, client: str, log: list[str]) -> None:
    """One request from that address, noted as an access log would."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "client": (client, 50_000),
        "server": ("shop", 80),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            time = datetime.fromtimestamp(calendar(), UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
            log.append(f'{client} - - [{time}] "{method} {path} HTTP/1.1" {message["status"]} 10')

    await app(scope, receive, send)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[None]:
    """Starts and stops the app as a server does; within, `cop.analytics` is open."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    await from_app.get()
    try:
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await running


async def simulate(app: Any, cop: TrafficCop, rng: random.Random) -> list[str]:
    """What comes until END. Gives the access log."""
    log: list[str] = []
    while calendar() < END + MINUTE:
        busy = 1 + 0.7 * math.sin((calendar() % DAY / DAY - 0.3) * 2 * math.pi)  # most at about 13:00
        coming = []
        for (method, path), number in A_MINUTE.items():
            for _ in range(int(number * busy + rng.random())):
                client = f"10.0.0.{min(200, int(rng.paretovariate(0.6)))}"  # some ask far more than others
                coming.append(request(app, method, path, client, log))
        await asyncio.gather(*coming)
        calendar.now += MINUTE
        if calendar() % (15 * MINUTE) < MINUTE:  # a worker does this by itself, each minute
            await cop.analytics.traffic("15m")
        if calendar() % (8 * HOUR) < MINUTE:
            print(f"  … {datetime.fromtimestamp(calendar(), UTC):%A, %H:%M}: {len(log):,} requests", flush=True)
    return log


async def main(days: float = 2.0) -> None:
    calendar.now = END - days * DAY
    with tempfile.TemporaryDirectory() as folder:
        cop = TrafficCop(
            MemoryBackend(clock=calendar),
            metrics=True,
            documents="memory://",  # here the history need not last; in an app of yours "sqlite:///state.db"
        )
        app = Starlette(routes=routes)
        cop.install(app)
        print(INTRODUCTION.format(days=days, end=datetime.fromtimestamp(END, UTC)), flush=True)
        async with served(app):
            log = await simulate(app, cop, random.Random(1))
            await report(cop)
        await asyncio.to_thread(advise, Path(folder, "access.log"), log)


def advise(file: Path, log: list[str]) -> None:
    file.write_text("\n".join(log) + "\n")
    print("\nwhat a limit of 2/minute for each address would have refused, by the access log (simulate_log)")
    print(f"  {simulate_log(file, '2/minute', by='ip', most_shown=3)}")


async def report(cop: TrafficCop) -> None:
    traffic = await cop.analytics.traffic("24h")
    print("\nthe last 24 hours (traffic)")
    for route, each in traffic.groups.items():
        print(f"  {route:10} {each.requests:6} requests  {each.errors:4} errors  p95 {(each.p95 or 0) * 1000:6.1f} ms")

    print("\nagainst the 24 hours before (compare)")
    for change in (await cop.analytics.compare("24h")).changes:
        ratios = (change.rate_ratio, change.p95_ratio)
        print(f"  {change.name:10} requests x {ratios[0] or 0:.2f}  p95 x {ratios[1] or 0:.2f}", end="")
        print(f"  errors {change.error_share * 100:+.1f} %")

    patterns = await cop.analytics.patterns("7d")
    print("\nbusiest hours, and how fast answers were under how much traffic (patterns)")
    for busy in patterns.busiest[:3]:
        print(f"  {DAYS[busy.weekday]} {busy.hour}:00: {busy.rate * 60:4.1f} requests a minute")
    for level in patterns.load:
        print(f"  up to {level.most_rate * 60:4.1f} requests a minute: p95 {level.p95 * 1000:6.1f} ms")

    print("\nwhat stands out in the last hour (insights)")
    for insight in await cop.analytics.insights("1h"):
        print(f"  {insight.severity}: {insight.sentence} (confidence {insight.confidence})")

    print("\nwhat a limit of 5/minute for each route would have refused, by the history (simulate_limit)")
    print(f"  {await cop.analytics.simulate_limit('5/minute', by='route', range='24h', most_shown=3)}")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0))
