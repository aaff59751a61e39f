"""The contract suite of `ObjectStore` on a real bucket of Cloud Storage.

    TRAFFIC_COP_GCS_URL=gs://bucket/prefix pytest -m gcs

The credentials are those of the environment (`gcloud auth application-default login`), and need
`roles/storage.objectUser` on the bucket. Each test has a place of its own below the prefix, and removes what it put
there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.test_objects_contract import gcs
from traffic_cop_middleware.contracts import ObjectStore
from traffic_cop_middleware.testing import ObjectStoreContract

URL = os.environ.get("TRAFFIC_COP_GCS_URL")
if URL is None:
    pytest.skip("no bucket: set TRAFFIC_COP_GCS_URL=gs://bucket/prefix", allow_module_level=True)

pytestmark = pytest.mark.gcs


class TestCloudStorage(ObjectStoreContract):
    @pytest_asyncio.fixture
    async def stores(self) -> AsyncIterator[Sequence[ObjectStore]]:
        async with gcs(URL or "") as opened:
            yield opened
            for each in (await opened[0].list()).objects:
                await opened[0].delete(each.path, generation=each.generation)
