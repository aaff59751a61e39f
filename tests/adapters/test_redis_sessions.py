"""Sessions on a real Redis: what goes over the wire, what stands in it, and what it does when that is spoilt."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.adapters.redis.replies import Arguments, Sink
from traffic_cop_middleware.contracts import Created, Guard, SessionKey, SessionStore, Take
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

DEADLINE = 30.0
KEY = SessionKey("user:alice", "a1")
MOVED = SessionKey("user:alice", "b1")


class Wire:
    """A backend, and the commands that were put on its link."""

    def __init__(self, backend: RedisBackend, namespace: str) -> None:
        self.backend = backend
        self.namespace = namespace
        self.ask = backend.link.ask
        self.commands: list[tuple[str, str]] = []
        put = backend.link.put

        def watched(command: Arguments, sink: Sink) -> None:
            self.commands.append((str(command[0]), str(command[3] if command[0] == "EVALSHA" else command[1])))
            put(command, sink)

        backend.link.put = watched  # type: ignore[method-assign]

    @property
    def store(self) -> Any:
        return self.backend.sessions

    def key(self, name: str) -> str:
        return f"{self.namespace}:{name}"

    async def keys(self) -> list[str]:
        found = sorted(key.decode().removeprefix(f"{self.namespace}:") for key in await self.ask("KEYS", "*"))
        return [key for key in found if key != "workers"]

    async def create(self, key: SessionKey = KEY, *, idle: float = 60, lifetime: float = 600, **terms: Any) -> Created:
        given = {"kind": "user", "meta": "m", "data": {"k": "1"}, **terms}
        created: Created = await self.store.create(key, idle=idle, lifetime=lifetime, **given)
        return created


@pytest_asyncio.fixture
async def wire(redis_server: RedisServer) -> AsyncIterator[Wire]:
    namespace = f"wire-{secrets.token_hex(4)}"
    backend = open_redis(redis_server.url, namespace=namespace, deadline=DEADLINE, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    yield Wire(backend, namespace)
    await backend.close()


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not await happened():
        if time.monotonic() > deadline:
            raise TimeoutError("it does not happen")


OPERATIONS: list[tuple[str, Callable[[SessionStore, int], Any], Sequence[str]]] = [
    ("load", lambda s, g: s.load(KEY, generation=g), ()),
    ("merge", lambda s, g: s.merge(KEY, {"a": "1", "k": None}, generation=g, idle=60, most=99), ()),
    ("touch", lambda s, g: s.merge(KEY, {}, generation=g, idle=60, most=99), ("ZADD",)),
    ("add", lambda s, g: s.add(KEY, "k", 1, generation=g, idle=60, most=99), ()),
    ("swap", lambda s, g: s.swap(KEY, "k", "1", "2", generation=g, idle=60, most=99), ()),
    ("rotate", lambda s, g: s.rotate(KEY, 0, grace=9, generation=g, idle=60), ()),
    ("move", lambda s, g: s.move(KEY, MOVED, meta="m", generation=g, idle=60), ("ZREM", "SADD", "ZADD")),
    ("end", lambda s, g: s.end(KEY), ("ZREM",)),
    ("list", lambda s, g: s.list(KEY.tag), ()),
    ("revoke", lambda s, g: s.revoke(KEY.tag), ("ZREM",)),
    ("tally", lambda s, g: s.tally({"a": 1, "b": 2}), ()),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("ask", "unheard"), [row[1:] for row in OPERATIONS], ids=[row[0] for row in OPERATIONS])
async def test_every_operation_is_one_command_that_is_asked_by_the_call(
    wire: Wire, ask: Callable[[SessionStore, int], Any], unheard: Sequence[str]
) -> None:
    generation = (await wire.create()).generation
    await ask(wire.store, -1)  # now its script is loaded
    if await wire.store.load(KEY, generation=generation) is None:
        generation = (await wire.create()).generation
    await wire.ask("ECHO", "x")
    wire.commands.clear()
    asked = ask(wire.store, generation)
    assert [name for name, _ in wire.commands] == ["EVALSHA"]
    await asked
    assert [name for name, _ in wire.commands] == ["EVALSHA", *unheard]


@pytest.mark.asyncio
async def test_a_use_that_brings_the_end_nearer_is_told_to_the_census(wire: Wire) -> None:
    generation = (await wire.create(lifetime=70)).generation
    wire.commands.clear()
    for _ in range(3):
        await wire.store.merge(KEY, {"a": "1"}, generation=generation, idle=80, most=99)  # to the end of the lifetime
    assert [name for name, _ in wire.commands if name != "EVAL"] == ["EVALSHA"] * 3
    await wire.store.merge(KEY, {"a": "1"}, generation=generation, idle=20, most=99)
    assert wire.commands[-1][0] == "ZADD"


@pytest.mark.asyncio
async def test_a_tags_keys_share_a_slot_and_no_script_touches_two(wire: Wire) -> None:
    await wire.create()
    await wire.store.tally({"a": 1})
    assert await wire.keys() == [
        *("g:{user:alice}", "i:{user:alice}", "s:{user:alice}a1"),
        *("{sessions}:kinds", "{sessions}:live:user", "{sessions}:tally"),
    ]
    await wire.create(SessionKey("user:bob", "b1"), limit=1)
    await wire.store.revoke_all()
    for name, key in wire.commands:
        if name == "EVALSHA":
            assert key.count("{") == 1
            assert "{user:" in key or "{sessions}" in key


@pytest.mark.asyncio
async def test_the_servers_clock_ends_a_session_and_nothing_stays_of_it(wire: Wire) -> None:
    used = began = time.monotonic()
    generation = (await wire.create(idle=0.2, lifetime=0.4)).generation
    latest = time.monotonic() + 0.4
    while True:
        asking = time.monotonic()
        if await wire.store.merge(KEY, {"k": "2"}, generation=generation, idle=0.2, most=99) is None:
            break
        assert asking < latest + 0.05, "it outlived its lifetime"
        used = asking
    over = time.monotonic()
    assert over - began > 0.39 or over - used > 0.19, "neither its lifetime nor an idle period was over"
    assert await wire.store.load(KEY, generation=generation) is None

    async def told() -> bool:
        return bool(await wire.store.sweep() == [(KEY, "user")])

    async def gone() -> bool:
        return await wire.keys() == ["{sessions}:kinds"]

    await until(told)
    await until(gone)


@pytest.mark.asyncio
async def test_an_idle_session_ends_on_the_servers_clock(wire: Wire) -> None:
    started = time.monotonic()
    generation = (await wire.create(idle=0.15)).generation
    while await wire.store.load(KEY, generation=generation) is not None:
        assert time.monotonic() < started + DEADLINE
    assert time.monotonic() - started > 0.14


@pytest.mark.asyncio
async def test_a_lifetime_ends_a_record_that_was_made_to_stay(wire: Wire) -> None:
    generation = (await wire.create()).generation
    await wire.ask("PERSIST", wire.key(KEY.record))
    loaded = await wire.store.load(KEY, generation=generation)
    assert loaded.idle_left == loaded.left
    await wire.ask("HINCRBY", wire.key(KEY.record), "e", -600_000_000)
    assert await wire.store.load(KEY, generation=generation) is None
    assert await wire.store.merge(KEY, {}, generation=generation, idle=60, most=99) is None
    assert await wire.store.list(KEY.tag) == []


@pytest.mark.asyncio
async def test_the_grace_ends_on_the_servers_clock(wire: Wire) -> None:
    generation = (await wire.create()).generation
    await wire.store.rotate(KEY, 0, grace=0.15, generation=generation, idle=60)
    outcomes = []
    while not outcomes or outcomes[-1] == "replayed":
        outcomes.append((await wire.store.rotate(KEY, 0, grace=0.15, generation=generation, idle=60)).outcome)
    assert outcomes[0] == "replayed"
    assert outcomes[-1] == "reused"


@pytest.mark.asyncio
async def test_scripts_come_back_after_a_flush(wire: Wire) -> None:
    generation = (await wire.create()).generation
    for _, ask, _ in OPERATIONS[:6]:
        await wire.ask("SCRIPT", "FLUSH")
        assert await ask(wire.store, generation) is not None
    await wire.ask("SCRIPT", "FLUSH")
    loads = [wire.store.load(KEY, generation=generation) for _ in range(20)]
    assert all(loaded is not None for loaded in await asyncio.gather(*loads))


@pytest.mark.asyncio
@pytest.mark.parametrize("lost", ["g:{user:alice}", "i:{user:alice}", "s:{user:alice}a1"])
async def test_a_lost_key_never_brings_a_revoked_session_back(wire: Wire, lost: str) -> None:
    before = (await wire.create()).generation
    record = await wire.ask("DUMP", wire.key("s:{user:alice}a1"))
    await wire.ask("DEL", wire.key(lost))
    await wire.store.revoke(KEY.tag)
    await wire.ask("RESTORE", wire.key("s:{user:alice}a1"), 60_000, record, "REPLACE")
    await wire.ask("DEL", wire.key("g:{user:alice}"))
    for generation in (before, 0):
        assert await wire.store.load(KEY, generation=generation) is None
    after = (await wire.create(MOVED)).generation
    assert after > before
    for generation in (before, after):
        assert await wire.store.load(KEY, generation=generation) is None
        assert await wire.store.merge(KEY, {}, generation=generation, idle=60, most=99) is None
    assert [each.id for each in await wire.store.list(KEY.tag)] == ["b1"]


@pytest.mark.asyncio
async def test_the_generation_counts_up_also_when_the_servers_clock_went_back(wire: Wire) -> None:
    before = (await wire.create()).generation + 3_600_000_000
    await wire.ask("SET", wire.key("g:{user:alice}"), before, "PX", 60_000)
    await wire.ask("HSET", wire.key(KEY.record), "g", before)
    assert await wire.store.revoke(KEY.tag) == ["a1"]
    assert (await wire.create()).generation == before + 1


@pytest.mark.asyncio
async def test_a_lost_index_hides_no_session_from_a_revocation(wire: Wire) -> None:
    generation = (await wire.create()).generation
    await wire.ask("DEL", wire.key("i:{user:alice}"))
    assert await wire.store.revoke(KEY.tag) == []
    assert await wire.store.load(KEY, generation=generation) is None
    generation = (await wire.create(MOVED)).generation
    await wire.ask("DEL", wire.key("i:{user:alice}"))
    assert await wire.store.revoke_all() == 1
    assert await wire.store.load(MOVED, generation=generation) is None


@pytest.mark.asyncio
async def test_the_generation_lives_as_long_as_any_session_of_it(wire: Wire) -> None:
    await wire.create(lifetime=1_000)
    await wire.create(MOVED, lifetime=10)
    await wire.store.revoke(KEY.tag)
    assert await wire.ask("PTTL", wire.key("g:{user:alice}")) > 990_000


async def spoil(wire: Wire, how: str) -> None:
    record = wire.key(KEY.record)
    if how in ("SET", "RPUSH", "SADD"):
        await wire.ask("DEL", record)
        await wire.ask(how, record, "{}")
    elif how.startswith("no "):
        await wire.ask("HDEL", record, how[3:])
    else:
        await wire.ask("HSET", record, how, "garbage")


SPOILT = ["SET", "RPUSH", "SADD", *"vcertn", *(f"no {name}" for name in "gvcertnkm")]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", SPOILT)
async def test_what_is_no_session_loads_as_none_and_is_left_alone(
    wire: Wire, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    generation = (await wire.create()).generation
    await spoil(wire, how)
    before = await wire.ask("DUMP", wire.key(KEY.record))
    for _ in range(3):
        assert await wire.store.load(KEY, generation=generation) is None
    assert sum("holds something else than a session" in record.message for record in caplog.records) == 1
    for name, ask, _ in OPERATIONS:
        if name != "tally":
            assert (await ask(wire.store, generation)) in (None, False, [], ("gone", 0, 0.0))
    assert await wire.ask("DUMP", wire.key(KEY.record)) == before
    with pytest.raises(StoreError):
        await wire.create()
    assert wire.backend.link.up


@pytest.mark.asyncio
async def test_texts_that_are_no_texts_load_as_none(wire: Wire) -> None:
    generation = (await wire.create()).generation
    await wire.ask("HSET", wire.key(KEY.record), "m", b"\x80\x04\x95\xff", ":k", b"\xff\xfe")
    assert await wire.store.load(KEY, generation=generation) is None
    assert wire.backend.link.up


@pytest.mark.asyncio
@pytest.mark.parametrize("garbage", ["0", "-1", "1.5", "x", "9" * 400])
async def test_a_spoilt_generation_ends_the_sessions_and_is_replaced(wire: Wire, garbage: str) -> None:
    generation = (await wire.create()).generation
    await wire.ask("SET", wire.key("g:{user:alice}"), garbage)
    assert await wire.store.load(KEY, generation=generation) is None
    assert await wire.store.revoke(KEY.tag) == []
    assert generation < (await wire.create(MOVED)).generation < 2**53


@pytest.mark.asyncio
async def test_a_spoilt_index_is_a_store_error_for_its_tag_alone(wire: Wire) -> None:
    await wire.ask("SET", wire.key("i:{user:alice}"), "x")
    for asked in (wire.store.list(KEY.tag), wire.store.revoke(KEY.tag), wire.create()):
        with pytest.raises(StoreError):
            await asked
    assert (await wire.create(SessionKey("user:bob", "b"))).admitted


@pytest.mark.asyncio
async def test_entries_of_dead_sessions_are_pruned_when_the_index_is_used(wire: Wire) -> None:
    await wire.create()
    await wire.create(MOVED)
    await wire.ask("DEL", wire.key(KEY.record))
    assert [each.id for each in await wire.store.list(KEY.tag)] == ["b1"]
    assert await wire.ask("ZCARD", wire.key("i:{user:alice}")) == 1


@pytest.mark.asyncio
async def test_entries_that_are_over_are_pruned_by_every_login(wire: Wire) -> None:
    await wire.ask("ZADD", wire.key("i:{user:alice}"), 1, "long ago")
    await wire.create()
    assert await wire.ask("ZRANGE", wire.key("i:{user:alice}"), 0, -1) == [b"a1"]


@pytest.mark.asyncio
async def test_a_guard_of_the_limits_follows_the_session(wire: Wire) -> None:
    generation = (await wire.create()).generation
    guard = Guard(KEY.record, KEY.generation, generation, (Take("{ip:1}all", 9, 1),))
    mine = Take("{user:alice}mine", 9, 1)
    assert (await wire.backend.buckets.take([mine], guard=guard)).guard_held
    await wire.store.revoke(KEY.tag)
    assert not (await wire.backend.buckets.take([mine], guard=guard)).guard_held
    await wire.create(MOVED)
    assert not (await wire.backend.buckets.take([mine], guard=guard)).guard_held


@pytest.mark.asyncio
async def test_what_is_cancelled_before_it_is_sent_does_not_happen(wire: Wire) -> None:
    asked = wire.store.create(KEY, kind="user", meta="", data={}, idle=9, lifetime=9)
    neighbour = wire.store.create(MOVED, kind="user", meta="", data={}, idle=9, lifetime=9)
    asked.cancel()
    assert (await neighbour).admitted
    assert [each.id for each in await wire.store.list(KEY.tag)] == ["b1"]
    assert (await wire.store.figures()).active == {"user": 1}


@pytest.mark.asyncio
async def test_what_is_cancelled_after_it_was_sent_is_still_counted_as_ended(wire: Wire) -> None:
    await wire.create()
    asked = wire.store.end(KEY)
    flushed = wire.ask("ECHO", "x")
    asyncio.get_running_loop().call_soon(asked.cancel)  # after the flush of this tick
    await flushed
    assert asked.cancelled()
    assert (await wire.store.figures()).active == {}


@pytest.mark.asyncio
async def test_a_session_that_moves_during_a_revocation_of_all_is_not_missed(wire: Wire) -> None:
    for number in range(300):
        await wire.create(SessionKey(f"user:{number}", "s0"))
    revoking = wire.store.revoke_all()
    at = dict.fromkeys(range(300), "s0")
    step = 0
    while not revoking.done():
        step += 1
        number = step % 300
        listed = await wire.store.list(f"user:{number}")
        generation = await wire.ask("GET", wire.key(f"g:{{user:{number}}}"))
        if listed:
            to = SessionKey(f"user:{number}", f"s{step}")
            if await wire.store.move(
                SessionKey(f"user:{number}", at[number]), to, meta="", generation=int(generation), idle=60
            ):
                at[number] = to.id
    assert await revoking == 300
    assert [key for key in await wire.keys() if key.startswith("s:")] == []


@pytest.mark.asyncio
async def test_only_the_namespaces_own_sessions_are_revoked(redis_server: RedisServer) -> None:
    names = ["app[1]*", "app1", "app[1]*x", "app1:s"]
    backends = [
        open_redis(redis_server.url, namespace=name, deadline=DEADLINE, notify=lambda event: None) for name in names
    ]
    for backend in backends:
        await backend.connect(patience=DEADLINE)
        await backend.sessions.create(KEY, kind="user", meta="", data={}, idle=60, lifetime=60)
    assert await backends[0].sessions.revoke_all() == 1
    assert await backends[1].sessions.revoke_all() == 1
    assert [len(await backend.sessions.list(KEY.tag)) for backend in backends] == [0, 0, 1, 1]
    for backend in backends:
        await backend.close()


@pytest.mark.asyncio
async def test_a_store_that_is_away_says_so(own_redis: RedisServer) -> None:
    backend = open_redis(own_redis.url, namespace="away", deadline=0.5, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    created = await backend.sessions.create(KEY, kind="user", meta="", data={}, idle=60, lifetime=60)
    own_redis.kill()
    for _ in range(3):
        for ask in (
            lambda: backend.sessions.load(KEY, generation=created.generation),
            lambda: backend.sessions.end(KEY),
            backend.sessions.sweep,
            backend.sessions.figures,
            backend.sessions.revoke_all,
        ):
            with pytest.raises(StoreUnavailable):
                await ask()
    await backend.close()


@pytest.mark.asyncio
async def test_without_memory_nobody_logs_in_and_nobody_is_logged_out_but_by_a_revocation(
    own_redis: RedisServer,
) -> None:
    backend = open_redis(own_redis.url, namespace="full", deadline=DEADLINE, notify=lambda event: None)
    await backend.connect(patience=DEADLINE)
    store = backend.sessions
    terms: Any = {"kind": "user", "meta": "", "data": {"k": "1"}, "idle": 60, "lifetime": 60}
    generation = (await store.create(KEY, **terms)).generation
    own_redis.command("CONFIG", "SET", "maxmemory", "1")
    for key in (MOVED, SessionKey("user:bob", "b1")):
        with pytest.raises(StoreUnavailable):
            await store.create(key, **terms, limit=1)
    with pytest.raises(StoreUnavailable):
        await store.rotate(KEY, 0, grace=9, generation=generation, idle=60)
    assert await store.merge(KEY, {}, generation=generation, idle=60, most=99) == 1
    assert [each.id for each in await store.list(KEY.tag)] == ["a1"]
    await backend.link.ask("DEL", "full:i:{user:alice}")
    assert await store.revoke(KEY.tag) == []
    assert await store.load(KEY, generation=generation) is None
    await backend.close()
