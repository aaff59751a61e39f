"""The contract suite of `FileMetadataStore` on a real Supabase project.

    TRAFFIC_COP_SUPABASE_URL=supabase+https://KEY:TOKEN@project.supabase.co pytest -m supabase

The migration has to have run in it (`migration_sql()` of `traffic_cop_middleware.adapters.supabase`), and the token is
one of the role `traffic_cop`. Each test has an app of its own, and leaves its rows there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.adapters.test_file_metadata_contract import opened, supabase
from traffic_cop_middleware.contracts import FileMetadataStore
from traffic_cop_middleware.testing import FileMetadataStoreContract

URL = os.environ.get("TRAFFIC_COP_SUPABASE_URL")
if URL is None:
    pytest.skip(
        "no Supabase: set TRAFFIC_COP_SUPABASE_URL=supabase+https://KEY:TOKEN@project.supabase.co",
        allow_module_level=True,
    )

pytestmark = pytest.mark.supabase


class TestSupabaseProject(FileMetadataStoreContract):
    @pytest_asyncio.fixture
    async def stores(self) -> AsyncIterator[Sequence[FileMetadataStore]]:
        app = f"contract-{secrets.token_hex(4)}"
        async with opened(lambda: supabase(URL or "", app=app)) as stores:
            yield stores
