"""One worker process that leads when it can, and writes under its token; `test_leader_processes.py` starts several.

`python lease_worker.py '<settings as JSON>'`. It writes a line for each thing that happens: "ready", "leading <token>",
"refused <token>" for a write that the fence refused, "stopped <token>" when its job was stopped, and "ended" after
SIGTERM, when the lease is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys

from tests.adapters.test_leases_contract import FENCED_WRITE
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Lease
from traffic_cop_middleware.errors import StoreError


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(url: str, ttl: float, deadline: float) -> None:
    backend = open_redis(url, namespace="leading", deadline=deadline, notify=lambda event: None)
    await backend.connect(patience=30)

    async def job(lease: Lease) -> None:
        say("leading", lease.token)
        try:
            while True:
                with contextlib.suppress(StoreError):
                    if not await backend.link.ask("EVAL", FENCED_WRITE, 2, "{w}:fence", "{w}:log", lease.token):
                        say("refused", lease.token)
                await asyncio.sleep(0.02)
        finally:
            say("stopped", lease.token)

    leading = asyncio.create_task(Leader(backend.leases, "job", job, ttl=ttl).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leading.cancel)
    say("ready")
    with contextlib.suppress(asyncio.CancelledError):
        await leading
    await backend.close()
    say("ended")


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    asyncio.run(main(settings["url"], settings["ttl"], settings["deadline"]))
