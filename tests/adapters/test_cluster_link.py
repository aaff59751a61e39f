"""The cluster's link against nodes in the test's own hands: who is asked what, how often, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.adapters.load import LOOPS, Command, FakeRedis, LoopLag, poll, run_on
from tests.servers import RedisServer, free_port
from traffic_cop_middleware import ConfigurationError, TrafficCop
from traffic_cop_middleware.adapters.redis.cluster import open as open_cluster
from traffic_cop_middleware.adapters.redis.cluster_link import ClusterLink
from traffic_cop_middleware.adapters.redis.cluster_slots import SLOTS, Address, layout_of, redirection, slot_of
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import StoreError, StoreTimeout, StoreUnavailable

SECRET = "hunter2"
ASKED = Address("10.0.0.1", 7000)
HALF = SLOTS // 2
LOW, HIGH = "bar", "foo"
"""Keys in the first and in the second half of the slots."""


def array(*items: Any) -> bytes:
    """A reply of nested arrays, integers and texts."""
    parts = [b"*%d\r\n" % len(items)]
    for item in items:
        if isinstance(item, int):
            parts.append(b":%d\r\n" % item)
        elif isinstance(item, list):
            parts.append(array(*item))
        elif item is None:
            parts.append(b"$-1\r\n")
        else:
            parts.append(b"$%d\r\n%s\r\n" % (len(item), item.encode()))
    return b"".join(parts)


class Pair:
    """Two nodes with half of the slots each; `says` is asked first what a node answers to a command."""

    def __init__(self) -> None:
        self.nodes = [FakeRedis(lambda command, at=at: self.answer(at, command)) for at in (0, 1)]  # type: ignore[misc]
        self.owners = [0, 1]
        self.says: Callable[[int, Command], bytes | None] = lambda at, command: b"+node %d\r\n" % at
        self.maps = 0
        self.host: str | None = "127.0.0.1"

    def answer(self, at: int, command: Command) -> bytes | None:
        if command[0] == b"CLUSTER":
            self.maps += 1
            ports = [self.nodes[owner].port for owner in self.owners]
            ranges = ((0, HALF - 1, ports[0]), (HALF, SLOTS - 1, ports[1]))
            return array(*([first, last, [self.host, port, "id", []]] for first, last, port in ranges))
        return self.says(at, command)

    def moved(self, key: str, to: int, *, how: str = "MOVED", host: str = "127.0.0.1") -> bytes:
        return f"-{how} {slot_of(key)} {host}:{self.nodes[to].port}\r\n".encode()

    def asked(self, at: int) -> list[list[Command]]:
        """What a node was asked, by write, the map and the backend's own count of workers left out."""
        writes = [[each for each in write if each[0] != b"CLUSTER"] for write in self.nodes[at].writes]
        return [write for write in writes if write]

    @contextlib.asynccontextmanager
    async def linked(self, *, deadline: float = 10.0) -> AsyncIterator[ClusterLink]:
        self.events: list[Event] = []
        async with self.nodes[0], self.nodes[1]:
            url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{self.nodes[0].port}"
            backend = open_cluster(url, namespace="tc", deadline=deadline, notify=self.events.append)
            assert isinstance(backend.link, ClusterLink)
            await backend.link.connect(30)
            try:
                yield backend.link
            finally:
                await backend.link.close()


def test_the_keys_of_these_tests_lie_where_they_say() -> None:
    assert slot_of(LOW) < HALF <= slot_of(HIGH)
    assert slot_of("{user:alice}1") == slot_of(b"tc:s:{user:alice}2")
    assert slot_of("123456789") == 0x31C3, "the specification's own example"


def test_what_a_tick_asks_is_one_write_to_each_node() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked() as link:
            asked = [link.ask("GET", key) for key in (LOW, HIGH) * 20]
            cancelled = link.ask("GET", LOW)
            cancelled.cancel()
            assert await asyncio.gather(*asked) == [b"node 0", b"node 1"] * 20
            assert pair.asked(0) == [[[b"GET", LOW.encode()]] * 20]
            assert pair.asked(1) == [[[b"GET", HIGH.encode()]] * 20]

    for loop in LOOPS.values():
        run_on(loop, scenario())


