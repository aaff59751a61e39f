"""The example shop under a clock of the test's own: real requests through the real stack, that take recorded times.

Nothing sleeps: the stopwatch of the metrics is a clock that each request moves on by a duration of `recorded.SHOP`, and
what a test adds to it. So a day of traffic passes in seconds, and every layer is the one of production.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from examples import shop as example
from tests.asgi import http_scope, send_through
from tests.insights.recorded import DAY, MEANS, SHOP
from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.middleware import metrics
from traffic_cop_middleware.testing import FakeClock

ORDER = [{"type": "http.request", "body": b'{"product": 1}', "more_body": False}]


class Simulated:
    """Drives traffic at the shop behind a cop, minute by minute.

    `slow` gives the seconds that a request takes beyond its own, `fails` how likely it is to fail; each by its name and
    the time.
    """

    def __init__(self, cop: TrafficCop, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, *, seed: int = 1) -> None:
        self.clock = clock
        self.slow: Callable[[str, float], float] = lambda name, at: 0.0
        self.fails: Callable[[str, float], float] = lambda name, at: 0.0
        self._rng = random.Random(seed)
        self._watch = 1_000.0
        monkeypatch.setattr(metrics, "perf_counter", lambda: self._watch)
        self.app = FastAPI()
        self.app.router.routes.extend(example.app.router.routes)
        self.app.add_middleware(Taking, simulated=self)
        cop.install(self.app)

    async def serve(self, name: str) -> None:
        """One request, of a client of its own: the limits of the example's routes are by client."""
        method, route = name.split(" ")
        client = (f"10.{self._rng.randrange(256)}.{self._rng.randrange(256)}.{self._rng.randrange(256)}", 4711)
        more = {"headers": [(b"content-type", b"application/json")]} if method == "POST" else {}
        scope = http_scope(route, method, client=client, simulated=name, **more)
        await send_through(self.app, scope, ORDER if method == "POST" else ())

    def takes(self, name: str) -> bool:
        """Let the time of a request pass; whether it fails."""
        at = self.clock()
        self._watch += self._rng.choice(SHOP[name]) / 1e6 + self.slow(name, at)
        return self._rng.random() < self.fails(name, at)

    async def minute(self) -> None:
        """A minute of traffic, shaped as `recorded.shop` has it."""
        for name, mean in MEANS.items():
            expected = mean / 5 * (1 + 0.6 * math.sin((self.clock() % DAY / DAY - 0.35) * 2 * math.pi))
            for _ in range(max(0, round(self._rng.gauss(expected, math.sqrt(expected))))):
                await self.serve(name)
        self.clock.advance(60)


class Taking:
    """Stands right before the routes, and has their requests take their time."""

    def __init__(self, app: ASGIApp, *, simulated: Simulated) -> None:
        self.app = app
        self._simulated = simulated

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._simulated.takes(scope["simulated"]):
            await PlainTextResponse("broken", status_code=500)(scope, receive, send)
            return
        await self.app(scope, receive, send)
