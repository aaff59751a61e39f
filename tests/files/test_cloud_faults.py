"""State with files on Redis, ArangoDB, Cloud Storage and Supabase, when one of them refuses: for long, one item, or
because the content is somebody else's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from itertools import count, islice
from zlib import crc32

import pytest
import pytest_asyncio

from tests.files.cloud import Cloud
from tests.files.houses import FileState
from tests.files.saga_checks import (
    caught_up,
    check,
    check_item,
    check_nothing_is_left_over,
    waiting,
    written,
)
from tests.postgrest import token
from traffic_cop_middleware.abstractions.files.naming import content_of, file_id, hash_of, object_path
from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.state.flusher import TRIES, StateFlusher
from traffic_cop_middleware.adapters.redis import state as redis_state
from traffic_cop_middleware.adapters.redis.state_places import PARTITIONS
from traffic_cop_middleware.contracts import Pending, StateKey
from traffic_cop_middleware.contracts.state import MOST_STATE
from traffic_cop_middleware.errors import FileCorrupt, FileQuarantined, NoFile, StoreError, StoreUnavailable

pytestmark = [pytest.mark.asyncio, pytest.mark.redis_server]

Dead = list[tuple[Pending, str]]


@pytest_asyncio.fixture
async def house(cloud: Cloud) -> AsyncIterator[FileState]:
    async with cloud.house() as each:
        yield each


def flusher_of(house: FileState) -> StateFlusher:
    """One that takes again at once what it could not keep, and remembers how often."""
    outbox, promoter = house.stores.state.outbox, house.house.promoter
    assert outbox is not None
    assert promoter is not None
    return StateFlusher(outbox, house.stores.documents, promoter, emit=house.emit, idle=0.0)


async def dead(house: FileState) -> Dead:
    outbox = house.stores.state.outbox
    assert outbox is not None
    return list(await outbox.dead())


async def revived(house: FileState) -> int:
    outbox = house.stores.state.outbox
    assert outbox is not None
    return await outbox.revive([entry.id for entry, _ in await outbox.dead()])


async def kept_version(house: FileState, key: str) -> int | None:
    (kept,) = await house.stores.documents.load((StateKey("", "report", key),))
    return None if kept is None else kept.version


def partition_of(key: str) -> int:
    """Where an item's entry in the outbox is: the bound is of each."""
    return crc32(f"\0report\0{key}".encode()) % PARTITIONS


def together(number: int) -> list[str]:
    """Keys of items whose entries are in one partition."""
    keys = (f"q{each}" for each in count() if partition_of(f"q{each}") == 0)
    return list(islice(keys, number))


def elsewhere(number: int) -> list[str]:
    """Keys of items whose entries are in other ones."""
    keys = (f"e{each}" for each in count() if partition_of(f"e{each}") != 0)
    return list(islice(keys, number))


# A long outage


async def test_while_cloud_storage_is_away_writers_are_held_back_small_items_go_on_and_all_is_caught_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 5
    monkeypatch.setattr(redis_state, "MOST_WAITING", most)
    first, *others = together(9)
    small_keys = elsewhere(TRIES + 2)
    large = small_keys[0]
    async with cloud.house(deadline=0.2) as house:
        (item,) = await written(house, first)
        cloud.objects.outage = 503
        waits, refused = {}, []
        for key in others:
            try:
                waits[key] = await house.state.put("report", key, key * MOST_STATE, tier="delayed")
            except StoreUnavailable as exc:
                refused.append(str(exc))
        assert (len(waits), len(refused)) == (most - 1, len(others) - most + 1)
        assert all("the outbox is full, so report/" in said for said in refused)
        flusher = flusher_of(house)
        for number in range(TRIES + 2):
            small = await house.state.put("report", small_keys[number], number, tier="delayed")
            with pytest.raises(StoreUnavailable, match=r"503|within the deadline"):
                await flusher.flush()
            assert await kept_version(house, small_keys[number]) == small.version
            assert await waiting(house) == most
        with pytest.raises(StoreUnavailable, match="outbox is full"):
            await house.state.put("report", others[-1], "small, in the same partition", tier="delayed")
        with pytest.raises(StoreUnavailable, match=r"(503|within the deadline).* waits in the outbox"):
            await house.state.put("report", large, "n" * (MOST_STATE + 1), tier="immediate")
        assert await dead(house) == []
        assert len(cloud.objects.objects) == 1
        held = await house.state.get("report", first, consistency="strong")
        assert held is not None
        assert held.value == item.value
    cloud.objects.outage = None
    async with cloud.house() as house:
        await caught_up(house)
        assert await dead(house) == []
        assert await waiting(house) == 0
        paths = await check_item(house, item)
        for key, version in [(key, each.version) for key, each in waits.items()] + [(large, None)]:
            (file,) = await house.files.of_item("report", key)
            assert version in {None, file.version}
            paths.append(file.path)
        assert sorted(paths) == [each.path for each in (await house.stores.objects.list()).objects]
        assert await house.state.put("report", others[-1], "welcome again", tier="delayed")


