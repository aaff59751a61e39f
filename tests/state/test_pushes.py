"""Items pushed to other services: what the status says is what happened."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.state.houses import Open, on_memory
from traffic_cop_middleware import ConfigurationError, Pushed, StateConflict, TrafficCop
from traffic_cop_middleware.abstractions.state import synchronisation

pytestmark = pytest.mark.asyncio


class Billing:
    """A service that takes items, is away, or refuses."""

    def __init__(self) -> None:
        self.taken: list[Pushed] = []
        self.failures: list[Exception] = []

    async def __call__(self, pushed: Pushed) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(pushed)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


async def test_a_service_that_takes_an_item_makes_it_done(opened: Open) -> None:
    billing = Billing()
    async with opened(services={"billing": billing}) as house:
        assert await house.state.pushes("orders", "7") == []
        put = await house.state.put("orders", "7", {"paid": True})
        (push,) = await house.state.push("orders", "7", to="billing")
        assert (push.service, push.status, push.version, push.reason) == ("billing", "done", put.version, "")
        assert billing.taken == [Pushed("", "orders", "7", put.version, {"paid": True}, False)]
        assert list(await house.state.pushes("orders", "7")) == [push]
        deleted = await house.state.delete("orders", "7")
        assert deleted
        await house.state.push("orders", "7", to=["billing"])
        assert billing.taken[-1].deleted
        assert billing.taken[-1].value is None


async def test_a_service_that_is_away_gets_the_newest_version_when_it_is_back(opened: Open) -> None:
    billing, clock = Billing(), Clock()
    billing.failures = [OSError("no route to host"), OSError("no route to host")]
    async with opened(services={"billing": billing}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        (push,) = await house.state.push("orders", "7", to="billing")
        assert (push.status, push.reason) == ("pending", "OSError: no route to host")
        second = await house.state.put("orders", "7", 2)
        assert await house.pushes.retry() == 0, "it is not due yet"
        clock.seconds += 2
        assert await house.pushes.retry() == 1
        assert [each.status for each in await house.state.pushes("orders", "7")] == ["pending"]
        clock.seconds += 3
        assert await house.pushes.retry() == 1
        (push,) = await house.state.pushes("orders", "7")
        assert (push.status, push.version, push.tries) == ("done", second.version, 3)
        assert [pushed.value for pushed in billing.taken] == [2]
        clock.seconds += 10_000
        assert await house.pushes.retry() == 0


@pytest.mark.parametrize(
    "refusal", [ValueError("no such customer"), StateConflict("newer here", expected=1, current=2)]
)
async def test_a_refusal_is_told_and_not_tried_again(refusal: Exception, opened: Open) -> None:
    billing, clock = Billing(), Clock()
    billing.failures = [refusal]
    async with opened(services={"billing": billing}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        (push,) = await house.state.push("orders", "7", to="billing")
        assert (push.status, push.reason) == ("failed", f"refused: {refusal}")
        clock.seconds += 10_000
        assert await house.pushes.retry() == 0
        (push,) = await house.state.push("orders", "7", to="billing")
        assert push.status == "done"


async def test_after_so_many_tries_a_push_has_failed_with_the_reason(opened: Open) -> None:
    billing, clock = Billing(), Clock()
    billing.failures = [OSError("down")] * 1000
    async with opened(services={"billing": billing}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        await house.state.push("orders", "7", to="billing")
        for _ in range(2 * synchronisation.TRIES):
            clock.seconds += 1000
            await house.pushes.retry()
        (push,) = await house.state.pushes("orders", "7")
        assert (push.status, push.tries, push.reason) == ("failed", synchronisation.TRIES, "OSError: down")


async def test_a_push_that_a_crash_cut_off_is_pending_and_is_tried_by_the_next_process(opened: Open) -> None:
    clock = Clock()

    asked = asyncio.Event()

    async def never(pushed: Pushed) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with opened(services={"billing": never}, now=clock) as house:
        await house.state.put("orders", "7", 1, tier="immediate")
        pushing = asyncio.create_task(house.state.push("orders", "7", to="billing"))
        await asked.wait()
        pushing.cancel()
        await asyncio.wait([pushing])
        await house.flush()
    billing = Billing()
    clock.seconds += 2
    async with opened(services={"billing": billing}, now=clock) as house:
        assert [push.status for push in await house.state.pushes("orders", "7")] == ["pending"]
        assert await house.pushes.retry() == 1
        assert [push.status for push in await house.state.pushes("orders", "7")] == ["done"]
        assert [pushed.value for pushed in billing.taken] == [1]


async def test_the_other_side_takes_the_last_value_merges_or_says_what_conflicts() -> None:
    async with on_memory() as here:
        first = Pushed("", "orders", "7", 100, {"a": 1, "b": 1}, False)
        taken = await here.state.take_over(first)
        assert taken is not None
        assert taken.value == {"a": 1, "b": 1}
        again = await here.state.take_over(first)
        assert again is not None
        assert again.version == taken.version, "what comes twice changes nothing"
        await here.state.patch("orders", "7", {"c": "ours"})
        with pytest.raises(StateConflict) as caught:
            await here.state.take_over(first._replace(version=101, value={"a": 2}), how="strict")
        current: Any = caught.value.current
        assert current.value == {"a": 1, "b": 1, "c": "ours"}
        assert caught.value.expected == taken.version
        merged = await here.state.take_over(first._replace(version=102, value={"a": 2, "b": None}), how="merge")
        assert merged is not None
        assert merged.value == {"a": 2, "c": "ours"}
        late = await here.state.take_over(first._replace(version=101, value={"a": 9}))
        assert late is not None
        assert late.value == {"a": 2, "c": "ours"}
        assert await here.state.take_over(first._replace(version=103, value=None, deleted=True)) is None
        assert await here.state.get("orders", "7") is None


async def test_an_item_of_another_tenant_is_not_taken_over_and_an_unknown_service_is_named() -> None:
    async with on_memory(services={"billing": Billing()}) as house:
        with pytest.raises(ConfigurationError, match="of the tenant 'acme'"):
            await house.state.take_over(Pushed("acme", "orders", "7", 1, 1, False))
        with pytest.raises(ConfigurationError, match="there is 'billing'"):
            await house.state.push("orders", "7", to="biling")
        with pytest.raises(ConfigurationError, match="'last', 'merge' or 'strict'"):
            await house.state.take_over(Pushed("", "orders", "7", 1, 1, False), how="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("services", [{"billing": print}, {"": Billing()}, {3: Billing()}, [Billing()]])
async def test_what_is_no_service_is_refused_when_the_cop_is_made(services: Any) -> None:
    with pytest.raises(ConfigurationError, match="state_services"):
        TrafficCop(state_services=services)
