"""The public names as users write them: pyright and mypy read this, nobody runs it."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

from traffic_cop_middleware import (
    Event,
    RateLimitMiddleware,
    Refusal,
    TrafficCop,
    TrafficCopMiddleware,
    by_api_key,
    by_everyone,
    by_ip,
    by_route,
    exempt,
    limit,
)


def watch(event: Event) -> None:
    print(event.kind, event.attributes)


def own_answer(connection: HTTPConnection, refusal: Refusal) -> Response:
    return PlainTextResponse(refusal.detail, refusal.status)


async def by_customer(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-customer")


def by_size(connection: HTTPConnection) -> float:
    return 2.0


async def known(key: str) -> bool:
    return key == "secret"


cop = TrafficCop(
    "redis://localhost:6379/0",
    limits=["100/minute", limit("10/second; 1000/day", key=by_everyone)],
    on_outage={"limits": "allow"},
    trusted_proxies=["10.0.0.0/8"],
    observer=watch,
    limits_on_refusal=own_answer,
)
app = FastAPI()
cop.install(app)
cop.limit("/admin/*", limit("5/minute", key=by_route))
unsubscribe = cop.subscribe(watch)
wrapped = cop.wrap(app)


@app.get("/search")
@limit("10/minute", burst=20, key=by_customer, cost=by_size)
async def search(request: Request, q: str) -> dict[str, str]:
    return {"q": q}


@app.get("/orders")
@limit("3/minute", key=by_api_key(verify=known), methods=["GET"])
@limit("30/hour", key=by_ip, name="orders")
def orders() -> list[str]:
    return []


@app.get("/health")
@exempt
async def health() -> str:
    return "ok"


plain = Starlette()
plain.add_middleware(TrafficCopMiddleware, backend="memory://", limits="100/minute")
plain.add_middleware(RateLimitMiddleware, backend="memory://", limits="100/minute", on_outage="refuse")
plain.add_middleware(RateLimitMiddleware, limts="100/minute")  # type: ignore[call-arg]  # a typo is an error
plain.add_middleware(TrafficCopMiddleware, limits=1)  # type: ignore[arg-type]  # and so is a wrong type
