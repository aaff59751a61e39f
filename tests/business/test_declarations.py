"""What may be declared, and which series values then belong to."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from traffic_cop_middleware import BusinessMetric, ConfigurationError, TrafficCop
from traffic_cop_middleware.abstractions.business.declarations import SeriesOf, declared

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"name": "Orders"}, "a-z"),
    ({"name": "orders.eu"}, "a-z"),
    ({"name": ""}, "a-z"),
    ({"name": "x" * 51}, "50"),
    ({"kind": "counter"}, "'count', 'gauge' and 'observe'"),
    ({"attributes": "plan"}, "a list of names"),
    ({"attributes": ["plan", "plan"]}, "different"),
    ({"attributes": ["http.route"]}, "http.route"),
    ({"attributes": [["plan"]]}, "['plan']"),
    ({"attributes": [f"a{number}" for number in range(11)]}, "10"),
    ({"attributes": {"plan": []}}, "plan"),
    ({"attributes": {"plan": "free"}}, "plan"),
    ({"attributes": {"plan": 0}}, "plan"),
    ({"attributes": {"plan": True}}, "plan"),
    ({"attributes": {"plan": [1]}}, "plan"),
    ({"unit": "a\nb"}, "unit"),
    ({"help": 3}, "help"),
    ({"series": 0}, "series"),
    ({"series": 2_001}, "series"),
]


@pytest.mark.parametrize(("wrong", "named"), BROKEN)
def test_a_declaration_that_can_not_be_used_is_refused(wrong: dict[str, Any], named: str) -> None:
    settings = {"name": "orders", "kind": "count", **wrong}
    with pytest.raises(ConfigurationError, match=r"BusinessMetric\(") as caught:
        BusinessMetric(**settings)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "metrics",
    [
        "orders",
        3,
        None,
        BusinessMetric("orders", "count"),
        ["orders"],
        [BusinessMetric("orders", "count"), BusinessMetric("orders", "gauge")],
        [BusinessMetric(f"m{number}", "count") for number in range(201)],
    ],
)
def test_a_list_that_can_not_be_used_is_refused(metrics: Any) -> None:
    with pytest.raises(ConfigurationError, match="business_metrics"):
        declared(metrics)
    with pytest.raises(ConfigurationError, match="business_metrics"):
        TrafficCop(metrics=True, business_metrics=metrics)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (BusinessMetric("basket", "observe"), BusinessMetric("basket_sum", "count")),
        (BusinessMetric("basket", "observe", unit="By"), BusinessMetric("basket_sum_bytes_total", "gauge")),
        (BusinessMetric("orders", "count"), BusinessMetric("orders_total", "gauge")),
        (BusinessMetric("orders", "count"), BusinessMetric("orders_created", "count")),
        (BusinessMetric("basket_sum_created", "gauge"), BusinessMetric("basket", "observe")),
    ],
)
def test_two_metrics_that_prometheus_can_not_tell_apart_are_refused(one: Any, other: Any) -> None:
    with pytest.raises(ConfigurationError, match="Prometheus"):
        TrafficCop(metrics=True, business_metrics=[one, other])


def test_without_metrics_nothing_is_counted() -> None:
    with pytest.raises(ConfigurationError, match="metrics=True"):
        TrafficCop(business_metrics=[BusinessMetric("orders", "count")])
    with pytest.raises(ConfigurationError, match="metrics=True"):
        TrafficCop(business_metrics_cost={"*": 1})
    with pytest.raises(ConfigurationError, match="metrics=True"):
        _ = TrafficCop().business_metrics


def test_values_that_were_not_declared_are_one_series() -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes={"plan": ["free", "pro"], "shop": 2}))
    assert series.of({"plan": "free", "shop": "a"}) == ("orders", "free", "a")
    assert series.of({"shop": 7}) == ("orders", "", "7")
    assert series.of({"plan": "gold", "shop": "a"}) == ("orders", "__overflow__", "a")
    assert series.of({"plan": "pro", "shop": "c"}) == ("orders", "pro", "__overflow__")
    assert series.of({"plan": None}) == series.of({}) == ("orders", "", "")
    assert series.of({"shop": "7"}) == series.of({"shop": 7})


def test_series_beyond_the_most_are_one() -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes=["shop", "x"], series=3))
    found = {series.of({"shop": str(number), "x": True}) for number in [*range(10), *range(3)]}
    assert found == {*(("orders", str(number), "True") for number in range(3)), ("orders", *["__overflow__"] * 2)}


def test_a_long_value_is_cut_and_one_is_not_taken_for_true() -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes=["shop"]))
    assert series.of({"shop": "x" * 1_000}) == ("orders", "x" * 200)
    assert [series.of({"shop": each}) for each in (1, True, "1")] == [("orders", each) for each in ("1", "True", "1")]


@pytest.mark.parametrize("attributes", [{"plam": "pro"}, {"plan": "pro", "plam": None}, {"plan": 1.5}, {"plan": []}])
def test_a_mistyped_attribute_is_an_error(attributes: Any) -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes=["plan"]))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="plan"):
            series.of(attributes)


class Plan(str, enum.Enum):  # noqa: UP042 - as many apps have it: its `str` is its name
    FREE = "free"
    PRO = "pro"


class Size(int, enum.Enum):
    BIG = 3


@pytest.mark.parametrize("values", [["free", "pro"], Plan, 2])
def test_a_member_of_an_enum_counts_as_what_it_stands_for(values: Any) -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes={"plan": values, "size": ["3"]}))
    for plan, size in ((Plan.PRO, Size.BIG), ("pro", 3), (Plan.PRO, "3"), ("pro", "3")):
        assert series.of({"plan": plan, "size": size}) == ("orders", "pro", "3")
    assert {type(each) for each in series.of({"plan": Plan.FREE, "size": "3"})} == {str}


def test_values_that_are_told_outside_as_one_text_are_one_series() -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes=["shop"]))
    assert series.of({"shop": "\ud800"}) == series.of({"shop": "\\ud800"}) == ("orders", "\\ud800")


def test_of_long_values_no_more_than_their_beginning_is_kept() -> None:
    series = SeriesOf(BusinessMetric("orders", "count", attributes=["shop"]))
    for number in range(100):
        assert series.of({"shop": "x" * 1_000 + str(number)}) == ("orders", "x" * 200)
    assert sum(len(value) for given in series._quick for value in given if isinstance(value, str)) <= 200
