"""State against a simple model, on random operations: memory and real Redis decide alike, and as the model does.

On Redis the outbox is claimed and settled in between, by workers that may vanish, and in the end the documents have the
newest version of everything that they were to get. Watchers follow by cursors that they were given at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Change, Item, Pending, StateKey, StateStore, Tier, Written
from traffic_cop_middleware.contracts.state import TIERS
from traffic_cop_middleware.testing import FakeClock

TENANT, NAMESPACE = "acme", "model"
SOON = 0.003
"""Seconds until an item of the trace may end."""

names = st.sampled_from(["a", "ab", "abc", "b", "ü", "{p01}"])
values = st.sampled_from(["1", '"x"', "{}"]) | st.none()
tiers = st.sampled_from([None, "cache", "delayed", "immediate"])
versions = st.sampled_from(["any", "its own", "older", "none"])
yes_or_no = st.booleans()
ends = st.sampled_from([None, None, SOON])
shapes = st.tuples(
    names, st.sampled_from(["1", '@{"file":"f"}', None]), st.sampled_from(TIERS), st.sampled_from([0, 0, 0, -1, 1])
)
operations = st.one_of(
    st.tuples(st.just("write"), names, values, tiers, versions, yes_or_no, ends, yes_or_no),
    st.tuples(st.just("write"), names, values, tiers, st.just("any"), st.just(True), st.none(), yes_or_no),
    st.tuples(st.just("reshape"), st.lists(shapes, min_size=1, max_size=3)),
    st.tuples(st.just("wait")),
    st.tuples(st.just("forget"), names, st.booleans()),
    st.tuples(st.just("warm"), names, values, st.sampled_from([-1, 0, 1, 1000]), yes_or_no),
    st.tuples(st.just("list"), st.sampled_from(["", "a", "ab", "ü"]), st.integers(1, 3)),
    st.tuples(st.just("follow"), st.integers(1, 4)),
    st.tuples(st.just("claim"), st.integers(1, 40), st.booleans()),
    st.tuples(st.just("flush"), st.integers(1, 4)),
)

Ask = Callable[[Any], Any]
"""Gives the answer to what was asked of a store."""


@dataclass
class Model:
    """The contract in dicts. `held` has tombstones too; what is not there is not held."""

    held: dict[str, Item] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    """The versions that the documents are to get."""
    ended: set[str] = field(default_factory=set)
    """What was seen to have ended: its tombstone is held for as long as the store likes."""
    documents: dict[str, Item] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    """The highest version of each."""
    log: list[tuple[str, int, bool]] = field(default_factory=list)


class Run:
    """A store, what it should hold, who follows it, and what is on the way to the documents."""

    def __init__(self, store: StateStore, ask: Ask, pause: Callable[[], None]) -> None:
        self.store = store
        self.ask = ask
        self.pause = pause
        self.model = Model()
        self.flights: list[Pending] = []
        self.cursor: str = ask(lambda: store.changes(TENANT, NAMESPACE)).cursor
        self.heard: list[tuple[str, int, bool]] = []

    def step(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case "write", name, value, tier, at, missing, ends, judge:
                self.write(name, value, tier, at, missing, ends, judge=judge)
            case "reshape", wanted:
                self.reshape(wanted)
            case "wait", *_:
                self.pause()
            case "forget", name, right:
                there = self.certain(name)
                version = (there.version if there else 0) + (not right)
                self.ask(lambda: self.store.forget(key(name), version=version))
                if there is not None and right and name not in self.model.queued:
                    del self.model.held[name]
                self.look(name)
            case "warm", name, value, more, named:
                there = self.certain(name)
                version = max(1, (there.version if there else self.model.used.get(name, 0)) + more)
                item = Item(key(name), version, value, "delayed", 1.0, named=named)
                self.ask(lambda: self.store.warm([item]))
                if there is None or there.version < version:
                    self.model.held[name] = item
                    self.model.ended.discard(name)
                    self.model.queued.pop(name, None)
                    self.model.used[name] = max(version, self.model.used.get(name, 0))
                self.look(name)
            case "list", prefix, most:
                self.list(prefix, most)
            case "follow", most:
                self.follow(most)
            case "claim", most, stale:
                self.claim(most, 0.0 if stale else 3600.0)
            case "flush", number:
                self.flush(number)

    def load(self, name: str) -> Item | None:
        (item,) = self.ask(lambda: self.store.load([key(name)]))
        return item

    def look(self, name: str) -> Item | None:
        """What is there. Where an item with an end is gone the store decides when that was, but not what it was."""
        item, there = self.load(name), self.model.held.get(name)
        if item != there:
            assert there is not None
            assert there.expires_at is not None or name in self.model.ended
            if item is None:
                assert name not in self.model.queued, "it ended before the documents had it"
                del self.model.held[name]
            else:
                assert item == there._replace(value=None, expires_at=None)
                self.model.held[name] = item
                self.model.ended.add(name)
        return item

    def certain(self, name: str) -> Item | None:
        """What is there, and will be at the next question too: nothing ends in between."""
        there = self.look(name)
        if there is not None and (there.expires_at is not None or name in self.model.ended):
            self.pause()
            there = self.look(name)
        return there

    def write(
        self, name: str, value: str | None, tier: Any, at: str, missing: bool, ends: float | None, *, judge: bool
    ) -> None:
        there = self.certain(name)
        version = there.version if there is not None and there.value is not None else 0
        if_version = {"any": None, "its own": version, "older": max(0, version - 1), "none": 0}[at]
        expires_at = None if ends is None else self.now() + ends
        written: Written = self.ask(
            lambda: self.store.write(
                key(name),
                value,
                tier=tier,
                if_version=if_version,
                expires_at=expires_at,
                missing=missing,
                judge=judge,
            )
        )
        if there is None and not missing and (if_version is not None or tier is None):
            assert written == ("unknown", None)
        elif if_version is not None and if_version != version:
            assert written == ("conflict", there)
        else:
            assert written.outcome == "written"
            item = written.item
            assert item is not None
            assert item.version > self.model.used.get(name, 0)
            assert item.value == value or (item.value is None and ends is not None)
            assert item.named == (tier is not None or (there is not None and there.named))
            assert item.tier == (tier or ("delayed" if judge and not item.named else there.tier if there else "cache"))
            assert item.expires_at == (None if item.value is None else expires_at)
            self.model.used[name] = item.version
            self.model.log.append((name, item.version, item.value is None))
            self.model.held[name] = item
            self.model.ended.discard(name)
            if self.store.outbox is not None and (
                item.tier != "cache" or (there is not None and there.tier != "cache") or name in self.model.queued
            ):
                self.model.queued[name] = item.version
        self.look(name)

    def reshape(self, wanted: list[tuple[str, str | None, Tier, int]]) -> None:
        """Items, some of them at another version, or more than once."""
        items, expected = [], []
        for name, value, tier, more in wanted:
            there = self.certain(name)
            version = max(1, (there.version if there else self.model.used.get(name, 0)) + more)
            items.append(Item(key(name), version, value, tier, 7.0, 8.0))
        for item in items:
            there = self.certain(item.key.key)
            found = there is not None and there.value is not None and there.version == item.version
            expected.append(found and item.value is not None)
        assert list(self.ask(lambda: self.store.reshape(items))) == expected
        for item, reshaped in zip(items, expected, strict=True):
            if reshaped:
                there = self.model.held[item.key.key]
                self.model.held[item.key.key] = there._replace(value=item.value, tier=item.tier)
        for item in items:
            self.look(item.key.key)

    def now(self) -> float:
        """The store's clock, by a write that nobody looks at."""
        written = self.ask(lambda: self.store.write(StateKey(TENANT, "clock", "now"), "1", tier="cache"))
        return float(written.item.written_at)

    def list(self, prefix: str, most: int) -> None:
        items: list[Item] = []
        after: str | None = None
        for _ in range(100):
            page = self.ask(
                lambda after=after: self.store.list(TENANT, NAMESPACE, prefix=prefix, after=after, most=most)
            )
            items += page.items
            after = page.after
            if after is None:
                break
        there = [item for name in sorted(self.model.held) if name.startswith(prefix) and (item := self.look(name))]
        lasting = [item for item in there if item.value is not None and item.expires_at is None]
        assert [item for item in items if item.expires_at is None] == lasting
        assert all(item.value is not None for item in items)

    def follow(self, most: int) -> None:
        changed = self.ask(lambda: self.store.changes(TENANT, NAMESPACE, since=self.cursor, most=most))
        assert not changed.lost
        assert len(changed.changes) <= most
        self.heard += map(told, changed.changes)
        self.cursor = changed.changes[-1].cursor if changed.changes else changed.cursor

    # The outbox

    def claim(self, most: int, idle: float) -> None:
        outbox = self.store.outbox
        if outbox is None:
            return
        entries = self.ask(lambda: outbox.claim("worker", most=most, idle=idle))
        assert len(entries) <= most
        for entry in entries:
            held = self.model.held[entry.item.key.key]
            same = entry.item._replace(value=None, expires_at=None) if held.value is None else entry.item
            assert same == held
        self.flights += entries

    def flush(self, number: int) -> None:
        """The documents get some of what was claimed, in any order; the rest stays with a worker that may be dead."""
        outbox = self.store.outbox
        done, self.flights = self.flights[-number:], self.flights[:-number]
        if outbox is None or not done:
            return
        for entry in done:
            name, item = entry.item.key.key, entry.item
            before = self.model.documents.get(name)
            if before is None or before.version < item.version:
                self.model.documents[name] = item
        self.ask(lambda: outbox.settle(done))
        for entry in done:
            name, item = entry.item.key.key, entry.item
            if self.model.queued.get(name) == item.version:
                del self.model.queued[name]

    def end(self) -> None:
        """Everybody comes to an end: watchers have heard all, the documents have all that they were to get."""
        for _ in range(1000):
            before = len(self.heard)
            self.follow(1000)
            if len(self.heard) == before:
                break
        assert sorted(self.heard) == sorted(self.model.log)
        for name in self.model.used:
            own = [version for other, version, _ in self.heard if other == name]
            assert own == sorted(own)
        outbox = self.store.outbox
        if outbox is None:
            return
        due = dict(self.model.queued)
        for _ in range(1000):
            self.claim(100, 0.0)
            if not self.flights:
                break
            self.flush(len(self.flights))
        assert self.ask(outbox.waiting) == 0
        assert self.model.queued == {}
        for name, version in due.items():
            assert self.model.documents[name].version >= version


