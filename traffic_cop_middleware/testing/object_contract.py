"""What every `ObjectStore` does, as tests: subclass them for files of your own."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence

import pytest

from traffic_cop_middleware.contracts import ObjectStore, StoredObject
from traffic_cop_middleware.contracts.objects import MOST_ABOUT, MOST_OBJECT, MOST_SEGMENT
from traffic_cop_middleware.errors import StoreError

BAD_PATHS = (
    *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/./b", ".a", "a/.b", "a\\b", "a\0b", "a\nb", "ä"),
    *("x" * (MOST_SEGMENT + 1), "/".join(["x" * 100] * 11)),
)
ODD_PATHS = (
    *("a", "a/b", "a/b/c", "a.json", "a.tcobject", "a.tcobject/b", "a.tcobject.tcobject/b", "A", "-", "~", "a b"),
    *("a?b#c", "a%2Fb", "%2E%2E", "a*[b]'\"<>|:;", "x" * MOST_SEGMENT, "/".join(["y" * MOST_SEGMENT] * 4)),
)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def create(
    store: ObjectStore, path: str, content: bytes = b"hello", about: Mapping[str, str] | None = None
) -> StoredObject | None:
    return await store.create(path, content, sha256=sha256_of(content), about=about)


async def created(
    store: ObjectStore, path: str, content: bytes = b"hello", about: Mapping[str, str] | None = None
) -> StoredObject:
    """As `create`, where nothing is."""
    stored = await create(store, path, content, about)
    assert stored is not None
    return stored


async def listed(store: ObjectStore, prefix: str = "", *, most: int = 3) -> list[str]:
    """All paths with a prefix, page by page."""
    found: list[str] = []
    after = None
    for _ in range(1000):
        page = await store.list(prefix, after=after, most=most)
        assert len(page.objects) <= most
        found += [each.path for each in page.objects]
        if page.after is None:
            return found
        assert after is None or page.after > after
        after = page.after
    raise AssertionError("the list has no end")


class ObjectStoreContract:
    """Every promise of `ObjectStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give a fixture `stores`: those of several workers on a place without objects, or one where
    the store is this process::

        class TestMyFiles(ObjectStoreContract):
            @pytest_asyncio.fixture
            async def stores(self) -> AsyncIterator[Sequence[ObjectStore]]:
                store = MyFiles()
                await store.connect()
                yield [store]
                await store.close()
    """

    @pytest.fixture
    def store(self, stores: Sequence[ObjectStore]) -> ObjectStore:
        return stores[0]

    # One object

    @pytest.mark.asyncio
    async def test_where_nothing_is_there_is_nothing(self, store: ObjectStore) -> None:
        assert await store.stat("a/b") is None
        assert await store.read("a/b") is None
        assert await store.delete("a/b", generation=1) is False
        assert await store.list() == ([], None)
        assert await store.list("a/") == ([], None)
        assert await store.sweep(older_than=0) == 0
        assert store.name.isprintable()
        assert "://" in store.name

    @pytest.mark.asyncio
    async def test_all_workers_read_what_one_has_created(self, stores: Sequence[ObjectStore]) -> None:
        began = time.time()
        content = bytes(range(256)) * 5
        about = {"tenant": "grüß 🚓", "kind_2-x": " 100% 'of'\r\n\"it\" \x7f ", "empty": ""}
        stored = await created(stores[0], "acme/order/42", content, about)
        assert (stored.path, stored.size, stored.sha256) == ("acme/order/42", 1280, sha256_of(content))
        assert dict(stored.about) == about
        assert 0 < stored.generation < 2**63
        assert began - 60 < stored.created_at < time.time() + 60
        for store in stores:
            assert await store.stat("acme/order/42") == stored
            assert await store.read("acme/order/42") == content
            assert await store.list() == ([stored], None)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [0, 1, 4096, 1_000_003, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 20_000_000])
    async def test_content_of_any_size_is_kept_as_it_was(self, store: ObjectStore, size: int) -> None:
        content = secrets.token_bytes(size)
        stored = await created(store, "a/b", content)
        assert stored.size == size
        assert await store.read("a/b") == content
        assert await store.stat("a/b") == stored
        assert await create(store, "a/b", content) is None

    @pytest.mark.asyncio
    async def test_an_object_is_never_replaced(self, stores: Sequence[ObjectStore]) -> None:
        stored = await created(stores[0], "a", b"first", {"by": "one"})
        for store in stores:
            assert await create(store, "a", b"first", {"by": "one"}) is None
            assert await create(store, "a", b"other") is None
            assert await store.read("a") == b"first"
            assert await store.stat("a") == stored

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [1000, 9_000_000])
    async def test_of_many_that_create_at_once_one_does_and_all_of_it_is_its_own(
        self, stores: Sequence[ObjectStore], size: int
    ) -> None:
        contents = [bytes([number]) * size for number in range(6)]
        answers = await asyncio.gather(
            *(create(stores[number % len(stores)], "a/b", content) for number, content in enumerate(contents))
        )
        (winner,) = [number for number, answer in enumerate(answers) if answer is not None]
        assert await stores[-1].read("a/b") == contents[winner]
        assert await stores[-1].stat("a/b") == answers[winner]

    @pytest.mark.asyncio
    async def test_an_object_is_removed_by_its_generation_alone(self, stores: Sequence[ObjectStore]) -> None:
        first = await created(stores[0], "a")
        assert await stores[-1].delete("a", generation=first.generation + 1) is False
        assert await stores[-1].stat("a") == first
        assert await stores[-1].delete("a", generation=first.generation) is True
        assert await stores[0].delete("a", generation=first.generation) is False
        for store in stores:
            assert await store.stat("a") is None
            assert await store.read("a") is None
            assert await store.list() == ([], None)

    @pytest.mark.asyncio
    async def test_what_comes_again_is_another_one(self, stores: Sequence[ObjectStore]) -> None:
        generations: set[int] = set()
        for turn in range(5):
            store = stores[turn % len(stores)]
            stored = await created(store, "a/b/c", b"same")
            for old in generations:
                assert await store.delete("a/b/c", generation=old) is False
            generations.add(stored.generation)
            assert await store.stat("a/b/c") == stored
            assert await store.delete("a/b/c", generation=stored.generation) is True
        assert len(generations) == 5

    @pytest.mark.asyncio
    async def test_of_many_that_remove_at_once_one_does(self, stores: Sequence[ObjectStore]) -> None:
        stored = await created(stores[0], "a/b")
        answers = await asyncio.gather(
            *(stores[turn % len(stores)].delete("a/b", generation=stored.generation) for turn in range(6))
        )
        assert sorted(answers) == [False] * 5 + [True]

    # Limits

    @pytest.mark.asyncio
    async def test_any_path_that_is_one_is_taken(self, stores: Sequence[ObjectStore]) -> None:
        for number, path in enumerate(ODD_PATHS):
            await created(stores[0], path, f"{number}".encode())
        for number, path in enumerate(ODD_PATHS):
            assert await stores[-1].read(path) == f"{number}".encode()
            assert [each.path for each in (await stores[-1].list(path, most=1)).objects] == [path]
        assert await listed(stores[-1]) == sorted(ODD_PATHS)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("path", BAD_PATHS)
    async def test_another_path_is_refused(self, store: ObjectStore, path: str) -> None:
        for ask in (create(store, path), store.read(path), store.stat(path), store.delete(path, generation=1)):
            with pytest.raises(ValueError, match="path"):
                await ask
        assert await store.list() == ([], None)

    @pytest.mark.asyncio
    async def test_content_that_is_too_large_is_refused_with_its_size(self, store: ObjectStore) -> None:
        with pytest.raises(ValueError, match=rf"a/b: {MOST_OBJECT + 1} bytes"):
            await store.create("a/b", bytes(MOST_OBJECT + 1), sha256="")
        assert await store.stat("a/b") is None

    @pytest.mark.asyncio
    async def test_more_than_was_to_be_read_is_an_error(self, store: ObjectStore) -> None:
        await created(store, "a", b"x" * 100_000)
        with pytest.raises(StoreError, match="99999"):
            await store.read("a", most=99_999)
        assert await store.read("a", most=100_000) == b"x" * 100_000

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "about", [{"Key": ""}, {"": ""}, {"a b": ""}, {"ä": ""}, {"a\n": ""}, {"a": "\udc80"}, {"a": "ü" * 1024}]
    )
    async def test_what_can_not_be_kept_beside_an_object_is_refused(
        self, store: ObjectStore, about: Mapping[str, str]
    ) -> None:
        with pytest.raises(ValueError, match=r"a key is made of|there is room for|surrogates not allowed"):
            await create(store, "a", b"", about)
        assert await store.stat("a") is None

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "about",
        [
            {"a": "ü" * 1023 + "x"},
            {"a": "\x01" * (MOST_ABOUT - 1)},
            {f"k{number:03}": "\x01%" for number in range(MOST_ABOUT // 6)},
        ],
    )
    async def test_two_kilobytes_of_any_text_are_kept_beside_an_object(
        self, store: ObjectStore, about: Mapping[str, str]
    ) -> None:
        await created(store, "a", b"", about)
        stored = await store.stat("a")
        assert stored is not None
        assert stored.about == about

    @pytest.mark.asyncio
    async def test_a_hash_that_is_not_known_is_empty(self, store: ObjectStore) -> None:
        assert await store.create("a", b"", sha256="") is not None
        stored = await store.stat("a")
        assert stored is not None
        assert (stored.sha256, stored.about) == ("", {})

    # Lists

    @pytest.mark.asyncio
    async def test_a_list_goes_by_the_code_points_of_whole_paths(self, stores: Sequence[ObjectStore]) -> None:
        paths = [
            *("a", "a/b", "a-b", "a.b", "a b", "a0", "a/b/c", "a-b/c", "a!/c", "a/b-c", "a/b.d/e", "ab", "A/b", "~/~"),
            *("a/", "a-", "a-/"),
        ]
        paths = [path for path in paths if not path.endswith("/")]
        for path in paths:
            await created(stores[0], path)
        for most in (1, 2, 5, len(paths), 500):
            assert await listed(stores[-1], most=most) == sorted(paths)
        assert await listed(stores[-1], "a/") == ["a/b", "a/b-c", "a/b.d/e", "a/b/c"]
        for path in [*paths, "", "a/b.d", "b", "a/b/", "~~", " "]:
            page = await stores[-1].list(after=path)
            assert [each.path for each in page.objects] == [each for each in sorted(paths) if each > path]
            assert page.after is None

    @pytest.mark.asyncio
    async def test_a_prefix_is_no_folder_and_no_pattern(self, store: ObjectStore) -> None:
        for path in ("a/bc/d", "a/b", "a*/x", "a?", "ab", "b/a/b"):
            await created(store, path)
        assert await listed(store, "a/b") == ["a/b", "a/bc/d"]
        assert await listed(store, "a/b/") == []
        assert await listed(store, "a/bc/d") == ["a/bc/d"]
        assert await listed(store, "a/bc/de") == []
        assert await listed(store, "a*") == ["a*/x"]
        assert await listed(store, "a?") == ["a?"]
        for prefix in ("../", "/", "..", "a/../b", "nothing", "a//"):
            assert await listed(store, prefix) == []

    @pytest.mark.asyncio
    async def test_a_page_begins_after_a_path_that_is_no_longer_there(self, store: ObjectStore) -> None:
        stored = {path: await created(store, path) for path in ("a/1", "a/2", "a/3", "b/1", "b/2")}
        first = await store.list(most=2)
        assert [each.path for each in first.objects] == ["a/1", "a/2"]
        assert first.after == "a/2"
        for path in ("a/2", "a/3"):
            await store.delete(path, generation=stored[path].generation)
        assert [each.path for each in (await store.list(after=first.after)).objects] == ["b/1", "b/2"]
        assert [each.path for each in (await store.list("b/", after="a/9")).objects] == ["b/1", "b/2"]
        assert (await store.list("a/", after="b/1")).objects == []

    @pytest.mark.asyncio
    async def test_a_list_tells_all_that_is_known(self, store: ObjectStore) -> None:
        stored = [await created(store, f"a/{number}", b"x" * number, {"n": f"{number}"}) for number in range(5)]
        assert await store.list() == (stored, None)

    # Sweeping

    @pytest.mark.asyncio
    async def test_sweeping_leaves_objects_alone(self, stores: Sequence[ObjectStore]) -> None:
        first = await created(stores[0], "a/b/c")
        second = await created(stores[0], "a/d", b"x" * 9_000_000)
        assert await stores[-1].delete("a/b/c", generation=first.generation)
        assert await stores[-1].sweep(older_than=0) == 0
        assert await stores[0].list() == ([second], None)
        again = await created(stores[0], "a/b/c")
        assert again.generation != first.generation
        assert await listed(stores[-1]) == ["a/b/c", "a/d"]
