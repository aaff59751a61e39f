"""Routes to services: live instances from a registry that two cops share, or from DNS, and what is said of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.adapters.load import poll, started
from tests.asgi import http_scope, send_through, status
from tests.middleware.upstreams import Service as Answering
from tests.middleware.upstreams import services
from tests.registry.test_registry_processes import services as processes
from tests.servers import RedisServer
from traffic_cop_middleware import (
    BalancingSettings,
    ConfigurationError,
    HealthCheck,
    RecordConflict,
    Registration,
    RoutingMiddleware,
    Service,
    TrafficCop,
    registered,
    route,
)
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.pools import LivePools
from traffic_cop_middleware.contracts import Instance

pytestmark = pytest.mark.asyncio
NUMBERS = itertools.count()
TTL = 1.5
DEFAULT = BalancingSettings()
IN_TURN = BalancingSettings(policy="round-robin", slow_start=0.0)
"""Where each instance is to get some of a few requests that come one after another."""


class Worker:
    """A cop with a route to a service, and requests through it."""

    def __init__(
        self,
        backend: Any,
        to: Any = None,
        balancing: BalancingSettings = DEFAULT,
        check: HealthCheck | None = None,
        **settings: Any,
    ) -> None:
        self.events: list[Any] = []
        self.cop = TrafficCop(backend, observer=self.events.append, deadline=2.0, **settings)
        to = Service("billing") if to is None else to
        self.cop.route("/*", to=to, name="all", keep_host=False, balancing=balancing, check=check)
        self.app = self.cop.wrap(Starlette())

    async def ask(self) -> list[Any]:
        """What a request gets whose client stays."""
        body, sent = iter([{"type": "http.request", "body": b"", "more_body": False}]), list[Any]()

        async def receive() -> Any:
            return next(body, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(http_scope("/x"), receive, send)
        return sent

    async def status(self) -> int:
        return status(await self.ask())

    async def who(self, requests: int = 20) -> Counter[str]:
        """Which instances answer so many requests."""
        found: Counter[str] = Counter()
        for _ in range(requests):
            messages = await self.ask()
            named = dict(messages[0]["headers"]).get(b"x-from")
            found[named.decode() if named is not None else str(messages[0]["status"])] += 1
        return found

    def states(self) -> dict[str, str]:
        [pool] = self.cop.balancing.pools()
        return {each.name: each.state for each in pool.instances}

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.attributes) for event in self.events if event.kind == kind]


@contextlib.asynccontextmanager
async def workers(backend: str, **settings: Any) -> AsyncIterator[tuple[Worker, Worker]]:
    one, other = Worker(backend, **settings), Worker(backend, **settings)
    async with started(one.app) as first, started(other.app) as second:
        assert [first["type"], second["type"]] == ["lifespan.startup.complete"] * 2
        yield one, other


def announced(each: Answering, backend: str, **settings: Any) -> Registration:
    return Registration("billing", url=each.url, instance=each.name, backend=backend, **settings)


async def test_an_instance_serves_through_every_cop_from_its_announcement_to_its_end(backend: str) -> None:
    async with services("a", "b") as [first, second], workers(backend, balancing=IN_TURN) as both:
        assert [await each.status() for each in both] == [503, 503], "no instance yet"
        async with announced(first, backend):
            announced_at = time.monotonic()
            await poll(lambda: all(each.states() == {"a": "serving"} for each in both))
            assert time.monotonic() - announced_at < 1
            assert [await each.who() for each in both] == [{"a": 20}, {"a": 20}]
            async with announced(second, backend):
                await poll(lambda: all(set(each.states()) == {"a", "b"} for each in both))
                assert [set(await each.who(100)) for each in both] == [{"a", "b"}] * 2
            await poll(lambda: all(set(each.states()) == {"a"} for each in both))
            assert [await each.who() for each in both] == [{"a": 20}, {"a": 20}]
        await poll(lambda: all(not each.states() for each in both))
        assert [await each.status() for each in both] == [503, 503]
        kinds = [event.kind for event in both[1].events if event.kind.startswith("instance.")]
        assert kinds == ["instance.added", "instance.added", "instance.removed", "instance.removed"]


async def test_an_app_announced_by_its_lifespan_is_known_when_a_cop_has_started(backend: str) -> None:
    async with services("a") as [first]:
        app = Starlette(lifespan=registered("billing", url=first.url, backend=backend, metadata={"zone": "b"}))
        async with started(app):
            cop = Worker(backend)
            async with started(cop.app):
                assert await cop.who(3) == {"a": 3}, "the first request is served"
                [pool] = cop.cop.balancing.pools()
                assert [(each.url, each.metadata) for each in pool.instances] == [(first.url, {"zone": "b"})]


async def test_without_a_lifespan_a_pool_in_this_process_is_known_at_once() -> None:
    backend = f"memory://services-{next(NUMBERS)}"
    async with services("a") as [first], announced(first, backend):
        one = Worker(backend)
        assert await one.who(2) == {"a": 2}
        await one.cop._gateway.close()


async def test_a_weight_of_0_gets_no_requests_and_metadata_is_kept_up_to_date(backend: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(services("a", "b"))
        both = await stack.enter_async_context(workers(backend))
        async with announced(first, backend) as registration, announced(second, backend):
            await poll(lambda: all(set(each.states()) == {"a", "b"} for each in both))
            await registration.change(weight=0, metadata={"version": "2"})

            def seen(worker: Worker) -> tuple[str, Any]:
                [pool] = worker.cop.balancing.pools()
                return pool.instances[0].reason, pool.instances[0].metadata

            await poll(lambda: all(seen(each) == ("its weight is 0", {"version": "2"}) for each in both))
            assert [await each.who() for each in both] == [{"b": 20}, {"b": 20}]


@pytest.mark.redis_server
async def test_one_that_is_killed_is_gone_after_its_ttl(redis_server: RedisServer) -> None:
    async with workers(redis_server.url) as both, processes(redis_server, "tc", "a", "b", ttl=TTL) as [first, _]:
        await poll(lambda: all(set(each.states()) == {"a", "b"} for each in both))
        first.tell(9)
        await poll(lambda: all(set(each.states()) == {"b"} for each in both))


@pytest.mark.redis_server
async def test_while_redis_is_away_the_last_known_instances_go_on(own_redis: RedisServer) -> None:
    async with services("a") as [first], workers(own_redis.url) as both, announced(first, own_redis.url, ttl=TTL):
        await poll(lambda: all(set(each.states()) == {"a"} for each in both))
        own_redis.kill()
        end = time.monotonic() + TTL * 2
        while time.monotonic() < end:
            assert [await each.who(2) for each in both] == [{"a": 2}, {"a": 2}]
            await asyncio.sleep(0.05)
        own_redis.start()  # empty
        end = time.monotonic() + TTL * 2
        while time.monotonic() < end:
            assert [await each.who(2) for each in both] == [{"a": 2}, {"a": 2}]
            await asyncio.sleep(0.05)


async def test_addresses_of_a_name_are_instances_and_hear_its_name() -> None:
    async with services("a") as [first]:
        port = first.url.rpartition(":")[2]
        worker = Worker("memory://", to=Service("billing", dns=f"http://localhost:{port}"))
        async with started(worker.app):
            assert await worker.who(3) == {"a": 3}
            assert f"127.0.0.1:{port}" in worker.states()
        assert first.header("host") == [f"localhost:{port}"]


async def test_a_drain_and_its_end_hold_on_every_cop_and_for_one_that_comes_back(backend: str) -> None:
    async with services("a", "b") as [first, second], workers(backend) as [one, other]:
        async with announced(second, backend):
            async with announced(first, backend):
                await poll(lambda: all(set(each.states()) == {"a", "b"} for each in (one, other)))
                version = await one.cop.balancing.drain("billing", "a", reason="a new version")
                assert one.states()["a"] == "draining", "at once on the one that was asked"
                await poll(lambda: other.states()["a"] == "draining")
                assert [await each.who() for each in (one, other)] == [{"b": 20}, {"b": 20}]
                assert "a: draining (a new version)" in str(other.cop.balancing.pools()[0])
                assert other.cop.balancing.version == version
            await poll(lambda: all(set(each.states()) == {"b"} for each in (one, other)))
            async with announced(first, backend):
                await poll(lambda: all(each.states().get("a") == "draining" for each in (one, other)))
                await other.cop.balancing.resume("billing", "a")
                await poll(lambda: all(each.states()["a"] == "starting" for each in (one, other)))
        draining = [each["reason"] for each in other.told("instance.draining")]
        assert draining == ["a new version"] * 2
        assert len(other.told("instance.resumed")) == 1


async def test_settings_hold_on_every_cop_and_for_pools_that_are_made_later(backend: str) -> None:
    async with services("a") as [first], workers(backend) as [one, other], announced(first, backend):
        await poll(lambda: all(each.states() for each in (one, other)))
        version = await one.cop.balancing.configure("billing", BalancingSettings(policy="p2c", most_in_flight=3))

        def policy(worker: Worker) -> str:
            return worker.cop.balancing.pools()[0].policy

        assert policy(one) == "p2c"
        await poll(lambda: policy(other) == "p2c")
        await other.cop.balancing.drain("billing", "a")
        with pytest.raises(RecordConflict):
            await one.cop.balancing.configure("billing", BalancingSettings(), at=version)
        late = Worker(backend)
        async with started(late.app):
            await poll(lambda: late.states() == {"a": "draining"})
            assert policy(late) == "p2c"
        await other.cop.balancing.configure("billing", None)
        await poll(lambda: policy(one) == "peak-ewma")
        assert one.states() == {"a": "draining"}, "what else was said stands"
        assert [each["by"] for each in one.told("pool.configured")] == ["record", "code"]


async def test_two_drains_at_once_are_both_kept(backend: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(services("a", "b"))
        one, other = await stack.enter_async_context(workers(backend))
        async with announced(first, backend), announced(second, backend):
            await poll(lambda: all(set(each.states()) == {"a", "b"} for each in (one, other)))
            await asyncio.gather(one.cop.balancing.drain("billing", "a"), other.cop.balancing.drain("billing", "b"))
            await poll(lambda: all(set(each.states().values()) == {"draining"} for each in (one, other)))
            assert await one.status() == 503


async def test_what_does_not_fit_is_refused_and_says_what_there_is() -> None:
    backend = f"memory://services-{next(NUMBERS)}"
    async with services("a") as [first], announced(first, backend):
        worker = Worker(backend)
        async with started(worker.app):
            balancing: Any = worker.cop.balancing
            with pytest.raises(ConfigurationError, match=r"no pool 'bills'; there are 'billing'"):
                await balancing.drain("bills", "a")
            with pytest.raises(ConfigurationError, match=r"no such instance; it has 'a'"):
                await balancing.drain("billing", "b")
            with pytest.raises(ConfigurationError, match="reason"):
                await balancing.drain("billing", "a", reason="")
            with pytest.raises(ConfigurationError, match="no pool"):
                await balancing.configure("bills", BalancingSettings())
            with pytest.raises(ConfigurationError, match="BalancingSettings"):
                await balancing.configure("billing", {"policy": "p2c"})
            assert balancing.refused == {}
        with pytest.raises(ConfigurationError, match="nothing is open"):
            await balancing.drain("billing", "a")


@pytest.mark.parametrize("arguments", [{"name": ""}, {"name": "a{b}"}, {"name": 3}, {"name": "a", "dns": "billing"}])
async def test_a_service_that_can_not_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Service(**arguments)


class Older(MemoryBackend):
    """A third party's backend that knows nothing of instances."""

    name = "older"
    instances: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.instances = None


