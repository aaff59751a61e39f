"""A leader is killed, or held up, at every external call of its pass, on Redis and SQLite: the next makes it good."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.files.workers import KILLED, Nursery, calls_of, running_nursery, until_stopped
from tests.history.crew import DAY, MIDNIGHT, Worker, requests_in
from tests.history.worker import opened
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.sqlite.history import SqliteHistory
from traffic_cop_middleware.contracts import HistoryBucket, HistoryRow, Span
from traffic_cop_middleware.testing import FakeClock

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

WINDOW = ("metrics.window", "metrics.seal")
MINUTE = ("metrics.stamps", *WINDOW, *WINDOW, "metrics.record")
EMPTY = ("metrics.stamps", *WINDOW, "metrics.record")
"""Of a minute in which the workers have written, and served nothing."""
ROLL_UP = ("history.read", "history.write")
MARK = "history.write"
CALLS = (
    *("metrics.record", "metrics.stamps"),
    *MINUTE,
    *MINUTE,
    *MINUTE,
    *EMPTY,
    *(MARK, "history.write", MARK, "history.write", MARK, "history.write", MARK),
    *("history.due", *ROLL_UP, *ROLL_UP, *ROLL_UP),
    *("history.due", *ROLL_UP),
    *("history.due", *ROLL_UP),
    *("history.prune", "history.prune", "history.read", "history.read"),
)
"""Of a pass over three minutes before and after midnight; the hour and the day before it are over."""
NOW = MIDNIGHT + 315
OLD = HistoryBucket(60, MIDNIGHT - 5 * DAY)


@pytest.fixture(scope="module")
def other_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with running_nursery(tmp_path_factory.mktemp("nursery"), "tests.history.worker") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with running_nursery(tmp_path_factory.mktemp("nursery"), "tests.history.worker") as nursery:
        yield nursery


class Scene:
    """Two workers that have served on both sides of midnight, and a bucket that is too old."""

    def __init__(self, nursery: Nursery, folder: Path, redis: str) -> None:
        self.nursery = nursery
        self._folder = folder
        self.stores = (redis, f"sqlite:///{folder}/state.db")
        self.namespace = f"history-{secrets.token_hex(4)}"
        self.backend: RedisBackend
        self.history: SqliteHistory
        self.clock = FakeClock(MIDNIGHT - 400)
        self.crew: list[Worker] = []
        self.served = {MIDNIGHT - DAY: 0, MIDNIGHT: 0}
        self._count = 0

    async def begin(self) -> None:
        await self.history.write(OLD, [HistoryRow("requests", "/old", "GET", b"old")])
        (due,) = await self.history.due()
        for resolution in (300, 3_600, DAY):
            (due,) = await self.history.due()
            await self.history.write(HistoryBucket(resolution, due.start), [], stamp=due.stamp)
        self.crew = [Worker(self.backend.metrics, self.history, self.clock) for _ in range(2)]
        for moment in (MIDNIGHT - 400, MIDNIGHT - 100, MIDNIGHT + 10):
            self.clock.advance(moment - self.clock())
            await self.serve(5, 7)
        self.clock.advance(60)
        await self.serve()

    async def serve(self, *numbers: int) -> None:
        """So many requests by each worker, written when each has served."""
        for worker, number in zip(self.crew, numbers, strict=False):
            worker.serve([0.01] * number)
            self.served[int(self.clock() // DAY) * DAY] += number
        for worker in self.crew:
            await worker.analytics.flush()

    def job(
        self, number: int = 0, when: str = "never", *, end: int = signal.SIGKILL, gives: bool | None = True
    ) -> dict[str, Any]:
        """A leader that makes a pass, which is to give that, whatever it is with `None`."""
        self._count += 1
        job = {"stores": self.stores, "namespace": self.namespace, "now": NOW, "gives": gives}
        return job | {"number": number, "when": when, "end": end, "log": str(self._folder / f"calls-{self._count}")}

    async def lead(self, number: int = 0, when: str = "never") -> tuple[int, tuple[str, ...]]:
        """How a leader ended, and what it asked of its stores."""
        job = self.job(number, when)
        (code,) = await self.nursery.run([job])
        return code, calls_of(job)

    async def check(self) -> None:
        """Nothing is missing, and nothing is there twice, at any resolution."""
        for resolution in (60, 300, 3_600, DAY):
            for day, served in self.served.items():
                if day < MIDNIGHT or resolution <= 300:
                    assert await requests_in(self.history, Span(resolution, day, day + DAY)) == served, resolution
        assert [each[:2] for each in await self.history.due()] == [(3_600, MIDNIGHT)]
        assert list(await self.history.read([Span(60, OLD.start, OLD.start + 60)])) == []
        asked = Worker(self.backend.metrics, self.history, FakeClock(NOW)).analytics
        assert (await asked.traffic("3d")).total.requests == sum(self.served.values())


@pytest_asyncio.fixture
async def scene(nursery: Nursery, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(nursery, tmp_path, redis_server.url)
    async with opened(*scene.stores, scene.namespace) as (scene.backend, scene.history):
        await scene.begin()
        yield scene


async def test_the_external_calls_of_a_pass_are_these(scene: Scene) -> None:
    assert await scene.lead() == (0, CALLS)
    await scene.check()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, len(CALLS) + 1), ids=lambda at: f"{at}-{CALLS[at - 1]}")
async def test_a_leader_that_is_killed_is_made_good_by_the_next_one(number: int, when: str, scene: Scene) -> None:
    assert await scene.lead(number, when) == (KILLED, CALLS[:number])
    assert (await scene.lead())[0] == 0
    await scene.check()


@pytest.mark.parametrize(
    "number",
    [at for at, name in enumerate(CALLS, 1) if name.startswith("history.")],
    ids=lambda at: f"{at}-{CALLS[at - 1]}",
)
async def test_a_leader_that_slept_undoes_nothing_of_what_the_next_one_did(
    number: int, scene: Scene, other_nursery: Nursery
) -> None:
    async def meanwhile(pids: list[int]) -> None:
        await until_stopped(pids[0])
        await scene.serve(2, 3)
        assert await other_nursery.run([scene.job()]) == [0]

    written = {"history.write": False}.get(CALLS[number - 1])
    assert await scene.nursery.run([scene.job(number, "before", end=signal.SIGSTOP, gives=written)], meanwhile) == [0]
    await scene.check()


async def test_two_leaders_at_once_do_no_harm(scene: Scene) -> None:
    assert await scene.nursery.run([scene.job(gives=None), scene.job(gives=None)]) == [0, 0]
    await scene.check()