def key(name: str) -> StateKey:
    return StateKey(TENANT, NAMESPACE, name)


def told(change: Change) -> tuple[str, int, bool]:
    return change.key.key, change.version, change.deleted


def on_memory() -> Run:
    clock = FakeClock()
    return Run(MemoryBackend(clock=clock).state, lambda question: question(), lambda: clock.advance(2 * SOON))


@pytest.fixture(scope="module")
def on_redis(shared_redis: RedisServer) -> Iterator[Callable[[], Run]]:
    """Runs on one real Redis, each on a store that is empty at first."""
    backend = open_redis(shared_redis.url, namespace="state-invariants", deadline=10, notify=lambda event: None)

    async def answered(question: Any) -> Any:
        return await question()

    async def empty() -> None:
        names = await backend.link.ask("KEYS", "state-invariants:*")
        if names:
            await backend.link.ask("DEL", *names)

    with asyncio.Runner() as runner:
        runner.run(backend.link.connect(10))

        def new() -> Run:
            runner.run(empty())
            return Run(backend.state, lambda question: runner.run(answered(question)), lambda: time.sleep(2 * SOON))

        yield new
        runner.run(backend.close())


@pytest.fixture(scope="module", params=["memory", "redis"])
def new_run(request: pytest.FixtureRequest) -> Callable[[], Run]:
    return on_memory if request.param == "memory" else request.getfixturevalue("on_redis")


@settings(max_examples=80, deadline=None)
@given(trace=st.lists(operations, min_size=5, max_size=40))
def test_a_store_decides_as_the_model_does(new_run: Callable[[], Run], trace: list[tuple[Any, ...]]) -> None:
    run = new_run()
    for operation in trace:
        run.step(operation)
    run.end()
