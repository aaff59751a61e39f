"""The contract suite of `DocumentStore` on a real ArangoDB, and what the double does not show.

    TRAFFIC_COP_ARANGODB_URL=arangodb://user:password@host:8529/database pytest -m arangodb

The user needs read and write access to the database. Collections `traffic_cop_documents` and `traffic_cop_history` are
made in it; each test has items of its own, and leaves them there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.test_documents_contract import arangodb
from traffic_cop_middleware.contracts import DocumentStore
from traffic_cop_middleware.testing import DocumentStoreContract
from traffic_cop_middleware.testing.document_asking import item, load, versions

URL = os.environ.get("TRAFFIC_COP_ARANGODB_URL")
if URL is None:
    pytest.skip(
        "no ArangoDB: set TRAFFIC_COP_ARANGODB_URL=arangodb://user:password@host:8529/database", allow_module_level=True
    )

pytestmark = pytest.mark.arangodb


class TestArangoDB(DocumentStoreContract):
    @pytest_asyncio.fixture
    async def stores(self) -> AsyncIterator[Sequence[DocumentStore]]:
        async with arangodb(URL or "") as opened:
            yield opened

    @pytest.mark.asyncio
    async def test_a_storm_of_writers_leaves_the_highest_version_and_no_version_twice(
        self, stores: Sequence[DocumentStore]
    ) -> None:
        async def writer(store: DocumentStore, start: int) -> None:
            for version in range(start, 301, len(stores)):
                assert (await store.store([item(version, f'"{version}"'), item(version, key="beside")]))[0] >= version

        await asyncio.gather(*(writer(store, start + 1) for start, store in enumerate(stores)))
        for key in ("42", "beside"):
            found = await load(stores[0], key)
            assert found is not None
            assert found.version == 300
            kept = await versions(stores[0], key)
            assert kept == sorted(set(kept), reverse=True)
