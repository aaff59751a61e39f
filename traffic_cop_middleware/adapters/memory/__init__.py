"""The embedded backend: everything in this process, nothing to install or start, on asyncio and on trio."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from traffic_cop_middleware.adapters.memory.buckets import MemoryBuckets
from traffic_cop_middleware.adapters.memory.bus import MemoryBus
from traffic_cop_middleware.adapters.memory.instances import MemoryInstances
from traffic_cop_middleware.adapters.memory.leases import MemoryLeases
from traffic_cop_middleware.adapters.memory.metrics import MemoryMetrics
from traffic_cop_middleware.adapters.memory.records import MemoryRecords
from traffic_cop_middleware.adapters.memory.session_routes import MemorySessionRoutes
from traffic_cop_middleware.adapters.memory.sessions import MemorySessions
from traffic_cop_middleware.adapters.memory.state import MemoryState
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.errors import ConfigurationError

__all__ = ["MemoryBackend", "MemoryBuckets", "MemorySessions", "open"]

DEFAULT_MAX_KEYS = 100_000


class MemoryBackend:
    """Stores in this process, forgotten with it.

    `clock` gives seconds that never go back; a test passes a fake one. `max_keys` bounds the buckets kept.
    """

    live_workers: int | None = 1

    def __init__(
        self,
        *,
        name: str = "memory://",
        clock: Callable[[], float] = time.monotonic,
        max_keys: int = DEFAULT_MAX_KEYS,
    ) -> None:
        self.name = name
        self.clock = clock
        self.wall_clock: Callable[[], float] = time.time if clock is time.monotonic else clock
        """Seconds since the epoch, for what others see of a time; of a fake clock its own."""
        self.keyspace: dict[str, Any] = {}
        """What the stores of this backend keep by key, where one of them checks what another wrote (`Guard`)."""
        self.buckets = MemoryBuckets(clock=clock, max_keys=max_keys, keyspace=self.keyspace)
        self.sessions = MemorySessions(clock=clock, keyspace=self.keyspace)
        self.session_routes = MemorySessionRoutes(clock=clock)
        self.records = MemoryRecords(clock=self.wall_clock)
        self.bus = MemoryBus()
        self.leases = MemoryLeases(clock=clock, wall_clock=self.wall_clock)
        self.instances = MemoryInstances(clock=clock, wall_clock=self.wall_clock)
        self.metrics = MemoryMetrics(clock=self.wall_clock)
        self.state = MemoryState(clock=self.wall_clock)

    async def connect(self, *, patience: float = 1.0) -> None:
        """Nothing to reach."""

    async def close(self) -> None:
        """Nothing to let go of: the buckets live as long as this object."""


def open(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> MemoryBackend:
    """`memory://`, or `memory://name` for one that is shared in this process; `?max_keys=100000` bounds its buckets."""
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    max_keys = DEFAULT_MAX_KEYS
    for option, values in options.items():
        if option != "max_keys" or not values[-1].isdecimal() or int(values[-1]) < 1:
            raise ConfigurationError(
                f"{url!r}: {option}={values[-1]!r} is no option of a memory backend; there is max_keys, a whole number "
                f"from 1, as in 'memory://?max_keys={DEFAULT_MAX_KEYS}'"
            )
        max_keys = int(values[-1])
    if parts.path not in ("", "/"):
        raise ConfigurationError(f"{url!r}: a memory backend is 'memory://' or 'memory://name'")
    return MemoryBackend(name=f"memory://{parts.netloc}", max_keys=max_keys)
