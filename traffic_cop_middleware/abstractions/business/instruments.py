"""How an app's own metrics are told outside, beside those of `metrics/instruments.py`.

Of what is observed there are two numbers that grow, how many and their sum: the bounds of our histograms are seconds,
and say nothing of baskets or bytes. Percentiles are in `cop.business_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, itemgetter
from typing import TypeVar

from traffic_cop_middleware.abstractions.business.declarations import BusinessMetric
from traffic_cop_middleware.abstractions.metrics.business import COST, MILLION, Labelled, Level, fitted
from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.instruments import ROUTE, Number, Values
from traffic_cop_middleware.errors import ConfigurationError

T = TypeVar("T")


def instruments_of(metrics: Sequence[BusinessMetric], *, costs: bool) -> Sequence[Number]:
    """The instruments of an app's metrics, and of what its routes cost.

    Raises:
        ConfigurationError: two metrics have one name outside.
    """
    found = [each for metric in metrics for each in _instruments(metric)]
    told: dict[str, str] = {}
    for each in found:
        # As Prometheus names them; OpenMetrics knows a counter's family without its ending.
        name = each.name.replace(".", "_") + ("_bytes" if each.unit == "By" else "")
        name = name.removesuffix("_total")
        for taken in (name, f"{name}_created") if each.grows else (name,):  # when a counter began, which we don't tell
            if taken in told:
                raise ConfigurationError(
                    f"business_metrics: {told[taken]!r} and {each.name!r} are both {taken!r} to Prometheus; rename one"
                )
            told[taken] = each.name
    if costs:
        found.append(_sum(COST, "traffic_cop.cost", "", "What the requests to a route cost.", [ROUTE]))
    return found


def _instruments(metric: BusinessMetric) -> Sequence[Number]:
    name, labels = f"traffic_cop.business.{metric.name}", [*metric.attributes]
    what = metric.help or f"{metric.name}, as the app counts it."
    if metric.kind == "count":

        def counts(figures: Figures) -> Iterator[tuple[Values, float]]:
            for values, number in _named(metric.name, labels, figures.business.numbers.items(), add):
                yield values, number if number < 1 << 63 else float(number)

        return [Number(name, metric.unit, what, labels, counts)]
    if metric.kind == "gauge":

        def levels(figures: Figures) -> Iterator[tuple[Values, float]]:
            for values, level in _named(metric.name, labels, figures.business.levels.items(), Level.with_):
                yield values, level.last

        return [Number(name, metric.unit, what, labels, levels, grows=False)]

    def observations(figures: Figures) -> Iterator[tuple[Values, float]]:
        counts = ((name, histogram.count) for name, histogram in figures.business.observed.items())
        return _named(metric.name, labels, counts, add)

    counted = Number(f"{name}.observations", "", f"How often: {what}", labels, observations)
    return [counted, _sum(metric.name, f"{name}.sum", metric.unit, f"The sum of: {what}", labels)]


def _sum(metric: str, name: str, unit: str, what: str, labels: Values) -> Number:
    def sums(figures: Figures) -> Iterator[tuple[Values, float]]:
        for values, number in _named(metric, labels, figures.business.numbers.items(), add):
            yield values, number / MILLION

    return Number(name, unit, what, labels, sums)


def _named(
    metric: str, labels: Values, things: Iterable[tuple[Labelled, T]], together: Callable[[T, T], T]
) -> Iterator[tuple[Values, T]]:
    """What there is of a metric by the values of its labels, each once: workers of another version may have others."""
    found: dict[Labelled, T] = {}
    for name, thing in things:
        if name[0] == metric:
            values = fitted(name[1:], len(labels))
            found[values] = together(found[values], thing) if values in found else thing
    yield from sorted(found.items(), key=itemgetter(0))
