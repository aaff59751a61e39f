"""Whatever is asked, all document stores give the same answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.arangodb_double import ArangoDouble, running_double
from traffic_cop_middleware.adapters.arangodb.documents import open as open_arangodb
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.adapters.sqlite.documents import open as open_sqlite
from traffic_cop_middleware.contracts import DocumentStore, Item, StateKey

NOW = time.time()
DEADLINE = 20.0

keys = st.builds(
    StateKey,
    st.sampled_from(["", "a"]),
    st.sampled_from(["n", "n:"]),
    st.sampled_from(["k", "k1", "K", "ü", "ke", "l"]),
)
items = st.builds(
    Item,
    keys,
    st.integers(0, 9),
    st.sampled_from([None, '"x"', '"y"']),
    st.sampled_from(["delayed", "immediate"]),
    st.sampled_from([NOW - 100, NOW]),
    st.sampled_from([None, None, NOW - 50, NOW + 86_400]),
    st.booleans(),
)
prefixes = st.sampled_from(["", "k", "K", "z", "ü"])
asked = st.one_of(
    st.tuples(st.just("store"), st.lists(items, max_size=4)),
    st.tuples(st.just("reshape"), st.lists(items, max_size=4)),
    st.tuples(st.just("load"), st.lists(keys, max_size=4)),
    st.tuples(st.just("list"), keys, prefixes, st.none() | prefixes, st.integers(1, 3)),
    st.tuples(st.just("history"), keys, st.none() | st.integers(0, 9), st.integers(1, 3)),
    st.tuples(st.just("clean_up"), st.sampled_from([NOW - 60, NOW]), st.sampled_from([NOW - 150, NOW - 10])),
)


async def answer(store: DocumentStore, what: tuple[Any, ...]) -> object:
    match what:
        case ("store", stored):
            return list(await store.store(stored))
        case ("reshape", reshaped):
            return list(await store.reshape(reshaped))
        case ("load", loaded):
            return list(await store.load(loaded))
        case ("list", key, prefix, after, most):
            page = await store.list(key.tenant, key.namespace, prefix=prefix, after=after, most=most)
            return list(page.items), page.after
        case ("history", key, before, most):
            return [revision.item for revision in await store.history(key, before=before, most=most)]
        case (_, now, tombstones_before):
            return await store.clean_up(now=now, tombstones_before=tombstones_before)
    raise AssertionError(what)


@pytest.fixture(scope="module")
def double() -> Iterator[ArangoDouble]:
    with running_double() as double:
        yield double


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(asked, min_size=5, max_size=25))
def test_every_store_answers_as_memory_does(
    tmp_path_factory: pytest.TempPathFactory, double: ArangoDouble, questions: list[tuple[Any, ...]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("documents")

    async def scenario() -> None:
        sqlite = open_sqlite(
            f"sqlite:///{folder}/state.db", namespace="tc", deadline=DEADLINE, notify=lambda event: None
        )
        arangodb = open_arangodb(double.url, namespace=folder.name, deadline=DEADLINE, notify=lambda event: None)
        memory = MemoryDocuments()
        for question in questions:
            expected = await answer(memory, question)
            assert await answer(sqlite, question) == expected, question
            assert await answer(arangodb, question) == expected, question
        await sqlite.close()
        await arangodb.close()

    asyncio.run(scenario())
