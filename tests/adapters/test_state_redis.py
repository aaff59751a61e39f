"""State in Redis: what stands where, for how long, how much of it, and how many commands it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.adapters.crews import workers
from tests.adapters.load import poll
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.redis import RedisBackend, state_outbox
from traffic_cop_middleware.adapters.redis import state as redis_state
from traffic_cop_middleware.contracts import Item, StateKey
from traffic_cop_middleware.errors import StoreError
from traffic_cop_middleware.testing.outbox_contract import claim, claim_all
from traffic_cop_middleware.testing.state_asking import at, changed, listed, load, put, write

FAR = 3600.0
HOUR = 3_600_000


@pytest_asyncio.fixture
async def backends(redis_server: RedisServer) -> AsyncIterator[list[RedisBackend]]:
    async with workers(redis_server.url, number=2) as opened:
        yield opened


@pytest.fixture
def backend(backends: list[RedisBackend]) -> RedisBackend:
    return backends[0]


def key_of(backend: RedisBackend, key: StateKey) -> str:
    return backend.state._places.of(key).key


async def pttl(backend: RedisBackend, key: StateKey) -> int:
    left: int = await backend.link.ask("PTTL", key_of(backend, key))
    return left


async def settle(backend: RedisBackend) -> None:
    await backend.state.outbox.settle(await claim_all(backend.state.outbox))


# Where


@pytest.mark.asyncio
async def test_a_partition_is_one_slot_and_items_alone_have_the_tracked_prefix(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("a"), "1", tier="delayed")).written_at
    await put(state, at("b"), "1", tier="immediate", expires_at=now + FAR)
    (first, *_) = await claim_all(state.outbox)
    await state.outbox.bury(first, "why")
    namespace = state._places.items.removesuffix(":st:")
    names = [name.decode() for name in await backend.link.ask("KEYS", f"{namespace}:s*")]
    kinds = {name.removeprefix(f"{namespace}:").partition(":")[0] for name in names}
    assert kinds == {"st", "si", "se", "sq", "so", "sd", "sc"}
    tags = {f"{{p{state._places.of(at(key)).partition.number:02d}}}" for key in "ab"}
    for name in names:
        assert sum(tag in name for tag in tags) == 1
        assert name.count("{") == 1
    assert sorted(name for name in names if name.startswith(state._places.items)) == sorted(
        key_of(backend, at(key)) for key in "ab"
    )


def test_partitions_are_used_evenly() -> None:
    places = redis_state.Places("tc")
    counts = [0] * 32
    for number in range(32_000):
        counts[places.of(at(f"user:{number}")).partition.number] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


# How many commands


@pytest.mark.asyncio
async def test_each_operation_on_an_item_is_one_command(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    state = backend.state
    warmed = await put(state, at("warm up"), "1", tier="delayed")
    await load(state, at("warm up"))
    await state.forget(at("warm up"), version=0)
    await state.warm([warmed])
    await state.reshape([warmed])
    sent: list[Any] = []
    asked = backend.link.put
    monkeypatch.setattr(backend.link, "put", lambda command, sink: (sent.append(command), asked(command, sink)))
    item = await put(state, at("a"), "1", tier="delayed")
    assert len(sent) == 1
    await write(state, at("a"), "2", tier=None, if_version=item.version)
    assert len(sent) == 2
    await load(state, at("a"))
    assert len(sent) == 3
    await state.warm([item])
    assert len(sent) == 4
    await state.forget(at("a"), version=item.version)
    assert len(sent) == 5
    same = [key for key in map(str, range(200)) if state._places.of(at(key)).partition.number == 7]
    await state.reshape([item._replace(key=at(key)) for key in same])
    assert len(sent) == 6


@pytest.mark.asyncio
async def test_what_is_asked_before_the_first_is_awaited_travels_in_one_write(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, transport = backend.state, backend.link._transport
    assert transport is not None
    await put(state, at("a"), "1", tier="delayed")
    await load(state, at("a"))
    await listed(state)
    await changed(state, None)
    await claim(state.outbox)
    writes: list[int] = []
    written = transport.write

    class Counting:
        def write(self, data: bytes) -> None:
            writes.append(len(data))
            written(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

    monkeypatch.setattr(backend.link, "_transport", Counting())
    asked = [
        state.write(at("a"), "2", tier="delayed"),
        state.load([at(f"k{number}") for number in range(100)]),
        state.load([at("a")]),
        state.changes("acme", "cart"),
        state.list("acme", "cart"),
        state.outbox.claim("w", most=100, idle=FAR),
        state.outbox.waiting(),
    ]
    for one in asked[:4]:
        await one
    assert len(writes) == 1
    for one in asked[4:]:
        await one


# How long


@pytest.mark.asyncio
async def test_what_is_queued_has_no_end_until_it_is_settled(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    soon = await put(state, at("soon"), '"kept"', tier="delayed", expires_at=now + 0.5)
    late = await put(state, at("late"), "1", tier="immediate", expires_at=now + FAR)
    gone = await put(state, at("gone"), None, tier="delayed")
    for _ in range(6000):
        item = await load(state, soon.key)
        assert item is not None, "it was lost before the documents had it"
        if item.value is None:
            break
        await asyncio.sleep(0.005)
    assert item == soon._replace(value=None, expires_at=None)
    assert [await pttl(backend, each.key) for each in (soon, late, gone)] == [-1, -1, -1]
    entries = await claim_all(state.outbox)
    assert sorted(entry.item for entry in entries) == sorted([soon, late, gone])
    await state.outbox.settle(entries)
    assert await load(state, soon.key) is None
    assert 0 < await pttl(backend, late.key) <= FAR * 1000 + 2
    assert 0 < await pttl(backend, gone.key) <= HOUR
    assert await load(state, late.key) == late


@pytest.mark.asyncio
async def test_what_shares_an_entry_with_an_earlier_write_has_no_end_either(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    await put(state, at("a"), "1", tier="delayed")
    newest = await put(state, at("a"), "2", tier="delayed", expires_at=now + FAR)
    await put(state, at("b"), "1", tier="delayed")
    gone = await put(state, at("b"), None, tier="delayed")
    assert await state.outbox.waiting() == 2
    assert [await pttl(backend, at(key)) for key in "ab"] == [-1, -1]
    entries = await claim_all(state.outbox)
    assert sorted(entry.item for entry in entries) == [newest, gone]
    await state.outbox.settle(entries)
    assert [await pttl(backend, at(key)) > 0 for key in "ab"] == [True, True]


@pytest.mark.asyncio
async def test_what_came_down_to_the_cache_and_is_not_settled_yet_is_queued_with_each_later_write(
    backend: RedisBackend,
) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    await put(state, at("a"), "1", tier="delayed")
    await settle(backend)
    await put(state, at("a"), "2", tier="cache")
    flushing = await claim_all(state.outbox)
    newest = await put(state, at("a"), "3", tier="cache", expires_at=now + FAR)
    assert await pttl(backend, at("a")) == -1
    await state.outbox.settle(flushing)
    assert await pttl(backend, at("a")) == -1
    entries = await claim_all(state.outbox)
    assert [entry.item for entry in entries] == [newest]
    await state.outbox.settle(entries)
    assert await pttl(backend, at("a")) > 0
    assert await state.outbox.waiting() == 0


@pytest.mark.asyncio
async def test_what_waits_and_is_older_than_what_the_documents_have_waits_no_longer(backend: RedisBackend) -> None:
    state = backend.state
    older = await put(state, at("a"), "1", tier="delayed")
    newer = older._replace(version=older.version + 1, value="2", expires_at=older.written_at + FAR)
    await state.warm([newer])
    assert await pttl(backend, at("a")) > 0
    assert [entry.item for entry in await claim_all(state.outbox)] == [newer]
    await settle(backend)
    await state.warm([newer._replace(version=older.version)])
    assert await load(state, at("a")) == newer
    await put(state, at("b"), "1", tier="delayed")
    await state.warm([Item(at("b"), newer.version + 10**9, "2", "delayed", 1.0)])
    await state.forget(at("b"), version=newer.version + 10**9)
    assert await load(state, at("b")) is None


@pytest.mark.asyncio
async def test_what_was_written_anew_meanwhile_has_no_end_after_the_older_version_was_settled(
    backend: RedisBackend,
) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    await put(state, at("a"), "1", tier="delayed", expires_at=now + FAR)
    flushing = await claim_all(state.outbox)
    newest = await put(state, at("a"), "2", tier="cache", expires_at=now + FAR)
    await state.outbox.settle(flushing)
    assert await pttl(backend, at("a")) == -1
    await state.forget(at("a"), version=newest.version)
    assert await load(state, at("a")) == newest
    await settle(backend)
    assert await pttl(backend, at("a")) > 0
    await state.forget(at("a"), version=newest.version)
    assert await load(state, at("a")) is None


@pytest.mark.asyncio
async def test_what_is_in_the_cache_alone_ends_by_itself_and_so_does_its_tombstone(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("a"), "1")).written_at
    assert await pttl(backend, at("a")) == -1
    await put(state, at("a"), "1", expires_at=now + FAR)
    assert 0 < await pttl(backend, at("a")) <= FAR * 1000 + 2
    await put(state, at("a"), None)
    assert 0 < await pttl(backend, at("a")) <= HOUR
    await state.warm([Item(at("b"), 5, None, "delayed", now), Item(at("c"), 5, "1", "delayed", now, now + FAR)])
    assert 0 < await pttl(backend, at("b")) <= HOUR
    assert 0 < await pttl(backend, at("c")) <= FAR * 1000 + 2


@pytest.mark.asyncio
async def test_indexes_forget_what_has_ended_by_later_writes_and_by_lists(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    for number in range(300):  # written long ago: they have ended by now, and Redis has removed them
        await put(state, at(f"k{number}"), "1", expires_at=now + FAR)
        where, place = state._places.of(at(f"k{number}"))
        await backend.link.ask("DEL", where.items + place)
        await backend.link.ask("ZADD", where.ends, now * 1000 - number, place)
    for number in range(300):
        await put(state, at(f"other {number}", namespace="other"), "1")
    indexes = [f"{where.indexes}acme\0cart" for where in state._places.partitions]
    assert sum([await backend.link.ask("ZCARD", index) for index in indexes]) < 100
    assert [item.key.key for item in await listed(state)] == ["mark"]
    assert sum([await backend.link.ask("ZCARD", index) for index in indexes]) == 1
    await put(state, at("evicted"), "1")
    await backend.link.ask("DEL", key_of(backend, at("evicted")))
    assert [item.key.key for item in await listed(state)] == ["mark"]
    assert sum([await backend.link.ask("ZCARD", index) for index in indexes]) == 1


@pytest.mark.asyncio
async def test_a_page_of_large_items_ends_early_and_tells_where_to_go_on(backend: RedisBackend) -> None:
    for number in range(20):
        await put(backend.state, at(f"k{number:02d}"), "x" * 250_000)
    page = await backend.state.list("acme", "cart", most=100)
    assert 4 <= len(page.items) <= 20
    assert len(await listed(backend.state)) == 20


# How much


@pytest.mark.asyncio
async def test_a_full_outbox_refuses_what_needs_it_and_nothing_else(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_state, "MOST_WAITING", 2)
    state = backend.state
    by_partition: dict[int, list[StateKey]] = {}
    for number in range(100):
        key = at(f"k{number}")
        by_partition.setdefault(state._places.of(key).partition.number, []).append(key)
    first, second, third = max(by_partition.values(), key=len)[:3]
    cached = await put(state, third, "cached")
    await put(state, first, "1", tier="delayed")
    await put(state, second, "1", tier="immediate")
    for _ in range(10):
        await put(state, first, "again and again", tier="delayed")
    assert await write(state, third, "2", tier="delayed") == ("full", None)
    assert await load(state, third) == cached
    kept = await put(state, third, "3")
    assert await load(state, third) == kept
    await settle(backend)
    assert (await write(state, third, "4", tier="delayed")).outcome == "written"


@pytest.mark.asyncio
async def test_an_item_that_is_written_all_the_time_has_one_entry_until_it_is_claimed(backend: RedisBackend) -> None:
    state = backend.state
    for turn in range(50):
        await put(state, at("hot"), str(turn), tier="delayed")
    assert await state.outbox.waiting() == 1
    flushing = await claim_all(state.outbox)
    for turn in range(50):
        newest = await put(state, at("hot"), f"more {turn}", tier="delayed")
    assert await state.outbox.waiting() == 2
    await state.outbox.settle(flushing)
    assert [entry.item for entry in await claim_all(state.outbox)] == [newest]


@pytest.mark.asyncio
async def test_dead_letters_are_bounded_and_the_items_of_the_oldest_may_end(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_outbox, "MOST_DEAD", 2)
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    keys = [at(f"k{number}") for number in range(200)]
    same = [key for key in keys if state._places.of(key).partition.number == 7][:4]
    items = [await put(state, key, "1", tier="delayed", expires_at=now + FAR) for key in same]
    entries = {entry.item.key: entry for entry in await claim_all(state.outbox)}
    for number, key in enumerate(same):
        await state.outbox.bury(entries[key], f"reason {number} " + "x" * 5_000)
    dead = await state.outbox.dead()
    assert [entry.item for entry, _ in dead] == items[2:]
    assert [len(reason) for _, reason in dead] == [2_000, 2_000]
    assert [await pttl(backend, key) > 0 for key in same] == [True, True, False, False]
    await state.forget(same[3], version=items[3].version)
    assert await load(state, same[3]) == items[3]
    assert await state.outbox.revive([entry.id for entry, _ in dead]) == 2
    await settle(backend)
    assert [await pttl(backend, key) > 0 for key in same] == [True] * 4


@pytest.mark.asyncio
async def test_an_entry_whose_item_was_lost_is_dropped(backend: RedisBackend) -> None:
    state = backend.state
    await put(state, at("lost"), "1", tier="delayed")
    kept = await put(state, at("kept"), "1", tier="delayed")
    await backend.link.ask("DEL", key_of(backend, at("lost")))
    assert [entry.item for entry in await claim_all(state.outbox)] == [kept]
    assert await state.outbox.waiting() == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("id", ["", "x", "07", "32-1-1", "-1-1", "07-1", "07-1-1-1", "٣-1-1", "07-" + "9" * 40 + "-1"])
async def test_what_is_no_id_of_an_entry_is_refused(backend: RedisBackend, id: str) -> None:
    with pytest.raises(ValueError, match="is no entry's id"):
        await backend.state.outbox.revive([id])


# What is large


@pytest.mark.asyncio
async def test_large_items_are_claimed_by_themselves_and_small_ones_do_not_wait_for_them(
    backends: list[RedisBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_outbox, "LARGE_BYTES", 3_000_000)
    state, other = backends[0].state, backends[1].state
    keys = [key for key in map(at, map(str, range(400))) if state._places.of(key).partition.number in (7, 8)]
    items = [
        await put(state, key, "x" * 2_000_000 if turn < 6 else "1", tier="delayed") for turn, key in enumerate(keys)
    ]
    small, large = items[6:], items[:6]
    first = await claim(state.outbox, most=1000)
    assert {entry.tries for entry in first} == {0}
    assert sorted(entry.item for entry in first if len(entry.item.value or "") == 1) == sorted(small)
    assert len(first) == len(small) + 2, "as many large ones as fit into 3 MB and one more"
    again = await put(state, large[5].key, "y" * 2_000_000, tier="delayed")
    assert await state.outbox.waiting() == len(items), "what was left is claimed by nobody, so a write shares its entry"
    await state.outbox.settle(first)
    rest = await claim_all(other.outbox, most=3)
    assert {entry.tries for entry in rest} == {0}
    left = {entry.item for entry in (*first, *rest)} - set(small)
    assert left == {*large[:5], again}
    assert len(rest) == 4
    await other.outbox.settle(rest)
    assert await state.outbox.waiting() == 0


@pytest.mark.asyncio
async def test_a_large_item_is_claimed_also_where_there_is_no_end_of_small_ones(backend: RedisBackend) -> None:
    large = await put(backend.state, at("large"), "x" * 2_000_000, tier="delayed")
    for number in range(400):
        await put(backend.state, at(f"k{number}"), "1", tier="delayed")
    entries = await claim(backend.state.outbox, most=200)
    assert len(entries) == 200
    assert large in [entry.item for entry in entries]


@pytest.mark.asyncio
async def test_a_large_item_that_was_claimed_and_not_settled_comes_again_with_its_tries(backend: RedisBackend) -> None:
    item = await put(backend.state, at("a"), "x" * 2_000_000, tier="delayed")
    for tries in range(3):
        entries = await claim(backend.state.outbox, idle=0)
        assert [(entry.item, entry.tries) for entry in entries] == [(item, tries)]
    assert list(await claim(backend.state.outbox)) == []


@pytest.mark.asyncio
async def test_a_list_holds_one_large_item_at_a_time(backend: RedisBackend) -> None:
    items = [
        await put(backend.state, at(f"k{number:02d}"), "x" * 2_000_000 if number % 3 else "1") for number in range(20)
    ]
    assert await listed(backend.state) == items
    page = await backend.state.list("acme", "cart", most=100)
    assert (page.items, page.after) == (items[:2], "k01")
    await put(backend.state, at("k01"), None)
    page = await backend.state.list("acme", "cart", most=100, after="k00")
    assert [item.key.key for item in page.items] == ["k02", "k03"]


@pytest.mark.asyncio
async def test_what_is_reshaped_and_not_queued_ends_when_it_would_have(backend: RedisBackend) -> None:
    state = backend.state
    now = (await put(state, at("mark"), "1")).written_at
    item = await put(state, at("a"), "1", expires_at=now + FAR)
    waits = await put(state, at("b"), "1", tier="delayed", expires_at=now + FAR)
    lasting = await put(state, at("c"), "1")
    shapes = [each._replace(tier="cache", value='@{"file":"f"}') for each in (item, waits, lasting)]
    assert await state.reshape(shapes) == [True] * 3
    assert 0 < await pttl(backend, at("a")) <= FAR * 1000 + 2
    assert [await pttl(backend, at(key)) for key in "bc"] == [-1, -1]
    await settle(backend)
    assert 0 < await pttl(backend, at("b")) <= FAR * 1000 + 2


# What others wrote there


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage", [("SET", "a text"), ("SET", "1 x 1 - =1"), ("SET", "12 c"), ("RPUSH", "a list"), ("HSET", "a", "1")]
)
async def test_what_is_no_item_is_as_good_as_nothing_and_is_written_over(
    backend: RedisBackend, garbage: tuple[str, ...]
) -> None:
    state, name = backend.state, key_of(backend, at("a"))
    command, *values = garbage
    await backend.link.ask(command, name, *values)
    assert await load(state, at("a")) is None
    assert (await write(state, at("a"), "1", if_version=3)).outcome == "unknown"
    await state.forget(at("a"), version=12)
    item = await put(state, at("a"), "1", tier="delayed")
    assert await load(state, at("a")) == item
    await backend.link.ask("DEL", name)
    await backend.link.ask(command, name, *values)
    await state.warm([item])
    assert await load(state, at("a")) == item
    await backend.link.ask("DEL", name)
    await backend.link.ask(command, name, *values)
    assert await state.reshape([item]) == [False]
    assert await load(state, at("a")) is None


@pytest.mark.asyncio
async def test_a_cursor_of_what_a_fail_over_lost_is_told_as_lost(backend: RedisBackend) -> None:
    state = backend.state
    stream = state._places.of(at("a")).partition.changes
    await put(state, at("a"), "1")
    replica = await backend.link.ask("DUMP", stream)
    before = (await changed(state, None)).cursor
    await put(state, at("a"), "lost")
    known = (await changed(state, None)).cursor
    await backend.link.ask("RESTORE", stream, 0, replica, "REPLACE")
    assert (await changed(state, before)).lost is False
    assert (await changed(state, known)).lost is True
    item = await put(state, at("a"), "after")
    assert (await changed(state, known)).lost is True
    assert [change[:2] for change in (await changed(state, before)).changes] == [(at("a"), item.version)]


@pytest.mark.asyncio
async def test_a_watcher_that_is_far_behind_reads_all_in_pages(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traffic_cop_middleware.adapters.redis.state_lists.LOOKED_AT", 7)
    state = backend.state
    cursor = (await changed(state, None)).cursor
    versions = []
    for number in range(200):
        versions.append((await put(state, at(f"k{number % 5}"), str(number))).version)
        await put(state, at(f"k{number % 5}", namespace="other"), str(number))
    heard = await changed(state, cursor)
    assert sorted(change.version for change in heard.changes) == sorted(versions)
    assert len((await changed(state, cursor, most=150)).changes) == 150


# What is allowed


def commands_of_the_readme() -> list[str]:
    """What the README says that an ACL user needs, all parts of it."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    passage = text[text.index("An ACL user needs") : text.index("limits hold without the further parts")]
    return [word for part in passage.split("`")[1::2] for word in part.split()]


