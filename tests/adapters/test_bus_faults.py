"""The Redis bus when notifications get lost, and when its connection, its server or its log does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.adapters.load import LOOPS, Command, FakeRedis, Run, greet, poll, run_on
from tests.servers import RedisServer, running_redis
from traffic_cop_middleware.adapters import redis as adapter
from traffic_cop_middleware.adapters.redis import RedisBackend
from traffic_cop_middleware.adapters.redis.bus import PUBLISH
from traffic_cop_middleware.adapters.redis.notifications import Notifications
from traffic_cop_middleware.contracts import Message
from traffic_cop_middleware.errors import StoreError, StoreUnavailable
from traffic_cop_middleware.testing.bus_contract import Hearing

pytestmark = pytest.mark.redis_server

OFTEN = 0.05
NEVER = 1000.0
NAMESPACE = "faults"


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a scenario on asyncio's own loop and on uvloop; what it leaks is a warning, and so a failure."""
    yield partial(run_on, LOOPS[request.param])
    gc.collect()


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traffic_cop")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("traffic_cop")]


def unconnected(url: str, *, every: float = OFTEN, deadline: float = 10.0) -> RedisBackend:
    backend = adapter.open(url, namespace=NAMESPACE, deadline=deadline, notify=lambda event: None)
    backend.bus.poll = every
    return backend


@contextlib.asynccontextmanager
async def worker(url: str, *, every: float = OFTEN, deadline: float = 10.0) -> AsyncIterator[RedisBackend]:
    backend = unconnected(url, every=every, deadline=deadline)
    await backend.connect()
    try:
        yield backend
    finally:
        await backend.close()


async def subscribed(backend: RedisBackend, topic: str) -> Hearing:
    """Somebody who listens, and gets notifications."""
    hearing = Hearing()
    backend.bus.subscribe(topic, hearing)
    number = 0
    while (await backend.link.ask("PUBSUB", "NUMSUB", f"{NAMESPACE}:m:{{{topic}}}@0"))[1] < 1:
        number += 1
        assert number < 6000
        await asyncio.sleep(0.005)
    return hearing


async def published(backend: RedisBackend, topic: str, payload: str) -> int:
    """Publish as soon as Redis can be reached; a message of that name may have been told before."""
    end = asyncio.get_running_loop().time() + 30
    while True:
        try:
            return await backend.bus.publish(topic, payload)
        except StoreError:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)


async def published_unheard(backend: RedisBackend, topic: str, payload: str) -> int:
    """Publish, and let the notification get lost."""
    keys = (f"{NAMESPACE}:m:{{{topic}}}v", f"{NAMESPACE}:m:{{{topic}}}log")
    version: int = await backend.link.ask("EVAL", PUBLISH.text, 2, *keys, payload, "nobody listens here", 256, 99, 99)
    return version


async def pubsub_connections(backend: RedisBackend) -> int:
    return (await backend.link.ask("CLIENT", "LIST", "TYPE", "pubsub")).count(b"id=")


async def until_pubsub_connections(backend: RedisBackend, number: int) -> None:
    for _ in range(6000):
        if await pubsub_connections(backend) == number:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never {number} connections")


# Lost notifications


def test_a_lost_notification_only_delays_its_message_until_the_poll(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url) as backend:
            hearing = await subscribed(backend, "limits")
            assert await published_unheard(backend, "limits", "one") == 1
            await hearing.hears("one")
            await published(backend, "limits", "two")
            await hearing.hears("one", "two")
            assert hearing.versions == [1, 2]

    run(scenario())


