"""From `documents=` to a store: schemes, sharing, and who closes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from traffic_cop_middleware.composition import schemes, state_stores
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import DocumentStore, Event
from traffic_cop_middleware.errors import ConfigurationError, StoreUnavailable
from traffic_cop_middleware.testing.document_asking import item, key_of, load


def opener(url: str) -> Any:
    return state_stores.opener("documents", url)


def handle(
    url: str, *, notify: Callable[[Event], None] = lambda event: None, namespace: str = "tc"
) -> Handle[DocumentStore]:
    loop = asyncio.get_running_loop()
    return Handle(url, kind="documents", opener=opener, loop=loop, namespace=namespace, deadline=20.0, notify=notify)


def test_an_unknown_scheme_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"documents: postgres:// is not known here\. Write one of arangodb://,"
    ):
        opener("postgres://localhost/db")
    with pytest.raises(ConfigurationError, match=r"documents: this is no URL.*sqlite:///state\.db"):
        opener("state.db")


def test_a_scheme_of_a_third_party_comes_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(
        "mine", "traffic_cop_middleware.adapters.memory.documents:open", "traffic_cop_middleware.documents"
    )

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [point] if (group, name) == (point.group, point.name) else []

    monkeypatch.setattr(schemes, "entry_points", entry_points)
    assert opener("mine://here") is point.load()


@pytest.mark.asyncio
async def test_who_names_the_same_file_shares_the_store_and_the_last_one_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    first, second, other = handle(url), handle(url), handle(url, namespace="other")
    assert first.product is second.product
    assert first.product is not other.product
    for each in (first, second, other):
        await each.connect(patience=20.0)
    await first.product.store([item(7)])
    await first.close()
    assert await load(second.product) == item(7)
    await second.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await load(second.product)
    assert await load(other.product) is None
    await other.close()
    again = handle(url)
    await again.connect(patience=20.0)
    assert await load(again.product) == item(7)
    await again.close()


@pytest.mark.asyncio
async def test_a_named_memory_is_shared_and_a_plain_one_is_not() -> None:
    shared, plain = [handle("memory://docs"), handle("memory://docs")], [handle("memory://"), handle("memory://")]
    assert shared[0].product is shared[1].product
    assert plain[0].product is not plain[1].product
    assert not plain[0].product.durable
    assert plain[0].product.outbox is None


@pytest.mark.asyncio
async def test_a_store_that_can_not_be_used_is_told_at_the_start_and_may_be_tried_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/later/state.db"
    first = handle(url)
    with pytest.raises(ConfigurationError, match="there is no folder"):
        await first.connect(patience=1.0)
    await asyncio.to_thread((tmp_path / "later").mkdir)
    again = handle(url)
    await again.connect(patience=20.0)
    assert await load(again.product) is None
    await again.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://docs/more", "memory documents are 'memory://' or 'memory://name'"),
        ("memory://?max_keys=5", "'max_keys' is no option here; there is max_mb (megabytes that are kept at most)"),
        ("memory://?max_mb=0", "max_mb='0' can't be used"),
    ],
)
def test_memory_documents_say_what_is_wrong_with_a_url(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opener(url)(url, namespace="tc", deadline=1.0, notify=lambda event: None)
    assert says in str(caught.value)


@pytest.mark.asyncio
async def test_memory_documents_that_are_full_refuse_the_whole_write() -> None:
    store = handle("memory://?max_mb=1").product
    await store.store([item(1, "x" * 200_000, key=f"k{number}", written_at=1.0) for number in range(4)])
    with pytest.raises(StoreUnavailable, match=r"1 MB is the most\. Give documents='sqlite:///state.db', or"):
        await store.store([item(1, "x" * 200_000, key=f"k{number}") for number in range(4, 8)])
    assert await load(store, "k4") is None
    with pytest.raises(StoreUnavailable, match=r"no room for 248576 bytes more: 1 MB is the most"):
        await store.reshape([item(1, "y" * 262_144, key=f"k{number}") for number in range(4)])
    assert {each and each.value for each in await store.load([key_of(f"k{n}") for n in range(4)])} == {"x" * 200_000}
    await store.store([item(2, None, key="k0", written_at=1.0)])
    assert await store.clean_up(now=0, tombstones_before=2) == 1
    assert await store.store([item(1, "x" * 200_000, key="k4")]) == [1]
    assert await store.reshape([item(1, "", key=f"k{number}") for number in range(1, 5)]) == [True] * 4
    assert await store.store([item(1, "x" * 200_000, key=f"l{number}") for number in range(5)]) == [1] * 5
