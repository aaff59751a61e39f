"""Instances that die, freeze, fail or are full, and what their clients see of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection

from tests.gateway.instance import instance
from tests.gateway.raw import OK, Message, Peer, answering, client, eventually, get, post, upstream
from tests.gateway.served import Served, gateway, served
from tests.gateway.socket_servers import cop_app, websocket_server
from tests.gateway.socket_servers import gateway as socket_gateway
from tests.servers import free_port
from traffic_cop_middleware import BalancingSettings, ConfigurationError, Service, TrafficCop, Upstream, route
from traffic_cop_middleware.abstractions.balancing.outcomes import Outcome
from traffic_cop_middleware.abstractions.gateway_routes import GatewayRoute
from traffic_cop_middleware.abstractions.route_policies import action_of
from traffic_cop_middleware.composition.gateway import Gateway
from traffic_cop_middleware.middleware.route_records import route_from, route_record

pytestmark = pytest.mark.asyncio

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"


async def ask(served: Served, request: bytes = get()) -> Message:
    async with client(served.port) as peer:
        await peer.send(request)
        return await peer.message()


async def answers(served: Served, count: int, *, request: bytes = get(), at_once: int = 4) -> list[Message]:
    """The answers to so many requests, some of which are under way at the same time."""
    found: list[Message] = []

    async def caller(turns: int) -> None:
        async with client(served.port) as peer:
            for _ in range(turns):
                await peer.send(request)
                found.append(await peer.message())

    await asyncio.gather(*(caller(count // at_once) for _ in range(at_once)))
    return found


def checked(answer: Message, status: int, *hidden: str) -> None:
    """A problem that says when to come back, and nothing of who was asked."""
    assert answer.status == status
    assert answer.values(b"retry-after") == [b"1"]
    assert answer.values(b"content-type") == [b"application/problem+json"]
    assert json.loads(answer.body)["status"] == status
    for each in ("127.0.0.1", "http:", *hidden):
        assert each not in answer.body.decode()


async def test_an_instance_that_is_killed_costs_no_client_an_error_and_is_left_alone_soon() -> None:
    async with (
        instance() as a,
        instance() as b,
        instance() as c,
        gateway([a.url, b.url, c.url], balancing="round-robin") as served,
    ):
        before = await answers(served, 30, at_once=1)
        assert Counter(each.body for each in before) == {a.name: 10, b.name: 10, c.name: 10}
        await a.kill()
        after = await answers(served, 200)
        assert Counter(each.status for each in after) == {200: 200}
        assert {each.body for each in after} == {b.name, c.name}
        ejected = served.told("instance.ejected")
        assert [each["instance"] for each in ejected] == [a.url]
        assert "can't be reached" in ejected[0]["reason"]
        assert 5 <= len(served.told("upstream.failed")) <= 10


async def test_posts_go_past_a_dead_instance_too() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with upstream(answering(OK)) as up, gateway([dead, up.url], balancing="round-robin") as served:
        found = await answers(served, 20, request=post(b"hello"))
        assert {each.status for each in found} == {200}
        assert {told["upstream"] for told in served.told("upstream.failed")} == {dead}


async def test_an_instance_that_answers_500_is_ejected_after_five() -> None:
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(ERROR)) as bad,
        gateway([up.url, bad.url], balancing="round-robin") as served,
    ):
        found = await answers(served, 60, at_once=1)
        assert Counter(each.status for each in found) == {200: 55, 500: 5}
        assert [each["instance"] for each in served.told("instance.ejected")] == [bad.url]
        assert served.told("instance.ejected")[0]["pool"] == "all"


async def test_a_frozen_instance_is_ejected_by_its_deadlines() -> None:
    settings = BalancingSettings(policy="round-robin", try_deadline=0.3, consecutive_failures=2)
    async with instance() as a, instance() as b, gateway([a.url, b.url], balancing=settings) as served:
        assert {each.body for each in await answers(served, 4, at_once=1)} == {a.name, b.name}
        a.freeze()
        try:
            found = await answers(served, 40, at_once=2)
        finally:
            a.thaw()
        # What may be asked again is asked again elsewhere: the client sees nothing of it.
        assert Counter(each.body for each in found) == {b.name: 40}
        assert [each["instance"] for each in served.told("instance.ejected")] == [a.url]
        assert {told["error"] for told in served.told("upstream.failed")} == {"UpstreamTimeout"}


async def test_what_may_have_been_done_is_not_asked_again_when_a_try_takes_too_long() -> None:
    asked: list[bytes] = []

    async def silent(peer: Peer) -> None:
        asked.append((await peer.message()).start)
        await peer.rest()

    settings = BalancingSettings(try_deadline=0.2)
    async with upstream(silent) as a, upstream(silent) as b, gateway([a.url, b.url], balancing=settings) as served:
        checked(await ask(served, post(b"hello")), 504)
        assert len(asked) == 1
        checked(await ask(served), 504)
        assert len(asked) == 3


async def test_all_tries_together_have_a_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.message()
        await peer.rest()

    settings = BalancingSettings(total_deadline=0.3)
    async with upstream(silent) as a, upstream(silent) as b, gateway([a.url, b.url], balancing=settings) as served:
        checked(await ask(served), 504)
        assert served.told("route.forwarded")[0]["attempts"] == 1
        assert 0.25 <= served.told("route.forwarded")[0]["seconds"] < 5


async def test_the_retry_budget_holds_in_a_total_outage() -> None:
    settings = BalancingSettings(retry_statuses=(503,), retry_floor=0.0)
    async with (
        upstream(answering(AWAY)) as a,
        upstream(answering(AWAY)) as b,
        upstream(answering(AWAY)) as c,
        gateway([a.url, b.url, c.url], balancing=settings) as served,
    ):
        found = await answers(served, 400, at_once=8)
        assert {each.status for each in found} == {503}
        await eventually(lambda: len(served.told("route.forwarded")) == 400)
        attempts = sum(told["attempts"] for told in served.told("route.forwarded"))
        assert 440 <= attempts <= 480
        assert max(told["attempts"] for told in served.told("route.forwarded")) == 2


async def test_a_status_is_worth_a_second_try_where_the_route_says_so() -> None:
    settings = BalancingSettings(policy="round-robin", retry_statuses=(503,), most_ejected=0.0, retry_share=1.0)
    async with (
        upstream(answering(AWAY)) as bad,
        upstream(answering(OK)) as up,
        gateway([bad.url, up.url], balancing=settings) as served,
    ):
        assert {each.status for each in await answers(served, 20, at_once=1)} == {200}
        told = Counter(each["error"] for each in served.told("upstream.failed"))
        assert set(told) == {"503"}
        posted = await answers(served, 20, request=post(b"x"), at_once=1)
        assert {each.status for each in posted} == {200, 503}


async def test_nobody_there_is_503_and_each_is_asked_once() -> None:
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    async with gateway(dead) as served:
        checked(await ask(served), 503)
        assert {told["upstream"] for told in served.told("upstream.failed")} == set(dead)
        assert served.told("route.forwarded")[0]["attempts"] == 3


async def test_a_broken_answer_is_502_and_says_when_to_come_back() -> None:
    async with upstream(answering(b"secret garbage\r\n\r\n")) as up, gateway(up.url) as served:
        checked(await ask(served), 502, "garbage")


@contextlib.asynccontextmanager
async def held(**settings: Any) -> AsyncIterator[tuple[Served, asyncio.Event, list[Peer]]]:
    """A gateway whose one instance has one request, which it answers when the event is set."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.message()
            await go.wait()
            await peer.send(OK)

    balancing = BalancingSettings(most_in_flight=1, **settings)
    async with upstream(script) as up, gateway(up.url, balancing=balancing) as served, client(served.port) as first:
        await first.send(get())
        await eventually(lambda: len(up.peers) == 1 and b"\r\n\r\n" in up.seen)
        yield served, go, up.peers
        go.set()
        assert (await first.message()).status == 200


