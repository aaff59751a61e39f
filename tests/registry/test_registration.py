"""A service that announces itself: around a block, around an app's life, and while Redis comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.adapters.crews import workers
from tests.adapters.load import poll, started
from tests.servers import RedisServer
from traffic_cop_middleware import ConfigurationError, Registration, registered
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.contracts import Instance

URL = "http://10.0.0.5:8080"


def known(backend: MemoryBackend, service: str = "billing") -> list[Instance]:
    found = backend.instances.read(service)
    assert found is not None
    return list(found.instances)


async def listed(backend: RedisBackend, service: str = "billing") -> list[Instance]:
    found = await backend.instances.read(service)
    assert found is not None
    return list(found.instances)


async def poll_for(backend: RedisBackend, names: list[str], *, seconds: float = 30.0) -> None:
    """Wait until Redis lists these."""
    end = time.monotonic() + seconds
    while [each.name for each in await listed(backend)] != names:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


# Around a block


@pytest.mark.asyncio
async def test_it_is_announced_inside_of_the_block_and_withdrawn_at_its_end() -> None:
    backend = MemoryBackend()
    registration = Registration(
        "billing", url=f"{URL}/v1/", backend=backend, weight=3, metadata={"zone": "a"}, ttl=20.0
    )
    assert not registration.announced
    for _ in range(2):
        async with registration as entered:
            assert entered is registration
            assert registration.announced
            expected = Instance("billing", "10.0.0.5:8080/v1", f"{URL}/v1/", 3, {"zone": "a"}, 20.0)
            assert known(backend) == [expected] == [registration.instance]
            with pytest.raises(RuntimeError, match="announced by this one already"):
                await registration.__aenter__()
        assert known(backend) == []
        assert not registration.announced


@pytest.mark.asyncio
async def test_workers_of_one_server_are_one_instance_that_lives_while_one_of_them_does() -> None:
    backend = MemoryBackend()
    async with Registration("billing", url=URL, backend=backend):
        async with Registration("billing", url=URL, backend=backend):
            assert [each.name for each in known(backend)] == ["10.0.0.5:8080"]
        assert [each.name for each in known(backend)] == ["10.0.0.5:8080"]
        async with Registration("billing", url=URL, backend=backend, instance="another"):
            assert len(known(backend)) == 2
    assert known(backend) == []


@pytest.mark.asyncio
async def test_weight_and_metadata_are_changed_while_it_is_announced() -> None:
    backend = MemoryBackend()
    registration = Registration("billing", url=URL, backend=backend)
    await registration.change(metadata={"zone": "a"})
    assert known(backend) == []
    async with registration:
        await registration.change(weight=0)
        assert [(each.weight, each.metadata) for each in known(backend)] == [(0, {"zone": "a"})]
        with pytest.raises(ConfigurationError, match="weight=-1"):
            await registration.change(weight=-1)
        assert registration.instance.weight == 0


@pytest.mark.asyncio
async def test_what_goes_wrong_inside_comes_out_as_it_was_and_it_is_withdrawn() -> None:
    backend = MemoryBackend()
    with pytest.raises(ZeroDivisionError):
        async with Registration("billing", url=URL, backend=backend):
            raise ZeroDivisionError
    assert known(backend) == []


@pytest.mark.asyncio
async def test_it_is_withdrawn_also_when_the_block_is_cancelled(redis_server: RedisServer) -> None:
    async with workers(redis_server.url) as [backend, *_]:
        entered = asyncio.Event()

        async def serve() -> None:
            url, namespace = redis_server.url, backend.instances._prefix.removesuffix(":")
            async with Registration("billing", url=URL, backend=url, namespace=namespace):
                entered.set()
                await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        await entered.wait()
        assert [each.url for each in await listed(backend)] == [URL]
        serving.cancel()
        await asyncio.wait([serving])
        assert serving.cancelled()
        assert await listed(backend) == []


# Settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "10.0.0.5:8080"}, "Upstream"),
        ({"url": "http://user:secret@host"}, "Upstream: a URL with a user"),
        ({"weight": -1}, "weight=-1"),
        ({"ttl": 0}, "for 0 s"),
        ({"ttl": "10"}, "Registration"),
        ({"metadata": {"a": 1}}, "metadata="),
        ({"metadata": ["a"]}, "Registration"),
        ({"metadata": {"a": "x" * 2_000}}, "bytes of metadata"),
        ({"metadata": {f"k{at}": "" for at in range(70)}}, "at most 64 names"),
        ({"metadata": 5}, "metadata="),
        ({"url": "http://user:secret @host"}, "Upstream"),
        ({"url": "http://user:se/secret@host"}, "Upstream"),
        ({"service": "a{b"}, "a service's name"),
        ({"instance": "a\x1b[2Jb"}, "printable"),
        ({"instance": ""}, "an instance's name"),
        ({"namespace": "a b"}, "namespace"),
        ({"deadline": 0}, "deadline"),
        ({"backend": "nosuch://host"}, "nosuch://"),
        ({"backend": "redis://host:port"}, "can't be read"),
        ({"backend": 7}, "not a int"),
    ],
)
def test_what_cant_be_used_is_refused_when_it_is_written(settings: dict[str, Any], said: str) -> None:
    used = {"service": "billing", "url": URL, "backend": "memory://", **settings}
    for make in (Registration, registered):
        with pytest.raises(ConfigurationError, match=said) as caught:
            make(used["service"], **{name: value for name, value in used.items() if name != "service"})
        assert "secret" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_change_that_cant_be_used_is_refused_and_changes_nothing() -> None:
    registration = Registration("billing", url=URL, backend="memory://")
    changes: list[dict[str, Any]] = [{"metadata": 5}, {"metadata": "ab"}, {"weight": -1}]
    for change in changes:
        with pytest.raises(ConfigurationError):
            await registration.change(**change)
    assert (registration.instance.weight, registration.instance.metadata) == (1, {})


def test_a_backend_that_is_older_than_the_registry_is_refused() -> None:
    class Older:
        name = "older://"
        buckets = None

    with pytest.raises(ConfigurationError, match="older:// keeps no instances of services"):
        Registration("billing", url=URL, backend=Older())  # type: ignore[arg-type]


# Around an app's life


def test_an_app_is_announced_while_it_runs_within_a_life_of_its_own() -> None:
    backend, lived = MemoryBackend(), []

    @contextlib.asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        lived.append(("starts", app, known(backend)))
        yield {"database": "open"}
        lived.append(("ends", app, known(backend)))

    async def home(request: Request) -> JSONResponse:
        return JSONResponse([request.state.database, [each.url for each in known(backend)]])

    app = Starlette(routes=[Route("/", home)], lifespan=registered("billing", url=URL, backend=backend, lifespan=own))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/").json() == ["open", [URL]]
        assert lived == [("starts", app, []), ("ends", app, [])]
        lived.clear()


@pytest.mark.redis_server
@pytest.mark.asyncio
async def test_an_app_starts_and_ends_in_time_while_redis_is_away(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    app = Starlette(lifespan=registered("billing", url=URL, backend=own_redis.url, deadline=0.2))
    async with asyncio.timeout(30), started(app) as answer:
        assert answer["type"] == "lifespan.startup.complete"
        own_redis.start()
        async with workers(own_redis.url) as [backend, *_]:
            watcher = backend.instances
            watcher._prefix = "tc:"
            await poll_for(backend, ["10.0.0.5:8080"])
            own_redis.command("FLUSHALL")
            assert await listed(backend) == []
            await poll_for(backend, ["10.0.0.5:8080"])
        own_redis.kill()
    said = [each.getMessage() for each in caplog.records if each.name == "traffic_cop"]
    assert [text.partition(" at present")[0] for text in said[:2]] == [
        "10.0.0.5:8080 of billing is not announced",
        "10.0.0.5:8080 of billing is announced again",
    ]


@pytest.mark.redis_server
@pytest.mark.asyncio
async def test_it_is_back_at_once_when_redis_comes_back_empty_between_two_heartbeats(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    registration = Registration("billing", url=URL, backend=own_redis.url, ttl=3_600.0)
    async with registration:
        assert registration.announced
        own_redis.kill()
        own_redis.start()
        async with workers(own_redis.url) as [backend, *_]:
            backend.instances._prefix = "tc:"
            await poll_for(backend, ["10.0.0.5:8080"])


@pytest.mark.asyncio
async def test_who_announces_itself_is_none_of_the_workers_that_share_the_limits(redis_server: RedisServer) -> None:
    async with workers(redis_server.url) as backends:
        namespace = backends[0].instances._prefix.removesuffix(":")
        async with Registration("billing", url=URL, backend=redis_server.url, namespace=namespace):
            await poll(lambda: backends[0].live_workers == len(backends))
            members = await backends[0].link.ask("ZCARD", f"{namespace}:workers")
            assert members == len(backends)