@pytest.mark.parametrize("status", [503, 401])
async def test_while_supabase_is_away_or_lets_nobody_in_nothing_is_buried_and_all_is_caught_up(
    status: int, cloud: Cloud, house: FileState
) -> None:
    (item,) = await written(house, "q3")
    flusher = flusher_of(house)
    for _ in range(TRIES + 2):
        cloud.fail_metadata(status)
        with pytest.raises(StoreError, match=str(status)):
            await flusher.flush()
        cloud.gateway.faults.clear()
    assert await dead(house) == []
    await house.flush()
    await check(house, item)


@pytest.mark.parametrize("status", [401, 403, "no bucket"])
async def test_while_cloud_storage_lets_nobody_in_small_items_go_on_and_nothing_is_buried(
    status: int | str, cloud: Cloud, house: FileState
) -> None:
    (item,) = await written(house, "q3")
    flusher = flusher_of(house)
    bucket = cloud.objects.bucket
    if isinstance(status, int):
        cloud.objects.outage = status
    else:
        cloud.objects.bucket = "another"
    for number in range(TRIES + 2):
        small = await house.state.put("report", f"small {number}", number, tier="delayed")
        with pytest.raises(StoreError):
            await flusher.flush()
        assert await kept_version(house, f"small {number}") == small.version
    with pytest.raises(StoreUnavailable, match="waits in the outbox"):
        await house.state.put("report", "now", "n" * (MOST_STATE + 1), tier="immediate")
    assert await dead(house) == []
    cloud.objects.outage, cloud.objects.bucket = None, bucket
    await house.flush()
    await check_item(house, item)
    assert len(await house.files.of_item("report", "now")) == 1
    assert await waiting(house) == 0


async def test_while_the_documents_accept_no_password_nothing_is_buried_and_all_is_caught_up(
    cloud: Cloud, house: FileState
) -> None:
    (item,) = await written(house, "q3")
    small = await house.state.put("report", "small", 1, tier="delayed")
    flusher = flusher_of(house)
    password, cloud.documents.password = cloud.documents.password, "changed"
    for _ in range(TRIES + 2):
        with pytest.raises(StoreError, match="does not accept this user and password"):
            await flusher.flush()
    assert (await dead(house), await waiting(house)) == ([], 2)
    cloud.documents.password = password
    await house.flush()
    assert await kept_version(house, "small") == small.version
    await check(house, item)


# What is refused by itself


@pytest.fixture
def refusing_database(cloud: Cloud) -> Iterator[None]:
    """A database that takes no row of an item `poison`."""
    refuse = "begin raise exception 'no rows of poison, please' using errcode = '23514'; end"
    postgres, name = cloud.project.postgres, cloud.app.replace("-", "_")
    postgres.sql(
        f"create function public.{name}() returns trigger language plpgsql as $$ {refuse} $$;"
        f"create trigger {name} before insert on public.state_files for each row "
        f"when (new.app = '{cloud.app}' and new.key = 'poison') execute function public.{name}()"
    )
    yield
    postgres.sql(f"drop function if exists public.{name}() cascade")


