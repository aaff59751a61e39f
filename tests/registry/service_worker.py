"""One process of a service that announces itself; `test_registry_processes.py` starts several.

`python -m tests.registry.service_worker '<settings as JSON>'`. It says "announced", and "withdrawn" after SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from traffic_cop_middleware import Registration


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(service: str, **settings: Any) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Registration(service, **settings) as registration:
        while not registration.announced:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.01)
        say("announced")
        await ended.wait()
    say("withdrawn")


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
