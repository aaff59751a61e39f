"""What runs while a stack is open, on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.asking import aside
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.files.house import FileHouse
from traffic_cop_middleware.abstractions.files.management import FileManagementAbstraction
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import Heard, MessagingAbstraction
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.settings import PromotionSettings
from traffic_cop_middleware.abstractions.promotion.uses import StateUses
from traffic_cop_middleware.abstractions.rate_limiting import RateLimitAbstraction
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.sessions import TOPIC, SessionAbstraction
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.synchronisation import StatePushes
from traffic_cop_middleware.abstractions.state.writing import tiers_kept
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.backend_settings import BackendSettings
from traffic_cop_middleware.composition.backends import BackendHandle
from traffic_cop_middleware.composition.history_keeping import HistoryKeeping
from traffic_cop_middleware.composition.session_settings import SessionKeys
from traffic_cop_middleware.composition.state_stores import StateStores
from traffic_cop_middleware.composition.telling import Telling, TellingSettings
from traffic_cop_middleware.contracts import Backend, Changes, Lease, Message, StateStore
from traffic_cop_middleware.errors import ConfigurationError, StoreError
from traffic_cop_middleware.loops import OneLoop

log = logging.getLogger("traffic_cop")

CONVERGE_PERIOD = 1.0
"""Seconds between two looks for records that nobody told of."""
LIMITS = "limits"
RESETS = "limits.reset"
"""The topic on which a worker tells which buckets it has filled up."""
CHORES, CHORES_LEASE = "state-chores", 30.0
"""The lease of whoever pushes state again and cleans up, and its seconds."""
LAST_FLUSH = 5.0
"""Seconds that a shutdown gives to what still waits for the documents."""


class Opened:
    """What runs while a stack is open, on one event loop (`loop` is `None` where it does not matter which)."""

    __slots__ = (
        *(
            "_converging",
            "_flushing",
            "_history",
            "_has_analytics",
            "_has_sessions",
            "_hears_no_more",
            "_keeping",
            "_messaging",
            "_pushes",
            "_settings",
            "_state_is_shared",
            "_telling",
            "_tells",
            "_unsubscribe",
            "_uses",
            "_working",
            "_works",
            "analytics",
            "backend",
            "files",
            "handle",
        ),
        *("loop", "promotion", "rate_limits", "session_management", "sessions", "state", "stores"),
    )

    def __init__(
        self,
        settings: BackendSettings,
        backend: Backend,
        handle: BackendHandle | None,
        loop: object,
        *,
        keys: SessionKeys | None,
        observers: Observers,
        watched: Mapping[str, LiveTable[Any]],
        stores: StateStores | None = None,
        analytics: Callable[[Backend], AnalyticsAbstraction] | None = None,
        telling: TellingSettings | None = None,
    ) -> None:
        self._settings = settings
        self.backend = backend
        self.handle = handle
        self.loop = loop
        self.sessions: SessionAbstraction  # both only where there are keys
        self.session_management: SessionManagementAbstraction
        self._has_sessions = keys is not None
        if keys is not None:
            self._open_sessions(keys, observers)
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
        self._unsubscribe = (
            backend.bus.subscribe(RESETS, self._filled_up) if LIMITS in watched and backend.bus else None
        )
        self._converging: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._history: HistoryKeeping | None = None
        self.analytics: AnalyticsAbstraction  # only where requests are counted
        self._has_analytics = analytics is not None
        if analytics is not None:
            self.analytics = analytics(backend)
            if self.analytics.keeper is not None:
                self._history = HistoryKeeping(backend, self.analytics.keeper)
        self._tells: asyncio.Task[None] | None = None
        self._telling: Telling | None = None
        if telling is not None and telling.on:
            self._telling = Telling(backend, self.analytics, telling)
        self.stores = stores
        self._working: asyncio.Task[None] | None = None
        self.state: StateManagementAbstraction | None = None
        self._state_is_shared = False
        self._pushes: StatePushes | None = None
        self._works = OneLoop()
        store = getattr(backend, "state", None)  # one of a third party may be older than that
        self.files: FileManagementAbstraction | None = None
        self.promotion: StatePromotionAbstraction | None = None
        self._uses: StateUses | None = None
        self._hears_no_more: Callable[[], None] = lambda: None
        if store is not None and stores is not None:
            self._open_state(store, stores, observers)
        self._messaging: MessagingAbstraction | None = None
        if watched and backend.records is not None:
            self._messaging = MessagingAbstraction(backend.records, backend.bus)
            for kind, table in watched.items():
                heard = partial(self._heard_of_limits, table.heard) if kind == LIMITS else table.heard
                self._messaging.watch(kind, heard, ready=table.ready)

    def records(self, part: str) -> MessagingAbstraction:
        """The records that all workers share.

        Raises:
            ConfigurationError: the backend keeps none.
        """
        if self._messaging is None:
            raise ConfigurationError(
                f"cop.{part}: the backend {self.backend.name} keeps no records, so nothing is changed while the app "
                "runs. Use memory:// or redis://"
            )
        return self._messaging

    async def begin(self) -> None:
        """Read the records, and go on doing so where other workers change them; write what is counted."""
        self._warn_of_promotion()
        if self._has_analytics and self.backend.metrics is not None and self.backend.metrics.shared:
            self._flushing = asyncio.get_running_loop().create_task(self.analytics.keep_flushing())
            if self._history is not None:
                self._keeping = asyncio.get_running_loop().create_task(self._history.run())
            if self._telling is not None:
                self._tells = asyncio.get_running_loop().create_task(self._telling.run())
        if self.works_by_itself:
            self._working = asyncio.get_running_loop().create_task(self.work())
        messaging, store = self._messaging, self.backend.records
        if messaging is None or store is None:
            return
        if store.shared:  # first: who opens may be cancelled while it reads
            self._converging = asyncio.get_running_loop().create_task(_keep_converging(messaging))
            await _converge(messaging)
        else:  # without a turn of the event loop: nobody is to see that a first request opened something
            messaging.read_at_once()

    def _warn_of_promotion(self) -> None:
        """Tell of verdicts that can't be kept, where somebody counts on them."""
        settings = self._settings.state
        asked_for = settings.hooks or settings.files.objects is not None or settings.promotion != PromotionSettings()
        warning = self.promotion.check() if self.promotion is not None and asked_for else None
        if warning is not None:
            log.warning("%s", warning)

    def _heard_of_limits(self, heard: Heard, changes: Changes) -> None:
        heard(changes)
        self.rate_limits.limits_changed()

    def _filled_up(self, message: Message) -> None:
        """Another worker has filled buckets up."""
        if message.payload is not None:
            self.rate_limits.forgotten(loads(message.payload))

    def _open_sessions(self, keys: SessionKeys, observers: Observers) -> None:
        backend = self.backend
        if backend.sessions is None:
            raise ConfigurationError(
                f"backend {backend.name} keeps no sessions. Use memory:// or redis://, or leave out session_secret"
            )
        bus = backend.bus

        async def publish(told: Mapping[str, Any]) -> None:
            if bus is not None:
                await aside(partial(bus.publish, TOPIC, dumps(told)))

        self.sessions = SessionAbstraction(
            backend.sessions,
            keys.codec,
            policy=keys.policy,
            emit=observers.emit,
            publish=publish,
            clock=getattr(backend, "wall_clock", time.time),
            foreign=keys.foreign,
            routes=backend.session_routes,
        )
        self.session_management = SessionManagementAbstraction(self.sessions, routes=backend.session_routes, bus=bus)

    def _open_state(self, store: StateStore, stores: StateStores, observers: Observers) -> None:
        settings, documents = self._settings.state, stores.documents
        now = getattr(self.backend, "wall_clock", time.time)
        files = None
        if stores.objects is not None and stores.metadata is not None:
            files = FileHouse(stores.objects, stores.metadata, now=now, emit=observers.emit)
        if settings.promotion is not None:
            self.promotion = StatePromotionAbstraction(
                settings.promotion,
                hooks=settings.hooks,
                tiers=tiers_kept(store, documents),
                files=files is not None and documents.durable,
                now=now,
                emit=observers.emit,
            )
            self._uses = StateUses(stores.metadata, now=now)
        house = StateHouse(
            store,
            documents,
            emit=observers.emit,
            now=now,
            clock=self.backend.clock,
            near_items=settings.near_items,
            judge=self.promotion if documents.durable else None,
            files=files,
            uses=self._uses if documents.durable else None,
        )
        if house.rejudging is not None:
            self._hears_no_more = observers.subscribe(house.rejudging.heard)
        self._state_is_shared = store.shared
        self._pushes = StatePushes(house, settings.services, emit=observers.emit)
        self.state = StateManagementAbstraction(house, self._pushes)
        if files is not None:
            self.files = FileManagementAbstraction(files, self.state, grace=settings.files.grace)
        if self._has_sessions:
            self.sessions.state = self.state

    @property
    def works_by_itself(self) -> bool:
        """Whether `work` runs from the beginning on; else a lifespan runs it, on whatever event loop that has."""
        return self.state is not None and self._state_is_shared

    async def work(self) -> None:
        """Take state to its documents, push again what services did not take, keep a history; until cancelled.

        Of several event loops, and lifespans, one does so; when that ends the next one takes over.
        """
        await self._works.run(self._work)

    async def rest(self) -> None:
        """Have no more of `work` done on this event loop: it is about to end, and others go on."""
        await self._works.rest()

    async def _work(self) -> None:
        async with anyio.create_task_group() as tasks:
            if self._history is not None and self._keeping is None:
                tasks.start_soon(self._history.run)
            if self._telling is not None and self._tells is None:
                tasks.start_soon(self._telling.run)
            if self.state is not None:
                tasks.start_soon(self._work_for, self.state)

    async def _work_for(self, state: StateManagementAbstraction) -> None:
        async with anyio.create_task_group() as tasks:
            if state.house.flusher is not None:
                tasks.start_soon(state.house.flusher.run)
            if state.house.rejudging is not None:
                tasks.start_soon(state.house.rejudging.run)
            if self._uses is not None:
                tasks.start_soon(self._uses.keep_telling)
            leases = getattr(self.backend, "leases", None)
            if leases is not None and self._settings.state.works:
                tasks.start_soon(Leader(leases, CHORES, self._chores, ttl=CHORES_LEASE).run)

    async def _chores(self, lease: Lease) -> None:
        """What one worker does for all. Cleaning up twice does no harm; what became of a push is noted by the token."""
        if self.state is not None and self._pushes is not None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.state.house.keep_clean)
                if self._settings.state.services:
                    tasks.start_soon(partial(self._pushes.keep_trying, token=lease.token))
                if self.files is not None:
                    tasks.start_soon(self.files.keep_clean)
                if self._uses is not None:
                    tasks.start_soon(self._uses.keep_forgetting)

    def listen_no_more(self) -> None:
        """Hear no longer what other workers tell."""
        if self._has_sessions:
            self.session_management.close()
        self._hears_no_more()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._messaging is not None:
            self._messaging.close()

    async def close(self) -> None:
        """Listen no longer to other workers, and let go of the backend."""
        self.listen_no_more()
        tasks = (self._converging, self._flushing, self._working, self._keeping, self._tells)
        background = [task for task in tasks if task is not None]
        self._converging = self._flushing = self._working = self._keeping = self._tells = None
        for task in background:
            task.cancel()
        if background:
            await asyncio.wait(background)
        await self._works.end(within=LAST_FLUSH)
        if self._has_analytics:
            await self.analytics.end()
        if self._history is not None:
            await self._history.end()
        if self.state is not None:
            await self.state.house.end(within=LAST_FLUSH)
        if self._uses is not None:
            await self._uses.end()
        if self.stores is not None:
            await self.stores.close()
        if self.handle is not None:
            await self.handle.close()


async def _converge(messaging: MessagingAbstraction) -> None:
    with contextlib.suppress(StoreError):  # the backend has told of its loss; what is known goes on
        await messaging.converge()


async def _keep_converging(messaging: MessagingAbstraction) -> None:
    """Find what nobody told of: a publisher may die before it does."""
    while True:
        await asyncio.sleep(CONVERGE_PERIOD)
        try:
            await _converge(messaging)
        except Exception:
            log.exception("records could not be taken over; this worker looks again in %g s", CONVERGE_PERIOD)
