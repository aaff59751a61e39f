"""Many workers and hosts, one set of buckets: they share the Redis that they name.

    pip install 'traffic-cop-middleware[redis]' fastapi uvicorn
    REDIS_URL=redis://localhost:6379/0 uvicorn examples.redis_shared:app --workers 4 --lifespan on
    for i in $(seq 12); do curl -s -o /dev/null -w '%{http_code} ' http://127.0.0.1:8000/search; done   # ten times 200

Stop Redis meanwhile: each worker goes on with its share of the quota, logs that once, and comes back by itself.
"""

import logging
import os

from fastapi import FastAPI

from traffic_cop_middleware import Event, TrafficCop, by_everyone, limit

log = logging.getLogger("shop")


def watch(event: Event) -> None:
    """Called inside the request: only take note here."""
    if event.kind.startswith("store."):
        log.warning("%s %s", event.kind, dict(event.attributes))


cop = TrafficCop(
    os.environ.get("REDIS_URL", "redis://localhost:6379/0"),
    limits="100/minute",
    on_outage="local",  # or "allow", or "refuse" (503 with Retry-After)
    trusted_proxies=["10.0.0.0/8", "127.0.0.0/8"],  # whose X-Forwarded-For is believed
    observer=watch,
)
app = FastAPI()
cop.install(app)


@app.get("/search")
@limit("10/minute")
async def search(q: str = "") -> dict[str, str]:
    return {"q": q}


@app.get("/report")
@limit("2/second; 1000/day", key=by_everyone)  # an expensive one: for all clients together
async def report() -> dict[str, str]:
    return {"report": "..."}
