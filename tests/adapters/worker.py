"""One worker process that hammers one bucket; `test_workers.py` starts four.

`python worker.py '<settings as JSON>'`. It writes "ready" when connected, starts at a line on its input, writes the
number of admitted takes after each batch, and writes "done" and ends at the next line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from traffic_cop_middleware.adapters import redis
from traffic_cop_middleware.contracts import Take

DEADLINE = 30.0


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def shift_clocks(seconds: float) -> None:
    """Let this process believe that it is that much later."""
    wall, steady = time.time, time.monotonic
    time.time = lambda: wall() + seconds
    time.monotonic = lambda: steady() + seconds


async def main(url: str, bucket: Take, batch: int, heartbeat: float, dead_after: float) -> None:
    redis.HEARTBEAT, redis.DEAD_AFTER = heartbeat, dead_after
    backend = redis.open(url, namespace="workers", deadline=DEADLINE, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    read = asyncio.get_running_loop().run_in_executor
    say("ready")
    await read(None, sys.stdin.readline)
    told_to_end = read(None, sys.stdin.readline)
    while not told_to_end.done():
        if batch:
            taken = await asyncio.gather(*(backend.buckets.take([bucket]) for _ in range(batch)))
            say(sum(one.admitted for one in taken))
        await asyncio.sleep(0.002)
    await backend.close()
    say("done")


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    shift_clocks(settings["ahead"])
    asyncio.run(
        main(
            settings["url"],
            Take(*settings["bucket"]),
            settings["batch"],
            settings["heartbeat"],
            settings["dead_after"],
        )
    )
