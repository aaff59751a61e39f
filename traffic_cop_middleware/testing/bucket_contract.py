"""What every `BucketStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from math import ceil

import pytest

from traffic_cop_middleware.contracts import MICRO, SLACK, BucketStore, Guard, Take, Taken

NOW = 1_700_000_000.0
"""Seconds: the suite's time. It stands still; every take says when it is made."""

ROUNDING_MICROSECONDS = 2
"""How far above the true wait a stated one may be."""


def taking(name: str, *, burst: float = 3, rate: float = 1, cost: float = 1, subject: str = "ip:203.0.113.7") -> Take:
    """A wish for tokens of `subject`'s bucket `name`."""
    return Take(f"{{{subject}}}{name}", burst, rate, cost)


async def asked(taken: Taken | Awaitable[Taken]) -> Taken:
    """What came of it, from a store that answers at once and from one that gives something to await."""
    return taken if isinstance(taken, Taken) else await taken


async def take(store: BucketStore, *requests: Take, now: float = NOW, guard: Guard | None = None) -> Taken:
    taken = await asked(store.take(requests, guard=guard, now=now))
    return taken._replace(answers=list(taken.answers))


async def answers(store: BucketStore, *requests: Take, now: float = NOW) -> list[int]:
    return list((await take(store, *requests, now=now)).answers)


async def admitted(store: BucketStore, request: Take, *, times: int, now: float = NOW) -> int:
    """How many of `times` takes are admitted."""
    return sum([(await take(store, request, now=now)).admitted for _ in range(times)])


async def used(store: BucketStore, request: Take, *, now: float = NOW) -> int:
    """The debt of a bucket in millionths of a token: what a take of nothing says."""
    return (await answers(store, request._replace(cost=0), now=now))[0]


def later(waits: Iterable[int], *, early: int = 0, now: float = NOW) -> float:
    """When the longest of the stated waits is over, less `early` microseconds."""
    return now + (-min(waits) - early) / MICRO


