"""What every `Outbox` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import pytest

from traffic_cop_middleware.contracts import Item, Outbox, Pending, StateKey
from traffic_cop_middleware.contracts.state import MOST_HOT

FAR = 3600.0
"""Seconds that no test comes to the end of."""


class Filling(Protocol):
    """An empty outbox, and how something gets into it."""

    @property
    def outboxes(self) -> Sequence[Outbox]:
        """The one outbox, as several workers have it."""
        ...

    async def put(self, item: Item) -> Item:
        """Put an item in. Gives it as the store has it: with another version, or time, where the store decides."""
        ...


def item(key: str, value: str | None = "1", *, version: int = 1, expires_at: float | None = None) -> Item:
    return Item(StateKey("acme", "cart", key), version, value, "delayed", 1_000.0, expires_at, named=True)


async def claim(outbox: Outbox, worker: str = "one", *, most: int = 100, idle: float = FAR) -> Sequence[Pending]:
    return await outbox.claim(worker, most=most, idle=idle)


async def claim_all(outbox: Outbox, worker: str = "one", *, most: int = 100) -> list[Pending]:
    """Everything that is new, claimed as often as needed."""
    found: list[Pending] = []
    for _ in range(10_000):
        some = await claim(outbox, worker, most=most)
        assert len(some) <= most
        if not some:
            return found
        found += some
    raise AssertionError("no end")


class OutboxContract:
    """Every promise of `Outbox`, on what a subclass gives.

    Needs pytest-asyncio. Give a fixture `filling`, and where the outbox has a fake clock a fixture `elapse` that lets
    seconds pass on it::

        class TestMyOutbox(OutboxContract):
            @pytest.fixture
            def filling(self) -> Filling:
                return MyFilling()
    """

    @pytest.fixture
    def outbox(self, filling: Filling) -> Outbox:
        return filling.outboxes[0]

    @pytest.fixture
    def elapse(self) -> Callable[[float], Awaitable[None]]:
        """Lets seconds pass on the outbox's clock."""
        return asyncio.sleep

    async def claim_again(
        self, outbox: Outbox, number: int, elapse: Callable[[float], Awaitable[None]], worker: str = "two"
    ) -> list[Pending]:
        """So many entries that were claimed before, as soon as they are nobody's any more."""
        found: dict[str, Pending] = {}
        for _ in range(3_000):
            await elapse(0.01)
            found |= {entry.id: entry for entry in await claim(outbox, worker, idle=0.005)}
            if len(found) >= number:
                return list(found.values())
        raise AssertionError(f"{len(found)} of {number}")

    @pytest.mark.asyncio
    async def test_an_empty_outbox_gives_nothing(self, outbox: Outbox) -> None:
        assert list(await claim(outbox)) == []
        assert await outbox.waiting() == 0
        assert list(await outbox.dead()) == []
        assert await outbox.revive([]) == 0
        await outbox.settle([])

    @pytest.mark.asyncio
    async def test_what_was_put_in_is_claimed_once_and_waits_until_it_is_settled(self, filling: Filling) -> None:
        first, other = filling.outboxes[0], filling.outboxes[-1]
        put = [await filling.put(item(f"k{number}", str(number))) for number in range(10)]
        assert await other.waiting() == 10
        claimed = await claim_all(first)
        assert sorted(entry.item for entry in claimed) == sorted(put)
        assert len({entry.id for entry in claimed}) == 10
        assert {entry.tries for entry in claimed} == {0}
        assert list(await claim(other)) == []
        assert await other.waiting() == 10
        await other.settle(claimed[:4])
        assert await first.waiting() == 6
        await first.settle(claimed)
        assert await first.waiting() == 0

    @pytest.mark.asyncio
    async def test_a_deletion_waits_as_an_item_without_a_value(self, filling: Filling, outbox: Outbox) -> None:
        gone = await filling.put(item("a", None))
        assert gone.value is None
        assert [entry.item for entry in await claim(outbox)] == [gone]

    @pytest.mark.asyncio
    async def test_what_was_never_settled_comes_again_to_whoever_claims(
        self, filling: Filling, elapse: Callable[[float], Awaitable[None]]
    ) -> None:
        first, other = filling.outboxes[0], filling.outboxes[-1]
        put = [await filling.put(item(key)) for key in "abc"]
        lost = {entry.id: entry for entry in await claim_all(first)}
        again = await self.claim_again(other, 3, elapse)
        assert sorted(entry.item for entry in again) == sorted(put)
        assert {entry.id for entry in again} == set(lost)
        assert all(entry.tries >= 1 for entry in again)
        await other.settle(again)
        assert await first.waiting() == 0
        await first.settle(list(lost.values()))
        await elapse(0.01)
        assert list(await claim(first, idle=0.005)) == []

    @pytest.mark.asyncio
    async def test_tries_count_how_often_an_entry_was_claimed_before(
        self, filling: Filling, outbox: Outbox, elapse: Callable[[float], Awaitable[None]]
    ) -> None:
        await filling.put(item("a"))
        (entry,) = await claim(outbox)
        tries = [entry.tries]
        for _ in range(3):
            tries += [entry.tries for entry in await self.claim_again(outbox, 1, elapse)]
        assert tries == [0, 1, 2, 3]

    @pytest.mark.asyncio
    async def test_an_item_is_claimed_at_its_newest_version(self, filling: Filling, outbox: Outbox) -> None:
        for version in (1, 2, 3):
            newest = await filling.put(item("a", str(version), version=version))
        other = await filling.put(item("b"))
        claimed = await claim_all(outbox)
        assert {entry.item for entry in claimed} == {newest, other}
        await outbox.settle(claimed)
        assert await outbox.waiting() == 0
        assert list(await claim(outbox)) == []

    @pytest.mark.asyncio
    async def test_what_is_written_while_an_older_version_is_flushed_waits_on(
        self, filling: Filling, outbox: Outbox
    ) -> None:
        await filling.put(item("a", "1", version=1))
        flushing = await claim(outbox)
        newest = await filling.put(item("a", "2", version=2))
        await outbox.settle(flushing)
        assert await outbox.waiting() == 1
        claimed = await claim(outbox)
        assert [entry.item for entry in claimed] == [newest]
        await outbox.settle(claimed)
        assert await outbox.waiting() == 0

    @pytest.mark.asyncio
    @pytest.mark.parametrize("most", [1, 3, 40, 1000])
    async def test_no_more_than_asked_for_are_claimed_and_all_in_the_end(
        self, filling: Filling, outbox: Outbox, most: int
    ) -> None:
        put = [await filling.put(item(f"k{number}")) for number in range(100)]
        claimed = await claim_all(outbox, most=most)
        assert sorted(entry.item for entry in claimed) == sorted(put)

    @pytest.mark.asyncio
    async def test_workers_that_claim_at_once_share_the_entries(self, filling: Filling) -> None:
        put = [await filling.put(item(f"k{number}")) for number in range(120)]
        shares = await asyncio.gather(
            *(claim_all(outbox, f"worker {number}", most=7) for number, outbox in enumerate(filling.outboxes))
        )
        entries = [entry for share in shares for entry in share]
        assert len({entry.id for entry in entries}) == len(entries)
        assert sorted(entry.item for entry in entries) == sorted(put)
        await asyncio.gather(*(box.settle(share) for box, share in zip(filling.outboxes, shares, strict=True)))
        assert await filling.outboxes[0].waiting() == 0

    @pytest.mark.asyncio
    async def test_a_buried_entry_waits_no_longer_and_is_kept_with_its_reason(self, filling: Filling) -> None:
        outbox, other = filling.outboxes[0], filling.outboxes[-1]
        put = [await filling.put(item(key)) for key in "abc"]
        by_key = {entry.item.key.key: entry for entry in await claim_all(outbox)}
        for key in "ba":
            await outbox.bury(by_key[key], f"no room for {key} 🚓")
        await outbox.settle([by_key["c"]])
        assert await other.waiting() == 0
        dead = await other.dead()
        assert [(entry.item, reason) for entry, reason in dead] == [
            (put[1], "no room for b 🚓"),
            (put[0], "no room for a 🚓"),
        ]
        assert [entry.item for entry, _ in await other.dead(most=1)] == [put[1]]
        assert list(await claim(other, idle=0)) == []

    @pytest.mark.asyncio
    async def test_a_revived_entry_is_claimed_again(self, filling: Filling) -> None:
        outbox, other = filling.outboxes[0], filling.outboxes[-1]
        put = await filling.put(item("a"))
        stays = await filling.put(item("b"))
        for entry in await claim_all(outbox):
            await outbox.bury(entry, "for now")
        dead = await outbox.dead()
        (id,) = [entry.id for entry, _ in dead if entry.item == put]
        assert await other.revive([id]) == 1
        assert await other.revive([id]) == 0
        assert [entry.item for entry, _ in await outbox.dead()] == [stays]
        assert await outbox.waiting() == 1
        claimed = await claim(outbox)
        assert [entry.item for entry in claimed] == [put]
        await outbox.settle(claimed)
        assert await outbox.waiting() == 0

    @pytest.mark.asyncio
    async def test_what_was_settled_or_buried_before_is_not_buried_again(
        self, filling: Filling, outbox: Outbox
    ) -> None:
        await filling.put(item("a"))
        await filling.put(item("b"))
        first, second = await claim_all(outbox)
        await outbox.settle([first])
        await outbox.bury(first, "too late")
        await outbox.bury(second, "once")
        await outbox.bury(second, "twice")
        await outbox.settle([first])
        assert [reason for _, reason in await outbox.dead()] == ["once"]
        assert await outbox.waiting() == 0

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["x" * 512, "ü" * 256, "two\r\nlines {and} braces", "lone \udc80"])
    async def test_any_word_and_value_goes_through(self, filling: Filling, outbox: Outbox, word: str) -> None:
        put = await filling.put(Item(StateKey(word, word, word), 1, f'{word}" \0 🚓', "immediate", 1_000.0, named=True))
        claimed = await claim(outbox)
        assert [entry.item for entry in claimed] == [put]
        await outbox.bury(claimed[0], word)
        assert [(entry.item, reason) for entry, reason in await outbox.dead()] == [(put, word)]

    @pytest.mark.asyncio
    async def test_values_that_wait_for_their_files_come_in_the_end(self, filling: Filling, outbox: Outbox) -> None:
        put = [
            await filling.put(item(f"k{number}", str(number) * size))
            for number, size in enumerate([2_000_000] * 9 + [1])
        ]
        put += [await filling.put(item("largest", "x" * MOST_HOT)), await filling.put(item("pointer", '@{"file":"f"}'))]
        claimed = await claim_all(outbox)
        assert sorted(entry.item for entry in claimed) == sorted(put)
        assert {entry.tries for entry in claimed} == {0}
        await outbox.settle(claimed)
        assert await outbox.waiting() == 0

    @pytest.mark.asyncio
    async def test_large_values_come_in_the_end(self, filling: Filling, outbox: Outbox) -> None:
        put = [await filling.put(item(f"k{number}", str(number % 10) * 250_000)) for number in range(40)]
        claimed = await claim_all(outbox)
        assert sorted(entry.item for entry in claimed) == sorted(put)
        await outbox.settle(claimed)
        assert await outbox.waiting() == 0