def test_the_message_after_a_lost_one_brings_both_without_the_poll(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend:
            hearing = await subscribed(backend, "limits")
            for number in range(100):
                await published_unheard(backend, "limits", f"lost {number}")
            await published(backend, "limits", "heard")
            await hearing.hears(*(f"lost {number}" for number in range(100)), "heard")
            assert hearing.versions == list(range(1, 102))

    run(scenario())


def test_large_messages_that_were_missed_come_in_several_pages(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER, deadline=10) as backend:
            hearing = await subscribed(backend, "limits")
            payloads = [f"{number} " + "x" * 60_000 for number in range(50)]
            for payload in payloads:
                await published_unheard(backend, "limits", payload)
            await published(backend, "limits", "heard")
            await hearing.hears(*payloads, "heard")

    run(scenario())


def test_what_the_log_has_forgotten_is_told_as_one_message_without_payload(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend:
            hearing = await subscribed(backend, "limits")
            await published(backend, "limits", "first")
            await hearing.hears("first")
            await asyncio.gather(*(published_unheard(backend, "limits", "lost") for _ in range(300)))
            await published(backend, "limits", "the newest")
            await hearing.hears("first", None)
            assert hearing.versions == [1, 302]
            await published(backend, "limits", "after")
            await hearing.hears("first", None, "after")
            assert await backend.link.ask("LLEN", f"{NAMESPACE}:m:{{limits}}log") == 256

    run(scenario())


def test_a_notification_that_nobody_of_ours_wrote_changes_nothing(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend:
            hearing = await subscribed(backend, "limits")
            await published(backend, "limits", "one")
            for text in ("", "nonsense", "2 x y z", "7 7 7 from nowhere", "1 1 0 again", b"\xff 2 3 \xff"):
                await backend.link.ask("PUBLISH", f"{NAMESPACE}:m:{{limits}}@0", text)
            await published(backend, "limits", "two")
            await hearing.hears("one", "two")

    run(scenario())


def test_another_database_of_one_server_is_another_bus(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        other_url = redis_server.url.removesuffix("0") + "1"
        async with worker(redis_server.url) as backend, worker(other_url) as other:
            hearing = await subscribed(backend, "limits")
            assert await published(other, "limits", "not for us") == 1
            assert await published(backend, "limits", "for us") == 1
            await hearing.hears("for us")

    run(scenario())


# A log that begins anew


@pytest.mark.parametrize("messages", [0, 1, 2, 3, 5])
def test_a_log_that_began_anew_is_never_taken_for_the_old_one(
    messages: int, run: Run, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url) as backend:
            hearing = await subscribed(backend, "limits")
            for payload in ("one", "two"):
                await published(backend, "limits", payload)
            await hearing.hears("one", "two")
            asked = [backend.link.ask("FLUSHALL")]
            asked += [asyncio.ensure_future(published_unheard(backend, "limits", "unheard")) for _ in range(messages)]
            await asyncio.gather(*asked)
            await poll(lambda: len(hearing.messages) > 2)
            assert hearing.messages[2].payload is None
            await published(backend, "limits", "last")
            await poll(lambda: hearing.payloads[-1] == "last")
            assert hearing.versions[-1] == messages + 1
            after = hearing.messages[2:]
            assert [message.version for message in after] == list(range(after[0].version, messages + 2))

    run(scenario())


@pytest.mark.parametrize(
    "garbage",
    [("SET", "v", "nonsense"), ("SET", "v", "99999999999999999999 1"), ("RPUSH", "v", "x"), ("HSET", "v", "x", "y")],
)
def test_garbage_in_the_counter_begins_the_log_anew(
    garbage: tuple[str, ...], run: Run, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend:
            hearing = await subscribed(backend, "limits")
            await published(backend, "limits", "one")
            await hearing.hears("one")
            command, key, *values = garbage
            await backend.link.ask("DEL", f"{NAMESPACE}:m:{{limits}}{key}")
            await backend.link.ask(command, f"{NAMESPACE}:m:{{limits}}{key}", *values)
            assert await published(backend, "limits", "anew") == 1
            await poll(lambda: len(hearing.messages) == 2)
            assert hearing.messages[1] == Message("limits", 1, None)
            await published(backend, "limits", "two")
            await hearing.hears("one", None, "two")

    run(scenario())


def test_a_log_that_holds_something_else_or_is_gone_costs_only_what_was_missed(
    run: Run, redis_server: RedisServer
) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend:
            hearing = await subscribed(backend, "limits")
            log = f"{NAMESPACE}:m:{{limits}}log"
            await published(backend, "limits", "one")
            await backend.link.ask("SET", log, "a text")
            assert await published(backend, "limits", "two") == 2
            await hearing.hears("one", "two")
            await published_unheard(backend, "limits", "lost")
            await backend.link.ask("DEL", log)
            assert await published(backend, "limits", "four") == 4
            await hearing.hears("one", "two", None)
            assert hearing.versions == [1, 2, 4]

    run(scenario())


# Lost connections


def test_when_only_the_notifications_connection_is_killed_messages_go_on_once_and_in_order(
    run: Run, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, every=NEVER) as backend, worker(redis_server.url) as other:
            hearing = await subscribed(backend, "limits")
            for number in range(200):
                if number == 90:
                    await until_pubsub_connections(other, 1)
                if number in (20, 21, 90):
                    assert await other.link.ask("CLIENT", "KILL", "TYPE", "pubsub") == (number != 21)
                await published(other, "limits", str(number))
            await hearing.hears(*map(str, range(200)))
            await until_pubsub_connections(backend, 1)
            await published(other, "limits", "after")
            await hearing.hears(*map(str, range(200)), "after")

    run(scenario())
    assert said(caplog) == [], "nothing was lost, so there is nothing to tell"


def test_a_frozen_redis_delays_messages_and_loses_none(
    run: Run, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with worker(own_redis.url, deadline=0.25) as backend:
            hearing = await subscribed(backend, "limits")
            await published(backend, "limits", "before")
            await hearing.hears("before")
            own_redis.freeze()
            with pytest.raises(StoreUnavailable):
                await backend.bus.publish("limits", "sent to a frozen one")
            await poll(lambda: not backend.link.up)
            own_redis.thaw()
            await published(backend, "limits", "after")
            await poll(lambda: hearing.payloads[-1] == "after")
            assert hearing.payloads in (["before", "after"], ["before", "sent to a frozen one", "after"])
            assert hearing.versions == list(range(1, len(hearing.messages) + 1))
            await until_pubsub_connections(backend, 1)
            await published(backend, "limits", "last")
            await poll(lambda: hearing.payloads[-1] == "last")

    run(scenario())
    told = said(caplog)
    assert len(told) == 2
    assert "is lost" in told[0]
    assert "is back" in told[1]


@pytest.mark.parametrize("messages", [0, 1, 4])
def test_a_killed_redis_that_comes_back_empty_is_told_and_goes_on(
    messages: int, run: Run, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with worker(own_redis.url) as backend, worker(own_redis.url) as other:
            hearing, silent = await subscribed(backend, "limits"), await subscribed(backend, "routes")
            for payload in ("one", "two"):
                await published(other, "limits", payload)
            await hearing.hears("one", "two")
            own_redis.kill()
            await poll(lambda: not backend.link.up)
            own_redis.start()
            for number in range(messages):
                await published(other, "limits", str(number))
            await poll(lambda: len(hearing.messages) > 2)
            assert hearing.messages[2].payload is None
            await published(other, "limits", "last")
            await poll(lambda: hearing.payloads[-1] == "last")
            after = [message.version for message in hearing.messages[2:]]
            assert after == list(range(after[0], messages + 2))
            await published(other, "routes", "the first")
            await silent.hears("the first")
            await until_pubsub_connections(backend, 1)

    run(scenario())
    assert sorted(text.split()[2] for text in said(caplog)) == ["back;", "back;", "lost", "lost"]


def test_a_connection_that_died_without_a_word_is_replaced(run: Run) -> None:
    async def scenario() -> None:
        def answer(command: Command) -> bytes | None:
            confirmed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
            return confirmed if command[0] == b"SUBSCRIBE" else None

        async with FakeRedis(answer) as server:
            answers_pings = True
            server.greet = lambda command: None if command[0] == b"PING" and not answers_pings else greet(command)
            listening: list[str] = []
            notifications = Notifications(
                lambda: Connection(host="127.0.0.1", port=server.port, protocol=2, retry=Retry(NoBackoff(), 0)),
                reachable=lambda: True,
                heard=lambda channel, text: None,
                listening=listening.append,
            )
            notifications.want("c")
            await poll(lambda: listening == ["c"])
            notifications.check()
            await poll(lambda: not notifications._unanswered)
            answers_pings = False
            notifications.check()
            assert server.accepted == 1
            notifications.check()
            await poll(lambda: listening == ["c", "c"])
            assert server.accepted == 2
            notifications.drop()
            await notifications.ended()

    run(scenario())


def test_who_leaves_and_comes_again_while_it_connects_has_one_connection(run: Run) -> None:
    async def scenario() -> None:
        def answer(command: Command) -> bytes | None:
            return b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" if command[0] == b"SUBSCRIBE" else None

        for ticks in range(24):
            async with FakeRedis(answer) as server:
                listening: list[str] = []
                notifications = Notifications(
                    partial(Connection, host="127.0.0.1", port=server.port, protocol=2, retry=Retry(NoBackoff(), 0)),
                    reachable=lambda: True,
                    heard=lambda channel, text: None,
                    listening=listening.append,
                )
                notifications.want("c")
                for _ in range(ticks):
                    await asyncio.sleep(0)
                notifications.drop()
                listening.clear()
                notifications.want("c")
                await poll(lambda listening=listening: listening)
                await notifications.ended()
                await poll(lambda server=server: len(server.talks) == 1)
                notifications.drop()
                await notifications.ended()
                await poll(lambda server=server: not server.talks)

    run(scenario())


# Subscriptions while Redis is not there


def test_a_subscription_from_before_the_connection_hears_from_then_on(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url) as other:
            await published(other, "limits", "long before")
            backend = unconnected(redis_server.url)
            hearing, second = Hearing(), Hearing()
            backend.bus.subscribe("limits", hearing)
            backend.bus.subscribe("limits", second)
            await published(other, "limits", "just before")
            await backend.connect()
            try:
                await backend.link.ask("PING")
                await published(other, "limits", "after")
                await hearing.hears("after")
                await second.hears("after")
                assert hearing.versions == [3]
            finally:
                await backend.close()

    run(scenario())


def test_a_subscription_while_redis_is_away_begins_without_payload_when_it_is_back(
    run: Run, own_redis: RedisServer
) -> None:
    async def scenario() -> None:
        async with worker(own_redis.url) as backend:
            own_redis.kill()
            await poll(lambda: not backend.link.up)
            hearing, second = Hearing(), Hearing()
            backend.bus.subscribe("limits", hearing)
            backend.bus.subscribe("limits", second)
            own_redis.start()
            await hearing.hears(None)
            await second.hears(None)
            await published(backend, "limits", "one")
            await hearing.hears(None, "one")
            await second.hears(None, "one")

    run(scenario())


def test_who_joins_others_while_redis_is_away_hears_what_they_hear(run: Run, own_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(own_redis.url, deadline=0.25) as backend, worker(own_redis.url, deadline=10) as other:
            first = await subscribed(backend, "limits")
            await published(other, "limits", "one")
            await first.hears("one")
            own_redis.freeze()
            await poll(lambda: not backend.link.up)
            joined = Hearing()
            backend.bus.subscribe("limits", joined)
            meanwhile = asyncio.ensure_future(other.bus.publish("limits", "two"))
            await asyncio.sleep(0)
            own_redis.thaw()
            assert await meanwhile == 2
            await first.hears("one", "two")
            await joined.hears("two")

    run(scenario())


def test_a_start_without_redis_tells_those_who_subscribed_before_when_it_is_there(
    run: Run, own_redis: RedisServer
) -> None:
    async def scenario() -> None:
        own_redis.kill()
        backend = unconnected(own_redis.url)
        hearing = Hearing()
        backend.bus.subscribe("limits", hearing)
        await backend.connect(patience=0.05)
        try:
            own_redis.start()
            await hearing.hears(None)
            await published(backend, "limits", "one")
            await hearing.hears(None, "one")
        finally:
            await backend.close()

    run(scenario())


# What is not allowed


def test_who_may_not_subscribe_hears_by_the_poll_and_is_told_once(
    run: Run, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        redis_server.command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "resetchannels")
        url = redis_server.url.replace("//", "//deaf:secret@")
        try:
            async with worker(url) as backend:
                hearing = Hearing()
                backend.bus.subscribe("limits", hearing)
                for number in range(20):
                    assert await published(backend, "limits", str(number)) == number + 1
                    await hearing.hears(*map(str, range(number + 1)))
                await poll(lambda: said(caplog))
                redis_server.command("ACL", "SETUSER", "deaf", "allchannels")
                await poll(lambda: len(said(caplog)) == 2)
                await published(backend, "limits", "by notification")
                await poll(lambda: hearing.payloads[-1] == "by notification")
        finally:
            redis_server.command("ACL", "DELUSER", "deaf")

    run(scenario())
    assert len(said(caplog)) == 2
    assert "gives no notifications" in said(caplog)[0]
    assert "by the poll" in said(caplog)[0]
    assert said(caplog)[1] == "Redis gives notifications again"


def test_a_password_and_resp3_serve_the_notifications_too(run: Run, tmp_path: Any) -> None:
    async def scenario() -> None:
        with running_redis(tmp_path, "--requirepass", "secret") as server:
            url = server.url.replace("//", "//:secret@")
            for options in ("", "?protocol=3"):
                async with worker(url + options, every=NEVER) as backend:
                    hearing = Hearing()
                    backend.bus.subscribe("limits", hearing)
                    await until_pubsub_connections(backend, 1)
                    await published(backend, "limits", "one")
                    await hearing.hears("one")

    run(scenario())


# What is left behind


def test_nothing_runs_and_nothing_is_connected_while_nobody_listens(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url) as backend:
            tasks = asyncio.all_tasks()
            await published(backend, "limits", "nobody hears this")
            assert await pubsub_connections(backend) == 0
            for _ in range(3):
                ends = [backend.bus.subscribe(topic, Hearing()) for topic in ("limits", "limits", "routes")]
                await until_pubsub_connections(backend, 1)
                for end in ends:
                    end()
                await until_pubsub_connections(backend, 0)
                await poll(lambda: asyncio.all_tasks() == tasks)
            for _ in range(100):
                backend.bus.subscribe("limits", Hearing())()
            await until_pubsub_connections(backend, 0)
            await poll(lambda: asyncio.all_tasks() == tasks)
            hearing = await subscribed(backend, "limits")
            await published(backend, "limits", "one")
            await hearing.hears("one")

    run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_ends_without_a_close_leaves_no_socket_and_no_task(loop: str, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        backend = unconnected(redis_server.url)
        await backend.connect()
        hearing = await subscribed(backend, "limits")
        await published(backend, "limits", "one")
        await hearing.hears("one")

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())
    gc.collect()
    listed = redis_server.command("CLIENT", "LIST", "TYPE", "pubsub")
    assert b"id=" not in listed


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_ends_while_redis_is_away_leaves_nothing_either(loop: str, own_redis: RedisServer) -> None:
    async def scenario() -> None:
        backend = unconnected(own_redis.url)
        await backend.connect()
        await subscribed(backend, "limits")
        own_redis.kill()
        await poll(lambda: not backend.link.up)
        backend.bus.subscribe("routes", Hearing())

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())
    gc.collect()


def test_a_close_with_questions_in_flight_leaves_nothing(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        for ticks in range(12):
            backend = unconnected(redis_server.url)
            await backend.connect()
            hearing = Hearing()
            backend.bus.subscribe("limits", hearing)
            asked = backend.bus.publish("limits", "one")
            for _ in range(ticks):
                await asyncio.sleep(0)
            await backend.close()
            with contextlib.suppress(StoreUnavailable):
                await asked

    run(scenario())


# Processes

OTHER_PROCESS = """
import asyncio, json, sys
from traffic_cop_middleware.adapters import redis

async def main(url, namespace):
    backend = redis.open(url, namespace=namespace, deadline=5, notify=lambda event: None)
    await backend.connect(patience=30)
    heard = asyncio.Event()
    backend.bus.subscribe("to the other", lambda message: heard.set())
    await backend.bus.publish("to the first", "ready")
    await asyncio.wait_for(heard.wait(), 60)
    for number in range(100):
        await backend.bus.publish("to the first", str(number))
    await backend.close()

asyncio.run(main(*json.loads(sys.argv[1])))
"""


def test_two_processes_hear_each_other(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with worker(redis_server.url, deadline=10) as backend:
            hearing = await subscribed(backend, "to the first")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", "-c", OTHER_PROCESS, json.dumps([redis_server.url, NAMESPACE])
            )
            try:
                await poll(lambda: hearing.payloads == ["ready"], deadline=60)
                await published(backend, "to the other", "go on")
                await hearing.hears("ready", *map(str, range(100)))
                assert hearing.versions == list(range(1, 102))
                assert await asyncio.wait_for(process.wait(), 60) == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    run(scenario())
