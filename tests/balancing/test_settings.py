"""Settings: what is refused, and their record."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.balancing.pools import Bench, member
from traffic_cop_middleware.abstractions.balancing.instances import Member
from traffic_cop_middleware.abstractions.balancing.policies import POLICIES
from traffic_cop_middleware.abstractions.balancing.settings import BalancingSettings, balancing_from
from traffic_cop_middleware.abstractions.balancing.two_choices import P2c
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.errors import ConfigurationError

NAN = float("nan")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"policy": "fastest"}, "policy='fastest': one of peak-ewma, p2c"),
    ({"policy": P2c}, "an object with `changed` and `pick`"),
    ({"policy": None}, "policy=None"),
    ({"affinity": True}, "affinity=True: 'session', 'cookie', or None for none"),
    ({"hash_by": "cookie"}, "hash_by='cookie': 'session', 'client', 'header:' with a header's name"),
    ({"hash_by": "header:"}, "hash_by='header:'"),
    ({"hash_by": "attribute:"}, "hash_by='attribute:'"),
    ({"hash_by": 5}, "hash_by=5"),
    ({"tau": 0}, "tau=0: seconds, from 0.001"),
    ({"tau": True}, "tau=True"),
    ({"ejection": NAN}, "ejection=nan"),
    ({"ejection": 400}, "longest_ejection=300.0: shorter than ejection=400"),
    ({"error_share": 0.0}, "error_share=0.0: a share of the requests; None for no such ejection, above 0"),
    ({"error_share": 1.5}, "error_share=1.5"),
    ({"latency_factor": 1.0}, "latency_factor=1.0"),
    ({"most_ejected": -0.1}, "most_ejected=-0.1: a share of the instances, from 0 to 1"),
    ({"consecutive_failures": 0}, "consecutive_failures=0: a whole number from 1"),
    ({"consecutive_failures": 2.0}, "consecutive_failures=2.0"),
    ({"most_in_flight": 0}, "most_in_flight=0: a whole number from 1 to 1000000; None for no limit"),
    ({"retry_share": 2}, "retry_share=2: retries per request, from 0 to 1"),
    ({"retry_statuses": (500,)}, r"retry_statuses=\(500,\): some of \[502, 503, 504\]"),
    ({"retry_statuses": "503"}, "retry_statuses='503'"),
    ({"retry_statuses": 503}, "retry_statuses=503"),
    ({"retry_statuses": [[503]]}, "retry_statuses="),
    ({"try_deadline": 5, "total_deadline": 3}, "try_deadline=5: one attempt may not take longer than total_deadline=3"),
    ({"slow_start": "10s"}, "slow_start='10s': seconds"),
]


@pytest.mark.parametrize(("given", "said"), WRONG, ids=lambda each: repr(each)[:40])
def test_what_cannot_be_used_is_refused_by_name_and_value(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        BalancingSettings(**given)


def test_the_defaults_are_an_empty_record() -> None:
    assert BalancingSettings().record() == {}
    assert balancing_from({}) == BalancingSettings()


positive = st.floats(0.001, 299)
some: dict[str, st.SearchStrategy[Any]] = {
    "policy": st.sampled_from(list(POLICIES)),
    "affinity": st.sampled_from([None, "session", "cookie"]),
    "hash_by": st.sampled_from(["session", "client", "header:x-cart", "attribute:shard"]),
    "tau": positive,
    "failure_price": st.floats(0, 1_000),
    "bound": st.floats(1, 10),
    "consecutive_failures": st.integers(1, 50),
    "error_share": st.none() | st.floats(0.01, 1),
    "latency_factor": st.none() | st.floats(1.01, 100),
    "request_volume": st.integers(1, 1_000),
    "ejection": positive,
    "longest_ejection": st.floats(300, 3_000),
    "most_ejected": st.floats(0, 1),
    "slow_start": st.floats(0, 60),
    "most_in_flight": st.none() | st.integers(1, 1_000),
    "most_pending": st.integers(0, 1_000),
    "pending_deadline": positive,
    "retry_share": st.floats(0, 1),
    "retry_floor": st.floats(0, 100),
    "retry_statuses": st.sets(st.sampled_from([502, 503, 504])),
    "try_deadline": st.none() | st.floats(0.001, 10),
    "total_deadline": st.none() | st.floats(10, 100),
}


def test_every_setting_is_tried() -> None:
    assert set(some) == {each.name for each in fields(BalancingSettings)}


@given(st.fixed_dictionaries({}, optional=some))
def test_a_record_says_all_of_it(given: dict[str, Any]) -> None:
    settings = BalancingSettings(**given)
    assert balancing_from(loads(dumps(settings.record()))) == settings


@pytest.mark.parametrize("record", [None, [], {"policies": "p2c"}, {"policy": 5}, {"tau": -1}])
def test_a_record_that_is_none_is_refused(record: object) -> None:
    with pytest.raises(ConfigurationError):
        balancing_from(record)


def test_a_policy_of_ones_own_has_no_record() -> None:
    bench = Bench()
    settings = BalancingSettings(policy=bench.pool._policy)
    with pytest.raises(ConfigurationError, match="can't be put into settings that other workers share"):
        settings.record()


@pytest.mark.parametrize(
    "given",
    [{"name": 5}, {"name": "x" * 600}, {"name": "a\nb"}, {"metadata": ["zone"]}, {"metadata": {"zone": 1}}],
)
def test_a_member_that_cannot_be_used_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Member(Upstream("http://a"), **given)


def test_a_member_is_called_by_its_url() -> None:
    assert Member(Upstream("http://billing:8080")).name == "http://billing:8080"
    assert member("a").name == "a"
