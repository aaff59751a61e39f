"""Behind sentinels a master is killed, frozen, switched under 64 requests: the new one is found, nobody gets a 500."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.load import LOOPS, Answered, Command, FakeRedis, poll, run_on, started
from tests.adapters.test_redis_link import certificate
from tests.adapters.test_redis_outage import Policy, Watched, as_declared, visit
from tests.sentinels import SERVICE, Sentinel, SentinelSet, asked, clients, follows, running_sentinels
from tests.servers import RedisServer, free_port, require_redis_server, running_redis
from traffic_cop_middleware import ConfigurationError, TrafficCop
from traffic_cop_middleware.adapters import redis as adapter
from traffic_cop_middleware.adapters.redis import RedisBackend, sentinel_watch
from traffic_cop_middleware.contracts import Event, Message
from traffic_cop_middleware.errors import StoreError, StoreUnavailable

pytestmark = pytest.mark.redis_server

PATIENT = 60_000
"""Milliseconds: where nothing happens to the master, nobody may think so on a slow machine."""


@pytest.fixture
def own_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """A master, a replica and three sentinels of one test's own."""
    with running_sentinels(tmp_path_factory.mktemp("sentinels")) as watched:
        yield watched


@pytest.fixture
def calm_sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """The same, and nothing but the test switches the master."""
    with running_sentinels(tmp_path_factory.mktemp("sentinels"), down_after=PATIENT) as watched:
        yield watched


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    """The same for all tests that do nothing to it."""
    with running_sentinels(tmp_path_factory.mktemp("sentinels"), down_after=PATIENT) as watched:
        yield watched


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    """What a test leaves open is a warning, and so a failure."""
    yield
    gc.collect()


async def moved(own: SentinelSet, old: RedisServer) -> RedisServer:
    """Wait until our connections lead to another master than `old`."""
    new = next(server for server in own.servers if server is not old)
    end = time.monotonic() + 60
    while not await asyncio.to_thread(clients, new):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    return new


async def becomes_a_replica(server: RedisServer) -> None:
    end = time.monotonic() + 60
    while not await asyncio.to_thread(follows, server):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def by_policy(policy: Policy, answers: list[Answered]) -> bool:
    """Whether each was decided by the store, or as the policy says of an outage."""
    return all((answer.source == "store" and answer.status == 200) or as_declared(policy, answer) for answer in answers)


# Under load


def test_a_killed_master_is_followed_to_the_next_and_does_no_harm_when_it_returns(own_sentinels: SentinelSet) -> None:
    watched = Watched(own_sentinels.url, "refuse")

    async def scenario() -> None:
        old = own_sentinels.servers[0]
        async with watched.running() as load:
            await load.decided_by("store")
            await load.all_hang_on(old)
            old.kill()
            await poll(lambda: watched.kinds == ["store.lost"])
            await load.decided_by("store", 60)
            new = await moved(own_sentinels, old)
            await asyncio.to_thread(old.start)  # empty, and as a master: that is how it was configured
            assert not follows(old)
            back = time.monotonic()
            await load.decided_by("store")
            await becomes_a_replica(old)
            await load.decided_by("store")
            await poll(lambda: (clients(old), clients(new)) == (0, 1), tick=0.05)
            assert any(answer.source == "store" for answer in load.since(back))
        assert by_policy("refuse", load.answers)
        assert watched.kinds[:2] == ["store.lost", "store.recovered"]

    run_on(LOOPS["asyncio"], scenario())


def test_a_frozen_master_is_followed_to_the_next_and_does_no_harm_when_it_thaws(own_sentinels: SentinelSet) -> None:
    watched = Watched(own_sentinels.url, "local")

    async def scenario() -> None:
        old = own_sentinels.servers[0]
        async with watched.running() as load:
            await load.decided_by("store")
            await load.all_hang_on(old)
            await poll(lambda: watched.kinds == ["store.lost"])
            await load.decided_by("store", 60)
            new = await moved(own_sentinels, old)
            old.thaw()
            await becomes_a_replica(old)
            await load.decided_by("store")
            await poll(lambda: (clients(old), clients(new)) == (0, 1), tick=0.05)
        assert by_policy("local", load.answers)
        assert watched.kinds[:2] == ["store.lost", "store.recovered"]

    run_on(LOOPS["uvloop"], scenario())


