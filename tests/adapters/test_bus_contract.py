"""The contract suite of `MessageBus` on every adapter (memory, fakeredis, real Redis), and what holds for memory."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
import trio

from tests.adapters.crews import workers
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.bus import MOST_ANSWERS, MemoryBus
from traffic_cop_middleware.contracts import Message, MessageBus
from traffic_cop_middleware.errors import StoreError
from traffic_cop_middleware.testing import MessageBusContract
from traffic_cop_middleware.testing.bus_contract import Hearing


class TestMemory(MessageBusContract):
    @pytest.fixture
    def buses(self) -> Sequence[MessageBus]:
        return [MemoryBackend().bus]


class OnRedis(MessageBusContract):
    async def opened(self, url: str) -> AsyncIterator[Sequence[MessageBus]]:
        async with workers(url) as backends:
            yield [backend.bus for backend in backends]


class TestFakeRedis(OnRedis):
    @pytest_asyncio.fixture
    async def buses(self, fake_redis_url: str) -> AsyncIterator[Sequence[MessageBus]]:
        async for buses in self.opened(fake_redis_url):
            yield buses


class TestRedis(OnRedis):
    @pytest_asyncio.fixture
    async def buses(self, redis_server: RedisServer) -> AsyncIterator[Sequence[MessageBus]]:
        async for buses in self.opened(redis_server.url):
            yield buses


# Memory alone


def test_memory_has_told_everybody_when_publish_returns() -> None:
    bus, hearing = MemoryBus(), Hearing()
    bus.subscribe("now", hearing)
    assert bus.publish("now", "here") == 1
    assert hearing.messages == [Message("now", 1, "here")]


def test_memory_works_on_trio() -> None:
    async def scenario() -> list[str | None]:
        bus, hearing = MemoryBackend().bus, Hearing()
        bus.subscribe("trio", hearing)

        async def publisher() -> None:
            for _ in range(10):
                bus.publish("trio", "x")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(publisher)
        return hearing.payloads

    assert trio.run(scenario) == ["x"] * 30


def test_listeners_in_memory_that_answer_each_other_for_ever_are_stopped(caplog: pytest.LogCaptureFixture) -> None:
    bus, hearing = MemoryBus(), Hearing()
    failed: list[StoreError] = []

    def answering(message: Message) -> None:
        try:
            bus.publish("echo", "again")
        except StoreError as error:
            failed.append(error)
            raise

    bus.subscribe("echo", answering)
    bus.subscribe("echo", hearing)
    bus.publish("echo", "hello")
    assert len(failed) == 1
    assert "do two of them answer each other?" in caplog.text
    assert hearing.versions == list(range(1, MOST_ANSWERS + 2))
    assert bus.publish("other", "it still works") == 1


def test_an_interrupt_out_of_a_listener_in_memory_leaves_the_rest_to_the_next_publish() -> None:
    bus, hearing = MemoryBus(), Hearing()

    def interrupted(message: Message) -> None:
        if message.version == 1:
            bus.publish("cut", "second")
            raise KeyboardInterrupt

    bus.subscribe("cut", interrupted)
    bus.subscribe("cut", hearing)
    with pytest.raises(KeyboardInterrupt):
        bus.publish("cut", "first")
    bus.publish("cut", "third")
    assert hearing.payloads == ["second", "third"]


def test_threads_that_share_a_memory_bus_hear_one_order_and_each_message_once() -> None:
    bus, hearings = MemoryBus(), [Hearing() for _ in range(3)]
    versions: list[int] = []
    for hearing in hearings:
        bus.subscribe("threads", hearing)
    begin = threading.Barrier(4)

    def publisher() -> None:
        begin.wait()
        versions.extend(bus.publish("threads", "x") for _ in range(500))

    threads = [threading.Thread(target=publisher) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    bus.publish("threads", "last")
    assert sorted(versions) == list(range(1, 2001))
    for hearing in hearings:
        assert hearing.versions == list(range(1, 2002))
