"""What one worker exports to a telemetry system: what, of which stretch of time, and what when that fails.

Theory of operation. The event loop only says what is under way and ends the running slot when it is over (`look`); all
else runs in a thread (`send`). So what is exported goes up to the last whole slot, at most 10 seconds back, and no
request's figures are copied on the event loop. At the end the running slot is ended early, and all is in.

Sums are since the worker began. One that did not arrive, or whose answer was lost, is made good by the next one. Where
the exporter wants differences they are since the last export that was acknowledged, so nothing is lost either; one that
arrived without its answer is sent again, which is why sums are the better choice.

What the app's framework reports by itself (`Series.elsewhere`) is taken off, so the sum of both is every request once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.figures import Figures, Name
from traffic_cop_middleware.abstractions.metrics.histogram import BOUNDS
from traffic_cop_middleware.abstractions.metrics.instruments import (
    ACTIVE,
    DURATION,
    INSTRUMENTS,
    STATUS,
    Number,
    Timing,
    Values,
    text,
)
from traffic_cop_middleware.abstractions.metrics.recorder import SLOT, Recorder
from traffic_cop_middleware.contracts import Example, Kind, Point, Reading, TelemetryExporter
from traffic_cop_middleware.errors import ExportFailed

log = logging.getLogger("traffic_cop")


class Moment(NamedTuple):
    """What only the event loop can tell: the time, up to when all is counted, what is `under_way`."""

    began: float
    until: float
    now: float
    under_way: Mapping[Name, int]


class MetricsExport:
    """Exports what a recorder counts. Without `requests` the two families that frameworks report too are left out.

    `business` are the instruments of the app's own metrics.
    """

    def __init__(
        self,
        exporter: TelemetryExporter,
        recorder: Recorder,
        *,
        requests: bool = True,
        business: Sequence[Timing | Number] = (),
    ) -> None:
        self._exporter = exporter
        self._recorder = recorder
        self._left_out = () if requests else (DURATION, ACTIVE)
        self._instruments = (*INSTRUMENTS, *business)
        self._sending = threading.Lock()
        self._failing = False
        self._began = self._until = self._latest = -1.0
        self._sent = Figures()
        self._levels: dict[Name, int] = {}
        """All that was ever under way, at 0: what is no longer so has to be told, or its last number stands."""

    def look(self, *, final: bool = False) -> Moment:
        """Begin an export, on the event loop. With `final` all that was counted is in it."""
        recorder = self._recorder
        recorder.forked()
        recorder.turn(early=final)
        now = recorder.clock()
        # Never back, neither with the clock nor after the end of a slot that was ended early.
        self._latest = max(self._latest, recorder.began, now if final else min(float(recorder.slot * SLOT), now))
        return Moment(recorder.began, self._latest, max(now, self._latest), recorder.under_way().gauges)

    def send(self, moment: Moment, *, timeout: float) -> None:
        """Export, in a thread. A failure is logged, once for all that follow on one another."""
        with self._sending:
            if moment.began != self._began:  # a forked process begins anew
                self._began = self._until = moment.began
                self._sent, self._levels = Figures(), {}
            whole = self._whole(moment)
            readings = list(self._readings(whole, moment))
            if not readings:
                return
            try:
                self._exporter.export(readings, timeout=timeout)
            except ExportFailed as exc:
                if not self._failing:
                    log.warning("metrics were not exported, and will be with the next ones: %s", exc)
                self._failing = True
                return
            if self._failing:
                log.info("metrics are exported again, with all that was counted meanwhile")
            self._failing = False
            self._until = moment.until
            if self._exporter.deltas:
                self._sent = whole

    def _whole(self, moment: Moment) -> Figures:
        figures = self._recorder.whole()
        for series in figures.requests.values():
            if series.elsewhere is not None:
                series.duration.merge(series.elsewhere, sign=-1)
                series.slow = {}  # whose they are is not known
        levels = {name: number for name, number in moment.under_way.items() if name[0] != families.IN_FLIGHT_ELSEWHERE}
        for name, number in moment.under_way.items():
            if name[0] == families.IN_FLIGHT_ELSEWHERE:
                levels[families.IN_FLIGHT, *name[1:]] -= number
        self._levels.update(dict.fromkeys(levels, 0))
        figures.gauges = {**self._levels, **levels}
        return figures

    def _readings(self, whole: Figures, moment: Moment) -> Iterator[Reading]:
        deltas = self._exporter.deltas
        changed = Figures()
        if deltas:
            changed.merge(whole)
            changed.merge(self._sent, sign=-1)
        for instrument in self._instruments:
            if instrument.name in self._left_out:
                continue
            kind: Kind = "histogram" if isinstance(instrument, Timing) else "counter" if instrument.grows else "level"
            delta = kind in deltas and kind != "level"
            start, time = self._until if delta else moment.began, moment.now if kind == "level" else moment.until
            points = list(self._points(instrument, changed if delta else whole, sparse=delta))
            if points:
                yield Reading(
                    instrument.name, instrument.unit, instrument.help, kind, delta, start, time, points, BOUNDS
                )

    def _points(self, instrument: Timing | Number, figures: Figures, *, sparse: bool) -> Iterator[Point]:
        if isinstance(instrument, Number):
            for values, count in instrument.rows(figures):
                if count or not sparse:
                    yield Point(_attributes(instrument.labels, values), count)
            return
        for values, histogram, slow in instrument.rows(figures):
            if histogram.count:
                examples = [Example(*each) for each in slow.values() if each.time > self._until]
                yield Point(_attributes(instrument.labels, values), histogram, examples)


def _attributes(labels: Values, values: Values) -> Mapping[str, str | int]:
    found: dict[str, str | int] = {label: text(value) for label, value in zip(labels, values, strict=True)}
    if STATUS in found:
        status = found[STATUS] = int(found[STATUS])
        if status >= 500:
            found["error.type"] = str(status)
    return found
