"""What is told of insights, and when."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from traffic_cop_middleware.abstractions.insights.notifying import Notification, Notifier
from traffic_cop_middleware.abstractions.insights.values import Insight

SLOW = Insight(
    kind="slow",
    sentence="GET /x p95 180 -> 640 ms since 14:05 UTC, 71 % of added latency",
    severity="warning",
    start=1000.0,
    labels={"route": "/x", "method": "GET"},
    evidence={"p95": 0.64},
    baseline={"p95": 0.18},
    confidence=0.8,
)
BURST = replace(SLOW, kind="errors")
MINUTE, HOUR = 60.0, 3600.0


def told(found: list[Notification]) -> list[tuple[str, str]]:
    return [(each.news, each.insight.kind) for each in found]


def test_what_is_new_is_told_once_while_it_lasts() -> None:
    notifier = Notifier()
    assert told(notifier.look([SLOW], now=0)) == [("new", "slow")]
    for minute in range(1, 60):
        assert notifier.look([replace(SLOW, evidence={"p95": minute})], now=minute * MINUTE) == []
    assert told(notifier.look([SLOW, BURST], now=HOUR)) == [("repeated", "slow"), ("new", "errors")]


def test_what_gets_worse_is_told_at_once() -> None:
    notifier = Notifier()
    notifier.look([SLOW], now=0)
    worse = replace(SLOW, severity="critical")
    assert told(notifier.look([worse], now=MINUTE)) == [("repeated", "slow")]
    assert notifier.look([SLOW], now=2 * MINUTE) == []
    assert notifier.look([worse], now=3 * MINUTE) == []


def test_what_is_over_is_told_once_with_its_last_figures() -> None:
    notifier = Notifier()
    notifier.look([SLOW], now=0)
    last = replace(SLOW, evidence={"p95": 0.7})
    notifier.look([last], now=5 * MINUTE)
    assert notifier.look([], now=10 * MINUTE) == []
    found = notifier.look([], now=20 * MINUTE)
    assert found == [Notification("over", last, 20 * MINUTE)]
    assert notifier.look([], now=21 * MINUTE) == []
    assert notifier.look([], now=10 * HOUR) == []
    assert told(notifier.look([SLOW], now=11 * HOUR)) == [("new", "slow")]


def test_what_flaps_is_told_again_no_sooner_than_the_cooldown() -> None:
    notifier = Notifier()
    found = []
    for quarter in range(12):  # 20 minutes there, 20 minutes not
        now = quarter * 20 * MINUTE
        found += [(each.news, now / MINUTE) for each in notifier.look([SLOW] if quarter % 2 == 0 else [], now=now)]
    news = [at for kind, at in found if kind != "over"]
    assert news == [0, 80, 160]
    assert all(later - earlier >= 60 for earlier, later in pairwise(news))
    assert len([kind for kind, _ in found if kind == "over"]) == 3


def test_little_things_are_not_told_unless_they_were_worse() -> None:
    notifier = Notifier()
    assert notifier.look([replace(SLOW, severity="info")], now=0) == []
    notifier.look([SLOW], now=MINUTE)
    assert told(notifier.look([replace(SLOW, severity="info")], now=2 * HOUR)) == [("repeated", "slow")]
    assert told(Notifier(least="info").look([replace(SLOW, severity="info")], now=0)) == [("new", "slow")]
    assert Notifier(least="critical").look([SLOW], now=0) == []


def test_movers_and_unused_routes_are_never_over() -> None:
    notifier = Notifier(least="info")
    notifier.look([replace(SLOW, kind="mover")], now=0)
    assert notifier.look([], now=HOUR) == []


def test_no_more_is_remembered_than_was_allowed() -> None:
    notifier = Notifier(most=3)
    many = [replace(SLOW, labels={"route": f"/{number}"}) for number in range(10)]
    assert len(notifier.look(many, now=0)) == 10
    assert len(notifier.look(many[-3:], now=1)) == 0
    assert len(notifier.look(many[:1], now=2)) == 1


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="least='loud'"):
        Notifier(least="loud")
    with pytest.raises(ValueError, match="cooldown=-1"):
        Notifier(cooldown=-1)
