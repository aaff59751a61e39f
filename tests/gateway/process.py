"""A gateway in a process of its own, whose memory, descriptors and tasks can be asked for.

`python -m tests.gateway.process PARSER UPSTREAM` prints its port; /up/* goes to the upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.gateway.raw import client, get

ROOT = Path(__file__).parents[2]
STATUS = Path("/proc/self/status")


class State(NamedTuple):
    """Of a process: memory in bytes, now and at most since last asked; open descriptors; tasks of its loop."""

    memory: int
    peak: int
    descriptors: int
    tasks: int


def state() -> State:
    """This process's."""
    gc.collect()
    found = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    memory, peak = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return State(memory, peak, len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()))


class Process:
    """A running gateway. `log` is what it wrote to its standard error, once it has ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.log = ""

    async def state(self) -> State:
        async with client(self.port) as peer:
            await peer.send(get(b"/state", b"Connection: close"))
            return State(*json.loads((await peer.message()).body))


@contextlib.asynccontextmanager
async def process(url: str, parser: str) -> AsyncIterator[Process]:
    """A gateway's process, ended at the end."""
    command = (sys.executable, "-m", "tests.gateway.process", parser, url)
    pipe = asyncio.subprocess.PIPE
    started = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    assert started.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = await started.stdout.readline()
        found = Process(int(line))
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        _, errors = await started.communicate()
    found.log = errors.decode()
    assert "Traceback" not in found.log, found.log


def main(parser: Any, url: str) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from traffic_cop_middleware import TrafficCop

    async def show(request: Any) -> JSONResponse:
        return JSONResponse(state())

    cop = TrafficCop()
    cop.route("/up/*", to=url)
    app = cop.wrap(Starlette(routes=[Route("/state", show)]))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, http=parser, access_log=False, lifespan="on", log_level="error")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(*sys.argv[1:])
