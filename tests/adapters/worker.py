"""One worker process that hammers one bucket; `test_workers.py` starts four.

`python worker.py '<settings as JSON>'`. It writes "ready" when connected, starts at a line on its input, writes the
number of admitted takes after each batch, and ends at the next line. Before that it writes "idle" and for how many
seconds it could not take: the pauses longer than `LONG` between its batches, and between them and the moments on the
monotonic clock that both lines tell.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from traffic_cop_middleware.adapters import redis
from traffic_cop_middleware.contracts import Take

DEADLINE = 30.0
LONG = 0.1
steady = time.monotonic


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def shift_clocks(seconds: float) -> None:
    """Let this process believe that it is that much later."""
    wall = time.time
    time.time = lambda: wall() + seconds
    time.monotonic = lambda: steady() + seconds


async def main(url: str, bucket: Take, batch: int, heartbeat: float, dead_after: float) -> None:
    redis.HEARTBEAT, redis.DEAD_AFTER = heartbeat, dead_after
    backend = redis.open(url, namespace="workers", deadline=DEADLINE, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    read = asyncio.get_running_loop().run_in_executor
    say("ready")
    latest, idle = float(await read(None, sys.stdin.readline)), 0.0

    def pause(now: float) -> float:
        return now - latest if now - latest > LONG else 0.0

    told_to_end = read(None, sys.stdin.readline)
    while not told_to_end.done():
        if batch:
            taken = await asyncio.gather(*(backend.buckets.take([bucket]) for _ in range(batch)))
            say(sum(one.admitted for one in taken))
        now = steady()
        idle, latest = idle + pause(now), now
        await asyncio.sleep(0.002)
    say(f"idle {idle + pause(float(await told_to_end))}")
    await backend.close()


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