def test_a_planned_switch_is_followed_while_the_old_master_still_takes_writes(calm_sentinels: SentinelSet) -> None:
    """Nothing breaks then, and for seconds all that the old one is told would be lost."""
    watched = Watched(calm_sentinels.url, "allow")
    calm_sentinels.leave_old_masters_alone()

    async def scenario() -> None:
        old = calm_sentinels.servers[0]
        async with watched.running() as load:
            await load.decided_by("store")
            await asyncio.to_thread(calm_sentinels.switch)
            new = await moved(calm_sentinels, old)
            await poll(lambda: clients(old) == 0, tick=0.05)
            assert b"role:master" in asked(old, "INFO", "replication")
            await load.decided_by("store")
            await poll(lambda: clients(new) == 1, tick=0.05)
        assert by_policy("allow", load.answers)

    run_on(LOOPS["asyncio"], scenario())


# Without load


def opened(url: str, events: list[Event] | None = None, *, deadline: float = 10.0) -> RedisBackend:
    return adapter.open(url, namespace="tc", deadline=deadline, notify=([] if events is None else events).append)


def test_a_demoted_master_that_kept_its_clients_is_left_at_the_first_write(
    calm_sentinels: SentinelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel_watch, "PERIOD", 1000.0)
    calm_sentinels.leave_old_masters_alone()

    async def scenario() -> None:
        events: list[Event] = []
        backend = opened(calm_sentinels.url, events)
        await backend.connect(patience=30)
        old, new = calm_sentinels.servers
        try:
            await asyncio.to_thread(calm_sentinels.switch)
            assert clients(old) == 1
            old.command("REPLICAOF", "127.0.0.1", str(new.port))
            with contextlib.suppress(StoreUnavailable):
                await backend.link.ask("SET", "tc:key", "value")  # unless the heartbeat has met it before
            await poll(lambda: backend.link.up)
            assert await backend.link.ask("SET", "tc:key", "value") == b"OK"
            assert b"value" in new.command("GET", "tc:key")
            assert [event.kind for event in events][:1] == ["store.lost"]
            assert "READONLY" in events[0].attributes["reason"]
        finally:
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())


def test_messages_and_their_notifications_follow_the_master(own_sentinels: SentinelSet) -> None:
    async def scenario() -> None:
        told: list[Message] = []
        listener, publisher = (opened(own_sentinels.url) for _ in range(2))
        await listener.connect(patience=30)
        await publisher.connect(patience=30)
        old, new = own_sentinels.servers
        try:
            listener.bus.subscribe("topic", told.append)
            await poll(lambda: clients(old, "pubsub") == 1)
            await publisher.bus.publish("topic", "before")
            await poll(lambda: [message.payload for message in told] == ["before"])
            await asyncio.to_thread(old.kill)
            await moved(own_sentinels, old)
            await poll(lambda: publisher.link.up and listener.link.up)
            await poll(lambda: clients(new, "pubsub") == 1)
            await publisher.bus.publish("topic", "after")
            await poll(lambda: told[-1].payload == "after")
        finally:
            await listener.close()
            await publisher.close()

    run_on(LOOPS["asyncio"], scenario())


# The start


async def refusal(url: str) -> str:
    """What the start says; a few times, for a slow machine has an outage instead."""
    for _ in range(5):
        backend = opened(url)
        try:
            await backend.connect(patience=5)
        except ConfigurationError as exc:
            assert not backend.link.up
            return str(exc)
        await backend.close()
    raise AssertionError("it started")


def test_a_service_that_the_sentinels_do_not_know_stops_the_start(sentinels: SentinelSet) -> None:
    async def scenario() -> None:
        said = await refusal(sentinels.url.replace(SERVICE, "yours"))
        assert "the sentinels know no service 'yours'" in said
        assert "Write ?service= with the name" in said

    run_on(LOOPS["asyncio"], scenario())


def test_sentinels_with_a_password_are_asked_with_theirs_and_no_message_has_it(
    sentinels: SentinelSet, caplog: pytest.LogCaptureFixture
) -> None:
    locked = sentinels.sentinel("requirepass sesame")
    url = f"redis+sentinel://127.0.0.1:{locked.port}/0?service={SERVICE}"

    async def scenario() -> None:
        for wrong, why in (
            ("", "Authentication required"),
            ("&sentinel_password=hunter2", "invalid username-password"),
        ):
            said = await refusal(url + wrong)
            assert f"the sentinel at 127.0.0.1:{locked.port} refuses this client" in said
            assert why in said
            assert "Mend sentinel_username and sentinel_password in the URL" in said
            assert "hunter2" not in said
        backend = opened(f"{url}&sentinel_password=sesame")
        await backend.connect(patience=30)
        assert await backend.link.ask("ECHO", 1) == b"1"
        await backend.close()

    try:
        run_on(LOOPS["asyncio"], scenario())
    finally:
        locked.kill()
    assert "hunter2" not in caplog.text


