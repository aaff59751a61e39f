"""A gateway before two services of two instances each, one of which is killed while requests run.

    pip install 'traffic-cop-middleware[proxy,demo]'
    python examples/gateway.py           # kills an instance and starts it again; ends by itself after some seconds
    python examples/gateway.py serve     # serves a gateway on 8000 and its services on 8101 to 8103, until Ctrl-C

The first shows what becomes of requests, second by second. With the second try

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
import sys
from collections import Counter
from collections.abc import Sequence

import aiohttp
import uvicorn
from fastapi import FastAPI, Request

from traffic_cop_middleware import BalancingSettings, FixedResponse, HealthCheck, Redirect, TrafficCop, Upstream

# A gateway with all sorts of routes


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


def server(served: FastAPI, port: int, *, gateway: bool = False) -> uvicorn.Server:
    # What the services say goes through as it is: no Date and Server of the gateway's beside theirs. And who the client
    # is, the gateway finds out (trusted_proxies=), not uvicorn.
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


async def serve() -> None:
    servers = [server(service(f"billing-{number}"), 8100 + number) for number in (1, 2, 3)]
    print("http://127.0.0.1:8000/billing/invoices/7")
    await asyncio.gather(*(each.serve() for each in [*servers, server(app, 8000, gateway=True)]))


# Two services of two instances, each a process, and what a client sees when one is killed


NAMES = ("billing-1", "billing-2", "orders-1", "orders-2")
KILLED = "billing-2"
KILLED_AFTER, STARTED_AFTER, LONGEST = 2, 5, 40
"""Seconds."""


class Instance:
    """A process that serves one instance."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        command = (sys.executable, __file__, "instance", self.name, str(self.port))
        self.process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(await self.process.stdout.readline())  # it says so once it listens

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def started(served: uvicorn.Server) -> tuple[asyncio.Task[None], int]:
    """The task that runs a server, and its port."""
    task = asyncio.create_task(served.serve())
    while not served.started:
        if task.done():
            sys.exit("the server did not start")
        await asyncio.sleep(0.01)
    return task, served.servers[0].sockets[0].getsockname()[1]


async def instance(name: str, port: int) -> None:
    """What such a process runs."""
    task, listens = await started(server(service(name), port))
    print(listens, flush=True)
    await task


def two_services(billing: Sequence[str], orders: Sequence[str]) -> tuple[FastAPI, TrafficCop]:
    """A gateway before them. Whoever fails its checks gets no requests."""
    check = HealthCheck("/health", interval=0.5, unhealthy=2, healthy=1)
    balancing = BalancingSettings(policy="round-robin", slow_start=0.5)  # in turn, so that the columns are even
    gateway, policeman = FastAPI(title="A gateway"), TrafficCop()
    policeman.route("/billing/*", to=billing, check=check, balancing=balancing, strip_prefix="/billing")
    policeman.route("/orders/*", to=orders, check=check, balancing=balancing, strip_prefix="/orders")
    policeman.install(gateway)
    return gateway, policeman


async def requests(client: aiohttp.ClientSession, url: str, seen: Counter[str]) -> None:
    """Ask again and again, and count who answers, or that nobody did."""
    while True:
        try:
            async with client.get(url) as answer:
                seen[(await answer.json())["from"] if answer.status == 200 else "errors"] += 1
        except aiohttp.ClientError:
            seen["errors"] += 1
        await asyncio.sleep(0.02)


def row(first: object, *cells: object) -> str:
    return f"{first:>8}" + "".join(f"{cell:>11}" for cell in cells)


async def show() -> None:
    instances = {name: Instance(name) for name in NAMES}
    killed = instances[KILLED]
    try:
        await asyncio.gather(*(each.start() for each in instances.values()))
        urls = {name: each.url for name, each in instances.items()}
        gateway, policeman = two_services([urls["billing-1"], urls["billing-2"]], [urls["orders-1"], urls["orders-2"]])

        def state_of_killed() -> str:
            pools = policeman.balancing.pools()
            found = next(each for pool in pools for each in pool.instances if each.url == killed.url)
            return f"{found.state}: {found.reason}" if found.reason else found.state

        serving = server(gateway, 0, gateway=True)
        task, port = await started(serving)
        url = f"http://127.0.0.1:{port}"
        starting: asyncio.Task[None] | None = None
        left = 3  # seconds that it is shown for once it answers again
        async with aiohttp.ClientSession() as client:
            print(f"One gateway at {url}: /billing/* and /orders/* lead to two instances each.")
            print("Each row says how many requests of that second an instance answered.\n")
            print(row("second", *NAMES, "errors"))
            seen, total, told = Counter[str](), Counter[str](), state_of_killed()
            asking = [asyncio.create_task(requests(client, f"{url}/{each}/7", seen)) for each in ("billing", "orders")]
            for second in range(1, LONGEST + 1):
                await asyncio.sleep(1)
                print(row(second, *(seen[name] for name in (*NAMES, "errors"))), flush=True)
                total += seen
                answers = seen[KILLED] > 0
                seen.clear()
                if second == KILLED_AFTER and killed.process is not None:
                    print(f"  kill -9 {killed.process.pid}, which is {KILLED}, in the middle of it all", flush=True)
                    await killed.kill()
                if (now := state_of_killed()) != told:
                    told = now
                    print(f"  {KILLED} is {told}", flush=True)
                if second == STARTED_AFTER:
                    starting = asyncio.create_task(killed.start())
                    print(f"  {KILLED} is being started again", flush=True)
                left -= answers and starting is not None
                if not left:
                    break
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        serving.should_exit = True
        await task
        print(f"\n{total.total()} requests, {total['errors']} errors. What found {KILLED} dead went to billing-1.")
    finally:
        await asyncio.gather(*(each.kill() for each in instances.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["instance"]:
        asyncio.run(instance(sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(serve() if sys.argv[1:] == ["serve"] else show())
