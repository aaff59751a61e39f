"""What a worker knows of a service's instances, while the registry is there, away, emptied and back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.adapters.load import poll
from tests.registry.stores import Registry, running
from traffic_cop_middleware.abstractions.registry.announcing import TOPIC
from traffic_cop_middleware.abstractions.registry.watching import ServiceWatch
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Instance
from traffic_cop_middleware.errors import StoreUnavailable
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.instance_contract import SERVICE, instance

TTL = 10.0


def one(name: str, **about: object) -> Instance:
    return instance(name, **{"ttl": TTL, **about})


class Watched:
    """A watch, its registry and its clock, and what it told."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.registry = Registry(clock)
        self.told: list[list[str]] = []
        self.watch = ServiceWatch(self.registry, None, SERVICE, self._hear, clock=clock)

    def _hear(self, instances: Sequence[Instance]) -> None:
        self.told.append([each.name for each in instances])

    async def announce(self, *names: str) -> None:
        for name in names:
            await self.registry.register(one(name), holder="h")

    async def look(self) -> list[str]:
        await self.watch.look()
        assert self.told[-1] == self.known
        return self.known

    @property
    def known(self) -> list[str]:
        assert self.watch.instances is not None
        return [each.name for each in self.watch.instances]

    async def look_for(self, seconds: float) -> list[str]:
        """Look twice a second for so long."""
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            await self.look()
        return self.known

    async def miss(self, seconds: float) -> None:
        """Look twice a second while the registry is away for so long."""
        self.registry.away = True
        for _ in range(round(seconds * 2)):
            self.clock.advance(0.5)
            with pytest.raises(StoreUnavailable):
                await self.watch.look()
        self.registry.away = False


@pytest.fixture
def watched(fake_clock: FakeClock) -> Watched:
    return Watched(fake_clock)


@pytest.mark.asyncio
async def test_it_tells_what_there_is_and_then_of_changes_alone(watched: Watched) -> None:
    assert watched.watch.instances is None
    assert watched.watch.age is None
    assert await watched.look() == []
    await watched.announce("b", "a")
    assert await watched.look() == ["a", "b"]
    await watched.announce("a", "b")
    await watched.look()
    await watched.registry.unregister(SERVICE, "a", holder="h")
    assert await watched.look() == ["b"]
    await watched.registry.register(one("b", weight=5), holder="h")
    await watched.look()
    assert watched.told == [[], ["a", "b"], ["b"], ["b"]]
    assert watched.watch.instances == (one("b", weight=5),)


@pytest.mark.asyncio
async def test_one_that_dies_is_gone_after_its_ttl(watched: Watched) -> None:
    await watched.announce("a")
    assert await watched.look() == ["a"]
    assert await watched.look_for(TTL - 0.5) == ["a"]
    assert await watched.look_for(0.5) == []


@pytest.mark.asyncio
async def test_while_the_registry_is_away_what_was_known_goes_on_without_a_limit(watched: Watched) -> None:
    await watched.announce("a", "b")
    await watched.look()
    await watched.miss(20 * TTL)
    assert watched.known == ["a", "b"]
    assert watched.watch.age == 20 * TTL
    assert len(watched.told) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("noticed", ["empty", "begun anew"])
async def test_what_an_emptied_registry_does_not_know_yet_goes_on_for_its_ttl(watched: Watched, noticed: str) -> None:
    await watched.announce("a", "b")
    await watched.look()
    watched.registry.lose()
    watched.clock.advance(0.5)
    if noticed == "empty":
        await watched.look()
        assert watched.watch.unconfirmed == {"a", "b"}
        watched.clock.advance(0.5)
    await watched.announce("a")
    await watched.look()
    assert watched.watch.unconfirmed == {"b"}
    for _ in range(3):
        assert await watched.look_for(TTL / 4) == ["a", "b"]
        await watched.announce("a")
    assert await watched.look_for(TTL / 4) == ["a"]
    assert watched.told == [["a", "b"], ["a"]]
    assert watched.watch.unconfirmed == frozenset()


