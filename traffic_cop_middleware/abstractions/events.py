"""The one observer: what every part tells goes to all who listen, at once and in order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import time
from typing import Any

from traffic_cop_middleware.contracts import Event, Observer

log = logging.getLogger("traffic_cop")
FAILED = "an observer failed on %s; the request goes on"
_new = tuple.__new__


class Observers:
    """Those who listen. One that raises is logged, and the request goes on without it."""

    __slots__ = ("_changing", "_observers")

    def __init__(self) -> None:
        self._changing = threading.RLock()  # event loops in several threads may begin and end to listen at once
        self._observers: tuple[Observer, ...] = ()

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of every event from now on; calling what this returns ends that."""
        with self._changing:
            self._observers = (*self._observers, observer)

        def unsubscribe() -> None:
            with self._changing:
                self._observers = tuple(other for other in self._observers if other is not observer)

        return unsubscribe

    def emit(self, kind: str, attributes: Mapping[str, Any]) -> None:
        """Tell of something that happens now."""
        observers = self._observers
        if observers:
            # Event(…) and a call of `tell` would cost more than all else here, and this runs on every request.
            event = _new(Event, (kind, time(), attributes))
            for observer in observers:
                try:
                    observer(event)
                except Exception:
                    log.exception(FAILED, kind)

    def tell(self, event: Event) -> None:
        """Tell of an event that another part made."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception(FAILED, event.kind)
