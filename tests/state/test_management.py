"""One versioned API over memory, Redis and documents: what a caller gets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.state.houses import KINDS, Open, on_memory, opener
from traffic_cop_middleware import ConfigurationError, NoSnapshot, NotDurable, StateConflict, StateCursorLost
from traffic_cop_middleware.contracts import StateKey

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    return opener(request, tmp_path)


@pytest.fixture(params=KINDS[1:])
def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a house whose documents last."""
    return opener(request, tmp_path)


async def test_what_is_put_is_got_with_its_version(opened: Open) -> None:
    async with opened() as house:
        put = await house.state.put("orders", "7", {"paid": False, "lines": [1, 2]})
        got = await house.state.get("orders", "7")
        assert got is not None
        assert got.value == {"paid": False, "lines": [1, 2]}
        assert got.version == put.version < 2**53
        assert got.tier == "cache"
        assert await house.state.get("orders", "8") is None
        assert await house.state.get("customers", "7") is None


async def test_a_value_that_was_got_is_the_callers_own(opened: Open) -> None:
    async with opened() as house:
        await house.state.put("orders", "7", {"lines": []})
        for _ in range(2):
            got = await house.state.get("orders", "7")
            assert got is not None
            assert got.value == {"lines": []}
            got.value["lines"].append("changed")


async def test_versions_grow_over_writes_deletions_and_new_beginnings(opened: Open) -> None:
    async with opened() as house:
        versions = []
        for number in range(3):
            versions.append((await house.state.put("a", "b", number)).version)
            assert await house.state.delete("a", "b")
        assert versions == sorted(set(versions))
        assert await house.state.get("a", "b") is None
        assert not await house.state.delete("a", "b")


async def test_a_write_at_another_version_is_a_conflict_that_shows_both(opened: Open) -> None:
    async with opened() as house:
        first = await house.state.put("a", "b", "first")
        second = await house.state.put("a", "b", "second", if_version=first.version)
        with pytest.raises(StateConflict, match="was to be at version") as caught:
            await house.state.put("a", "b", "third", if_version=first.version)
        assert caught.value.expected == first.version
        current: Any = caught.value.current
        assert (current.version, current.value) == (second.version, "second")
        with pytest.raises(StateConflict, match="was to be new"):
            await house.state.put("a", "b", "third", create_only=True)
        with pytest.raises(StateConflict):
            await house.state.delete("a", "b", if_version=first.version)
        got = await house.state.get("a", "b")
        assert got is not None
        assert got.value == "second"


async def test_of_many_creations_at_once_one_comes_through(opened: Open) -> None:
    async with opened() as house:
        outcomes = await asyncio.gather(
            *(house.state.put("a", "b", number, create_only=True) for number in range(20)), return_exceptions=True
        )
        assert sum(not isinstance(outcome, StateConflict) for outcome in outcomes) == 1


async def test_patches_of_different_members_all_come_through(opened: Open) -> None:
    async with opened() as house:
        await house.state.put("a", "b", {"kept": 1, "gone": {"x": 1}})
        await asyncio.gather(*(house.state.patch("a", "b", {f"m{number}": number}) for number in range(10)))
        patched = await house.state.patch("a", "b", {"gone": None, "m3": {"deep": [1]}})
        assert patched.value == {"kept": 1, **{f"m{n}": n for n in range(10)}, "m3": {"deep": [1]}}


async def test_updates_at_once_lose_none(opened: Open) -> None:
    async with opened() as house:
        await asyncio.gather(*(house.state.update("a", "n", lambda n: (n or 0) + 1) for _ in range(20)))
        got = await house.state.get("a", "n")
        assert got is not None
        assert got.value == 20


async def test_an_item_ends_after_its_ttl_and_a_patch_keeps_its_end(opened: Open) -> None:
    async with opened() as house:
        put = await house.state.put("a", "b", {"n": 1}, ttl=0.3)
        patched = await house.state.patch("a", "b", {"n": 2})
        assert patched.expires_at == pytest.approx(put.expires_at, abs=0.001)
        end = asyncio.get_running_loop().time() + 30
        while await house.state.get("a", "b") is not None:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.02)
        assert (await house.state.list("a")).items == []
        assert (await house.state.put("a", "b", 3, create_only=True)).version > patched.version


