"""A process that keeps objects in the file system, for tests that kill it, or give it no room.

python -m tests.adapters.objects_worker FOLDER create NAME   # creates until it is killed, and says what was answered
python -m tests.adapters.objects_worker FOLDER die PATH      # dies before each step of a creation, in turn
python -m tests.adapters.objects_worker FOLDER unmake PATH   # dies before each step of a deletion, in turn
python -m tests.adapters.objects_worker FOLDER fill          # creates until there is no room, and says what it heard
python -m tests.adapters.objects_worker FOLDER look          # says what it heard at the start
python -m tests.adapters.objects_worker FOLDER beg           # the same as somebody who owns nothing
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

from traffic_cop_middleware.adapters.filesystem import folder, objects
from traffic_cop_middleware.adapters.filesystem.objects import FileObjects
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable
from traffic_cop_middleware.testing.object_contract import sha256_of

DEADLINE = 30.0
SIZE = 3_000_000
STEPS = ("close", "fsync", "link", "lseek", "mkdir", "open", "pread", "read", "stat", "unlink", "write")
"""What the adapter asks of the system."""


def content(name: str) -> bytes:
    """Some megabytes that are another name's of no other name."""
    return (name.encode() + b" ") * (SIZE // (len(name) + 1))


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def opened(root: str) -> FileObjects:
    return FileObjects(root, namespace="tc", deadline=DEADLINE, notify=lambda event: None, threads=1)


async def endlessly(root: str, name: str) -> None:
    store = opened(root)
    for number in range(1_000_000):
        path = f"{name}/{number % 7}/{number}"
        await store.create(path, content(path), sha256=sha256_of(content(path)), about={"n": f"{number}"})
        say(path)


class Dying:
    """`os`, and an end of this process before its step number `number`."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __getattr__(self, name: str) -> Any:
        step = getattr(os, name)
        return self._counted(step) if name in STEPS else step

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*words, **options)

        return counted


async def one(root: str, what: str, path: str) -> None:
    store = opened(root)
    if what == "die":
        await store.create(path, content(path), sha256=sha256_of(content(path)))
    else:
        there = await store.stat(path)
        if there is not None:
            await store.delete(path, generation=there.generation)
    await store.close()


def dying(root: str, what: str, path: str) -> None:
    """Says after each death which step it was before; the last one ends well. It forks while there are no threads."""
    for number in range(1000):
        child = os.fork()
        if child == 0:
            for module in (folder, objects):
                vars(module)["os"] = Dying(number)
            asyncio.run(one(root, what, path.format(number)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            say(f"ended {os.waitstatus_to_exitcode(status)}")
            return
        say(number)
        sys.stdin.readline()  # the test looks at what is there


async def filling(root: str) -> None:
    store = opened(root)
    await store.connect(patience=DEADLINE)
    for number in range(1000):
        path = f"a/{number}"
        try:
            await store.create(path, content(path)[:100_000], sha256="")
        except StoreUnavailable as exc:
            say(exc)
            say(await store.stat(path))
            page = await store.list()
            say([each.path for each in page.objects] == sorted(f"a/{each}" for each in range(number)))
            say(await store.read("a/0") == content("a/0")[:100_000])
            say(os.listdir(f"{root}/tc/.uploads"))
            say(page.objects[0].path if await store.delete("a/0", generation=page.objects[0].generation) else None)
            say(await store.create("b/0", b"small", sha256="") is not None)
            await store.close()
            return
    raise AssertionError("there was room for all")


async def looking(root: str, *, begging: bool) -> None:
    store = opened(root)
    await anyio.lowlevel.checkpoint()  # imports what somebody else may not read
    if begging and os.geteuid() == 0:
        os.setuid(65534)
    try:
        await store.connect(patience=DEADLINE)
    except ConfigurationError as exc:
        say(exc)
    await store.close()


def main(root: str, what: str, name: str = "") -> None:
    if what in ("die", "unmake"):
        dying(root, what, name)
    elif what == "create":
        asyncio.run(endlessly(root, name))
    elif what == "fill":
        asyncio.run(filling(root))
    else:
        asyncio.run(looking(root, begging=what == "beg"))


if __name__ == "__main__":
    main(*sys.argv[1:])
