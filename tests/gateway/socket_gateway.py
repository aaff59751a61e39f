"""A gateway in a process of its own, whose memory can be measured: `python -m tests.gateway.socket_gateway PORT URL`.

`/gateway/state` tells its resident and peak memory in bytes and its tasks; `?reset` lets the peak begin anew.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from traffic_cop_middleware import TrafficCop


def memory(*, reset: bool) -> dict[str, int]:
    """Bytes that this process holds, and the most that it held."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[line].split()[0]) * 1024 for name, line in (("resident", "VmRSS"), ("peak", "VmHWM"))}


async def state(request: Request) -> JSONResponse:
    gc.collect()
    return JSONResponse({**memory(reset="reset" in request.query_params), "tasks": len(asyncio.all_tasks())})


def main(port: str, url: str) -> None:
    cop = TrafficCop()
    cop.route("/*", to=url)
    cop.route("/short/*", to=url, idle_deadline=1)
    app = Starlette(routes=[Route("/gateway/state", state)])
    cop.route("/gateway/state", to=app, priority=1)
    uvicorn.run(cop.wrap(Starlette()), port=int(port), ws="websockets-sansio", log_level="error", ws_ping_interval=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
