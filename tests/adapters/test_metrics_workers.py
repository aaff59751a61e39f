"""Several worker processes count together on a real Redis: they end, are killed, lose replies, and lose the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.adapters.load import poll, started
from tests.asgi import http_scope, send_through
from tests.redis_proxy import Dropping
from tests.servers import RedisServer
from traffic_cop_middleware import TrafficCop

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
SERIES = 3
COUNT = re.compile(r"^http_server_request_duration_seconds_count\{(.*)\} (\d+)$", re.MULTILINE)


class Worker:
    """A worker process, and how many requests it says to have served."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.served = 0

    async def ask(self, command: str) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(PATIENCE):
            await stdin.drain()
            line = await stdout.readline()
        assert line, await self.said()
        return line.decode().strip()

    async def said(self) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(5):
            return (await self.process.stderr.read()).decode()

    async def serve(self, number: int) -> None:
        self.served = int(await self.ask(str(number)))

    async def scrape(self) -> dict[str, int]:
        """The counted requests by their labels, as soon as they can be read."""
        for _ in range(600):
            status, text = json.loads(await self.ask("scrape"))
            if status == 200:
                return {labels: int(count) for labels, count in COUNT.findall(text)}
            assert status == 503
            await asyncio.sleep(0.1)
        raise AssertionError("the counters could not be read")

    async def total(self) -> int:
        return sum((await self.scrape()).values())

    async def comes_to(self, count: int) -> None:
        """Wait until so many requests are counted; never more."""
        for _ in range(600):
            if (total := await self.total()) == count:
                return
            assert total < count
            await asyncio.sleep(0.1)
        raise AssertionError(f"{total} of {count} requests were counted in the end")

    async def flushed(self) -> None:
        await self.ask("flush")

    async def end(self, number: int) -> None:
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()


@contextlib.asynccontextmanager
async def workers(
    url: str, number: int, *, interval: float = 0.2, deadline: float = 10.0
) -> AsyncIterator[list[Worker]]:
    settings = json.dumps({"url": url, "interval": interval, "deadline": deadline})
    pipe = asyncio.subprocess.PIPE
    found = []
    try:
        for _ in range(number):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.adapters.metrics_worker", settings),
                cwd=ROOT,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=2**24,
            )
            found.append(Worker(process))
        for worker in found:
            assert worker.process.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert await worker.process.stdout.readline() == b"ready\n", await worker.said()
        yield found
    finally:
        for worker in found:
            if worker.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
                await worker.process.wait()


async def serve(some: list[Worker], number: int) -> None:
    await asyncio.gather(*(worker.serve(number) for worker in some))


def served(*groups: list[Worker]) -> int:
    return sum(worker.served for group in groups for worker in group)


@pytest.mark.asyncio
async def test_four_workers_count_together_and_none_of_them_takes_its_share_along_when_it_ends(
    redis_server: RedisServer,
) -> None:
    async with workers(redis_server.url, 4) as all_of_them:
        ended, stay = all_of_them[:2], all_of_them[2:]
        await serve(all_of_them, 300)
        for worker in all_of_them:
            await worker.flushed()
        assert await stay[0].total() == 1_200
        await serve(ended, 50)  # and at once: no interval passes
        for worker in ended:
            await worker.end(signal.SIGTERM)
            assert worker.process.returncode == 0, await worker.said()
        await serve(stay, 33)
        for worker in stay:
            await worker.flushed()
        by_label = await stay[0].scrape()
        assert sum(by_label.values()) == served(all_of_them) == 2 * 350 + 2 * 333
        assert len(by_label) == SERIES
        assert await stay[1].scrape() == by_label


