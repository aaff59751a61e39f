"""Fixtures that all tests share: real and fake Redis servers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from hypothesis import HealthCheck, settings
from redis.exceptions import ResponseError

from tests.postgrest import Project, running_project
from tests.redis_cluster import RedisCluster, running_cluster
from tests.servers import RedisServer, running_redis
from traffic_cop_middleware.testing.fixtures import fake_clock, memory_backend, open_client

__all__ = ["fake_clock", "memory_backend", "open_client"]

# How long an example takes is the machine's doing: it fails no test.
settings.register_profile("traffic-cop", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("traffic-cop")


TESTS = Path(__file__).parent
WAITING = {
    TESTS / "gateway",
    TESTS / "adapters" / "test_leader_processes.py",
    TESTS / "adapters" / "test_metrics_workers.py",
    TESTS / "adapters" / "test_workers.py",
    TESTS / "middleware" / "test_otlp.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has servers or processes of its own, and tells an outage by the time that passes, runs beside its like."""
    for item in items:
        if item.get_closest_marker("redis_server") or not WAITING.isdisjoint((item.path, *item.path.parents)):
            item.add_marker("waits")


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no collection of garbage looks through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server that the whole run shares. Nobody may kill, freeze or reconfigure it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """The shared real redis-server, emptied."""
    shared_redis.command("FLUSHALL")
    return shared_redis


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real redis-server of one test's own, to kill and freeze."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A real Redis Cluster that the whole run shares. Nobody may kill, freeze or reconfigure it."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def supabase_project() -> Iterator[Project]:
    """A real PostgreSQL under a real PostgREST that the whole run shares. Each test has an app of its own in it."""
    with running_project() as project:
        yield project


class FakeRedisHandler(TCPFakeRequestHandler):
    """Answers an error reply as a server does. fakeredis's own handler hangs up after one."""

    disable_nagle_algorithm = True  # or a reply waits for the 40 ms of its reader's delayed acknowledgement

    def setup(self) -> None:
        super().setup()
        read = self.current_client.read_response

        def read_response() -> Any:
            try:
                return read()
            except ResponseError as exc:
                return exc

        self.current_client.read_response = read_response


@pytest.fixture(scope="session")
def fake_redis_url() -> Iterator[str]:
    """fakeredis behind a real socket: the adapter's whole path against a server that is none."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    server.daemon_threads = True
    server.RequestHandlerClass = FakeRedisHandler
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
