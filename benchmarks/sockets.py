"""WebSocket messages through the gateway, beside the same echo server asked directly.

    python benchmarks/sockets.py [--seconds N]

32 connections send 16 messages of 100 bytes at once, wait for their echoes, and begin again: every message goes up and
down once. The gateway has the first core; the echo server (uvicorn) and the load share the others, so messages a second
are theirs as much as the gateway's, and CPU per echoed message is what the gateway itself costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import report
from harness import (
    FIRST_CORE,
    HOST,
    BenchmarkError,
    cpu_seconds,
    end,
    environment,
    free_port,
    one_at_a_time,
    pin_beside_server,
    stop_on_sigterm,
)

CONNECTIONS = 32
BATCH = 16
SIZE = 100
PAYLOAD = b"x" * SIZE
SENT = (b"\x82" + bytes([0x80 | SIZE]) + bytes(4) + PAYLOAD) * BATCH  # a mask of zeros leaves the payload as it is
ECHOED = (b"\x82" + bytes([SIZE]) + PAYLOAD) * BATCH


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The upstream: an ASGI app that sends back what comes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})


def serve(port: int, upstream: str) -> None:
    """Serve the gateway in front of `upstream`, or the echo app where there is none."""
    import uvicorn
    from starlette.applications import Starlette

    from traffic_cop_middleware import TrafficCop

    app: Any = echo
    if upstream:
        cop = TrafficCop()
        cop.route("/*", to=upstream)
        app = cop.wrap(Starlette())
    uvicorn.run(app, host=HOST, port=port, log_level="error", ws="websockets-sansio", lifespan="auto")


@contextlib.contextmanager
def served(upstream: str = "") -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and process id."""
    port = free_port()
    command = [sys.executable, __file__, "--serve", str(port), upstream]
    process = subprocess.Popen(command, env=environment())
    try:
        if upstream:
            os.sched_setaffinity(process.pid, FIRST_CORE)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                yield port, process.pid
                return
            time.sleep(0.05)
        raise BenchmarkError("a server did not come up within 20 s")
    finally:
        end(process)


async def load(port: int, seconds: float) -> int:
    """Messages that were echoed in that time."""
    until = time.monotonic() + seconds

    async def one() -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(
            b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise BenchmarkError(f"no WebSocket: {head!r}")
        count = 0
        while time.monotonic() < until:
            writer.write(SENT)
            if await reader.readexactly(len(ECHOED)) != ECHOED:
                raise BenchmarkError("another echo than what was sent")
            count += BATCH
        writer.close()
        return count

    return sum(await asyncio.gather(*(one() for _ in range(CONNECTIONS))))


def measured(port: int, pid: int, seconds: float) -> list[str]:
    """Echoes a second, and the server's CPU for each in microseconds."""
    asyncio.run(load(port, 1.0))
    before, start = cpu_seconds(pid), time.monotonic()
    count = asyncio.run(load(port, seconds))
    took, used = time.monotonic() - start, cpu_seconds(pid) - before
    return [f"{count / took:,.0f}", f"{used / count * 1e6:.1f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description="WebSocket messages through the gateway.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "UPSTREAM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(int(given.serve[0]), given.serve[1])
        return 0
    stop_on_sigterm()
    with one_at_a_time():
        print(report.machine())
        pin_beside_server()
        with served() as (port, pid):
            lines = [["direct: uvicorn's echo", *measured(port, pid, given.seconds)]]
            with served(f"http://{HOST}:{port}") as (through, gateway):
                lines.append(["through the gateway", *measured(through, gateway, given.seconds)])
    print(report.grid(["messages of 100 bytes, echoed", "a second", "CPU us each"], lines))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
