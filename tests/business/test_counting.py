"""What is counted, over workers, minutes and years, under a clock of the test's own."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.history.crew import DAY, MIDNIGHT, SharedMetrics, Worker
from traffic_cop_middleware import BusinessMetric, ConfigurationError, Range
from traffic_cop_middleware.abstractions.business.costs import CostOf
from traffic_cop_middleware.abstractions.business.instruments import instruments_of
from traffic_cop_middleware.abstractions.business_metrics import BusinessMetricsAbstraction
from traffic_cop_middleware.abstractions.history.rows import capped
from traffic_cop_middleware.abstractions.metrics.business import Level
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.prometheus import exposition
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.metrics.summary import BUSINESS, Summary, encode, summary_of, summed_up
from traffic_cop_middleware.abstractions.metrics.sums import encode_sums, strict, summed
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.testing import FakeClock

METRICS = (
    BusinessMetric("orders", "count", attributes={"plan": ["free", "pro"]}),
    BusinessMetric("basket", "observe", attributes=["plan"], unit="EUR"),
    BusinessMetric("queue", "gauge", attributes=["name"]),
)


class Shop(Worker):
    def __init__(self, metrics: Any, history: Any, clock: FakeClock, declared: Sequence[BusinessMetric]) -> None:
        super().__init__(metrics, history, clock)
        self.business = BusinessMetricsAbstraction(declared, self.recorder, analytics=lambda: self.analytics)


def shops(number: int, *others: Sequence[BusinessMetric]) -> tuple[FakeClock, list[Shop]]:
    """So many with `METRICS`, and others."""
    clock = FakeClock(MIDNIGHT)
    metrics, history = SharedMetrics(clock=clock), MemoryHistory()
    return clock, [Shop(metrics, history, clock, declared) for declared in (*[METRICS] * number, *others)]


@pytest.mark.asyncio
async def test_two_workers_count_together_and_are_read_at_once() -> None:
    clock, (one, two) = shops(2)
    one.business.count("orders", 3, plan="pro")
    two.business.count("orders", plan="free")
    two.business.count("orders", plan="nobody knows")
    one.business.observe("basket", 19.99, plan="pro")
    two.business.observe("basket", Decimal("0.01"), plan="pro")
    await two.analytics.flush()
    clock.advance(3)
    found = await one.business.read("orders", "15m", by="plan")
    assert found.total.value == 5
    assert {name: figure.value for name, figure in found.groups.items()} == {"pro": 3, "free": 1, "__overflow__": 1}
    assert (found.end, found.kind) == (MIDNIGHT + 3, "count")
    basket = (await two.business.read("basket", "15m")).total
    assert (basket.value, basket.observations, basket.mean) == (20.0, 2, 10.0)
    assert basket.p99 == pytest.approx(19.99, rel=0.011)


@pytest.mark.asyncio
async def test_figures_stay_when_they_go_into_the_history_and_are_rolled_up() -> None:
    clock, (one, two) = shops(2)
    hours = 30
    for hour in range(hours):
        for shop in (one, two):
            shop.business.count("orders", 2, plan="pro")
            shop.business.observe("basket", 0.1, plan="free")
            shop.business.gauge("queue", hour if shop is one else -hour, name="mails")
            await shop.analytics.flush()
        clock.advance(100)
        await one.analytics.flush()
        await two.analytics.flush()
        await one.analytics.keeper.take(token=None)
        assert (await two.business.read("orders", "7d")).total.value == 4 * (hour + 1)
        clock.advance(3_500)
        await one.analytics.keeper.take(token=None)
    found = await one.business.read("orders", Range(MIDNIGHT), by="plan", step="1d")
    assert found.total.value == 4 * hours
    assert sum(point.total.value or 0 for point in found.points) == 4 * hours
    assert [point.start for point in found.points] == [MIDNIGHT, MIDNIGHT + DAY]
    basket = (await two.business.read("basket", Range(MIDNIGHT))).total
    assert (basket.value, basket.observations) == (6.0, 60)
    queue = (await two.business.read("queue", Range(MIDNIGHT), by="name")).groups["mails"]
    assert (queue.low, queue.high) == (-29, 29)
    assert abs(queue.value or 0) == 29
    assert queue.at == MIDNIGHT + 29 * 3_600


@pytest.mark.asyncio
async def test_the_gauge_that_was_said_last_by_any_worker_stands() -> None:
    clock, (one, two) = shops(2)
    for shop, value in ((one, 5), (two, 9), (one, 2.5), (two, 7)):
        shop.business.gauge("queue", value, name="mails")
        clock.advance(1)
    one.business.gauge("queue", -1, name="jobs")
    for shop in (two, one):
        await shop.analytics.flush()
    found = await one.business.read("queue", "15m", by="name")
    assert found.groups["mails"].value == 7
    assert (found.groups["mails"].low, found.groups["mails"].high, found.groups["mails"].at) == (2.5, 9, MIDNIGHT + 3)
    assert found.total.value == -1
    assert (await one.business.read("queue", Range(MIDNIGHT - 600, MIDNIGHT - 60))).total.value is None


@pytest.mark.asyncio
async def test_of_two_values_within_one_tick_of_the_clock_the_later_one_stands() -> None:
    clock, (shop,) = shops(1)
    for value in (9, 2.5, 7, 3):
        shop.business.gauge("queue", value, name="mails")
        shop.business.gauge("queue", value + 1, name="jobs")
        found = await shop.business.read("queue", "15m", by="name")
        assert (found.groups["mails"].value, found.groups["jobs"].value, found.total.value) == (
            value,
            value + 1,
            value + 1,
        )
    assert found.total.at == pytest.approx(clock(), abs=0.001)


@pytest.mark.asyncio
async def test_workers_of_two_versions_with_other_attributes_are_read_and_told_together() -> None:
    newer = (
        BusinessMetric("orders", "count", attributes=["plan", "country"]),
        BusinessMetric("basket", "observe"),
        BusinessMetric("queue", "gauge"),
    )
    clock, (old, new) = shops(1, newer)
    old.business.count("orders", 3, plan="pro")
    new.business.count("orders", 4, plan="pro", country="de")
    new.business.count("orders", plan="pro")
    for plan in ("free", "pro"):
        old.business.observe("basket", 2, plan=plan)
        old.business.gauge("queue", 5, name=plan)
        clock.advance(1)
    new.business.gauge("queue", 6)
    await old.analytics.flush()
    assert (await old.business.read("orders", "15m", by="plan")).groups["pro"].value == 3
    by_country = (await new.business.read("orders", "15m", by="country")).groups
    assert {name: figure.value for name, figure in by_country.items()} == {"de": 4, "": 4}
    assert (await old.business.read("orders", "15m", by="plan")).groups["pro"].value == 8
    rows = list(csv.DictReader(io.StringIO("".join([piece async for piece in new.business.export("15m")]), newline="")))
    told = [(row["metric"], row["attribute_plan"], row["attribute_country"], float(row["value"])) for row in rows]
    assert told == [
        ("orders", "pro", "", 4),
        ("orders", "pro", "de", 4),
        ("basket", "", "", 4),
        ("queue", "", "", 6),
    ]
    figures = (await new.analytics.totals()).figures
    for declared, expected in (
        (newer, ['orders_total{plan="pro",country=""} 4', 'orders_total{plan="pro",country="de"} 4', "queue 6"]),
        (METRICS, ['orders_total{plan="pro"} 8', 'queue{name="pro"} 5.0', 'queue{name=""} 6']),
    ):
        text = exposition(figures, workers=2, openmetrics=False, business=instruments_of(declared, costs=True))
        for line in expected:
            assert f"\ntraffic_cop_business_{line}" in text
        samples = [line.partition("} ")[0] for line in text.splitlines() if line.startswith("traffic_cop_business")]
        assert len({*samples}) == len(samples)


@pytest.mark.asyncio
async def test_what_is_counted_on_the_minute_is_in_a_step() -> None:
    clock, (shop,) = shops(1)
    clock.advance(60)
    for range in ("15m", Range(MIDNIGHT, MIDNIGHT + 600)):
        assert len((await shop.business.read("orders", range, step="1m")).points) == (15 if range == "15m" else 1)
    shop.business.count("orders", 3)
    for step in (None, "1m", "5m"):
        assert (await shop.business.read("orders", "15m", step=step)).total.value == 3
    point = (await shop.business.read("orders", "15m", step="1m")).points[-1]
    assert (point.start, point.seconds, point.total.value) == (MIDNIGHT + 60, 0, 3)


@pytest.mark.asyncio
async def test_steps_and_persons_that_are_kept_no_more_are_not_told_as_nothing() -> None:
    clock, (shop,) = shops(1)
    shop.business.count("orders", 5)
    shop.serve(user="bob")
    await shop.analytics.flush()
    day = Range(MIDNIGHT, MIDNIGHT + DAY)
    for days, step, longer in ((3, "1m", "5m"), (40, "5m", "1h"), (400, "1h", "1d")):
        clock.advance(120)
        await shop.analytics.flush()
        await shop.analytics.keeper.take(token=None)
        clock.advance(MIDNIGHT + days * DAY - clock())
        await shop.analytics.keeper.take(token=None)
        assert (await shop.business.read("orders", day, step=longer)).total.value == 5
        with pytest.raises(ConfigurationError, match="longer step"):
            await shop.business.read("orders", day, step=step)
        with pytest.raises(ConfigurationError, match="longer step"):
            shop.business.export(day, step=step)
        ends = clock() - {"1m": 47 * 3_600, "5m": 34 * DAY, "1h": 395 * DAY}[step]
        part = await shop.business.read(
            "orders", Range(ends - 2 * 3_600 if step == "1m" else ends - 2 * DAY, ends), step=step
        )
        assert part.start == clock() - {"1m": 48 * 3_600, "5m": 35 * DAY, "1h": 396 * DAY}[step]
    usage = await shop.business.usage(Range(MIDNIGHT - DAY), by="user")
    assert (usage.start, usage.groups) == (MIDNIGHT + 4 * DAY, {})
    assert (await shop.business.usage(Range(MIDNIGHT), by="route")).total.requests == 1


@pytest.mark.asyncio
async def test_a_trend_has_the_stretch_before_and_that_of_last_week() -> None:
    clock, (one, two) = shops(2)
    for days, orders in ((0, 10), (6, 40), (7, 30)):
        clock.advance(MIDNIGHT + days * DAY - clock())
        for shop in (one, two):
            shop.business.count("orders", orders // 2, plan="pro")
            shop.business.gauge("queue", orders, name="mails")
            await shop.analytics.flush()
        clock.advance(120)
        for shop in (one, two):
            await shop.analytics.flush()
        await one.analytics.keeper.take(token=None)
    clock.advance(DAY - 120)
    trend = await one.business.trends("orders", "24h", by="plan")
    assert [each.total.value for each in (trend.now, trend.before, trend.week_before)] == [30, 40, 10]
    assert trend.total.change == pytest.approx(-0.25)
    assert trend.total.week_change == pytest.approx(2.0)
    assert trend.groups["pro"].change == pytest.approx(-0.25)
    queue = await one.business.trends("queue", "24h")
    assert (queue.total.change, queue.total.week_change) == (-0.25, 2.0)
    nothing = (await one.business.trends("basket", "24h")).total
    assert (nothing.change, nothing.week_change, nothing.now.value) == (None, None, 0)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda it: it.count("ordres"), "'orders' (count), 'basket' (observe), 'queue' (gauge)"),
        (lambda it: it.count("basket"), "'basket' (observe)"),
        (lambda it: it.count("orders", plam="pro"), "'plan'"),
        (lambda it: it.count("orders", -1), "-1"),
        (lambda it: it.count("orders", 1.5), "1.5"),
        (lambda it: it.count("orders", True), "True"),
        (lambda it: it.count("orders", 10**15 + 1), "10000"),
        (lambda it: it.observe("basket", -0.01), "-0.01"),
        (lambda it: it.observe("basket", float("nan")), "nan"),
        (lambda it: it.observe("basket", 1e16), "1e+16"),
        (lambda it: it.observe("basket", "3"), "'3'"),
        (lambda it: it.gauge("queue", float("inf")), "inf"),
        (lambda it: it.gauge("queue", Decimal("nan")), "NaN"),
        (lambda it: it.gauge("queue", Decimal("sNaN")), "sNaN"),
        (lambda it: it.gauge("queue", 10**400), "10000"),
        (lambda it: it.observe("basket", 10**400), "10000"),
        (lambda it: it.observe("basket", Decimal("1e400")), "1E+400"),
        (lambda it: it.gauge("queue", True), "True"),
    ],
)
def test_what_is_not_declared_or_no_number_is_an_error_and_not_counted(call: Any, named: str) -> None:
    _, (shop,) = shops(1)
    with pytest.raises(ConfigurationError) as caught:
        call(shop.business)
    assert named in str(caught.value)
    assert not shop.recorder.running.business


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "ask",
    [
        lambda it: it.read("ordres"),
        lambda it: it.read("orders", by="shop"),
        lambda it: it.read("orders", "soon"),
        lambda it: it.read("orders", step="2m"),
        lambda it: it.read("orders", "4w", step="1m"),
        lambda it: it.usage(by="status"),
    ],
)
async def test_a_question_that_can_not_be_answered_is_an_error(ask: Any) -> None:
    _, (shop,) = shops(1)
    with pytest.raises(ConfigurationError):
        await ask(shop.business)


def test_threads_count_together_while_slots_are_put_aside() -> None:
    _, (shop,) = shops(1)
    recorder = shop.recorder
    each, number = 20_000, 4

    def work() -> None:
        for _ in range(each):
            shop.business.count("orders", plan="pro")
            shop.business.observe("basket", 1)

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        recorder.cut()
        recorder.fold()
    recorder.turn(early=True)
    recorder.fold()
    found = recorder.total()[1]
    business = summed([(found, False)], unreadable=strict).business
    assert business.numbers == {("orders", "pro"): each * number, ("basket", ""): each * number * 1_000_000}


counted = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 10**15), st.floats(-1e300, 1e300), st.integers(0, 100)),
    max_size=30,
)


def figures_of(some: Any) -> Figures:
    figures = Figures()
    for label, number, value, time in some:
        figures.business.add(("n", label), number)
        figures.business.histogram(("o", label)).add(abs(value))
        figures.business.add(("o", label), number * 1_000_000)
        figures.business.set(("l", label), Level(float(time), value, value, value))
    return figures


@given(counted, counted)
def test_blobs_of_workers_add_up_to_what_one_would_have_counted(one: Any, two: Any) -> None:
    whole, parts = figures_of([*one, *two]), [figures_of(one), figures_of(two)]
    found = summed_up([encode(summary_of(part)) for part in parts], unreadable=strict)
    expected = summary_of(whole)
    assert found.rows == expected.rows
    assert found.levels == expected.levels
    assert {name: each.bins() for name, each in found.durations.items()} == {
        name: each.bins() for name, each in expected.durations.items()
    }
    sums = summed([(encode_sums(part), False) for part in parts], unreadable=strict).business
    assert sums.levels == whole.business.levels
    assert sums.numbers == whole.business.numbers


def test_a_history_keeps_the_largest_series_and_the_rest_as_one() -> None:
    summary = Summary()
    for number in range(2_500):
        name = (BUSINESS, "orders", f"s{number}")
        summary.rows[name] = number
        summary.levels[BUSINESS, "queue", f"s{number}"] = Level(float(number), 1.0, 0.0, 2.0)
    total = sum(summary.rows.values())
    found = capped(summary)
    assert len(found.rows) == len(found.levels) == 2_001
    assert sum(found.rows.values()) == total
    assert found.rows[BUSINESS, "orders", "__overflow__"] == sum(range(500))
    assert found.levels[BUSINESS, "queue", "__overflow__"].time == 499


def test_a_worker_that_turns_its_slot_alone_counts_into_the_right_one() -> None:
    clock = FakeClock(MIDNIGHT)
    recorder = Recorder(clock=clock)
    business = BusinessMetricsAbstraction(METRICS, recorder, analytics=lambda: None)  # type: ignore[arg-type,return-value]
    recorder.turn()
    business.count("orders")
    clock.advance(60)
    business.count("orders", 5)
    recorder.fold()
    recorder.turn(early=True)
    recorder.fold()
    numbers = [recorder.window(f"1m:{(MIDNIGHT + at) // 60}").rows for at in (0, 60)]
    assert [[*each.values()] for each in numbers] == [[1], [5]]


@pytest.mark.parametrize("cost", [lambda *of: 1 / 0, lambda *of: "3", lambda *of: -1, lambda *of: float("nan")])
def test_a_cost_function_that_fails_is_logged_once_and_costs_nothing(
    cost: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cost_of = CostOf(cost)
    assert [cost_of("/a", "GET", 200, 0.1, 3) for _ in range(3)] == [0, 0, 0]
    (record,) = caplog.records
    assert "GET /a" in record.getMessage()


def test_the_digits_of_the_apps_decimal_context_do_not_matter() -> None:
    _, (shop,) = shops(1)
    with localcontext() as context:
        context.prec = 4
        shop.business.observe("basket", Decimal("12345.67"), plan="pro")
        assert CostOf({"/a": Decimal("12345.67")})("/a", "GET", 200, 0.1, 3) == 12_345_670_000
    assert shop.recorder.running.business.numbers == {("basket", "pro"): 12_345_670_000}


def test_costs_are_exact_in_millionths() -> None:
    assert CostOf(lambda *of: Decimal("0.000001"))("/a", "GET", 200, 0.1, 3) == 1
    assert CostOf(lambda route, method, status, seconds, size: size * 1e-6)("/a", "GET", 200, 0.1, 30) == 30
    table = CostOf({"/a": 0.1, "*": 2})
    assert [table(route, "GET", 200, 0.1, 3) for route in ("/a", "/b")] == [100_000, 2_000_000]
    assert CostOf({"/a": 0.1})("/b", "GET", 200, 0.1, 3) == 0


async def later(*of: Any) -> float:
    return 1.0


class Later:
    async def __call__(self, *of: Any) -> float:
        return 1.0


@pytest.mark.parametrize(
    "costs", [3, "a", later, Later(), {"/a": "b"}, {"/a": -1}, {"/a": 10**400}, {"/a": Decimal("sNaN")}]
)
def test_costs_that_are_none_are_refused(costs: Any) -> None:
    with pytest.raises(ConfigurationError, match="business_metrics_cost"):
        CostOf(costs)
