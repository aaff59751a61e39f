"""Limits that are suggested: usual users never notice them, scripts do."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.advisor.test_bounds import recorded, truth
from tests.advisor.traffic import JSON_FIELDS, START, Asked, as_json
from traffic_cop_middleware import ConfigurationError
from traffic_cop_middleware.abstractions.advisor.needs import NeedsOfArrivals, needs_of_usage
from traffic_cop_middleware.abstractions.advisor.suggesting import rounded_up, suggest, suggest_from_usage
from traffic_cop_middleware.advisor import simulate_log, suggest_limits
from traffic_cop_middleware.contracts.usage import UsageCount


def people_and_a_script(seed: int = 1) -> list[Asked]:
    """Forty people who search now and then for half an hour, and a script that does nothing else."""
    rng = random.Random(seed)
    found = []
    for person in range(40):
        time = START + rng.uniform(0, 60)
        while time < START + 1800:
            found += [
                Asked(time + extra, f"192.0.2.{person}", "GET", "/search") for extra in range(rng.randrange(1, 4))
            ]
            time += rng.expovariate(1 / 40)
    found += [Asked(START + 0.5 * index, "203.0.113.9", "GET", "/search") for index in range(3600)]
    found += [Asked(START + 60 * index, "192.0.2.1", "GET", f"/items/{index}") for index in range(30)]
    return sorted(found)


def test_people_are_never_refused_and_the_script_is(tmp_path: Path) -> None:
    log = as_json(people_and_a_script(), tmp_path / "log")
    search, items = suggest_limits(log, fields=JSON_FIELDS)
    assert (search.route, items.route) == ("/search", "/items/{id}")
    assert search.above == ("ip:203.0.113.9",)
    assert search.simulation is not None
    assert [each.name for each in search.simulation.who] == ["ip:203.0.113.9"]
    assert search.simulation.refused.low > 2500
    assert search.most > 5 * search.usual
    assert "1 key left out" in search.reason
    again = simulate_log(log, routes={"/search": search.limit}, fields=JSON_FIELDS)
    assert again.refused == search.simulation.refused
    assert items.simulation is not None
    assert items.simulation.refused == (0, 0)
    assert "only 1 key seen" in items.reason
    assert "would have refused" in str(search)


def test_keys_of_suggestions_can_be_hashed(tmp_path: Path) -> None:
    log = as_json(people_and_a_script(), tmp_path / "log")
    told = suggest_limits(log, fields=JSON_FIELDS, hash_keys=True)
    assert "203.0.113.9" not in "".join(map(repr, told))


def test_a_pipe_is_not_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="read twice"):
        suggest_limits(tmp_path / "pipe")


def test_templates_may_be_an_iterator(tmp_path: Path) -> None:
    log = as_json(people_and_a_script(), tmp_path / "log")
    search, items = suggest_limits(log, fields=JSON_FIELDS, templates=iter(["/search", "/items/{number}"]))
    assert (search.route, items.route) == ("/search", "/items/{number}")
    assert search.simulation is not None
    assert search.simulation.refused.low > 0


def test_recorded_use_gives_suggestions_with_bounds() -> None:
    usage = []
    for asked in people_and_a_script():
        minute = asked.time // 60 * 60
        usage.append(UsageCount(asked.peer, minute, 60, 1, asked.path if asked.path == "/search" else "/items/{id}"))
    search, _items = suggest_from_usage(usage, by="user")
    assert search.above == ("203.0.113.9",)
    assert search.simulation is not None
    assert search.simulation.keys_refused == (1, 1)
    assert not search.simulation.replayed


MOMENTS = st.lists(st.floats(0, 900).map(lambda at: round(at, 3)), max_size=60).map(sorted)


@settings(max_examples=200, deadline=None)
@given(MOMENTS, st.sampled_from([10.0, 60.0, 300.0]))
def test_what_a_key_needs_never_refuses_it(moments: list[float], step: float) -> None:
    seen = NeedsOfArrivals()
    for at in moments:
        seen.add(at, "/", "a")
    exact = seen.needs().get("/", {}).get("a", (1, 0))
    bound = needs_of_usage(recorded({"a": moments}, step)).get("", {}).get("a", (1, 0))
    assert exact[1] == bound[1] == len(moments)
    for need in (exact[0], bound[0]):
        assert truth({"a": moments}, f"{need}/minute", None, 1)["a"] == []


def test_numbers_are_those_that_people_choose() -> None:
    numbers = (0.2, 1, 7, 10, 11, 13, 73, 100, 101, 130, 999, 1001)
    assert [rounded_up(each) for each in numbers] == [1, 1, 7, 10, 12, 15, 80, 100, 120, 150, 1000, 1200]


@pytest.mark.parametrize(("setting", "value"), [("keep", 0), ("keep", 1.1), ("headroom", 0.9)])
def test_settings_that_cannot_be_used_are_said(setting: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting}={value}"):
        suggest({}, by="ip", **{setting: value})  # type: ignore[arg-type]