async def test_a_tenant_sees_nothing_of_another(opened: Open) -> None:
    async with opened() as house:
        acme, other = house.state.of_tenant("acme"), house.state.of_tenant("other")
        await acme.put("orders", "7", "acme's")
        await other.put("orders", "7", "other's")
        for tenant, value in ((acme, "acme's"), (other, "other's")):
            got = await tenant.get("orders", "7")
            assert got is not None
            assert got.value == value
            assert [item.value for item in (await tenant.list("orders")).items] == [value]
        assert await house.state.get("orders", "7") is None
        assert (await house.state.list("orders")).items == []
        await acme.delete("orders", "7")
        assert await other.get("orders", "7") is not None


async def test_get_many_gives_those_that_there_are(opened: Open) -> None:
    async with opened() as house:
        for number in range(3):
            await house.state.put("a", str(number), number)
        found = await house.state.get_many("a", ["0", "2", "9", "0"])
        assert {key: item.value for key, item in found.items()} == {"0": 0, "2": 2}
        with pytest.raises(ConfigurationError, match="is a list"):
            await house.state.get_many("a", "012")


async def test_a_list_comes_in_pages_and_misses_nothing(opened: Open) -> None:
    async with opened() as house:
        names = [f"k{number:03d}" for number in range(57)]
        await asyncio.gather(*(house.state.put("a", name, name) for name in names))
        await house.state.put("a", "other", 1)
        found, cursor = [], None
        for _ in range(100):
            page = await house.state.list("a", prefix="k", cursor=cursor, most=10)
            assert len(page.items) <= 10
            found += [item.key for item in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == names


@pytest.mark.parametrize("tier", ["delayed", "immediate"])
async def test_without_documents_nothing_is_promised(tier: Any) -> None:
    async with on_memory() as house:
        with pytest.raises(NotDurable, match="sqlite:///"):
            await house.state.put("a", "b", 1, tier=tier)
        assert await house.state.get("a", "b") is None
        with pytest.raises(NotDurable, match="sqlite:///"):
            await house.state.snapshot("a")


async def test_what_lasts_is_there_after_the_backend_has_lost_everything(lasting: Open) -> None:
    async with lasting() as house:
        immediate = await house.state.put("a", "immediate", 1, tier="immediate")
        delayed = await house.state.put("a", "delayed", 2, tier="delayed")
        await house.state.put("a", "cache", 3)
        await house.state.put("a", "gone", 4, tier="immediate")
        await house.state.delete("a", "gone")
        await house.flush()
        if house.store.shared:
            await house.lose_everything()
    async with lasting() as house:
        for before in (immediate, delayed):
            got = await house.state.get("a", before.key)
            assert got is not None
            assert (got.value, got.version, got.tier) == (before.value, before.version, before.tier)
        assert await house.state.get("a", "cache") is None
        assert await house.state.get("a", "gone") is None
        assert [item.key for item in (await house.state.list("a")).items] == ["delayed", "immediate"]
        with pytest.raises(StateConflict):
            await house.state.put("a", "immediate", 9, create_only=True)
        again = await house.state.put("a", "immediate", 9, if_version=immediate.version)
        assert again.tier == "immediate"
        assert (await house.state.put("a", "new", 1, create_only=True)).tier == "cache"


async def test_a_backend_that_went_back_does_not_hide_what_the_documents_were_given(lasting: Open) -> None:
    async with lasting() as house:
        await house.state.put("a", "b", {"n": 1}, tier="immediate")
        (old,) = await house.documents.load([_key("b")])
        assert old is not None
        await house.flush()
        newer = await house.state.put("a", "b", {"n": 2}, tier="immediate")
        if house.store.shared:  # as a replica that takes over without the last write
            await house.lose_everything()
        else:
            forgotten = house.store.forget(_key("b"), version=newer.version)
            assert forgotten is None
        warmed = house.store.warm([old])
        if warmed is not None:
            await warmed
        got = await house.state.get("a", "b", consistency="strong")
        assert got is not None
        assert (got.version, got.value) == (newer.version, {"n": 2})
        changed = await house.state.patch("a", "b", {"m": 3}, if_version=newer.version)
        assert changed.value == {"n": 2, "m": 3}


async def test_an_item_keeps_its_tier_and_leaves_the_documents_when_it_comes_down(lasting: Open) -> None:
    async with lasting() as house:
        await house.state.put("a", "b", 1, tier="immediate")
        assert (await house.state.put("a", "b", 2)).tier == "immediate"
        (kept,) = await house.documents.load([_key("b")])
        assert kept is not None
        assert kept.value == "2"
        assert (await house.state.put("a", "b", 3, tier="cache")).tier == "cache"
        await house.flush()
        (left,) = await house.documents.load([_key("b")])
        assert left is not None
        assert left.value is None
        got = await house.state.get("a", "b")
        assert got is not None
        assert got.value == 3


async def test_delayed_items_reach_the_documents_at_their_newest_version(lasting: Open) -> None:
    async with lasting() as house:
        for number in range(50):
            last = await house.state.put("a", f"k{number % 5}", number, tier="delayed")
        assert await house.flush() >= 5
        found = await house.documents.load([_key(f"k{number}") for number in range(5)])
        assert [item.value for item in found if item is not None] == ["45", "46", "47", "48", "49"]
        assert found[4] is not None
        assert found[4].version == last.version
        assert await house.flush() == 0


async def test_history_has_the_versions_newest_first(lasting: Open) -> None:
    async with lasting() as house:
        versions = [(await house.state.put("a", "b", number, tier="immediate")).version for number in range(5)]
        await house.state.delete("a", "b")
        history = await house.state.history("a", "b")
        assert [each.value for each in history] == [None, 4, 3, 2, 1, 0]
        assert history[0].deleted
        assert [each.version for each in history[1:]] == versions[::-1]
        assert [each.value for each in await house.state.history("a", "b", before=versions[2], most=1)] == [1]


async def test_a_snapshot_is_restored_as_new_versions(lasting: Open) -> None:
    async with lasting() as house:
        acme = house.state.of_tenant("acme")
        for number in range(30):
            await acme.put("orders", f"k{number:02d}", {"n": number, "text": "x" * 9000}, tier="delayed")
        snapshot = await acme.snapshot("orders")
        assert snapshot.items == 30
        changed = await acme.put("orders", "k00", "changed")
        await acme.delete("orders", "k01")
        await acme.put("orders", "new", 1)
        assert await acme.restore(snapshot, exact=True) == 30
        got = await acme.get("orders", "k00")
        assert got is not None
        assert got.value["n"] == 0
        assert got.version > changed.version
        assert await acme.get("orders", "k01") is not None
        assert await acme.get("orders", "new") is None
        assert [each.id for each in await acme.snapshots()] == [snapshot.id]
        for stranger in (house.state, house.state.of_tenant("other")):
            assert await stranger.snapshots() == []
            with pytest.raises(NoSnapshot):
                await stranger.restore(snapshot)


async def test_a_watcher_hears_every_write_once_and_goes_on_where_it_stopped(opened: Open) -> None:
    async with opened() as house:
        await house.state.put("a", "before", 0)
        heard: list[tuple[str, int, bool]] = []
        written: list[tuple[str, int, bool]] = []

        async def write() -> None:
            for number in range(30):
                item = await house.state.put("a", f"k{number % 3}", number)
                written.append((item.key, item.version, False))
                await house.state.of_tenant("other").put("a", f"k{number % 3}", number)
                await house.state.put("b", f"k{number % 3}", number)

        watching = house.state.watch("a", prefix="k")
        first = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0.05)
        writing = asyncio.create_task(write())
        change = await first
        heard.append((change.key, change.version, change.deleted))
        while len(heard) < 30:
            if len(heard) % 7 == 0:  # it stops in the middle of a batch, and another one goes on
                await watching.aclose()  # type: ignore[attr-defined]
                watching = house.state.watch("a", prefix="k", from_cursor=change.cursor)
            change = await asyncio.wait_for(anext(watching), 30)
            heard.append((change.key, change.version, change.deleted))
        await writing
        await watching.aclose()  # type: ignore[attr-defined]
        assert sorted(heard) == sorted(written)
        for key in ("k0", "k1", "k2"):
            versions = [version for name, version, _ in heard if name == key]
            assert versions == sorted(versions)


