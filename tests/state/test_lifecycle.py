"""State through an app's life: what runs beside it, what a shutdown keeps, what a second process finds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.load import started
from tests.servers import RedisServer
from tests.state.houses import sqlite_at
from tests.state.test_pushes import Billing
from traffic_cop_middleware import ConfigurationError, StoreUnavailable, TrafficCop
from traffic_cop_middleware.abstractions.state import house, synchronisation
from traffic_cop_middleware.contracts import StateKey

pytestmark = pytest.mark.asyncio


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@contextlib.asynccontextmanager
async def running(cop: TrafficCop) -> AsyncIterator[TrafficCop]:
    async with started(cop.wrap(nothing)) as answer:
        assert answer["type"] == "lifespan.startup.complete", answer
        yield cop


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis_server)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


def cop_at(url: str, path: Path, **settings: Any) -> TrafficCop:
    return TrafficCop(url, documents=f"sqlite:///{path}/state.db", deadline=10, documents_deadline=30, **settings)


async def kept(path: Path, *keys: str) -> list[str | None]:
    documents = sqlite_at(path / "state.db")
    await documents.connect()
    found = await documents.load([StateKey("", "a", key) for key in keys])
    assert documents.outbox is not None
    await documents.close()
    return [None if item is None else item.value for item in found]


async def test_what_waits_is_taken_to_the_documents_while_the_app_runs(url: str, tmp_path: Path) -> None:
    told: list[str] = []
    async with running(cop_at(url, tmp_path, observer=lambda event: told.append(event.kind))) as cop:
        await cop.state.put("a", "b", 1, tier="delayed")
        end = asyncio.get_running_loop().time() + 30
        while "state.flushed" not in told:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.02)
        assert await kept(tmp_path, "b") == ["1"]


async def test_a_shutdown_takes_along_what_waits(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(cop_at(url, tmp_path)) as cop:
        for number in range(100):
            await cop.state.put("a", f"k{number}", number, tier="delayed")
    assert await kept(tmp_path, *(f"k{number}" for number in range(100))) == [f"{number}" for number in range(100)]
    assert not [record for record in caplog.records if record.levelname != "DEBUG" and "flush" in record.message]


async def test_the_next_process_goes_on_with_what_lasts(url: str, tmp_path: Path) -> None:
    async with running(cop_at(url, tmp_path)) as cop:
        put = await cop.state.put("a", "b", 1, tier="immediate")
    async with running(cop_at(url, tmp_path)) as cop:
        got = await cop.state.get("a", "b")
        assert got is not None
        assert got.version == put.version
        assert (await cop.state.patch("a", "b", 2)).version > put.version


async def test_pushes_are_tried_again_beside_the_app(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronisation, "PAUSE_FIRST", 0.01)
    monkeypatch.setattr(synchronisation, "PERIOD", 0.01)
    billing = Billing()
    billing.failures = [OSError("away")] * 3
    async with running(cop_at(url, tmp_path, state_services={"billing": billing})) as cop:
        await cop.state.put("orders", "7", 1)
        (push,) = await cop.state.push("orders", "7", to="billing")
        assert push.status == "pending"
        end = asyncio.get_running_loop().time() + 60
        while not billing.taken:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.02)


async def test_the_documents_are_cleaned_up_by_one_who_leads(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "CLEAN_UP_PERIOD", 0.05)
    monkeypatch.setattr(house, "TOMBSTONES_FOR", 0.0)
    async with running(cop_at(url, tmp_path)) as cop:
        await cop.state.put("a", "b", 1, tier="immediate")
        await cop.state.delete("a", "b")
        documents = cop.state.house.documents
        end = asyncio.get_running_loop().time() + 60
        while (await documents.load([StateKey("", "a", "b")]))[0] is not None:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.05)


async def test_without_documents_nothing_runs_beside_and_a_single_part_has_no_state() -> None:
    async with running(TrafficCop()) as cop:
        assert (await cop.state.put("a", "b", 1)).tier == "cache"
    with pytest.raises(ConfigurationError, match="nothing is open"):
        assert cop.state


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"documents": "sqlit:///state.db"}, "sqlit://"),
        ({"documents": 7}, "or an opened document store, not a int"),
        ({"documents_deadline": 0}, "documents_deadline=0"),
        ({"state_near_items": -1}, "state_near_items=-1"),
        ({"state_near_items": 1.5}, "state_near_items=1.5"),
    ],
)
async def test_a_wrong_setting_is_an_error_when_the_cop_is_made(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        TrafficCop(**wrong)


async def test_documents_that_are_given_open_stay_open(tmp_path: Path) -> None:
    documents = sqlite_at(tmp_path / "state.db")
    await documents.connect()
    for number in range(2):
        async with running(TrafficCop(documents=documents)) as cop:
            await cop.state.put("a", str(number), number, tier="immediate")
    assert len((await documents.list("", "a")).items) == 2
    await documents.close()


class Slow:
    """Documents that take their time."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.asked = asyncio.Event()
        self.durable, self.outbox = True, inner.outbox

    async def store(self, items: Any) -> Any:
        self.asked.set()
        await asyncio.Event().wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_a_caller_who_leaves_before_the_documents_have_it_leaves_nothing_that_looks_kept(tmp_path: Path) -> None:
    documents = sqlite_at(tmp_path / "state.db")
    await documents.connect()
    slow: Any = Slow(documents)
    async with running(TrafficCop(documents=slow)) as cop:
        putting = asyncio.create_task(cop.state.put("a", "b", 1, tier="immediate"))
        await slow.asked.wait()
        putting.cancel()
        await asyncio.wait([putting])
        assert await cop.state.get("a", "b") is None
    await documents.close()


@pytest.mark.redis_server
async def test_a_start_that_the_documents_refuse_leaves_no_connection(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "state.db").write_bytes(b"this is no database at all, " * 100)
    cop = cop_at(redis_server.url, tmp_path)
    with pytest.raises(Exception, match=r"state\.db"):
        async with started(cop.wrap(nothing)) as answer:
            assert answer["type"] == "lifespan.startup.failed"
    named = redis_server.command("CLIENT", "LIST")
    text = named if isinstance(named, str) else named.decode()
    assert "name=traffic-cop" not in text


class Full:
    """Documents without room."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.durable, self.outbox = True, self

    async def store(self, items: Any) -> Any:
        raise StoreUnavailable("no room")

    async def append(self, items: Any) -> None:
        raise StoreUnavailable("no room")

    async def claim(self, worker: str, *, most: int, idle: float) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("tier", ["delayed", "immediate"])
async def test_what_a_memory_backend_alone_has_is_not_lost_when_it_can_not_be_made_to_last(
    tier: Any, tmp_path: Path
) -> None:
    documents = sqlite_at(tmp_path / "state.db")
    await documents.connect()
    full: Any = Full(documents)
    async with running(TrafficCop(documents=full)) as cop:
        put = await cop.state.put("a", "b", "in memory")
        with pytest.raises(StoreUnavailable, match="no room"):
            await cop.state.put("a", "b", "to last", tier=tier)
        with pytest.raises(StoreUnavailable, match="no room"):
            await cop.state.put("a", "new", "to last", tier=tier)
        got = await cop.state.get("a", "b")
        assert got is not None
        assert (got.value, got.version, got.tier) == ("in memory", put.version, "cache")
        assert await cop.state.get("a", "new") is None
        assert (await cop.state.put("a", "b", "again")).version > put.version
    await documents.close()
