"""A gateway inside an app: two instances of a service behind /billing, a canary, a redirect and a maintenance page.

    pip install 'traffic-cop-middleware[proxy,demo]'
    python examples/gateway.py      # serves the gateway on 8000 and the services on 8101 to 8103

Then try

    curl -i http://127.0.0.1:8000/billing/invoices/7      # answered by one of two instances
    curl -i http://127.0.0.1:8000/billing/v2 -H 'X-Canary: yes'
    curl -i http://127.0.0.1:8000/old/page?a=1
    curl -i http://127.0.0.1:8000/shop
    curl -i http://127.0.0.1:8000/                        # the app's own
    curl -X PUT http://127.0.0.1:8000/maintenance         # the table is changed while it runs
    curl -i http://127.0.0.1:8000/billing/invoices/7
    curl -X DELETE http://127.0.0.1:8000/maintenance
"""

import asyncio

import uvicorn
from fastapi import FastAPI, Request

from traffic_cop_middleware import FixedResponse, Redirect, TrafficCop, Upstream

app = FastAPI(title="The app behind the gateway")
cop = TrafficCop(limits="600/minute")
cop.route(
    "/billing/*",
    to=[Upstream("http://127.0.0.1:8101", weight=3), Upstream("http://127.0.0.1:8102")],
    strip_prefix="/billing",
    limits="60/minute",  # beside those of the stack
)
cop.route(
    "/billing/*",
    name="billing-canary",
    headers={"x-canary": "*"},
    to="http://127.0.0.1:8103",
    strip_prefix="/billing",
)
cop.route("/old/*", to=Redirect("http://127.0.0.1:8000/billing", keep_path=True), strip_prefix="/old")
cop.route("/shop/*", to=FixedResponse(503, "Back at noon.", headers={"Retry-After": "3600"}))
cop.install(app)


@app.get("/")
async def index() -> dict[str, str]:
    return {"from": "the app itself"}


@app.put("/maintenance")  # in an app of yours: for administrators only
async def close_billing() -> dict[str, int]:
    page = FixedResponse(503, "Billing is back at noon.", headers={"Retry-After": "3600"})
    return {"version": await cop.routes.put("/billing/*", to=page, name="maintenance", priority=1)}


@app.delete("/maintenance")
async def open_billing() -> dict[str, bool]:
    return {"removed": await cop.routes.remove("maintenance")}


def service(name: str) -> FastAPI:
    """One instance of a service: it tells what it was asked."""
    instance = FastAPI(title=name)

    @instance.get("/{path:path}")
    async def show(request: Request) -> dict[str, object]:
        return {"from": name, "path": request.url.path, "headers": dict(request.headers)}

    return instance


def server(served: FastAPI, port: int) -> uvicorn.Server:
    # What the services say goes through as it is: no Date and Server of the gateway's beside theirs. And who the client
    # is, the gateway finds out (trusted_proxies=), not uvicorn.
    gateway = served is app
    config = uvicorn.Config(
        served,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="on",
        date_header=not gateway,
        server_header=not gateway,
        proxy_headers=False,
    )
    return uvicorn.Server(config)


async def main() -> None:
    servers = [server(service(f"billing-{number}"), 8100 + number) for number in (1, 2, 3)]
    print("http://127.0.0.1:8000/billing/invoices/7")
    await asyncio.gather(*(each.serve() for each in [*servers, server(app, 8000)]))


if __name__ == "__main__":
    asyncio.run(main())