class BucketStoreContract:
    """Every promise of `BucketStore`, on a store that a subclass gives.

    Needs pytest-asyncio. Give a fixture `store` (an empty store for each test), and `plant` where guards are to hold::

        class TestMyBuckets(BucketStoreContract):
            @pytest_asyncio.fixture
            async def store(self) -> AsyncIterator[BucketStore]:
                self.backend = MyBackend(...)
                await self.backend.connect()
                yield self.backend.buckets
                await self.backend.close()

            async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
                await self.backend.client.set(f"my-prefix:{key}", value)

    The suite gives every take its time by `now=`, which stands still while real time goes on: a store that lets keys
    expire by a clock of its own must keep them longer for such takes.
    """

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        """Write `value` where the store looks for a guard's `record` or `generation_key` named `key`."""
        raise NotImplementedError(f"{type(self).__name__} must say how a guard's keys are written: override plant()")

    # One bucket

    @pytest.mark.asyncio
    async def test_a_forgotten_bucket_is_full_and_its_neighbour_as_it_was(self, store: BucketStore) -> None:
        emptied, kept = taking("emptied"), taking("kept")
        await take(store, emptied._replace(cost=3), kept._replace(cost=3))
        forgot = store.forget([emptied.key, taking("never there").key])
        if isinstance(forgot, Awaitable):
            await forgot
        assert await used(store, emptied) == 0
        assert await used(store, kept) == 3 * MICRO
        assert await admitted(store, emptied, times=5) == 3

    @pytest.mark.asyncio
    async def test_a_full_bucket_admits_its_burst_and_refuses_the_next(self, store: BucketStore) -> None:
        request = taking("3/second", burst=3, rate=3)
        assert [(await take(store, request)).admitted for _ in range(5)] == [True, True, True, False, False]

    @pytest.mark.asyncio
    async def test_an_admitted_take_answers_the_debt_in_millionths_of_a_token(self, store: BucketStore) -> None:
        request = taking("debt", burst=10, rate=2, cost=1.5)
        assert await answers(store, request) == [1_500_000]
        assert await answers(store, request) == [3_000_000]
        assert await answers(store, request, now=NOW + 0.25) == [4_000_000]

    @pytest.mark.asyncio
    async def test_a_refused_take_answers_the_wait_in_microseconds_below_zero(self, store: BucketStore) -> None:
        request = taking("wait", burst=4, rate=2)
        assert await admitted(store, request, times=4) == 4
        assert await take(store, request) == (False, [-500_000], True)
        assert await answers(store, request._replace(cost=4)) == [-2_000_000]
        assert await answers(store, request, now=NOW + 0.25) == [-250_000]

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("burst", "rate"),
        [(1, 1 / 86_400), (1, 1 / 3), (7, 100 / 60), (4, 10), (3, 1_000.7), (1, 100_000), (5_000, 100_000)],
    )
    @pytest.mark.parametrize("share", [1, 0.37])
    async def test_coming_back_after_the_stated_wait_is_granted_and_well_before_it_is_refused(
        self, store: BucketStore, burst: float, rate: float, share: float
    ) -> None:
        emptying = taking("retry", burst=burst, rate=rate, cost=burst)
        request = emptying._replace(cost=burst * share)
        assert await answers(store, emptying) == [burst * MICRO]
        stated = await answers(store, request)
        true_wait = burst * share / rate * MICRO
        assert true_wait - 0.01 <= -stated[0] <= true_wait + ROUNDING_MICROSECONDS
        early = ceil(ROUNDING_MICROSECONDS + SLACK * (1 + burst / 1000) / rate * MICRO) + 1
        if early < -stated[0]:
            assert not (await take(store, request, now=later(stated, early=early))).admitted
        assert (await take(store, request, now=later(stated))).admitted

    @pytest.mark.asyncio
    async def test_a_bucket_gains_no_more_than_its_burst(self, store: BucketStore) -> None:
        request = taking("full", burst=3, rate=1)
        assert await admitted(store, request, times=3) == 3
        assert await admitted(store, request, times=9, now=NOW + 1_000_000) == 3

    @pytest.mark.asyncio
    @pytest.mark.parametrize(("burst", "rate", "expected"), [(4, 10, 14), (1, 10, 11), (1, 100_000, 101)])
    async def test_a_bucket_that_refills_far_below_a_second_still_limits(
        self, store: BucketStore, burst: float, rate: float, expected: int
    ) -> None:
        request = taking("fast", burst=burst, rate=rate)
        step = (expected - burst) / rate / 200
        assert sum([(await take(store, request, now=NOW + i * step)).admitted for i in range(201)]) == expected

    @pytest.mark.asyncio
    async def test_one_a_day_is_granted_again_after_a_day(self, store: BucketStore) -> None:
        request = taking("1/day", burst=1, rate=1 / 86_400)
        assert await answers(store, request) == [MICRO]
        assert await answers(store, request, now=NOW + 86_399) == [pytest.approx(-MICRO, abs=ROUNDING_MICROSECONDS)]
        assert (await take(store, request, now=NOW + 86_400)).admitted

    @pytest.mark.asyncio
    async def test_a_cost_may_be_a_fraction_and_may_be_the_whole_burst(self, store: BucketStore) -> None:
        tenth = taking("tenths", burst=1, rate=1, cost=0.1)
        assert await admitted(store, tenth, times=12) == 10
        whole = taking("whole", burst=50, rate=5, cost=50)
        assert [(await take(store, whole)).admitted for _ in range(2)] == [True, False]
        assert await answers(store, whole) == [-10_000_000]
        assert (await take(store, whole, now=NOW + 10)).admitted

    @pytest.mark.asyncio
    async def test_decimal_costs_that_add_up_to_the_burst_are_admitted(self, store: BucketStore) -> None:
        request = taking("decimal", burst=3.3, rate=1)
        for cost in (1.1, 2.2):  # 3.3000000000000003 in floats
            assert (await take(store, request._replace(cost=cost))).admitted
        assert not (await take(store, request._replace(cost=0.000_001))).admitted

    @pytest.mark.asyncio
    async def test_a_take_of_nothing_is_admitted_by_an_empty_bucket(self, store: BucketStore) -> None:
        request = taking("nothing", burst=2, rate=1, cost=2)
        assert (await take(store, request)).admitted
        assert await take(store, request._replace(cost=0)) == (True, [2_000_000], True)

    @pytest.mark.asyncio
    async def test_refused_takes_change_nothing(self, store: BucketStore) -> None:
        request = taking("stubborn", burst=2, rate=1)
        assert await admitted(store, request, times=2) == 2
        for step in range(100):
            assert not (await take(store, request, now=NOW + step / 101)).admitted
        assert await answers(store, request, now=NOW + 1) == [2_000_000]

    @pytest.mark.asyncio
    async def test_a_clock_that_goes_back_gives_nothing_and_loses_nothing(self, store: BucketStore) -> None:
        request = taking("clock", burst=3, rate=1)
        assert await admitted(store, request, times=2) == 2
        assert await answers(store, request, now=NOW - 3600) == [3_000_000]
        assert await answers(store, request, now=NOW - 3600) == [-1_000_000]
        assert await answers(store, request, now=NOW - 3599) == [3_000_000]

    @pytest.mark.asyncio
    async def test_an_empty_bucket_drains_on_from_the_new_time_after_the_clock_went_back(
        self, store: BucketStore
    ) -> None:
        request = taking("locked", burst=3, rate=1)
        assert await admitted(store, request, times=3) == 3
        stated = await answers(store, request, now=NOW - 3600)
        assert stated == [-1_000_000]
        assert (await take(store, request, now=later(stated, now=NOW - 3600))).admitted

    @pytest.mark.asyncio
    async def test_a_changed_rate_or_burst_keeps_what_was_used(self, store: BucketStore) -> None:
        request = taking("changed", burst=10, rate=1, cost=8)
        assert await answers(store, request) == [8_000_000]
        one = request._replace(cost=1)
        assert await answers(store, one._replace(burst=20, rate=2)) == [9_000_000]
        assert await answers(store, one._replace(burst=5, rate=2)) == [-2_500_000]
        assert await answers(store, one._replace(burst=5, rate=2), now=NOW + 2.5) == [5_000_000]

    # Several buckets

    @pytest.mark.asyncio
    async def test_several_buckets_are_all_taken_from_or_none(self, store: BucketStore) -> None:
        wide, narrow = taking("wide", burst=10), taking("narrow", burst=1, rate=0.5)
        assert await take(store, wide, narrow) == (True, [1_000_000, 1_000_000], True)
        for pair in ((wide, narrow), (narrow, wide)):
            taken = await take(store, *pair)
            assert (taken.admitted, sorted(taken.answers)) == (False, [-2_000_000, 1_000_000])
        assert await used(store, wide) == 1_000_000
        assert await used(store, narrow) == 1_000_000

    @pytest.mark.asyncio
    async def test_each_refusing_bucket_states_its_own_wait_and_a_new_one_stays_full(self, store: BucketStore) -> None:
        slow, slower, new = taking("slow", burst=1), taking("slower", burst=1, rate=0.1), taking("new", burst=5)
        assert (await take(store, slow, slower)).admitted
        taken = await take(store, slow, new, slower)
        assert taken == Taken(False, [-1_000_000, 0, -10_000_000])
        assert (await take(store, slow, new, slower, now=later(taken.answers))).admitted

    @pytest.mark.asyncio
    async def test_nothing_asked_is_nothing_refused(self, store: BucketStore) -> None:
        assert await take(store) == (True, [], True)

    @pytest.mark.asyncio
    async def test_subjects_and_names_have_buckets_of_their_own(self, store: BucketStore) -> None:
        first = taking("own", burst=1)
        others = [taking("own", burst=1, subject="ip:203.0.113.8"), taking("other", burst=1)]
        odd = [taking(f"{odd} ü:\n{{x}}", burst=1, subject="key:ключ") for odd in range(3)]
        assert await admitted(store, first, times=2) == 1
        for other in [*others, *odd]:
            assert await admitted(store, other, times=2) == 1

    @pytest.mark.asyncio
    async def test_many_keys_keep_their_own_counts(self, store: BucketStore) -> None:
        requests = [taking("many", burst=2, rate=1e-3, subject=f"ip:{number}") for number in range(2_000)]
        for expected in (True, True, False):
            made = [store.take([request], now=NOW) for request in requests]
            assert {(await asked(taken)).admitted for taken in made} == {expected}

    # At the same time

    @pytest.mark.asyncio
    async def test_concurrent_takes_of_one_bucket_are_admitted_up_to_its_burst(self, store: BucketStore) -> None:
        request = taking("crowd", burst=40, rate=1e-3)
        taken = await asyncio.gather(*(take(store, request) for _ in range(200)))
        assert sum(one.admitted for one in taken) == 40
        assert sorted(one.answers[0] for one in taken if one.admitted) == [n * MICRO for n in range(1, 41)]

    @pytest.mark.asyncio
    async def test_concurrent_groups_get_the_answers_of_their_own_buckets(self, store: BucketStore) -> None:
        groups = [[taking(f"{n}-{i}", burst=9, cost=n % 5 + i) for i in range(n % 4 + 1)] for n in range(150)]
        taken = await asyncio.gather(*(take(store, *group) for group in groups))
        assert [list(one.answers) for one in taken] == [[int(t.cost * MICRO) for t in group] for group in groups]

    # Guards

    @pytest.mark.asyncio
    async def test_a_guard_that_holds_lets_the_takes_be_made(self, store: BucketStore) -> None:
        mine, otherwise = taking("mine"), taking("address", cost=2)
        guard = Guard("{s:1}record", "{s:1}generation", 7, (otherwise,))
        await self.plant(store, guard.record, "session")
        await self.plant(store, guard.generation_key, 7)
        assert await take(store, mine, guard=guard) == (True, [1_000_000], True)
        assert [await used(store, mine), await used(store, otherwise)] == [1_000_000, 0]

    @pytest.mark.asyncio
    async def test_a_generation_that_was_never_written_is_zero(self, store: BucketStore) -> None:
        guard = Guard("{s:2}record", "{s:2}generation", 0, (taking("address"),))
        await self.plant(store, guard.record, "session")
        assert (await take(store, taking("mine"), guard=guard)).guard_held
        assert not (await take(store, taking("mine"), guard=guard._replace(generation=1))).guard_held

    @pytest.mark.asyncio
    async def test_without_the_record_the_otherwise_takes_are_charged_instead(self, store: BucketStore) -> None:
        mine, otherwise = taking("mine"), (taking("address", cost=2), taking("everybody", burst=9))
        guard = Guard("{s:3}record", "{s:3}generation", 0, otherwise)
        assert await take(store, mine, guard=guard) == (True, [2_000_000, 1_000_000], False)
        assert await take(store, mine, guard=guard) == (False, [-1_000_000, 1_000_000], False)
        assert await used(store, mine) == 0

    @pytest.mark.asyncio
    async def test_a_changed_generation_ends_a_guard(self, store: BucketStore) -> None:
        mine, otherwise = taking("mine"), taking("address")
        guard = Guard("{s:4}record", "{s:4}generation", 1, (otherwise,))
        await self.plant(store, guard.record, "session")
        await self.plant(store, guard.generation_key, 1)
        assert (await take(store, mine, guard=guard)).guard_held
        await self.plant(store, guard.generation_key, 2)
        assert not (await take(store, mine, guard=guard)).guard_held
        assert [await used(store, mine), await used(store, otherwise)] == [1_000_000, 1_000_000]

    @pytest.mark.asyncio
    async def test_guarded_and_bare_takes_asked_together_get_their_own_answers(self, store: BucketStore) -> None:
        held = Guard("{s:5}record", "{s:5}generation", 0, (taking("unused"),))
        broken = Guard("{s:6}record", "{s:6}generation", 0, (taking("a", cost=2), taking("b", cost=3)))
        await self.plant(store, held.record, "session")
        taken = await asyncio.gather(
            take(store, taking("c"), taking("d", cost=0.5), guard=held),
            take(store, taking("e"), guard=broken),
            take(store, taking("f", cost=2.5)),
            take(store, guard=broken._replace(otherwise=())),
            take(store, taking("g", cost=0.25)),
        )
        assert list(taken) == [
            Taken(True, [1_000_000, 500_000], True),
            Taken(True, [2_000_000, 3_000_000], False),
            Taken(True, [2_500_000], True),
            Taken(True, [], False),
            Taken(True, [250_000], True),
        ]
