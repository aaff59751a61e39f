"""A worker that takes state to its documents, and kills itself at a step: `flush_worker.py URL PATH STEP`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.state.houses import House, on_redis

STEPS = ("before claim", "after claim", "before store", "after store", "before settle", "after settle")


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(method: Callable[..., Awaitable[Any]], *, before: bool) -> Callable[..., Awaitable[Any]]:
    async def asked(*args: Any, **kwargs: Any) -> Any:
        if before:
            die()
        answer = await method(*args, **kwargs)
        die()
        return answer

    return asked


def prepare(house: House, step: str) -> None:
    when, _, what = step.partition(" ")
    outbox: Any = house.store.outbox
    of: Any = house.documents if what == "store" else outbox
    setattr(of, what, dying(getattr(of, what), before=when == "before"))


async def main(url: str, path: str, step: str) -> None:
    async with on_redis(url, Path(path)) as house:
        prepare(house, step)
        await house.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
