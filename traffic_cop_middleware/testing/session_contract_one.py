"""What every `SessionStore` does with one session, as tests."""

from __future__ import annotations

import asyncio

import pytest

from traffic_cop_middleware.contracts import Rotated, SessionKey, SessionStore
from traffic_cop_middleware.errors import StoreError
from traffic_cop_middleware.testing.session_asking import (
    ALICE,
    IDLE,
    LIFETIME,
    META,
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
    same,
)
from traffic_cop_middleware.testing.session_contract_writes import SessionWritesContract


class OneSessionContract(SessionWritesContract):
    """The part of `SessionStoreContract` that concerns one session at a time."""

    # Making and loading

    @pytest.mark.asyncio
    async def test_a_new_session_is_loaded_as_it_was_made(self, store: SessionStore) -> None:
        data = {"cart": "[1, 2]", "näme ü": '"Ü 🦊"', "": '""'}
        created = await create(store, data=data)
        assert (created.admitted, list(created.ended)) == (True, [])
        assert 0 <= created.generation < 2**53
        loaded = await load(store, created.generation)
        assert (loaded.version, loaded.rotation, loaded.meta, dict(loaded.data)) == (1, 0, META, data)
        assert loaded.age == pytest.approx(0, abs=NEAR)
        assert loaded.idle_left == pytest.approx(IDLE, abs=NEAR)
        assert loaded.left == pytest.approx(LIFETIME, abs=NEAR)

    @pytest.mark.asyncio
    async def test_a_load_changes_nothing(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1"})
        await self.advance(store, 10)
        first, second = await load(store, generation), await load(store, generation)
        assert (first.version, first.meta, first.data) == (second.version, second.meta, second.data)
        assert second.idle_left == pytest.approx(IDLE - 10, abs=NEAR)
        assert second.left == pytest.approx(LIFETIME - 10, abs=NEAR)
        assert second.age == pytest.approx(10, abs=NEAR)

    @pytest.mark.asyncio
    async def test_what_was_never_made_does_not_exist(self, store: SessionStore) -> None:
        for generation in (0, 1):
            assert not await lives(store, generation)
            for operation in WRITES.values():
                assert await asked(operation(store, ALICE, generation)) in NOTHING
            assert not await lives(store, generation)
        assert not await asked(store.end(ALICE))
        assert await ids(store) == await revoke(store) == []
        assert await asked(store.revoke_all()) == 0

    @pytest.mark.asyncio
    async def test_an_existing_record_is_never_overwritten(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1"})
        with pytest.raises(StoreError):
            await create(store, data={"k": "2"}, meta="other")
        loaded = await load(store, generation)
        assert (loaded.meta, dict(loaded.data)) == (META, {"k": "1"})
        assert await ids(store) == ["a1"]
        assert (await figures(store)).active == {"user": 1}

    @pytest.mark.asyncio
    async def test_sessions_have_records_of_their_own(self, store: SessionStore) -> None:
        keys = [
            ALICE,
            SessionKey("user:alice", "a2"),
            SessionKey("user:bob", "a1"),
            SessionKey("anon:ключ ü", "x" * 64),
        ]
        generations = [await made(store, key, data={"who": f'"{key.tag}"'}) for key in keys]
        assert await merge(store, {"n": "1"}, generations[0]) == 2
        assert await asked(store.end(keys[1]))
        assert (await load(store, generations[2], keys[2])).data == {"who": '"user:bob"'}
        assert (await load(store, generations[3], keys[3])).version == 1
        assert (await load(store, generations[0])).data == {"who": '"user:alice"', "n": "1"}

    # Ending by time

    @pytest.mark.asyncio
    async def test_a_session_ends_after_its_idle_period(self, store: SessionStore) -> None:
        generation = await made(store)
        await self.advance(store, IDLE - 5)
        assert (await load(store, generation)).idle_left == pytest.approx(5, abs=NEAR)
        await self.advance(store, 6)
        assert not await lives(store, generation)
        assert await ids(store) == []
        assert not await asked(store.end(ALICE))

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", WRITES)
    async def test_every_use_begins_the_idle_period_anew(self, store: SessionStore, which: str) -> None:
        generation = await made(store, data={"k": "1"})
        await self.advance(store, IDLE - 5)
        assert await asked(WRITES[which](store, ALICE, generation)) is not None
        (left,) = [each.idle_left for each in await listed(store)]
        assert left == pytest.approx(IDLE, abs=NEAR)
        await self.advance(store, IDLE - 5)
        assert len(await ids(store)) == 1
        await self.advance(store, 6)
        assert await ids(store) == []

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", WRITES)
    async def test_no_use_puts_off_the_end_of_the_lifetime(self, store: SessionStore, which: str) -> None:
        generation = await made(store, data={"k": "1"}, idle=IDLE, lifetime=IDLE + 20)
        await self.advance(store, IDLE - 5)
        await asked(WRITES[which](store, ALICE, generation))
        (each,) = await listed(store)
        assert each.idle_left == pytest.approx(25, abs=NEAR)
        assert each.left == pytest.approx(25, abs=NEAR)
        await self.advance(store, 26)
        assert await ids(store) == []

    @pytest.mark.asyncio
    async def test_a_use_may_name_another_idle_period(self, store: SessionStore) -> None:
        generation = await made(store)
        assert await merge(store, {}, generation, idle=10) == 1
        assert (await load(store, generation)).idle_left == pytest.approx(10, abs=NEAR)
        await self.advance(store, 11)
        assert not await lives(store, generation)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", WRITES)
    async def test_what_ran_out_is_not_used_and_not_made_again(self, store: SessionStore, which: str) -> None:
        generation = await made(store, data={"k": "1"})
        await self.advance(store, IDLE + 1)
        assert await asked(WRITES[which](store, ALICE, generation)) in NOTHING
        assert not await lives(store, generation)
        assert await ids(store) == []

    # Refresh tokens

    @pytest.mark.asyncio
    async def test_rotations_follow_one_another(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1"})
        for number in range(3):
            assert same(await rotate(store, number, generation), Rotated("rotated", number + 1, 0))
        loaded = await load(store, generation)
        assert (loaded.rotation, loaded.version, dict(loaded.data)) == (3, 1, {"k": "1"})

    @pytest.mark.asyncio
    async def test_the_last_token_is_answered_with_the_current_one_for_the_grace(self, store: SessionStore) -> None:
        generation = await made(store)
        await rotate(store, 0, generation)
        assert same(await rotate(store, 0, generation), Rotated("replayed", 1, 0))
        await self.advance(store, 6)
        assert same(await rotate(store, 0, generation), Rotated("replayed", 1, 6))
        assert (await load(store, generation)).rotation == 1
        await self.advance(store, 5)
        assert (await rotate(store, 0, generation)).outcome == "reused"
        assert (await rotate(store, 1, generation)).outcome == "gone"
        assert not await lives(store, generation)
        assert await ids(store) == []

    @pytest.mark.asyncio
    @pytest.mark.parametrize("presented", [0, -1, 3, 2**40])
    async def test_a_token_of_before_the_last_or_one_never_made_ends_the_session(
        self, store: SessionStore, presented: int
    ) -> None:
        generation = await made(store)
        await rotate(store, 0, generation)
        await rotate(store, 1, generation)
        assert (await rotate(store, presented, generation)).outcome == "reused"
        assert not await lives(store, generation)

    @pytest.mark.asyncio
    async def test_before_the_first_token_there_was_none(self, store: SessionStore) -> None:
        generation = await made(store)
        assert (await rotate(store, -1, generation)).outcome == "reused"

    @pytest.mark.asyncio
    async def test_without_a_grace_a_second_use_ends_the_session(self, store: SessionStore) -> None:
        generation = await made(store)
        assert (await rotate(store, 0, generation, grace=0)).outcome == "rotated"
        assert (await rotate(store, 0, generation, grace=0)).outcome == "reused"
        assert not await lives(store, generation)

    @pytest.mark.asyncio
    async def test_parallel_refreshes_get_one_successor(self, store: SessionStore) -> None:
        other = await self.elsewhere(store)
        for trial in range(self.trials):
            key = SessionKey("user:alice", f"trial{trial}")
            generation = await made(store, key)
            rotated = await asyncio.gather(
                *(rotate((store, other)[n % 2], 0, generation, key, grace=30) for n in range(8))
            )
            assert sorted(each.outcome for each in rotated) == ["replayed"] * 7 + ["rotated"]
            assert {each.rotation for each in rotated} == {1}
            assert await asked(store.end(key))

    @pytest.mark.asyncio
    async def test_parallel_refreshes_without_a_grace_leave_no_session(self, store: SessionStore) -> None:
        generation = await made(store)
        rotated = await asyncio.gather(*(rotate(store, 0, generation, grace=0) for _ in range(8)))
        assert sorted(each.outcome for each in rotated) == ["gone"] * 6 + ["reused", "rotated"]
        assert not await lives(store, generation)

    # Another id

    @pytest.mark.asyncio
    async def test_a_move_keeps_everything_but_the_id_and_meta(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1"})
        await merge(store, {"l": "2"}, generation)
        await rotate(store, 0, generation)
        await self.advance(store, 10)
        (to,) = of_alice("b1")
        assert await move(store, to, generation)
        loaded = await load(store, generation, to)
        assert (loaded.version, loaded.rotation, loaded.meta) == (2, 1, "new")
        assert loaded.data == {"k": "1", "l": "2"}
        assert loaded.age == pytest.approx(10, abs=NEAR)
        assert loaded.left == pytest.approx(LIFETIME - 10, abs=NEAR)
        assert same(await rotate(store, 0, generation, to, grace=60), Rotated("replayed", 1, 10))

    @pytest.mark.asyncio
    async def test_the_old_id_is_dead_after_a_move(self, store: SessionStore) -> None:
        generation = await made(store)
        (to,) = of_alice("b1")
        assert await move(store, to, generation)
        assert not await lives(store, generation)
        for operation in WRITES.values():
            assert await asked(operation(store, ALICE, generation)) in NOTHING
        assert not await asked(store.end(ALICE))
        assert await ids(store) == ["b1"]
        assert (await figures(store)).active == {"user": 1}

    @pytest.mark.asyncio
    async def test_one_of_parallel_moves_happens(self, store: SessionStore) -> None:
        generation = await made(store)
        moved = await asyncio.gather(*(move(store, to, generation) for to in of_alice(*(f"b{n}" for n in range(8)))))
        assert sorted(moved) == [False] * 7 + [True]
        assert await ids(store) == [f"b{moved.index(True)}"]

    @pytest.mark.asyncio
    async def test_a_move_overwrites_nothing_and_leaves_no_tag(self, store: SessionStore) -> None:
        generation = await made(store)
        (to,) = of_alice("b1")
        await made(store, to, meta="other")
        with pytest.raises(StoreError):
            await move(store, to, generation)
        with pytest.raises(ValueError, match="bob"):
            await move(store, SessionKey("user:bob", "b2"), generation)
        assert (await load(store, generation)).meta == META
        assert (await load(store, generation, to)).meta == "other"

    # Ending

    @pytest.mark.asyncio
    async def test_an_end_tells_whether_there_was_a_session(self, store: SessionStore) -> None:
        generation = await made(store)
        assert [await asked(store.end(ALICE)) for _ in range(2)] == [True, False]
        assert not await lives(store, generation)
        assert await ids(store) == []

    @pytest.mark.asyncio
    @pytest.mark.parametrize("which", WRITES)
    async def test_a_late_writer_does_not_bring_back_what_was_ended(self, store: SessionStore, which: str) -> None:
        generation = await made(store, data={"k": "1"})
        await load(store, generation)
        assert await asked(store.end(ALICE))
        assert await asked(WRITES[which](store, ALICE, generation)) in NOTHING
        assert not await lives(store, generation)
        assert await ids(store) == []
        assert (await figures(store)).active == {}