async def test_a_start_on_a_backend_without_a_registry_fails_and_says_what_to_do() -> None:
    worker = Worker(Older())
    with pytest.raises(ConfigurationError, match=r"keeps no instances of services\. Use redis://"):
        async with started(worker.app) as answer:
            assert answer["type"] == "lifespan.startup.failed"
    assert worker.cop._parts.opened is None


async def test_a_route_to_a_service_that_can_not_be_watched_changes_nothing() -> None:
    worker = Worker(Older(), to="http://127.0.0.1:9")
    async with started(worker.app):
        with pytest.raises(ConfigurationError, match="keeps no instances"):
            await worker.cop.routes.put("/x", to=Service("billing"), name="live")
        record = {"pattern": "/x", "to": {"service": "billing"}}  # as one of another worker
        await worker.cop._open("routes").records("routes").publish("routes", {"live": json.dumps(record)})
        assert "keeps no instances" in worker.cop.routes.refused["live"]
        assert [each.name for each in await worker.cop.routes.list()] == ["all"]


async def test_pools_of_configured_upstreams_are_shown_under_their_routes_names() -> None:
    worker = Worker("memory://", to=["http://127.0.0.1:9", "http://127.0.0.1:10"])
    async with started(worker.app):
        [pool] = worker.cop.balancing.pools()
        assert pool.name == "all"
        assert worker.states() == {"http://127.0.0.1:9": "serving", "http://127.0.0.1:10": "serving"}
        await worker.cop.balancing.drain("all", "http://127.0.0.1:9")
        assert worker.states()["http://127.0.0.1:9"] == "draining"


