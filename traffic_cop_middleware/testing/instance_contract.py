"""What every `InstanceStore` does, as tests: subclass them for a backend of your own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from traffic_cop_middleware.contracts import Instance, Instances, InstanceStore
from traffic_cop_middleware.contracts.registry import MOST_INSTANCES
from traffic_cop_middleware.errors import StoreError

SERVICE = "billing"
TTL = 600.0

Elapse = Callable[[float], Awaitable[None]]


def instance(name: str = "a", *, service: str = SERVICE, **about: Any) -> Instance:
    """An instance that is announced for ten minutes."""
    return Instance(service, name, about.pop("url", f"http://{name}:8080"), **{"ttl": TTL, **about})


async def registered(store: InstanceStore, announced: Instance, *, holder: str = "h") -> bool:
    """From a store that answers at once and from one that gives something to await."""
    changed = store.register(announced, holder=holder)
    return await changed if isinstance(changed, Awaitable) else changed


async def unregistered(store: InstanceStore, name: str = "a", *, holder: str = "h", service: str = SERVICE) -> bool:
    changed = store.unregister(service, name, holder=holder)
    return await changed if isinstance(changed, Awaitable) else changed


async def read(store: InstanceStore, *, since: int = 0, service: str = SERVICE) -> Instances | None:
    found = store.read(service, since=since)
    return await found if isinstance(found, Awaitable) else found


async def listed(store: InstanceStore, *, service: str = SERVICE) -> Instances:
    """The list, which is never "unchanged" for who knows no version."""
    found = await read(store, service=service)
    assert found is not None
    return found


async def names(store: InstanceStore) -> list[str]:
    return [each.name for each in (await listed(store)).instances]


async def figures(store: InstanceStore) -> Mapping[str, int]:
    found = store.figures()
    return await found if isinstance(found, Awaitable) else found


class InstanceStoreContract:
    """Every promise of `InstanceStore`, on the stores that a subclass gives.

    Needs pytest-asyncio. Give two fixtures. `stores`: those of several workers on one empty store, or one where the
    store is this process; `elapse`: lets seconds pass for it (the suite lets hundreds pass)::

        class TestMyInstances(InstanceStoreContract):
            @pytest.fixture
            def stores(self, fake_clock: FakeClock) -> Sequence[InstanceStore]:
                return [MyInstances(clock=fake_clock)]

            @pytest.fixture
            def elapse(self, fake_clock: FakeClock) -> Elapse:
                async def elapse(seconds: float) -> None:
                    fake_clock.advance(seconds)

                return elapse
    """

    @pytest.fixture
    def store(self, stores: Sequence[InstanceStore]) -> InstanceStore:
        return stores[0]

    @pytest.mark.asyncio
    async def test_a_service_that_nobody_announced_has_version_zero_and_no_instances(
        self, store: InstanceStore
    ) -> None:
        assert await listed(store) == (0, 0, [])
        assert await read(store, since=12345) == (0, 0, [])
        assert not await unregistered(store)
        assert await figures(store) == {}

    @pytest.mark.asyncio
    async def test_what_one_announces_all_workers_see(self, stores: Sequence[InstanceStore]) -> None:
        announced = instance(weight=3, metadata={"zone": "a", "version": "1.2 beta"})
        assert await registered(stores[0], announced)
        for store in stores:
            found = await listed(store)
            assert found.instances == [announced]
            assert 0 < found.begun == found.version < 2**53

    @pytest.mark.asyncio
    async def test_a_heartbeat_changes_nothing_that_a_watcher_would_hear_of(
        self, stores: Sequence[InstanceStore], elapse: Elapse
    ) -> None:
        assert await registered(stores[0], instance())
        version = (await listed(stores[0])).version
        for _ in range(4):
            await elapse(0.7 * TTL)
            assert not await registered(stores[0], instance())
            assert await read(stores[-1], since=version) is None
        assert (await listed(stores[-1])).instances == [instance()]

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "about", [{"url": "http://elsewhere:8080"}, {"weight": 0}, {"metadata": {"zone": "b"}}, {"ttl": 2 * TTL}]
    )
    async def test_an_instance_that_is_another_than_before_has_a_new_version(
        self, stores: Sequence[InstanceStore], about: dict[str, Any]
    ) -> None:
        await registered(stores[0], instance())
        await registered(stores[0], instance("b"))
        before = await listed(stores[0])
        assert await registered(stores[0], instance(**about))
        after = await read(stores[-1], since=before.version)
        assert after is not None
        assert after.version > before.version
        assert after.begun == before.begun
        assert after.instances == [instance(**about), instance("b")]

    @pytest.mark.asyncio
    async def test_one_that_sends_no_heartbeat_is_gone_after_its_ttl_and_no_other(
        self, stores: Sequence[InstanceStore], elapse: Elapse
    ) -> None:
        await registered(stores[0], instance("a"))
        await registered(stores[0], instance("b", ttl=3 * TTL))
        before = (await listed(stores[0])).version
        await elapse(0.9 * TTL)
        assert await read(stores[-1], since=before) is None
        await elapse(0.2 * TTL)
        after = await read(stores[-1], since=before)
        assert after is not None
        assert [each.name for each in after.instances] == ["b"]
        assert after.version > before
        assert await read(stores[0], since=after.version) is None
        assert await registered(stores[0], instance("a"))
        assert await names(stores[-1]) == ["a", "b"]

    @pytest.mark.asyncio
    async def test_one_that_ended_is_gone_at_once(self, stores: Sequence[InstanceStore]) -> None:
        await registered(stores[0], instance("a"))
        await registered(stores[0], instance("b"))
        before = (await listed(stores[0])).version
        assert await unregistered(stores[-1], "a")
        assert not await unregistered(stores[-1], "a")
        assert not await unregistered(stores[-1], "b", holder="another")
        after = await read(stores[0], since=before)
        assert after is not None
        assert [each.name for each in after.instances] == ["b"]

    @pytest.mark.asyncio
    async def test_a_list_that_has_ended_is_told_from_one_that_was_lost(
        self, store: InstanceStore, elapse: Elapse
    ) -> None:
        await registered(store, instance())
        first = await listed(store)
        await unregistered(store)
        empty = await listed(store)
        assert (empty.begun, empty.instances) == (first.begun, [])
        assert empty.version > first.version
        await elapse(1.1 * TTL)
        await registered(store, instance())
        again = await listed(store)
        assert again.begun == first.begun
        assert again.version > empty.version

    @pytest.mark.asyncio
    async def test_an_instance_lives_while_one_of_its_holders_does(
        self, stores: Sequence[InstanceStore], elapse: Elapse
    ) -> None:
        assert await registered(stores[0], instance(), holder="one")
        assert not await registered(stores[-1], instance(), holder="two")
        before = (await listed(stores[0])).version
        assert not await unregistered(stores[0], holder="one")
        assert await read(stores[0], since=before) is None
        assert not await registered(stores[0], instance(), holder="three")
        await elapse(0.7 * TTL)
        assert not await registered(stores[0], instance(), holder="two")
        await elapse(0.7 * TTL)  # the third one died
        assert await read(stores[0], since=before) is None
        assert await unregistered(stores[-1], holder="two")
        assert await names(stores[0]) == []

    @pytest.mark.asyncio
    async def test_services_do_not_know_each_other(self, store: InstanceStore) -> None:
        others = ["billing:2", "Billing", "9:billing"]
        await registered(store, instance())
        for service in others:
            await registered(store, instance("b", service=service))
        assert await names(store) == ["a"]
        for service in others:
            assert [each.name for each in (await listed(store, service=service)).instances] == ["b"]
        assert await unregistered(store)
        assert len((await listed(store, service="Billing")).instances) == 1

    @pytest.mark.asyncio
    async def test_figures_count_what_lives(self, store: InstanceStore, elapse: Elapse) -> None:
        for name in "abc":
            await registered(store, instance(name))
            await registered(store, instance(name), holder="another")
        await registered(store, instance("b", service="9:orders", ttl=3 * TTL))
        await unregistered(store, "a")
        await unregistered(store, "b")
        await unregistered(store, "b", holder="another")
        assert await figures(store) == {SERVICE: 2, "9:orders": 1}
        await elapse(1.1 * TTL)
        assert await figures(store) == {"9:orders": 1}

    @pytest.mark.asyncio
    async def test_of_many_who_announce_at_once_all_are_listed(self, stores: Sequence[InstanceStore]) -> None:
        wanted = [f"i{number:02}" for number in range(40)]
        await asyncio.gather(
            *(registered(stores[at % len(stores)], instance(name)) for at, name in enumerate(wanted * 2))
        )
        assert await names(stores[0]) == wanted

    @pytest.mark.asyncio
    async def test_a_service_has_a_thousand_instances_and_no_more(self, store: InstanceStore) -> None:
        asked = [registered(store, instance(f"i{number}")) for number in range(MOST_INSTANCES)]
        assert all(await asyncio.gather(*asked))
        with pytest.raises(StoreError, match="1000 instances"):
            await registered(store, instance("one-more"))
        assert not await registered(store, instance("i0"), holder="another")
        assert len(await names(store)) == MOST_INSTANCES
        assert await unregistered(store, "i7")
        assert await registered(store, instance("one-more"))

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["a b", "0 0 0 b", "a\nb", " ", "Grüße", "\ud800", "x" * 128])
    async def test_words_are_plain_texts(self, store: InstanceStore, word: str) -> None:
        announced = instance(word, service=word, url="http://a", metadata={word: word, "": ""})
        assert await registered(store, announced, holder=word)
        assert (await listed(store, service=word)).instances == [announced]
        assert await figures(store) == {word: 1}
        assert await unregistered(store, word, holder=word, service=word)
        assert await figures(store) == {}

    @pytest.mark.asyncio
    @pytest.mark.parametrize("word", ["", "a}b", "{", "a\0b", "x" * 129, "ü" * 65])
    async def test_words_that_no_store_takes_are_refused(self, store: InstanceStore, word: str) -> None:
        with pytest.raises(ValueError, match="a service's name"):
            await registered(store, instance(service=word))
        with pytest.raises(ValueError, match="a service's name"):
            await read(store, service=word)
        with pytest.raises(ValueError, match="an instance's name"):
            await registered(store, instance(word))
        with pytest.raises(ValueError, match="an instance's holder"):
            await registered(store, instance(), holder=word)
        for wrong in ({"name": word}, {"holder": word}, {"service": word}):
            with pytest.raises(ValueError, match="it is a word without braces"):
                await unregistered(store, **wrong)

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        "about",
        [
            *({"url": url} for url in ("", "a:8080", "ftp://a", "http://a b", "http://ü", "http://" + "a" * 512)),
            *({"weight": weight} for weight in (-1, 1.5, True, 1_000_001)),
            *({"metadata": metadata} for metadata in ({"a": 1}, {1: "a"}, {"a": "x" * 1024}, {"a": "ü" * 200})),
            *({"ttl": ttl} for ttl in (0, -1, 0.4, 86_401, float("inf"), float("nan"))),
        ],
    )
    async def test_what_no_store_takes_is_refused(self, store: InstanceStore, about: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="the instance 'a'"):
            await registered(store, instance(**about))
        assert await names(store) == []
