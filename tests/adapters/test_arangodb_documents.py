"""Documents in ArangoDB when things go wrong, over real HTTP to a double."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import trio
from arango.client import ArangoClient
from arango.exceptions import AQLQueryExecuteError
from hypothesis import given
from hypothesis import strategies as st

from tests.adapters.load import poll
from tests.arangodb_double import KEY, ArangoDouble, ArangoError, running_double
from tests.servers import free_port
from traffic_cop_middleware.adapters.arangodb.documents import ArangoDocuments
from traffic_cop_middleware.adapters.arangodb.documents import open as open_arangodb
from traffic_cop_middleware.adapters.arangodb.link import DOCUMENTS, HISTORY, INDEXES
from traffic_cop_middleware.adapters.arangodb.rows import document_key
from traffic_cop_middleware.composition.state_stores import opener
from traffic_cop_middleware.contracts import Event, StateKey
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.document_asking import item, key_of, keys, load, versions

DEADLINE = 20.0
SHORT = 0.3
"""Seconds: the deadline of a store whose calls are to miss it."""


def opened(
    url: str, *, deadline: float = DEADLINE, notify: Callable[[Event], None] = lambda event: None
) -> ArangoDocuments:
    return open_arangodb(url, namespace="tc", deadline=deadline, notify=notify)


@pytest.fixture
def double() -> Iterator[ArangoDouble]:
    with running_double() as double:
        yield double


@pytest_asyncio.fixture
async def store(double: ArangoDouble) -> AsyncIterator[ArangoDocuments]:
    store = opened(double.url)
    await store.connect(patience=DEADLINE)
    yield store
    await store.close()


# The URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("arangodb://u:secret@host:8529", "names no database"),
        ("arangodb://u:secret@host:8529/a/b", "names no database"),
        ("arangodb://u:sec/ret@host:8529/db", "this ArangoDB URL can't be read"),
        ("arangodb://u:sec#ret@host:8529/db", "this ArangoDB URL can't be read"),
        ("arangodb://u:sec?ret@host:8529/db", "this ArangoDB URL can't be read"),
        ("arangodb://u:sec[ret@host:8529/db", "this ArangoDB URL can't be read"),
        ("arangodb://u:secret@host:port/db", "this ArangoDB URL can't be read"),
        ("arangodb:///db", "it has no host"),
        ("arangodb://u:secret@host/db?pool=3", "'pool' is no option here; there is deadline"),
        ("arangodb://u:secret@host/db?threads=0", "threads='0' can't be used: write connections, each in a thread"),
        ("arangodb://u:secret@host/db?ca_file=/a.pem", "ca_file needs TLS. Write arangodb+https://"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(url)
    assert says in str(caught.value)
    assert not re.search("secret|sec|ret@", str(caught.value).replace("seconds", ""))


def test_a_missing_driver_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("traffic_cop_middleware.adapters.arangodb")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "arango.client", None)
    with pytest.raises(MissingExtra, match=r"pip install 'traffic-cop-middleware\[arangodb\]'"):
        opener("documents", "arangodb://localhost/db")


@pytest.mark.asyncio
async def test_a_wrong_password_is_a_configuration_error_that_does_not_say_it(double: ArangoDouble) -> None:
    for url in (double.url.replace("pass%3A", "secret"), double.url.replace("root", "secret")):
        store = opened(url)
        with pytest.raises(ConfigurationError, match="does not accept this user and password") as caught:
            await store.connect(patience=DEADLINE)
        with pytest.raises(StoreError, match="does not accept this user and password") as later:
            await load(store)
        assert "secret" not in f"{caught.value!r} {later.value!r}"
        await store.close()


@pytest.mark.asyncio
async def test_a_missing_database_is_a_configuration_error_with_the_mend(double: ArangoDouble) -> None:
    store = opened(f"{double.url}ly")
    with pytest.raises(ConfigurationError, match=r"has no database 'apply'\. Create it"):
        await store.connect(patience=DEADLINE)
    await store.close()


# Set-up


@pytest.mark.asyncio
async def test_many_workers_make_the_collections_and_indexes_at_once_and_only_once(double: ArangoDouble) -> None:
    stores = [opened(double.url) for _ in range(6)]
    await asyncio.gather(*(store.connect(patience=DEADLINE) for store in stores))
    assert {name: [index["name"] for index in indexes] for name, indexes in double.indexes.items()} == {
        name: [index["name"] for index in indexes] for name, indexes in INDEXES.items()
    }
    for store in stores:
        await store.close()


@pytest.mark.asyncio
async def test_a_collection_that_was_dropped_is_made_anew(double: ArangoDouble, store: ArangoDocuments) -> None:
    await store.store([item(7)])
    del double.collections[DOCUMENTS], double.collections[HISTORY]
    assert await load(store) is None
    assert await store.store([item(8)]) == [8]
    assert [index["type"] for index in double.indexes[DOCUMENTS]] == ["persistent"] * 3 + ["ttl"]


# Conflicts and losses


@pytest.mark.asyncio
async def test_write_conflicts_are_tried_again(double: ArangoDouble, store: ArangoDocuments) -> None:
    double.conflicts = 7
    assert await store.store([item(7)]) == [7]
    double.conflicts = 7
    assert await store.store([item(8), item(1, key="43")]) == [8, 1]
    assert double.conflicts == 0
    assert await versions(store) == [8, 7]


@pytest.mark.asyncio
async def test_a_storm_of_conflicts_ends_at_the_deadline_with_nothing_written(double: ArangoDouble) -> None:
    store = opened(double.url, deadline=SHORT)
    await store.connect(patience=DEADLINE)
    double.conflicts = 1_000_000
    with pytest.raises(StoreTimeout):
        await store.store([item(7)])
    await store.close()
    assert double.collections[DOCUMENTS] == double.collections[HISTORY] == {}


@pytest.mark.asyncio
async def test_a_lost_reply_is_asked_again_and_does_no_harm(double: ArangoDouble, store: ArangoDocuments) -> None:
    await store.store([item(6)])
    double.lost_replies = 1
    assert await store.store([item(7), item(1, key="43")]) == [7, 1]
    assert double.lost_replies == 0
    assert double.requests.count("AQL store") == 3
    assert await versions(store) == [7, 6]


@pytest.mark.asyncio
async def test_a_reshape_is_tried_again_after_conflicts_and_lost_replies(
    double: ArangoDouble, store: ArangoDocuments
) -> None:
    await store.store([item(7), item(7, key="43")])
    double.conflicts, double.lost_replies = 5, 1
    shapes = [item(7, '@{"file":"f"}'), item(6, key="43")]
    assert await store.reshape(shapes) == [True, False]
    assert double.requests.count("AQL reshape") == 7
    assert await load(store) == shapes[0]
    assert [revision.item for revision in await store.history(key_of())] == [shapes[0]]


@pytest.mark.asyncio
async def test_a_version_that_the_history_has_lost_is_there_again_when_it_is_reshaped(
    double: ArangoDouble, store: ArangoDocuments
) -> None:
    await store.store([item(7, named=False)])
    double.collections[HISTORY].clear()
    shape = item(7, '@{"file":"f"}', tier="delayed", named=False)
    assert await store.reshape([shape]) == [True]
    assert [revision.item for revision in await store.history(key_of())] == [shape]


@pytest.mark.asyncio
async def test_replies_that_are_lost_again_and_again_are_an_outage(double: ArangoDouble) -> None:
    events: list[Event] = []
    store = opened(double.url, notify=events.append)
    await store.connect(patience=DEADLINE)
    double.lost_replies = 2
    with pytest.raises(StoreUnavailable, match=r"arangodb://127\.0\.0\.1:\d+/app can't be reached: "):
        await store.store([item(7)])
    assert await store.store([item(7)]) == [7]
    assert [event.kind for event in events] == ["store.lost", "store.recovered"]
    assert events[0].attributes["store"] == f"arangodb://{double.place}/app"
    await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("failure", "error", "says"),
    [
        (ArangoError(412, 1200, "conflict, _rev values do not match"), StoreError, "_rev values do not match"),
        (ArangoError(500, 4, "internal error"), StoreError, "internal error"),
        (ArangoError(403, 11, "forbidden"), StoreError, "Grant read and write access"),
        (ArangoError(503, 1495, "leader is gone"), StoreUnavailable, "is not ready: .*leader is gone"),
        (ArangoError(507, 32, "no space left on device"), StoreUnavailable, "no space left on device"),
        (ArangoError(410, 1500, "query killed"), StoreTimeout, "ended the query at the deadline"),
    ],
)
async def test_errors_of_the_server_come_as_ours_and_nothing_is_written(
    double: ArangoDouble, store: ArangoDocuments, failure: ArangoError, error: type[Exception], says: str
) -> None:
    double.failures["store"] = [failure]
    with pytest.raises(error, match=says) as caught:
        await store.store([item(7)])
    assert type(caught.value) is error
    assert "pass:word" not in str(caught.value)
    assert await load(store) is None


@pytest.mark.asyncio
async def test_a_server_that_is_away_at_the_start_is_no_error_and_is_found_later() -> None:
    store = opened(f"arangodb://root@127.0.0.1:{free_port()}/app")
    await store.connect(patience=DEADLINE)
    with pytest.raises(StoreUnavailable, match=r"can't be reached: .*refused"):
        await load(store)
    await store.close()


@pytest.mark.asyncio
async def test_a_frozen_server_is_a_timeout_within_the_deadline_and_holds_up_a_few_threads_alone(
    double: ArangoDouble,
) -> None:
    events: list[Event] = []
    store = opened(f"{double.url}?threads=3&deadline={SHORT}", notify=events.append)
    await store.connect(patience=DEADLINE)
    double.freeze()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    beside = asyncio.create_task(others())
    heard = await asyncio.gather(*(store.store([item(7, key=f"k{n}")]) for n in range(40)), return_exceptions=True)
    assert {type(each) for each in heard} == {StoreTimeout}
    threads = [thread for thread in threading.enumerate() if double.place in thread.name]
    assert len(threads) <= 3
    assert turns > 5
    beside.cancel()
    double.thaw()
    for _ in range(100):
        try:
            assert await store.store([item(8)]) == [8]
            break
        except StoreTimeout:  # a busy machine
            continue
    assert [event.kind for event in events] == ["store.lost", "store.recovered"]
    await store.close()
    await poll(lambda: not any(thread.is_alive() for thread in threads))


@pytest.mark.asyncio
async def test_what_waits_behind_a_frozen_server_longer_than_its_deadline_is_never_asked(double: ArangoDouble) -> None:
    store = opened(f"{double.url}?threads=1&deadline={SHORT}")
    double.freeze()
    connecting = asyncio.ensure_future(store.connect(patience=DEADLINE))
    await asyncio.sleep(0)  # it is the first for the thread
    asked = [asyncio.ensure_future(store.store([item(7, key=f"k{number}")])) for number in range(5)]
    await asyncio.wait(asked)
    double.thaw()
    await connecting
    await store.close()
    assert all(isinstance(each.exception(), StoreTimeout) for each in asked)
    assert "AQL store" not in double.requests


# Keys


@pytest.mark.asyncio
async def test_two_items_under_one_key_are_an_error_and_no_mix_up(double: ArangoDouble) -> None:
    store = opened(double.url, deadline=2.0)
    await store.connect(patience=DEADLINE)
    await store.store([item(7, key="theirs")])
    theirs, ours = (document_key("tc", key_of(key)) for key in ("theirs", "ours"))
    double.collections[DOCUMENTS][ours] = double.collections[DOCUMENTS][theirs] | {"_key": ours}
    double.collections[HISTORY][f"{ours}:7"] = double.collections[HISTORY][f"{theirs}:7"] | {"item": ours}
    for asking in (load(store, "ours"), store.store([item(9, key="ours")]), store.history(key_of("ours"))):
        with pytest.raises(StoreError, match=r"under the _key 'tc:acme:order:ours' is another item, .*key='theirs'"):
            await asking
    assert double.collections[DOCUMENTS][ours]["version"] == 7
    await store.close()


words = st.text(st.characters(exclude_characters="\0"), max_size=170)


@given(words, words, words, words, words, words)
def test_a_key_is_one_of_arangodbs_and_of_one_item_alone(a: str, b: str, c: str, d: str, e: str, f: str) -> None:
    first, second = StateKey(a, b, c), StateKey(d, e, f)
    for key in (first, second):
        assert KEY.fullmatch(f"{document_key('tc', key)}:{2**53}")
    assert (document_key("tc", first) == document_key("tc", second)) == (first == second)
    assert document_key("tc", first) != document_key("tc:", first)


@pytest.mark.asyncio
async def test_apps_that_share_a_database_do_not_see_each_other(double: ArangoDouble, store: ArangoDocuments) -> None:
    other = open_arangodb(double.url, namespace="other", deadline=DEADLINE, notify=lambda event: None)
    await store.store([item(7), item(7, key="over", expires_at=1.0)])
    assert await load(other) is None
    assert await keys(other) == []
    assert await other.clean_up(now=time.time(), tombstones_before=time.time()) == 0
    assert await store.clean_up(now=time.time(), tombstones_before=time.time()) == 1
    await other.close()


# What the TTL index removes


@pytest.mark.asyncio
async def test_what_the_ttl_index_removed_leaves_its_history_to_clean_up(
    double: ArangoDouble, store: ArangoDocuments
) -> None:
    now = time.time()
    await store.store([item(1, key="over"), item(1, key="renewed", expires_at=now - 20), item(1, key="lasting")])
    await store.store([item(2, key="over", expires_at=now - 10), item(2, key="renewed")])
    assert double.expire() == 1
    assert await load(store, "over") is None
    assert await versions(store, "over") == [2, 1]
    assert await store.clean_up(now=now, tombstones_before=0) == 1
    assert await versions(store, "over") == []
    assert await versions(store, "renewed") == [2, 1]
    before = double.requests.count("AQL looked_at")
    assert await store.clean_up(now=now, tombstones_before=0) == 0
    assert double.requests.count("AQL looked_at") == before + 1
    assert not [each for each in double.collections[HISTORY].values() if each["orphan_from"] is not None]
    assert (await store.history(key_of("renewed")))[1].item == item(1, key="renewed", expires_at=now - 20)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["ended", "forget"])
async def test_clean_up_removes_documents_and_histories_together_or_not_at_all(
    double: ArangoDouble, store: ArangoDocuments, name: str
) -> None:
    await store.store([item(1, expires_at=1.0)])
    double.failures[name] = [ArangoError(500, 4, "internal error")]
    with pytest.raises(StoreError, match="internal error"):
        await store.clean_up(now=time.time(), tombstones_before=0)
    assert (await load(store)) is not None
    assert await versions(store) == [1]
    assert [each.split("/")[0] for each in double.requests if each.startswith("DELETE")] == ["DELETE "]
    assert await store.clean_up(now=time.time(), tombstones_before=0) == 1


@pytest.mark.asyncio
async def test_old_versions_that_can_not_be_removed_now_do_not_spoil_the_write(
    double: ArangoDouble, store: ArangoDocuments
) -> None:
    double.failures["trim"] = [ArangoError(500, 4, "internal error")]
    for version in range(1, 51):
        assert await store.store([item(version)]) == [version]
    assert double.failures["trim"] == []


# The rest


def test_documents_answer_on_trio(double: ArangoDouble) -> None:
    async def scenario() -> None:
        store = opened(double.url)
        await store.connect(patience=DEADLINE)
        assert await store.store([item(7)]) == [7]
        assert await load(store) == item(7)
        await store.close()

    trio.run(scenario)


@pytest.mark.asyncio
async def test_a_closed_store_refuses(store: ArangoDocuments) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await load(store)


def test_the_double_knows_no_other_query() -> None:
    with (
        running_double(password="plain") as double,
        contextlib.closing(ArangoClient(f"http://{double.place}")) as client,
    ):
        database = client.db(double.database, username=double.user, password="plain")
        with pytest.raises(AQLQueryExecuteError, match="golden queries alone"):
            database.aql.execute("FOR d IN traffic_cop_documents RETURN d")