def test_a_slot_that_has_moved_is_followed_and_the_map_is_read_once() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked() as link:
            pair.says = lambda at, command: pair.moved(LOW, 1, host="") if at == 0 else b"+node 1\r\n"
            before = pair.maps
            pair.owners = [1, 1]
            assert set(await asyncio.gather(*(link.ask("GET", LOW) for _ in range(50)))) == {b"node 1"}
            await poll(lambda: pair.maps > before and len(link.masters) == 1)
            assert await link.ask("GET", LOW) == b"node 1"
            assert len(pair.asked(0)) == 1
            assert pair.maps - before <= 2, "one reading, and one more for what came during it"
            await poll(lambda: len(pair.nodes[0].talks) <= 1)
            assert not pair.events

    run_on(LOOPS["asyncio"], scenario())


def test_a_slot_on_the_move_is_asked_after_with_asking_in_one_write() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked() as link:
            pair.says = lambda at, command: pair.moved(LOW, 1, how="ASK") if at == 0 else b"+OK\r\n"
            assert await asyncio.gather(link.ask("SET", LOW, 1), link.ask("SET", LOW, 2)) == [b"OK", b"OK"]
            [write] = pair.asked(1)
            low = LOW.encode()
            assert write == [[b"ASKING"], [b"SET", low, b"1"], [b"ASKING"], [b"SET", low, b"2"]]
            assert await link.ask("SET", LOW, 3) == b"OK"
            assert len(pair.asked(0)) == 2, "ASK is of one command, not of the slot"
            assert not pair.events

    run_on(LOOPS["asyncio"], scenario())


def test_what_is_to_be_tried_again_is_until_it_succeeds() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked() as link:
            left = [5]

            def says(at: int, command: Command) -> bytes:
                left[0] -= 1
                return b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n" if left[0] >= 0 else b"+done\r\n"

            pair.says = says
            assert await link.ask("MGET", LOW, LOW) == b"done"
            assert len(pair.asked(0)) == 6
            assert not pair.events

    run_on(LOOPS["asyncio"], scenario())


@pytest.mark.parametrize("quarrel", ["both send on", "both ask on", "try again", "elsewhere"])
def test_a_quarrel_over_a_slot_ends_with_the_deadline(quarrel: str) -> None:
    deadline = 0.3

    async def scenario() -> None:
        pair = Pair()
        async with pair.linked(deadline=deadline) as link, LoopLag() as lag:

            def says(at: int, command: Command) -> bytes:
                if command[0] == b"ASKING":
                    return b"+OK\r\n"
                if quarrel == "both send on":
                    return pair.moved(LOW, 1 - at)
                if quarrel == "both ask on":
                    return pair.moved(LOW, 1 - at, how="ASK" if at == 0 else "MOVED")
                if quarrel == "try again":
                    return b"-TRYAGAIN later\r\n"
                return b"-MOVED 1 somewhere\r\n"

            pair.says = says
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await link.ask("GET", LOW)
            end = time.monotonic()
            await asyncio.sleep(0.01)
            assert end - start < deadline + 0.05 + lag.between(start, end)
            assert sum(len(pair.asked(at)) for at in (0, 1)) < 100, "no busy loop"

    run_on(LOOPS["asyncio"], scenario())


def test_a_silent_node_fails_what_it_was_asked_and_not_what_the_other_was() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked(deadline=0.1) as link:
            pair.says = lambda at, command: None if at == 0 else b"+here\r\n"
            low, high = await asyncio.gather(link.ask("GET", LOW), link.ask("GET", HIGH), return_exceptions=True)
            assert isinstance(low, StoreTimeout)
            assert high == b"here"
            assert link.up
            assert link.reachable(slot_of(LOW))
            for _ in range(2):
                with pytest.raises(StoreTimeout):
                    await link.ask("GET", LOW)
            assert not link.reachable(slot_of(LOW)), "three deadlines were missed"
            with pytest.raises(StoreUnavailable, match="is not reachable at present"):
                await link.ask("GET", LOW)
            assert await link.ask("GET", HIGH) == b"here"
            assert [event.attributes["node"] for event in pair.events] == [f"127.0.0.1:{pair.nodes[0].port}"]

    run_on(LOOPS["asyncio"], scenario())


