"""One of three processes has a fault while clients ask without a pause: what they see of it, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.gateway.faulty import Faulty, faulty
from tests.gateway.raw import PATIENCE, eventually
from tests.gateway.served import Served, gateway
from tests.gateway.traffic import Traffic, traffic
from traffic_cop_middleware import BalancingSettings
from traffic_cop_middleware.adapters.http.aiohttp_transport import AiohttpTransport
from traffic_cop_middleware.contracts.transport import Deadlines, Origin, Outgoing

pytestmark = pytest.mark.asyncio

CLIENTS = 6
FAILURES = 5
"""In a row, after which an instance is ejected."""
IN_TURN = BalancingSettings(
    policy="round-robin", consecutive_failures=FAILURES, ejection=1.0, longest_ejection=1.0, slow_start=0.3
)
BOTH = ("GET", "POST")


@contextlib.asynccontextmanager
async def three(
    settings: BalancingSettings, methods: Sequence[str] = BOTH
) -> AsyncIterator[tuple[list[Faulty], Served, Traffic]]:
    """Instances, a gateway, and clients that ask; all are asked already."""
    async with contextlib.AsyncExitStack() as stack:
        found = [await stack.enter_async_context(faulty()) for _ in range(3)]
        served = await stack.enter_async_context(gateway([each.url for each in found], balancing=settings))
        clients = await stack.enter_async_context(traffic(served.port, clients=CLIENTS, methods=methods))
        await eventually(lambda: len(clients.who(0)) == 3)
        yield found, served, clients


async def asked(instances: Sequence[Faulty]) -> Counter[str]:
    """How often each request has come to instances."""
    found: Counter[str] = Counter()
    for each in instances:
        found.update(await each.asked())
    return found


async def comes_back(instance: Faulty, clients: Traffic) -> None:
    """Wait until it answers again; nothing fails from then on."""
    moment = await clients.more(1)
    await eventually(lambda: clients.who(moment)[instance.name.decode()] > 0, within=30)
    moment = await clients.more(100)
    assert clients.failed(moment) == []
    await eventually(lambda: clients.who(moment)[instance.name.decode()] > 0)


@pytest.mark.parametrize(("fault", "status"), [("garbage", 502), ("drop", 502), ("half", 502), ("reset", 0)])
async def test_an_instance_that_breaks_answers_is_left_soon_and_asked_again_when_it_is_well(
    fault: str, status: int
) -> None:
    async with three(IN_TURN) as (found, served, clients):
        await found[0].has(fault)
        await eventually(lambda: bool(served.told("instance.ejected")))
        await clients.more(300)
        await found[0].has("none")
        await comes_back(found[0], clients)
        failed = clients.failed()
        assert {each.status for each in failed} == {status}
        # What is under way when it is ejected fails too; and what is there to see whether it is well again.
        assert len(failed) <= FAILURES + CLIENTS + CLIENTS * len(served.told("instance.returned"))
        assert {each["instance"] for each in served.told("instance.ejected")} == {found[0].url}
        times = await asked(found)
        assert {times[each.request] for each in failed if each.method == "POST" or fault == "reset"} <= {1}
        assert {count for request, count in times.items() if request.startswith("POST")} == {1}, "asked again"
        assert max(times.values()) <= 2
        assert served.errors == [] or fault == "reset", "an answer that is cut is an error for the server"


@pytest.mark.parametrize("fault", ["close", "idle"])
async def test_connections_that_an_instance_closes_cost_no_safe_request(fault: str) -> None:
    async with three(IN_TURN, ["GET"]) as (found, served, clients):
        await found[0].has(fault)
        moment = await clients.more(600)
        assert clients.failed() == []
        assert set(clients.who(moment)) == {each.name.decode() for each in found}, "it is not blamed for it"
        assert served.told("instance.ejected") == []
        assert max((await asked(found)).values()) <= 2


async def test_an_answer_that_ends_with_the_instances_side_of_the_connection_is_whole() -> None:
    async with three(IN_TURN) as (found, served, clients):
        await found[0].has("bare")
        moment = await clients.more(300)
        assert set(clients.who(moment)) == {each.name.decode() for each in found}
        assert clients.failed() == []
        assert served.told("upstream.failed") == []


async def test_a_slow_instance_is_asked_less_and_again_when_it_is_quick() -> None:
    async with three(BalancingSettings(tau=0.5, slow_start=0.3)) as (found, served, clients):
        await found[0].has("slow")
        await clients.more(100)
        moment = await clients.more(400)
        who = clients.who(moment)
        assert who[found[0].name.decode()] < 0.2 * who.total()
        await found[0].has("none")
        await comes_back(found[0], clients)
        assert clients.failed() == []
        assert served.told("instance.ejected") == []


async def test_a_frozen_instance_costs_no_safe_request_and_is_asked_again_when_it_thaws() -> None:
    settings = BalancingSettings(
        policy="round-robin",
        try_deadline=1.0,
        consecutive_failures=2,
        ejection=1.0,
        longest_ejection=1.0,
        slow_start=0.3,
    )
    async with three(settings) as (found, served, clients):
        await clients.more(100)  # pay for retries
        found[0].freeze()
        try:
            await eventually(lambda: bool(served.told("instance.ejected")), within=30)
            await clients.more(200)
        finally:
            found[0].thaw()
        await comes_back(found[0], clients)
        failed = clients.failed()
        assert {each.method for each in failed} <= {"POST"}, "those may have been done"
        assert {each.status for each in failed} <= {504}
        assert len(failed) <= CLIENTS * (1 + len(served.told("instance.returned")))
        times = await asked(found)
        assert {count for request, count in times.items() if request.startswith("POST")} == {1}


async def test_an_unsafe_request_does_not_go_out_on_a_connection_that_has_ended_unread() -> None:
    """The event loop, busy, has not read yet that the upstream closed the connection."""
    seen: list[bytes] = []
    first, closed = threading.Event(), threading.Event()

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            link, _ = listening.accept()
            with link:
                link.settimeout(PATIENCE)
                seen.append(link.recv(65536))
                link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                first.wait(PATIENCE)
            closed.set()

    transport = AiohttpTransport()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        serving = threading.Thread(target=serve, args=[listening], daemon=True)
        serving.start()
        origin = Origin("http", "127.0.0.1", listening.getsockname()[1])
        deadlines = Deadlines(PATIENCE, PATIENCE, PATIENCE)
        host = (b"host", b"a")
        for method in ("GET", "DELETE"):
            request = Outgoing(method, b"/", (host,), None)
            incoming = await transport.send(origin, request, deadlines=deadlines)
            assert incoming.status == 200
            assert [chunk async for chunk in incoming.chunks()] == []
            incoming.close()
            await asyncio.sleep(0)
            first.set()
            assert closed.wait(PATIENCE)  # in the way of the event loop
        serving.join(PATIENCE)
    assert [each.split(b" ")[0] for each in seen] == [b"GET", b"DELETE"]
    await transport.close()
