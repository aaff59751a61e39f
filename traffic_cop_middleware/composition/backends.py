"""From a URL to an opened backend; middlewares that name the same one share it.

The registry of opened backends is the one global of this package. It holds them weakly and counts who uses them, and is
keyed by event loop, because a socket belongs to one.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import cast
from weakref import WeakValueDictionary

import anyio

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.contracts import Backend, Event, Opener
from traffic_cop_middleware.errors import ConfigurationError, MissingExtra

GROUP = "traffic_cop_middleware.backends"
OURS = {"memory": "memory", "redis": "redis", "rediss": "redis", "unix": "redis"}
OURS |= {"redis+cluster": "redis.cluster", "rediss+cluster": "redis.cluster"}
"""URL scheme -> module of ours under `adapters`; the extra that brings its driver has the name of its first part."""


def opener(url: str) -> Opener:
    """The adapter for a URL's scheme: one of ours, or an entry point of a third party.

    Raises:
        ConfigurationError: nobody knows the scheme.
        MissingExtra: its driver is not installed.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in OURS:
        extra = OURS[scheme].partition(".")[0]
        try:
            return cast("Opener", importlib.import_module(f"traffic_cop_middleware.adapters.{OURS[scheme]}").open)
        except ImportError as exc:
            raise MissingExtra(
                f"backend {scheme}:// needs a driver that is not installed ({exc}): "
                f"pip install 'traffic-cop-middleware[{extra}]'"
            ) from exc
    for point in entry_points(group=GROUP, name=scheme):
        return cast("Opener", point.load())
    known = sorted({*OURS, *(point.name for point in entry_points(group=GROUP))})
    said = f"{scheme}://…" if scheme else "no URL scheme"
    raise ConfigurationError(
        f"backend: {said} is not known here. Write one of {', '.join(f'{name}://' for name in known)}, for example "
        "'memory://' or 'redis://localhost:6379/0'"
    )


class Shared:
    """An opened backend and how many use it."""

    def __init__(self, open_backend: Opener, url: str, *, namespace: str, deadline: float) -> None:
        self.observers = Observers()
        self.backend = open_backend(url, namespace=namespace, deadline=deadline, notify=self.observers.tell)
        self.users = 0
        self.closed = False
        self.lock = anyio.Lock()


_shared: WeakValueDictionary[tuple[object, ...], Shared] = WeakValueDictionary()


class BackendHandle:
    """A backend that this process opened for a URL, or shares with those who named the same one.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(
        self, url: str, *, loop: object, namespace: str, deadline: float, notify: Callable[[Event], None]
    ) -> None:
        self._key = (loop, url, namespace, None if url.startswith("memory:") else deadline)
        self._deadline = deadline
        self._notify = notify
        self._unsubscribe: Callable[[], None] = lambda: None
        self._shared = self._find()

    def _find(self) -> Shared:
        """The one that is in use under this key, or a new one; always a new one for a plain `memory://`."""
        _loop, url, namespace, _ = key = self._key
        private = url.partition("?")[0] == "memory://"
        shared = None if private else _shared.get(key)
        if shared is None:
            shared = Shared(opener(url), url, namespace=namespace, deadline=self._deadline)
            if not private:
                _shared[key] = shared
        return shared

    @property
    def backend(self) -> Backend:
        return self._shared.backend

    async def connect(self, *, patience: float) -> None:
        """Connect if this is the first user; else wait until the first one has.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        while True:
            shared = self._shared
            async with shared.lock if self._key[0] is not None else contextlib.nullcontext():
                if not shared.closed:
                    self._unsubscribe = shared.observers.subscribe(self._notify)
                    try:
                        if shared.users == 0:
                            await shared.backend.connect(patience=patience)
                    except BaseException:
                        self._unsubscribe()
                        self._retire(shared)
                        raise
                    shared.users += 1
                    return
            self._shared = self._find()

    async def close(self) -> None:
        """Close if this is the last user."""
        self._unsubscribe()
        self._shared.users -= 1
        if self._shared.users == 0:
            self._retire(self._shared)
            await self._shared.backend.close()

    def _retire(self, shared: Shared) -> None:
        """Nobody else may join it: a closed backend is not opened again."""
        shared.closed = True
        if _shared.get(self._key) is shared:
            del _shared[self._key]
