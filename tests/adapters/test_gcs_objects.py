"""Objects in Cloud Storage when things go wrong, over real HTTP to a double."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.api_core.exceptions import Forbidden, RetryError, ServiceUnavailable

from tests.adapters.load import poll
from tests.gcs_double import Fault, GcsDouble, running_double
from tests.servers import free_port
from traffic_cop_middleware.adapters.gcs import link
from traffic_cop_middleware.adapters.gcs import open as open_gcs
from traffic_cop_middleware.adapters.gcs.objects import CHUNK, GcsObjects
from traffic_cop_middleware.composition.schemes import adapter_for
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra, StoreError, StoreTimeout, StoreUnavailable
from traffic_cop_middleware.testing.object_contract import create, created, listed, sha256_of

DEADLINE = 20.0
SHORT = 0.5
"""Seconds: the deadline of a store whose calls are to miss it."""
LARGE = 2 * CHUNK + 1_000_000
"""Bytes of an object that goes up in three requests."""
BASE = "some/where/tc/"


def opened(url: str, *, deadline: float = DEADLINE, notify: Callable[[Event], None] = lambda event: None) -> GcsObjects:
    return open_gcs(url, namespace="tc", deadline=deadline, notify=notify)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsDouble]:
    with running_double() as double:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", double.endpoint)
        yield double


@pytest_asyncio.fixture
async def store(double: GcsDouble) -> AsyncIterator[GcsObjects]:
    store = opened(double.url)
    await store.connect(patience=DEADLINE)
    double.requests.clear()
    yield store
    await store.close()


# The URL


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("gs://", "names no bucket"),
        ("gs:///path", "names no bucket"),
        ("gs://Bucket/path", "names no bucket"),
        ("gs://user@bucket", "names no bucket"),
        ("gs://bucket:80/path", "names no bucket"),
        ("gs://bucket/path#1", "without a '#'"),
        ("gs://bucket/a//b", "can't have objects below 'a//b/tc'"),
        ("gs://bucket/.hidden", "can't have objects below"),
        ("gs://bucket?mode=ro", "'mode' is no option here; there is deadline"),
        ("gs://bucket?threads=0", "threads='0' can't be used: write connections, each in a thread"),
        ("gs://bucket?deadline=0", "from 0.01 to 300"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_with_the_mend(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(url)
    assert says in str(caught.value)


def test_a_missing_driver_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("traffic_cop_middleware.adapters.gcs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(MissingExtra, match=r"pip install 'traffic-cop-middleware\[gcs\]'"):
        adapter_for(
            "gs://bucket", kwarg="files", group="traffic_cop_middleware.files", ours={"gs": "gcs"}, example="gs://…"
        )


@pytest.mark.asyncio
async def test_the_emulator_is_the_one_of_the_moment_of_opening_and_gets_no_credentials(
    double: GcsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", double.endpoint.removeprefix("http://"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    store = opened(f"gs://{double.bucket}")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    assert double.requests == []
    await created(store, "a/b")
    assert double.authorized == {None}
    assert list(double.objects) == ["tc/a/b"]
    await store.close()


@pytest.mark.asyncio
async def test_no_credentials_is_a_configuration_error_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    store = opened("gs://bucket")
    with pytest.raises(ConfigurationError, match=r"nowhere\.json.*Run `gcloud auth application-default login`"):
        await store.connect()
    monkeypatch.setattr(link, "default_credentials", None)  # the search takes seconds, and is not made at each call
    for _ in range(2):
        with pytest.raises(StoreError, match="Run `gcloud auth application-default login`"):
            await store.stat("a")
    await store.close()


@pytest.mark.asyncio
async def test_credentials_that_are_refused_and_those_that_can_not_be_had_for_now_are_told_apart(
    double: GcsDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = rsa.generate_private_key(65537, 2048)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    key = {"type": "service_account", "client_email": "a@b.example", "private_key": pem, "project_id": "p"}
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    double.faults["POST /token"] = [400] * 20
    for endpoint, error, says in (
        (double.endpoint, ConfigurationError, "no credentials that can be used"),
        (f"http://127.0.0.1:{free_port()}", StoreUnavailable, "no credentials can be had: .*refused"),
    ):
        await asyncio.to_thread(
            (tmp_path / "key.json").write_text, json.dumps(key | {"token_uri": f"{endpoint}/token"})
        )
        store = opened("gs://bucket", deadline=2)
        if error is ConfigurationError:
            with pytest.raises(ConfigurationError, match=says):
                await store.connect(patience=2)
        with pytest.raises(StoreError, match=says) as caught:
            await store.stat("a")
        assert isinstance(caught.value, error) or error is ConfigurationError
        assert "PRIVATE KEY" not in repr(caught.value)
        await store.close()


# How it lies there


@pytest.mark.asyncio
async def test_what_is_known_stands_in_metadata_that_people_can_read(double: GcsDouble, store: GcsObjects) -> None:
    await created(store, "acme/order/42", b'{"a":1}', {"tenant": "acme inc", "name": "grüß%"})
    resource = double.objects[f"{BASE}acme/order/42"].resource
    assert resource["metadata"] == {
        "sha256": sha256_of(b'{"a":1}'),
        "about-tenant": "acme inc",
        "about-name": "gr%C3%BC%C3%9F%25",
    }
    assert resource["contentType"] == "application/octet-stream"


@pytest.mark.asyncio
async def test_each_call_is_one_request_and_a_large_object_several(double: GcsDouble, store: GcsObjects) -> None:
    stored = await created(store, "a", b"small")
    await store.stat("a")
    await store.read("a")
    await store.list()
    await store.delete("a", generation=stored.generation)
    assert double.requests == ["create", "stat", "read", "list", "delete"]
    double.requests.clear()
    await created(store, "b", bytes(CHUNK))
    await created(store, "c", bytes(LARGE))
    assert double.requests == ["create", "start", "chunk", "chunk", "chunk"]


@pytest.mark.asyncio
async def test_a_path_that_is_too_long_with_what_is_before_it_is_refused(store: GcsObjects) -> None:
    longest = "/".join(["x" * 200] * 5)[: 1024 - len(BASE)]
    await created(store, longest)
    with pytest.raises(ValueError, match=r"with 'some/where/tc/' before it it has 1025 bytes"):
        await create(store, f"{longest}y" if len(longest) + 1 + len(BASE) > 1024 else f"{longest}/{'y' * 6}")


# Replies that are lost, and what fails for now


@pytest.mark.asyncio
@pytest.mark.parametrize("operation", ["create", "chunk"])
async def test_a_creation_whose_reply_was_lost_is_answered_as_something_that_is_there(
    double: GcsDouble, store: GcsObjects, operation: str
) -> None:
    content = b"x" * (1000 if operation == "create" else 2 * CHUNK)
    double.faults[operation] = ["lost"] if operation == "create" else [503, "lost", "lost"]
    answer = await create(store, "a", content, {"by": "us"})
    known = await store.stat("a")
    assert known is not None
    if operation == "create":
        assert answer is None
    else:
        assert answer == known  # the upload says again what became of it
    assert (known.sha256, known.about) == (sha256_of(content), {"by": "us"})
    assert await store.read("a") == content
    assert len(double.objects) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("operation", "faults"),
    [
        ("create", [503, 429, "dropped"]),
        ("create", [500, 408]),
        ("start", [503, "dropped", "lost"]),
        ("chunk", [503, "dropped", 502, 504]),
        ("chunk", ["cut"]),
        ("chunk", ["cut", "cut", "lost"]),
        ("chunk", ["part"]),
        ("chunk", ["dropped", "part"]),
        ("chunk", [410]),
        ("chunk", [404]),
        ("read", [503, "dropped", 429]),
        ("read", ["lost"]),
        ("read", ["cut", "cut"]),
        ("stat", [503, "lost", 429]),
        ("list", [503, "lost", "dropped"]),
        ("delete", [503, "dropped"]),
    ],
)
async def test_what_fails_for_now_is_tried_again_and_nothing_is_there_twice(
    double: GcsDouble, store: GcsObjects, operation: str, faults: list[Fault]
) -> None:
    double.faults[operation] = list(faults)
    content = bytes(range(256)) * (LARGE // 256 if operation in ("start", "chunk") else 400)
    stored = await created(store, "a", content)
    assert await store.read("a") == content
    assert await store.stat("a") == stored
    assert await store.list() == ([stored], None)
    assert await store.delete("a", generation=stored.generation) is True
    assert double.objects == {}
    assert double.faults[operation] == []


@pytest.mark.asyncio
async def test_uploads_that_are_forgotten_again_and_again_are_an_error(double: GcsDouble, store: GcsObjects) -> None:
    double.faults["chunk"] = [410] * 10
    with pytest.raises(StoreError, match="was begun 3 times and forgotten: 410") as caught:
        await create(store, "a", bytes(LARGE))
    assert not isinstance(caught.value, StoreUnavailable)
    assert double.requests.count("start") == 3
    assert double.objects == {}


@pytest.mark.asyncio
async def test_a_deletion_whose_reply_was_lost_was_one(double: GcsDouble, store: GcsObjects) -> None:
    stored = await created(store, "a")
    double.faults["delete"] = ["lost"]
    assert await store.delete("a", generation=stored.generation) is True
    double.faults["delete"] = [503]
    assert await store.delete("a", generation=stored.generation) is False
    assert double.objects == {}


@pytest.mark.asyncio
async def test_somebody_who_is_faster_in_the_midst_of_an_upload_wins(double: GcsDouble, store: GcsObjects) -> None:
    double.faults["chunk"] = ["dropped"]
    mine = asyncio.ensure_future(create(store, "a", bytes(LARGE)))
    await poll(lambda: "chunk" in double.requests)
    theirs = double.put(f"{BASE}a", b"theirs")
    assert await mine is None
    assert await store.read("a") == b"theirs"
    assert double.objects[f"{BASE}a"] is theirs


@pytest.mark.asyncio
async def test_a_server_that_is_out_of_service_is_unavailable_after_the_deadline_and_found_again(
    double: GcsDouble,
) -> None:
    events: list[Event] = []
    store = opened(double.url, deadline=SHORT, notify=events.append)
    await created(store, "a", b"kept")
    double.outage = 503
    for ask in (lambda: store.stat("a"), lambda: store.read("a"), store.list, lambda: create(store, "b")):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await ask()
        assert time.monotonic() - began < SHORT + 5
        if not isinstance(caught.value, StoreTimeout):
            assert "is not ready (503): " in str(caught.value)
            assert isinstance(caught.value.__cause__, ServiceUnavailable | RetryError)
    with pytest.raises(StoreUnavailable):
        await create(store, "c", bytes(LARGE))
    double.outage = None
    assert await store.read("a") == b"kept"
    assert await listed(store) == ["a"]
    assert [event.kind for event in events] == ["store.lost", "store.recovered"]
    assert events[0].attributes["store"] == double.url
    await store.close()


@pytest.mark.asyncio
async def test_a_server_that_does_not_answer_is_a_timeout_and_leaves_nothing(double: GcsDouble) -> None:
    events: list[Event] = []
    store = opened(double.url, deadline=SHORT, notify=events.append)
    await store.connect(patience=DEADLINE)
    double.freeze()
    for _ in range(3):
        with pytest.raises(StoreTimeout, match=rf"gs://files/some/where: .* of {SHORT} s"):
            await store.stat("a")
    assert [event.kind for event in events] == ["store.lost"]
    double.thaw()
    assert await store.stat("a") is None
    await store.close()


@pytest.mark.asyncio
async def test_a_server_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    store = opened("gs://files", deadline=SHORT)
    await store.connect(patience=SHORT)
    with pytest.raises(StoreUnavailable) as caught:
        await store.read("a")
    assert isinstance(caught.value, StoreTimeout) or "can't be reached: [Errno 111]" in str(caught.value)
    await store.close()


# What will not work


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "does not accept the credentials: .*Run `gcloud auth application-default login`"),
        (403, "does not let this account do that: .*roles/storage.objectUser"),
    ],
)
async def test_a_refusal_names_the_mend(double: GcsDouble, status: int, says: str) -> None:
    double.outage = status
    store = opened(double.url)
    with pytest.raises(ConfigurationError, match=says):
        await store.connect()
    double.outage = None
    await created(store, "a")
    double.outage = status
    for ask in (store.stat("a"), store.read("a"), store.list(), create(store, "b"), create(store, "c", bytes(LARGE))):
        with pytest.raises(StoreError, match=says) as caught:
            await ask
        assert not isinstance(caught.value, StoreUnavailable)
        assert caught.value.__cause__ is not None
    await store.close()


@pytest.mark.asyncio
async def test_a_refusal_to_remove_keeps_its_cause(double: GcsDouble, store: GcsObjects) -> None:
    stored = await created(store, "a")
    double.faults["delete"] = [403]
    with pytest.raises(StoreError, match=r"objectUser") as caught:
        await store.delete("a", generation=stored.generation)
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert isinstance(caught.value.__cause__.__cause__, Forbidden)
    assert await store.stat("a") == stored


@pytest.mark.asyncio
async def test_a_missing_bucket_is_a_configuration_error_and_no_missing_object(double: GcsDouble) -> None:
    store = opened("gs://elsewhere")
    with pytest.raises(ConfigurationError, match=r"there is no bucket 'elsewhere' .*gcloud storage buckets create"):
        await store.connect()
    with pytest.raises(StoreError, match="there is no bucket 'elsewhere'"):
        await store.stat("a")
    await store.close()
    there = opened(double.url)
    await there.connect(patience=DEADLINE)
    double.bucket = "renamed"
    for ask in (
        *(there.stat("a"), there.read("a"), there.list(), there.delete("a", generation=1)),
        *(create(there, "a"), create(there, "a", bytes(LARGE))),
    ):
        with pytest.raises(StoreError, match="there is no bucket 'files'"):
            await ask
    await there.close()


# Bytes that are others


@pytest.mark.asyncio
@pytest.mark.parametrize(("operation", "size"), [("create", 1000), ("chunk", LARGE)])
async def test_an_upload_that_was_spoiled_on_the_way_is_refused_and_nothing_is_kept(
    double: GcsDouble, store: GcsObjects, operation: str, size: int
) -> None:
    double.faults[operation] = ["corrupt"]
    with pytest.raises(StoreError, match=r"answered 400: .*crc32c"):
        await create(store, "a", b"x" * size)
    assert double.objects == {}
    assert await create(store, "a", b"x" * size) is not None


@pytest.mark.asyncio
@pytest.mark.parametrize("faults", [["corrupt"], ["cut", "corrupt"], ["cut", "cut", "corrupt"]])
async def test_a_download_that_was_spoiled_on_the_way_is_an_error_and_never_content(
    double: GcsDouble, store: GcsObjects, faults: list[Fault]
) -> None:
    await created(store, "a", b"x" * 100_000)
    double.faults["read"] = faults
    with pytest.raises(StoreError, match="are not those that it holds") as caught:
        await store.read("a")
    assert not isinstance(caught.value, StoreUnavailable)
    assert await store.read("a") == b"x" * 100_000


@pytest.mark.asyncio
async def test_an_object_that_is_replaced_in_the_midst_of_a_download_is_no_mixture(
    double: GcsDouble, store: GcsObjects
) -> None:
    await created(store, "a", b"x" * 100_000)
    double.faults["read"] = ["cut"]
    reading = asyncio.ensure_future(store.read("a"))
    await poll(lambda: "read" in double.requests)
    double.put(f"{BASE}a", b"y" * 100_000)
    assert await reading in (None, b"x" * 100_000, b"y" * 100_000)


# What others have put there


@pytest.mark.asyncio
async def test_foreign_content_under_a_path_is_told_and_left_alone(double: GcsDouble, store: GcsObjects) -> None:
    foreign = double.put(f"{BASE}a", b"theirs", {"metadata": {"owner": "they", "about-kind": "100%"}})
    assert await create(store, "a", b"ours") is None
    known = await store.stat("a")
    assert known is not None
    assert (known.path, known.generation, known.size) == ("a", foreign.generation, 6)
    assert (known.sha256, known.about) == ("", {"kind": "100%"})
    assert await store.read("a") == b"theirs"
    assert await store.delete("a", generation=known.generation + 1) is False
    assert double.objects[f"{BASE}a"] is foreign


@pytest.mark.asyncio
async def test_foreign_names_are_no_objects_and_do_not_end_a_list(double: GcsDouble, store: GcsObjects) -> None:
    for name in ("a/", "a//b", "ä", "a/.b", ".a", "a\\b", "a\x01", "a\x01b", "b/c/", "z\n"):
        double.put(BASE + name, b"theirs")
    for name in ("some/where/else/a", "some/where/tc-2/a", "a", "some/where/tc"):
        double.put(name, b"theirs")
    paths = ["a", "a b", "a/b", "a/c", "b/c", "z"]
    for path in paths:
        await created(store, path)
    for most in (1, 2, 3, 100):
        assert await listed(store, most=most) == sorted(paths)
    assert await listed(store, "a/", most=1) == ["a/b", "a/c"]
    assert await listed(store, "b/", most=1) == ["b/c"]


def test_objects_answer_on_trio(double: GcsDouble) -> None:
    async def scenario() -> None:
        store = opened(double.url)
        await store.connect(patience=DEADLINE)
        stored = await created(store, "a/b")
        assert await store.read("a/b") == b"hello"
        with trio.move_on_after(0):
            await create(store, "a/c")
        assert await store.delete("a/b", generation=stored.generation) is True
        await store.close()

    trio.run(scenario)
