"""State in Redis when the server, its data, a connection, a reply or a worker is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.adapters.crews import workers
from tests.adapters.load import LOOPS, poll
from tests.servers import RedisServer, running_redis
from traffic_cop_middleware.adapters.redis import RedisBackend, state_tracking
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.outbox_contract import claim, claim_all
from traffic_cop_middleware.testing.state_asking import at, changed, listed, load, put, write

pytestmark = pytest.mark.redis_server

FAR = 3600.0
Heard = list[Sequence[StateKey] | None]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PING of the tracking connection is missed because the machine was busy, where a test is not about that."""
    monkeypatch.setattr(state_tracking, "HEARTBEAT", 1000.0)


async def until_answered(backend: RedisBackend) -> None:
    await poll(lambda: backend.link.up)
    for _ in range(3000):
        with contextlib.suppress(StoreError):
            await backend.link.ask("PING")
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never back")


# The server


@pytest.mark.asyncio
async def test_a_killed_server_with_an_append_only_file_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with workers(server.url, number=2, deadline=2.0) as backends:
            acknowledged: dict[StateKey, Item] = {}
            deletions = itertools.count()
            unknown = 0

            async def writer(number: int) -> None:
                nonlocal unknown
                state = backends[number % 2].state
                for turn in itertools.count():
                    key = at(f"{number} {turn % 20}")
                    value = None if next(deletions) % 7 == 0 else f"{number} {turn}" + "x" * 200
                    try:
                        written = await state.write(key, value, tier="delayed")
                    except StoreUnavailable:
                        unknown += 1
                        return
                    assert written.item is not None
                    acknowledged[key] = written.item

            writing = [asyncio.create_task(writer(number)) for number in range(16)]
            await poll(lambda: len(acknowledged) == 16 * 20)
            await poll(lambda: next(deletions) > 3000)
            server.kill()
            await asyncio.wait_for(asyncio.gather(*writing), 60)
            assert unknown == 16
            server.start()
            for backend in backends:
                await until_answered(backend)
            state = backends[0].state
            keys = list(acknowledged)
            items: dict[StateKey, Item] = {}
            for start in range(0, len(keys), 50):
                for key, item in zip(keys[start : start + 50], await state.load(keys[start : start + 50]), strict=True):
                    assert item is not None
                    assert item.version >= acknowledged[key].version
                    if item.version == acknowledged[key].version:
                        assert item == acknowledged[key]
                    items[key] = item
            claimed = await claim_all(state.outbox)
            assert {entry.item.key: entry.item for entry in claimed} == items
            there = [item for item in items.values() if item.value is not None]
            assert await listed(state) == sorted(there, key=lambda item: item.key.key)


@pytest.mark.asyncio
async def test_after_everything_was_flushed_watchers_are_told_and_the_outbox_works_again(
    redis_server: RedisServer,
) -> None:
    async with workers(redis_server.url, number=2) as (backend, other):
        state = backend.state
        cursor = (await changed(state, None)).cursor
        first = await put(state, at("a"), "1", tier="delayed")
        seen = (await changed(state, cursor)).cursor
        old = await claim_all(state.outbox)
        redis_server.command("FLUSHALL")
        assert (await changed(state, seen)).lost
        assert await write(state, at("a"), "2", if_version=first.version) == ("unknown", None)
        assert list(await claim(other.state.outbox)) == []
        second = await put(state, at("a"), "2", tier="delayed")
        assert second.version > first.version
        lost = await changed(state, seen)
        assert (lost.lost, lost.changes) == (True, [])
        assert (await changed(state, lost.cursor)).lost is False
        await state.outbox.settle(old)
        await state.outbox.bury(old[0], "of another time")
        assert [entry.item for entry in await claim(other.state.outbox)] == [second]
        assert await state.outbox.dead() == []


@pytest.mark.asyncio
async def test_every_question_is_refused_while_redis_is_away(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, number=1) as (backend,):
        state = backend.state
        own_redis.kill()
        await poll(lambda: not backend.link.up)
        questions: list[Callable[[], object]] = [
            lambda: state.load([at("a")]),
            lambda: state.load([at("a"), at("b")]),
            lambda: state.write(at("a"), "1", tier="cache"),
            lambda: state.warm([Item(at("a"), 1, "1", "cache", 1.0)]),
            lambda: state.forget(at("a"), version=1),
            lambda: state.list("acme", "cart"),
            lambda: state.changes("acme", "cart"),
            lambda: state.outbox.claim("w", most=1, idle=1),
            state.outbox.dead,
            state.outbox.waiting,
        ]
        for question in questions:
            with pytest.raises(StoreUnavailable):
                question()


