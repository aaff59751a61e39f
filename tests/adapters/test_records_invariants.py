"""Records against a simple model, on random operations: memory and real Redis decide alike, and as the model does.

Followers read now and then, and know afterwards exactly what there is: over more removals and versions than a store
remembers (here four, of Redis), over pages of two records, over lost keys and an emptied database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.memory import records as memory_records
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.adapters.redis import records as redis_records
from traffic_cop_middleware.contracts import Changes, RecordStore
from traffic_cop_middleware.testing.record_contract import Follower

KIND = "model"
FOLLOWERS = 3
REMEMBERED = 4

names = st.sampled_from([*"abcdef", "ü", "{g}"])
changes = st.dictionaries(names, st.sampled_from(["1", '"x"', "{}"]) | st.none(), min_size=1, max_size=5)
operations = st.one_of(
    st.tuples(st.just("change"), changes),
    st.tuples(st.just("change at"), changes, st.integers(0, 3)),
    st.tuples(st.just("follow"), st.integers(0, FOLLOWERS - 1)),
    st.tuples(st.just("lose"), st.integers(0, 9)),
)

Ask = Callable[[Any], Any]
"""Gives the answer to what was asked of a store."""


@dataclass
class Model:
    """The contract in a dict. `versions` are all that there ever were, `version` the one that there is."""

    content: dict[str, tuple[int, str]] = field(default_factory=dict)
    version: int = 0
    versions: list[int] = field(default_factory=list)

    def changed(self, values: dict[str, str | None], version: int) -> None:
        assert version > max(self.versions, default=0)
        self.version = version
        self.versions.append(version)
        for name, value in values.items():
            self.content.pop(name, None)
            if value is not None:
                self.content[name] = (version, value)


class Run:
    """A store, what it should hold, and who follows it."""

    def __init__(self, store: RecordStore, ask: Ask, lose: Callable[[int], bool]) -> None:
        self.store = store
        self.ask = ask
        self.lose = lose
        self.model = Model()
        self.followers = [Follower(store) for _ in range(FOLLOWERS)]

    def step(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case "change", values:
                self.model.changed(values, self.ask(lambda: self.store.change(KIND, values, at=None)))
            case "change at", values, back:
                known = [0, *self.model.versions]
                at = self.model.version if back == 0 else known[-min(back, len(known))]
                version = self.ask(lambda: self.store.change(KIND, values, at=at))
                assert (version is None) == (at != self.model.version)
                if version is not None:
                    self.model.changed(values, version)
            case "follow", number:
                self.follow(self.followers[number])
            case "lose", key:
                if self.lose(key):
                    self.model.content, self.model.version = {}, 0

    def follow(self, follower: Follower) -> None:
        since = follower.version
        read: Changes = self.ask(lambda: self.store.read(KIND, since=since))
        assert read.whole or since > 0
        follower.take(read)
        assert follower.version == self.model.version
        assert {name: record[1:] for name, record in follower.content.items()} == self.model.content


def on_memory() -> Run:
    return Run(MemoryBackend().records, lambda question: question(), lambda key: False)


@pytest.fixture(scope="module")
def on_redis(shared_redis: RedisServer) -> Iterator[Callable[[], Run]]:
    """Runs on one real Redis, each on a collection that is empty at first."""
    backend = open_redis(shared_redis.url, namespace="record-invariants", deadline=10, notify=lambda event: None)
    keys = backend.records._keys(KIND)

    async def answered(question: Any) -> Any:
        return await question()

    async def delete(*keys: str) -> Any:
        return await backend.link.ask("DEL", *keys)

    with asyncio.Runner() as runner:
        runner.run(backend.link.connect(10))

        def lose(key: int) -> bool:
            """Everything is lost, or one key; whether that is noticed, and the collection is gone."""
            if key >= len(keys):
                return bool(runner.run(delete(*keys)) >= 0)
            there = runner.run(delete(keys[key]))
            return bool(there) and key != len(keys) - 1

        def new() -> Run:
            runner.run(delete(*keys))
            return Run(backend.records, lambda question: runner.run(answered(question)), lose)

        yield new
        runner.run(backend.close())


@pytest.fixture(scope="module", params=["memory", "redis"])
def new_run(request: pytest.FixtureRequest) -> Callable[[], Run]:
    return on_memory if request.param == "memory" else request.getfixturevalue("on_redis")


@pytest.fixture(scope="module", autouse=True)
def forgetful() -> Iterator[None]:
    """Stores remember four removals and versions, and read two records at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_records, "MOST_GONE", REMEMBERED)
        patch.setattr(redis_records, "MOST_GONE", REMEMBERED)
        patch.setattr(redis_records, "MOST_VERSIONS", REMEMBERED)
        patch.setattr(redis_records, "PAGE", 2)
        yield


@settings(max_examples=100, deadline=None)
@given(trace=st.lists(operations, min_size=5, max_size=40))
def test_followers_know_what_the_model_holds(new_run: Callable[[], Run], trace: list[tuple[Any, ...]]) -> None:
    run = new_run()
    for operation in trace:
        run.step(operation)
    for follower in run.followers:
        run.follow(follower)


class Between:
    """A store on which others make a change between any two pages of a read."""

    def __init__(self, store: redis_records.RedisRecords, between: list[tuple[Any, ...]], run: Run) -> None:
        self._page = store._page
        self._store = store
        self._due = list(between)
        self._run = run

    def __enter__(self) -> None:
        def page(*arguments: Any) -> asyncio.Future[Any]:
            asked = self._page(*arguments)
            if self._due:
                _, values = self._due.pop(0)
                changing = self._store.change(KIND, values, at=None)
                changing.add_done_callback(lambda done: self._run.model.changed(values, done.result()))
            return asked

        self._store._page = page  # type: ignore[method-assign]

    def __exit__(self, *error: object) -> None:
        del self._store._page  # type: ignore[method-assign]


@settings(max_examples=80, deadline=None)
@given(
    before=st.lists(operations, min_size=3, max_size=20),
    between=st.lists(st.tuples(st.just("change"), changes), min_size=1, max_size=8),
)
def test_a_read_of_many_pages_with_changes_between_them_is_one_state(
    on_redis: Callable[[], Run], before: list[tuple[Any, ...]], between: list[tuple[Any, ...]]
) -> None:
    run = on_redis()
    store = run.store
    assert isinstance(store, redis_records.RedisRecords)
    states = {0: {}}
    for operation in before:
        run.step(operation)
        states[run.model.version] = dict(run.model.content)
    changed = run.model.changed

    def noted(values: dict[str, str | None], version: int) -> None:
        changed(values, version)
        states[version] = dict(run.model.content)

    run.model.changed = noted  # type: ignore[method-assign]
    for follower in run.followers:
        with Between(store, between, run):
            follower.take(run.ask(lambda since=follower.version: store.read(KIND, since=since)))
        assert {name: record[1:] for name, record in follower.content.items()} == states[follower.version]
    for follower in run.followers:
        run.follow(follower)
