"""The contract suite of `SessionRouteStore` on every adapter (memory, fakeredis, real Redis), and what each adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.crews import workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory.session_routes import MemorySessionRoutes
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import SessionRouteStore
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock, SessionRouteStoreContract


class TestMemory(SessionRouteStoreContract):
    @pytest.fixture
    def stores(self) -> Sequence[SessionRouteStore]:
        self.clock = FakeClock()
        return [MemoryBackend(clock=self.clock).session_routes]

    async def elapse(self, seconds: float) -> None:
        self.clock.advance(seconds)


class OnRedis(SessionRouteStoreContract):
    async def elapse(self, seconds: float) -> None:
        end = time.time() + seconds + 0.01
        await poll(lambda: time.time() >= end)


class TestFakeRedis(OnRedis):
    @pytest_asyncio.fixture
    async def stores(self, fake_redis_url: str) -> AsyncIterator[Sequence[SessionRouteStore]]:
        async with workers(fake_redis_url) as backends:
            yield [backend.session_routes for backend in backends]


class TestRedis(OnRedis):
    @pytest_asyncio.fixture
    async def stores(self, redis_server: RedisServer) -> AsyncIterator[Sequence[SessionRouteStore]]:
        async with workers(redis_server.url) as backends:
            yield [backend.session_routes for backend in backends]


# Memory alone


def test_memory_keeps_as_many_routes_as_it_may_and_lets_the_one_go_that_ends_soonest() -> None:
    clock = FakeClock()
    store = MemorySessionRoutes(clock=clock, max_routes=3)
    for id, ttl in (("long", 100.0), ("soon", 10.0), ("later", 50.0)):
        store.create(id, service="billing", instance="i1", ttl=ttl)
    store.create("new", service="billing", instance="i1", ttl=20.0)
    assert len(store) == 3
    assert {route.id for route in store.active()} == {"long", "later", "new"}
    assert store.end("soon") == 0
    clock.advance(20)
    store.create("newer", service="billing", instance="i1", ttl=1.0)
    assert {route.id for route in store.active()} == {"long", "later", "newer"}


def test_memory_forgets_a_session_with_its_last_route() -> None:
    clock = FakeClock()
    store = MemorySessionRoutes(clock=clock, max_routes=10)
    for number in range(1000):
        store.create(f"s{number}", service="billing", instance="i1", ttl=1.0)
        clock.advance(1)
    store.sweep()
    assert len(store) == 0
    assert not store._services


# Redis alone


def key_of(backend: RedisBackend, id: str) -> str:
    return backend.session_routes._key(id)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [
        ("SET", "a text"),
        ("RPUSH", "a list"),
        ("HSET", "billing", ""),
        ("HSET", "billing", "1 2 3"),
        ("HSET", "billing", "1 2 99999999999999999999 i1"),
        ("HSET", "billing", "99999999999999999999 2 3000000000000000 i1"),
        ("HSET", "billing", "-1 nan inf i1"),
    ],
)
async def test_garbage_under_a_key_is_no_route_and_is_written_over(
    backends: list[RedisBackend], garbage: tuple[str, ...]
) -> None:
    backend = backends[0]
    store = backend.session_routes
    command, *values = garbage
    await backend.link.ask(command, key_of(backend, "s1"), *values)
    assert await store.validate("s1", service="billing") is None
    assert await store.validate("s1", service="billing", ttl=10.0) is None
    assert await store.update("s1", service="billing", instance="i2", version=1, ttl=10.0) is None
    assert await store.end("s1", service="billing") == 0
    assert (await store.create("s1", service="billing", instance="i1", ttl=10.0))[:4] == ("s1", "billing", "i1", 1)
    assert await store.end("s1") == 1


@pytest.mark.asyncio
async def test_garbage_does_not_hinder_the_end_of_a_session(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    await backend.link.ask("SET", key_of(backend, "s1"), "a text")
    assert await backend.session_routes.end("s1") == 0
    await backend.session_routes.create("s1", service="search", instance="i1", ttl=10.0)
    await backend.link.ask("HSET", key_of(backend, "s1"), "billing", "garbage")
    assert await backend.session_routes.end("s1") == 1


@pytest.mark.asyncio
async def test_a_key_expires_with_its_last_route_and_old_services_are_cleared(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    store, key = backend.session_routes, key_of(backend, "s1")
    began = time.monotonic()
    await store.create("s1", service="old", instance="i1", ttl=0.05)
    left = await backend.link.ask("PTTL", key)
    assert 0 < left <= 50 or (left == -2 and time.monotonic() - began >= 0.049)
    await store.create("s1", service="new", instance="i1", ttl=100.0)
    assert 40_000 < await backend.link.ask("PTTL", key) <= 100_000
    await store.validate("s1", service="new", ttl=10.0)
    assert await backend.link.ask("PTTL", key) > 40_000, "no sooner than its last route"
    end = time.time() + 0.06
    await poll(lambda: time.time() >= end)
    await store.create("s1", service="newer", instance="i1", ttl=1.0)
    assert sorted(await backend.link.ask("HKEYS", key)) == [b"new", b"newer"]


@pytest.mark.asyncio
async def test_a_lost_note_to_the_index_is_made_good_by_the_next_renewal(backends: list[RedisBackend]) -> None:
    backend = backends[0]
    store = backend.session_routes
    await store.create("s1", service="billing", instance="i1", ttl=100.0)
    assert await backend.link.ask("DEL", *store._index_keys) == 4
    assert await store.figures() == {}
    assert await store.validate("s1", service="billing") is not None
    assert await store.active() == []
    await store.validate("s1", service="billing", ttl=100.0)
    assert await store.figures() == {"billing": {"i1": 1}}
    assert [route.id for route in await store.active()] == ["s1"]


@pytest.mark.asyncio
async def test_news_that_come_late_do_not_undo_newer_ones_in_the_index(backends: list[RedisBackend]) -> None:
    store = backends[0].session_routes
    ends = round((time.time() + 60) * 1e6)
    for version, written, instance in ((2, 1020, "new"), (1, 1010, "old"), (1, 1020, "old")):
        await store._ask_index("put", "7:billing", "s1", version, 1000, ends, written, instance)
    await store._ask_index("put", "7:billing", "s1", 9, 999, ends, 2000, "of an earlier route")
    [route] = await store.active()
    assert (route.instance, route.version) == ("new", 2)
    await store._ask_index("remove", "7:billing", "s1", 999)
    assert await store.figures() == {"billing": {"new": 1}}
    await store._ask_index("remove", "7:billing", "s1", 1000)
    assert await store.figures() == {}


@pytest.mark.asyncio
async def test_a_cancelled_create_that_was_sent_is_still_indexed(backends: list[RedisBackend]) -> None:
    store = backends[0].session_routes
    asked = store.create("s1", service="billing", instance="i1", ttl=100.0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()  # type: ignore[attr-defined]
    assert await store.validate("s1", service="billing") is not None
    assert [route.id for route in await store.active()] == ["s1"]


@pytest.mark.asyncio
async def test_every_question_is_refused_at_once_while_redis_is_away(own_redis: RedisServer) -> None:
    async with workers(own_redis.url) as backends:
        backend = backends[0]
        store = backend.session_routes
        own_redis.kill()
        await poll(lambda: not backend.link.up)
        calls = (
            lambda: store.create("s1", service="billing", instance="i1", ttl=1.0),
            lambda: store.validate("s1", service="billing"),
            lambda: store.update("s1", service="billing", instance="i1", version=1, ttl=1.0),
            lambda: store.end("s1"),
            store.active,
            store.sweep,
            store.figures,
        )
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()