@pytest.mark.asyncio
async def test_all_that_a_frozen_redis_was_asked_fails_at_the_deadline(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, number=1, deadline=0.2) as (backend,):
        state = backend.state
        for number in range(100):
            await put(state, at(f"k{number}"), "1", tier="delayed")
        own_redis.freeze()
        asked = [
            state.load([at(f"k{number}") for number in range(100)]),
            state.list("acme", "cart"),
            state.changes("acme", "cart"),
            state.outbox.claim("w", most=100, idle=1),
            state.outbox.waiting(),
        ]
        for one in asked:
            with pytest.raises(StoreUnavailable):
                await one
        own_redis.thaw()
        await until_answered(backend)
        assert len(await listed(state)) == 100


# A reply


@pytest.mark.asyncio
async def test_a_write_whose_reply_was_lost_is_told_by_a_load_and_changes_nothing_twice(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, number=2, deadline=0.2) as (backend, other):
        for state in (backend.state, other.state):
            await put(state, at("warm up"), "1")
        first = await put(backend.state, at("a"), "1", tier="delayed")
        cursor = (await changed(backend.state, None)).cursor
        own_redis.freeze()
        with pytest.raises(StoreTimeout):
            await write(backend.state, at("a"), "2", tier="delayed", if_version=first.version)
        own_redis.thaw()
        await until_answered(backend)
        await until_answered(other)
        again = await write(backend.state, at("a"), "2", tier="delayed", if_version=first.version)
        there = await load(other.state, at("a"))
        assert there is not None
        assert there.value == "2"
        assert again.item == there
        assert [change.version for change in (await changed(other.state, cursor)).changes] == [there.version]
        assert [entry.item for entry in await claim_all(other.state.outbox)] == [there]


# A worker

