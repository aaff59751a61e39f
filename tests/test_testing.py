"""`traffic_cop_middleware.testing`, as the people who test their apps use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from traffic_cop_middleware import TrafficCop
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Take
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.fixtures import OpenClient, fake_clock, memory_backend, open_client

__all__ = ["fake_clock", "memory_backend", "open_client"]


async def search(request: Request) -> Response:
    return PlainTextResponse("found")


def limited(backend: MemoryBackend, limits: str = "2/minute") -> Starlette:
    app = Starlette(routes=[Route("/search", search)])
    TrafficCop(backend, limits=limits).install(app)
    return app


def test_a_fake_clock_stands_still_and_adds_up_exactly() -> None:
    clock = FakeClock(5)
    assert [clock(), clock()] == [5.0, 5.0]
    for _ in range(10):
        clock.advance(0.1)
    assert clock() == 6.0
    assert repr(clock) == "<FakeClock at 6 s>"


@pytest.mark.parametrize("seconds", [-1, -1e-9, float("nan")])
def test_a_fake_clock_does_not_go_back(seconds: float) -> None:
    with pytest.raises(ValueError, match="never goes back"):
        FakeClock().advance(seconds)


def test_third_search_is_refused_until_the_bucket_refills(
    fake_clock: FakeClock, memory_backend: MemoryBackend, open_client: OpenClient
) -> None:
    client = open_client(limited(memory_backend))
    responses = [client.get("/search") for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].headers["Retry-After"] == "30"
    fake_clock.advance(29.9)
    assert client.get("/search").status_code == 429
    fake_clock.advance(0.1)
    assert client.get("/search").status_code == 200


def test_clients_call_from_addresses_of_their_own(memory_backend: MemoryBackend, open_client: OpenClient) -> None:
    app = limited(memory_backend, "1/minute")
    first, second = open_client(app), open_client(app, address="203.0.113.8", headers={"X-Test": "yes"})
    assert [client.get("/search").status_code for client in (first, second, first)] == [200, 200, 429]


def test_a_secure_cookie_comes_back(open_client: OpenClient) -> None:
    async def cookie(request: Request) -> Response:
        response = PlainTextResponse(request.cookies.get("sid", "none"))
        response.set_cookie("sid", "7", secure=True, httponly=True)
        return response

    client = open_client(Starlette(routes=[Route("/", cookie)]))
    assert [client.get("/").text for _ in range(2)] == ["none", "7"]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What a lifespan told; set up before `open_client`, so that this looks after its clients have ended."""
    told: list[str] = []
    yield told
    assert told == ["started", "ended"]


def test_a_client_starts_the_lifespan_and_the_end_of_the_test_ends_it(told: list[str], open_client: OpenClient) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        told.append("started")
        yield
        told.append("ended")

    client = open_client(Starlette(routes=[Route("/search", search)], lifespan=lifespan))
    assert told == ["started"]
    assert client.get("/search").text == "found"


@pytest.mark.parametrize("rate", [100_000, 1 / 3, 7, 0.1])
def test_on_a_fake_clock_coming_back_after_exactly_the_stated_wait_is_granted(rate: float) -> None:
    clock = FakeClock()
    store = MemoryBackend(clock=clock).buckets
    request = Take("a", 1, rate)
    assert store.take([request]).admitted
    for _ in range(2_000):
        taken = store.take([request])
        assert not taken.admitted
        clock.advance(-taken.answers[0] / 1_000_000)
        assert store.take([request]).admitted


def test_the_package_imports_nothing_that_is_for_tests_only() -> None:
    code = "import sys, traffic_cop_middleware; print(*{'pytest', 'hypothesis', 'redis', 'httpx2'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


SUITE = '''
import pytest
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Taken
from traffic_cop_middleware.testing import BucketStoreContract, FakeClock


class TestSound(BucketStoreContract):
    @pytest.fixture
    def store(self):
        self.backend = MemoryBackend(clock=FakeClock())
        return self.backend.buckets

    async def plant(self, store, key, value):
        self.backend.keyspace[key] = value


class Forgetful:
    """Rounds an expiry down to whole seconds: what refills sooner is never kept."""

    shared = False

    def __init__(self):
        self.whole = MemoryBackend(clock=FakeClock()).buckets

    def take(self, requests, *, guard=None, now=None):
        if any(take.burst < take.rate for take in requests):
            return Taken(True, [int(take.cost * 1_000_000) for take in requests])
        return self.whole.take(requests, guard=guard, now=now)


class TestForgetful(BucketStoreContract):
    @pytest.fixture
    def store(self):
        return Forgetful()


def test_fixtures(fake_clock, memory_backend, open_client):
    assert memory_backend.clock is fake_clock
'''


def test_a_project_of_its_own_runs_the_suite_and_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["traffic_cop_middleware.testing.fixtures"]\n')
    (tmp_path / "test_store.py").write_text(SUITE)
    options = ["-q", "-rA", "-W", "error", "--strict-markers", "-o", "asyncio_default_fixture_loop_scope=function"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = [line.split()[:2] for line in ran.stdout.splitlines() if line.startswith(("PASSED", "FAILED", "ERROR"))]
    failed = {name for outcome, name in outcomes if outcome != "PASSED"}
    assert ["PASSED", "test_store.py::test_fixtures"] in outcomes
    assert not [name for name in failed if "TestForgetful" not in name], ran.stdout
    assert any("refills_far_below_a_second" in name for name in failed)
    assert "override plant()" in ran.stdout
    assert "where False = Taken(admitted=" in ran.stdout or "assert 201 == 14" in ran.stdout  # rewritten asserts