async def test_a_cursor_that_is_none_is_refused(opened: Open) -> None:
    async with opened() as house:
        watching = house.state.watch("a", from_cursor="nonsense")
        with pytest.raises((ConfigurationError, StateCursorLost)):
            await anext(watching)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"value": {1, 2}}, "can't be kept as JSON"),
        ({"value": float("nan")}, "can't be kept as JSON"),
        ({"value": "x" * 300_000}, "262144 is the most"),
        ({"value": 1, "ttl": 0}, "ttl=0: seconds"),
        ({"value": 1, "ttl": float("inf")}, "ttl=inf: seconds"),
        ({"value": 1, "tier": "forever"}, "tier='forever': write one of"),
        ({"value": 1, "if_version": -1}, "if_version=-1"),
        ({"value": 1, "if_version": True}, "if_version=True"),
        ({"value": 1, "if_version": 3, "create_only": True}, "exclude each other"),
        ({"value": 1, "namespace": ""}, "a namespace has from 1"),
        ({"value": 1, "namespace": "tc.pushes"}, "Traffic Cop's own"),
        ({"value": 1, "key": "k" * 600}, "a key has from 1"),
        ({"value": 1, "key": 7}, "are strings"),
    ],
)
async def test_what_cant_be_written_is_refused_with_the_reason(wrong: dict[str, Any], why: str) -> None:
    async with on_memory() as house:
        with pytest.raises(ConfigurationError, match=why):
            await house.state.put(**{"namespace": "a", "key": "b", **wrong})
        assert (await house.state.list("a")).items == []


