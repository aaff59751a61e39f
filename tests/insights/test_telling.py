"""Who is told of insights: once over all workers, whichever leads, and whatever the function that is told does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import pytest_asyncio
import trio
from starlette.applications import Starlette

from tests.adapters.load import poll, started
from tests.insights.test_notifying import SLOW
from tests.insights.test_questions import Minutes
from tests.insights.test_webhooks import SECRET, receiving, verified
from tests.servers import RedisServer
from traffic_cop_middleware import (
    ConfigurationError,
    Insight,
    MetricsMiddleware,
    MissingExtra,
    Notification,
    TrafficCop,
    Webhook,
)
from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.insights.notifying import Notifier
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.adapters.redis import open as open_redis
from traffic_cop_middleware.composition import gateway, telling
from traffic_cop_middleware.composition.telling import Telling, TellingSettings
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.testing import FakeClock


class Told:
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.news: list[str] = []

    def __call__(self, notification: Notification) -> None:
        self.news.append(notification.news)


@pytest_asyncio.fixture
async def dropped() -> AsyncIterator[Minutes]:
    """Six hours of traffic, and then half an hour without any."""
    minutes = Minutes()
    await minutes.pass_by(6 * 60)
    await minutes.pass_by(30, each=0)
    yield minutes


def teller(minutes: Minutes, backend: Any, told: Any) -> Telling:
    return Telling(backend, minutes.analytics, TellingSettings(on_insight=told))


@pytest.mark.asyncio
async def test_workers_that_follow_one_another_tell_it_once_and_that_it_is_over(dropped: Minutes) -> None:
    backend, told = MemoryBackend(clock=dropped.clock), Told()
    for _ in range(3):
        await teller(dropped, backend, told).look()
    assert told.news == ["new"]
    await dropped.pass_by(120)
    for _ in range(3):
        await teller(dropped, backend, told).look()
        await dropped.pass_by(20)
    assert told.news == ["new", "over"]
    await dropped.pass_by(180)
    await teller(dropped, backend, told).look()
    records = [record for record in backend.records.read(telling.KIND).records if record.value is not None]
    assert records == []  # nothing is kept for ever


@pytest.mark.asyncio
async def test_a_leader_that_was_held_up_tells_nothing_any_more(dropped: Minutes) -> None:
    backend, told, late = MemoryBackend(clock=dropped.clock), Told(), Told()
    old = teller(dropped, backend, late)
    records, held_up = backend.records, asyncio.Event()
    change = records.change

    def another_is_faster(kind: str, values: Any, *, at: int | None) -> Any:
        if not held_up.is_set():
            held_up.set()
            change(kind, values, at=at)
        return change(kind, values, at=at)

    records.change = another_is_faster  # type: ignore[method-assign]
    assert await old.look() == []
    assert late.news == []
    await teller(dropped, backend, told).look()
    assert told.news == []  # it was told by whoever was faster


@pytest.mark.asyncio
async def test_a_function_that_fails_or_hangs_is_logged_and_the_others_are_told(
    dropped: Minutes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "LONGEST_CALL", 0.01)

    def fails(notification: Notification) -> None:
        raise RuntimeError("out of paper")

    async def hangs(notification: Notification) -> None:
        await asyncio.Event().wait()

    for broken in (fails, hangs):
        caplog.clear()
        with caplog.at_level(logging.ERROR, logger="traffic_cop"):
            [told] = await teller(dropped, MemoryBackend(clock=dropped.clock), broken).look()
        assert told.news == "new"
        assert "metrics_on_insight failed with 'GET /a has no requests since 06:00 UTC" in caplog.text


@pytest.mark.asyncio
async def test_a_coroutine_function_is_awaited(dropped: Minutes) -> None:
    told: list[str] = []

    async def on_insight(notification: Notification) -> None:
        await asyncio.sleep(0)
        told.append(notification.insight.kind)

    await teller(dropped, MemoryBackend(clock=dropped.clock), on_insight).look()
    assert told == ["drop"]


@pytest.mark.asyncio
async def test_who_is_about_to_use_up_a_quota_is_told_of_and_then_that_it_is_used_up() -> None:
    minutes, told = Minutes(), list[str]()
    settings = TellingSettings(on_insight=lambda each: told.append(each.insight.sentence), quotas={"user": "5000/day"})
    teller = Telling(MemoryBackend(clock=minutes.clock), minutes.analytics, settings)
    await minutes.pass_by(12 * 60, each=5, user="ada")
    for _ in range(2):
        await teller.look()
    assert [" ".join(each.split()[:4]) for each in told] == ["user ada exhausts 5k/day"]
    await minutes.pass_by(5 * 60, each=5, user="ada")
    await teller.look()
    assert told[1].startswith("user ada has used up 5k/day since 16:")
    assert len(told) == 2


@pytest.mark.asyncio
async def test_two_quotas_of_one_user_are_two_things() -> None:
    minutes, told = Minutes(), list[str]()
    quotas = {"user": "250/hour; 4000/day"}
    settings = TellingSettings(on_insight=lambda each: told.append(each.insight.sentence), quotas=quotas)
    teller = Telling(MemoryBackend(clock=minutes.clock), minutes.analytics, settings)
    await minutes.pass_by(12 * 60 + 55, each=5, user="ada")
    for _ in range(3):
        await teller.look()
    assert sorted(" ".join(each.split()[2:6]) for each in told) == ["exhausts 4k/day at about", "has used up 250/hour"]


@pytest.mark.asyncio
async def test_what_a_newer_version_has_written_is_begun_anew(dropped: Minutes) -> None:
    backend, told = MemoryBackend(clock=dropped.clock), Told()
    for broken in ('{"insight":{}}', "[]", "{", "7", json.dumps({"insight": SLOW.record(), "more": 1})):
        backend.records.change(telling.KIND, {"broken": broken}, at=None)
        await teller(dropped, backend, told).look()
    assert told.news == ["new"] * 5
    assert "broken" not in {r.name for r in backend.records.read(telling.KIND).records if r.value is not None}


def test_a_notifier_goes_on_where_another_one_ended() -> None:
    one, other = Notifier(), Notifier()
    assert [each.news for each in one.look([SLOW], now=0.0)] == ["new"]
    other.recall(one.records().values())
    assert other.look([SLOW], now=300.0) == []
    assert [each.news for each in other.look([], now=1500.0)] == ["over"]
    assert Insight.of(SLOW.record()) == SLOW


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_two_workers_on_redis_that_look_at_the_same_moment_tell_each_insight_once(
    dropped: Minutes, redis_server: RedisServer
) -> None:
    told = Told()
    async with contextlib.AsyncExitStack() as stack:
        tellers = []
        for _ in range(2):
            backend = open_redis(redis_server.url, namespace="tc", deadline=5.0, notify=lambda event: None)
            await backend.connect(patience=5.0)
            stack.push_async_callback(backend.close)
            tellers.append(teller(dropped, backend, told))
        for _ in range(3):
            await asyncio.gather(*(each.look() for each in tellers))
        assert told.news == ["new"]
        await dropped.pass_by(120)
        for _ in range(3):
            await asyncio.gather(*(each.look() for each in tellers))
            await dropped.pass_by(20)
    assert told.news == ["new", "over"]


@pytest.mark.asyncio
@pytest.mark.redis_server
async def test_of_two_workers_on_redis_one_tells_and_each_insight_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "FIVE", 0.05)
    monkeypatch.setattr(telling, "LEASE_SECONDS", 0.5)
    looks = 0

    async def found(self: AnalyticsAbstraction, range: Any = "1h", **_: Any) -> Sequence[Insight]:
        nonlocal looks
        looks += 1
        return [SLOW]

    monkeypatch.setattr(AnalyticsAbstraction, "insights", found)
    async with receiving() as receiver:
        webhook = Webhook(f"{receiver.url}/hook/", secret=SECRET)
        told = Told()
        settings: Any = {"metrics": True, "deadline": 5.0, "metrics_on_insight": told, "metrics_webhook": webhook}
        apps = [TrafficCop(redis_server.url, **settings).wrap(Starlette()) for _ in range(3)]
        async with started(apps[0]):
            async with started(apps[1]):
                await poll(lambda: looks >= 10)
                assert told.news == ["new"]
                await poll(lambda: len(receiver.got) == 1)
            upto = looks
            await poll(lambda: looks >= upto + 5)
        async with started(apps[2]):  # all were restarted
            upto = looks
            await poll(lambda: looks >= upto + 5)
        assert told.news == ["new"]
        [(_, headers, body)] = receiver.got
        assert verified(headers, body)
        assert json.loads(body)["type"] == "insight.new"


@pytest.mark.asyncio
async def test_a_process_by_itself_tells_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "FIVE", 0.05)

    async def found(self: AnalyticsAbstraction, range: Any = "1h", **_: Any) -> Sequence[Insight]:
        return [SLOW]

    monkeypatch.setattr(AnalyticsAbstraction, "insights", found)
    told = Told()
    async with started(TrafficCop(metrics=True, metrics_on_insight=told).wrap(Starlette())):
        await poll(lambda: told.news == ["new"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics_on_insight": "print"}, "metrics_on_insight='print': a function"),
        ({"metrics_webhook": "https://hooks.example.com/secret-path"}, "has a secret that signs what it is sent"),
        (
            {"metrics_on_insight": print, "metrics": False},
            "metrics_on_insight: nothing is counted without metrics=True",
        ),
        ({"metrics_on_insight": print, "metrics_history": False}, "leave metrics_history=False out"),
        ({"metrics_quotas": {"tenant": "10/day"}}, "give one of them"),
        ({"metrics_on_insight": print, "metrics_quotas": {"ip": "10/day"}}, "metrics_quotas={'ip': …}: there are"),
        ({"metrics_on_insight": print, "metrics_quotas": {"user": "10/minute"}}, "a period from an hour to a week"),
        ({"metrics_on_insight": print, "metrics_quotas": ["10/day"]}, "by kind, {'tenant': '10000/day'}"),
        ({"metrics_on_insight": print, "metrics_quotas": {"user": 7}}, "metrics_quotas={'user': …}: .* not 7"),
        ({"metrics_on_insight": print, "metrics_quotas": {"user": {7: "1/day"}}}, "written as strings"),
    ],
)
@pytest.mark.asyncio
async def test_what_can_not_be_told_is_refused_when_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        TrafficCop(**{"metrics": True, **settings})
    assert "secret-path" not in str(refused.value)


@pytest.mark.asyncio
async def test_a_webhook_needs_its_driver_and_a_function_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise MissingExtra("pip install 'traffic-cop-middleware[proxy]'")

    monkeypatch.setattr(telling, "open_transport", missing)
    assert gateway.open_transport is not missing
    TrafficCop(metrics=True, metrics_on_insight=print)
    with pytest.raises(MissingExtra, match="proxy"):
        TrafficCop(metrics=True, metrics_webhook=Webhook("https://hooks.example.com/x", secret=SECRET))


@pytest.mark.asyncio
async def test_a_backend_without_records_remembers_in_this_worker(dropped: Minutes) -> None:
    backend = MemoryBackend(clock=FakeClock())

    class Older:
        metrics = backend.metrics

    older: Backend = Older()  # type: ignore[assignment]
    told = Told()
    one = teller(dropped, older, told)
    for _ in range(2):
        await one.look()
    assert told.news == ["new"]


@pytest.mark.asyncio
async def test_the_middleware_alone_takes_both_without_their_prefix() -> None:
    webhook = Webhook("https://hooks.example.com/x", secret=SECRET)
    MetricsMiddleware(Starlette(), on_insight=print, webhook=webhook)
    with pytest.raises(ConfigurationError, match="a function"):
        MetricsMiddleware(Starlette(), on_insight=cast("Any", "print"))


def test_on_trio_the_function_is_called_and_the_webhook_is_logged_as_impossible(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "FIVE", 0.05)

    async def found(self: AnalyticsAbstraction, range: Any = "1h", **_: Any) -> Sequence[Insight]:
        return [SLOW]

    monkeypatch.setattr(AnalyticsAbstraction, "insights", found)
    told = trio.Event()

    async def main() -> None:
        minutes = Minutes()
        webhook = Webhook("https://hooks.example.com/x", secret=SECRET)
        settings = TellingSettings(on_insight=lambda notification: told.set(), webhook=webhook)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Telling(MemoryBackend(clock=minutes.clock), minutes.analytics, settings).run)
            with trio.fail_after(10):
                await told.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert "metrics_webhook needs asyncio" in caplog.text
