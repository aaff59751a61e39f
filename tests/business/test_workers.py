"""Worker processes that count orders together on a real Redis, and one that is killed."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.adapters.test_metrics_workers import Worker, workers
from tests.servers import RedisServer

pytestmark = pytest.mark.redis_server


async def orders(worker: Worker) -> list[float]:
    found: list[float] = json.loads(await worker.ask("orders"))
    return found


@pytest.mark.asyncio
async def test_workers_count_together_and_one_that_is_killed_takes_along_one_interval(
    redis_server: RedisServer,
) -> None:
    async with workers(redis_server.url, 3, interval=10.0) as (killed, ended, stays):
        for at, worker in enumerate((killed, ended, stays)):
            await worker.ask(f"order {100 * (at + 1)}")
            await worker.flushed()
        assert await orders(stays) == [600, 60]
        await killed.ask("order 7")  # since its last flush
        await ended.ask("order 11")
        await killed.end(signal.SIGKILL)
        await ended.end(signal.SIGTERM)
        assert await orders(stays) == [611, 61.1]
        assert f'traffic_cop_business_orders_total{{plan="pro"}} {611}' in json.loads(await stays.ask("scrape"))[1]


@pytest.mark.asyncio
async def test_what_was_counted_comes_to_the_others_within_an_interval(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, 2, interval=0.2) as (one, two):
        await one.ask("order 5")
        for _ in range(600):
            if await orders(two) == [5, 0.5]:
                break
            await asyncio.sleep(0.05)
        assert await orders(two) == [5, 0.5]
        await one.end(signal.SIGKILL)
        assert await orders(two) == [5, 0.5]
