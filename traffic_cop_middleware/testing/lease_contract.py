"""What every `LeaseStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from traffic_cop_middleware.contracts import Lease, LeaseStore

NAME = "sweep"
TTL = 600.0

Elapse = Callable[[float], Awaitable[None]]


async def acquired(store: LeaseStore, holder: str, *, name: str = NAME, ttl: float = TTL) -> Lease | None:
    """From a store that answers at once and from one that gives something to await."""
    lease = store.acquire(name, holder, ttl=ttl)
    return await lease if isinstance(lease, Awaitable) else lease


async def given(store: LeaseStore, holder: str, *, name: str = NAME, ttl: float = TTL) -> Lease:
    """The lease, which nothing can hinder."""
    lease = await acquired(store, holder, name=name, ttl=ttl)
    assert lease is not None
    return lease


async def released(store: LeaseStore, lease: Lease) -> bool:
    held = store.release(lease)
    return await held if isinstance(held, Awaitable) else held


class LeaseStoreContract:
    """Every promise of `LeaseStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give two fixtures. `stores`: those of several workers on one empty store, or one where the
    store is this process; `elapse`: lets seconds pass for it (the suite lets hundreds pass)::

        class TestMyLeases(LeaseStoreContract):
            @pytest.fixture
            def stores(self, fake_clock: FakeClock) -> Sequence[LeaseStore]:
                return [MyLeases(clock=fake_clock)]

            @pytest.fixture
            def elapse(self, fake_clock: FakeClock) -> Elapse:
                async def elapse(seconds: float) -> None:
                    fake_clock.advance(seconds)

                return elapse
    """

    @pytest.fixture
    def store(self, stores: Sequence[LeaseStore]) -> LeaseStore:
        return stores[0]

    @pytest.mark.asyncio
    async def test_the_first_who_asks_has_it_and_nobody_else_on_any_worker(self, stores: Sequence[LeaseStore]) -> None:
        lease = await given(stores[0], "a")
        assert lease == (NAME, "a", lease.token, TTL)
        for store in stores:
            assert await acquired(store, "b") is None

    @pytest.mark.asyncio
    async def test_of_many_who_ask_at_once_one_has_it(self, stores: Sequence[LeaseStore]) -> None:
        asked = [acquired(stores[number % len(stores)], f"worker {number}") for number in range(30)]
        leases = [lease for lease in await asyncio.gather(*asked) if lease is not None]
        assert len(leases) == 1
        assert await acquired(stores[0], leases[0].holder) == leases[0]

    @pytest.mark.asyncio
    async def test_the_holder_who_asks_again_keeps_the_token_and_has_it_from_then_on(
        self, stores: Sequence[LeaseStore], elapse: Elapse
    ) -> None:
        lease = await given(stores[0], "a")
        for _ in range(3):
            await elapse(0.9 * TTL)
            assert await acquired(stores[-1], "b") is None
            assert await given(stores[0], "a") == lease
        await elapse(1.1 * TTL)
        assert await acquired(stores[-1], "b") is not None

    @pytest.mark.asyncio
    async def test_a_renewal_may_shorten_it(self, store: LeaseStore, elapse: Elapse) -> None:
        lease = await given(store, "a", ttl=20 * TTL)
        assert await given(store, "a") == lease._replace(ends_in=TTL)
        await elapse(1.1 * TTL)
        assert await acquired(store, "b") is not None

    @pytest.mark.asyncio
    async def test_one_that_has_ended_goes_to_the_next_with_a_larger_token(
        self, stores: Sequence[LeaseStore], elapse: Elapse
    ) -> None:
        first = await given(stores[0], "a")
        await elapse(1.1 * TTL)
        second = await given(stores[-1], "b")
        assert second.token > first.token
        assert await acquired(stores[0], "a") is None
        assert not await released(stores[0], first)
        assert await given(stores[0], "b") == second

    @pytest.mark.asyncio
    async def test_who_has_it_anew_after_its_end_has_a_larger_token(self, store: LeaseStore, elapse: Elapse) -> None:
        first = await given(store, "a")
        await elapse(1.1 * TTL)
        assert (await given(store, "a")).token > first.token

    @pytest.mark.asyncio
    async def test_a_released_one_goes_to_the_next_at_once_and_is_released_once(
        self, stores: Sequence[LeaseStore]
    ) -> None:
        first = await given(stores[0], "a")
        assert await released(stores[0], first)
        assert not await released(stores[0], first)
        second = await given(stores[-1], "b")
        assert second.token > first.token
        assert not await released(stores[0], first)
        assert await acquired(stores[0], "a") is None

    @pytest.mark.asyncio
    async def test_it_is_released_by_its_holder_with_its_token_and_by_nobody_else(
        self, store: LeaseStore, elapse: Elapse
    ) -> None:
        first = await given(store, "a")
        assert await released(store, first)
        second = await given(store, "a")
        assert not await released(store, first)
        assert not await released(store, second._replace(holder="b"))
        assert not await released(store, second._replace(name="other"))
        assert await acquired(store, "b") is None
        await elapse(1.1 * TTL)
        assert not await released(store, second)

    @pytest.mark.asyncio
    async def test_leases_of_other_names_are_others(self, store: LeaseStore) -> None:
        leases = [await given(store, "a", name=name) for name in ("sweep", "roll-up", "Sweep", "sweep:1")]
        assert await released(store, leases[0])
        assert [await acquired(store, "b", name=lease.name) is None for lease in leases] == [False, True, True, True]

    @pytest.mark.asyncio
    async def test_tokens_are_below_two_to_the_53rd_and_grow(self, stores: Sequence[LeaseStore]) -> None:
        tokens = []
        for turn in range(30):
            lease = await given(stores[turn % len(stores)], f"worker {turn}")
            tokens.append(lease.token)
            assert await released(stores[turn % len(stores)], lease)
        assert tokens[0] > 0
        assert tokens == sorted(set(tokens))
        assert tokens[-1] < 2**53

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["a b", "0 0 0 b", "a\nb", " ", "Grüße", "\ud800", "x" * 128])
    async def test_names_and_holders_are_plain_texts(self, store: LeaseStore, word: str) -> None:
        lease = await given(store, word, name=word)
        assert await given(store, word, name=word) == lease
        assert await acquired(store, "b", name=word) is None
        assert await released(store, lease)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["", "a}b", "{", "a\0b", "x" * 129, "ü" * 65])
    async def test_words_that_no_store_takes_are_refused(self, store: LeaseStore, word: str) -> None:
        with pytest.raises(ValueError, match="a lease's name"):
            await acquired(store, "a", name=word)
        with pytest.raises(ValueError, match="a lease's holder"):
            await acquired(store, word)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("ttl", [0, -1, 0.09, 86_401, float("inf"), float("nan")])
    async def test_times_that_no_store_takes_are_refused(self, store: LeaseStore, ttl: float) -> None:
        with pytest.raises(ValueError, match="the lease 'sweep' for"):
            await acquired(store, "a", ttl=ttl)
        assert await acquired(store, "b") is not None