async def test_a_full_instance_gets_no_more_and_who_waits_too_long_is_503() -> None:
    async with held(pending_deadline=0.1) as (served, _, peers):
        checked(await ask(served), 503)
        assert len(peers) == 1


async def test_no_more_wait_than_may() -> None:
    async with held(most_pending=0, pending_deadline=30.0) as (served, _, _peers):
        checked(await ask(served), 503)


async def test_who_waits_in_line_is_next() -> None:
    async with (
        held(pending_deadline=30.0) as (served, go, peers),
        client(served.port) as second,
        client(served.port) as third,
    ):
        for peer in (second, third):
            await peer.send(get())
        await asyncio.sleep(0.05)
        assert len(peers) == 1
        go.set()
        assert (await second.message()).status == 200
        assert (await third.message()).status == 200


async def test_a_client_that_leaves_the_line_gives_its_place_up() -> None:
    async with held(most_pending=1, pending_deadline=30.0) as (served, go, _peers):
        async with client(served.port) as second:
            await second.send(get())
            await asyncio.sleep(0.05)
        await eventually(lambda: bool(served.told("route.forwarded")))
        assert served.told("route.forwarded")[0]["gone"] is True
        third = asyncio.create_task(ask(served))
        await asyncio.sleep(0.05)
        go.set()
        assert (await third).status == 200


