"""A real Redis is killed, frozen, emptied and flushed under 64 requests: nobody gets a 500, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from tests.adapters.load import (
    LOOPS,
    SERVED_DEADLINE,
    Answered,
    FakeRedis,
    Gate,
    Load,
    LoopLag,
    limited,
    poll,
    run_on,
    started,
    ticks_until,
)
from tests.asgi import http_scope, send_through, status
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import ConfigurationError, TrafficCop, by_everyone, limit
from traffic_cop_middleware.adapters import redis as adapter
from traffic_cop_middleware.contracts import Event

pytestmark = pytest.mark.redis_server

DEADLINE = SERVED_DEADLINE
"""Seconds. Longer than the default: a Redis that the machine keeps waiting for 50 ms is no outage that a test made."""
LOOP_TIME = 0.05
MANY = "100000/minute"
Policy = Literal["local", "allow", "refuse"]
POLICIES: tuple[Policy, ...] = ("local", "allow", "refuse")


class Watched:
    """A cop on a server, its store's events and the load on it."""

    def __init__(self, url: str, policy: Policy, deadline: float = DEADLINE, **settings: Any) -> None:
        self.told: list[Event] = []
        self.deadline = deadline
        self.cop = TrafficCop(url, **{"limits": MANY, "on_outage": policy, "deadline": deadline, **settings})
        self.cop.subscribe(lambda event: self.told.append(event) if event.kind.startswith("store.") else None)
        self.load = Load(limited(self.cop))
        self.lag = LoopLag()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with started(self.load.app) as answer:
            assert answer == {"type": "lifespan.startup.complete"}
            async with self.lag, self.load:
                yield self.load
                await asyncio.sleep(0.01)
        self.everybody_was_answered_in_time()

    def everybody_was_answered_in_time(self) -> None:
        assert not [answer for answer in self.load.answers if answer.status >= 500 and answer.status != 503]
        late = [
            answer
            for answer in self.load.answers
            if answer.end - answer.start > self.deadline + LOOP_TIME + self.lag.between(answer.start, answer.end)
        ]
        assert not late, f"{len(late)} of {len(self.load.answers)}: {max(a.end - a.start for a in late):.3f} s"

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


def as_declared(policy: Policy, answer: Answered) -> bool:
    """Whether this is what the policy says of an outage."""
    if policy == "local":
        return answer.source == "local" and answer.status == 200 and "ratelimit" in answer.headers
    has_fields = any(name.startswith("ratelimit") for name in answer.headers)
    if policy == "allow":
        return answer.source == "none" and answer.status == 200 and not has_fields
    return (
        answer.source == "none"
        and answer.status == 503
        and int(answer.headers["retry-after"]) >= 1
        and answer.headers["content-type"] == "application/problem+json"
        and not has_fields
    )


def changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of a store, in order."""
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("traffic_cop")]
    return ["lost" if "is lost" in message else "back" if "is back" in message else message for message in messages]


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traffic_cop")


@pytest.mark.parametrize(("policy", "seconds"), [("local", 5.0), ("allow", 1.2), ("refuse", 1.2)])
def test_a_freeze_costs_each_request_its_deadline_at_most(
    policy: Policy, seconds: float, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(own_redis.url, policy)

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            await load.all_hang_on(own_redis)
            frozen = time.monotonic()
            await poll(lambda: watched.kinds == ["store.lost"])
            lost = time.monotonic()
            await asyncio.sleep(max(0.0, frozen + seconds - time.monotonic()))
            await poll(lambda: len(load.since(lost)) > 500)
            thawed = time.monotonic()
            own_redis.thaw()
            await load.decided_by("store")
            assert watched.kinds == ["store.lost", "store.recovered"]
            during = [answer for answer in load.since(frozen) if answer.end < thawed]
            assert len(during) > 500
            assert all(as_declared(policy, answer) for answer in during)
            timed_out = [answer for answer in load.answers if answer.start < frozen < answer.end]
            assert len(timed_out) == 64
            assert all(as_declared(policy, answer) for answer in timed_out)
            first = min(timed_out, key=lambda answer: answer.start)  # the others' deadlines end within the same tick
            assert first.end - first.start >= DEADLINE - 0.005
            assert f"did not answer within {DEADLINE} s" in watched.told[0].attributes["reason"]
            quick = [answer.end - answer.start for answer in load.since(lost) if answer.end < thawed]
            assert sorted(quick)[len(quick) // 2] < DEADLINE / 2, "a store that is down is not asked"

    run_on(LOOPS["asyncio"], scenario())
    assert changes(caplog) == ["lost", "back"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_kill_and_a_restart_with_nothing_kept(
    policy: Policy, loop: str, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(own_redis.url, policy)

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            await load.all_hang_on(own_redis)
            killed = time.monotonic()
            own_redis.kill()
            await poll(lambda: watched.kinds == ["store.lost"])
            await poll(lambda: len(load.since(killed)) > 264)  # those who hung and 200 more
            again = time.monotonic()
            await asyncio.to_thread(own_redis.start)
            await load.decided_by("store")
            assert watched.kinds == ["store.lost", "store.recovered"]
            hung = [answer for answer in load.answers if answer.start < killed < answer.end]
            assert len(hung) == 64
            during = [answer for answer in load.since(killed) if answer.end < again]
            assert len(during) >= 200
            assert all(as_declared(policy, answer) for answer in (*hung, *during))

    run_on(LOOPS[loop], scenario())
    assert changes(caplog) == ["lost", "back"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_script_flush_is_noticed_by_nobody(
    loop: str, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(own_redis.url, "refuse", deadline=10)

    async def scenario() -> None:
        with socket.create_connection(("127.0.0.1", own_redis.port), 10) as operator:
            async with watched.running() as load:
                await load.decided_by("store")
                for _ in range(5):
                    await load.all_hang_on(own_redis)
                    operator.sendall(b"SCRIPT FLUSH SYNC\r\n")
                    own_redis.thaw()
                    assert operator.recv(64) == b"+OK\r\n"
                    await load.decided_by("store")
        assert Counter(answer.source for answer in load.answers) == {"store": len(load.answers)}
        assert {answer.status for answer in load.answers} == {200}
        assert watched.kinds == []

    run_on(LOOPS[loop], scenario())
    assert changes(caplog) == []


def test_a_replica_that_may_not_write_is_lost_until_it_is_promoted(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(own_redis.url, "local")

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
            await load.decided_by("local")
            assert watched.kinds == ["store.lost"]
            assert "READONLY" in watched.told[0].attributes["reason"]
            await asyncio.sleep(0.3)
            own_redis.command("REPLICAOF", "NO", "ONE")
            await load.decided_by("store")
            await poll(lambda: watched.kinds == ["store.lost", "store.recovered"])

    run_on(LOOPS["asyncio"], scenario())
    assert changes(caplog) == ["lost", "back"]


async def visit(app: Any) -> str:
    scope = http_scope()
    sent = await send_through(app, scope)
    return f"{status(sent)} {scope['traffic_cop'].decision.source}"


@pytest.mark.parametrize("expected_workers", [1, 8])
def test_local_buckets_hold_the_share_of_the_last_count_of_workers(
    expected_workers: int, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "HEARTBEAT", 0.05)

    async def scenario() -> None:
        everyone = limit("120/hour", key=by_everyone)
        cop = TrafficCop(own_redis.url, limits=everyone, expected_workers=expected_workers, deadline=10)
        others = [adapter.open(own_redis.url, namespace="tc", deadline=10, notify=lambda _: None) for _ in range(3)]
        app = limited(cop)
        async with started(app):
            for other in others:
                await other.connect()
            backend = (await cop._parts.open()).backend
            await poll(lambda: backend.live_workers == 4)
            assert await visit(app) == "200 store"
            own_redis.kill()
            await poll(lambda: not backend.link.up)  # type: ignore[attr-defined]
            outcomes = Counter([await visit(app) for _ in range(100)])
            assert outcomes == {"200 local": 120 // 4, "429 local": 70}
            for other in others:
                await other.close()

    run_on(LOOPS["asyncio"], scenario())


def test_local_buckets_hold_the_share_of_the_expected_workers_until_the_store_was_seen() -> None:
    async def scenario() -> None:
        limits = limit("120/hour", key=by_everyone)
        app = limited(TrafficCop(f"redis://127.0.0.1:{free_port()}/0", limits=limits, expected_workers=6))
        async with started(app):
            assert Counter([await visit(app) for _ in range(100)]) == {"200 local": 20, "429 local": 80}

    run_on(LOOPS["asyncio"], scenario())


def test_local_buckets_refill_at_the_share_of_the_rate() -> None:
    async def scenario() -> None:
        limits = limit("80/second", key=by_everyone)
        app = limited(TrafficCop(f"redis://127.0.0.1:{free_port()}/0", limits=limits, expected_workers=8))
        async with started(app):
            start = before = time.monotonic()
            admitted, at_least = 0, 10.0
            while admitted < 13:
                asked = time.monotonic()
                at_least = min(10.0, at_least + 10 * (asked - before))
                outcome = await visit(app)
                before = time.monotonic()
                if outcome == "200 local":
                    admitted, at_least = admitted + 1, max(0.0, at_least - 1)
                assert admitted <= 10 + 10 * (before - start)
                assert outcome == "200 local" or at_least < 1.001, "refused with a token there"
                await asyncio.sleep(0.002)

    run_on(LOOPS["asyncio"], scenario())


# The start


@pytest.mark.parametrize("policy", POLICIES)
def test_an_app_starts_without_its_redis_and_comes_to_it(
    policy: Policy, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    watched = Watched(own_redis.url, policy)

    async def scenario() -> None:
        start = time.monotonic()
        async with LoopLag() as lag, watched.running() as load:
            assert time.monotonic() - start < 1.5 + lag.between(start, time.monotonic())
            await poll(lambda: len(load.answers) > 200)
            assert all(as_declared(policy, answer) for answer in load.answers)
            await asyncio.to_thread(own_redis.start)
            await load.decided_by("store")

    run_on(LOOPS["asyncio"], scenario())
    assert changes(caplog) == ["lost", "back"]
    assert watched.kinds == ["store.lost", "store.recovered"]


def test_an_app_starts_within_a_second_or_so_on_a_redis_that_is_frozen(own_redis: RedisServer) -> None:
    own_redis.freeze()
    watched = Watched(own_redis.url, "local")

    async def scenario() -> None:
        start = time.monotonic()
        async with LoopLag() as lag, started(watched.load.app) as answer:
            took = time.monotonic() - start
            assert answer["type"] == "lifespan.startup.complete"
            assert 0.9 < took < 1.6 + lag.between(start, start + took)
            assert await visit(watched.load.app) == "200 local"
            own_redis.thaw()
            await poll(lambda: "store.recovered" in watched.kinds)
            end = time.monotonic() + 30
            while await visit(watched.load.app) != "200 store":
                assert time.monotonic() < end

    run_on(LOOPS["asyncio"], scenario())


def test_first_requests_without_a_lifespan_on_a_frozen_redis_do_not_hang(own_redis: RedisServer) -> None:
    own_redis.freeze()
    watched = Watched(own_redis.url, "local")

    async def scenario() -> None:
        async with watched.lag:
            start = time.monotonic()
            outcomes = await asyncio.gather(*(visit(watched.load.app) for _ in range(64)))
            end = time.monotonic()
            await asyncio.sleep(0.01)
            assert set(outcomes) == {"200 local"}
            assert end - start < 0.05 + DEADLINE + LOOP_TIME + watched.lag.between(start, end)
        await watched.cop._parts.stop()

    run_on(LOOPS["asyncio"], scenario())


@pytest.mark.parametrize(
    ("user", "database", "why"),
    [
        ("cop:hunter2@", "0", "invalid username-password pair or user is disabled"),
        ("cop:correct@", "99", "DB index is out of range"),
        ("", "0", "Authentication required"),
        ("locked:correct@", "0", "no permissions"),
    ],
)
def test_a_start_that_redis_refuses_fails_with_the_reason_and_without_the_password(
    user: str, database: str, why: str, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.command("ACL", "SETUSER", "cop", "on", ">correct", "~*", "+@all")
    own_redis.command("ACL", "SETUSER", "locked", "on", ">correct")
    own_redis.command("ACL", "SETUSER", "default", "resetpass", ">other")

    async def start() -> list[Any]:
        app = limited(TrafficCop(f"redis://{user}127.0.0.1:{own_redis.port}/{database}", limits=MANY))
        sent: list[Any] = []
        incoming = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> dict[str, str]:
            return {"type": next(incoming)}

        async def send(message: Any) -> None:
            sent.append(message)

        with contextlib.suppress(ConfigurationError):  # raised after it was told
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
        return sent

    async def scenario() -> None:
        for _ in range(5):
            sent = await start()
            if sent[0]["type"] == "lifespan.startup.failed":
                break  # or it had no answer within its patience: an outage
        assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
        message = sent[0]["message"]
        assert message.startswith(f"Traffic Cop: redis://127.0.0.1:{own_redis.port}/{database} refuses this client")
        assert why in message
        assert "Mend the user, password or database" in message
        assert "Traceback" not in message
        for secret in ("hunter2", "correct"):
            assert secret not in message

    run_on(LOOPS["asyncio"], scenario())
    gc.collect()
    assert "hunter2" not in caplog.text
    assert "correct" not in caplog.text


def test_a_refused_start_leaves_no_connection() -> None:
    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda _: b"-WRONGPASS invalid username-password pair\r\n"
            app = limited(TrafficCop(f"redis://:pass@127.0.0.1:{server.port}/0", limits=MANY))
            sent: list[Any] = []

            async def receive() -> dict[str, str]:
                return {"type": "lifespan.startup"}

            async def send(message: Any) -> None:
                sent.append(message)

            with pytest.raises(ConfigurationError, match=r"WRONGPASS|invalid username"):
                await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
            assert sent[0]["type"] == "lifespan.startup.failed"
            await poll(lambda: not server.talks)

    for loop_factory in LOOPS.values():
        run_on(loop_factory, scenario())
        gc.collect()


def test_redis_on_trio_fails_at_the_start_and_says_what_to_do(own_redis: RedisServer) -> None:
    app = limited(TrafficCop(own_redis.url, limits=MANY))
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError, match="needs asyncio"):
        trio.run(app, {"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "needs asyncio, and this app runs on trio" in sent[0]["message"]
    assert "memory://" in sent[0]["message"]


# Served


class Browser:
    """64 keep-alive connections to a server in a process of its own; each asks again and again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.gate = Gate()
        self.answers: list[Answered] = []
        self.in_flight = 0
        self.stopped = False

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while not self.stopped:
                await self.gate.passed()
                start = time.monotonic()
                self.in_flight += 1
                writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.in_flight -= 1
                first, *lines = head.split("\r\n")
                found = dict(line.lower().split(": ", 1) for line in lines if line)
                if length := int(found.get("content-length", "0")):
                    await reader.readexactly(length)
                code = int(first.split()[1])
                self.answers.append(Answered(start, time.monotonic(), code, found, found.get("x-source", "")))
                await asyncio.sleep(0.02)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def serve(url: str, port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.adapters.load:served_app", "--port", str(port)]
    root = Path(__file__).parents[2]
    with (folder / "uvicorn.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--no-access-log", "--log-level", "warning"],
            cwd=root,
            env={**os.environ, "TEST_REDIS_URL": url, "PYTHONPATH": str(root)},
            stdout=log,
            stderr=log,
        )


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def test_a_served_app_under_a_freeze_of_five_seconds_and_a_kill(own_redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    server = serve(own_redis.url, port, tmp_path)

    async def outages(browser: Browser, lag: LoopLag) -> None:
        def told() -> str:
            return browser.answers[-1].headers["x-told"]

        def decided_by(source: str, moment: float) -> bool:
            return any(answer.start > moment and answer.source == source for answer in browser.answers)

        async def all_hang() -> None:
            async with browser.gate.closed(64):
                own_redis.freeze()
            await ticks_until(lambda: browser.in_flight == 64)

        await poll(lambda: decided_by("store", 0))
        await all_hang()
        frozen = time.monotonic()
        await asyncio.sleep(5)
        await poll(lambda: sum(answer.start > frozen for answer in browser.answers) > 500)
        thawed = time.monotonic()
        own_redis.thaw()
        await poll(lambda: decided_by("store", thawed))
        during = [answer for answer in browser.answers if answer.start > frozen and answer.end < thawed]
        assert len(during) > 500
        assert {answer.source for answer in during} == {"local"}
        await all_hang()
        own_redis.kill()
        killed = time.monotonic()
        await poll(lambda: decided_by("local", killed))
        await asyncio.to_thread(own_redis.start)
        started_again = time.monotonic()
        await poll(lambda: decided_by("store", started_again))
        await poll(lambda: told() == "store.lost,store.recovered,store.lost,store.recovered")

    async def scenario() -> None:
        await poll(lambda: accepts(port) or server.poll() is not None, 60)
        browser = Browser(port)
        async with LoopLag() as lag:
            callers = [asyncio.create_task(browser.run()) for _ in range(64)]
            try:
                await outages(browser, lag)
            finally:
                browser.stopped = True
                await asyncio.gather(*callers)
            await asyncio.sleep(0.01)
        assert {answer.status for answer in browser.answers} == {200}
        late = []
        for answer in browser.answers:
            lags = float(answer.headers["x-lag"]), lag.between(answer.start, answer.end)
            if answer.end - answer.start > DEADLINE + LOOP_TIME + sum(lags):
                late.append((answer.end - answer.start, answer.source, *lags))
        assert not late, late[:10]

    try:
        run_on(LOOPS["asyncio"], scenario())
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(60)
        finally:
            server.kill()
            server.wait()
    log = (tmp_path / "uvicorn.log").read_text()
    assert "Traceback" not in log, log
    assert [word for line in log.splitlines() for word in ("is lost", "is back; it") if word in line] == [
        *("is lost", "is back; it"),
        *("is lost", "is back; it"),
    ]


def test_a_refusal_by_outage_says_so_to_programs_and_people() -> None:
    async def scenario() -> None:
        app = limited(TrafficCop(f"redis://127.0.0.1:{free_port()}/0", limits=MANY, on_outage={"limits": "refuse"}))
        async with started(app):
            sent = await send_through(app, http_scope())
            body = json.loads(sent[1]["body"])
            assert body["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
            assert (body["status"], body["retry-after"]) == (503, 1)

    run_on(LOOPS["asyncio"], scenario())