CLAIMS = """
import asyncio, sys
from traffic_cop_middleware.adapters import redis

async def main(url, namespace):
    backend = redis.open(url, namespace=namespace, deadline=5, notify=lambda event: None)
    await backend.connect(patience=30)
    print(len(await backend.state.outbox.claim("the one that dies", most=1000, idle=3600)), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.asyncio
async def test_what_a_killed_worker_had_claimed_is_settled_once_by_another(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=3) as backends:
        state = backends[0].state
        put_in = [await put(state, at(f"k{number}"), str(number), tier="delayed") for number in range(100)]
        namespace = state._places.items.removesuffix(":st:")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", CLAIMS, redis_server.url, namespace), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            assert int(await asyncio.wait_for(process.stdout.readline(), 60)) == 100
        finally:
            process.kill()
            await process.wait()
        assert list(await claim(state.outbox)) == []
        settled: list[Item] = []

        async def worker(backend: RedisBackend, name: str) -> None:
            """Claims what the dead one had; by a short idle period, which none that lives exceeds here."""
            for _ in range(3000):
                entries = await claim(backend.state.outbox, name, most=7, idle=0.3)
                await backend.state.outbox.settle(entries)
                settled.extend(entry.item for entry in entries)
                if await backend.state.outbox.waiting() == 0:
                    return
                await asyncio.sleep(0.005)
            raise AssertionError("some are left")

        await asyncio.gather(*(worker(backend, f"worker {number}") for number, backend in enumerate(backends)))
        assert {item.key for item in settled} == {item.key for item in put_in}
        assert set(settled) == set(put_in)


# The connection that tells of writes


async def listening(backend: RedisBackend) -> tuple[Heard, Callable[[], None]]:
    """Somebody who hears of writes by now."""
    heard: Heard = []
    end = backend.state.invalidations(heard.append)
    await poll(lambda: backend.state.tracking.on)
    heard.clear()
    return heard, end


async def hears(heard: Heard, key: StateKey) -> None:
    await poll(lambda: any(keys is not None and key in keys for keys in heard))


def tracking_id(server: RedisServer) -> str:
    """The id of the connection that has CLIENT TRACKING on."""
    for line in server.command("CLIENT", "LIST").decode().splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        if "t" in fields.get("flags", ""):
            return fields["id"]
    raise AssertionError("none")


@pytest.mark.asyncio
async def test_a_cut_tracking_connection_is_told_at_once_and_comes_back(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=2) as (backend, other):
        heard, _ = await listening(backend)
        await put(other.state, at("a"), "1")
        await hears(heard, at("a"))
        assert None not in heard
        redis_server.command("CLIENT", "KILL", "ID", tracking_id(redis_server))
        await poll(lambda: None in heard)
        await poll(lambda: backend.state.tracking.on)
        heard.clear()
        await put(other.state, at("b"), "1")
        await hears(heard, at("b"))


@pytest.mark.asyncio
async def test_while_redis_is_frozen_nothing_is_to_be_kept(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_tracking, "HEARTBEAT", 0.1)
    async with workers(own_redis.url, number=1, deadline=0.2) as (backend,):
        heard, _ = await listening(backend)
        own_redis.freeze()
        await poll(lambda: heard.count(None) >= 3)  # again and again, and not once
        own_redis.thaw()
        await until_answered(backend)
        await poll(lambda: backend.state.tracking.on)
        heard.clear()
        await put(backend.state, at("a"), "1")
        await hears(heard, at("a"))


@pytest.mark.asyncio
async def test_a_quiet_connection_that_answers_is_not_taken_for_lost(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=1) as (backend,):
        heard, _ = await listening(backend)
        before = tracking_id(redis_server)
        tracking = backend.state.tracking
        for _ in range(5):
            tracking.check()
            assert tracking._unanswered
            await poll(lambda: not tracking._unanswered)
        assert heard == []
        assert tracking_id(redis_server) == before


@pytest.mark.asyncio
async def test_a_flush_of_everything_is_told(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=1) as (backend,):
        heard, _ = await listening(backend)
        redis_server.command("FLUSHALL")
        await poll(lambda: None in heard)


@pytest.mark.asyncio
async def test_an_end_by_itself_and_what_is_no_item_are_told_as_they_should(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=1) as (backend,):
        heard, _ = await listening(backend)
        state = backend.state
        await backend.link.ask("SET", f"{state._places.items}nonsense", "1")
        await backend.link.ask("SET", f"{state._places.items}{{p01}}\xff".encode("latin-1"), "1")
        now = (await put(state, at("mark"), "1")).written_at
        await put(state, at("a"), "1", expires_at=now + 0.5)
        await hears(heard, at("a"))
        heard.clear()
        await hears(heard, at("a"))
        assert all(keys is not None and set(keys) <= {at("mark"), at("a")} for keys in heard)


@pytest.mark.asyncio
async def test_who_may_not_track_is_told_again_and_again_that_nothing_is_to_be_kept(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(state_tracking, "HEARTBEAT", 0.05)
    redis_server.command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
    try:
        async with workers(redis_server.url.replace("//", "//blind:secret@"), number=1) as (backend,):
            heard: Heard = []
            backend.state.invalidations(heard.append)
            await poll(lambda: len(heard) >= 5)
            assert set(heard) == {None}
            await put(backend.state, at("a"), "1")
            await poll(lambda: any("gives no invalidations of state" in each.getMessage() for each in caplog.records))
    finally:
        redis_server.command("ACL", "DELUSER", "blind")


@pytest.mark.asyncio
async def test_a_listener_that_fails_keeps_no_other_from_hearing(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers(redis_server.url, number=1) as (backend,):

        def fails(keys: Sequence[StateKey] | None) -> None:
            raise RuntimeError("on purpose")

        backend.state.invalidations(fails)
        heard, end = await listening(backend)
        also, _ = await listening(backend)
        await put(backend.state, at("a"), "1")
        await hears(heard, at("a"))
        await hears(also, at("a"))
        end()
        heard.clear()
        also.clear()
        await put(backend.state, at("b"), "1")
        await hears(also, at("b"))
        assert heard == []
    assert any("somebody who hears of written state failed" in each.getMessage() for each in caplog.records)


@pytest.mark.asyncio
async def test_there_is_a_tracking_connection_only_while_somebody_listens(redis_server: RedisServer) -> None:
    async with workers(redis_server.url, number=1) as (backend,):
        tasks = asyncio.all_tasks()

        def connections() -> int:
            listed = redis_server.command("CLIENT", "LIST").decode().splitlines()
            return sum(" flags=t" in line for line in listed)

        assert connections() == 0
        for _ in range(3):
            ends = [(await listening(backend))[1] for _ in range(3)]
            assert connections() == 1
            for end in ends:
                end()
            await poll(lambda: connections() == 0 and asyncio.all_tasks() == tasks)
        for _ in range(50):
            backend.state.invalidations(lambda keys: None)()
        await poll(lambda: connections() == 0 and asyncio.all_tasks() == tasks)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_ends_without_a_close_leaves_no_socket_and_no_task(loop: str, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        backend = open_redis(redis_server.url, namespace="left", deadline=5, notify=lambda event: None)
        heard: Heard = []
        backend.state.invalidations(heard.append)  # before it is connected
        await backend.connect()
        await poll(lambda: None in heard)
        await put(backend.state, at("a"), "1")
        await hears(heard, at("a"))

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())
    gc.collect()
    assert b" flags=t" not in redis_server.command("CLIENT", "LIST")
