"""Sessions against a simple model, on random operations: memory and real Redis decide alike, and as the model does.

Time passes in steps of three seconds, and everything lasts a multiple of ten (the grace: five), so that no decision
hangs on the milliseconds that a real server takes.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.ageing import age
from tests.servers import RedisServer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.contracts import Created, Rotated, SessionKey, SessionStore
from traffic_cop_middleware.errors import SessionTooLarge, StoreError
from traffic_cop_middleware.testing import FakeClock

TAGS = ("user:a", "user:b", "anon:c")
GRACE, MOST = 5.0, 40
NEAR = 0.9

Call = Callable[[SessionStore, list[int]], Any]
"""One operation on a store, given the generations that its creations had."""
Step = tuple[Call | float, Any]
"""An operation and what comes of it, or the seconds that pass."""


@dataclass
class Known:
    """A session in the model. `made` is which creation of the trace it was."""

    key: SessionKey
    made: int
    created: float
    ends: float
    expires: float
    data: dict[str, str]
    meta: str
    version: int = 1
    rotation: int = 0
    rotated: float = 0.0

    def begin_idle(self, now: float, idle: float) -> None:
        self.expires = min(now + idle, self.ends)


@dataclass
class Model:
    """The contract in a dict. Each operation adds a step with what it must give; an error stands for being raised."""

    now: float = 0.0
    sessions: dict[SessionKey, Known] = field(default_factory=dict)
    ran_out: list[SessionKey] = field(default_factory=list)
    revoked: dict[str, list[int]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    ids: itertools.count[int] = field(default_factory=itertools.count)
    used: dict[str, list[SessionKey]] = field(default_factory=lambda: {tag: [] for tag in TAGS})
    steps: list[Step] = field(default_factory=list)

    def of(self, tag: str) -> list[Known]:
        return [known for known in self.sessions.values() if known.key.tag == tag]

    def fresh(self, tag: str) -> SessionKey:
        key = SessionKey(tag, f"{100 - next(self.ids)}")
        self.used[tag].append(key)
        return key

    def expect(self, call: Call, expected: Any) -> None:
        self.steps.append((call, expected))

    def passing(self, draw: st.DataObject) -> None:
        seconds = draw.draw(st.sampled_from([3.0, 6.0, 12.0]))
        self.now += seconds
        for known in [known for known in self.sessions.values() if known.expires <= self.now]:
            del self.sessions[known.key]
            self.ran_out.append(known.key)
        self.steps.append((seconds, None))

    def choose(self, draw: st.DataObject) -> tuple[SessionKey, Known | None, Callable[[list[int]], int]]:
        """A session, or where one was, or never; and the generation to name: now and then a revoked one."""
        tag = draw.draw(st.sampled_from(TAGS))
        alive = [known.key for known in self.of(tag)]
        places = (
            (alive * 8 + self.used[tag] + [SessionKey(tag, "never")])
            if alive
            else [*self.used[tag], SessionKey(tag, "x")]
        )
        key = draw.draw(st.sampled_from(places))
        known = self.sessions.get(key)
        dead = self.revoked.get(tag, [])
        if known is None or (dead and draw.draw(st.integers(0, 9)) == 0):
            made = draw.draw(st.sampled_from(dead)) if dead else None
            return key, None, lambda generations: generations[made] if made is not None else 12345
        made_now = known.made
        return key, known, lambda generations: generations[made_now]

    # Operations

    def create(self, draw: st.DataObject) -> None:
        tag = draw.draw(st.sampled_from(TAGS))
        idle, lifetime = draw.draw(st.sampled_from([(10.0, 20.0), (20.0, 40.0), (10.0, 40.0), (40.0, 20.0)]))
        limit = draw.draw(st.sampled_from([None, None, 0, 1, 2, 3]))
        end_oldest = draw.draw(st.booleans())
        data = draw.draw(st.dictionaries(st.sampled_from("abü"), texts, max_size=2))
        existing = [known.key for known in self.of(tag)]
        again = existing and draw.draw(st.integers(0, 9)) == 0
        key = draw.draw(st.sampled_from(existing)) if again else self.fresh(tag)
        others = [known.key for known in self.of(tag)] + self.used[tag][:-1] + [SessionKey(tag, "never")]
        former = draw.draw(st.sampled_from(others)) if draw.draw(st.booleans()) else None
        meta = f"meta {key.id}"
        made = len(self.made)

        def call(store: SessionStore, generations: list[int]) -> Any:
            terms = {"kind": tag.partition(":")[0], "meta": meta, "data": data, "idle": idle, "lifetime": lifetime}
            return store.create(key, **terms, limit=limit, end_oldest=end_oldest, replaces=former and former.id)

        if again:
            self.expect(call, StoreError)
            return
        alive = sorted((known for known in self.of(tag) if known.key != former), key=lambda known: known.made)
        over = len(alive) - limit + 1 if limit is not None else 0
        if limit == 0 or (over > 0 and not end_oldest):
            self.expect(call, Created(False, -1, []))
            return
        ended = [known.key for known in alive[: max(0, over)]]
        replaced = former in self.sessions
        for other in [*ended, *([former] if former is not None and replaced else [])]:
            del self.sessions[other]
        self.made.append(tag)
        known = Known(key, made, self.now, self.now + lifetime, 0, dict(data), meta, rotated=self.now)
        known.begin_idle(self.now, idle)
        self.sessions[key] = known
        self.expect(call, Created(True, -1, [other.id for other in ended], replaced))

    def load(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        expected = None
        if known is not None:
            times = (self.now - known.created, known.expires - self.now, known.ends - self.now)
            expected = (known.version, *times, known.rotation, known.meta, dict(known.data))
        self.expect(lambda store, g: store.load(key, generation=generation(g)), expected)

    def write(self, known: Known, changes: dict[str, str | None], idle: float) -> bool:
        data = {name: text for name, text in (known.data | changes).items() if text is not None}
        if sum(len(f"{name}{text}".encode()) for name, text in data.items()) > MOST:
            return False
        known.data = data
        known.version += 1
        known.begin_idle(self.now, idle)
        return True

    def merge(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        idle = draw.draw(st.sampled_from([10.0, 20.0]))
        changes = draw.draw(st.dictionaries(st.sampled_from("abü"), texts | st.none(), max_size=3))
        expected: Any = None
        if known is not None and not changes:
            known.begin_idle(self.now, idle)
            expected = known.version
        elif known is not None:
            expected = known.version if self.write(known, changes, idle) else SessionTooLarge
        self.expect(
            lambda store, g: store.merge(key, changes, generation=generation(g), idle=idle, most=MOST), expected
        )

    def add(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        name, amount = (
            draw.draw(st.sampled_from("ab")),
            draw.draw(st.sampled_from([1, -1, 0, 2**52, 2**53 - 1, -(2**53)])),
        )
        expected: Any = TypeError if abs(amount) >= 2**53 else None
        if known is not None and expected is None:
            before = known.data.get(name, "0")
            total = int(before) + amount if before.lstrip("-").isdecimal() else 2**53
            if abs(total) >= 2**53:
                expected = TypeError
            else:
                expected = total if self.write(known, {name: str(total)}, 10.0) else SessionTooLarge
        self.expect(
            lambda store, g: store.add(key, name, amount, generation=generation(g), idle=10.0, most=MOST), expected
        )

    def swap(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        name, after = draw.draw(st.sampled_from("ab")), draw.draw(texts | st.none())
        stands = known.data.get(name) if known is not None else None
        before = draw.draw(st.sampled_from([stands, stands, None, '"x"']))
        expected: Any = None
        if known is not None and before != stands:
            known.begin_idle(self.now, 20.0)
            expected = False
        elif known is not None:
            expected = True if self.write(known, {name: after}, 20.0) else SessionTooLarge
        self.expect(
            lambda store, g: store.swap(key, name, before, after, generation=generation(g), idle=20.0, most=MOST),
            expected,
        )

    def rotate(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        behind = draw.draw(st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, -1]))
        presented = (known.rotation if known is not None else 0) - behind
        expected = Rotated("gone")
        if known is not None and behind == 0:
            known.rotation += 1
            known.rotated = self.now
            known.begin_idle(self.now, 20.0)
            expected = Rotated("rotated", known.rotation, 0.0)
        elif known is not None and behind == 1 and presented >= 0 and self.now - known.rotated < GRACE:
            known.begin_idle(self.now, 20.0)
            expected = Rotated("replayed", known.rotation, self.now - known.rotated)
        elif known is not None:
            del self.sessions[key]
            expected = Rotated("reused")
        self.expect(
            lambda store, g: store.rotate(key, presented, grace=GRACE, generation=generation(g), idle=20.0), expected
        )

    def move(self, draw: st.DataObject) -> None:
        key, known, generation = self.choose(draw)
        alive = [other.key for other in self.of(key.tag)]
        occupied = bool(alive) and draw.draw(st.integers(0, 9)) == 0
        to = draw.draw(st.sampled_from(alive)) if occupied else self.fresh(key.tag)
        expected: Any = StoreError if occupied and known is not None else known is not None
        if known is not None and not occupied:
            del self.sessions[key]
            known.key, known.meta = to, "moved"
            known.begin_idle(self.now, 10.0)
            self.sessions[to] = known
        self.expect(lambda store, g: store.move(key, to, meta="moved", generation=generation(g), idle=10.0), expected)

    def end(self, draw: st.DataObject) -> None:
        key, _, _ = self.choose(draw)
        self.expect(lambda store, g: store.end(key), self.sessions.pop(key, None) is not None)

    def list(self, draw: st.DataObject) -> None:
        tag = draw.draw(st.sampled_from(TAGS))
        expected = [
            (
                each.key.id,
                each.version,
                self.now - each.created,
                each.expires - self.now,
                each.ends - self.now,
                each.meta,
            )
            for each in sorted(self.of(tag), key=lambda known: known.made)
        ]
        self.expect(lambda store, g: store.list(tag), expected)

    def revoke(self, draw: st.DataObject) -> None:
        tag = draw.draw(st.sampled_from(TAGS))
        alive = sorted(self.of(tag), key=lambda known: known.made)
        keep = draw.draw(st.sampled_from([None, None, "never", *(known.key.id for known in alive)]))
        ended = [known.key for known in alive if known.key.id != keep]
        for key in ended:
            del self.sessions[key]
        if keep is None:
            self.revoked[tag] = [number for number, of in enumerate(self.made) if of == tag]
        self.expect(lambda store, g: store.revoke(tag, keep=keep), [key.id for key in ended])

    def revoke_all(self, draw: st.DataObject) -> None:
        if draw.draw(st.integers(0, 3)):
            return
        self.expect(lambda store, g: store.revoke_all(), len(self.sessions))
        self.sessions.clear()

    def sweep(self, draw: st.DataObject) -> None:
        ran_out, self.ran_out = self.ran_out, []
        expected = sorted((key, key.tag.partition(":")[0]) for key in ran_out)
        self.expect(lambda store, g: store.sweep(), expected)

    def figures(self, draw: st.DataObject) -> None:
        active = Counter(key.tag.partition(":")[0] for key in self.sessions)
        self.expect(lambda store, g: store.figures(), (dict(active), {}))


texts = st.sampled_from(["1", "-5", '"ü"', "[]", f'"{"x" * 20}"', "9007199254740991"])
OPERATIONS = (
    *(Model.create, Model.create, Model.load, Model.load, Model.merge, Model.merge, Model.add, Model.swap),
    *(Model.rotate, Model.rotate, Model.move, Model.end, Model.list, Model.revoke, Model.revoke_all),
    *(Model.sweep, Model.figures, Model.passing, Model.passing),
)


def plain(answer: Any) -> Any:
    """An answer that can be compared: without the generation, and in some order where it is in none."""
    if isinstance(answer, Created):
        return [answer.admitted, list(answer.ended)]
    if isinstance(answer, tuple | list):
        parts = [plain(part) for part in answer]
        swept = bool(answer) and isinstance(answer[0], tuple) and isinstance(answer[0][0], SessionKey)
        return sorted(parts) if swept else parts
    return answer


def nearly(expected: Any) -> Any:
    """What equals an answer whose times are off by what a real server took."""
    if isinstance(expected, list):
        return [nearly(part) for part in expected]
    return pytest.approx(expected, abs=NEAR) if isinstance(expected, float) else expected


class Subject:
    """A store that a trace is run on."""

    def __init__(self, store: SessionStore, answered: Callable[[Call, list[int]], Any], wait: Callable[[float], None]):
        self.store = store
        self.answered = answered
        self.wait = wait

    def run(self, steps: list[Step]) -> None:
        generations: list[int] = []
        for number, (call, expected) in enumerate(steps):
            if isinstance(call, float):
                self.wait(call)
                continue
            try:
                answer = self.answered(call, generations)
            except (StoreError, SessionTooLarge, TypeError) as exc:
                answer = type(exc)
            if isinstance(answer, Created) and answer.admitted:
                generations.append(answer.generation)
            assert plain(answer) == nearly(plain(expected)), f"step {number}"


def on_memory() -> Subject:
    clock = FakeClock()
    store = MemoryBackend(clock=clock).sessions
    return Subject(store, lambda call, generations: call(store, generations), clock.advance)


@pytest.fixture(scope="module")
def on_redis(shared_redis: RedisServer) -> Iterator[Callable[[], Subject]]:
    """Stores on one real Redis, each with a namespace of its own, that is, emptied."""
    namespace = "session-invariants"
    backend = open_redis(shared_redis.url, namespace=namespace, deadline=30, notify=lambda event: None)

    async def answered(call: Call, generations: list[int]) -> Any:
        return await call(backend.sessions, generations)

    async def emptied() -> None:
        for key in await backend.link.ask("KEYS", f"{namespace}:*"):
            await backend.link.ask("DEL", key)

    with asyncio.Runner() as runner:
        runner.run(backend.link.connect(30))

        def new() -> Subject:
            runner.run(emptied())
            return Subject(
                backend.sessions,
                lambda call, generations: runner.run(answered(call, generations)),
                lambda seconds: runner.run(age(backend.link, namespace, seconds)),
            )

        yield new
        runner.run(backend.close())


@pytest.fixture(scope="module", params=["memory", "redis"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Subject]:
    return on_memory if request.param == "memory" else request.getfixturevalue("on_redis")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_random_operations_give_what_the_model_says(new_store: Callable[[], Subject], data: st.DataObject) -> None:
    model = Model()
    for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=5, max_size=40)):
        operation(model, data)
    for last in (False, False, False, False, True):
        began = time.monotonic()
        try:
            new_store().run(model.steps)
        except AssertionError:
            if last or time.monotonic() - began < NEAR:
                raise
            continue  # a machine that stood still has let time pass that the model does not know of
        return
