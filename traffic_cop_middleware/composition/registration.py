"""A service announces itself: as a context manager, or around an app's life."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, cast, runtime_checkable

import anyio

from traffic_cop_middleware.abstractions.balancing.instances import Member
from traffic_cop_middleware.abstractions.registry.announcing import Announcer
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.composition.backend_settings import BackendSettings
from traffic_cop_middleware.composition.backends import opener
from traffic_cop_middleware.composition.sharing import Handle
from traffic_cop_middleware.contracts import Backend, Event, Instance, InstanceStore, Opener
from traffic_cop_middleware.contracts.registry import check_instance
from traffic_cop_middleware.errors import ConfigurationError

DEADLINE = 1.0
"""Seconds: nobody waits for a heartbeat."""

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Of an app; it gives what is to be in the state of all requests, or `None`."""


@runtime_checkable
class Counted(Protocol):
    """A backend that counts the workers that use it, unless it is told before it connects that this is none."""

    counted: bool


class Registration:
    """Announces an instance of a service while it is entered::

        async with Registration("billing", url="http://10.0.0.5:8080", backend="redis://registry:6379/0"):
            await server.serve()

    Cops on the same `backend` and `namespace` send it requests within a second. It is announced for `ttl` seconds at a
    time, again after a third of that, and withdrawn at the end; a process that dies is gone after its `ttl`. While the
    backend is away it goes on trying, and tells so once in the log; entering waits a second for it and no longer. For a
    deploy that loses no request, leave it a second before the server stops: then nobody is on the way to it.

    `instance` is its name among the service's others, by default the URL without its scheme: so the workers of one
    server are one instance, which lives while one of them does. `weight` is its share of the requests (0: none),
    `metadata` texts about it (1 KB). `backend` is a URL or an opened backend; `memory://name` reaches this process
    alone. `deadline` is the seconds that a call may take. May be entered again when it was left.

    Raises:
        ConfigurationError: a setting can't be used.
    """

    def __init__(
        self,
        service: str,
        *,
        url: str,
        backend: str | Backend,
        instance: str | None = None,
        weight: int = 1,
        metadata: Mapping[str, str] | None = None,
        ttl: float = 10.0,
        namespace: str = "tc",
        deadline: float = DEADLINE,
    ) -> None:
        upstream = Upstream(url, weight)
        name = url.partition("://")[2].rstrip("/") if instance is None else instance
        self._instance = _checked(Instance(service, name, upstream.url, weight, _words(metadata or {}), ttl))
        self._settings = BackendSettings(backend=backend, namespace=namespace, deadline=deadline)
        if isinstance(backend, str):
            opener(backend)(backend, namespace=namespace, deadline=deadline, notify=lambda event: None)
        else:
            _store_of(backend)
        self._opened = contextlib.AsyncExitStack()
        self._announcer: Announcer | None = None

    @property
    def instance(self) -> Instance:
        """What is announced."""
        return self._instance

    @property
    def announced(self) -> bool:
        """Whether it is entered, and the last heartbeat was taken."""
        return self._announcer is not None and self._announcer.announced

    async def change(self, *, weight: int | None = None, metadata: Mapping[str, str] | None = None) -> None:
        """Announce another weight (0 before a shutdown: requests go elsewhere) or other metadata, from now on.

        While the backend is away it is told with the next heartbeat that is taken.

        Raises:
            ConfigurationError: they can't be used.
        """
        before = self._instance
        changed = before._replace(
            weight=before.weight if weight is None else weight,
            metadata=before.metadata if metadata is None else _words(metadata),
        )
        self._instance = _checked(changed)
        if self._announcer is not None:
            self._announcer.instance = self._instance
            await self._announcer.beat()

    async def __aenter__(self) -> Self:
        """Open the backend, and announce the instance for the first time.

        Raises:
            ConfigurationError: the backend will never work as configured, or keeps no instances.
            RuntimeError: it is entered already.
        """
        if self._announcer is not None:
            raise RuntimeError(f"{self._instance.name} of {self._instance.service} is announced by this one already")
        async with contextlib.AsyncExitStack() as opening:
            loop = _running_loop()
            backend = await self._open(loop, opening)
            announcer = Announcer(_store_of(backend), backend.bus, self._instance)
            opening.push_async_callback(announcer.withdraw)
            await announcer.beat()
            opening.push_async_callback(_end, loop.create_task(announcer.run()))
            self._announcer = announcer
            self._opened = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Withdraw the instance, within two seconds, and let go of the backend; also when cancelled."""
        self._announcer = None
        await self._opened.aclose()

    async def _open(self, loop: asyncio.AbstractEventLoop, opening: contextlib.AsyncExitStack) -> Backend:
        settings = self._settings
        if not isinstance(settings.backend, str):
            return settings.backend
        in_memory = settings.backend.startswith("memory:")
        handle: Handle[Backend] = Handle(
            settings.backend,
            kind="backend" if in_memory else "registration",  # not shared with a cop, which is counted
            opener=_uncounted,
            loop=None if in_memory else loop,
            namespace=settings.namespace,
            deadline=settings.deadline,
            notify=self._notified,
        )
        await handle.connect(patience=DEADLINE)
        opening.push_async_callback(_close, handle)
        return handle.product

    def _notified(self, event: Event) -> None:
        if event.kind == "store.recovered" and self._announcer is not None:
            self._announcer.hurry()


def registered(
    service: str,
    *,
    url: str,
    backend: str | Backend,
    lifespan: Lifespan | None = None,
    instance: str | None = None,
    weight: int = 1,
    metadata: Mapping[str, str] | None = None,
    ttl: float = 10.0,
    namespace: str = "tc",
    deadline: float = DEADLINE,
) -> Lifespan:
    """A lifespan that announces the app as an instance of a service while it runs::

        app = FastAPI(lifespan=registered("billing", url="http://10.0.0.5:8080", backend="redis://registry:6379/0"))

    An own `lifespan` runs around it: the instance is announced when that has started, and withdrawn before it ends. The
    other settings are those of `Registration`.

    Raises:
        ConfigurationError: a setting can't be used.
    """
    registration = Registration(
        service,
        url=url,
        backend=backend,
        instance=instance,
        weight=weight,
        metadata=metadata,
        ttl=ttl,
        namespace=namespace,
        deadline=deadline,
    )

    @contextlib.asynccontextmanager
    async def around(app: Any) -> AsyncIterator[Any]:
        own: AbstractAsyncContextManager[Any] = contextlib.nullcontext() if lifespan is None else lifespan(app)
        async with own as state, registration:
            yield state

    return around


def _words(metadata: object) -> Mapping[str, str]:
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"Registration: metadata={metadata!r}: texts by name, as in {{'zone': 'a'}}")
    return dict(metadata)


def _checked(instance: Instance) -> Instance:
    """It, if a store takes it and a pool does."""
    try:
        check_instance(instance, "nobody yet")
    except (AttributeError, TypeError, ValueError) as exc:
        raise ConfigurationError(f"Registration: {exc}") from exc
    Member(Upstream(instance.url, instance.weight), instance.name, metadata=instance.metadata)
    return instance


def _store_of(backend: Backend) -> InstanceStore:
    store = getattr(backend, "instances", None)  # one of a third party may be older than that
    if store is None:
        raise ConfigurationError(f"backend {backend.name} keeps no instances of services. Use redis://")
    return cast("InstanceStore", store)


def _uncounted(url: str) -> Opener:
    """Opens a backend whose user serves no requests by it, so is none of the workers that share the limits."""
    open_backend = opener(url)

    def opened(url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> Backend:
        backend = open_backend(url, namespace=namespace, deadline=deadline, notify=notify)
        if isinstance(backend, Counted):
            backend.counted = False
        return backend

    return opened


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError("Registration needs asyncio, and this app runs on trio") from None


async def _end(announcing: asyncio.Task[NoReturn]) -> None:
    announcing.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([announcing])


async def _close(handle: Handle[Backend]) -> None:
    with anyio.CancelScope(shield=True):
        await handle.close()
