"""State with files on a disk that is full, and then has room again; says what it saw, as a line of JSON.

python -m tests.files.full_disk_worker REDIS FOLDER DISK
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.files.houses import FileState, file_state
from tests.files.saga_checks import waiting
from traffic_cop_middleware.abstractions.state.flusher import TRIES, StateFlusher
from traffic_cop_middleware.contracts import StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import StoreUnavailable

LARGE = MOST_STATE + 20
BLOCK = bytes(4096)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for _ in range(100_000):
            try:
                file.write(BLOCK)
            except OSError:
                return filler
    raise AssertionError("this disk has no end")


async def refused(asked: Any) -> str:
    try:
        await asked
    except StoreUnavailable as exc:
        return str(exc)
    return "not refused"


async def seen(house: FileState, disk: Path) -> dict[str, Any]:
    """What is where."""
    keys = [StateKey("", "report", key) for key in ("before", "now", "later", "small")]
    outbox = house.stores.state.outbox
    assert outbox is not None
    return {
        "objects": len((await house.stores.objects.list()).objects),
        "uploads": os.listdir(disk / "files" / "tc" / ".uploads"),
        "documents": [kept is not None for kept in await house.stores.documents.load(keys)],
        "read": [
            item is not None and len(str(item.value))
            for item in [await house.state.get("report", key.key, consistency="strong") for key in keys]
        ],
        "waiting": await waiting(house),
        "dead": len(await outbox.dead()),
        "pending": len(await house.stores.metadata.pending(before=2**40)),
    }


async def main(redis: str, folder: str, root: str) -> None:
    disk = Path(root)
    where = (f"sqlite:///{folder}/state.db", f"file://{disk}/files", f"sqlite:///{folder}/files.db")
    said: dict[str, Any] = {}
    async with file_state(redis, *where) as house:
        outbox, promoter = house.stores.state.outbox, house.house.promoter
        assert outbox is not None
        assert promoter is not None
        flusher = StateFlusher(outbox, house.stores.documents, promoter, emit=house.emit, idle=0.0)
        await house.state.put("report", "before", "b" * LARGE, tier="immediate")
        await flusher.flush()
        filler = fill(disk)
        said["now"] = await refused(house.state.put("report", "now", "n" * LARGE, tier="immediate"))
        await house.state.put("report", "later", "l" * LARGE, tier="delayed")
        await house.state.put("report", "small", "small", tier="delayed")
        said["flushed"] = [await refused(flusher.flush()) for _ in range(TRIES + 2)]
        said["full"] = await seen(house, disk)
        filler.unlink()
        await flusher.flush()
        said["room"] = await seen(house, disk)
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
