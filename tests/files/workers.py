"""Starts workers (`saga_worker.py`), and tells what they asked of their stores and how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.adapters.load import poll

ROOT = Path(__file__).parent.parent.parent
KILLED = -signal.SIGKILL


class Nursery:
    """A process that has imported all that workers need, and forks them."""

    def __init__(self, errors: IO[bytes], module: str = "tests.files.saga_worker") -> None:
        self._errors = errors
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )

    async def run(
        self, jobs: Sequence[Mapping[str, Any]], meanwhile: Callable[[list[int]], Awaitable[None]] | None = None
    ) -> list[int]:
        """How a worker ended for each of the jobs, which are done at once; `meanwhile` is given their ids."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        asked.write(json.dumps(jobs).encode() + b"\n")
        asked.flush()
        pids = json.loads(await asyncio.to_thread(answers.readline))
        try:
            if meanwhile is not None:
                await meanwhile(pids)
        finally:  # or the next one would be given these answers
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            codes: list[int] = json.loads(await asyncio.to_thread(answers.readline))
        self._errors.seek(0)
        assert set(codes) <= {0, KILLED}, self._errors.read().decode()[-5000:]
        return codes

    def end(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            finally:
                self._process.kill()


@contextlib.contextmanager
def running_nursery(folder: Path, module: str = "tests.files.saga_worker") -> Iterator[Nursery]:
    with (folder / "errors").open("w+b") as errors:
        nursery = Nursery(errors, module)
        try:
            yield nursery
        finally:
            nursery.end()


class Workers:
    """Workers on these stores. With `judges` promotion chooses the tiers of what is written without one."""

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        stores: tuple[str, ...],
        *,
        namespace: str = "tc",
        environment: Mapping[str, str] | None = None,
        judges: bool = False,
    ) -> None:
        self.nursery = nursery
        self._folder = folder
        self._job = {"stores": stores, "namespace": namespace, "environment": dict(environment or {})}
        self._job |= {"judges": judges}
        self._count = 0

    def job(
        self,
        do: str = "flush",
        *words: Any,
        number: int = 0,
        when: str = "never",
        end: int = signal.SIGKILL,
        **options: Any,
    ) -> dict[str, Any]:
        """One that sends itself the signal `end` before or after its call of that number; 0: at none."""
        self._count += 1
        log = str(self._folder / f"calls-{self._count}")
        asked = {"do": do, "words": words, "options": options}
        return self._job | asked | {"number": number, "when": when, "end": end, "log": log}

    async def run(
        self, do: str = "flush", *words: Any, number: int = 0, when: str = "never", **options: Any
    ) -> tuple[int, tuple[str, ...]]:
        """How a worker ended, and what it asked of its stores."""
        job = self.job(do, *words, number=number, when=when, **options)
        (code,) = await self.nursery.run([job])
        return code, calls_of(job)


async def until_stopped(pid: int) -> None:
    """Wait until a worker has stopped itself."""
    stat = Path(f"/proc/{pid}/stat")
    await poll(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


def calls_of(job: Mapping[str, Any]) -> tuple[str, ...]:
    path = Path(job["log"])
    return tuple(path.read_text().split()) if path.exists() else ()
