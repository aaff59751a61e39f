"""Instances from DNS: addresses come and go, and an answer that does not come changes nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from tests.adapters.load import poll
from tests.registry.stores import running
from traffic_cop_middleware.abstractions.registry.names import DnsWatch
from traffic_cop_middleware.adapters.resolving import SystemResolver
from traffic_cop_middleware.contracts import Instance
from traffic_cop_middleware.errors import ConfigurationError, NoAddress
from traffic_cop_middleware.testing import FakeClock


class Names:
    """A resolver in the test's hands: the addresses it gives, or none."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if not self.addresses:
            raise NoAddress(f"{host} has no address")
        return self.addresses


@pytest.mark.asyncio
async def test_each_address_is_an_instance_with_the_url_of_the_name(fake_clock: FakeClock) -> None:
    names, told = Names("10.0.0.2", "10.0.0.1", "2001:db8::1"), []
    watch = DnsWatch(names, "https://Billing.internal/v1", told.append, weight=3, clock=fake_clock)
    await watch.look()
    about = {"host": "billing.internal"}
    assert told == [
        (
            Instance("billing.internal", "10.0.0.1:443", "https://10.0.0.1:443/v1", 3, about, 0.0),
            Instance("billing.internal", "10.0.0.2:443", "https://10.0.0.2:443/v1", 3, about, 0.0),
            Instance("billing.internal", "[2001:db8::1]:443", "https://[2001:db8::1]:443/v1", 3, about, 0.0),
        )
    ]
    assert names.asked == ["billing.internal"]


@pytest.mark.asyncio
async def test_the_last_good_answer_goes_on_until_there_is_another(fake_clock: FakeClock) -> None:
    names, told = Names("10.0.0.1", "10.0.0.2"), []
    watch = DnsWatch(names, "http://billing:8080", told.append, service="bills", clock=fake_clock)
    await watch.look()
    fake_clock.advance(100)
    names.addresses = ()
    with pytest.raises(NoAddress):
        await watch.look()
    assert watch.age == 100
    names.addresses = ("10.0.0.2", "10.0.0.1")
    await watch.look()
    assert len(told) == 1
    names.addresses = ("10.0.0.3", "10.0.0.2")
    await watch.look()
    assert [[each.name for each in found] for found in told] == [
        ["10.0.0.1:8080", "10.0.0.2:8080"],
        ["10.0.0.2:8080", "10.0.0.3:8080"],
    ]
    assert {each.service for each in told[1]} == {"bills"}


@pytest.mark.asyncio
async def test_it_is_asked_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    names, told = Names(), []
    async with running(DnsWatch(names, "http://billing:8080", told.append, period=0.01)):
        await poll(lambda: len(names.asked) > 3)
        assert told == []
        names.addresses = ("10.0.0.1",)
        await poll(lambda: told)
    assert caplog.text.count("stay as they were known: billing has no address") == 1


@pytest.mark.parametrize("url", ["billing:8080", "http://", "ftp://billing", "http://a b", 7])
def test_a_url_that_names_no_host_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="Upstream"):
        DnsWatch(Names(), url, print)


# The system's resolver


@pytest.mark.asyncio
async def test_the_system_knows_where_localhost_is() -> None:
    found = await SystemResolver().resolve("localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(set(found)) == len(found) > 0
    assert await SystemResolver().resolve("127.0.0.1") == ["127.0.0.1"]
    assert await SystemResolver().resolve("::1") == ["::1"]


class Asked:
    """getaddrinfo in the test's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[str] = []
        self.answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self)

    async def __call__(self, host: str, port: None, *, type: int) -> list[tuple[Any, ...]]:
        self.hosts.append(host)
        return [(socket.AF_INET, type, 6, "", (address, 0)) for address in await asyncio.shield(self.answer)]


@pytest.mark.asyncio
async def test_a_question_that_hangs_is_not_asked_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, resolver = Asked(monkeypatch), SystemResolver(deadline=0.01)
    for _ in range(3):
        with pytest.raises(NoAddress, match=r"within 0\.01 s where billing is"):
            await resolver.resolve("billing")
    assert asked.hosts == ["billing"]
    asked.answer.set_result(["10.0.0.2", "10.0.0.1", "10.0.0.2", "fe80::1", "fe80::1%eth0"])
    await poll(lambda: not resolver._asked)
    assert await SystemResolver().resolve("billing") == ["10.0.0.1", "10.0.0.2"]
    assert asked.hosts == ["billing", "billing"]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
async def test_what_the_system_does_not_know_has_no_address(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    asked, resolver = Asked(monkeypatch), SystemResolver()
    asked.answer.set_exception(error)
    with pytest.raises(NoAddress, match="billing has no address") as caught:
        await resolver.resolve("billing")
    assert caught.value.__cause__ is error
    asked.answer = asyncio.get_running_loop().create_future()
    asked.answer.set_result(["fe80::1%eth0"])
    with pytest.raises(NoAddress, match="no address that can be used"):
        await resolver.resolve("billing")


@pytest.mark.asyncio
async def test_one_who_waits_no_longer_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, resolver = Asked(monkeypatch), SystemResolver()
    waiting = [asyncio.create_task(resolver.resolve("billing")) for _ in range(2)]
    await poll(lambda: asked.hosts)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    asked.answer.set_result(["10.0.0.1"])
    assert await waiting[1] == ["10.0.0.1"]
    assert asked.hosts == ["billing"]
