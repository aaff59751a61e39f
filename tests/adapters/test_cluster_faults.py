"""A real cluster loses masters, hands over, moves slots and goes down under 64 requests: no 500, and nobody hangs.

One cluster serves all these tests: each begins with one that has healed, whoever its masters are by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.load import LOOPS, Answered, poll, run_on
from tests.adapters.test_redis_outage import Watched
from tests.redis_cluster import Node, RedisCluster, running_cluster
from tests.state.houses import House, sqlite_at
from traffic_cop_middleware import by_everyone, limit
from traffic_cop_middleware.adapters.memory.documents import MemoryDocuments
from traffic_cop_middleware.adapters.redis.cluster import ClusterBackend
from traffic_cop_middleware.adapters.redis.cluster import open as open_cluster
from traffic_cop_middleware.adapters.redis.cluster_slots import slot_of
from traffic_cop_middleware.contracts import Event, SessionKey, StateKey, Take
from traffic_cop_middleware.errors import StateConflict, StoreError, StoreUnavailable

pytestmark = pytest.mark.redis_server

CALLERS = 64
PATIENT = 1.0
"""Seconds: a deadline that a busy machine keeps, where every request is to have its answer from the store."""


@pytest.fixture(scope="module")
def its_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with running_cluster(tmp_path_factory.mktemp("faults")) as cluster:
        yield cluster


@pytest.fixture
def cluster(its_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """A healthy cluster; what a test killed or froze is there again afterwards."""
    its_cluster.settle()
    its_cluster.empty()
    yield its_cluster
    its_cluster.heal()


@contextlib.asynccontextmanager
async def opened(
    cluster: RedisCluster, *, deadline: float = 10.0, notify: Callable[[Event], None] = lambda event: None
) -> AsyncIterator[ClusterBackend]:
    backend = open_cluster(cluster.url, namespace="faults", deadline=deadline, notify=notify)
    await backend.connect(patience=30)
    try:
        yield backend
    finally:
        await backend.close()


def key_of(caller: int) -> str:
    return f"tc:b:{{ip:198.51.100.{caller}}}"


def refused_by_policy(answer: Answered) -> bool:
    return answer.status == 503 and answer.source == "none" and int(answer.headers["retry-after"]) >= 1


def test_a_killed_master_takes_its_slots_along_and_no_others_until_its_replica_serves_them(
    cluster: RedisCluster, caplog: pytest.LogCaptureFixture
) -> None:
    victim = cluster.master_of(key_of(0))
    theirs = {number for number in range(CALLERS) if cluster.master_of(key_of(number)) is victim}
    assert 5 < len(theirs) < 50
    watched = Watched(cluster.url, "refuse", PATIENT)

    def victim_is_replaced() -> bool:
        return len([node for node in cluster.nodes if node is not victim and node.is_master]) == 3

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            killed = time.monotonic()
            victim.kill()
            await poll(lambda: "store.lost" in watched.kinds)

            def refusals() -> list[Answered]:
                return [answer for answer in load.since(killed) if answer.source != "store"]

            def over() -> bool:
                """Each caller was served several times since the last refusal."""
                last = max(answer.end for answer in refusals())
                return len(load.since(last)) > 10 * CALLERS and {each.caller for each in load.since(last)} >= theirs

            await poll(lambda: victim_is_replaced() and over())
            assert {answer.caller for answer in refusals()} <= theirs
            assert any(answer.start > killed for answer in load.answers if answer.caller not in theirs)
            assert all(refused_by_policy(answer) for answer in refusals())
            await poll(lambda: watched.kinds == ["store.lost", "store.recovered"])

    run_on(LOOPS["uvloop"], scenario())
    assert {event.attributes["node"] for event in watched.told} == {f"127.0.0.1:{victim.port}"}
    assert {event.attributes["store"] for event in watched.told} == {cluster.url}
    said = [record.getMessage() for record in caplog.records if record.name == "traffic_cop.redis"]
    assert ["is lost" in said[0], "other nodes serve them" in said[1], len(said)] == [True, True, 2]


def test_a_fail_over_loses_no_more_takes_than_its_replica_had_not_heard_of(cluster: RedisCluster) -> None:
    async def scenario() -> None:
        async with opened(cluster) as backend:
            take = Take("{shared}1000", 1000, 1e-6)
            victim = cluster.master_of(f"faults:b:{take.key}")

            async def admitted(number: int) -> int:
                asked = [backend.buckets.take([take]) for _ in range(number)]
                taken = await asyncio.gather(*asked, return_exceptions=True)
                return sum(not isinstance(one, BaseException) and one.admitted for one in taken)

            before = await admitted(600)
            assert before == 600
            victim.kill()
            debt = -1.0

            async def looked() -> float:
                try:
                    return (await backend.buckets.take([take._replace(cost=0)])).answers[0] / 1e6
                except StoreUnavailable:
                    return -1.0

            end = time.monotonic() + 30
            while debt < 0:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
                debt = await looked()
            lost = before - round(debt)
            assert 0 <= lost <= before
            assert before + await admitted(1000) == 1000 + lost

    run_on(LOOPS["asyncio"], scenario())


def test_a_hand_over_to_a_replica_loses_no_take_and_gives_no_error(cluster: RedisCluster) -> None:
    watched = Watched(cluster.url, "refuse", PATIENT, limits=limit("5000/day", key=by_everyone))
    bucket = "tc:b:{all}"

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            keys = [key for node in cluster.masters for key in node.told("KEYS", "tc:b:*").split() if key[:2] == "tc"]
            assert len(keys) == 1, bucket
            for _ in range(2):
                master = cluster.master_of(keys[0])
                replica = cluster.replica_of(master)
                replica.told("CLUSTER", "FAILOVER")
                await poll(lambda replica=replica, master=master: replica.is_master and not master.is_master)
                await load.decided_by("store")
                await asyncio.to_thread(cluster.settle)
            await poll(lambda: load.answers[-1].status == 429)
        admitted = sum(answer.status == 200 for answer in load.answers)
        unsure = sum(answer.status == 503 for answer in load.answers)
        assert 5000 - unsure <= admitted <= 5000 + 1  # a token comes back every 17 s

    run_on(LOOPS["asyncio"], scenario())


def test_a_slot_that_moves_under_load_gives_every_request_its_answer(cluster: RedisCluster) -> None:
    watched = Watched(cluster.url, "refuse", PATIENT, limits=limit("3000/day", key=by_everyone))

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            [key] = [key for node in cluster.masters for key in node.told("KEYS", "tc:b:*").split() if key[:2] == "tc"]
            for _ in range(6):
                source = cluster.master_of(key)
                target = next(node for node in cluster.masters if node is not source)
                for _step in cluster.moving(slot_of(key), source, target):
                    await load.decided_by("store")
            await poll(lambda: load.answers[-1].status == 429)
        assert {answer.status for answer in load.answers} == {200, 429}
        assert {answer.source for answer in load.answers} == {"store"}
        assert 3000 <= sum(answer.status == 200 for answer in load.answers) <= 3001

    run_on(LOOPS["asyncio"], scenario())


def test_sessions_whose_slot_moves_are_read_written_and_listed_as_ever(cluster: RedisCluster) -> None:
    tag = f"user:{secrets.token_hex(4)}"
    keys = [SessionKey(tag, f"s{number}") for number in range(30)]

    async def scenario() -> None:
        async with opened(cluster) as backend:
            sessions = backend.sessions
            made = [
                await sessions.create(key, kind="user", meta="{}", data={"n": "0"}, idle=600, lifetime=600)
                for key in keys
            ]
            generation = made[0].generation
            place = f"faults:g:{{{tag}}}"
            source = cluster.master_of(place)
            target = next(node for node in cluster.masters if node is not source)
            done = asyncio.Event()
            counted = Counter[str]()

            async def use(key: SessionKey) -> None:
                while not done.is_set():
                    assert await sessions.add(key, "n", 1, generation=generation, idle=600, most=1000) is not None
                    counted[key.id] += 1
                    assert await sessions.load(key, generation=generation) is not None

            async def listing() -> None:
                while not done.is_set():
                    assert {each.id for each in await sessions.list(tag)} == {key.id for key in keys}

            users = [asyncio.create_task(use(key)) for key in keys]
            users.append(asyncio.create_task(listing()))
            for step in cluster.moving(slot_of(place), source, target, at_once=7):
                if step == "moved":  # all are together again, on the other side
                    before = sum(counted.values())
                    await poll(lambda before=before: sum(counted.values()) > before + 100)
                else:
                    await asyncio.sleep(0.01)
                assert not [user for user in users if user.done()]
            done.set()
            await asyncio.gather(*users)
            for key in keys:
                loaded = await sessions.load(key, generation=generation)
                assert loaded is not None
                assert loaded.data["n"] == str(counted[key.id])
            assert len(await sessions.revoke(tag)) == len(keys)
            assert await sessions.load(keys[0], generation=generation) is None

    run_on(LOOPS["asyncio"], scenario())


def test_a_cluster_that_lost_its_majority_is_an_outage_and_comes_back(cluster: RedisCluster) -> None:
    watched = Watched(cluster.url, "refuse")

    async def scenario() -> None:
        async with watched.running() as load:
            await load.decided_by("store")
            gone = cluster.masters[:2]
            left = cluster.masters[2]
            for node in gone:
                node.freeze()
            frozen = time.monotonic()
            await poll(lambda: "cluster_state:fail" in left.told("CLUSTER", "INFO"))
            down = time.monotonic()
            await poll(lambda: len(load.since(down)) > 300)
            thawed = time.monotonic()
            assert all(refused_by_policy(answer) for answer in load.since(down) if answer.end < thawed)
            assert [answer for answer in load.since(frozen) if answer.end < thawed]
            for node in gone:
                node.thaw()

            def everybody() -> bool:
                late = load.answers[-4 * CALLERS :]
                return late[0].start > thawed and all(answer.source == "store" for answer in late)

            await poll(everybody)
            await poll(lambda: watched.kinds.count("store.lost") == watched.kinds.count("store.recovered") > 0)

    run_on(LOOPS["asyncio"], scenario())


def test_a_request_that_needs_a_frozen_node_too_gets_back_what_the_others_gave(cluster: RedisCluster) -> None:
    frozen, healthy = cluster.masters[:2]

    def on(node: Node) -> Take:
        keys = (f"{{s{number}}}" for number in range(1000))
        return Take(next(key for key in keys if cluster.master_of(f"faults:b:{key}") is node), 5, 0.001)

    async def scenario() -> None:
        here, there = on(healthy), on(frozen)
        async with opened(cluster, deadline=0.2) as backend:

            async def looked() -> int:
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        return (await backend.buckets.take([here._replace(cost=0)])).answers[0]

            assert (await backend.buckets.take([here, there])).admitted
            frozen.freeze()
            for _ in range(10):  # some time out, and then its node is down and nobody is asked any more
                with pytest.raises(StoreUnavailable):
                    await backend.buckets.take([here, there])
            end = time.monotonic() + 30
            while await looked() > 1_000_000:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            frozen.thaw()
            while True:
                assert time.monotonic() < end
                with contextlib.suppress(StoreUnavailable):
                    assert (await backend.buckets.take([here, there])).answers[0] <= 2_000_000
                    break
                await asyncio.sleep(0.01)

    run_on(LOOPS["asyncio"], scenario())


def test_messages_are_heard_over_the_loss_of_the_node_that_told_them(cluster: RedisCluster) -> None:
    async def scenario() -> None:
        async with opened(cluster) as one, opened(cluster) as other:
            heard: list[str | None] = []
            other.bus.poll = one.bus.poll = 0.05
            other.bus.subscribe("news", lambda message: heard.append(message.payload))
            await one.bus.publish("news", "first")
            await poll(lambda: heard == ["first"])
            connection = other.bus._notifications._connection
            assert connection is not None
            teller = next(node for node in cluster.nodes if node.port == connection.port)
            teller.kill()
            sent = False
            end = time.monotonic() + 30
            while not sent:
                assert time.monotonic() < end
                with contextlib.suppress(StoreUnavailable):
                    await one.bus.publish("news", "second")
                    sent = True
                await asyncio.sleep(0.02)
            await poll(lambda: heard[-1] == "second")
            assert heard[:2] == ["first", "second"] or None in heard, "told once, or told that something is missing"
            again = other.bus._notifications
            await poll(lambda: again._connection is not None and again._connection.port != teller.port)

    run_on(LOOPS["asyncio"], scenario())


def test_state_goes_on_over_a_fail_over_and_what_the_documents_have_is_never_taken_back(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    """24 items are counted up by one writer each, half of them `immediate`, while a master is killed."""
    acknowledged: dict[str, int] = {}
    failures: list[StoreError] = []
    victim = cluster.masters[0]

    async def write(house: House, key: str, running: asyncio.Event) -> None:
        tier = "immediate" if int(key) % 2 else "delayed"
        while not running.is_set():
            try:
                item = await house.state.update("a", key, lambda number: (number or 0) + 1, tier=tier)  # type: ignore[arg-type]
            except StoreError as exc:
                failures.append(exc)
                await asyncio.sleep(0.02)
            except StateConflict:  # its own write of before, whose answer was lost
                continue
            else:
                acknowledged[key] = max(item.value, acknowledged.get(key, 0))
                await asyncio.sleep(0.005)

    def replaced() -> bool:
        return len([node for node in cluster.nodes if node is not victim and node.is_master]) == 3

    async def scenario() -> None:
        documents = sqlite_at(tmp_path / "state.db")
        await documents.connect()
        async with opened(cluster, deadline=PATIENT) as backend:
            house = House(backend.state, documents)
            ended = asyncio.Event()
            writers = [asyncio.create_task(write(house, str(number), ended)) for number in range(24)]
            await poll(lambda: len(acknowledged) == 24)
            victim.kill()
            await poll(lambda: failures and replaced())
            after = dict(acknowledged)
            await poll(lambda: all(acknowledged[key] > after[key] + 3 for key in after))
            ended.set()
            await asyncio.gather(*writers)
            assert all(isinstance(exc, StoreUnavailable) for exc in failures)
            for number in range(1, 24, 2):
                found = await house.state.get("a", str(number), consistency="strong")
                assert found is not None
                assert found.value >= acknowledged[str(number)]
            end = time.monotonic() + 30
            while await backend.state.outbox.waiting():
                assert time.monotonic() < end
                with contextlib.suppress(StoreError):
                    await house.flush()
            for number in range(24):
                found = await house.state.get("a", str(number), consistency="strong")
                history = await house.state.history("a", str(number), most=1)
                assert found is not None
                assert (history[0].version, history[0].value) == (found.version, found.value)
            house.house.close()
        await documents.close()

    run_on(LOOPS["asyncio"], scenario())


def test_state_whose_slot_moves_is_written_at_its_version_listed_and_heard_of_as_ever(cluster: RedisCluster) -> None:
    """Every update counts once, no page lacks an item, and the watcher hears each version once and in order."""

    async def scenario() -> None:
        async with opened(cluster) as backend:
            house = House(backend.state, MemoryDocuments())
            keys = [f"k{number}" for number in range(20)]
            for key in keys:
                await house.state.put("a", key, 0)
            places = backend.state._places
            place = places.of(StateKey("", "a", "k0")).key
            source = cluster.master_of(place)
            target = next(node for node in cluster.masters if node is not source)
            done = asyncio.Event()
            counted = Counter[str]()
            heard: dict[str, list[int]] = {key: [] for key in keys}

            async def write(key: str) -> None:
                while not done.is_set():
                    await house.state.update("a", key, lambda number: number + 1)
                    counted[key] += 1
                    await asyncio.sleep(0.002)

            async def listing() -> None:
                while not done.is_set():
                    assert [item.key for item in (await house.state.list("a")).items] == sorted(keys)

            async def watching() -> None:
                async for change in house.state.watch("a"):
                    heard[change.key].append(change.version)

            watcher = asyncio.create_task(watching())
            users = [asyncio.create_task(write(key)) for key in keys]
            users.append(asyncio.create_task(listing()))
            for step in cluster.moving(slot_of(place), source, target, at_once=3):
                if step == "moved":
                    before = counted["k0"]
                    await poll(lambda before=before: counted["k0"] > before + 10)
                else:
                    await asyncio.sleep(0.01)
                assert not [user for user in (*users, watcher) if user.done()]
            done.set()
            await asyncio.gather(*users)
            for key in keys:
                found = await house.state.get("a", key, consistency="strong")
                assert found is not None
                assert found.value == counted[key]
                await poll(lambda found=found, key=key: heard[key] and heard[key][-1] == found.version)
                assert heard[key] == sorted(set(heard[key]))
                assert len(heard[key]) >= counted[key] - 1
            watcher.cancel()
            await asyncio.wait([watcher])
            house.house.close()

    run_on(LOOPS["asyncio"], scenario())
