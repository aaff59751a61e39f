"""The one connection that an event loop asks Redis through: framing, order, deadlines, losses and ways back."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.adapters.load import (
    LOOPS,
    Command,
    FakeRedis,
    LoopLag,
    OpenLink,
    Run,
    echo,
    greet,
    poll,
    run_on,
    ticks_until,
)
from tests.servers import RedisServer, free_port, running_redis
from traffic_cop_middleware import ConfigurationError, TrafficCop
from traffic_cop_middleware.adapters import redis as adapter
from traffic_cop_middleware.adapters.redis import link as link_module
from traffic_cop_middleware.adapters.redis import opening
from traffic_cop_middleware.contracts import Event, Take
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a scenario on asyncio's own loop and on uvloop; what it leaks is a warning, and so a failure."""
    monkeypatch.setattr(opening, "CONNECT_DEADLINE", 30.0)  # a slow machine is no outage
    yield partial(run_on, LOOPS[request.param])
    gc.collect()


def nothing(_: Event) -> None: ...


# Framing and order


def test_what_is_asked_within_one_tick_is_one_write(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:

            async def request(number: int) -> None:
                assert await opened.link.ask("ECHO", number) == b"%d" % number

            await asyncio.gather(*(request(number) for number in range(500)))
            assert [len(write) for write in server.writes] == [500]
            await asyncio.gather(*(request(number) for number in range(3)))
            assert [len(write) for write in server.writes] == [500, 3]

    run(scenario())


def test_takes_of_concurrent_requests_are_one_write_and_few_script_calls(run: Run) -> None:
    async def scenario() -> None:
        def answer(command: Command) -> bytes:
            groups = int(command[2]) if command[0] == b"EVALSHA" else 0
            return b"*%d\r\n" % (2 * groups) + b":1\r\n:7\r\n" * groups if groups else b":1\r\n"

        async with FakeRedis(answer) as server:
            backend = adapter.open(server.url, namespace="tc", deadline=10, notify=nothing)
            await backend.connect()
            try:
                await poll(lambda: server.writes)  # the census
                server.writes.clear()
                takes = (backend.buckets.take([Take(f"{{{number}}}", 10, 1)]) for number in range(200))
                assert all(taken.answers == [7] for taken in await asyncio.gather(*takes))
                assert [[command[0] for command in write] for write in server.writes] == [[b"EVALSHA"] * 4]
            finally:
                await backend.close()

    run(scenario())


def test_thousands_of_concurrent_asks_each_get_their_own_reply(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with OpenLink(redis_server.port, deadline=10) as opened:

            async def caller(number: int) -> None:
                for turn in range(3):
                    assert await opened.link.ask("ECHO", f"{number}:{turn}") == b"%d:%d" % (number, turn)
                    if number % 7 == 0:
                        await asyncio.sleep(0)

            await asyncio.gather(*(caller(number) for number in range(4000)))

    run(scenario())


def test_replies_cut_anywhere_come_out_whole(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port) as opened:
            asked = [opened.link.ask("ECHO", number) for number in range(3)]
            await poll(lambda: server.writes)
            for byte in b"$5\r\nfirst\r\n*2\r\n:1\r\n$-1\r\n-ERR no\r\n":
                server.say(bytes([byte]))
                await asyncio.sleep(0)
            assert await asked[0] == b"first"
            assert await asked[1] == [1, None]
            with pytest.raises(StoreError, match="ERR no"):
                await asked[2]

    run(scenario())


def test_a_reply_of_sixteen_megabytes_comes_whole(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with OpenLink(redis_server.port, deadline=10) as opened:
            size = 16 * 1024 * 1024
            big = opened.link.ask("EVAL", "return string.rep('x', ARGV[1])", 0, size)
            after = opened.link.ask("ECHO", "after")
            assert len(await big) == size
            assert await after == b"after"

    run(scenario())


def test_an_error_reply_fails_only_its_own_ask(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with OpenLink(redis_server.port) as opened:
            before, wrong, after = (opened.link.ask(*words) for words in (("ECHO", 1), ("NOSUCH",), ("ECHO", 2)))
            with pytest.raises(StoreError, match="unknown command") as caught:
                await wrong
            assert not isinstance(caught.value, StoreUnavailable)
            assert caught.value.__cause__ is not None
            assert (await before, await after) == (b"1", b"2")
            assert opened.told == []

    run(scenario())


@pytest.mark.parametrize("word", [None, object(), ["a"]])
def test_a_command_that_can_not_be_packed_fails_only_itself(run: Run, word: Any) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:
            before, wrong, after = opened.link.ask("ECHO", 1), opened.link.ask("ECHO", word), opened.link.ask("ECHO", 2)
            with pytest.raises(StoreError, match="can't be sent"):
                await wrong
            assert (await before, await after) == (b"1", b"2")
            assert await opened.link.ask("ECHO", 3) == b"3"

    run(scenario())


def test_a_key_with_a_lone_surrogate_is_a_bucket_like_any_other(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        backend = adapter.open(redis_server.url, namespace="tc", deadline=10, notify=nothing)
        await backend.connect()
        try:
            odd = [backend.buckets.take([Take("{user:\ud800}k", 1, 0.001)]) for _ in range(2)]
            even = backend.buckets.take([Take("{user:a}k", 1, 0.001)])
            assert [taken.admitted for taken in await asyncio.gather(*odd)] == [True, False]
            assert (await even).admitted
        finally:
            await backend.close()

    run(scenario())


def test_push_messages_of_resp3_answer_nobody(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with OpenLink(redis_server.port, protocol=3) as opened:
            ask = opened.link.ask
            await ask("CLIENT", "TRACKING", "ON", "BCAST")
            for number in range(50):
                written, echoed = ask("SET", "k", number), ask("ECHO", number)
                redis_server.command("SET", "other", str(number))
                assert (await written, await echoed) == (b"OK", b"%d" % number)
            assert opened.told == []

    run(scenario())


# Cancellation


def test_an_ask_cancelled_before_the_flush_is_not_sent(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:
            first, gone, last = (opened.link.ask("ECHO", number) for number in range(3))
            gone.cancel()
            assert (await first, await last) == (b"0", b"2")
            assert server.writes == [[[b"ECHO", b"0"], [b"ECHO", b"2"]]]

    run(scenario())


def test_an_ask_cancelled_after_the_flush_leaves_its_neighbours_their_replies(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port) as opened:
            asked = [opened.link.ask("ECHO", number) for number in range(100)]
            await poll(lambda: server.writes)
            for future in asked[::3]:
                future.cancel()
            server.say(b"".join(b":%d\r\n" % number for number in range(100)))
            for number, future in enumerate(asked):
                if number % 3:
                    assert await future == number
            assert opened.told == []

    run(scenario())


def test_takes_cancelled_before_the_flush_take_nothing(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        backend = adapter.open(redis_server.url, namespace="tc", deadline=10, notify=nothing)
        await backend.connect()
        try:
            takes = [backend.buckets.take([Take("{a}k", 10, 0.001)]) for _ in range(5)]
            for take in takes[:4]:
                take.cancel()
            assert (await takes[4]).answers == [1_000_000]
        finally:
            await backend.close()

    run(scenario())


# Deadlines


def test_a_server_that_never_answers_costs_the_deadline_and_is_down_after_three(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port, deadline=0.05) as opened:
            for _ in range(link_module.MISSES_UNTIL_DOWN):
                start = time.monotonic()
                with pytest.raises(StoreTimeout, match=r"within 0\.05 s"):
                    await opened.link.ask("ECHO", 1)
                assert time.monotonic() - start >= 0.045
            with pytest.raises(StoreUnavailable, match="not reachable"):
                opened.link.ask("ECHO", 1)
            assert opened.told == ["store.lost"]
            server.answer = echo
            await poll(lambda: opened.link.up)
            assert await opened.link.ask("ECHO", 2) == b"2"
            assert opened.told == ["store.lost", "store.recovered"]

    run(scenario())


def test_each_ask_has_a_deadline_of_its_own(run: Run) -> None:
    async def scenario() -> None:
        for deadline in (0.15, 0.6, 2.4, 9.6):
            async with FakeRedis(lambda _: None) as server, OpenLink(server.port, deadline=deadline) as opened:
                early = opened.link.ask("ECHO", 1)
                await asyncio.sleep(deadline * 2 / 3)
                asking = time.monotonic()
                late = opened.link.ask("ECHO", 2)
                with pytest.raises(StoreTimeout):
                    await early
                if late.done():
                    assert time.monotonic() - asking >= deadline, "it had its own deadline"
                    assert isinstance(late.exception(), StoreTimeout)
                    continue  # the machine stood still for the rest of the time: give it more
                server.say(b":1\r\n:2\r\n")
                assert await late == 2
                return
        raise AssertionError("this machine stands still")

    run(scenario())


def test_a_late_reply_goes_to_nobody(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port, deadline=0.3) as opened:
            with pytest.raises(StoreTimeout):
                await opened.link.ask("ECHO", "late")
            asked = [opened.link.ask("ECHO", number) for number in range(3)]
            await poll(lambda: len(server.writes) == 2)
            server.say(b"$4\r\nlate\r\n:0\r\n")
            assert await asked[0] == 0
            server.say(b":1\r\n:2\r\n")
            assert await asyncio.gather(*asked) == [0, 1, 2]
            assert opened.told == []

    run(scenario())


@pytest.mark.parametrize("unsent", ["cancelled", "unpackable"])
def test_an_ask_that_is_not_sent_after_a_miss_leaves_the_next_its_deadline(run: Run, unsent: str) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port, deadline=0.05) as opened:
            with pytest.raises(StoreTimeout):
                await opened.link.ask("ECHO", "missed")
            gone = opened.link.ask("ECHO", object() if unsent == "unpackable" else "gone")  # type: ignore[arg-type]
            if unsent == "cancelled":
                gone.cancel()
            await asyncio.wait([gone])
            await asyncio.sleep(0)
            assert gone.cancelled() or "can't be sent" in str(gone.exception())
            asked = opened.link.ask("ECHO", "next")
            await poll(asked.done)
            with pytest.raises(StoreTimeout):
                await asked

    run(scenario())


def test_a_loop_that_stood_still_is_no_timeout(run: Run) -> None:
    """A handler that blocks the loop for longer than the deadline is not Redis's doing."""

    async def scenario() -> None:
        def answer(command: Command) -> bytes | None:
            return None if command[1] == b"before" else echo(command)

        async with FakeRedis(answer) as server, OpenLink(server.port, deadline=0.05) as opened:
            for number in range(4):
                asked = [opened.link.ask("ECHO", "before")]
                await ticks_until(lambda number=number: len(server.writes) > 2 * number)
                asked.append(opened.link.ask("ECHO", "behind"))
                server.say(b"+before\r\n")  # it comes while the loop stands still
                time.sleep(0.08)  # noqa: ASYNC251 - that is the point
                assert await asyncio.gather(*asked) == [b"before", b"behind"]
            assert opened.told == []

    run(scenario())


def test_a_loop_that_is_always_late_still_ends_what_is_never_answered(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port, deadline=0.02) as opened:
            asked = opened.link.ask("ECHO", 1)
            turns = 0
            while not asked.done():
                turns += 1
                assert turns < 10
                time.sleep(0.04)  # noqa: ASYNC251 - that is the point
                await asyncio.sleep(0)
            with pytest.raises(StoreTimeout):
                await asked

    run(scenario())


# Losses and ways back


def test_an_idle_connection_that_the_server_closes_costs_no_ask(run: Run, redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with OpenLink(redis_server.port) as opened:
            for number in range(1, 5):
                connection = opened.link._connection
                redis_server.command("CLIENT", "KILL", "TYPE", "normal")
                await poll(lambda connection=connection: opened.link._connection is not connection, tick=0)
                if number % 2:
                    await poll(lambda: opened.link.up)  # otherwise the news has just come
                assert await opened.link.ask("ECHO", number) == b"%d" % number
            assert opened.told == []

    run(scenario())


def test_what_is_asked_in_the_tick_of_a_close_goes_to_the_next_connection(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:
            server.talks[0].transport.close()
            while opened.link.up:  # noqa: ASYNC110 - the very tick is meant
                await asyncio.sleep(0)
            asked = [opened.link.ask("ECHO", number) for number in range(10)]
            assert await asyncio.gather(*asked) == [b"%d" % number for number in range(10)]
            assert server.accepted == 2
            assert opened.told == []

    run(scenario())


def test_half_a_reply_and_a_close_fails_what_was_sent_and_nothing_after(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port) as opened:
            asked = [opened.link.ask("ECHO", number) for number in range(2)]
            await poll(lambda: server.writes)
            server.say(b"$5\r\nhello\r\n$9\r\nhal")
            server.talks[0].transport.close()
            assert await asked[0] == b"hello"
            with pytest.raises(StoreUnavailable, match="closed the connection"):
                await asked[1]
            server.answer = echo
            assert await opened.link.ask("ECHO", "next") == b"next"
            assert opened.told == []

    run(scenario())


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\xff\x00", b"*1\r\n?\r\n", b":x\r\n"])
def test_garbage_puts_the_link_down_and_it_comes_back(run: Run, garbage: bytes) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port) as opened:
            asked = opened.link.ask("ECHO", 1)
            await poll(lambda: server.writes)
            server.say(garbage)
            with pytest.raises(StoreUnavailable):
                await asked
            server.answer = echo
            await poll(lambda: opened.link.up)
            assert await opened.link.ask("ECHO", 2) == b"2"
            assert opened.told == ["store.lost", "store.recovered"]

    run(scenario())


def test_a_reply_that_nobody_asked_for_puts_the_link_down(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:
            server.say(b"+OK\r\n")
            await poll(lambda: opened.told == ["store.lost", "store.recovered"])
            assert await opened.link.ask("ECHO", 1) == b"1"

    run(scenario())


@pytest.mark.parametrize("reply", [b":1\r\n", b"$-1\r\n", b"*0\r\n", b"*2\r\n:1\r\n$1\r\nx\r\n"])
def test_a_reply_of_another_shape_fails_the_takes_that_it_was_for(run: Run, reply: bytes) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda command: reply if command[0] == b"EVALSHA" else b":1\r\n") as server:
            backend = adapter.open(server.url, namespace="tc", deadline=10, notify=nothing)
            await backend.connect()
            try:
                takes = [backend.buckets.take([Take(f"{{{number}}}", 10, 1)]) for number in range(3)]
                for outcome in await asyncio.wait_for(asyncio.gather(*takes, return_exceptions=True), 5):
                    assert isinstance(outcome, StoreError)
                await poll(lambda: backend.link.up)
            finally:
                await backend.close()

    run(scenario())


def test_a_server_that_hangs_up_at_every_question_is_given_a_rest(run: Run) -> None:
    """A proxy that knows no scripts does so: no storm of connections, and the outage is told."""

    async def scenario() -> None:
        async with FakeRedis() as server, OpenLink(server.port) as opened:

            def hang_up(_: Command) -> None:
                server.talks[-1].transport.abort()

            server.answer = hang_up
            start = time.monotonic()
            while server.accepted < 10:
                with pytest.raises(StoreUnavailable):
                    await opened.link.ask("ECHO", 1)
                await asyncio.sleep(0.001)
            pauses = link_module.PROBE_FIRST / 2 * (1 + 2 + 4)  # one after each three, twice as long each time
            assert time.monotonic() - start > pauses
            assert opened.told[0] == "store.lost"

    run(scenario())


@pytest.mark.parametrize(
    "reply", ["LOADING Redis is loading", "READONLY You can't write", "BUSY Redis is busy", "OOM no", "MISCONF no disk"]
)
def test_a_server_that_can_not_serve_is_lost_once_and_back_once(
    run: Run, reply: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(link_module, "PROBE_LONGEST", 1000)
        async with FakeRedis(lambda _: f"-{reply}\r\n".encode()) as server, OpenLink(server.port) as opened:
            for _ in range(20):
                with pytest.raises(StoreUnavailable, match=reply.partition(" ")[0]):
                    await opened.link.ask("SET", "a", "b")
            assert opened.told == ["store.lost"]
            server.answer = echo
            assert await opened.link.ask("ECHO", 0) == b"0"
            assert opened.told == ["store.lost"]
            monkeypatch.setattr(link_module, "PROBE_LONGEST", 0.05)
            await asyncio.sleep(0.06)
            for number in range(3):
                assert await opened.link.ask("ECHO", number) == b"%d" % number
            assert opened.told == ["store.lost", "store.recovered"]

    run(scenario())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "is lost" in messages[0]
    assert "is back" in messages[1]


@pytest.mark.parametrize("reply", ["BUSYGROUP exists", "WRONGTYPE no", "ERR no", "NOSCRIPT none"])
def test_other_errors_are_answers_of_a_server_that_serves(run: Run, reply: str) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: f"-{reply}\r\n".encode()) as server, OpenLink(server.port) as opened:
            with pytest.raises(StoreError) as caught:
                await opened.link.ask("SET", "a", "b")
            assert not isinstance(caught.value, StoreUnavailable)
            assert opened.told == []

    run(scenario())


@pytest.mark.parametrize(
    "reply", ["BUSY a script runs", "LOADING Redis is loading", "MASTERDOWN no", "MISCONF no disk"]
)
def test_a_server_that_can_not_serve_at_the_start_is_an_outage_and_no_refusal(run: Run, reply: str) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda _: f"-{reply}\r\n".encode()
            async with OpenLink(server.port) as opened:
                assert opened.told == ["store.lost"]
                server.greet = greet
                await poll(lambda: opened.link.up)
                assert await opened.link.ask("ECHO", 1) == b"1"

    run(scenario())


@pytest.mark.parametrize("command", [b"CLIENT", b"PING"])
def test_a_handshake_that_goes_wrong_in_any_way_is_tried_again(run: Run, command: bytes) -> None:
    """An exception that nobody foresaw must not end the probe."""

    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda asked: b"*1\r\n*0\r\n" if asked[0] == command else greet(asked)
            opened = OpenLink(server.port)
            opening = opened.link._open_connection
            failures = iter([RuntimeError("boom"), AttributeError("boom"), None])

            def open_connection() -> Any:
                failure = next(failures, None)
                if failure is not None:
                    raise failure
                server.greet = greet
                return opening()

            opened.link._open_connection = open_connection
            async with opened:
                await poll(lambda: opened.link.up)

    run(scenario())


def test_a_server_with_no_room_for_another_client_is_an_outage(run: Run, own_redis: RedisServer) -> None:
    async def scenario() -> None:
        own_redis.command("CONFIG", "SET", "maxclients", "1")
        async with OpenLink(own_redis.port) as first, OpenLink(own_redis.port) as second:
            assert second.told == ["store.lost"]
            await first.link.ask("CONFIG", "SET", "maxclients", "100")
            await poll(lambda: second.link.up)

    run(scenario())


# The end


def test_closing_fails_what_is_asked_and_leaves_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis(lambda _: None) as server, OpenLink(server.port) as opened:
            sent = opened.link.ask("ECHO", "sent")
            await poll(lambda: server.writes)
            unsent = opened.link.ask("ECHO", "unsent")
            await opened.link.close()
            for future in (sent, unsent):
                with pytest.raises(StoreUnavailable, match="was closed"):
                    await future
            with pytest.raises(StoreUnavailable):
                opened.link.ask("ECHO", "after")
            await opened.link.close()
            await poll(lambda: not server.talks)
            assert opened.told == []

    run(scenario())


def test_closing_fails_takes_that_wait_for_the_flush(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server:
            backend = adapter.open(server.url, namespace="tc", deadline=10, notify=nothing)
            await backend.connect()
            asked = [backend.buckets.take([Take("{a}k", 10, 1)]) for _ in range(3)]
            backend.link.let_go()
            for outcome in await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5):
                assert isinstance(outcome, StoreUnavailable)
            await backend.close()

    run(scenario())


def test_closing_while_the_probe_runs_ends_it(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda _: None
            async with OpenLink(server.port, patience=0.05) as opened:
                assert not opened.link.up
            await poll(lambda: not server.talks)
        async with OpenLink(free_port()) as opened:
            assert opened.told == ["store.lost"]

    run(scenario())


def test_closing_at_any_moment_of_a_way_back_leaves_nothing(run: Run) -> None:
    async def scenario() -> None:
        for ticks in range(24):
            async with FakeRedis() as server, OpenLink(server.port) as opened:
                server.talks[0].transport.abort()
                await ticks_until(lambda opened=opened: not opened.link.up)
                for _ in range(ticks):
                    await asyncio.sleep(0)
                await opened.link.close()
                assert not opened.link.up
                with pytest.raises(StoreUnavailable):
                    opened.link.ask("ECHO", 1)
                await poll(lambda server=server: not server.talks)

    run(scenario())


def test_a_cancelled_connect_leaves_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda _: None
            backend = adapter.open(server.url, namespace="tc", deadline=10, notify=nothing)
            connecting = asyncio.ensure_future(backend.connect())
            await poll(lambda: server.talks)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await poll(lambda: not server.talks)

    run(scenario())


def test_a_loop_that_ends_without_a_close_leaves_no_socket(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        backend = adapter.open(redis_server.url, namespace="tc", deadline=10, notify=nothing)
        await backend.connect()
        assert (await backend.buckets.take([Take("{a}k", 10, 1)])).admitted

    for loop_factory in LOOPS.values():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scenario())
        gc.collect()
    assert b"traffic-cop" not in redis_server.command("CLIENT", "LIST")


# Several loops


def limited_app(cop: TrafficCop) -> Any:
    async def home(_: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    return cop.wrap(Starlette(routes=[Route("/", home)]))


def test_a_client_without_a_lifespan_has_a_new_loop_per_request_and_one_bucket(redis_server: RedisServer) -> None:
    sources: list[str] = []
    cop = TrafficCop(redis_server.url, limits="3/hour", deadline=10)
    cop.subscribe(lambda event: sources.append(event.attributes.get("source", event.kind)))
    client = TestClient(limited_app(cop))
    assert [client.get("/").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert sources == ["store"] * 5
    client.close()
    gc.collect()
    assert b"traffic-cop" not in redis_server.command("CLIENT", "LIST")
    assert len(cop._parts._by_loop) <= 1


def test_threads_with_a_loop_each_share_one_cop(redis_server: RedisServer) -> None:
    sources: list[str] = []
    cop = TrafficCop(redis_server.url, limits="1000/hour", deadline=10)
    cop.subscribe(lambda event: sources.append(event.attributes.get("source", event.kind)))
    app = limited_app(cop)
    outcomes: list[int] = []

    def visit() -> None:
        with TestClient(app) as client:
            outcomes.extend(client.get("/").status_code for _ in range(20))

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [200] * 80
    assert sources == ["store"] * 80
    gc.collect()
    assert b"traffic-cop" not in redis_server.command("CLIENT", "LIST")


def test_a_lifespan_closes_what_it_opened_although_another_loop_came_later(redis_server: RedisServer) -> None:
    cop = TrafficCop(redis_server.url, limits="1000/hour", deadline=10)
    app = limited_app(cop)
    with TestClient(app) as lasting:
        assert lasting.get("/").status_code == 200
        assert TestClient(app).get("/").status_code == 200
        assert lasting.get("/").status_code == 200
    gc.collect()
    assert b"traffic-cop" not in redis_server.command("CLIENT", "LIST")


def test_two_cops_on_one_url_share_the_connection_and_the_last_closes_it(redis_server: RedisServer) -> None:
    first, second = (TrafficCop(redis_server.url, limits="9/hour", deadline=10) for _ in range(2))

    async def scenario() -> None:
        opened = await asyncio.gather(first._parts.open(), second._parts.open())
        assert opened[0].backend is opened[1].backend
        await first._parts.stop()
        assert (await opened[1].backend.buckets.take([Take("{a}k", 10, 1)])).admitted  # type: ignore[misc,union-attr]
        await second._parts.stop()

    run_on(LOOPS["asyncio"], scenario())
    gc.collect()


def test_one_who_joins_a_start_that_is_cancelled_connects_by_itself(redis_server: RedisServer) -> None:
    first, second = (TrafficCop(redis_server.url, limits="9/hour", deadline=10) for _ in range(2))

    async def scenario() -> None:
        starting = asyncio.ensure_future(first._parts.open())
        await asyncio.sleep(0)
        joining = asyncio.ensure_future(second._parts.open())
        for _ in range(3):
            await asyncio.sleep(0)
        starting.cancel()
        opened = await joining
        assert (await opened.backend.buckets.take([Take("{a}k", 10, 1)])).admitted  # type: ignore[misc,union-attr]
        await second._parts.stop()

    run_on(LOOPS["asyncio"], scenario())
    gc.collect()


# Roads to a server


async def take_one(url: str) -> None:
    backend = adapter.open(url, namespace="tc", deadline=10, notify=nothing)
    await backend.connect()
    try:
        takes = [backend.buckets.take([Take("{a}k", 2, 0.001)]) for _ in range(3)]
        assert [taken.admitted for taken in await asyncio.gather(*takes)] == [True, True, False]
    finally:
        await backend.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[tuple[RedisServer, str]]:
    """A real redis-server that speaks TLS on a second port, and the URL to it without the authority."""
    cert, key = certificate(tmp_path)
    port = free_port()
    files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert))
    with running_redis(tmp_path, "--tls-port", str(port), *files, "--tls-auth-clients", "no") as server:
        yield server, f"rediss://127.0.0.1:{port}/0"


def test_rediss_checks_the_certificate_and_takes(run: Run, tls_redis: tuple[RedisServer, str], tmp_path: Path) -> None:
    run(take_one(f"{tls_redis[1]}?ssl_ca_certs={tmp_path}/cert.pem"))


def test_rediss_to_a_stranger_is_an_outage_that_tells_why(run: Run, tls_redis: tuple[RedisServer, str]) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        backend = adapter.open(tls_redis[1], namespace="tc", deadline=10, notify=events.append)
        await backend.connect(patience=30)
        try:
            assert [event.kind for event in events] == ["store.lost"]
            assert "CERTIFICATE_VERIFY_FAILED" in events[0].attributes["reason"]
        finally:
            await backend.close()

    run(scenario())


def test_a_frozen_tls_server_is_left_without_a_goodbye(
    run: Run, tls_redis: tuple[RedisServer, str], tmp_path: Path
) -> None:
    server, url = tls_redis

    async def scenario() -> None:
        events: list[Event] = []
        url_of_trust = f"{url}?ssl_ca_certs={tmp_path}/cert.pem"
        backend = adapter.open(url_of_trust, namespace="tc", deadline=0.05, notify=events.append)
        await backend.connect()
        server.freeze()
        try:
            while backend.link.up:  # the census may miss one, too
                with pytest.raises(StoreUnavailable):
                    await backend.buckets.take([Take("{a}k", 2, 1)])
            assert [event.kind for event in events] == ["store.lost"]
            server.thaw()
            await poll(lambda: backend.link.up)
            server.freeze()
        finally:
            async with LoopLag() as lag:
                start = time.monotonic()
                await backend.close()
                end = time.monotonic()
            assert end - start < 1 + lag.between(start, end)
            server.thaw()

    run(scenario())


def test_a_unix_socket_is_taken_from(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with running_redis(tmp_path, "--unixsocket", str(path)) as server:
        run(take_one(f"unix://{path}?db=3"))
        assert b"db3" in server.command("INFO", "keyspace")


@pytest.mark.parametrize("way", ["{}:{}@127.0.0.1:{}/0", "127.0.0.1:{2}/0?username={0}&password={1}"])
def test_a_user_with_the_fewest_permissions_can_take(run: Run, own_redis: RedisServer, way: str) -> None:
    allowed = ("~tc:*", "+evalsha", "+eval", "+client|setname", "+ping", "+select", "+zrem")
    script = ("+get", "+set", "+exists", "+time", "+zadd", "+zremrangebyscore", "+zcard", "+expire")
    own_redis.command("ACL", "SETUSER", "cop", "on", ">p@ss/w:rd#1", "resetkeys", *allowed, *script)
    run(take_one("redis://" + way.format("cop", "p%40ss%2Fw%3Ard%231", own_redis.port)))


@pytest.mark.parametrize("missing", ["-set", "-evalsha", "resetkeys"])
def test_a_user_who_may_not_take_is_told_once(run: Run, own_redis: RedisServer, missing: str) -> None:
    own_redis.command("ACL", "SETUSER", "cop", "on", ">pass", "~*", "+@all", missing)

    async def scenario() -> None:
        events: list[Event] = []
        url = f"redis://cop:pass@127.0.0.1:{own_redis.port}/0"
        backend = adapter.open(url, namespace="tc", deadline=10, notify=events.append)
        await backend.connect()
        try:
            for _ in range(3):
                with pytest.raises(StoreError):
                    await backend.buckets.take([Take("{a}k", 2, 0.001)])
            assert [event.kind for event in events] == ["store.lost"]
        finally:
            await backend.close()

    run(scenario())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://127.0.0.1:{}/99", "DB index is out of range"),
        ("redis://:hunter2@127.0.0.1:{}/0", "without any password configured"),
        ("redis://nobody:hunter2@127.0.0.1:{}/0", "invalid username-password pair"),
    ],
)
def test_a_refused_client_is_a_configuration_error_without_its_password(
    run: Run, own_redis: RedisServer, url: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        backend = adapter.open(url.format(own_redis.port), namespace="tc", deadline=10, notify=nothing)
        with pytest.raises(ConfigurationError, match=why) as caught:
            await backend.connect()
        assert "Mend the user, password or database in the URL" in str(caught.value)
        assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)

    run(scenario())
    assert "hunter2" not in caplog.text