async def flush_with_poison(house: FileState) -> Dead:
    """Flush until it is buried."""
    flusher = flusher_of(house)
    for _ in range(TRIES):
        with contextlib.suppress(StoreError):
            await flusher.flush()
    assert await waiting(house) == 0
    return await dead(house)


async def test_an_item_that_the_documents_refuse_is_buried_and_the_others_go_on(cloud: Cloud, house: FileState) -> None:
    cloud.documents.poison = lambda document: "poison" in str(document["value"])
    others = [await house.state.put("report", f"{number}", number, tier="delayed") for number in range(3)]
    poison = await house.state.put("report", "p", {"this is": "poison"}, tier="delayed")
    ((entry, reason),) = await flush_with_poison(house)
    assert (entry.item.key.key, entry.item.version) == ("p", poison.version)
    assert "a document that this server does not take" in reason
    assert [await kept_version(house, item.key) for item in others] == [item.version for item in others]
    assert await kept_version(house, "p") is None
    assert [told["key"] for kind, told in house.told if kind == "state.buried"] == ["p"]
    cloud.documents.poison = lambda document: False
    assert await revived(house) == 1
    await house.flush()
    assert await kept_version(house, "p") == poison.version
    assert (await dead(house), await waiting(house)) == ([], 0)


@pytest.mark.usefixtures("refusing_database")
async def test_an_item_that_the_metadata_refuse_is_buried_and_the_others_go_on(cloud: Cloud, house: FileState) -> None:
    (item,) = await written(house, "q3")
    poison = await house.state.put("report", "poison", "p" * (MOST_STATE + 20), tier="delayed")
    ((entry, reason),) = await flush_with_poison(house)
    assert (entry.item.key.key, entry.item.version) == ("poison", poison.version)
    assert "no rows of poison, please" in reason
    await check_item(house, item)
    cloud.project.postgres.sql(f"drop trigger {cloud.app.replace('-', '_')} on public.state_files")
    assert await revived(house) == 1
    await house.flush()
    (file,) = await house.files.of_item("report", "poison")
    assert (file.version, file.status) == (poison.version, "done")
    assert await house.files.read(file) == content_of(dumps("p" * (MOST_STATE + 20)))
    assert (await dead(house), await waiting(house)) == ([], 0)
    await check_nothing_is_left_over(house)


async def test_foreign_content_under_the_path_is_quarantined_told_and_not_overwritten(
    cloud: Cloud, house: FileState
) -> None:
    value = "v" * (MOST_STATE + 20)
    written = await house.state.put("report", "q3", value, tier="delayed")
    key = StateKey("", "report", "q3")
    id = file_id(key, written.version, "promoted")
    path = object_path(key, id, hash_of(content_of(dumps(value))))
    name = f"some/where/{cloud.app}/{path}"
    foreign = cloud.objects.put(name, b"somebody else's")
    with pytest.raises(StoreError):
        await house.flush()
    assert cloud.objects.objects[name] is foreign
    ((entry, reason),) = await dead(house)
    assert (entry.item.key, entry.item.version) == (key, written.version)
    assert "something else" in reason
    file = await house.files.get(id)
    assert file is not None
    assert (file.status, "something else" in file.reason) == ("quarantined", True)
    assert [told["file"] for kind, told in house.told if kind == "file.quarantined"] == [id]
    assert [told["key"] for kind, told in house.told if kind == "state.buried"] == ["q3"]
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert held.value == value
    # Who looked at it removes it, and lets the item try again.
    del cloud.objects.objects[name]
    assert await revived(house) == 1
    await house.flush()
    file = await house.files.get(id)
    assert file is not None
    assert file.status == "done"
    assert await house.files.read(file) == content_of(dumps(value))
    assert await kept_version(house, "q3") == written.version


