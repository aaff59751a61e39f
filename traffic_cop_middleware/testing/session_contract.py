"""What every `SessionStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio

import pytest

from traffic_cop_middleware.contracts import SessionFigures, SessionKey, SessionStore
from traffic_cop_middleware.testing.session_asking import (
    ALICE,
    IDLE,
    NEAR,
    NOTHING,
    WRITES,
    asked,
    create,
    figures,
    ids,
    listed,
    lives,
    load,
    made,
    merge,
    move,
    of_alice,
    revoke,
    rotate,
)
from traffic_cop_middleware.testing.session_contract_one import OneSessionContract


class SessionStoreContract(OneSessionContract):
    """Every promise of `SessionStore`, on a store that a subclass gives.

    Needs pytest-asyncio. Give a fixture `store` (an empty store for each test), and say how time passes::

        class TestMySessions(SessionStoreContract):
            @pytest_asyncio.fixture
            async def store(self) -> AsyncIterator[SessionStore]:
                self.backend = MyBackend(...)
                await self.backend.connect()
                yield self.backend.sessions
                await self.backend.close()

            async def advance(self, store: SessionStore, seconds: float) -> None:
                ...  # afterwards everything in the store is that much older
    """

    # A tag's sessions

    @pytest.mark.asyncio
    async def test_a_tags_sessions_are_listed_oldest_first(self, store: SessionStore) -> None:
        names = ["z", "a", "m"]
        generation = 0
        for name in names:
            generation = await made(store, SessionKey("user:alice", name), meta=f"ü{name}", lifetime=100 + len(name))
            await self.advance(store, 10)
        await made(store, SessionKey("user:bob", "b"))
        await merge(store, {"k": "1"}, generation, SessionKey("user:alice", "a"))
        found = await listed(store)
        assert [(each.id, each.version, each.meta) for each in found] == [
            ("z", 1, "üz"),
            ("a", 2, "üa"),
            ("m", 1, "üm"),
        ]
        assert [each.age for each in found] == [pytest.approx(age, abs=NEAR) for age in (30, 20, 10)]
        assert [each.idle_left for each in found] == [pytest.approx(left, abs=NEAR) for left in (30, 60, 50)]
        assert [each.left for each in found] == [pytest.approx(left, abs=NEAR) for left in (71, 81, 91)]
        z, zero = of_alice("z", "0")
        assert await asked(store.move(z, zero, meta="", generation=generation, idle=IDLE))
        assert await ids(store) == ["0", "a", "m"]

    @pytest.mark.asyncio
    async def test_sessions_made_at_once_are_listed_in_their_order(self, store: SessionStore) -> None:
        names = [f"{n * 7 % 30:02}" for n in range(30)]
        await asyncio.gather(*(create(store, key) for key in of_alice(*names)))
        assert await ids(store) == names

    @pytest.mark.asyncio
    async def test_the_oldest_sessions_make_room_for_a_new_one(self, store: SessionStore) -> None:
        for name in ("z", "a", "m"):
            created = await create(store, *of_alice(name), limit=3)
            assert (created.admitted, list(created.ended)) == (True, [])
        fourth = await create(store, *of_alice("b"), limit=3)
        assert (fourth.admitted, list(fourth.ended)) == (True, ["z"])
        fifth = await create(store, *of_alice("c"), limit=2)
        assert list(fifth.ended) == ["a", "m"]
        assert await ids(store) == ["b", "c"]
        assert not await lives(store, fifth.generation, *of_alice("z"))
        assert (await figures(store)).active == {"user": 2}

    @pytest.mark.asyncio
    async def test_nothing_is_made_above_the_limit_where_the_oldest_stay(self, store: SessionStore) -> None:
        for name in ("z", "a"):
            assert (await create(store, *of_alice(name), limit=2, end_oldest=False)).admitted
        refused = await create(store, *of_alice("b"), limit=2, end_oldest=False)
        assert (refused.admitted, list(refused.ended)) == (False, [])
        assert await ids(store) == ["z", "a"]
        assert not await lives(store, refused.generation, *of_alice("b"))
        assert (await figures(store)).active == {"user": 2}
        assert await asked(store.end(*of_alice("z")))
        assert (await create(store, *of_alice("b"), limit=2, end_oldest=False)).admitted

    @pytest.mark.asyncio
    @pytest.mark.parametrize("end_oldest", [True, False])
    async def test_a_session_that_is_replaced_makes_the_room(self, store: SessionStore, end_oldest: bool) -> None:
        for name in ("z", "a"):
            generation = await made(store, *of_alice(name))
        created = await create(store, *of_alice("b"), limit=2, end_oldest=end_oldest, replaces="a")
        assert (created.admitted, list(created.ended), created.replaced) == (True, [], True)
        assert await ids(store) == ["z", "b"]
        assert not await lives(store, generation, *of_alice("a"))
        assert (await figures(store)).active == {"user": 2}
        created = await create(store, *of_alice("c"), limit=1, replaces="b")
        assert (list(created.ended), created.replaced) == (["z"], True)
        assert await ids(store) == ["c"]

    @pytest.mark.asyncio
    async def test_a_session_that_is_gone_is_not_replaced(self, store: SessionStore) -> None:
        await made(store, *of_alice("z"))
        await made(store, SessionKey("user:bob", "b"))
        for gone in ("a", "b"):
            refused = await create(store, *of_alice("c"), limit=1, end_oldest=False, replaces=gone)
            assert (refused.admitted, refused.replaced) == (False, False)
        created = await create(store, *of_alice("c"), replaces="a")
        assert (created.admitted, created.replaced) == (True, False)
        assert await ids(store) == ["z", "c"]
        assert await ids(store, "user:bob") == ["b"]

    @pytest.mark.asyncio
    async def test_where_nothing_is_made_nothing_is_replaced(self, store: SessionStore) -> None:
        for name in ("z", "a", "m"):
            generation = await made(store, *of_alice(name))
        refused = await create(store, *of_alice("b"), limit=2, end_oldest=False, replaces="m")
        assert (refused.admitted, refused.replaced) == (False, False)
        assert await ids(store) == ["z", "a", "m"]
        assert await lives(store, generation, *of_alice("m"))

    @pytest.mark.asyncio
    async def test_of_many_at_once_that_replace_the_same_one_only_one_is_admitted(self, store: SessionStore) -> None:
        await made(store, *of_alice("first"))
        others = of_alice(*(f"{number:02}" for number in range(20)))
        created = await asyncio.gather(
            *(create(store, key, limit=1, end_oldest=False, replaces="first") for key in others)
        )
        assert sorted((each.admitted, each.replaced) for each in created) == [(False, False)] * 19 + [(True, True)]
        assert len(await ids(store)) == 1

    @pytest.mark.asyncio
    async def test_a_limit_of_none_admits_nothing(self, store: SessionStore) -> None:
        await made(store)
        assert not (await create(store, *of_alice("b"), limit=0)).admitted
        assert await ids(store) == ["a1"]

    @pytest.mark.asyncio
    async def test_what_ran_out_does_not_count_for_the_limit(self, store: SessionStore) -> None:
        await made(store, *of_alice("z"), idle=10)
        await made(store, *of_alice("a"))
        await self.advance(store, 11)
        created = await create(store, *of_alice("b"), limit=2, end_oldest=False)
        assert (created.admitted, list(created.ended)) == (True, [])
        assert await ids(store) == ["a", "b"]

    @pytest.mark.asyncio
    async def test_a_limit_is_of_one_tag(self, store: SessionStore) -> None:
        await made(store)
        assert (await create(store, SessionKey("user:bob", "b"), limit=1)).ended in ([], ())
        assert await ids(store) == ["a1"]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("end_oldest", [True, False])
    async def test_the_limit_holds_under_parallel_logins(self, store: SessionStore, end_oldest: bool) -> None:
        other = await self.elsewhere(store)
        created = await asyncio.gather(
            *(
                create((store, other)[n % 2], key, limit=3, end_oldest=end_oldest)
                for n, key in enumerate(of_alice(*(f"r{n}" for n in range(20))))
            )
        )
        assert len(await ids(store)) == 3
        assert sum(each.admitted for each in created) == (20 if end_oldest else 3)
        assert len({id for each in created for id in each.ended}) == (17 if end_oldest else 0)

    # Revocation

    @pytest.mark.asyncio
    async def test_a_revocation_ends_all_sessions_of_a_tag(self, store: SessionStore) -> None:
        keys = of_alice("z", "a", "m")
        generation = max([await made(store, key) for key in keys])
        bob = await made(store, SessionKey("user:bob", "b"))
        assert await revoke(store) == ["z", "a", "m"]
        assert [await lives(store, generation, key) for key in keys] == [False] * 3
        assert await lives(store, bob, SessionKey("user:bob", "b"))
        assert await ids(store) == await revoke(store) == []
        assert (await figures(store)).active == {"user": 1}

    @pytest.mark.asyncio
    async def test_a_revocation_counts_the_generation_up(self, store: SessionStore) -> None:
        before = await made(store)
        await revoke(store)
        after = await made(store)
        assert before < after < 2**53
        assert not await lives(store, before)
        assert await lives(store, after)
        for operation in WRITES.values():
            assert await asked(operation(store, ALICE, before)) in NOTHING
        loaded = await load(store, after)
        assert (loaded.version, loaded.rotation, dict(loaded.data)) == (1, 0, {})
        assert await made(store, *of_alice("a2")) == after

    @pytest.mark.asyncio
    async def test_a_generation_does_not_come_back_when_its_sessions_are_long_gone(self, store: SessionStore) -> None:
        seen = []
        for _ in range(4):
            seen.append(await made(store, lifetime=20))
            await revoke(store)
            await self.advance(store, 5_000)
        assert len(set(seen)) == 4
        assert await made(store) not in seen

    @pytest.mark.asyncio
    async def test_a_session_of_another_generation_does_not_exist(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1"})
        for other in (generation + 1, generation - 1, 0, 2**53 - 1):
            assert not await lives(store, other)
            for operation in WRITES.values():
                assert await asked(operation(store, ALICE, other)) in NOTHING
        loaded = await load(store, generation)
        assert (loaded.version, loaded.rotation, dict(loaded.data)) == (1, 0, {"k": "1"})

    @pytest.mark.asyncio
    async def test_a_revocation_may_keep_one_session(self, store: SessionStore) -> None:
        keys = of_alice("z", "a", "m")
        generation = max([await made(store, key) for key in keys])
        assert await revoke(store, keep="a") == ["z", "m"]
        assert [await lives(store, generation, key) for key in keys] == [False, True, False]
        assert await ids(store) == ["a"]
        assert await made(store, *of_alice("b")) == generation
        assert await revoke(store, keep="nobody") == ["a", "b"]
        assert await ids(store) == []

    @pytest.mark.asyncio
    async def test_what_ran_out_is_not_among_the_revoked(self, store: SessionStore) -> None:
        await made(store, *of_alice("z"), idle=10)
        await made(store, *of_alice("a"))
        await self.advance(store, 11)
        assert await revoke(store) == ["a"]

    @pytest.mark.asyncio
    async def test_no_session_outlives_a_revocation_that_races_with_logins(self, store: SessionStore) -> None:
        other = await self.elsewhere(store)
        keys = of_alice(*(f"r{n}" for n in range(10)))
        before = [create(store, key) for key in keys[:5]]
        created, revoked = await asyncio.gather(
            asyncio.gather(*before, *(create(other, key) for key in keys[5:])), revoke(other)
        )
        alive = [key.id for key, each in zip(keys, created, strict=True) if await lives(store, each.generation, key)]
        assert sorted([*alive, *revoked]) == sorted(key.id for key in keys)
        assert await ids(store) == alive or sorted(await ids(store)) == sorted(alive)

    @pytest.mark.asyncio
    async def test_all_sessions_of_all_tags_can_be_revoked(self, store: SessionStore) -> None:
        keys = [SessionKey(f"user:{n % 40}", f"s{n}") for n in range(120)]
        keys += [SessionKey(f"anon:{n}", f"s{n}") for n in range(30)]
        generations = [await made(store, key, kind=key.tag.partition(":")[0]) for key in keys]
        assert await asked(store.revoke_all()) == 150
        assert not any([await lives(store, g, key) for g, key in zip(generations, keys, strict=True)])
        assert (await figures(store)).active == {}
        assert await asked(store.sweep()) == []
        assert await asked(store.revoke_all()) == 0
        assert await made(store, keys[0]) not in generations[:1]

    # Sweeping and counting

    @pytest.mark.asyncio
    async def test_what_ran_out_is_told_once(self, store: SessionStore) -> None:
        await made(store, idle=10)
        await made(store, SessionKey("anon:ü", "x"), kind="anonymous", idle=10)
        stays = await made(store, *of_alice("stays"))
        assert await asked(store.sweep()) == []
        await self.advance(store, 12)
        told = await asked(store.sweep())
        assert sorted(told) == [(SessionKey("anon:ü", "x"), "anonymous"), (ALICE, "user")]
        assert await asked(store.sweep()) == []
        assert await ids(store) == ["stays"]
        assert await lives(store, stays, *of_alice("stays"))

    @pytest.mark.asyncio
    async def test_what_is_used_is_told_when_it_really_ran_out(self, store: SessionStore) -> None:
        generation = await made(store, idle=30)
        for _ in range(3):
            await self.advance(store, 24)
            assert await merge(store, {"k": "1"}, generation, idle=30) is not None
            assert await asked(store.sweep()) == []
        assert (await figures(store)).active == {"user": 1}
        await self.advance(store, 32)
        assert await asked(store.sweep()) == [(ALICE, "user")]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", ["touch", "write", "rotate"])
    async def test_a_use_that_brings_the_end_nearer_is_told_in_time(self, store: SessionStore, which: str) -> None:
        generation = await made(store)
        if which == "rotate":
            assert (await rotate(store, 0, generation, idle=10)).rotation == 1
        else:
            assert await merge(store, {"k": "1"} if which == "write" else {}, generation, idle=10) is not None
        await self.advance(store, 12)
        assert (await figures(store)).active == {}
        assert await asked(store.sweep()) == [(ALICE, "user")]

    @pytest.mark.asyncio
    async def test_what_was_ended_did_not_run_out(self, store: SessionStore) -> None:
        for name in ("ended", "moved", "reused", "kept", "revoked"):
            generation = await made(store, *of_alice(name), idle=10)
        await asked(store.end(*of_alice("ended")))
        await asked(store.move(*of_alice("moved", "now"), meta="", generation=generation, idle=10))
        await rotate(store, 9, generation, *of_alice("reused"))
        await revoke(store, keep="kept")
        await create(store, *of_alice("limited"), limit=1, idle=10)
        await revoke(store)
        assert (await figures(store)).active == {}
        await self.advance(store, 12)
        assert await asked(store.sweep()) == []

    @pytest.mark.asyncio
    async def test_a_moved_session_is_told_under_its_new_id(self, store: SessionStore) -> None:
        generation = await made(store, kind="service", idle=10)
        (to,) = of_alice("b1")
        assert await move(store, to, generation, idle=10)
        await self.advance(store, 12)
        assert await asked(store.sweep()) == [(to, "service")]

    @pytest.mark.asyncio
    async def test_over_all_workers_each_session_is_told_once(self, store: SessionStore) -> None:
        other = await self.elsewhere(store)
        keys = [SessionKey(f"user:{n}", f"s{n}") for n in range(60)]
        for key in keys:
            await made(store, key, idle=10)
        await self.advance(store, 12)
        told: list[tuple[SessionKey, str]] = []
        for _ in range(60):
            swept = [asked(each.sweep(most=7)) for each in (store, other, store, other)]
            told += [each for some in await asyncio.gather(*swept) for each in some]
            if len(told) >= len(keys):
                break
        assert sorted(told) == sorted((key, "user") for key in keys)

    @pytest.mark.asyncio
    async def test_a_sweep_tells_no_more_than_it_is_asked_for(self, store: SessionStore) -> None:
        for key in of_alice("a", "b", "c", "d", "e"):
            await made(store, key, idle=10)
        await self.advance(store, 12)
        sizes = [len(await asked(store.sweep(most=2))) for _ in range(4)]
        assert sizes == [2, 2, 1, 0]

    @pytest.mark.asyncio
    async def test_active_sessions_are_counted_by_kind(self, store: SessionStore) -> None:
        assert await figures(store) == SessionFigures({}, {})
        for number in range(3):
            await made(store, SessionKey(f"anon:{number}", "x"), kind="anonymous", idle=10)
        await made(store)
        assert (await figures(store)).active == {"anonymous": 3, "user": 1}
        await self.advance(store, 11)
        assert (await figures(store)).active == {"user": 1}
        await asked(store.end(ALICE))
        assert (await figures(store)).active == (await figures(await self.elsewhere(store))).active == {}

    @pytest.mark.asyncio
    async def test_what_is_tallied_adds_up_over_all_workers(self, store: SessionStore) -> None:
        other = await self.elsewhere(store)
        for telling, counts in (
            (store, {}),
            (store, {"created.user": 1, "ended.logout": 3}),
            (other, {"created.user": 2}),
        ):
            await asked(telling.tally(counts))
        assert (await figures(store)).counts == {"created.user": 3, "ended.logout": 3}
