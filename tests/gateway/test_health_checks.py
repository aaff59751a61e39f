"""Active health checks: one worker asks, all go by what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from aiohttp import web

from tests.adapters.load import poll, started
from tests.gateway.test_services import Worker
from tests.servers import RedisServer
from traffic_cop_middleware import ConfigurationError, HealthCheck, Redirect, Registration, Service, route
from traffic_cop_middleware.abstractions.balancing.checks import Checker, HealthMarks
from traffic_cop_middleware.abstractions.balancing.instances import Member
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.destinations import destination_from, destination_record
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.messaging import MessagingAbstraction
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.checking import Checking
from traffic_cop_middleware.composition.gateway import open_transport
from traffic_cop_middleware.contracts import Lease
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.middleware.route_records import route_from, route_record

pytestmark = pytest.mark.asyncio
NUMBERS = itertools.count()


class Patient:
    """An instance that says of itself how it is, and counts who asks."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        self.served = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            self.asked.append(request.headers["user-agent"])
            return web.Response(status=self.status)
        self.served += 1
        return web.Response(text="served")


@contextlib.asynccontextmanager
async def patients(count: int) -> AsyncIterator[list[Patient]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            each = Patient()
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", each.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            each.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            found.append(each)
        yield found


def announced(each: Patient, name: str, backend: str) -> Registration:
    return Registration("billing", url=each.url, instance=name, backend=backend)


CHECK = HealthCheck(interval=0.05, unhealthy=2, healthy=2, deadline=2.0)
CHECKED = Service("billing", check=CHECK)


class Older(MemoryBackend):
    """A third party's backend that knows nothing of leases."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: Any = None


async def test_one_worker_asks_and_all_go_by_what_it_finds(backend: str) -> None:
    async with patients(2) as [ill, well], announced(ill, "a", backend), announced(well, "b", backend):
        one, other = Worker(backend, to=CHECKED), Worker(backend, to=CHECKED)
        async with started(one.app):
            async with started(other.app):
                both = (one, other)
                await poll(lambda: len(ill.asked) > 2)
                assert [set(each.states().values()) for each in both] == [{"serving"}] * 2
                ill.status = 500
                await poll(lambda: all(each.states() == {"a": "unhealthy", "b": "serving"} for each in both))
                [pool] = other.cop.balancing.pools()
                assert pool.instances[0].reason == "its check was answered 500"
                assert ill.asked[0] == "traffic-cop-health"
                ill.status = 204
                await poll(lambda: all(each.states() == {"a": "starting", "b": "serving"} for each in both))
                ill.status = 503
                await poll(lambda: all(each.states()["a"] == "unhealthy" for each in both))
            asked = len(ill.asked)
            await poll(lambda: len(ill.asked) > asked + 2)  # whoever is left asks
            assert one.states()["a"] == "unhealthy"
            late = Worker(backend, to=CHECKED)
            async with started(late.app):
                assert late.states()["a"] == "unhealthy", "known from the first request on"


async def test_marks_of_one_that_no_longer_checks_do_not_hold(backend: str) -> None:
    async with patients(1) as [ill], announced(ill, "a", backend):
        ill.status = 500
        one = Worker(backend, to=CHECKED)
        async with started(one.app):
            await poll(lambda: one.states() == {"a": "unhealthy"})
        unchecked = Worker(backend)
        async with started(unchecked.app):
            assert unchecked.states() == {"a": "serving"}


@pytest.mark.redis_server
async def test_while_redis_is_away_the_marks_go_on(own_redis: RedisServer) -> None:
    async with patients(2) as [ill, well]:
        one = Worker(own_redis.url, to=CHECKED)
        async with (
            announced(ill, "a", own_redis.url),
            announced(well, "b", own_redis.url),
            started(one.app),
        ):
            ill.status = 500
            await poll(lambda: one.states().get("a") == "unhealthy")
            own_redis.kill()
            await poll(lambda: any(event.kind == "store.lost" for event in one.events))
            assert one.states() == {"a": "unhealthy", "b": "serving"}
            assert await one.status() == 200
            own_redis.start()


def listed(*instances: Patient, **settings: Any) -> GatewayRoute:
    """A route to upstreams that it lists, and that are checked; `weights` are theirs."""
    weights = settings.pop("weights", [1] * len(instances))
    to = [Upstream(each.url, weight) for each, weight in zip(instances, weights, strict=True)]
    return route("/*", to=to, name="all", keep_host=False, **{"check": CHECK, **settings})


async def put(worker: Worker, changed: GatewayRoute) -> None:
    await worker.cop.routes.change(changed)


class Listed(Worker):
    """A cop with a route to checked upstreams."""

    def __init__(self, backend: Any, *instances: Patient, **settings: Any) -> None:
        action = action_of(listed(*instances, **settings))
        super().__init__(backend, to=action.destination, check=action.check)

    def state(self, each: Patient) -> str:
        return self.states().get(each.url, "none")


async def test_upstreams_that_a_route_lists_are_asked_by_one_worker_for_all(backend: str) -> None:
    async with patients(3) as [ill, well, spare]:
        weights = [1, 1, 0]
        one, other = (Listed(backend, ill, well, spare, weights=weights) for _ in range(2))
        async with started(one.app):
            async with started(other.app):
                both = (one, other)
                await poll(lambda: len(ill.asked) > 2 and len(spare.asked) > 2)
                ill.status = 500
                await poll(lambda: all(each.state(ill) == "unhealthy" for each in both))
                assert [await each.who(5) for each in both] == [{"200": 5}] * 2
                assert spare.served == 0, "its weight is 0"
                ill.status = 200
                await poll(lambda: all(each.state(ill) == "starting" for each in both))
                ill.status = 503
                await poll(lambda: all(each.state(ill) == "unhealthy" for each in both))
            asked = len(ill.asked)
            await poll(lambda: len(ill.asked) > asked + 2)  # whoever is left asks
            late = Listed(backend, ill, well, spare, weights=weights)
            async with started(late.app):
                assert late.state(ill) == "unhealthy", "known from the first request on"


async def test_all_that_are_listed_may_be_unhealthy_and_those_of_weight_0_do_not_help(backend: str) -> None:
    async with patients(3) as [a, b, spare]:
        one = Listed(backend, a, b, spare, weights=[1, 2, 0])
        a.status = b.status = 500
        async with started(one.app):
            await poll(lambda: (one.state(a), one.state(b)) == ("unhealthy", "unhealthy"))
            assert one.state(spare) == "serving"
            assert await one.status() == 503
            await put(one, listed(a, b, spare, weights=[1, 2, 1]))
            assert (one.state(a), one.state(b)) == ("unhealthy", "unhealthy"), "what is known of them stays"
            assert await one.status() == 200
            assert (a.served, b.served, spare.served) == (0, 0, 1)


async def test_a_check_comes_and_goes_with_the_record_of_its_route(backend: str) -> None:
    async with patients(3) as [ill, well, new]:
        one, other = (Listed(backend, ill, well, check=None) for _ in range(2))
        async with started(one.app), started(other.app):
            both = (one, other)
            ill.status = 500
            await put(one, listed(ill, well))
            await poll(lambda: all(each.state(ill) == "unhealthy" for each in both))
            [shown] = await other.cop.routes.list()
            assert action_of(shown).check == CHECK
            await put(other, listed(ill, new))
            await poll(lambda: all(each.state(new) in ("serving", "starting") for each in both))
            assert [each.state(ill) for each in both] == ["unhealthy"] * 2, "it was, and stays so"
            await poll(lambda: len(new.asked) > 2)
            await put(one, listed(ill, new, check=None))
            await poll(lambda: all(each.state(ill) == "starting" for each in both))
            asked = await quiet(ill)
            said = [event.attributes["reason"] for event in one.events if event.kind == "instance.healthy"]
            assert said == ["it is checked no longer"]
            await put(one, listed(ill, new))
            await poll(lambda: all(each.state(ill) == "unhealthy" for each in both))
            await poll(lambda: len(ill.asked) > asked)
            await one.cop.routes.remove("all")
            await poll(lambda: all(each.state(well) != "none" for each in both))
            await quiet(ill)


@pytest.mark.parametrize("to", [Redirect("https://shop.example"), Service("billing")])
async def test_a_route_that_leads_elsewhere_has_its_upstreams_asked_no_more(backend: str, to: Any) -> None:
    async with patients(1) as [each]:
        one = Listed(backend, each)
        async with started(one.app):
            await poll(lambda: len(each.asked) > 2)
            await put(one, route("/*", to=to, name="all"))
            await quiet(each)
            asked = len(each.asked)
            await one.cop.routes.remove("all")
            await poll(lambda: len(each.asked) > asked + 2)


async def test_checks_of_the_code_go_on_when_its_route_stands_again(backend: str) -> None:
    async with patients(3) as [ill, well, new]:
        one = Listed(backend, ill, well)
        async with started(one.app):
            await poll(lambda: len(ill.asked) > 2)
            await put(one, listed(well, new, check=None))
            await quiet(ill)
            await one.cop.routes.remove("all")
            ill.status = 500
            await poll(lambda: one.state(ill) == "unhealthy")
            assert await one.who(5) == {"200": 5}


async def quiet(instance: Patient) -> int:
    """Wait until an instance is not asked any more; gives how often it was."""
    end = time.monotonic() + 10.0
    asked, since = -1, time.monotonic()
    while time.monotonic() - since < CHECK.interval * 6:
        assert time.monotonic() < end
        if len(instance.asked) != asked:
            asked, since = len(instance.asked), time.monotonic()
        await asyncio.sleep(0.01)
    return asked


async def test_a_route_and_a_service_of_one_name_are_checked_apart(backend: str) -> None:
    async with patients(2) as [ill, well], announced(well, "a", backend):
        ill.status = 500
        one = Worker(backend, to=CHECKED)
        one.cop.route("/own/*", to=ill.url, name="billing", check=CHECK)
        async with started(one.app):
            await poll(lambda: len(ill.asked) > 4 and len(well.asked) > 4)

            def states() -> dict[str, str]:
                return {each.name: each.state for pool in one.cop.balancing.pools() for each in pool.instances}

            await poll(lambda: states() == {"a": "serving", ill.url: "unhealthy"})


async def test_a_check_on_a_backend_that_can_not_is_refused_and_changes_nothing() -> None:
    backend = Older()
    async with patients(1) as [each]:
        one = Listed(backend, each, check=None)
        async with started(one.app):
            with pytest.raises(ConfigurationError, match="can't say which worker checks"):
                await put(one, listed(each))
            record = route_record(listed(each))
            await one.cop._open("routes").records("routes").publish("routes", {"all": json.dumps(record)})
            assert "can't say which worker checks" in one.cop.routes.refused["all"]
            assert await one.status() == 200
    with pytest.raises(ConfigurationError, match="can't say which worker checks"):
        async with started(Listed(Older(), each).app):
            pass


async def test_requests_outside_of_a_lifespan_are_not_forwarded_unchecked() -> None:
    async with patients(1) as [each]:
        one = Listed(Older(), each)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="can't say which worker checks"):
                await one.status()
        assert each.served == 0


async def test_a_routes_check_survives_being_a_record_and_is_refused_where_it_means_nothing() -> None:
    plain = route("/a", to="http://a", name="r")
    assert "check" not in route_record(plain)
    checked = route("/a", to="http://a", name="r", check=HealthCheck("/up", interval=1.0))
    record = json.loads(json.dumps(route_record(checked)))
    assert record["check"] == {"path": "/up", "interval": 1.0}
    assert action_of(route_from("r", record)).check == HealthCheck("/up", interval=1.0)
    wrong: Any = "/health"
    with pytest.raises(ConfigurationError, match=r"write HealthCheck\('/health'\)"):
        route("/a", to="http://a", check=wrong)
    with pytest.raises(ConfigurationError, match=r"write Service\('billing', check=…\)"):
        route("/a", to=Service("billing"), check=CHECK)
    with pytest.raises(ConfigurationError, match="is for routes to upstreams"):
        route("/a", to=Redirect("/b"), check=CHECK)


class Checked:
    """A checker of three instances whose answers the test says."""

    def __init__(self, **check: Any) -> None:
        backend = MemoryBackend()
        assert backend.records is not None
        self.messaging = MessagingAbstraction(backend.records, backend.bus)
        self.pool = BalancedPool("billing", [Member(Upstream(f"http://{name}:80"), name) for name in "abc"])
        self.marks = HealthMarks(lambda: [self.pool], lambda: self.messaging, emit=lambda kind, attributes: None)
        self.messaging.watch("health", self.marks.live.heard, ready=self.marks.live.ready)
        self.messaging.read_at_once()
        self.marks.checks(self.pool, "billing")
        self.bad: dict[str, str] = {}
        self.reason = "ill"
        self.breaks = ""
        self.checker = Checker(self.pool, HealthCheck(**check), self.ask, self.marks)

    async def ask(self, upstream: Upstream, check: HealthCheck) -> str:
        if upstream.origin.host == self.breaks:
            raise ZeroDivisionError
        return self.bad.get(upstream.origin.host, "")

    def ill(self) -> set[str]:
        return {each.name for each in self.pool.snapshot().instances if each.state == "unhealthy"}

    async def looks(self, *bad: str) -> set[str]:
        self.bad = dict.fromkeys(bad, self.reason)
        await self.checker.look()
        return self.ill()


async def test_answers_count_in_a_row() -> None:
    it = Checked(unhealthy=3, healthy=2)
    assert [await it.looks("a") for _ in range(2)] == [set(), set()]
    assert await it.looks() == set()
    assert [await it.looks("a") for _ in range(3)] == [set(), set(), {"a"}]
    assert [await it.looks(), await it.looks("a"), await it.looks(), await it.looks()] == [{"a"}, {"a"}, {"a"}, set()]


async def test_one_that_is_gone_has_no_mark_and_what_can_not_be_told_is_told_later() -> None:
    it = Checked(unhealthy=1)
    plain = it.messaging.publish

    async def away(*arguments: Any, **settings: Any) -> int:
        raise StoreUnavailable("away")

    it.messaging.publish = away  # type: ignore[method-assign]
    assert await it.looks("a", "b") == set()
    it.messaging.publish = plain  # type: ignore[method-assign]
    assert await it.looks("a", "b") == {"a", "b"}
    it.pool.change([Member(Upstream("http://b:80"), "b")])
    assert await it.looks("b") == {"b"}
    assert dict(it.marks.of(it.pool)) == {"b": "ill"}


async def test_answers_of_an_earlier_term_are_in_no_row_with_later_ones() -> None:
    it = Checked(unhealthy=3)
    assert [await it.looks("a") for _ in range(2)] == [set(), set()]
    with anyio.move_on_after(0):
        await it.checker.run(Lease("health:billing", "one", 1, 5.0))
    assert await it.looks("a") == set(), "others checked meanwhile, and found it well"


async def test_so_many_ill_ones_that_no_record_holds_why_are_told_all_the_same() -> None:
    it = Checked(unhealthy=1)
    names = [f"instance-with-a-long-name-{at:0>4}" for at in range(1_000)]
    it.pool.change([Member(Upstream(f"http://{name}:80"), name) for name in names])
    it.reason = "its check failed: " + "x" * 500
    assert await it.looks(*names) == set(names)
    version = it.messaging.version("health")
    assert await it.looks(*names) == set(names)
    assert it.messaging.version("health") == version, "nothing new to tell"
    assert await it.looks() == set(names)
    assert await it.looks() == set()


async def test_what_an_instance_says_is_told_as_plain_text() -> None:
    it = Checked(unhealthy=1)
    it.reason = "its check failed: \udc80\x1b[2J\r\nok"
    assert await it.looks("a") == {"a"}
    assert it.pool.snapshot().instances[0].reason == "its check failed: ??[2J??ok"


async def test_an_error_of_our_own_says_nothing_of_an_instance_and_stops_no_other_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    it = Checked(unhealthy=1)
    it.breaks = "b"
    assert await it.looks("a", "b") == {"a"}
    assert "ZeroDivisionError" in caplog.text


async def test_an_answer_without_an_end_is_read_no_further_than_it_takes() -> None:
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
                await writer.drain()
        writer.close()

    transport = open_transport()
    checking = Checking(lambda: transport, lambda: None, Checked().marks)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await checking.ask(Upstream(f"http://127.0.0.1:{port}"), HealthCheck(deadline=3.0)) == ""
        await transport.close()
    assert sent < 16 * 1024 * 1024


async def test_a_service_with_the_longest_name_is_checked() -> None:
    async with patients(1) as [ill]:
        ill.status = 500
        name, backend = "s" * 128, f"memory://checks-{next(NUMBERS)}"
        to = Service(name, check=HealthCheck(interval=0.05, unhealthy=1))
        one = Worker(backend, to=to)
        async with Registration(name, url=ill.url, instance="a", backend=backend), started(one.app):
            await poll(lambda: one.states() == {"a": "unhealthy"})


async def test_a_check_is_a_record_and_back_and_refused_where_it_can_not_be() -> None:
    to = Service("billing", dns="http://billing:80", check=HealthCheck("/up", interval=1.0))
    record = destination_record(to)
    assert record == {"service": "billing", "dns": "http://billing:80", "check": {"path": "/up", "interval": 1.0}}
    assert destination_from(record) == to
    refused: list[dict[str, Any]] = [
        {"path": "health"},
        {"path": "/a b"},
        {"interval": 0},
        {"deadline": "1"},
        {"healthy": 0},
        {"unhealthy": True},
    ]
    for settings in refused:
        with pytest.raises(ConfigurationError):
            HealthCheck(**settings)
    with pytest.raises(ConfigurationError):
        destination_from({"service": "billing", "check": {"every": 3}})
    wrong: Any = "/health"
    with pytest.raises(ConfigurationError, match="HealthCheck"):
        Service("billing", check=wrong)
