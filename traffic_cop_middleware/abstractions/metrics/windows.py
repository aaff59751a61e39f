"""The windows of all workers, each added up to one, and kept until somebody writes into it.

Theory of operation. A window has a part per worker, and a stamp that is another one after each write. Adding up the
parts of hundreds of workers takes long, so it is done only where the stamp is not the one that is kept; and what a
window that is over came to is sealed in the store at that stamp, for whoever reads it next. Who writes late gives the
window a new stamp, and breaks the seal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.metrics.pauses import Pauses
from traffic_cop_middleware.abstractions.metrics.recorder import MINUTE, SLOT
from traffic_cop_middleware.abstractions.metrics.summary import Summary, encode, summed_up
from traffic_cop_middleware.contracts import MetricsStore, MetricsWindow
from traffic_cop_middleware.loops import OneThread, Turns

log = logging.getLogger("traffic_cop")

LATE = SLOT
"""Seconds after its end from which on few write into a window: then it is sealed."""


class Summed(NamedTuple):
    """What a window came to at that stamp."""

    stamp: int
    summary: Summary


class Windows:
    """Reads the windows of a store. What is long it does in that `thread`."""

    def __init__(self, store: MetricsStore, *, thread: OneThread) -> None:
        self._store = store
        self._thread = thread
        self._reading = Turns()
        self._kept: dict[str, Summed] = {}
        """Those of the last look."""

    async def read(self, names: Sequence[str], *, now: float) -> Mapping[str, Summary]:
        """Windows over all workers. One round trip, and some for each that was written into since the last look.

        Raises:
            StoreError: the store is away, or answers with an error.
        """
        async with self._reading:
            for name, stamp in zip(names, await answered(self._store.stamps(names)), strict=True):
                known = self._kept.setdefault(name, Summed(0, Summary()))
                if known.stamp != stamp:
                    window = await answered(self._store.window(name))
                    self._kept[name] = await self._summed(name, window, over=_is_over(name, now))
            self._kept = {name: self._kept[name] for name in names}
            return {name: summed.summary for name, summed in self._kept.items()}

    async def seal(self, names: Sequence[str], *, now: float) -> None:
        """Seal those of the windows that are over and that nobody has sealed. Some round trips each.

        Raises:
            StoreError: the store is away, or answers with an error.
        """
        for name in names:
            if _is_over(name, now):
                window = await answered(self._store.window(name))
                if len(window.parts) > 1:
                    await self._summed(name, window, over=True)

    async def _summed(self, name: str, window: MetricsWindow, *, over: bool) -> Summed:
        summary = await self._thread.run(_merged, window.parts)
        if over and len(window.parts) > 1:
            blob = await self._thread.run(_encoded, summary)
            await answered(self._store.seal(name, blob, window.stamp))
        return Summed(window.stamp, summary)


def windows_at(slot: int) -> tuple[Sequence[str], Sequence[str]]:
    """The windows that make 15 minutes: the slots of this minute and the one before, and 14 minutes before these."""
    minute = slot * SLOT // MINUTE
    slots = [f"10s:{each}" for each in range((minute - 1) * MINUTE // SLOT, slot + 1)]
    return slots, [f"1m:{each}" for each in range(minute - 15, minute - 1)]


def to_seal(slot: int) -> Sequence[str]:
    """The windows that others may not have sealed yet: the slots of the last minute, and two minutes."""
    slots, minutes = windows_at(slot)
    return [*slots[-8:], *minutes[-2:], *tails_of(minutes[-2:])]


def tails_of(minutes: Sequence[str]) -> Sequence[str]:
    """The tails of minutes (`recorder.py`)."""
    return [name.replace("1m:", "tail:") for name in minutes]


def left_out(exc: ValueError) -> None:
    """Tell of a blob that can't be read."""
    log.warning("a worker's metrics are left out: %s", exc)


def _merged(parts: Mapping[str, bytes]) -> Summary:
    return summed_up(filter(None, parts.values()), unreadable=left_out, pause=Pauses())


def _encoded(summary: Summary) -> bytes:
    return encode(summary, pause=Pauses())


def _is_over(name: str, now: float) -> bool:
    kind, _, number = name.partition(":")
    return now - (int(number) + 1) * (SLOT if kind == "10s" else MINUTE) >= LATE
