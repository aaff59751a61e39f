"""What is counted stays bounded, and adds up."""

from __future__ import annotations

import pytest

from traffic_cop_middleware.abstractions.advisor import tally as tallies
from traffic_cop_middleware.abstractions.advisor.ordering import InOrder
from traffic_cop_middleware.abstractions.advisor.tally import Tally
from traffic_cop_middleware.contracts.access_log import LoggedRequest
from traffic_cop_middleware.contracts.usage import REST


def test_keys_beyond_the_cap_are_one() -> None:
    tally = Tally(most_keys=3)
    for number in range(10):
        tally.add(float(number), f"key-{number}", "/", True)
    found = tally.simulation("1/minute", "ip")
    assert (found.requests, found.keys, found.keys_refused) == (10, 3, (3, 3))
    assert {each.name: each.refused.low for each in found.who}[REST] == 7
    assert "more than 3 keys: 7 requests" in found.notes[0]


def test_many_spans_become_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "MOST_SPANS", 10)
    tally = Tally()
    for minute in range(200):
        tally.add(minute * 60.0, "a", "/", minute % 2 == 0)
    found = tally.simulation("1/minute", "ip")
    assert {span.step for span in found.when} == {3600}
    assert sum(span.refused.low for span in found.when) == found.refused.low == 100
    assert sum(span.requests for span in found.when) == 200


def test_lines_beyond_the_window_have_the_time_before() -> None:
    times = [float(number) for number in range(20_000)]
    times.insert(15_000, 3.0)
    ordered = InOrder([LoggedRequest(at, "", "", "GET", "/") for at in times], window=5)
    found = [request.time for request in ordered]
    assert found == sorted(found)
    assert (len(found), ordered.late) == (20_001, 1)
