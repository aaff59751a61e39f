"""Exports the metrics at every interval: from a thread, so that neither a request nor the event loop waits for it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread

from traffic_cop_middleware.abstractions.metrics.export import MetricsExport, Moment
from traffic_cop_middleware.abstractions.metrics.instruments import Number
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.composition.otlp import OtlpExport
from traffic_cop_middleware.composition.workers import sign_of_several

log = logging.getLogger("traffic_cop")

Soon = Callable[[Callable[[], None]], object]
"""Runs something on an event loop soon; called from any thread."""


class Exporting:
    """The thread that exports, from the first start of a stack to the last stop; also at the end of a process that
    was never stopped.
    """

    def __init__(self, settings: OtlpExport, recorder: Recorder, *, business: Sequence[Number] = ()) -> None:
        from traffic_cop_middleware.adapters.opentelemetry import OpenTelemetryExporter

        self._exporter = OpenTelemetryExporter(settings.exporter)
        self._export = MetricsExport(
            self._exporter, recorder, requests=settings.requests is not False, business=business
        )
        self._interval = settings.interval
        self._timeout = settings.timeout
        self._loops: list[Soon] = []
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._last: Moment | None = None
        # By a weak reference, as the thread: a cop that nobody has any more is not kept for its metrics.
        self._at_exit = partial(_end_at_exit, weakref.ref(self))

    def begin(self) -> None:
        """Export from now on; called on an event loop, and again on each further one."""
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            log.info("OTEL_SDK_DISABLED is true: metrics_otlp exports nothing")
            return
        token = anyio.lowlevel.current_token().native_token
        soon: Soon = getattr(token, "call_soon_threadsafe", None) or getattr(token, "run_sync_soon")  # noqa: B009
        if soon not in self._loops:
            self._loops.append(soon)
        if self._thread is None or not self._thread.is_alive():
            self._ending = threading.Event()
            self._thread = threading.Thread(
                target=_export_until,
                args=(self._ending, self._interval, weakref.ref(self)),
                name="traffic-cop-metrics",
                daemon=True,
            )
            self._thread.start()
            atexit.register(self._at_exit)

    async def end(self) -> None:
        """Export all there is for the last time, within the timeout."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self._at_exit)
        self._loops.clear()
        self._let_end()
        await anyio.to_thread.run_sync(thread.join, self._timeout, limiter=anyio.CapacityLimiter(1))
        if thread.is_alive():
            log.warning(
                "the last metrics were not exported within %g s: the exporter hangs, and is left alone", self._timeout
            )

    def _let_end(self) -> None:
        self._last = self._export.look(final=True)
        self._ending.set()

    def _exit(self) -> None:
        """The process ends and nobody has stopped the stack: no event loop runs any more."""
        if self._thread is not None and self._thread.is_alive():
            self._let_end()
            self._thread.join(self._timeout)

    def _begin_in_thread(self) -> None:
        self._exporter.begin(several=sign_of_several() is not None)

    def _once(self, *, final: bool) -> None:
        moment = self._last if final else self._looked()
        if moment is not None:
            self._export.send(moment, timeout=self._timeout)

    def _looked(self) -> Moment | None:
        """What an event loop says; `None` where none is there, or has the time."""
        for soon in tuple(self._loops):
            asked: Future[Moment] = Future()
            try:
                soon(partial(_answer, asked, self._export.look))
            except RuntimeError:  # that loop is closed
                self._loops.remove(soon)
            else:
                try:
                    return asked.result(self._timeout)
                except TimeoutError:
                    log.debug("no metrics were exported: the event loop had no time for it")
        return None


def _answer(asked: Future[Moment], look: Callable[[], Moment]) -> None:
    try:
        asked.set_result(look())
    except Exception as exc:  # noqa: BLE001 - raised again in the thread that asked
        asked.set_exception(exc)


def _export_until(ending: threading.Event, interval: float, ref: weakref.ref[Exporting]) -> None:
    """What the thread does."""
    there, ended = _do(ref, Exporting._begin_in_thread), False
    while there and not ended:
        ended = ending.wait(interval)
        there = _do(ref, partial(Exporting._once, final=ended))


def _do(ref: weakref.ref[Exporting], work: Callable[[Exporting], None]) -> bool:
    """Whether it is still there to do it."""
    exporting = ref()
    if exporting is None:
        return False
    try:
        work(exporting)
    except Exception:
        log.exception("metrics were not exported; they will be the next time")
    return True


def _end_at_exit(ref: weakref.ref[Exporting]) -> None:
    exporting = ref()
    if exporting is not None:
        exporting._exit()
