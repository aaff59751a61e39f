"""Leases in a dict."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from traffic_cop_middleware.contracts import MICRO, Lease
from traffic_cop_middleware.contracts.leases import check_lease

MOST_ENDED = 1_000
"""How many leases there are before those that have ended are looked for, and forgotten."""


class Held(NamedTuple):
    """`ends` is seconds on the store's clock."""

    holder: str
    token: int
    ends: float


class MemoryLeases:
    """`LeaseStore` in one process, over all of its threads.

    `clock` gives seconds that never go back, `wall_clock` the seconds since the epoch. The last token is one of all
    names, so tokens grow although names are forgotten.
    """

    shared = False

    def __init__(self, *, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._last = 0
        self._most = MOST_ENDED

    def acquire(self, name: str, holder: str, *, ttl: float) -> Lease | None:
        check_lease(name, holder, ttl)
        with self._lock:
            now = self._clock()
            held = self._held.get(name)
            if held is None or held.ends <= now:
                self._last = max(self._last + 1, int(self._wall_clock() * MICRO))
                held = Held(holder, self._last, now)
            elif held.holder != holder:
                return None
            self._held[name] = held._replace(ends=now + ttl)
            if len(self._held) > self._most:
                self._forget(now)
            return Lease(name, holder, held.token, ttl)

    def release(self, lease: Lease) -> bool:
        with self._lock:
            held = self._held.get(lease.name)
            if held is None or (held.holder, held.token) != (lease.holder, lease.token):
                return False
            del self._held[lease.name]
            return held.ends > self._clock()

    def _forget(self, now: float) -> None:
        """Forget what has ended. It is looked for again when there are twice as many, so looking costs little."""
        self._held = {name: held for name, held in self._held.items() if held.ends > now}
        self._most = max(MOST_ENDED, 2 * len(self._held))
