"""The questions of the sessions' contract suite, short, and its usual terms."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from traffic_cop_middleware.contracts import Created, Listed, Loaded, Rotated, SessionFigures, SessionKey, SessionStore

T = TypeVar("T")

IDLE, LIFETIME = 60.0, 600.0
"""Seconds: the suite's sessions, where a test does not say otherwise."""
MOST = 1_000
NEAR = 4.0
"""Seconds that a store's time may be off by: real ones go on while a test runs."""
ALICE = SessionKey("user:alice", "a1")
META = '{"sub": "älice"}'


async def asked(answer: T | Awaitable[T]) -> T:
    """The answer, from a store that answers at once and from one that gives something to await."""
    if inspect.isawaitable(answer):
        return await answer
    return answer


async def create(store: SessionStore, key: SessionKey = ALICE, **changes: Any) -> Created:
    """A session of nobody in particular, made as the test says by `changes`."""
    terms: dict[str, Any] = {"kind": "user", "meta": META, "data": {}, "idle": IDLE, "lifetime": LIFETIME}
    return await asked(store.create(key, **{**terms, **changes}))


async def made(store: SessionStore, key: SessionKey = ALICE, **changes: Any) -> int:
    """The generation of a new session."""
    return (await create(store, key, **changes)).generation


async def load(store: SessionStore, generation: int, key: SessionKey = ALICE) -> Loaded:
    """The record of a session that must be there."""
    loaded = await asked(store.load(key, generation=generation))
    assert loaded is not None
    return loaded


async def lives(store: SessionStore, generation: int, key: SessionKey = ALICE) -> bool:
    return await asked(store.load(key, generation=generation)) is not None


async def merge(
    store: SessionStore,
    changes: Mapping[str, str | None],
    generation: int,
    key: SessionKey = ALICE,
    *,
    idle: float = IDLE,
    most: int = MOST,
) -> int | None:
    return await asked(store.merge(key, changes, generation=generation, idle=idle, most=most))


async def add(
    store: SessionStore, name: str, amount: int, generation: int, *, idle: float = IDLE, most: int = MOST
) -> int | None:
    return await asked(store.add(ALICE, name, amount, generation=generation, idle=idle, most=most))


async def swap(
    store: SessionStore, before: str | None, after: str | None, generation: int, *, most: int = MOST
) -> bool | None:
    """Swap what stands under `k`."""
    return await asked(store.swap(ALICE, "k", before, after, generation=generation, idle=IDLE, most=most))


async def rotate(
    store: SessionStore,
    presented: int,
    generation: int,
    key: SessionKey = ALICE,
    *,
    grace: float = 10,
    idle: float = IDLE,
) -> Rotated:
    return await asked(store.rotate(key, presented, grace=grace, generation=generation, idle=idle))


async def move(store: SessionStore, to: SessionKey, generation: int, *, meta: str = "new", idle: float = IDLE) -> bool:
    return await asked(store.move(ALICE, to, meta=meta, generation=generation, idle=idle))


async def listed(store: SessionStore, tag: str = "user:alice") -> Sequence[Listed]:
    return await asked(store.list(tag))


async def ids(store: SessionStore, tag: str = "user:alice") -> list[str]:
    return [each.id for each in await listed(store, tag)]


async def revoke(store: SessionStore, tag: str = "user:alice", *, keep: str | None = None) -> list[str]:
    return list(await asked(store.revoke(tag, keep=keep)))


async def figures(store: SessionStore) -> SessionFigures:
    return await asked(store.figures())


def same(found: Rotated, expected: Rotated) -> bool:
    """Whether they differ in nothing but what time passed meanwhile."""
    return found[:2] == expected[:2] and abs(found.age - expected.age) < NEAR


def of_alice(*names: str) -> list[SessionKey]:
    return [SessionKey("user:alice", name) for name in names]


Operation = Callable[[SessionStore, SessionKey, int], Any]

WRITES: dict[str, Operation] = {
    "merge": lambda s, key, g: s.merge(key, {"k": "2"}, generation=g, idle=IDLE, most=MOST),
    "touch": lambda s, key, g: s.merge(key, {}, generation=g, idle=IDLE, most=MOST),
    "add": lambda s, key, g: s.add(key, "k", 1, generation=g, idle=IDLE, most=MOST),
    "swap": lambda s, key, g: s.swap(key, "k", "1", "2", generation=g, idle=IDLE, most=MOST),
    "swap in vain": lambda s, key, g: s.swap(key, "k", "no", "2", generation=g, idle=IDLE, most=MOST),
    "rotate": lambda s, key, g: s.rotate(key, 0, grace=10, generation=g, idle=IDLE),
    "move": lambda s, key, g: s.move(key, SessionKey(key.tag, "elsewhere"), meta="m", generation=g, idle=IDLE),
}
"""Everything that uses a session; it gives one of `NOTHING` where there is none."""
NOTHING = (None, False, Rotated("gone"))