@pytest.mark.asyncio
async def test_a_user_who_may_do_what_the_readme_says_needs_no_more_for_state(redis_server: RedisServer) -> None:
    words = [word.replace("tc:", "crew-") for word in commands_of_the_readme()]
    assert "+xreadgroup" in words
    redis_server.command("ACL", "SETUSER", "app", "on", ">secret", "resetchannels", *words)
    try:
        async with workers(redis_server.url.replace("//", "//app:secret@"), number=1) as (backend,):
            state = backend.state
            heard: list[object] = []
            state.invalidations(heard.append)
            await poll(lambda: state.tracking.on)
            now = (await put(state, at("a"), "1", tier="delayed")).written_at
            item = await put(state, at("b"), "1", tier="delayed", expires_at=now + FAR)
            cached = await put(state, at("c"), "1", expires_at=now + FAR)
            await backend.link.ask("DEL", key_of(backend, at("c")))
            assert [each.key.key for each in await listed(state)] == ["a", "b"]
            assert (await changed(state, (await changed(state, None)).cursor)).changes == []
            first, second = await claim_all(state.outbox)
            assert len(await state.outbox.claim("two", most=10, idle=0)) == 2
            await state.outbox.settle([first])
            await state.outbox.bury(second, "why")
            assert await state.outbox.revive([entry.id for entry, _ in await state.outbox.dead()]) == 1
            await settle(backend)
            assert await state.outbox.waiting() == 0
            await state.warm([cached, item])
            assert await state.reshape([item, cached]) == [True, True]
            await state.forget(at("c"), version=cached.version)
            await put(state, at("a"), None)
            assert await load(state, at("c")) is None
            await poll(lambda: len(heard) > 1)
    finally:
        redis_server.command("ACL", "DELUSER", "app")


@pytest.mark.asyncio
async def test_a_user_who_may_not_read_items_loses_nothing_of_the_outbox(redis_server: RedisServer) -> None:
    words = [word.replace("tc:", "crew-") for word in commands_of_the_readme() if word != "+getrange"]
    redis_server.command("ACL", "SETUSER", "app", "on", ">secret", "resetchannels", *words)
    try:
        async with workers(redis_server.url.replace("//", "//app:secret@"), number=1) as (backend,):
            where, place = backend.state._places.of(at("a"))
            redis_server.command("XADD", where.outbox, "*", "place", place.replace("\0", "\\x00"))
            with pytest.raises(StoreError, match="can't run this command"):
                await claim(backend.state.outbox)
            assert await backend.state.outbox.waiting() == 1
    finally:
        redis_server.command("ACL", "DELUSER", "app")