def test_a_user_of_the_sentinels_needs_one_permission(sentinels: SentinelSet) -> None:
    own = sentinels.sentinel()
    own.command("ACL", "SETUSER", "cop", "on", ">sesame", "+sentinel|get-master-addr-by-name")
    own.command("ACL", "SETUSER", "default", "resetpass", ">other")

    async def scenario() -> None:
        query = f"service={SERVICE}&sentinel_username=cop&sentinel_password=sesame"
        backend = opened(f"redis+sentinel://127.0.0.1:{own.port}/0?{query}")
        await backend.connect(patience=30)
        assert await backend.link.ask("ECHO", 1) == b"1"
        await backend.close()

    try:
        run_on(LOOPS["asyncio"], scenario())
    finally:
        own.kill()


def test_rediss_speaks_tls_to_the_sentinels_and_to_the_master(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    files = {"tls-cert-file": cert, "tls-key-file": key, "tls-ca-cert-file": cert, "tls-auth-clients": "no"}
    ports = free_port(), free_port()
    options = [word for name, value in files.items() for word in (f"--{name}", str(value))]
    lines = [f"{name} {value}" for name, value in files.items()]
    watch = f"sentinel monitor {SERVICE} 127.0.0.1 {ports[0]} 1"
    with running_redis(tmp_path, "--tls-port", str(ports[0]), *options) as server:
        own = Sentinel(require_redis_server(), tmp_path, *lines, f"tls-port {ports[1]}", "tls-replication yes", watch)
        own.start()

        async def scenario() -> None:
            url = f"rediss+sentinel://127.0.0.1:{ports[1]}/3?service={SERVICE}&ssl_ca_certs={cert}"
            backend = opened(url)
            await backend.connect(patience=30)
            assert await backend.link.ask("SET", "tc:key", "value") == b"OK"
            assert b"db3" in server.command("INFO", "keyspace")
            await backend.close()
            stranger = opened(url.partition("&")[0])
            await stranger.connect(patience=30)
            assert not stranger.link.up
            await stranger.close()

        try:
            run_on(LOOPS["asyncio"], scenario())
        finally:
            own.kill()


def test_a_master_that_refuses_the_password_stops_the_start(sentinels: SentinelSet) -> None:
    async def scenario() -> None:
        said = await refusal(sentinels.url.replace("://", "://cop:hunter2@"))
        assert "refuses this client: invalid username-password pair" in said
        assert "Mend the user, password or database in the URL" in said
        assert "hunter2" not in said

    run_on(LOOPS["asyncio"], scenario())


def test_the_port_of_a_server_that_is_no_sentinel_stops_the_start(sentinels: SentinelSet) -> None:
    async def scenario() -> None:
        said = await refusal(f"redis+sentinel://127.0.0.1:{sentinels.servers[0].port}/0?service={SERVICE}")
        assert "unknown command 'SENTINEL'" in said
        assert "Is this a sentinel's port?" in said

    run_on(LOOPS["asyncio"], scenario())


def test_an_app_starts_while_no_sentinel_is_there(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis+sentinel://:hunter2@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/0?service={SERVICE}"
    watched = Watched(url, "local")

    async def scenario() -> None:
        async with started(watched.load.app) as answer:
            assert answer == {"type": "lifespan.startup.complete"}
            assert await visit(watched.load.app) == "200 local"

    run_on(LOOPS["asyncio"], scenario())
    assert "no sentinel answers (127.0.0.1:" in watched.told[0].attributes["reason"]
    assert "hunter2" not in caplog.text + str(watched.told)


def test_a_sentinel_that_is_frozen_and_one_that_is_gone_are_passed_over(sentinels: SentinelSet) -> None:
    frozen = sentinels.sentinel()
    frozen.freeze()
    places = f"127.0.0.1:{free_port()},127.0.0.1:{frozen.port},127.0.0.1:{sentinels.sentinels[0].port}"

    async def scenario() -> None:
        backend = opened(f"redis+sentinel://{places}/0?service={SERVICE}")
        await backend.connect(patience=30)
        await poll(lambda: backend.link.up)
        assert await backend.link.ask("ECHO", 1) == b"1"
        await backend.close()

    try:
        run_on(LOOPS["asyncio"], scenario())
    finally:
        frozen.thaw()
        frozen.kill()


# Sentinels that are wrong


def names(server: FakeRedis) -> Any:
    """A sentinel that always calls this server the master."""
    address = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(server.port)), server.port)
    return lambda _: address


def plays(role: bytes) -> Any:
    """A server of this role; a replica takes no writes."""

    def answer(command: Command) -> bytes:
        if command[0] == b"ROLE":
            return role
        if command[0] == b"SET" and role == REPLICA:
            return b"-READONLY You can't write against a read only replica.\r\n"
        return b"+OK\r\n" if command[0] == b"SET" else b":1\r\n"

    return answer


