"""The opened parts of one stack: built when it starts, once per event loop where the backend has sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import anyio

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.adapters.memory.history import MemoryHistory
from traffic_cop_middleware.composition.backend_settings import BackendSettings
from traffic_cop_middleware.composition.backends import BackendHandle
from traffic_cop_middleware.composition.metrics_export import Exporting
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.composition.opened import Opened
from traffic_cop_middleware.composition.session_settings import SessionSettings
from traffic_cop_middleware.composition.state_stores import StateStores
from traffic_cop_middleware.composition.workers import sign_of_several
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.errors import ConfigurationError, StoreError
from traffic_cop_middleware.loops import Turns

log = logging.getLogger("traffic_cop")

CLEAN_UP_PERIOD = 60.0
"""Seconds between two looks for sessions that ran out."""
FIRST_OPEN_PATIENCE = 0.05
"""Seconds that a first request waits for the backend where no lifespan opened it; the deadline bounds what follows."""
START_PATIENCE = 1.0
"""Seconds that a start waits for a backend before it goes on under the outage policy."""


class Parts:
    """Opens and closes the parts of one stack.

    Making it checks the settings and opens nothing. `opened` is there between `open` and `close`.

    Raises:
        ConfigurationError: the settings can't work.
    """

    def __init__(
        self,
        settings: BackendSettings,
        observers: Observers,
        sessions: SessionSettings | None = None,
        *,
        watched: Mapping[str, LiveTable[Any]] | None = None,
        metrics: MetricsSettings | None = None,
    ) -> None:
        self._metrics = metrics
        self._exporting: Exporting | None = None
        self.recorder: Recorder | None = None
        """What this worker counts; only where it does."""
        if metrics is not None:
            clock = getattr(settings.backend, "wall_clock", time.time)
            self.recorder = Recorder(clock=clock, most_series=metrics.series, keeps_whole=metrics.otlp is not None)
            if metrics.otlp is not None:
                self._exporting = Exporting(metrics.otlp, self.recorder, business=metrics.instruments)
            observers.subscribe(self.recorder.hear)
        self._watched = watched or {}
        self._keys = sessions.keys() if sessions is not None else None
        self.settings = settings
        self.observers = observers
        self.opened: Opened | None = None
        self._by_loop: dict[object, Opened] = {}
        self._locks: dict[object, Turns] = {}
        self._lifespans: dict[object, int] = {}
        """By event loop: one cop may serve apps on several of them, each in a thread of its own."""
        self.also_start: list[Callable[[], None]] = []
        """What else has to be seen to at a start."""
        self.also_begin: list[Callable[[], Awaitable[None]]] = []
        """What else begins with a lifespan, once all is open."""
        self.also_close: list[Callable[[], Awaitable[None]]] = []
        """What else ends with the last lifespan of an event loop."""
        self._inside: Parts | None = None
        if isinstance(settings.backend, str):
            self._per_loop = not settings.backend.startswith("memory:")
            handle = self._handle(loop=None)
            self._opened(handle.backend, handle, None).listen_no_more()  # only to see whether it works
        else:
            self._per_loop = False
        if settings.state.on:
            self._stores(loop=None)  # only to see whether the URLs can be used

    @property
    def affinity_keys(self) -> Sequence[bytes]:
        """What affinity cookies are made by; none where there are no sessions."""
        return () if self._keys is None else self._keys.affinity

    @property
    def watches(self) -> bool:
        """Whether there are records to go by, or counters to be read by others."""
        return bool(self._watched) or self._metrics is not None

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

    def share(self, inside: Parts) -> None:
        """Where both are on a plain `memory://`, it is one: single middlewares of one app share what they keep."""
        if self.settings.backend == inside.settings.backend and str(self.settings.backend).startswith("memory://"):
            self._inside = inside

    def current(self) -> Opened | None:
        """What is open for the running event loop."""
        opened = self.opened
        if self._per_loop and (opened is None or opened.loop is not _running_loop()):
            return self._by_loop.get(_running_loop())  # `opened` is where something was opened last
        return opened

    async def open(self, *, patience: float = START_PATIENCE, lifespan: bool = False) -> Opened:
        """Open for the running event loop, unless that was done. A `lifespan` keeps it open until its `stop`.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        loop = _running_loop() if self._per_loop else None
        if self.recorder is not None:
            self.recorder.forked()  # before it counts: what comes before the first flush is this process's own
        self._forget_closed_loops()
        async with self._locks.setdefault(loop, Turns()):
            opened = self._by_loop.get(loop)
            if opened is None:
                opened = self._by_loop[loop] = await self._open(loop, patience)
                await opened.begin()
                self._warn_of_several_workers(opened.backend)
            self.opened = opened
            if lifespan:
                self._lifespans[_running_loop()] = self._lifespans.get(_running_loop(), 0) + 1
            if self._exporting is not None:
                self._exporting.begin()
            return opened

    async def _open(self, loop: object, patience: float) -> Opened:
        settings = self.settings
        if self._inside is not None:
            return self._opened(
                (await self._inside.open()).backend, None, None, await self._open_stores(None, patience)
            )
        if not isinstance(settings.backend, str):
            return self._opened(settings.backend, None, None, await self._open_stores(None, patience))
        handle = self._handle(loop)
        await handle.connect(patience=patience)
        try:
            stores = await self._open_stores(loop, patience)
        except BaseException:  # a start that fails leaves no connection
            await handle.close()
            raise
        return self._opened(handle.backend, handle, loop, stores)

    async def _open_stores(self, loop: object, patience: float) -> StateStores | None:
        if not self.settings.state.on:
            return None
        stores = self._stores(loop)
        await stores.connect(patience=patience)
        return stores

    def _stores(self, loop: object) -> StateStores:
        settings = self.settings
        return StateStores(
            settings.state,
            loop=loop,
            namespace=settings.namespace,
            notify=self.observers.tell,
            history=self._metrics is not None and self._metrics.history,
        )

    def _opened(
        self,
        backend: Backend,
        handle: BackendHandle | None,
        loop: object,
        stores: StateStores | None = None,
    ) -> Opened:
        return Opened(
            self.settings,
            backend,
            handle,
            loop,
            keys=self._keys,
            observers=self.observers,
            watched=self._watched,
            stores=stores,
            analytics=partial(self._analytics, stores) if self._metrics is not None else None,
            telling=self._metrics.telling if self._metrics is not None else None,
        )

    def _analytics(self, stores: StateStores | None, backend: Backend) -> AnalyticsAbstraction:
        if self._metrics is None or self.recorder is None or backend.metrics is None:
            raise ConfigurationError(
                f"backend {backend.name} keeps no metrics. Use memory:// or redis://, or leave out metrics=True"
            )
        history = None
        if self._metrics.history:
            history = (stores.history if stores is not None else None) or MemoryHistory()
        return AnalyticsAbstraction(backend.metrics, self.recorder, interval=self._metrics.interval, history=history)

    async def start(self) -> None:
        """Open for a lifespan; the last `stop` of its event loop closes.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        for start in self.also_start:
            start()
        await self.open(lifespan=True)
        try:
            for begin in self.also_begin:
                await begin()
        except BaseException:  # a start that fails leaves nothing open
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    @property
    def work(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to run beside the app, if anything."""
        works = self._keys is not None or self._metrics is not None or self.settings.state.works
        return self._work if works else None

    async def _work(self) -> None:
        opened = self.current()
        async with anyio.create_task_group() as tasks:
            if self._keys is not None:
                tasks.start_soon(self._clean_up)
            if opened is not None and not opened.works_by_itself:
                tasks.start_soon(opened.work)

    async def _clean_up(self) -> None:
        """Tell of the sessions that ran out, now and then; the workers take turns by chance."""
        while True:
            await anyio.sleep(CLEAN_UP_PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret
            opened = self.current()
            if opened is not None:
                with contextlib.suppress(StoreError):  # the backend has told of its loss; the next time will do
                    await opened.session_management.clean_up()

    async def stop(self) -> None:
        """Close what was opened on the running event loop, unless another lifespan still needs it."""
        loop = _running_loop()
        if self._lifespans.get(loop, 0) > 1:
            self._lifespans[loop] -= 1
            return
        with anyio.CancelScope(shield=True):  # a lifespan that is cancelled ends as well
            for close in self.also_close:
                await close()
            if self.opened is not None and not self._per_loop:
                await self.opened.rest()
            opened = await self._stop(loop)
            if opened is not None:
                await opened.close()
            if self._exporting is not None and not self._lifespans:
                await self._exporting.end()

    async def _stop(self, loop: object) -> Opened | None:
        """Count a lifespan of this loop no longer, and give what nobody else needs."""
        opened_for = loop if self._per_loop else None
        async with self._locks.setdefault(opened_for, Turns()):  # another loop's thread may be about to start
            left = self._lifespans.pop(loop, 0) - 1
            if left > 0:
                self._lifespans[loop] = left
            self._forget_closed_loops()
            if left > 0 or (self._lifespans and not self._per_loop):
                return None  # what all loops share ends with the last of them
            opened = self._by_loop.pop(opened_for, None)
            if opened is self.opened:
                self.opened = None
            return opened

    def _forget_closed_loops(self) -> None:
        for loop in [*self._by_loop, *self._lifespans, *self._locks]:
            if isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed():
                self._by_loop.pop(loop, None)
                self._lifespans.pop(loop, None)
                self._locks.pop(loop, None)

    def _warn_of_several_workers(self, backend: Backend) -> None:
        if backend.buckets is None or backend.buckets.shared:
            return
        sign = sign_of_several()
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
