"""What every `SessionStore` does when data of a session is written, as tests."""

from __future__ import annotations

import asyncio

import pytest

from traffic_cop_middleware.contracts import SessionStore
from traffic_cop_middleware.errors import SessionTooLarge
from traffic_cop_middleware.testing.session_asking import (
    IDLE,
    META,
    NEAR,
    add,
    load,
    made,
    merge,
    swap,
)


class SessionWritesContract:
    """The part of `SessionStoreContract` that concerns a session's data, and what every part needs."""

    trials = 500
    """How many races of eight refreshes are tried."""

    async def advance(self, store: SessionStore, seconds: float) -> None:
        """Let `seconds` pass for what is in the store."""
        raise NotImplementedError(f"{type(self).__name__} must say how time passes: override advance()")

    async def elsewhere(self, store: SessionStore) -> SessionStore:
        """The same sessions, as another worker sees them: `store` itself where it is not shared."""
        return store

    # Writing

    @pytest.mark.asyncio
    async def test_a_merge_writes_and_deletes_what_it_names_and_leaves_the_rest(self, store: SessionStore) -> None:
        generation = await made(store, data={"a": "1", "b": "2", "c": "3"})
        before = await load(store, generation)
        assert await merge(store, {"a": '"ü"', "b": None, "d": "4", "never": None}, generation) == 2
        loaded = await load(store, generation)
        assert (loaded.version, dict(loaded.data)) == (2, {"a": '"ü"', "c": "3", "d": "4"})
        assert (loaded.meta, loaded.rotation) == (META, 0)
        assert dict(before.data) == {"a": "1", "b": "2", "c": "3"}

    @pytest.mark.asyncio
    async def test_a_merge_of_nothing_keeps_the_version(self, store: SessionStore) -> None:
        generation = await made(store, data={"a": "1"})
        assert [await merge(store, {}, generation) for _ in range(3)] == [1, 1, 1]
        assert await merge(store, {"a": "1"}, generation) == 2

    @pytest.mark.asyncio
    async def test_names_that_stores_use_themselves_are_names_like_others(self, store: SessionStore) -> None:
        data = {name: f'"{name}"' for name in ("g", "v", "e", "n", "m", "version", "meta", ":k", "__proto__", "{x}")}
        generation = await made(store, data=data)
        assert await merge(store, {"v": "9", "n": None}, generation) == 2
        loaded = await load(store, generation)
        assert (loaded.version, loaded.meta) == (2, META)
        assert loaded.data == {**{name: text for name, text in data.items() if name != "n"}, "v": "9"}

    @pytest.mark.asyncio
    async def test_parallel_writers_of_different_keys_all_keep_their_writes(self, store: SessionStore) -> None:
        generation = await made(store)
        other = await self.elsewhere(store)
        versions = await asyncio.gather(
            *(merge((store, other)[n % 2], {f"k{n}": str(n)}, generation) for n in range(20))
        )
        assert sorted(version or 0 for version in versions) == list(range(2, 22))
        assert (await load(store, generation)).data == {f"k{n}": str(n) for n in range(20)}

    @pytest.mark.asyncio
    async def test_more_than_most_is_refused_and_nothing_is_written(self, store: SessionStore) -> None:
        generation = await made(store, data={"ü": '"12"'})  # 2 + 4 bytes
        assert await merge(store, {"k": "3456"}, generation, most=11) == 2
        await self.advance(store, 20)
        with pytest.raises(SessionTooLarge):
            await merge(store, {"k": "3", "l": "12345"}, generation, most=11)
        with pytest.raises(SessionTooLarge):
            await add(store, "n", 1, generation, most=12)
        with pytest.raises(SessionTooLarge):
            await swap(store, "3456", '"ü"', generation, most=10)
        loaded = await load(store, generation)
        assert (loaded.version, dict(loaded.data)) == (2, {"ü": '"12"', "k": "3456"})
        assert loaded.idle_left == pytest.approx(IDLE - 20, abs=NEAR)

    @pytest.mark.asyncio
    async def test_what_is_deleted_or_replaced_makes_room(self, store: SessionStore) -> None:
        generation = await made(store, data={"a": "1" * 9})
        assert await merge(store, {"a": None, "b": "2" * 9}, generation, most=10) == 2
        assert await merge(store, {"b": "3" * 9}, generation, most=10) == 3
        assert await swap(store, None, "", generation, most=11)
        assert await merge(store, {"k": None, "b": "4" * 8, "c": ""}, generation, most=10) == 5
        assert await merge(store, {"c": None}, generation, most=9) == 6
        assert await add(store, "n", 5, generation, most=11) == 5
        assert (await load(store, generation)).data == {"b": "4" * 8, "n": "5"}

    @pytest.mark.asyncio
    async def test_a_touch_is_no_write_that_could_be_too_large(self, store: SessionStore) -> None:
        generation = await made(store, data={"k": "1" * 100})
        assert await merge(store, {}, generation, most=10) == 1
        assert await swap(store, "other", "2", generation, most=10) is False

    @pytest.mark.asyncio
    async def test_the_most_holds_under_parallel_writers(self, store: SessionStore) -> None:
        generation = await made(store)
        writes = (merge(store, {f"k{n:02}": "1" * 7}, generation, most=100) for n in range(20))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert sum(isinstance(outcome, SessionTooLarge) for outcome in outcomes) == 10
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 10
        assert len((await load(store, generation)).data) == 10

    # Adding and swapping

    @pytest.mark.asyncio
    async def test_an_add_gives_the_sum_and_counts_as_a_change(self, store: SessionStore) -> None:
        generation = await made(store, data={"n": "40", "zero": "-0"})
        assert await add(store, "n", 2, generation) == 42
        assert await add(store, "new", -7, generation) == -7
        assert await add(store, "zero", 0, generation) == 0
        loaded = await load(store, generation)
        assert (loaded.version, dict(loaded.data)) == (4, {"n": "42", "new": "-7", "zero": "0"})

    @pytest.mark.asyncio
    async def test_parallel_adds_all_count(self, store: SessionStore) -> None:
        generation = await made(store)
        other = await self.elsewhere(store)
        sums = await asyncio.gather(*(add((store, other)[n % 2], "n", 1, generation) for n in range(20)))
        assert sorted(total or 0 for total in sums) == list(range(1, 21))
        assert (await load(store, generation)).data == {"n": "20"}

    @pytest.mark.asyncio
    @pytest.mark.parametrize("near", [2**53 - 2, -(2**53) + 2, 10**15 + 1])
    async def test_sums_are_exact_up_to_two_to_the_53(self, store: SessionStore, near: int) -> None:
        generation = await made(store, data={"n": str(near)})
        step = 1 if near > 0 else -1
        assert await add(store, "n", step, generation) == near + step
        assert (await load(store, generation)).data == {"n": str(near + step)}
        assert await add(store, "n", -(near + step), generation) == 0

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("stands", "amount"),
        [
            *(
                (text, 1)
                for text in ('"1"', "1.0", "1.5", "1e3", "null", "[1]", "", " 1", "1\n", "0x1", "01", "--1", "\u0661")
            ),
            *(("9" * digits, 1) for digits in (16, 17, 18, 400, 5_000)),
            *((str(2**53 - 1), 1), (str(-(2**53) + 1), -1), (str(2**53 - 1), 2**53 - 1)),
            *((str(2**53), -1), (str(-(2**53)), 1), ("0", 2**53), ("0", -(2**53)), ("0", 10**400)),
        ],
    )
    async def test_what_is_no_whole_number_or_would_be_none_is_a_type_error(
        self, store: SessionStore, stands: str, amount: int
    ) -> None:
        generation = await made(store, data={"n": stands})
        with pytest.raises(TypeError):
            await add(store, "n", amount, generation)
        loaded = await load(store, generation)
        assert (loaded.version, dict(loaded.data)) == (1, {"n": stands})

    @pytest.mark.asyncio
    async def test_a_swap_writes_only_over_what_it_expects(self, store: SessionStore) -> None:
        generation = await made(store)
        assert await swap(store, "1", "2", generation) is False
        assert await swap(store, None, "1", generation) is True
        assert await swap(store, None, "2", generation) is False
        assert await swap(store, "1", '"ü"', generation)
        assert (await load(store, generation)).data == {"k": '"ü"'}
        assert await swap(store, '"ü"', "", generation)
        assert [await swap(store, before, "x", generation) for before in (None, "=", "-", '"ü"')] == [False] * 4
        assert await swap(store, "", None, generation)
        loaded = await load(store, generation)
        assert (loaded.version, dict(loaded.data)) == (5, {})

    @pytest.mark.asyncio
    async def test_one_of_parallel_swaps_wins(self, store: SessionStore) -> None:
        generation = await made(store)
        other = await self.elsewhere(store)
        swapped = await asyncio.gather(*(swap((store, other)[n % 2], None, str(n), generation) for n in range(20)))
        assert sorted(bool(each) for each in swapped) == [False] * 19 + [True]
        assert (await load(store, generation)).data == {"k": str(swapped.index(True))}
