"""The least there is: an app, a limit on all of it, a tighter one on a route.

uvicorn examples.minimal:app --lifespan on
curl -i http://127.0.0.1:8000/search?q=tea      # eleven times within a minute: the last is a 429
"""

from fastapi import FastAPI

from traffic_cop_middleware import TrafficCop, exempt, limit

cop = TrafficCop(limits="100/minute")
app = FastAPI()
cop.install(app)


@app.get("/search")
@limit("10/minute")
async def search(q: str = "") -> dict[str, str]:
    return {"q": q}


@app.get("/health")
@exempt
async def health() -> dict[str, str]:
    return {"status": "ok"}
