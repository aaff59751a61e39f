"""The opened parts of one stack: built when it starts, once per event loop where the backend has sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.rate_limiting import OUTAGE_POLICIES, OnOutage, RateLimitAbstraction
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.backends import BackendHandle
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")

START_PATIENCE = 1.0
"""Seconds that a start waits for a backend before it goes on under the outage policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """How the backend is reached, and what an outage of it means. Checked when made."""

    backend: str | Backend = field(default="memory://", repr=False)
    namespace: str = "tc"
    deadline: float = 0.05
    on_outage: OnOutage | Mapping[str, OnOutage] = "local"
    expected_workers: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.backend, str) and not hasattr(self.backend, "buckets"):
            kind = type(self.backend).__name__  # its value may hold a password
            raise ConfigurationError(
                f"backend: a URL such as 'redis://localhost:6379/0' or an opened backend, not a {kind}. Write str(…) "
                "around a URL of another type"
            )
        if not isinstance(self.namespace, str) or not self.namespace or set(self.namespace) & set("{} \r\n"):
            raise ConfigurationError(
                f"namespace={self.namespace!r}: the prefix of every key is a short word such as 'tc', without braces "
                "and spaces"
            )
        if (
            isinstance(self.deadline, bool)
            or not isinstance(self.deadline, (int, float))
            or not 0 < self.deadline <= 60
        ):
            raise ConfigurationError(
                f"deadline={self.deadline!r}: seconds that a call to the backend may take, above 0; 0.05 is usual"
            )
        if (
            isinstance(self.expected_workers, bool)
            or not isinstance(self.expected_workers, int)
            or self.expected_workers < 1
        ):
            raise ConfigurationError(f"expected_workers={self.expected_workers!r}: a whole number from 1")
        for part, policy in self.on_outage.items() if isinstance(self.on_outage, Mapping) else ():
            if part != "limits":
                raise ConfigurationError(f"on_outage={self.on_outage!r}: {part!r} is no part; there is 'limits'")
            del policy
        if self.limits_on_outage not in OUTAGE_POLICIES:
            raise ConfigurationError(
                f"on_outage={self.limits_on_outage!r}: what the limits do while the backend is away is one of "
                f"{', '.join(map(repr, OUTAGE_POLICIES))}"
            )

    @property
    def limits_on_outage(self) -> OnOutage:
        return self.on_outage.get("limits", "local") if isinstance(self.on_outage, Mapping) else self.on_outage


class Opened:
    """What runs while a stack is open, on one event loop (`loop` is `None` where it does not matter which)."""

    __slots__ = ("backend", "handle", "loop", "rate_limits")

    def __init__(self, settings: BackendSettings, backend: Backend, handle: BackendHandle | None, loop: object) -> None:
        self.backend = backend
        self.handle = handle
        self.loop = loop
        if backend.buckets is None:
            raise ConfigurationError(
                f"backend {backend.name} has no token buckets. Use memory:// or redis:// for the limits"
            )
        self.rate_limits = RateLimitAbstraction(
            backend.buckets,
            clock=backend.clock,
            local=MemoryBackend(clock=backend.clock).buckets,
            live_workers=lambda: backend.live_workers or settings.expected_workers,
            on_outage=settings.limits_on_outage,
        )


class Parts:
    """Opens and closes the parts of one stack.

    Making it checks the settings and opens nothing. `opened` is there between `open` and `close`.

    Raises:
        ConfigurationError: the settings can't work.
    """

    def __init__(self, settings: BackendSettings, observers: Observers) -> None:
        self.settings = settings
        self.observers = observers
        self.opened: Opened | None = None
        self._by_loop: dict[object, Opened] = {}
        self._locks: dict[object, anyio.Lock] = {}
        self._lifespans = 0
        if isinstance(settings.backend, str):
            self._per_loop = not settings.backend.startswith("memory:")
            handle = self._handle(loop=None)
            Opened(settings, handle.backend, handle, None)
        else:
            self._per_loop = False

    def _handle(self, loop: object) -> BackendHandle:
        settings = self.settings
        if not isinstance(settings.backend, str):
            raise ConfigurationError("an opened backend has no URL")
        return BackendHandle(
            settings.backend,
            loop=loop,
            namespace=settings.namespace,
            deadline=settings.deadline,
            notify=self.observers.tell,
        )

    def current(self) -> Opened | None:
        """What is open for the running event loop."""
        opened = self.opened
        if opened is not None and opened.loop is not None and opened.loop is not _running_loop():
            return None
        return opened

    async def open(self, *, patience: float = START_PATIENCE) -> Opened:
        """Open for the running event loop, unless that was done.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        loop = _running_loop() if self._per_loop else None
        self._forget_closed_loops()
        async with self._locks.setdefault(loop, anyio.Lock()) if self._per_loop else contextlib.nullcontext():
            opened = self._by_loop.get(loop)
            if opened is None:
                opened = self._by_loop[loop] = await self._open(loop, patience)
                self._warn_of_several_workers(opened.backend)
            self.opened = opened
            return opened

    async def _open(self, loop: object, patience: float) -> Opened:
        settings = self.settings
        if not isinstance(settings.backend, str):
            return Opened(settings, settings.backend, None, None)
        handle = self._handle(loop)
        await handle.connect(patience=patience)
        return Opened(settings, handle.backend, handle, loop)

    async def start(self) -> None:
        """Open for a lifespan; the last `stop` closes.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        await self.open()
        self._lifespans += 1

    async def stop(self) -> None:
        """Close what was opened on the running event loop, unless another lifespan still needs it."""
        self._lifespans = max(0, self._lifespans - 1)
        if self._lifespans:
            return
        opened = self._by_loop.pop(_running_loop() if self._per_loop else None, None)
        if opened is self.opened:
            self.opened = None
        if opened is not None and opened.handle is not None:
            await opened.handle.close()

    def _forget_closed_loops(self) -> None:
        for loop in [
            loop for loop in self._by_loop if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()
        ]:
            del self._by_loop[loop]
            self._locks.pop(loop, None)

    def _warn_of_several_workers(self, backend: Backend) -> None:
        if backend.buckets is None or backend.buckets.shared:
            return
        workers = os.environ.get("WEB_CONCURRENCY", "")
        signs = {
            "this process is a worker of another": multiprocessing.parent_process() is not None,
            f"WEB_CONCURRENCY is {workers}": workers.isdecimal() and int(workers) > 1,
            "gunicorn started this process": os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"),
        }
        sign = next((sign for sign, seen in signs.items() if seen), None)
        if sign is not None:
            log.warning(
                "%s: %s. If this server runs several workers, each counts for itself, and a client gets each limit "
                "once per worker. Share them: TrafficCop('redis://localhost:6379/0')",
                backend.name,
                sign,
            )


def _running_loop() -> object:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
