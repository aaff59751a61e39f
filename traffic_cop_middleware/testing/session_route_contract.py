"""What every `SessionRouteStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

import pytest

from traffic_cop_middleware.contracts import SessionRoute, SessionRouteStore

T = TypeVar("T")

LONG = 3600.0
SHORT = 0.25
"""Seconds that a route lives where its end is waited for."""
LEEWAY = 60.0
"""Seconds that may pass unnoticed between two calls on a store in real time."""


async def asked(answer: T | Awaitable[T]) -> T:
    """From a store that answers at once and from one that gives something to await."""
    return cast("T", await answer if isinstance(answer, Awaitable) else answer)


async def created(
    store: SessionRouteStore, id: str, *, service: str = "billing", instance: str = "billing-1", ttl: float = LONG
) -> SessionRoute:
    return await asked(store.create(id, service=service, instance=instance, ttl=ttl))


async def validated(
    store: SessionRouteStore, id: str, *, service: str = "billing", ttl: float | None = None
) -> SessionRoute | None:
    return cast("SessionRoute | None", await asked(store.validate(id, service=service, ttl=ttl)))


async def updated(
    store: SessionRouteStore, id: str, *, instance: str, version: int, ttl: float = LONG
) -> SessionRoute | None:
    answer = store.update(id, service="billing", instance=instance, version=version, ttl=ttl)
    return cast("SessionRoute | None", await asked(answer))


async def ids(
    store: SessionRouteStore, *, service: str | None = None, instance: str | None = None, most: int = 1000
) -> list[str]:
    return [route.id for route in await asked(store.active(service=service, instance=instance, most=most))]


async def eventually(condition: Callable[[], Awaitable[bool]], deadline: float = 30.0) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + deadline
    while not await condition():
        assert time.monotonic() < end, f"did not come about within {deadline} s"
        await asyncio.sleep(0.005)


def about(seconds: float) -> object:
    return pytest.approx(seconds, abs=LEEWAY)


async def services_of(store: SessionRouteStore, id: str) -> list[tuple[str, str, int]]:
    return [(route.service, route.instance, route.version) for route in await asked(store.of(id))]


class SessionRouteStoreContract:
    """Every promise of `SessionRouteStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on one empty store, or one where the store
    is this process; and `elapse`::

        class TestMyRoutes(SessionRouteStoreContract):
            @pytest.fixture
            def stores(self) -> Sequence[SessionRouteStore]:
                self.clock = FakeClock()
                return [MyRoutes(clock=self.clock)]

            async def elapse(self, seconds: float) -> None:
                self.clock.advance(seconds)

    What one worker has changed another may list and count a moment later.
    """

    async def elapse(self, seconds: float) -> None:
        """Let the store's clock go on by `seconds` or a little more."""
        raise NotImplementedError(f"{type(self).__name__} must say how time passes: override elapse()")

    @pytest.fixture
    def store(self, stores: Sequence[SessionRouteStore]) -> SessionRouteStore:
        return stores[0]

    # A session's

    @pytest.mark.asyncio
    async def test_a_sessions_routes_are_listed_by_service(self, stores: Sequence[SessionRouteStore]) -> None:
        store, other = stores[0], stores[-1]
        assert await services_of(store, "s1") == []
        await created(store, "s1", service="search", instance="search-1")
        route = await created(store, "s1", service="billing", instance="bill 1")
        await created(store, "s2", service="billing", instance="billing-2")
        await updated(store, "s1", instance="billing-9", version=route.version)
        assert await services_of(other, "s1") == [("billing", "billing-9", 2), ("search", "search-1", 1)]
        [first, _] = await asked(other.of("s1"))
        assert first.expires_in == about(LONG)
        await asked(store.end("s1", service="billing"))
        assert await services_of(other, "s1") == [("search", "search-1", 1)]

    @pytest.mark.asyncio
    async def test_what_ran_out_is_not_listed(self, store: SessionRouteStore) -> None:
        await created(store, "s1", service="billing", ttl=SHORT)
        await created(store, "s1", service="search", ttl=LONG)
        await self.elapse(SHORT)
        assert await services_of(store, "s1") == [("search", "billing-1", 1)]

    # Owners

    @pytest.mark.asyncio
    async def test_a_route_is_made_with_version_one_and_its_time_to_live(self, store: SessionRouteStore) -> None:
        route = await created(store, "s1", service="billing", instance="billing-2", ttl=LONG)
        assert route[:4] == ("s1", "billing", "billing-2", 1)
        assert route.expires_in == pytest.approx(LONG, abs=0.001)
        assert route.age == pytest.approx(0, abs=0.001)
        assert (await validated(store, "s1") or route)[:4] == route[:4]

    @pytest.mark.asyncio
    async def test_a_session_that_has_an_owner_keeps_it_and_its_time(self, stores: Sequence[SessionRouteStore]) -> None:
        await created(stores[0], "s1", instance="billing-1", ttl=LONG)
        again = await created(stores[-1], "s1", instance="billing-2", ttl=10 * LONG)
        assert (again.instance, again.version) == ("billing-1", 1)
        assert again.expires_in == about(LONG)

    @pytest.mark.asyncio
    async def test_of_twenty_who_create_at_once_the_first_wins_and_all_are_told_so(
        self, stores: Sequence[SessionRouteStore]
    ) -> None:
        routes = await asyncio.gather(
            *(created(stores[number % len(stores)], "raced", instance=f"billing-{number}") for number in range(20))
        )
        assert len({route.instance for route in routes}) == 1
        assert {route.version for route in routes} == {1}
        winner = routes[0].instance

        async def counted() -> bool:
            return await asked(stores[0].figures()) == {"billing": {winner: 1}}

        await eventually(counted)

    @pytest.mark.asyncio
    async def test_each_service_of_a_session_has_an_owner_of_its_own(self, store: SessionRouteStore) -> None:
        await created(store, "s1", service="billing", instance="billing-1")
        await created(store, "s1", service="search", instance="search-7")
        assert (await validated(store, "s1", service="billing") or ())[2:3] == ("billing-1",)
        assert (await validated(store, "s1", service="search") or ())[2:3] == ("search-7",)
        assert await validated(store, "s1", service="mail") is None
        assert await validated(store, "s2", service="billing") is None

    @pytest.mark.asyncio
    @pytest.mark.parametrize("name", ["", "a b:3:c", "two\nlines", "{tag}", "12 13 14 15", "grün 🚓", "\udc80"])
    async def test_names_are_any_text(self, store: SessionRouteStore, name: str) -> None:
        route = await created(store, f"id{name}", service=name, instance=name)
        assert route[:4] == (f"id{name}", name, name, 1)
        assert (await validated(store, f"id{name}", service=name) or route)[:4] == route[:4]
        assert [found[:4] for found in await asked(store.active(service=name, instance=name))] == [route[:4]]
        assert await asked(store.figures()) == {name: {name: 1}}
        assert await asked(store.end(f"id{name}", service=name)) == 1
        assert await asked(store.figures()) == {}

    @pytest.mark.asyncio
    @pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
    async def test_what_is_no_time_to_live_is_refused(self, store: SessionRouteStore, ttl: float) -> None:
        with pytest.raises(ValueError, match="the seconds that a route lives"):
            await created(store, "s1", ttl=ttl)
        with pytest.raises(ValueError, match="the seconds that a route lives"):
            await validated(store, "s1", ttl=ttl)
        with pytest.raises(ValueError, match="the seconds that a route lives"):
            await updated(store, "s1", instance="billing-1", version=1, ttl=ttl)
        assert await validated(store, "s1") is None

    # Time

    @pytest.mark.asyncio
    async def test_a_route_ends_when_its_time_is_over_and_another_may_be_made(self, store: SessionRouteStore) -> None:
        await created(store, "s1", instance="billing-1", ttl=SHORT)
        await self.elapse(SHORT)
        assert await validated(store, "s1") is None
        assert await validated(store, "s1", ttl=LONG) is None
        assert await updated(store, "s1", instance="billing-2", version=1) is None
        assert await ids(store) == []
        assert await asked(store.figures()) == {}
        assert await asked(store.end("s1")) == 0
        assert (await created(store, "s1", instance="billing-2"))[2:4] == ("billing-2", 1)

    @pytest.mark.asyncio
    async def test_one_route_of_a_session_ends_while_another_goes_on(self, store: SessionRouteStore) -> None:
        await created(store, "s1", service="billing", ttl=SHORT)
        await created(store, "s1", service="search", instance="search-1", ttl=LONG)
        await self.elapse(SHORT)
        assert await validated(store, "s1", service="billing") is None
        assert await validated(store, "s1", service="search") is not None
        assert await asked(store.end("s1")) == 1

    @pytest.mark.asyncio
    async def test_the_time_left_and_the_age_are_told_as_they_pass(self, store: SessionRouteStore) -> None:
        await created(store, "s1", ttl=LONG)
        await self.elapse(SHORT)
        route = await validated(store, "s1")
        assert route is not None
        assert LONG - LEEWAY < route.expires_in <= LONG - SHORT
        assert SHORT <= route.age < LEEWAY
        [listed] = await asked(store.active())
        assert listed.expires_in <= LONG - SHORT
        assert listed.age >= SHORT

    @pytest.mark.asyncio
    async def test_a_look_changes_nothing_and_a_look_with_a_time_begins_that_anew(
        self, store: SessionRouteStore
    ) -> None:
        await created(store, "s1", ttl=LONG)
        assert await validated(store, "s1") == (*("s1", "billing", "billing-1", 1), about(LONG), about(0))
        for ttl in (3 * LONG, LONG / 2):
            assert await validated(store, "s1", ttl=ttl) == (*("s1", "billing", "billing-1", 1), about(ttl), about(0))
            assert await validated(store, "s1") == (*("s1", "billing", "billing-1", 1), about(ttl), about(0))

    @pytest.mark.asyncio
    async def test_a_renewed_route_outlives_its_first_time_and_is_still_listed(self, store: SessionRouteStore) -> None:
        ttl = SHORT
        await created(store, "s1", ttl=ttl)
        while await validated(store, "s1", ttl=LONG) is None:  # real time was faster than we
            ttl *= 2
            assert ttl < LEEWAY
            await created(store, "s1", ttl=ttl)
        await self.elapse(ttl)
        assert await validated(store, "s1") is not None
        assert await asked(store.sweep()) == 0
        assert await ids(store) == ["s1"]

    @pytest.mark.asyncio
    async def test_a_shortened_route_ends_by_its_new_time(self, store: SessionRouteStore) -> None:
        await created(store, "s1", ttl=LONG)
        await validated(store, "s1", ttl=SHORT)
        await self.elapse(SHORT)
        assert await validated(store, "s1") is None
        assert await ids(store) == []

    # Changes

    @pytest.mark.asyncio
    async def test_an_update_gives_another_owner_and_counts_the_version_up(
        self, stores: Sequence[SessionRouteStore]
    ) -> None:
        await created(stores[0], "s1", instance="billing-1", ttl=LONG)
        await self.elapse(SHORT)
        for version in (1, 2, 3):
            route = await updated(stores[-1], "s1", instance=f"other-{version}", version=version, ttl=2 * LONG)
            assert route == ("s1", "billing", f"other-{version}", version + 1, about(2 * LONG), about(SHORT))
            assert route is not None
            assert route.age >= SHORT, "the age is the route's, not the owner's"
            assert (await validated(stores[0], "s1") or ())[2:4] == (f"other-{version}", version + 1)

    @pytest.mark.asyncio
    async def test_an_update_of_another_version_or_of_no_route_changes_nothing(self, store: SessionRouteStore) -> None:
        assert await updated(store, "s1", instance="billing-2", version=1) is None
        await created(store, "s1", instance="billing-1")
        assert await updated(store, "s1", instance="billing-2", version=1) is not None
        for stale in (1, 0, 3):
            assert await updated(store, "s1", instance="billing-3", version=stale) is None
        assert (await validated(store, "s1") or ())[2:4] == ("billing-2", 2)

    @pytest.mark.asyncio
    async def test_of_twenty_who_update_one_version_one_wins(self, stores: Sequence[SessionRouteStore]) -> None:
        await created(stores[0], "s1")
        routes = await asyncio.gather(
            *(updated(stores[n % len(stores)], "s1", instance=f"other-{n}", version=1) for n in range(20))
        )
        [winner] = [route for route in routes if route is not None]
        assert (await validated(stores[0], "s1") or ())[2:4] == (winner.instance, 2)

    @pytest.mark.asyncio
    async def test_the_end_of_one_service_leaves_the_others(self, store: SessionRouteStore) -> None:
        for service in ("billing", "search", "mail"):
            await created(store, "s1", service=service)
            await created(store, "s2", service=service)
        assert await asked(store.end("s1", service="search")) == 1
        assert await asked(store.end("s1", service="search")) == 0
        assert await validated(store, "s1", service="search") is None
        assert await validated(store, "s1", service="mail") is not None
        assert await asked(store.end("s1")) == 2
        assert await asked(store.end("s1")) == 0
        assert await ids(store, service="mail") == ["s2"]
        assert await asked(store.figures()) == {name: {"billing-1": 1} for name in ("billing", "search", "mail")}

    @pytest.mark.asyncio
    async def test_a_route_that_was_ended_may_be_made_again(self, store: SessionRouteStore) -> None:
        await created(store, "s1", instance="billing-1")
        await updated(store, "s1", instance="billing-2", version=1)
        await asked(store.end("s1"))
        assert (await created(store, "s1", instance="billing-3"))[2:4] == ("billing-3", 1)
        assert await asked(store.figures()) == {"billing": {"billing-3": 1}}

    # Lists and figures

    @pytest.mark.asyncio
    async def test_live_routes_are_listed_newest_first_and_by_service_and_instance(
        self, store: SessionRouteStore
    ) -> None:
        for number in range(6):
            service = "billing" if number % 2 else "search"
            await created(store, f"s{number}", service=service, instance=f"i{number % 3}")
        assert await ids(store) == ["s5", "s4", "s3", "s2", "s1", "s0"]
        assert await ids(store, most=2) == ["s5", "s4"]
        assert await ids(store, most=0) == []
        assert await ids(store, service="billing") == ["s5", "s3", "s1"]
        assert await ids(store, instance="i0") == ["s3", "s0"]
        assert await ids(store, service="billing", instance="i0") == ["s3"]
        assert await ids(store, service="billing", most=1) == ["s5"]
        assert await ids(store, service="nobody") == []
        [route] = await asked(store.active(service="search", instance="i1"))
        assert route == ("s4", "search", "i1", 1, about(LONG), about(0))

    @pytest.mark.asyncio
    async def test_lists_and_figures_follow_changes(self, store: SessionRouteStore) -> None:
        await created(store, "s1")
        await created(store, "s2")
        await updated(store, "s1", instance="billing-2", version=1)
        assert await ids(store, instance="billing-2") == ["s1"]
        assert await ids(store) == ["s2", "s1"]
        assert await asked(store.figures()) == {"billing": {"billing-1": 1, "billing-2": 1}}
        await asked(store.end("s2"))
        assert await ids(store) == ["s1"]
        assert await asked(store.figures()) == {"billing": {"billing-2": 1}}

    @pytest.mark.asyncio
    async def test_what_one_worker_changes_the_others_list(self, stores: Sequence[SessionRouteStore]) -> None:
        for number, store in enumerate(stores):
            await created(store, f"s{number}", instance="billing-1")
        everybody = {f"s{number}" for number in range(len(stores))}
        for store in stores:

            async def lists_all(store: SessionRouteStore = store) -> bool:
                return set(await ids(store)) == everybody

            await eventually(lists_all)
            assert await asked(store.figures()) == {"billing": {"billing-1": len(stores)}}

    @pytest.mark.asyncio
    async def test_more_than_a_thousand_routes_are_looked_through(self, store: SessionRouteStore) -> None:
        total = 2_300
        await asyncio.gather(
            *(
                created(store, f"s{number}", instance="rare" if number % 1_000 == 1 else "usual")
                for number in range(total)
            )
        )
        assert await asked(store.figures()) == {"billing": {"rare": 3, "usual": total - 3}}
        assert sorted(await ids(store, instance="rare")) == ["s1", "s1001", "s2001"]
        listed = await ids(store, most=total + 1)
        assert len(listed) == len(set(listed)) == total
        assert len(await ids(store)) == 1_000

    @pytest.mark.asyncio
    async def test_a_sweep_clears_away_what_ran_out_and_nothing_else(self, store: SessionRouteStore) -> None:
        for id in ("long", *(f"short{number}" for number in range(5))):
            await created(store, id, ttl=LONG)
        assert await asked(store.sweep()) == 0
        for number in range(5):
            await validated(store, f"short{number}", ttl=SHORT)
        await self.elapse(SHORT)
        assert await asked(store.figures()) == {"billing": {"billing-1": 1}}
        assert await asked(store.sweep(most=2)) == 2
        assert await asked(store.sweep()) == 3
        assert await asked(store.sweep()) == 0
        assert await asked(store.figures()) == {"billing": {"billing-1": 1}}
        assert await ids(store) == ["long"]
        assert await validated(store, "long") is not None

    @pytest.mark.asyncio
    async def test_several_questions_may_be_asked_before_the_first_is_awaited(self, store: SessionRouteStore) -> None:
        first, second = (store.create(id, service="billing", instance="billing-1", ttl=LONG) for id in ("s1", "s2"))
        found, ended, gone = store.validate("s1", service="billing"), store.end("s1"), store.end("s1")
        assert [(await asked(route))[:4] for route in (first, second)] == [
            (id, "billing", "billing-1", 1) for id in ("s1", "s2")
        ]
        assert cast("SessionRoute", await asked(found)).id == "s1"
        assert (await asked(ended), await asked(gone)) == (1, 0)
