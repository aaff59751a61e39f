"""Token buckets in a Redis Cluster: a script call per slot, and give-backs where a request's buckets lie in several.

Theory of operation. What lies in one slot is taken as on a single server (buckets.py). A request whose buckets lie in
several slots takes in all of them at once; where one refuses, fails, or holds a guard that does not hold, the others
get back what they gave (give.lua). So between the two, within about a round trip, others may be refused for tokens that
come back: a refusal does not stand until its wait is over (`gives_back`).

Invariant. A bucket admits at most burst + rate * window. A give-back that is lost, or a taking whose answer is, only
makes that less.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from traffic_cop_middleware.adapters.redis.buckets import GROUPS_PER_CALL, Call, Group, RedisBuckets
from traffic_cop_middleware.adapters.redis.calls import Script
from traffic_cop_middleware.adapters.redis.cluster_link import ClusterLink
from traffic_cop_middleware.adapters.redis.cluster_slots import slot_of
from traffic_cop_middleware.contracts import MICRO, Take, Taken
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

GIVE = Script("give.lua")


class Part(asyncio.Future[Taken]):
    """What one slot says of its part of a request, and when on its node's clock (microseconds)."""

    stamp: int = 0


class PartCall(Call):
    """A call that tells parts when it ran."""

    __slots__ = ()

    def resolve(self, reply: Any) -> None:
        if isinstance(reply, list):
            for group in self._groups:
                if isinstance(group.future, Part):
                    group.future.stamp = reply[-1]
        super().resolve(reply)


class ClusterBuckets(RedisBuckets):
    """`BucketStore` on a Redis Cluster. Keys get the prefix `<namespace>:b:`."""

    gives_back = True

    def __init__(self, link: ClusterLink, *, namespace: str) -> None:
        super().__init__(link, namespace=namespace)
        self._cluster = link

    def forget(self, keys: Sequence[str]) -> asyncio.Future[Any]:
        return asyncio.gather(*(self._link.ask("DEL", self._prefix + key) for key in keys))

    def _emit(self) -> None:
        groups, self._groups = self._groups, []
        self.send([group for group in groups if not group.future.cancelled()], self._now, self._expires)

    def send(self, groups: Sequence[Group], now: str, expires: float) -> None:
        """Take for all of `groups`: a call for each slot."""
        by_slot: dict[int, list[Group]] = defaultdict(list)
        for group in groups:
            slots = {self.slot_of(take) for take in group.takes}
            if group.guard is not None:
                slots.add(slot_of(self._guard_prefix + group.guard.record))
                slots.update(self.slot_of(take) for take in group.guard.otherwise)
            if len(slots) == 1:
                by_slot[slots.pop()].append(group)
            elif not slots:
                group.future.set_result(Taken(True, []))
            else:
                for slot, part in self._split(group, now, expires):
                    by_slot[slot].append(part)
        for its in by_slot.values():
            for start in range(0, len(its), GROUPS_PER_CALL):
                some = its[start : start + GROUPS_PER_CALL]
                PartCall(self._link, some, self._pack(some, now), expires).send()

    def _split(self, group: Group, now: str, expires: float) -> Iterator[tuple[int, Group]]:
        split = Split(self, group, now, expires)
        away = [slot for slot in split.slots if not self._cluster.reachable(slot)]
        if away:
            group.future.set_exception(StoreUnavailable(f"the node of slot {away[0]} is not reachable at present"))
        else:
            yield from split.begin(self._link.loop)

    def slot_of(self, take: Take) -> int:
        return slot_of(self._prefix + take.key)

    def guard_slot(self, group: Group) -> int | None:
        return None if group.guard is None else slot_of(self._guard_prefix + group.guard.record)

    def give_back(self, takes: Sequence[Take], stamp: int, now: str) -> None:
        """Give back what was taken from buckets of one slot at `stamp`. Nobody waits for it."""
        keys = [self._prefix + take.key for take in takes]
        arguments: list[str | int | float] = [now]
        for take in takes:
            arguments += (stamp, take.rate, take.cost)
        with contextlib.suppress(StoreError):  # lost, like one that is lost on the way
            GIVE.ask(self._link, keys, arguments).add_done_callback(_let_go)


class Split:
    """A request whose buckets lie in several slots."""

    def __init__(self, store: ClusterBuckets, group: Group, now: str, expires: float) -> None:
        self._store = store
        self._group = group
        self._now = now
        self._expires = expires
        self._guarding = store.guard_slot(group)
        self.slots: dict[int, list[int]] = {} if self._guarding is None else {self._guarding: []}
        """The places of a slot's takes among all; the guard's slot is there also where no bucket lies beside it."""
        for place, take in enumerate(group.takes):
            self.slots.setdefault(store.slot_of(take), []).append(place)
        self._parts: dict[int, Part] = {}
        self._missing = len(self.slots)

    def begin(self, loop: asyncio.AbstractEventLoop) -> Iterator[tuple[int, Group]]:
        """What is to be taken in each slot."""
        guard = self._group.guard
        for slot in self.slots:
            part = self._parts[slot] = Part(loop=loop)
            part.add_done_callback(self._heard)
            held_here = guard._replace(otherwise=()) if guard is not None and slot == self._guarding else None
            yield slot, Group(self._takes(slot), held_here, part)

    def _takes(self, slot: int) -> list[Take]:
        return [self._group.takes[place] for place in self.slots[slot]]

    def _heard(self, part: asyncio.Future[Taken]) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._settle()

    def _settle(self) -> None:
        errors = [error for part in self._parts.values() if (error := part.exception()) is not None]
        taken = {slot: part.result() for slot, part in self._parts.items() if part.exception() is None}
        held = self._guarding is None or self._guarding not in taken or taken[self._guarding].guard_held
        admitted = held and not errors and all(its.admitted for its in taken.values())
        if not admitted:
            self._give_back(taken)
        future = self._group.future
        if future.done():
            return
        if not held:
            self._take_otherwise()
        elif errors:
            future.set_exception(errors[0])
        else:
            future.set_result(Taken(admitted, self._answers(taken, admitted)))

    def _give_back(self, taken: dict[int, Taken]) -> None:
        for slot, its in taken.items():
            takes = [take for take in self._takes(slot) if take.cost > 0]
            if its.admitted and its.guard_held and takes:
                self._store.give_back(takes, self._parts[slot].stamp, self._now)

    def _answers(self, taken: dict[int, Taken], admitted: bool) -> list[int]:
        """In the order of the takes; what was given back is no debt any more."""
        answers = [0] * len(self._group.takes)
        for slot, its in taken.items():
            for place, answer in zip(self.slots[slot], its.answers, strict=True):
                given_back = 0.0 if admitted or not its.admitted else self._group.takes[place].cost * MICRO
                answers[place] = max(0, ceil(answer - given_back)) if answer >= 0 else answer
        return answers

    def _take_otherwise(self) -> None:
        """The guard does not hold: others pay. A second round trip, within the same deadline."""
        future, guard = self._group.future, self._group.guard
        instead: asyncio.Future[Taken] = future.get_loop().create_future()

        def heard(instead: asyncio.Future[Taken]) -> None:
            error = instead.exception()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(instead.result()._replace(guard_held=False))

        instead.add_done_callback(heard)
        self._store.send([Group(guard.otherwise if guard else (), None, instead)], self._now, self._expires)


def _let_go(asked: asyncio.Future[Any]) -> None:
    """Nobody waits for it: take its error away, so that the loop does not complain."""
    if not asked.cancelled():
        asked.exception()
