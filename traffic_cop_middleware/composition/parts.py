"""The opened parts of one stack: built when it starts, once per event loop where the backend has sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from traffic_cop_middleware.abstractions.analytics import AnalyticsAbstraction
from traffic_cop_middleware.abstractions.asking import aside
from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.abstractions.json_texts import dumps, loads
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.abstractions.live_table import LiveTable
from traffic_cop_middleware.abstractions.messaging import Heard, MessagingAbstraction
from traffic_cop_middleware.abstractions.metrics.recorder import Recorder
from traffic_cop_middleware.abstractions.rate_limiting import OUTAGE_POLICIES, OnOutage, RateLimitAbstraction
from traffic_cop_middleware.abstractions.session_management import SessionManagementAbstraction
from traffic_cop_middleware.abstractions.sessions import TOPIC, SessionAbstraction
from traffic_cop_middleware.abstractions.state.house import StateHouse
from traffic_cop_middleware.abstractions.state.management import StateManagementAbstraction
from traffic_cop_middleware.abstractions.state.synchronisation import StatePushes
from traffic_cop_middleware.adapters.memory import MemoryBackend
from traffic_cop_middleware.composition.backends import BackendHandle
from traffic_cop_middleware.composition.documents import DocumentsHandle, GivenDocuments
from traffic_cop_middleware.composition.metrics_export import Exporting
from traffic_cop_middleware.composition.metrics_settings import MetricsSettings
from traffic_cop_middleware.composition.session_settings import SessionKeys, SessionSettings
from traffic_cop_middleware.composition.state_settings import StateSettings
from traffic_cop_middleware.composition.workers import sign_of_several
from traffic_cop_middleware.contracts import Backend, Changes, DocumentStore, Lease, Message, StateStore
from traffic_cop_middleware.errors import ConfigurationError, StoreError

log = logging.getLogger("traffic_cop")

CLEAN_UP_PERIOD = 60.0
"""Seconds between two looks for sessions that ran out."""
CONVERGE_PERIOD = 1.0
"""Seconds between two looks for records that nobody told of."""
LIMITS = "limits"
RESETS = "limits.reset"
"""The topic on which a worker tells which buckets it has filled up."""
FIRST_OPEN_PATIENCE = 0.05
"""Seconds that a first request waits for the backend where no lifespan opened it; the deadline bounds what follows."""
CHORES, CHORES_LEASE = "state-chores", 30.0
"""The lease of whoever pushes state again and cleans up, and its seconds."""
LAST_FLUSH = 5.0
"""Seconds that a shutdown gives to what still waits for the documents."""
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
    state: StateSettings = field(default_factory=StateSettings)

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
            if part not in ("limits", "sessions"):
                raise ConfigurationError(
                    f"on_outage={self.on_outage!r}: {part!r} is no part; there are 'limits' and 'sessions'"
                )
            if part == "sessions" and policy != "refuse":
                raise ConfigurationError(
                    f"on_outage={self.on_outage!r}: while the backend is away nobody can say who is logged in, so a "
                    "request with a session is refused (503); for 'sessions' there is 'refuse' only"
                )
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

    __slots__ = (
        *(
            "_converging",
            "_flushing",
            "_has_analytics",
            "_has_sessions",
            "_messaging",
            "_pushes",
            "_scope",
            "_settings",
            "_state_is_shared",
            "_unsubscribe",
            "_working",
            "analytics",
            "backend",
            "documents",
            "handle",
        ),
        *("loop", "rate_limits", "session_management", "sessions", "state"),
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
        documents: DocumentsHandle | GivenDocuments | None = None,
        analytics: Callable[[Backend], AnalyticsAbstraction] | None = None,
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
        self.analytics: AnalyticsAbstraction  # only where requests are counted
        self._has_analytics = analytics is not None
        if analytics is not None:
            self.analytics = analytics(backend)
        self.documents = documents
        self._working: asyncio.Task[None] | None = None
        self.state: StateManagementAbstraction | None = None
        self._state_is_shared = False
        self._pushes: StatePushes | None = None
        self._scope: tuple[anyio.CancelScope, anyio.Event] | None = None
        store = getattr(backend, "state", None)  # one of a third party may be older than that
        if store is not None and documents is not None:
            self._open_state(store, documents.documents, observers)
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
        if self._has_analytics and self.backend.metrics is not None and self.backend.metrics.shared:
            self._flushing = asyncio.get_running_loop().create_task(self.analytics.keep_flushing())
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
        )
        self.session_management = SessionManagementAbstraction(self.sessions, routes=backend.session_routes, bus=bus)

    def _open_state(self, store: StateStore, documents: DocumentStore, observers: Observers) -> None:
        house = StateHouse(
            store,
            documents,
            emit=observers.emit,
            now=getattr(self.backend, "wall_clock", time.time),
            clock=self.backend.clock,
            near_items=self._settings.state.near_items,
        )
        self._state_is_shared = store.shared
        self._pushes = StatePushes(house, self._settings.state.services, emit=observers.emit)
        self.state = StateManagementAbstraction(house, self._pushes)
        if self._has_sessions:
            self.sessions.state = self.state

    @property
    def works_by_itself(self) -> bool:
        """Whether `work` runs from the beginning on; else a lifespan runs it, on whatever event loop that has."""
        return self.state is not None and self._state_is_shared

    async def work(self) -> None:
        """Take state to its documents, and push again what services did not take; until cancelled."""
        if self.state is None:
            return
        scope, ended = self._scope = anyio.CancelScope(), anyio.Event()
        try:
            with scope:
                await self._work(self.state)
        finally:
            ended.set()

    async def _work(self, state: StateManagementAbstraction) -> None:
        async with anyio.create_task_group() as tasks:
            if state.house.flusher is not None:
                tasks.start_soon(state.house.flusher.run)
            leases = getattr(self.backend, "leases", None)
            if leases is not None and self._settings.state.works:
                tasks.start_soon(Leader(leases, CHORES, self._chores, ttl=CHORES_LEASE).run)

    async def _chores(self, lease: Lease) -> None:
        """What one worker does for all: nothing of it is wrong if two do it, so no token is asked for."""
        if self.state is not None and self._pushes is not None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.state.house.keep_clean)
                if self._settings.state.services:
                    tasks.start_soon(self._pushes.keep_trying)

    def listen_no_more(self) -> None:
        """Hear no longer what other workers tell."""
        if self._has_sessions:
            self.session_management.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._messaging is not None:
            self._messaging.close()

    async def close(self) -> None:
        """Listen no longer to other workers, and let go of the backend."""
        self.listen_no_more()
        background = [task for task in (self._converging, self._flushing, self._working) if task is not None]
        self._converging = self._flushing = self._working = None
        for task in background:
            task.cancel()
        if background:
            await asyncio.wait(background)
        if self._scope is not None:
            scope, ended = self._scope
            scope.cancel()
            await ended.wait()
        if self._has_analytics:
            await self.analytics.end()
        if self.state is not None:
            await self.state.house.end(within=LAST_FLUSH)
        if self.documents is not None:
            await self.documents.close()
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
                self._exporting = Exporting(metrics.otlp, self.recorder)
            observers.subscribe(self.recorder.hear)
        self._watched = watched or {}
        self._keys = sessions.keys() if sessions is not None else None
        self.settings = settings
        self.observers = observers
        self.opened: Opened | None = None
        self._by_loop: dict[object, Opened] = {}
        self._locks: dict[object, anyio.Lock] = {}
        self._lifespans: dict[object, int] = {}
        """By event loop: one cop may serve apps on several of them, each in a thread of its own."""
        self.also_start: list[Callable[[], None]] = []
        """What else has to be seen to at a start."""
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
            self._documents(loop=None)  # only to see whether the URL can be used

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
                await opened.begin()
                self._warn_of_several_workers(opened.backend)
            self.opened = opened
            if self._exporting is not None:
                self._exporting.begin()
            return opened

    async def _open(self, loop: object, patience: float) -> Opened:
        settings = self.settings
        if self._inside is not None:
            return self._opened(
                (await self._inside.open()).backend, None, None, await self._open_documents(None, patience)
            )
        if not isinstance(settings.backend, str):
            return self._opened(settings.backend, None, None, await self._open_documents(None, patience))
        handle = self._handle(loop)
        await handle.connect(patience=patience)
        return self._opened(handle.backend, handle, loop, await self._open_documents(loop, patience))

    async def _open_documents(self, loop: object, patience: float) -> DocumentsHandle | GivenDocuments | None:
        if not self.settings.state.on:
            return None
        documents = self._documents(loop)
        await documents.connect(patience=patience)
        return documents

    def _documents(self, loop: object) -> DocumentsHandle | GivenDocuments:
        state = self.settings.state
        if not isinstance(state.documents, str):
            return GivenDocuments(state.documents)
        return DocumentsHandle(
            state.documents,
            loop=loop,
            namespace=self.settings.namespace,
            deadline=state.deadline,
            notify=self.observers.tell,
        )

    def _opened(
        self,
        backend: Backend,
        handle: BackendHandle | None,
        loop: object,
        documents: DocumentsHandle | GivenDocuments | None = None,
    ) -> Opened:
        return Opened(
            self.settings,
            backend,
            handle,
            loop,
            keys=self._keys,
            observers=self.observers,
            watched=self._watched,
            documents=documents,
            analytics=self._analytics if self._metrics is not None else None,
        )

    def _analytics(self, backend: Backend) -> AnalyticsAbstraction:
        if self._metrics is None or self.recorder is None or backend.metrics is None:
            raise ConfigurationError(
                f"backend {backend.name} keeps no metrics. Use memory:// or redis://, or leave out metrics=True"
            )
        return AnalyticsAbstraction(backend.metrics, self.recorder, interval=self._metrics.interval)

    async def start(self) -> None:
        """Open for a lifespan; the last `stop` of its event loop closes.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        for start in self.also_start:
            start()
        await self.open()
        loop = _running_loop()
        self._lifespans[loop] = self._lifespans.get(loop, 0) + 1

    @property
    def work(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What is to run beside the app, if anything."""
        return self._work if self._keys is not None or self.settings.state.works else None

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
        left = self._lifespans.pop(loop, 0) - 1
        if left > 0:
            self._lifespans[loop] = left
            return
        for close in self.also_close:
            await close()
        self._forget_closed_loops()
        if self._lifespans and not self._per_loop:
            return  # what all loops share ends with the last of them
        opened = self._by_loop.pop(loop if self._per_loop else None, None)
        if opened is self.opened:
            self.opened = None
        if opened is not None:
            await opened.close()
        if self._exporting is not None and not self._lifespans:
            await self._exporting.end()

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
