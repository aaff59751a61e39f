"""Files promoted per second, beside plain uploads of the same content by the same client.

"promoted" is all that a flusher does with what waits in the outbox: claim, judge, bring into the canonical form, hash,
announce, upload, finish, let a pointer stand in the documents and in the backend, settle. "uploads" are the object
store's own `create`, by as many callers; "bare client" is `blob.upload_from_string` of Google's client, by as many
threads, each with a client and a connection. Each turn has `ITEMS` items of about 300 KB, each new; the server is the
double of the tests in a process of its own. Rounds are interleaved, figures are medians by wall clock.

On loopback an upload takes no time but CPU, and a real bucket takes its time: so there is also a double that waits
before it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import report
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from harness import BenchmarkError, RedisServer, end, environment

from tests.files.houses import file_state
from tests.files.houses import local as places
from traffic_cop_middleware.abstractions.files.naming import hash_of
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.together import answers
from traffic_cop_middleware.composition.state_stores import opener

ITEMS = 64
CALLERS = 16
"""As many as a promoter sees to at a time."""
THREADS = 4
"""Connections of the object store; its default."""
DELAY = 0.03
"""Seconds that a bucket of the same region takes for a small object, at the least."""
ROWS = ("promoted", "uploads", "bare client")
LEAST = 0.8
"""Files promoted per upload in the same time, at least."""
DOUBLE = """
import sys, time
from tests.gcs_double import GcsDouble

answer = GcsDouble.answer
GcsDouble.answer = lambda self, request: time.sleep(float(sys.argv[1])) or answer(self, request)
print(GcsDouble().endpoint, flush=True)
sys.stdin.read()
"""

_numbers = itertools.count(random.randrange(10**9))

Row = Callable[[], Awaitable[float]]


def content() -> dict[str, Any]:
    """An item that nobody has had before."""
    number = next(_numbers)
    line = {"sku": "sku-", "title": "A thing that people buy", "count": 2, "price": 12.5, "gift": False}
    return {"type": "archive", "number": number, "lines": [{**line, "id": f"{number}-{at}"} for at in range(3100)]}


@contextlib.contextmanager
def double(delay: float) -> Iterator[str]:
    """The double of Cloud Storage in a process of its own, which answers after so many seconds; gives its endpoint."""
    process = subprocess.Popen(
        [sys.executable, "-c", DOUBLE, str(delay)], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise BenchmarkError("the double of Cloud Storage did not come up")
        yield line.decode().strip()
    finally:
        end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def items() -> list[dict[str, Any]]:
    return [content() for _ in range(ITEMS)]


@contextlib.asynccontextmanager
async def rows(objects: str, state: str) -> AsyncIterator[dict[str, Row]]:
    """What is measured: each takes a turn of `ITEMS` files, and gives its seconds."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="traffic-cop-bench-"))
        documents, local, metadata = places(folder)
        files = objects or local
        house = await stack.enter_async_context(
            file_state(state, documents, files, metadata, promotion=PromotionSettings())
        )
        plain = opener("files", files)(files, namespace="plain", deadline=30.0, notify=lambda _: None)
        await plain.connect(patience=10.0)
        stack.push_async_callback(plain.close)

        async def promoted() -> float:
            keys = []
            for value in items():
                keys.append(str(value["number"]))
                await house.state.put("archive", keys[-1], value)
            start = time.perf_counter()
            settled = await house.flush()
            seconds = time.perf_counter() - start
            if settled != ITEMS or len(await house.files.list(kind="promoted", most=ITEMS)) != ITEMS:
                raise BenchmarkError(f"{settled} of {ITEMS} items have left the outbox, or are no files")
            for key in keys:
                await house.state.delete("archive", key)
            await house.flush()
            return seconds

        async def uploads() -> float:
            contents = [dumps(value).encode() for value in items()]
            about = {"file": "0" * 32, "version": "1", "kind": "promoted"}
            works = [
                partial(plain.create, f"plain/{hash_of(each)}", each, sha256=hash_of(each), about=about)
                for each in contents
            ]
            start = time.perf_counter()
            made = await answers(works, at_once=CALLERS)
            seconds = time.perf_counter() - start
            if None in made:
                raise BenchmarkError("something was there already")
            return seconds

        found: dict[str, Row] = {"promoted": promoted, "uploads": uploads}
        if objects:
            found["bare client"] = partial(bare, stack.enter_context(ThreadPoolExecutor(THREADS)), threading.local())
        yield found


async def bare(pool: ThreadPoolExecutor, mine: threading.local) -> float:
    """Google's client, as its manual uses it."""
    contents = [dumps(value).encode() for value in items()]

    def upload(content: bytes) -> None:
        if not hasattr(mine, "bucket"):
            endpoint = {"api_endpoint": os.environ["STORAGE_EMULATOR_HOST"]}
            client = Client(project="bench", credentials=AnonymousCredentials(), client_options=endpoint)
            mine.bucket = client.bucket("files")
        mine.bucket.blob(f"bare/{hash_of(content)}").upload_from_string(content, if_generation_match=0)

    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    await asyncio.gather(*(loop.run_in_executor(pool, upload, each) for each in contents))
    return time.perf_counter() - start


async def files(rounds: int) -> tuple[str, list[tuple[bool, str]]]:
    """The table, and the bar."""
    lines, bars = [], []
    with RedisServer() as redis, double(0) as near, double(DELAY) as far:
        for name, objects, state, endpoint in (
            (f"gs:// that answers after {DELAY * 1e3:g} ms, Redis", "gs://files/bench", redis.url, far),
            (f"gs:// that answers after {DELAY * 1e3:g} ms, memory", "gs://files/bench", "memory://", far),
            ("gs:// on this machine, Redis", "gs://files/bench", redis.url, near),
            ("file://, Redis", "", redis.url, near),
        ):
            os.environ["STORAGE_EMULATOR_HOST"] = endpoint
            found: dict[str, list[float]] = {}
            async with rows(objects, state) as each:
                for number in range(-1, rounds):
                    for row in random.sample(list(each), len(each)):
                        seconds = await each[row]()
                        if number >= 0:
                            found.setdefault(row, []).append(ITEMS / seconds)
            rates = {row: median(figures) for row, figures in found.items()}
            ratios = {
                row: median(mine / other for mine, other in zip(found["promoted"], figures, strict=True))
                for row, figures in found.items()
            }
            lines.append([name, *(f"{rates[row]:.0f} ({ratios[row]:.2f}x)" if row in rates else "" for row in ROWS)])
            if objects:
                for row in ROWS[1:]:
                    told = f"{name}: promoted at least {LEAST}x of {row}: {ratios[row]:.2f}x"
                    bars.append((ratios[row] >= LEAST, told))
    return report.grid(["Files a second (promoted / this)", *ROWS], lines), bars
