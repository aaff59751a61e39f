"""The process that is measured: one uvicorn server, with a limited app on one port and the bare app on another.

    python benchmarks/serve.py PORT BARE_PORT        (harness.AppServer calls it)

Both in one process, because two processes of one and the same app differ by 5 % in CPU per request (hash seeds, memory
layout), which on FastAPI is three times of what a limit may add. So they are measured in turns, where only they differ.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from types import FrameType

import apps
import uvicorn
from harness import HOST
from starlette.types import ASGIApp, Receive, Scope, Send


class ByPort:
    """Hands a request to the app whose port it came in by, and counts it. The lifespan is the limited app's."""

    def __init__(self, app: ASGIApp, bare: ASGIApp, bare_port: int) -> None:
        self.app = app
        self.bare = bare
        self.bare_port = bare_port
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests += 1
        bare = scope["type"] == "http" and scope["server"][1] == self.bare_port
        await (self.bare if bare else self.app)(scope, receive, send)

    def tell(self, _number: int, _frame: FrameType | None) -> None:
        """SIGUSR2: how many requests have come in, as a line on stdout."""
        os.write(1, b"%d\n" % self.requests)


def listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def settle(_number: int, _frame: FrameType | None) -> None:
    """SIGUSR1: what both apps are made of is no longer searched for garbage; what requests leave behind is.

    A full collection walks two apps of 200 routes for 50 ms every few seconds. Whichever app is being measured then
    would pay 15 us per request more than the other.
    """
    gc.collect()
    gc.freeze()


def main() -> None:
    port, bare_port = map(int, sys.argv[1:])
    app = ByPort(apps.build(), apps.build_bare(), bare_port)
    signal.signal(signal.SIGUSR1, settle)
    signal.signal(signal.SIGUSR2, app.tell)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="on", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listen(bare_port), listen(port)])


if __name__ == "__main__":
    main()