@pytest.mark.parametrize("lost", ["bury", "status"])
async def test_what_is_foreign_is_buried_once_where_that_reply_is_lost(lost: str, cloud: Cloud) -> None:
    async with cloud.house(proxy=True) as house:
        written = await house.state.put("report", "q3", "v" * (MOST_STATE + 20), tier="delayed")
        id = file_id(StateKey("", "report", "q3"), written.version, "promoted")
        path = object_path(StateKey("", "report", "q3"), id, hash_of(content_of(written.text)))
        cloud.objects.put(f"some/where/{cloud.app}/{path}", b"somebody else's")
        if lost == "bury":
            cloud.lose("redis", ["claim", "claim", "bury"], 2, times=1)
        else:
            cloud.lose("metadata", ["PATCH /state_files"], 0, times=2)
        with pytest.raises(StoreUnavailable):
            await house.flush()
        assert cloud.all_are_lost()
        with contextlib.suppress(FileQuarantined):
            await caught_up(house)
        assert ([entry.item.version for entry, _ in await dead(house)], await waiting(house)) == ([written.version], 0)
        file = await house.files.get(id)
        assert file is not None
        assert file.status == "quarantined"


async def test_of_a_corrupt_object_nothing_is_restored(cloud: Cloud, house: FileState) -> None:
    await house.state.put("report", "q3", "first", tier="immediate")
    file = await house.files.promote("report", "q3")
    second = await house.state.put("report", "q3", "second", tier="immediate")
    (name,) = cloud.objects.objects
    kept = cloud.objects.objects[name]
    asked = {"metadata": kept.resource["metadata"]}
    cloud.objects.put(name, b'"forge"', asked)
    with pytest.raises(FileCorrupt, match="Nothing of it was used"):
        await house.files.restore(file)
    del cloud.objects.objects[name]
    with pytest.raises(FileCorrupt, match="not there"):
        await house.files.restore(file)
    cloud.objects.put(name, kept.content, asked)
    cloud.objects.faults["read"] = ["corrupt"] * 100  # on its way
    with pytest.raises(StoreError, match="CRC32C"):
        await house.files.restore(file)
    cloud.objects.faults.clear()
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert (held.value, held.version) == ("second", second.version)
    restored = await house.files.restore(file)
    held = await house.state.get("report", "q3", consistency="strong")
    assert held is not None
    assert (held.value, held.version) == ("first", restored.file.version)


# Other tenants


async def test_no_tenant_reaches_the_files_of_another_by_us_or_by_postgrest(cloud: Cloud, house: FileState) -> None:
    acme = house.state.of_tenant("acme")
    await acme.put("report", "q3", "secret", tier="immediate")
    file = await house.files.of_tenant("acme").promote("report", "q3")
    backup = await house.files.of_tenant("acme").backup(["report"])
    for stranger in (house.files, house.files.of_tenant("other")):
        for each in (file, file.id, backup, backup.id):
            for ask in (stranger.restore, stranger.read, stranger.lineage):
                with pytest.raises(NoFile):
                    await ask(each)
        assert await stranger.list() == []
        assert await stranger.delete(file) is False
    for state in (house.state, house.state.of_tenant("other")):
        assert await state.get("report", "q3", consistency="strong") is None

    def seen(key: str, tenant: str | None) -> list[str]:
        headers = {} if tenant is None else {"x_traffic_cop_tenant": json.dumps(tenant)}
        status, answer = cloud.project.ask("GET", f"/state_files?app=eq.{cloud.app}", key=key, **headers)
        assert status == 200
        return sorted({row["tenant"] for row in json.loads(answer)})

    worker, user = token("traffic_cop"), token("authenticated", tenant="other")
    assert seen(worker, "acme") == ["acme"]
    assert seen(worker, "other") == seen(worker, None) == []
    assert seen(user, None) == seen(user, "acme") == []
    assert seen(token("authenticated", tenant="acme"), None) == ["acme"]
    for key, tenant in ((worker, "other"), (user, "acme")):
        status, answer = cloud.project.ask(
            "PATCH",
            f"/state_files?app=eq.{cloud.app}&id=eq.{file.id}",
            key=key,
            body=b'{"status": "deleted"}',
            x_traffic_cop_tenant=json.dumps(tenant),
            Prefer="return=representation",
        )
        assert status == 403 or (status, json.loads(answer)) == (200, [])
    assert await house.files.of_tenant("acme").read(file) == b'"secret"'