@pytest.mark.asyncio
async def test_a_killed_worker_takes_along_what_it_served_since_its_last_flush_and_counters_never_fall(
    redis_server: RedisServer,
) -> None:
    async with workers(redis_server.url, 4) as all_of_them:
        killed, *stay = all_of_them
        await serve(all_of_them, 100)
        before: dict[str, int] = {}
        for worker in all_of_them:
            await worker.flushed()
        known = served(all_of_them)
        await killed.serve(40)
        await killed.end(signal.SIGKILL)
        for turn in range(12):
            await stay[turn % 3].serve(10)
            now = await stay[(turn + 1) % 3].scrape()
            assert all(now[labels] >= count for labels, count in before.items())
            before = now
        for worker in stay:
            await worker.flushed()
        total = await stay[0].total()
        lost = served(all_of_them) - total
        assert 0 <= lost <= 40
        assert total >= known + 120


@pytest.mark.asyncio
async def test_lost_replies_count_nothing_twice(redis_server: RedisServer) -> None:
    async with Dropping(redis_server.port, 0.1) as proxy, workers(proxy.url, 4, interval=0.05) as some:
        for _ in range(40):
            await serve(some, 25)
            await asyncio.sleep(0.05)
        await poll(lambda: proxy.dropped >= 10, PATIENCE)
        proxy.share = 0.0
        assert served(some) == 4_000
        await some[0].comes_to(4_000)
        await some[1].end(signal.SIGTERM)
        assert await some[2].total() == 4_000


@pytest.mark.asyncio
async def test_a_last_flush_whose_reply_was_lost_counts_once_when_the_cop_is_opened_again_on_another_loop(
    redis_server: RedisServer,
) -> None:
    def counting(url: str) -> tuple[TrafficCop, Any]:
        cop = TrafficCop(url, namespace="traffic", deadline=10, metrics=True, metrics_interval=10)
        return cop, cop.wrap(Starlette())

    async def counted_by(cop: TrafficCop) -> int:
        counted = await cop.analytics.totals()
        return sum(series.count for series in counted.figures.requests.values())

    async with Dropping(redis_server.port, 0.0) as proxy:
        cop, app = counting(proxy.url)
        other, other_app = counting(redis_server.url)

        async def live(before: int, *, lost: bool) -> None:
            async with started(app):
                assert await counted_by(cop) == before
                for _ in range(5):
                    await send_through(app, http_scope("/"))
                proxy.share = float(lost)

        async with started(other_app):
            for before, lost in ((0, True), (5, True), (10, False)):
                proxy.share = proxy.dropped = 0
                await asyncio.to_thread(asyncio.run, live(before, lost=lost))
                assert bool(proxy.dropped) == lost
                for _ in range(2):
                    assert await counted_by(other) == before + 5


@pytest.mark.asyncio
async def test_an_emptied_redis_is_healed_with_the_workers_that_are_gone_in_it(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, 4) as all_of_them:
        gone, *stay = all_of_them
        await serve(all_of_them, 250)
        await gone.end(signal.SIGTERM)
        for worker in stay:
            await worker.flushed()
        assert await stay[0].total() == 1_000  # and so the one that is gone is in the record
        for worker in stay:
            await worker.flushed()
        redis_server.command("FLUSHALL")
        await serve(stay, 10)
        for worker in stay:
            await worker.comes_to(1_030)
        live = json.loads(await stay[0].ask("live"))
        assert live[1:] == [3, True]


@pytest.mark.asyncio
async def test_requests_do_not_notice_that_redis_is_away_and_all_is_counted_when_it_is_back(
    own_redis: RedisServer,
) -> None:
    async with workers(own_redis.url, 2, deadline=0.3) as some:
        await serve(some, 100)
        for worker in some:
            await worker.flushed()
        own_redis.kill()
        await serve(some, 200)
        requests, _, complete = json.loads(await some[0].ask("live"))
        assert (requests, complete) == (300, False)  # its own alone
        status, _ = json.loads(await some[0].ask("scrape"))
        assert status == 503
        own_redis.start()
        await serve(some, 50)
        await some[0].comes_to(700)