def test_a_slot_that_nobody_serves_is_unavailable_until_somebody_does() -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.host = None  # a node that does not know its own host is where it was asked
        async with pair.linked() as link:
            link._owners[slot_of(LOW)] = None
            with pytest.raises(StoreUnavailable, match="no node serves slot"):
                await link.ask("GET", LOW)
            await poll(lambda: link.reachable(slot_of(LOW)))
            assert await link.ask("GET", LOW) == b"node 0"

    run_on(LOOPS["asyncio"], scenario())


def test_what_is_asked_while_it_closes_fails_and_nothing_is_left() -> None:
    async def scenario() -> None:
        pair = Pair()
        async with pair.linked() as link:
            pair.says = lambda at, command: b"-TRYAGAIN later\r\n" if at == 0 else None
            asked = [asyncio.ensure_future(link.ask("GET", key)) for key in (LOW, HIGH)]
            await poll(lambda: pair.asked(0) and pair.asked(1))
            await link.close()
            assert all(isinstance(each.exception(), StoreUnavailable) for each in asked)
            with pytest.raises(StoreUnavailable):
                link.ask("GET", LOW)

    for loop in LOOPS.values():
        run_on(loop, scenario())


# What nodes say


NODE = [b"10.0.0.2", 7001, b"id"]


def test_a_map_names_the_master_of_each_slot_and_the_replicas() -> None:
    layout = layout_of(
        [[0, 9, NODE, [b"", 7002, b"id", [b"hostname", b"x"]]], [11, SLOTS - 1, [None, 7003, b"id"]]], ASKED
    )
    assert layout.masters[:12] == [Address("10.0.0.2", 7001)] * 10 + [None, Address("10.0.0.1", 7003)]
    assert layout.replicas == [Address("10.0.0.1", 7002)]


@pytest.mark.parametrize(
    "reply",
    [
        b"OK",
        [b"x"],
        [[0, 5]],
        [[0, SLOTS, NODE]],
        [[-1, 5, NODE]],
        [[7, 5, NODE]],
        [[b"0", b"5", NODE]],
        [[0, 5, [b"host"]]],
        [[0, 5, [b"host", 70_000, b"id"]]],
        [[0, 5, [b"h" * 300, 7000, b"id"]]],
        [[0, 5, [b"\xff", 7000, b"id"]]],
        [[0, 5, [b"host", b"7000", b"id"]]],
        [[0, 0, NODE]] * (SLOTS + 1),
        [[slot, slot, [b"host", slot + 1, b"id"]] for slot in range(2_000)],
        [],
        [[0, SLOTS - 1, [b"?", 7000, b"id"]]],
    ],
)
def test_a_map_that_makes_no_sense_is_an_error_and_nothing_else(reply: Any) -> None:
    with pytest.raises(StoreError):
        layout_of(reply, ASKED)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("MOVED 7 10.0.0.9:7001", Address("10.0.0.9", 7001)),
        ("ASK 7 ::1:7001", Address("::1", 7001)),
        ("MOVED 7 :7001", Address("10.0.0.1", 7001)),
        ("MOVED 7 ?:7001", None),
        ("MOVED 7 10.0.0.9", None),
        ("MOVED 7 10.0.0.9:port", None),
        ("MOVED 7 10.0.0.9:0", None),
        ("MOVED", None),
    ],
)
def test_where_a_node_sends_one_on_to(text: str, address: Address | None) -> None:
    assert redirection(text, ASKED) == address


# The URL and the start


