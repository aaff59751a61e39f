"""The examples do what they say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.servers import RedisServer
from traffic_cop_middleware.contracts import BucketStore
from traffic_cop_middleware.testing import BucketStoreContract


def test_minimal_refuses_the_eleventh_search() -> None:
    minimal = importlib.import_module("examples.minimal")
    with TestClient(minimal.app) as client:
        assert [client.get("/search?q=tea").status_code for _ in range(11)] == [200] * 10 + [429]
        assert client.get("/health").status_code == 200


def test_redis_shared_counts_in_redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    example = importlib.reload(importlib.import_module("examples.redis_shared"))
    with TestClient(example.app) as client:
        assert [client.get("/search").status_code for _ in range(12)] == [200] * 10 + [429] * 2
        assert [client.get("/report").status_code for _ in range(3)] == [200, 200, 429]
    assert redis_server.command("EXISTS", "tc:b:{everyone:all}/report 1000/day").startswith(b":1")


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("examples.custom_backend")


def test_the_custom_backend_limits_an_app(in_a_folder: Any) -> None:
    with TestClient(in_a_folder.app) as client:
        assert [client.get("/").status_code for _ in range(11)] == [200] * 10 + [429]


class TestCustomBackend(BucketStoreContract):
    """The example's store passes the suite that ours pass."""

    @pytest.fixture
    def store(self, in_a_folder: Any, tmp_path: Path) -> BucketStore:
        store: BucketStore = in_a_folder.SqliteBuckets(tmp_path / "contract.db")
        return store

    async def plant(self, store: BucketStore, key: str, value: str | int) -> None:
        buckets: Any = store
        link = buckets.connect()
        link.execute("insert or replace into guards values (?, ?)", (key, value if isinstance(value, int) else 0))
        link.close()
