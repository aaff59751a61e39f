"""One worker process that serves requests to itself and counts them; `test_metrics_workers.py` starts several.

`python metrics_worker.py '<settings as JSON>'`. It writes "ready" when its app has started. Each line on its input is
a command: a number serves so many requests and is answered by how many it has served in all; "scrape" by the text of
/metrics on one line of JSON; "live" by the requests of the last minute, the workers, and whether that is complete;
"order N" counts N orders and a basket of 0.1 for each, and "orders" gives what all workers have of both. At the end of
its input, or at SIGTERM, its lifespan ends, and then it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.adapters.load import started
from tests.asgi import http_scope, send_through
from traffic_cop_middleware import BusinessMetric, TrafficCop

PATHS = ("/a/1", "/b", "/nowhere")


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def main(url: str, interval: float, deadline: float) -> None:
    cop = TrafficCop(
        url,
        namespace="traffic",
        deadline=deadline,
        metrics=True,
        metrics_interval=interval,
        metrics_path="/metrics",
        metrics_public=True,
        business_metrics=[BusinessMetric("orders", "count", ["plan"]), BusinessMetric("basket", "observe")],
    )
    app: Any = cop.wrap(Starlette(routes=[Route("/a/{x}", ok), Route("/b", ok)]))
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[str] = asyncio.Queue()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, commands.put_nowait, "")

    async def listen() -> None:
        while line := await reader.readline():
            commands.put_nowait(line.decode().strip())
        commands.put_nowait("")

    listening = asyncio.create_task(listen())
    served = 0
    async with started(app) as answer:
        assert answer["type"] == "lifespan.startup.complete", answer
        say("ready")
        while command := await commands.get():
            if command == "scrape":
                sent = await send_through(app, http_scope("/metrics"))
                say(json.dumps([sent[0]["status"], sent[1]["body"].decode()]))
            elif command == "live":
                live = await cop.analytics.live()
                say(json.dumps([live.last_minute.total.requests, live.workers, live.complete]))
            elif command == "flush":
                await cop.analytics.flush()
                say("flushed")
            elif command.startswith("order "):
                for _ in range(int(command.removeprefix("order "))):
                    cop.business_metrics.count("orders", plan="pro")
                    cop.business_metrics.observe("basket", 0.1)
                say("ordered")
            elif command == "orders":
                found = [(await cop.business_metrics.read(name, "15m")).total.value for name in ("orders", "basket")]
                say(json.dumps(found))
            else:
                for _ in range(int(command)):
                    await send_through(app, http_scope(PATHS[served % len(PATHS)]))
                    served += 1
                say(served)
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    asyncio.run(main(settings["url"], settings["interval"], settings["deadline"]))
