"""Fixtures for tests with workers that die."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.files.cloud import Cloud, running_cloud
from tests.files.houses import FileState, file_state, local
from tests.files.workers import Nursery, Workers, running_nursery
from tests.postgrest import Project
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with running_nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture
def where(redis_server: RedisServer, tmp_path: Path) -> tuple[str, ...]:
    """The stores of this host."""
    return redis_server.url, *local(tmp_path)


@pytest.fixture
def workers(nursery: Nursery, where: tuple[str, ...], tmp_path: Path) -> Workers:
    return Workers(nursery, tmp_path, where)


@pytest_asyncio.fixture
async def house(where: tuple[str, ...]) -> AsyncIterator[FileState]:
    async with file_state(*where) as each:
        yield each


@pytest_asyncio.fixture
async def cloud(
    redis_server: RedisServer, supabase_project: Project, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cloud]:
    async with running_cloud(redis_server, supabase_project) as cloud:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.objects.endpoint)
        yield cloud


@pytest.fixture
def cloud_workers(nursery: Nursery, cloud: Cloud, tmp_path: Path) -> Workers:
    environment = {"STORAGE_EMULATOR_HOST": cloud.objects.endpoint}
    return Workers(nursery, tmp_path, cloud.stores, namespace=cloud.app, environment=environment)
