"""Workers that make files, and kill or stop themselves before or after one of their external calls.

    python -m tests.files.saga_worker < JOBS

Each line is a list of jobs; for each a process is forked, which has all it imports already. The processes' ids are
answered as a line, and their exit codes as another one when the last of them has ended.

Every call to a store goes through a recorder, whatever it is for: so a step that is added is a step that is killed. The
calls are written to the file that the job names, one a line, each before it is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from tests.files.houses import FileState, file_state
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings

NO_CALLS = ("name", "shared", "durable", "outbox", "invalidations", "connect", "close")
LONGEST = 60
"""Seconds after which a worker that hangs ends by SIGALRM."""


class Recorder:
    """Stands in front of a store; counts the calls of all of them."""

    def __init__(self, target: Any, name: str, log: Log) -> None:
        self._target = target
        self._name = name
        self._log = log

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name == "outbox" and found is not None:
            return Recorder(found, "outbox", self._log)
        if name in NO_CALLS or not callable(found):
            return found
        return self._recorded(found, f"{self._name}.{name}")

    def _recorded(self, method: Callable[..., Any], called: str) -> Callable[..., Awaitable[Any]]:
        async def asked(*args: Any, **kwargs: Any) -> Any:
            number = self._log.before(called)
            answer = method(*args, **kwargs)
            if isinstance(answer, Awaitable):
                answer = await answer
            self._log.after(number)
            return answer

        return asked


class Log:
    def __init__(self, path: Path, number: int, when: str, end: int) -> None:
        self._path = path
        self._number = number
        self._when = when
        self._end = end
        self._count = 0

    def before(self, called: str) -> int:
        self._count += 1
        with self._path.open("a") as file:
            file.write(called + "\n")
        self._die(self._count, "before")
        return self._count

    def after(self, number: int) -> None:
        self._die(number, "after")

    def _die(self, number: int, when: str) -> None:
        if number == self._number and when == self._when:
            os.kill(os.getpid(), self._end)


def record(house: FileState, log: Log, *, judges: bool) -> FileState:
    """The same house, with recorders in front of its stores."""
    stores = house.stores
    for name in ("state", "documents", "objects", "metadata"):
        setattr(stores, name, Recorder(getattr(stores, name), name, log))
    return FileState(stores, promotion=PromotionSettings() if judges else None)


async def work(job: Mapping[str, Any]) -> None:
    async with file_state(*job["stores"], namespace=job["namespace"]) as house:
        log = Log(Path(job["log"]), job["number"], job["when"], job["end"])
        recorded = record(house, log, judges=job["judges"])
        of: Any = {"flush": recorded, "put": recorded.state}.get(job["do"], recorded.files)
        await getattr(of, job["do"])(*job["words"], **job["options"])


def forked(job: Mapping[str, Any], work: Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]] = work) -> int:
    """The id of the process that does this job."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(LONGEST)
        random.seed()  # or all of them would wait for the same times
        os.environ.update(job.get("environment", {}))
        asyncio.run(work(job))
        code = 0
    except BaseException:  # noqa: BLE001 - told by its code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(work: Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]] = work) -> None:
    # What the workers need, once for all of them. No threads may come of it, or a fork would have half of a process.
    import traffic_cop_middleware.adapters.arangodb.documents
    import traffic_cop_middleware.adapters.filesystem
    import traffic_cop_middleware.adapters.gcs
    import traffic_cop_middleware.adapters.redis
    import traffic_cop_middleware.adapters.sqlite.documents
    import traffic_cop_middleware.adapters.sqlite.files
    import traffic_cop_middleware.adapters.supabase.store  # noqa: F401

    for line in sys.stdin:
        pids = [forked(job, work) for job in json.loads(line)]
        print(json.dumps(pids), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    serve()