def test_a_url_with_several_hosts_is_named_without_its_password() -> None:
    url = f"rediss+cluster://cop:{SECRET}%2F@[::1]:7101,node-2,node-3:7103/0?ssl_cert_reqs=none"
    backend = open_cluster(url, namespace="tc", deadline=0.05, notify=lambda event: None)
    assert backend.name == "rediss+cluster://[::1]:7101,node-2,node-3:7103/0"
    assert isinstance(backend.link, ClusterLink)
    assert backend.link._seeds == (Address("::1", 7101), Address("node-2", 6379), Address("node-3", 7103))
    connection = backend.link._open_at(Address("node-9", 7109))
    assert (connection.host, connection.port) == ("node-9", 7109)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://node-1,,node-3", "a host is missing"),
        ("redis+cluster://node-1:7101,node-2:port", "its port is no number"),
        ("redis+cluster://node-1:7101,node-2:0", "its port is no number"),
        ("redis+cluster://node-1/1", "no database but 0"),
        ("redis+cluster://node-1?db=2", "no database but 0"),
        ("redis+cluster://node-1/first", "'first' is no database number"),
        ("redis+cluster://node-1?databse=0", "'databse' is no option"),
        ("redis+cluster://node-1?ssl_cert_reqs=none", "needs TLS"),
        ("redis+cluster://" + ",".join(f"node-{n}" for n in range(100)), "more than 64"),
        (f"redis+cluster://:{SECRET}/x@node-1", "can't be read"),
        (f"redis+cluster://:{SECRET},1/x@node-1,node-2", "can't be read"),
        (f"redis+cluster://cop:{SECRET}@node-1:x,node-2", "can't be read"),
        (f"redis+cluster://cop:{SECRET}@node-1?{SECRET}@x", "can't be read"),
    ],
)
def test_a_url_that_can_not_be_used_fails_when_the_cop_is_made(url: str, cause: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TrafficCop(url, limits="10/minute")
    assert cause in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.redis_server
def test_a_single_server_is_told_apart_from_a_cluster(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        url = redis_server.url.replace("redis:", "redis+cluster:")
        backend = open_cluster(url, namespace="tc", deadline=0.05, notify=lambda event: None)
        with pytest.raises(ConfigurationError, match=r"is a single server and no cluster\. Write redis://"):
            await backend.connect(patience=30)

    run_on(LOOPS["asyncio"], scenario())


def test_a_wrong_password_stops_the_start_and_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        async with FakeRedis() as server:
            server.greet = lambda _: b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
            url = f"redis+cluster://cop:{SECRET}@127.0.0.1:{free_port()},127.0.0.1:{server.port}"
            backend = open_cluster(url, namespace="tc", deadline=0.05, notify=lambda event: None)
            with pytest.raises(ConfigurationError, match="Mend the user, password or database in the URL") as caught:
                await backend.connect(patience=30)
            assert "invalid username-password pair" in str(caught.value)
            assert SECRET not in str(caught.value)
            await poll(lambda: not server.talks)

    run_on(LOOPS["asyncio"], scenario())
    gc.collect()
    assert SECRET not in caplog.text


def test_a_cluster_that_is_away_at_the_start_is_an_outage_and_is_come_back_to() -> None:
    async def scenario() -> None:
        pair = Pair()
        port = free_port()
        events: list[Event] = []
        url = f"redis+cluster://127.0.0.1:{port}"
        backend = open_cluster(url, namespace="tc", deadline=0.05, notify=events.append)
        await backend.link.connect(30)
        assert [event.kind for event in events] == ["store.lost"]
        assert not backend.link.up
        with pytest.raises(StoreUnavailable):
            backend.link.ask("GET", LOW)
        async with pair.nodes[0], pair.nodes[1]:
            relay = await asyncio.get_running_loop().create_server(pair.nodes[0]._accept, "127.0.0.1", port)
            await poll(lambda: backend.link.up)
            assert [event.kind for event in events] == ["store.lost", "store.recovered"]
            await backend.link.close()
            relay.close()

    run_on(LOOPS["asyncio"], scenario())
