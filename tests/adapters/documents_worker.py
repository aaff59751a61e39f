"""A process that asks a SQLite file, for tests that kill it, or let it run beside others.

python -m tests.adapters.documents_worker PATH store NAME     # stores until it is killed, and says what was answered
python -m tests.adapters.documents_worker PATH append NAME    # the same with the outbox
python -m tests.adapters.documents_worker PATH claim NAME     # claims and settles until nothing waits
python -m tests.adapters.documents_worker PATH contend SEED   # stores 60 versions of 5 keys in an order of its own
python -m tests.adapters.documents_worker PATH fill           # stores until there is no room, and says what it heard
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from traffic_cop_middleware.adapters.sqlite.documents import SqliteDocuments
from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreUnavailable

DEADLINE = 30.0
AT_ONCE = 3
"""Items of one call: there are all of them or none."""


def item(key: str, version: int, value: str = '"x"') -> Item:
    return Item(StateKey("", "worker", key), version, value, "immediate", time.time())


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def endlessly(store: SqliteDocuments, name: str, what: str) -> None:
    for version in range(1, 1_000_000):
        items = [item(f"{name} {version} {part}", version) for part in range(AT_ONCE)]
        if what == "append":
            await store.outbox.append(items)
        else:
            await store.store(items)
        say(version)


async def claiming(store: SqliteDocuments, name: str) -> None:
    for _ in range(100_000):
        claimed = await store.outbox.claim(name, most=10, idle=DEADLINE)
        if not claimed:
            return
        await store.store([entry.item for entry in claimed])
        await store.outbox.settle(claimed)
        for entry in claimed:
            say(entry.id)


async def contending(store: SqliteDocuments, seed: int) -> None:
    writes = [(key, version) for version in range(1, 101) for key in range(5)]
    random.Random(seed).shuffle(writes)
    for key, version in writes[:60]:
        heard = await store.store([item(f"k{key}", version, f'"{version}"')])
        if heard[0] < version:
            raise AssertionError(f"{heard} for {version}")
        say(f"{key} {version}")


async def filling(store: SqliteDocuments) -> None:
    for version in range(1, 1_000):
        try:
            await store.store([item(f"k{version} {part}", version, "x" * 10_000) for part in range(AT_ONCE)])
        except StoreUnavailable as exc:
            say(exc)
            for part in range(AT_ONCE):
                if await store.load([StateKey("", "worker", f"k{version} {part}")]) != [None]:
                    raise AssertionError("half-written") from exc
            kept = await store.load([StateKey("", "worker", f"k{version - 1} {part}") for part in range(AT_ONCE)])
            say([each and each.version for each in kept] == [version - 1] * AT_ONCE)
            return
    raise AssertionError("there was room for all")


async def main(path: str, what: str, name: str = "") -> None:
    store = SqliteDocuments(path, namespace="tc", deadline=DEADLINE, notify=lambda event: None)
    await store.connect(patience=DEADLINE)
    if what in ("store", "append"):
        await endlessly(store, name, what)
    elif what == "claim":
        await claiming(store, name)
    elif what == "contend":
        await contending(store, int(name))
    else:
        await filling(store)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