MASTER, REPLICA = (
    b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
    b"*5\r\n$5\r\nslave\r\n$1\r\nx\r\n:1\r\n$7\r\nconnect\r\n:0\r\n",
)
FORBIDDEN = b"-NOPERM this user has no permissions to run the 'role' command\r\n"


def watched_by(*told: FakeRedis) -> str:
    return f"redis+sentinel://{','.join(f'127.0.0.1:{sentinel.port}' for sentinel in told)}/0?service=any"


@pytest.mark.parametrize("wrong", ["stale", b"+OK\r\n", b"*2\r\n$-1\r\n$-1\r\n", b"HTTP/1.1 400\r\n\r\n", b"*-1\r\n"])
def test_a_sentinel_that_is_wrong_is_passed_over_and_asked_last(wrong: str | bytes) -> None:
    async def scenario() -> None:
        async with (
            FakeRedis(plays(MASTER)) as master,
            FakeRedis(plays(REPLICA)) as replica,
            FakeRedis(names(master)) as right,
            FakeRedis(names(replica) if wrong == "stale" else lambda _: wrong) as other,  # type: ignore[arg-type,return-value]
        ):
            backend = opened(watched_by(other, right))
            await backend.connect(patience=30)
            await poll(lambda: backend.link.up)
            assert await backend.link.ask("SET", "a", "b") == b"OK"
            assert [b"SET"] not in [[command[0] for command in write] for write in replica.writes]
            asked = other.accepted
            master.talks[0].transport.abort()
            await poll(lambda: master.accepted >= 2)
            await poll(lambda: backend.link.up)
            assert other.accepted == asked
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())


def test_a_replica_that_all_call_the_master_is_not_taken_for_one_and_not_stormed() -> None:
    async def scenario() -> None:
        async with FakeRedis(plays(REPLICA)) as server, FakeRedis(names(server)) as sentinel:
            events: list[Event] = []
            backend = opened(watched_by(sentinel), events)
            await backend.connect(patience=30)
            start = time.monotonic()
            await poll(lambda: server.accepted >= 6)
            assert time.monotonic() - start > 0.05 / 2 * (1 + 2 + 4 + 8)
            assert [event.kind for event in events] == ["store.lost"]
            assert "is no master but a slave" in events[0].attributes["reason"]
            server.answer = plays(MASTER)
            await poll(lambda: backend.link.up)
            assert await backend.link.ask("SET", "a", "b") == b"OK"
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())


def test_a_user_who_may_not_ask_for_the_role_is_told_once_and_leaves_a_replica_by_its_first_refusal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        async with FakeRedis() as server, FakeRedis(names(server)) as sentinel:
            role = plays(REPLICA)
            server.answer = lambda command: FORBIDDEN if command[0] == b"ROLE" else role(command)
            backend = opened(watched_by(sentinel))
            await backend.connect(patience=30)
            start = time.monotonic()
            while server.accepted < 5:
                with pytest.raises(StoreError):
                    await backend.link.ask("SET", "a", "b")
                await asyncio.sleep(0.001)
            assert time.monotonic() - start > 0.05 / 2 * 4
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())
    assert sum("Allow +role" in record.getMessage() for record in caplog.records) == 1


def test_two_names_of_one_master_cut_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel_watch, "PERIOD", 0.01)

    async def scenario() -> None:
        async with FakeRedis(plays(MASTER)) as master, FakeRedis(names(master)) as sentinel:
            backend = opened(watched_by(sentinel))
            await backend.connect(patience=30)
            connection = backend.link._connection
            port = b"%d" % master.port
            sentinel.answer = lambda _: b"*2\r\n$9\r\nlocalhost\r\n$%d\r\n%b\r\n" % (len(port), port)
            await poll(lambda: master.accepted >= 4)
            assert backend.link._connection is connection
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())


def test_a_frozen_sentinel_holds_up_neither_the_watch_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel_watch, "PERIOD", 0.01)

    async def scenario() -> None:
        async with (
            FakeRedis(plays(MASTER)) as master,
            FakeRedis(names(master)) as first,
            FakeRedis(names(master)) as second,
        ):
            backend = opened(watched_by(first, second))
            await backend.connect(patience=30)
            await poll(lambda: first.accepted >= 2)
            first.answer = lambda _: None
            await poll(lambda: second.accepted >= 1)
            second.answer = lambda _: None
            await poll(lambda: len(second.writes) >= 2)
            await backend.close()

    run_on(LOOPS["asyncio"], scenario())


def test_making_a_cop_asks_no_sentinel() -> None:
    TrafficCop("redis+sentinel://nobody.invalid:1,[::1]/3?service=any", limits="10/minute")
