"""Figures as Prometheus reads them: its text format 0.0.4, or OpenMetrics 1.0 with exemplars.

Names and labels are those of `instruments.py`, written as OpenTelemetry's Prometheus exporters write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from traffic_cop_middleware.abstractions.metrics.figures import Figures
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS, Histogram
from traffic_cop_middleware.abstractions.metrics.instruments import INSTRUMENTS, Number, Timing, text
from traffic_cop_middleware.abstractions.metrics.series import Exemplar

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
BOUND_LABELS = (*(repr(bound) for bound in BOUNDS), "+Inf")


def exposition(figures: Figures, *, workers: int, openmetrics: bool, business: Sequence[Timing | Number] = ()) -> str:
    """The text of a scrape. `business` are the instruments of the app's own metrics."""
    writer = _Writer(openmetrics=openmetrics)
    return "\n".join([*writer.lines([*INSTRUMENTS, *business], figures, workers), ""])


class _Writer:
    def __init__(self, *, openmetrics: bool) -> None:
        self._open = openmetrics

    def lines(self, instruments: Iterable[Timing | Number], figures: Figures, workers: int) -> Iterator[str]:
        for instrument in instruments:
            name = instrument.name.replace(".", "_")
            labels = [label.replace(".", "_") for label in instrument.labels]
            if isinstance(instrument, Timing):
                yield from self._head(f"{name}_seconds", "histogram", instrument.help, "seconds")
                for values, histogram, slow in instrument.rows(figures):
                    yield from self._histogram(name, _labels(labels, values), histogram, slow)
            else:
                yield from self._numbers(name, labels, instrument, figures)
        yield from self._head("traffic_cop_workers", "gauge", "Workers that write what they count.")
        yield f"traffic_cop_workers {workers}"
        if self._open:
            yield "# EOF"

    def _numbers(self, name: str, labels: Sequence[str], number: Number, figures: Figures) -> Iterator[str]:
        unit = "bytes" if number.unit == "By" else ""
        name = f"{name}_{unit}" if unit else name
        yield from self._head(name, "counter" if number.grows else "gauge", number.help, unit)
        sample = f"{name}_total" if number.grows else name
        for values, count in number.rows(figures):
            yield f"{sample}{{{_labels(labels, values)}}} {count}" if values else f"{sample} {count}"

    def _head(self, name: str, kind: str, what: str, unit: str = "") -> Iterator[str]:
        if kind == "counter" and not self._open:
            name = f"{name}_total"  # the older format calls a counter by its sample
        what = text(what).replace("\\", "\\\\")
        if self._open:
            what = what.replace('"', '\\"')
        yield f"# HELP {name} {what}"
        yield f"# TYPE {name} {kind}"
        if unit and self._open:
            yield f"# UNIT {name} {unit}"

    def _histogram(self, name: str, labels: str, histogram: Histogram, slow: Mapping[int, Exemplar]) -> Iterator[str]:
        upto = 0
        for at, (bound, count) in enumerate(zip(BOUND_LABELS, histogram.bounded, strict=True)):
            upto += count
            line = f'{name}_seconds_bucket{{{labels},le="{bound}"}} {upto}'
            if self._open and count and at in slow:
                seconds, trace, time = slow[at]
                line = f'{line} # {{trace_id="{trace}"}} {seconds!r} {time:.3f}'
            yield line
        yield f"{name}_seconds_count{{{labels}}} {upto}"
        yield f"{name}_seconds_sum{{{labels}}} {histogram.total!r}"


def _labels(names: Sequence[str], values: Iterable[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return text(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
