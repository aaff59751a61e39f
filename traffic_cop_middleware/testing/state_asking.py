"""The questions of the state's contract suite, short, and its usual terms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from traffic_cop_middleware.contracts import Changed, Item, Page, StateKey, StateStore, Tier, Written

T = TypeVar("T")
Elapse = Callable[[float], Awaitable[None]]
FAR = 3600.0
"""Seconds that no test comes to the end of."""


async def answer(asked: T | Awaitable[T]) -> T:
    """From a store that answers at once and from one that gives something to await."""
    return cast("T", await asked if isinstance(asked, Awaitable) else asked)


def at(key: str, *, namespace: str = "cart", tenant: str = "acme") -> StateKey:
    return StateKey(tenant, namespace, key)


async def write(
    store: StateStore,
    key: StateKey,
    value: str | None,
    *,
    tier: Tier | None = "cache",
    if_version: int | None = None,
    expires_at: float | None = None,
    missing: bool = False,
    judge: bool = False,
) -> Written:
    asked = store.write(
        key, value, tier=tier, if_version=if_version, expires_at=expires_at, missing=missing, judge=judge
    )
    return await answer(asked)


async def put(
    store: StateStore, key: StateKey, value: str | None, *, tier: Tier = "cache", expires_at: float | None = None
) -> Item:
    """What is there after a write that nothing can hinder."""
    return item_of(await write(store, key, value, tier=tier, expires_at=expires_at))


def item_of(written: Written) -> Item:
    """What is there after a write that nothing hindered."""
    assert written.outcome == "written"
    assert written.item is not None
    return written.item


async def load(store: StateStore, key: StateKey) -> Item | None:
    (item,) = await answer(store.load([key]))
    return item


async def listed(store: StateStore, namespace: str = "cart", *, tenant: str = "acme", prefix: str = "") -> list[Item]:
    """All items of a namespace, page by page."""
    items: list[Item] = []
    after: str | None = None
    for _ in range(10_000):
        page: Page = await answer(store.list(tenant, namespace, prefix=prefix, after=after, most=7))
        assert len(page.items) <= 7
        items += page.items
        if page.after is None:
            return items
        assert after is None or page.after > after
        after = page.after
    raise AssertionError("no end")


async def changed(store: StateStore, since: str | None, *, prefix: str = "", most: int = 1000) -> Changed:
    return await answer(store.changes("acme", "cart", prefix=prefix, since=since, most=most))