async def test_a_route_to_a_service_is_put_while_the_app_runs_and_removed(backend: str) -> None:
    async with services("a") as [first], announced(first, backend):
        one, other = Worker(backend, to="http://127.0.0.1:9"), Worker(backend, to="http://127.0.0.1:9")
        async with started(one.app), started(other.app):
            await one.cop.routes.put("/x", to=Service("billing"), name="live")
            async with asyncio.timeout(10):
                while await other.who(1) != {"a": 1}:  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.005)
            listed = await other.cop.routes.list()
            assert [action.to.destination for action in listed if action.name == "live"] == [Service("billing")]
            await one.cop.routes.remove("live")
            await poll(lambda: not list(other.cop._gateway._live_pools()))
        tasks = [task for task in asyncio.all_tasks() if "InstanceWatch" in repr(task.get_coro())]
        assert not tasks


async def test_the_gateway_alone_has_services_too() -> None:
    backend = f"memory://services-{next(NUMBERS)}"
    async with services("a") as [first], announced(first, backend):
        app = RoutingMiddleware(Starlette(), routes=[route("/*", to=Service("billing"))], backend=backend)
        async with started(app):
            assert status(await send_through(app, http_scope("/x"))) == 200


async def test_an_instance_that_can_not_be_used_is_left_out_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend, told = MemoryBackend(), list[tuple[str, Any]]()
    for name, url in (("bad", "http://user:secret@10.0.0.1:80"), ("good", "http://10.0.0.2:80")):
        backend.instances.register(Instance("billing", name, url), holder="one")
    pools = LivePools(lambda: backend, emit=lambda kind, attributes: told.append((kind, attributes)))

    def names() -> Sequence[str]:
        return [each.name for each in pools.pool(Service("billing")).snapshot().instances]

    with caplog.at_level(logging.ERROR):
        assert names() == ["good"]
        backend.instances.register(Instance("billing", "other", "http://10.0.0.3:80"), holder="one")
        await poll(lambda: names() == ["good", "other"])
    await pools.close()
    assert [attributes["instance"] for kind, attributes in told if kind == "instance.refused"] == ["bad"]
    assert "secret" not in caplog.text
