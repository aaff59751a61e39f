"""What the traffic does: live for the program itself, and for Prometheus at /metrics.

    pip install traffic-cop-middleware fastapi uvicorn
    METRICS_TOKEN=a-token-that-nobody-guesses uvicorn examples.metrics:app --lifespan on
    curl -H 'Authorization: Bearer a-token-that-nobody-guesses' http://127.0.0.1:8000/metrics
    curl http://127.0.0.1:8000/status

With REDIS_URL=redis://localhost:6379/0 both tell of all workers and hosts that name it, so Prometheus needs one target:
the address of the service, not of each host. docs/grafana has a dashboard and alert rules.
"""

import asyncio
import logging
import os
import random
from typing import Any

from fastapi import FastAPI

from traffic_cop_middleware import TrafficCop, limit

logging.basicConfig(level=logging.INFO, format="%(message)s")

cop = TrafficCop(
    os.environ.get("REDIS_URL", "memory://"),
    metrics=True,
    metrics_path="/metrics",
    metrics_token=os.environ.get("METRICS_TOKEN", "a-token-that-nobody-guesses"),
    metrics_access_log=0.1,  # a tenth of the requests as JSON lines, and every one that failed
)
app = FastAPI()
cop.install(app)


@app.get("/items/{item}")
@limit("100/second")
async def item(item: int) -> dict[str, int]:
    await asyncio.sleep(random.lognormvariate(-5, 1))
    return {"item": item}


@app.get("/status")
async def status() -> dict[str, Any]:
    """The last minute in a few words, as all workers have counted it."""
    live = await cop.analytics.live()
    minute = live.last_minute
    return {
        "workers": live.workers,
        "requests_a_second": round(minute.total.rate, 2),
        "errors": minute.total.errors,
        "refused": minute.limits,
        "p95_by_route": {route: traffic.p95 for route, traffic in minute.routes.items()},
        "under_way": live.in_flight,
    }
