"""An instance that announces itself, on stores that take it, refuse it and forget it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.adapters.load import poll
from tests.registry.stores import Registry, running
from traffic_cop_middleware.abstractions.registry import announcing
from traffic_cop_middleware.abstractions.registry.announcing import TOPIC, Announcer
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.contracts import Instance
from traffic_cop_middleware.testing import FakeClock
from traffic_cop_middleware.testing.instance_contract import SERVICE, instance


class Counting(Registry):
    """Counts heartbeats; one that `hangs` answers no farewell."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.beats = 0
        self.hangs = False
        self.broken = False

    async def register(self, instance: Instance, *, holder: str) -> bool:
        self.beats += 1
        if self.broken:
            raise ZeroDivisionError("a driver's own error")
        return await super().register(instance, holder=holder)

    async def unregister(self, service: str, name: str, *, holder: str) -> bool:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().unregister(service, name, holder=holder)


@pytest.fixture
def registry(fake_clock: FakeClock) -> Counting:
    return Counting(fake_clock)


async def names(registry: Registry) -> list[str]:
    found = await registry.read(SERVICE)
    assert found is not None
    return [each.name for each in found.instances]


@pytest.mark.asyncio
async def test_it_is_announced_again_and_again_also_after_the_store_lost_it(registry: Counting) -> None:
    announcer = Announcer(registry, None, instance(ttl=0.5))
    assert not announcer.announced
    async with running(announcer):
        await poll(lambda: registry.beats >= 2)
        assert announcer.announced
        registry.lose()
        beats = registry.beats
        await poll(lambda: registry.beats > beats)
        assert await names(registry) == ["a"]
        await announcer.withdraw()
        assert await names(registry) == []


@pytest.mark.asyncio
async def test_a_beat_comes_at_once_when_it_is_hurried(registry: Counting) -> None:
    announcer = Announcer(registry, None, instance(ttl=3_600))
    async with running(announcer):
        await poll(lambda: registry.beats == 1)
        announcer.hurry()
        await poll(lambda: registry.beats == 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", ["away", "broken"])
async def test_while_it_is_not_taken_it_goes_on_soon(
    registry: Counting, caplog: pytest.LogCaptureFixture, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "TRIED", 0.01)
    setattr(registry, trouble, True)
    announcer = Announcer(registry, None, instance(ttl=3_600))
    with caplog.at_level(logging.WARNING, "traffic_cop"):
        async with running(announcer):
            await poll(lambda: registry.beats > 5)
            assert not announcer.announced
            setattr(registry, trouble, False)
            await poll(lambda: announcer.announced)
    said = [record.getMessage() for record in caplog.records]
    assert said[-1] == "a of billing is announced again"
    if trouble == "away":
        assert said[:-1] == ["a of billing is not announced at present: the registry is away"]


@pytest.mark.asyncio
async def test_the_bus_hears_of_what_changes_a_list_and_of_no_heartbeat() -> None:
    backend, heard = MemoryBackend(), []
    backend.bus.subscribe(TOPIC, lambda message: heard.append(message.payload))
    announcer, second = (Announcer(backend.instances, backend.bus, instance()) for _ in range(2))
    for _ in range(3):
        assert await announcer.beat()
    assert heard == [SERVICE]
    assert await second.beat()  # another worker of the same server
    await announcer.withdraw()
    assert heard == [SERVICE]
    announcer.instance = second.instance = instance(weight=0)
    await second.beat()
    assert heard == [SERVICE, SERVICE]
    await second.withdraw()
    assert heard == [SERVICE] * 3
    await second.withdraw()
    assert heard == [SERVICE] * 3


@pytest.mark.asyncio
async def test_a_farewell_that_nobody_takes_ends_all_the_same(
    registry: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    announcer = Announcer(registry, None, instance())
    await announcer.beat()
    registry.away = True
    await announcer.withdraw()
    registry.away, registry.hangs = False, True
    monkeypatch.setattr(announcing, "PATIENCE", 0.01)
    await asyncio.wait_for(announcer.withdraw(), 30)
    assert await names(registry) == ["a"]


@pytest.mark.asyncio
async def test_while_a_heartbeat_is_under_way_it_is_announced_still(registry: Counting) -> None:
    announcer = Announcer(registry, None, instance("a"))
    await announcer.beat()
    seen: list[bool] = []
    plain = registry.register

    async def slowly(told: Instance, *, holder: str) -> bool:
        seen.append(announcer.announced)
        return await plain(told, holder=holder)

    registry.register = slowly  # type: ignore[method-assign]
    await announcer.beat()
    assert seen == [True]
    registry.away = True
    await announcer.beat()
    assert not announcer.announced


@pytest.mark.asyncio
async def test_an_error_that_stays_is_logged_once(registry: Counting, caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(registry, None, instance("a"))
    registry.broken = True
    for _ in range(5):
        await announcer.beat()
    assert caplog.text.count("could not be announced") == 1