async def test_a_client_that_leaves_says_nothing_of_the_instance() -> None:
    async def silent(peer: Peer) -> None:
        await peer.message()
        await peer.rest()

    async with upstream(silent) as up, gateway(up.url, balancing=BalancingSettings(consecutive_failures=1)) as served:
        for number in range(3):
            async with client(served.port) as peer:
                await peer.send(get())
                await eventually(lambda: len(up.peers) == number + 1 and b"\r\n\r\n" in up.peers[-1].seen)  # noqa: B023
            await eventually(lambda: len(served.told("route.forwarded")) == number + 1)  # noqa: B023
        assert served.told("instance.ejected") == []


async def test_an_instance_that_breaks_an_upload_off_is_counted_and_one_that_waits_for_it_is_not() -> None:
    async def breaks(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")

    async def waits(peer: Peer) -> None:
        await peer.message()
        await peer.rest()

    settings = BalancingSettings(consecutive_failures=1, try_deadline=0.2)
    for script, ejected in ((breaks, 1), (waits, 0)):
        async with upstream(script) as up, gateway(up.url, balancing=settings) as served, client(served.port) as peer:
            await peer.send(get(b"/", b"Content-Length: 1000000", method=b"POST") + b"x" * 1000)
            assert (await peer.message()).status == (502 if ejected else 504)
            assert len(served.told("instance.ejected")) == ejected


async def test_a_request_lost_with_a_kept_connection_goes_to_another_instance_once_and_nobody_is_blamed() -> None:
    async def once(peer: Peer) -> None:
        await peer.message()
        await peer.send(OK)
        await peer.message()

    settings = BalancingSettings(policy="round-robin", consecutive_failures=1)
    async with upstream(once) as a, upstream(once) as b, gateway([a.url, b.url], balancing=settings) as served:
        for _ in range(2):
            assert (await ask(served)).status == 200
        # Both kept connections end when the next request comes: one retry it has, on the other instance.
        checked(await ask(served), 502)
        assert {told["upstream"] for told in served.told("upstream.failed")} == {a.url, b.url}
        assert served.told("instance.ejected") == []
        assert (await ask(served)).status == 200


async def test_a_safe_request_that_a_new_connection_was_closed_on_goes_to_another_instance_once() -> None:
    async def never_taken(peer: Peer) -> None:
        await peer.message()
        peer.reset()

    async def works(peer: Peer) -> None:
        while True:
            await peer.message()
            await peer.send(OK)

    settings = BalancingSettings(policy="round-robin", consecutive_failures=2)
    async with upstream(never_taken) as a, upstream(works) as b, gateway([a.url, b.url], balancing=settings) as served:
        assert [(await ask(served)).status for _ in range(4)] == [200] * 4
        assert [told["instance"] for told in served.told("instance.ejected")] == [a.url], "it is blamed"
        assert max(told["attempts"] for told in served.told("route.forwarded")) == 2
    async with upstream(never_taken) as a, upstream(works) as b, gateway([a.url, b.url], balancing=settings) as served:
        statuses = [(await ask(served, get(b"/", b"Content-Length: 0", method=b"POST"))).status for _ in range(4)]
        assert sorted(statuses)[-1] == 502, "what may have been done is not asked again"
        assert {told["attempts"] for told in served.told("route.forwarded")} == {1}
    async with upstream(never_taken) as a, upstream(never_taken) as b, gateway([a.url, b.url]) as served:
        checked(await ask(served), 502)
        assert served.told("route.forwarded")[-1]["attempts"] == 2


async def test_without_a_budget_nothing_is_asked_twice() -> None:
    async def once(peer: Peer) -> None:
        await peer.message()
        await peer.send(OK)
        await peer.message()

    settings = BalancingSettings(retry_share=0.0, retry_floor=0.0)
    async with upstream(once) as up, gateway(up.url, balancing=settings) as served:
        assert (await ask(served)).status == 200
        checked(await ask(served), 502)
        assert served.told("route.forwarded")[-1]["attempts"] == 1


async def test_copies_for_a_mirror_leave_a_dead_instance_alone_too() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with (
        upstream(answering(OK)) as up,
        upstream(answering(OK)) as shadow,
        gateway(up.url, mirror=[dead, shadow.url]) as served,
    ):
        for number in range(30):
            assert (await ask(served)).status == 200
            await eventually(lambda: len(served.told("route.mirrored")) == number + 1)  # noqa: B023
        failed = [each["upstream"] for each in served.told("route.mirrored") if "error" in each]
        assert set(failed) <= {dead}
        assert len(failed) <= 3


async def test_an_answer_that_breaks_off_is_cut_counted_and_never_repeated() -> None:
    async def half(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with upstream(half) as bad, upstream(answering(OK)) as up:
        settings = BalancingSettings(policy="round-robin", consecutive_failures=2)
        async with gateway([bad.url, up.url], balancing=settings) as served:
            for _ in range(4):
                async with client(served.port) as peer:
                    await peer.send(get())
                    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                        await peer.message()
            await eventually(lambda: len(served.told("route.forwarded")) == 4)
            assert [told["attempts"] for told in served.told("route.forwarded")] == [1] * 4
            ejected = served.told("instance.ejected")
            assert [(each["instance"], each["reason"]) for each in ejected] == [
                (bad.url, "2 failures in a row: its connection broke")
            ]


async def test_a_websocket_to_a_dead_instance_goes_to_the_next() -> None:
    async def serve(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    told: list[Any] = []
    dead = f"http://127.0.0.1:{free_port()}"
    async with websocket_server(serve) as url:
        cop = TrafficCop(observer=told.append)
        cop.route("/*", to=[dead, url], balancing="round-robin")
        async with socket_gateway(cop_app(cop)) as running:
            for _ in range(12):
                async with connect(running.url("/x")) as socket:
                    await socket.send("hello")
                    assert await socket.recv() == "hello"
    assert [each.attributes["instance"] for each in told if each.kind == "instance.ejected"] == [dead]


async def test_a_session_or_client_stays_with_its_instance_under_hash() -> None:
    async with contextlib.AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(upstream(answering(OK)))).url for _ in range(5)]
        settings = {"balancing": "hash", "trusted_proxies": ["127.0.0.1/32"]}
        served = await stack.enter_async_context(gateway(urls, **settings))
        for number in range(20):
            for _ in range(3):
                await ask(served, get(b"/", b"X-Forwarded-For: 192.0.2.%d" % number))
        placed = [told["upstream"] for told in served.told("route.forwarded")]
        assert all(len(set(placed[at : at + 3])) == 1 for at in range(0, 60, 3))
        assert len(set(placed)) > 2


async def test_what_is_known_of_instances_outlasts_a_change_of_the_route() -> None:
    table = Gateway()

    def put(to: Any, **settings: Any) -> GatewayRoute:
        found = route("/a", to=to, name="a", **settings)
        table.change({"a": found})
        return found

    one = put([Upstream("http://a", 2), Upstream("http://b"), Upstream("http://b")])
    pool = table.pool_of(one)
    assert [each.name for each in pool.snapshot().instances] == ["http://a", "http://b", "http://b #2"]
    pool.drain("http://a")
    assert table.pool_of(one) is pool
    other = put([Upstream("http://a", 5), Upstream("http://b"), Upstream("http://b")], balancing="p2c")
    assert table.pool_of(other) is pool
    assert pool.snapshot().policy == "p2c"
    assert [each.share for each in pool.snapshot().instances] == [5, 1, 1]
    assert pool["http://a"].draining
    more = table.pool_of(put([Upstream("http://c"), Upstream("http://a")]))
    assert more is not pool
    assert more["http://a"].draining
    assert table.pool_of(one) is pool, "whose requests are still on their way"
    moved = put("http://d")
    again = put("http://c")
    newest = table.pool_of(again)
    assert table.pool_of(moved) is not newest
    assert [each.name for each in table.pool_of(moved).snapshot().instances] == ["http://d"]
    assert table.pool_of(again) is newest
    assert table.pool_of(put(["http://c", "http://d"]))["http://c"].identity is newest["http://c"].identity
    await table.close()


async def test_a_route_of_the_code_that_stands_again_is_as_the_code_says() -> None:
    events: list[Any] = []
    table = Gateway(emit=lambda kind, attributes: events.append((kind, attributes["instance"])))
    own = BalancingSettings(policy="random", consecutive_failures=1, slow_start=0.0)
    first = route("/a", to=[Upstream("http://a", 3), "http://b"], name="a", mirror="http://m", balancing=own)
    table.add(first)
    pool, mirror = table.pool_of(first), table.mirror_of(first)
    for to in (["http://a", "http://b"], ["http://a", "http://c"]):
        other = route("/a", to=to, name="a", balancing="p2c", mirror="http://n")
        table.change({"a": other})
        table.pool_of(other).drain("http://a")
        table.mirror_of(other)
        table.change({"a": None})
        again = table.pool_of(first)
        assert again.settings is own
        assert [each.share for each in again.instances.values()] == [3, 1]
        assert again["http://a"].draining, "what was known of it last"
        again.resume("http://a")
        events.clear()
        again.began(again["http://a"]).ended(Outcome.FAILED)
        assert ("instance.ejected", "http://a") in events
        assert set(again.instances) == {"http://a", "http://b"}
        copies = table.mirror_of(first)
        assert copies is not None
        events.clear()
        copies.mark("http://m", healthy=False)
        assert events == [("instance.unhealthy", "http://m")]
    assert again is not pool
    assert copies is not mirror
    await table.close()


async def test_event_loops_that_end_without_a_lifespan_are_not_kept() -> None:
    table = Gateway()
    found = route("/a", to=Service("a", dns="http://127.0.0.1:1"), name="a")
    table.add(found)

    async def use() -> weakref.ref[Any]:
        table.pool_of(found)
        return weakref.ref(asyncio.get_running_loop())

    ended = [await asyncio.to_thread(asyncio.run, use()) for _ in range(4)]
    table.pool_of(found)
    gc.collect()
    assert [each() for each in ended] == [None] * 4
    await table.close()


async def test_a_request_of_an_old_route_is_tried_at_its_own_instances_alone() -> None:
    """It is on its way while the route is put anew, and finds the instance that it is at dead."""
    go = asyncio.Event()

    async def dies(peer: Peer) -> None:
        await peer.message()
        await go.wait()

    events: list[Any] = []
    settings = BalancingSettings(policy="round-robin", try_deadline=5.0, consecutive_failures=1)
    async with upstream(dies) as ill, upstream(answering(OK)) as kept, upstream(answering(OK)) as new:
        cop = TrafficCop(observer=events.append)
        cop.route("/*", to=[ill.url, kept.url], name="all", balancing=settings, keep_host=False)
        found = Served()
        async with served(cop, found, parser="httptools") as running, client(running.port) as peer:
            await peer.send(get())
            await eventually(lambda: b"\r\n\r\n" in ill.seen + kept.seen)
            if not ill.seen:  # whoever is first by chance
                assert (await peer.message()).status == 200
                await peer.send(get())
                await eventually(lambda: b"\r\n\r\n" in ill.seen)
            pool = cop._gateway.pool_of(next(iter(cop._gateway.table)))
            assert pool[ill.url].in_flight == 1
            changed = route("/*", to=[new.url, ill.url], name="all", balancing=settings)
            cop._gateway.change({"all": changed})
            follower = cop._gateway.pool_of(changed)
            assert follower[ill.url].in_flight == 1
            before = kept.seen.count(b"GET / ")
            go.set()
            assert (await peer.message()).status == 200
            assert kept.seen.count(b"GET / ") == before + 1, "its own other instance"
            assert follower[ill.url].in_flight == 0
            assert follower.snapshot().instances[1].state == "ejected"
            assert new.seen == b""
            assert (await ask(running)).status == 200
            assert new.seen.count(b"GET / ") == 1


async def test_balancing_survives_being_a_record() -> None:
    plain = route("/a", to="http://a", name="r")
    assert "balancing" not in route_record(plain)
    settings = BalancingSettings(policy="hash", retry_statuses=(503,), most_in_flight=9)
    each = route("/a", to="http://a", name="r", balancing=settings)
    record = json.loads(json.dumps(route_record(each)))
    assert record["balancing"] == {"policy": "hash", "retry_statuses": [503], "most_in_flight": 9}
    assert action_of(route_from("r", record)).balancing == settings
    for wrong in ("fastest", 7):
        with pytest.raises(ConfigurationError, match="policy"):
            route("/a", to="http://a", balancing=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is for routes to upstreams"):
        route("/a", to=TrafficCop, balancing="p2c")