@pytest.mark.asyncio
async def test_what_ran_out_in_an_outage_goes_on_until_it_could_announce_itself(watched: Watched) -> None:
    await watched.announce("a", "b")
    await watched.look()
    await watched.miss(1.5 * TTL)
    assert await watched.look() == ["a", "b"]
    assert watched.watch.unconfirmed == {"a", "b"}
    watched.clock.advance(0.5)
    await watched.announce("a")
    await watched.look()
    assert watched.watch.unconfirmed == {"b"}
    await watched.look_for(TTL / 2)
    await watched.announce("a")
    assert await watched.look_for(TTL / 2) == ["a"]
    assert watched.told == [["a", "b"], ["a"]]


@pytest.mark.asyncio
async def test_an_outage_that_every_announcement_outlasts_keeps_nobody_that_died(watched: Watched) -> None:
    await watched.announce("a", "b")
    await watched.look()
    await watched.look_for(TTL - 3)
    await watched.announce("a")
    await watched.miss(2.5)
    assert await watched.look() == ["a", "b"]
    assert await watched.look_for(0.5) == ["a"]


@pytest.mark.asyncio
async def test_an_outage_in_an_outage_takes_nobody_away(watched: Watched) -> None:
    await watched.announce("a")
    await watched.look()
    watched.registry.lose()
    assert await watched.look() == ["a"]
    await watched.miss(2 * TTL)
    assert await watched.look_for(1) == ["a"]
    await watched.announce("a")
    assert await watched.look_for(TTL / 2) == ["a"]
    assert watched.watch.unconfirmed == frozenset()
    assert watched.told == [["a"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("every", range(5, 20))
async def test_a_registry_that_fails_again_and_again_keeps_nobody_that_left(every: int, watched: Watched) -> None:
    await watched.announce("a", "b")
    await watched.look()
    for look in range(1, 200):
        watched.clock.advance(0.5)
        if look % 5 == 0:
            await watched.announce("a")
            if look < 60:
                await watched.announce("b")
        if look == 60:
            await watched.registry.unregister(SERVICE, "b", holder="h")
        watched.registry.away = look % every == 0
        with contextlib.suppress(StoreUnavailable):
            await watched.watch.look()
        watched.registry.away = False
        if look < 60:
            assert watched.known == ["a", "b"]
        assert "a" in watched.known
    assert watched.known == ["a"]


class Registrar:
    """An instance that announces itself as `Announcer` does, on the test's time."""

    def __init__(self, name: str, ttl: float, dice: random.Random) -> None:
        self.instance = one(name, ttl=ttl)
        self._dice = dice
        self._due = 0.0

    async def act(self, registry: Registry, now: float) -> None:
        if now < self._due:
            return
        rest = self.instance.ttl / 3
        try:
            await registry.register(self.instance, holder="h")
        except StoreUnavailable:
            rest = min(1.0, rest)
        self._due = now + rest * self._dice.uniform(0.8, 1.0)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    troubles=st.lists(
        st.tuples(st.floats(0, 40), st.floats(0.1, 30), st.sampled_from(["away", "lost", "away and lost"])), max_size=5
    ),
    ttls=st.lists(st.sampled_from([2.0, 5.0, 10.0, 30.0]), min_size=1, max_size=4),
)
@example(118, [(1.5, 2.875, "away"), (1.25, 9.0, "away"), (0.0, 1.0, "away")], [10.0, 2.0])
def test_whoever_lives_stays_known_whatever_the_registry_does(
    seed: int, troubles: list[tuple[float, float, str]], ttls: list[float]
) -> None:
    async def scenario() -> None:
        dice, watched = random.Random(seed), Watched(FakeClock())
        registrars = [Registrar(f"i{number}", ttl, dice) for number, ttl in enumerate(ttls)]
        wanted = [registrar.instance.name for registrar in registrars]
        for registrar in registrars:
            await registrar.act(watched.registry, 0)
        await watched.look()
        now, look, left = 0.0, 0.0, list(troubles)
        calm, trouble, ends = 0.0, "", 0.0
        while left or trouble or calm < 2 * max(ttls):
            now += 0.1
            watched.clock.advance(0.1)
            calm += 0.1
            if trouble and now >= ends:
                if "lost" in trouble:
                    watched.registry.lose()
                trouble, calm, watched.registry.away = "", 0.0, False
            elif not trouble and left and calm >= left[0][0]:
                _, lasting, trouble = left.pop(0)
                ends = now + (lasting if "away" in trouble else 0)
                watched.registry.away = "away" in trouble
            for registrar in dice.sample(registrars, len(registrars)):
                await registrar.act(watched.registry, now)
            if now >= look:
                look = now + 0.5 * dice.uniform(0.8, 1.2)
                with contextlib.suppress(StoreUnavailable):
                    await watched.watch.look()
            assert watched.known == wanted
        assert watched.told == [wanted]
        assert watched.watch.unconfirmed == frozenset()

    asyncio.run(scenario())


# Running


@pytest.mark.asyncio
async def test_what_the_bus_tells_is_looked_at_at_once() -> None:
    backend, told = MemoryBackend(), []
    watch = ServiceWatch(backend.instances, backend.bus, SERVICE, told.append, period=3_600)
    async with running(watch):
        await poll(lambda: told == [()])
        backend.instances.register(one("a"), holder="h")
        backend.bus.publish(TOPIC, "another service")
        await asyncio.sleep(0)
        assert told == [()]
        backend.bus.publish(TOPIC, SERVICE)
        await poll(lambda: told == [(), (one("a"),)])
    backend.instances.register(one("b"), holder="h")
    backend.bus.publish(TOPIC, SERVICE)
    await asyncio.sleep(0)
    assert len(told) == 2


@pytest.mark.asyncio
async def test_without_a_bus_it_looks_again_and_again_and_says_once_that_the_registry_is_away(
    caplog: pytest.LogCaptureFixture, fake_clock: FakeClock
) -> None:
    registry, told = Registry(fake_clock), []
    await registry.register(one("a"), holder="h")
    watch = ServiceWatch(registry, None, SERVICE, told.append, period=0.01)
    async with running(watch):
        await poll(lambda: told == [(one("a"),)])
        with caplog.at_level(logging.WARNING, "traffic_cop"):
            registry.away, reads = True, registry.reads
            await poll(lambda: registry.reads > reads + 5)
            registry.away = False
            await registry.register(one("b"), holder="h")
            await poll(lambda: len(told) == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "the instances of billing stay as they were known: the registry is away",
        "the instances of billing are known again",
    ]


@pytest.mark.asyncio
async def test_a_listener_that_fails_is_logged_and_hears_the_next_change(
    caplog: pytest.LogCaptureFixture, fake_clock: FakeClock
) -> None:
    registry, told = Registry(fake_clock), []

    def hear(instances: Sequence[Instance]) -> None:
        told.append(len(instances))
        raise ZeroDivisionError

    watch = ServiceWatch(registry, None, SERVICE, hear)
    await watch.look()
    await registry.register(one("a"), holder="h")
    await watch.look()
    assert told == [0, 1]
    assert caplog.text.count("a listener failed on that") == 2


@pytest.mark.asyncio
async def test_an_error_that_stays_is_logged_once(caplog: pytest.LogCaptureFixture, fake_clock: FakeClock) -> None:
    registry = Registry(fake_clock)

    async def broken(service: str, *, since: int = 0) -> None:
        registry.reads += 1
        raise ZeroDivisionError("a driver's own error")

    registry.read = broken  # type: ignore[method-assign,assignment]
    async with running(ServiceWatch(registry, None, SERVICE, lambda found: None, period=0.01)):
        await poll(lambda: registry.reads > 5)
    assert caplog.text.count("could not be looked at") == 1