def _key(key: str) -> StateKey:
    return StateKey("", "a", key)


async def test_a_list_has_the_higher_version_where_the_backend_went_back(lasting: Open) -> None:
    async with lasting() as house:
        for key in ("a", "b", "c"):
            await house.state.put("a", key, "old", tier="immediate")
        old = [item for item in await house.documents.load([_key("a"), _key("b")]) if item is not None]
        await house.state.put("a", "a", "new", tier="immediate")
        await house.state.delete("a", "b")
        await house.flush()
        if house.store.shared:
            await house.lose_everything()
        else:
            for item in await house.documents.load([_key("a"), _key("b")]):
                assert item is not None
                forgotten = house.store.forget(item.key, version=item.version)
                assert forgotten is None
        warmed = house.store.warm(old)
        if warmed is not None:
            await warmed
        for most in (1, 2, 100):
            found: dict[str, Any] = {}
            cursor = None
            for _ in range(10):
                page = await house.state.list("a", cursor=cursor, most=most)
                found |= {item.key: item.value for item in page.items}
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == {"a": "new", "c": "old"}


async def test_what_is_written_under_the_old_id_while_a_session_moves_goes_along(
    lasting: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    former: Any = SimpleNamespace(owner=SimpleNamespace(claims={}), key=SimpleNamespace(id="old"))
    after: Any = SimpleNamespace(owner=SimpleNamespace(claims={}), key=SimpleNamespace(id="new"))
    async with lasting() as house:
        await house.state.put("session", "old", {"n": 1})
        write = house.house.writer.write
        came = []

        async def writes_between(key: StateKey, value: str | None, **settings: Any) -> Any:
            if key.key == "new" and not came:
                came.append(await house.state.patch("session", "old", {"m": 2}))
            return await write(key, value, **settings)

        monkeypatch.setattr(house.house.writer, "write", writes_between)
        await house.house.move_session(former, after, ttl=100)
        got = await house.state.get("session", "new")
        assert got is not None
        assert got.value == {"n": 1, "m": 2}
        assert await house.state.get("session", "old") is None
