"""Several who push one item at once, services that hang, and a leader whose time is over: the status stays true."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.state.houses import House, Open
from tests.state.test_pushes import Clock
from traffic_cop_middleware import Pushed
from traffic_cop_middleware.abstractions.state import synchronisation
from traffic_cop_middleware.contracts import StateKey

pytestmark = pytest.mark.asyncio


class Held:
    """A service whose answers the test gives, in the order that it likes."""

    def __init__(self) -> None:
        self.asked: list[tuple[Pushed, asyncio.Future[None]]] = []

    async def __call__(self, pushed: Pushed) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append((pushed, answer))
        await answer

    async def waits_for(self, count: int) -> None:
        end = asyncio.get_running_loop().time() + 30
        while len(self.asked) < count:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.005)

    def says(self, number: int, failure: Exception | None = None) -> None:
        answer = self.asked[number][1]
        if failure is None:
            answer.set_result(None)
        else:
            answer.set_exception(failure)


async def two_pushes(house: House, held: Held) -> tuple[asyncio.Task[Any], asyncio.Task[Any], int, int]:
    """Two pushes that are under way, of two versions."""
    first = await house.state.put("orders", "7", 1)
    one = asyncio.create_task(house.state.push("orders", "7", to="billing"))
    await held.waits_for(1)
    second = await house.state.put("orders", "7", 2)
    other = asyncio.create_task(house.state.push("orders", "7", to="billing"))
    await held.waits_for(2)
    return one, other, first.version, second.version


async def test_an_older_version_that_was_taken_does_not_hide_that_a_newer_one_was_not(opened: Open) -> None:
    held, clock = Held(), Clock()
    async with opened(services={"billing": held}, now=clock) as house:
        one, other, _, newer = await two_pushes(house, held)
        held.says(1, OSError("away"))
        await other
        held.says(0)
        await one
        (push,) = await house.state.pushes("orders", "7")
        assert (push.status, push.version) == ("pending", newer)
        clock.seconds += 1000
        trying = asyncio.create_task(house.pushes.retry())
        await held.waits_for(3)
        assert held.asked[2][0].value == 2
        held.says(2)
        assert await trying == 1
        (push,) = await house.state.pushes("orders", "7")
        assert (push.status, push.version) == ("done", newer)


@pytest.mark.parametrize("failure", [OSError("away"), ValueError("refused")])
async def test_a_late_failure_of_an_older_version_does_not_take_back_that_a_newer_one_was_taken(
    failure: Exception, opened: Open
) -> None:
    held, clock = Held(), Clock()
    async with opened(services={"billing": held}, now=clock) as house:
        one, other, _, newer = await two_pushes(house, held)
        held.says(1)
        await other
        held.says(0, failure)
        (told,) = await one
        (push,) = await house.state.pushes("orders", "7")
        assert told == push
        assert (push.status, push.version) == ("done", newer)
        clock.seconds += 10_000
        assert await house.pushes.retry() == 0


async def test_a_late_failure_of_the_same_version_does_not_take_back_that_it_was_taken(opened: Open) -> None:
    held = Held()
    async with opened(services={"billing": held}) as house:
        await house.state.put("orders", "7", 1)
        pushes = [asyncio.create_task(house.state.push("orders", "7", to="billing")) for _ in range(2)]
        await held.waits_for(2)
        held.says(1)
        held.says(0, OSError("the reply was lost"))
        await asyncio.gather(*pushes)
        (push,) = await house.state.pushes("orders", "7")
        assert push.status == "done"


async def test_a_push_that_begins_while_another_one_ends_is_tried_again_all_the_same(opened: Open) -> None:
    held, clock = Held(), Clock()
    async with opened(services={"billing": held}, now=clock) as house:
        one, other, *_ = await two_pushes(house, held)
        held.says(0)
        await one
        other.cancel()  # its process dies while the service is asked
        await asyncio.wait([other])
        clock.seconds += 1000
        trying = asyncio.create_task(house.pushes.retry())
        await held.waits_for(3)
        held.says(2)
        assert await trying == 1


async def test_a_service_that_hangs_is_given_up_and_holds_up_no_other(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synchronisation, "PATIENCE", 0.3)
    clock, taken = Clock(), asyncio.Event()

    async def hangs(pushed: Pushed) -> None:
        await asyncio.Event().wait()

    async def takes(pushed: Pushed) -> None:
        if not taken.is_set():
            taken.set()
            raise OSError("not yet")

    async with opened(services={"hangs": hangs, "takes": takes}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        first = await house.state.push("orders", "7", to=["hangs", "takes"])
        assert [(push.status, push.reason) for push in first] == [
            ("pending", "no answer within 0.3 s"),
            ("pending", "OSError: not yet"),
        ]
        monkeypatch.setattr(synchronisation, "PATIENCE", 600.0)
        clock.seconds += 1000
        trying = asyncio.create_task(house.pushes.retry())
        end = asyncio.get_running_loop().time() + 30
        while [push.status for push in await house.state.pushes("orders", "7")] != ["pending", "done"]:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)
        trying.cancel()
        await asyncio.wait([trying])


async def test_a_mark_that_is_younger_than_its_note_does_not_keep_a_push_from_being_tried(opened: Open) -> None:
    """On a cluster the two are timed by the clocks of two nodes."""
    held, clock = Held(), Clock()
    async with opened(services={"billing": held}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        pushing = asyncio.create_task(house.state.push("orders", "7", to="billing"))
        await held.waits_for(1)
        held.says(0, OSError("away"))
        await pushing
        page = await house.house.list("", synchronisation.DUE, prefix="", after=None, most=10)
        (mark,) = page.items
        await house.house.writer.write(mark.key, "1", tier=mark.tier, expires_at=mark.expires_at)
        clock.seconds += 1000
        trying = asyncio.create_task(house.pushes.retry())
        await held.waits_for(2)
        held.says(1)
        assert await trying == 1
        (push,) = await house.state.pushes("orders", "7")
        assert push.status == "done"


async def test_a_leader_that_was_followed_writes_down_nothing_more(opened: Open) -> None:
    held, clock = Held(), Clock()
    async with opened(services={"billing": held}, now=clock) as house:
        await house.state.put("orders", "7", 1)
        pushing = asyncio.create_task(house.state.push("orders", "7", to="billing"))
        await held.waits_for(1)
        held.says(0, OSError("away"))
        await pushing
        clock.seconds += 1000
        stale = asyncio.create_task(house.pushes.retry(token=5))
        await held.waits_for(2)
        clock.seconds += 1000
        following = asyncio.create_task(house.pushes.retry(token=6))
        await held.waits_for(3)
        held.says(2, OSError("as the one who leads heard it"))
        await following
        held.says(1, ValueError("as the one before heard it"))
        await stale
        (push,) = await house.state.pushes("orders", "7")
        assert (push.status, push.reason) == ("pending", "OSError: as the one who leads heard it")
        clock.seconds += 1000
        again = asyncio.create_task(house.pushes.retry(token=6))
        await held.waits_for(4)
        held.says(3)
        await again
        (push,) = await house.state.pushes("orders", "7")
        assert push.status == "done"


async def test_an_item_of_which_nothing_is_left_is_pushed_as_deleted_under_a_newer_version(opened: Open) -> None:
    held = Held()
    async with opened(services={"billing": held}) as house:
        put = await house.state.put("orders", "7", 1, ttl=1000)
        pushing = asyncio.create_task(house.state.push("orders", "7", to="billing"))
        await held.waits_for(1)
        held.says(0)
        await pushing
        assert held.asked[0][0].expires_at == put.expires_at
        forgotten = house.store.forget(StateKey("", "orders", "7"), version=put.version)
        if forgotten is not None:
            await forgotten
        house.house.reader.close()
        pushing = asyncio.create_task(house.state.push("orders", "7", to="billing"))
        await held.waits_for(2)
        held.says(1)
        (push,) = await pushing
        pushed = held.asked[1][0]
        assert pushed.deleted
        assert pushed.version > put.version
        assert push.status == "done"
