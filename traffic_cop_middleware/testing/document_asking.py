"""The questions of the documents' contract suite, short, and its usual terms."""

from __future__ import annotations

import time

from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey, Tier

DAY = 86_400.0
NOW = time.time()


def key_of(key: str = "42", *, namespace: str = "order", tenant: str = "acme") -> StateKey:
    return StateKey(tenant, namespace, key)


def item(
    version: int,
    value: str | None = '{"a":1}',
    *,
    key: StateKey | str = "42",
    tier: Tier = "immediate",
    written_at: float = NOW,
    expires_at: float | None = None,
    named: bool = True,
) -> Item:
    """An item as a state store writes it."""
    where = key if isinstance(key, StateKey) else key_of(key)
    return Item(where, version, value, tier, written_at, expires_at, named)


async def load(store: DocumentStore, key: StateKey | str = "42") -> Item | None:
    (found,) = await store.load([key if isinstance(key, StateKey) else key_of(key)])
    return found


async def versions(store: DocumentStore, key: StateKey | str = "42", *, most: int = 1000) -> list[int]:
    """Those that the history has, newest first."""
    history = await store.history(key if isinstance(key, StateKey) else key_of(key), most=most)
    return [revision.item.version for revision in history]


async def keys(store: DocumentStore, *, prefix: str = "", most: int = 3, namespace: str = "order") -> list[str]:
    """All keys of a namespace, page by page."""
    found: list[str] = []
    after = None
    for _ in range(1000):
        page = await store.list("acme", namespace, prefix=prefix, after=after, most=most)
        assert len(page.items) <= most
        found += [each.key.key for each in page.items]
        if page.after is None:
            return found
        assert page.after == found[-1]
        after = page.after
    raise AssertionError("the list has no end")
