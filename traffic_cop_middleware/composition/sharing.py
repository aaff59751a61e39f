"""What is opened for a URL once, and shared by those who name the same one.

The registry of what is open is the one global of this package. It holds it weakly and counts who uses it, and is keyed
by event loop, because a socket belongs to one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from traffic_cop_middleware.abstractions.events import Observers
from traffic_cop_middleware.contracts import Event
from traffic_cop_middleware.loops import Turns


class Openable(Protocol):
    async def connect(self, *, patience: float = 1.0) -> None: ...

    async def close(self) -> None: ...


Product = TypeVar("Product", bound=Openable)
Opened_co = TypeVar("Opened_co", bound=Openable, covariant=True)


class Open(Protocol[Opened_co]):
    """What opens a URL: `Opener`, `DocumentOpener`."""

    def __call__(self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> Opened_co: ...


class Shared(Generic[Product]):
    """Something opened, and how many use it."""

    def __init__(self, open_product: Open[Product], url: str, *, namespace: str, deadline: float) -> None:
        self.observers = Observers()
        self.product = open_product(url, namespace=namespace, deadline=deadline, notify=self.observers.tell)
        self.users = 0
        self.connected = False
        self.closed = False
        self.lock = Turns()


_shared: WeakValueDictionary[tuple[object, ...], Shared[Any]] = WeakValueDictionary()
_registering = threading.RLock()
"""Held for a look at what is shared, and for a change of it: event loops in several threads may share a `memory://`."""


class Given(Generic[Product]):
    """Something that the user opened, and closes."""

    def __init__(self, product: Product) -> None:
        self.product = product

    async def connect(self, *, patience: float) -> None:
        """It is open."""

    async def close(self) -> None:
        """It is its owner's to close."""


class Handle(Generic[Product]):
    """What this process opened for a URL, or shares with those who named the same one.

    `opener` gives the adapter for the URL; `kind` tells apart what one URL may be opened as.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(
        self,
        url: str,
        *,
        kind: str,
        opener: Callable[[str], Open[Product]],
        loop: object,
        namespace: str,
        deadline: float,
        notify: Callable[[Event], None],
    ) -> None:
        self._key = (kind, loop, url, namespace, None if url.startswith("memory:") else deadline)
        self._opener = opener
        self._url = url
        self._loop = loop
        self._namespace = namespace
        self._deadline = deadline
        self._notify = notify
        self._unsubscribe: Callable[[], None] = lambda: None
        self._shared = self._find()

    def _find(self) -> Shared[Product]:
        """The one that is in use under this key, or a new one; always a new one for a plain `memory://`."""
        private = self._url.partition("?")[0] == "memory://"
        open_product = self._opener(self._url)  # it may import, for which no lock is held
        with _registering:
            shared = None if private else _shared.get(self._key)
            if shared is None:
                shared = Shared(open_product, self._url, namespace=self._namespace, deadline=self._deadline)
                if not private:
                    _shared[self._key] = shared
            return shared

    @property
    def product(self) -> Product:
        return self._shared.product

    async def connect(self, *, patience: float) -> None:
        """Connect if this is the first user; else wait until the first one has.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        while True:
            shared = self._shared
            async with shared.lock:
                if self._join(shared):
                    self._unsubscribe = shared.observers.subscribe(self._notify)
                    try:
                        if not shared.connected:
                            await shared.product.connect(patience=patience)
                            shared.connected = True
                    except BaseException:
                        self._unsubscribe()
                        self._leave(shared)
                        raise
                    return
            self._shared = self._find()

    async def close(self) -> None:
        """Close if this is the last user."""
        self._unsubscribe()
        if self._leave(self._shared):
            await self._shared.product.close()

    def _join(self, shared: Shared[Product]) -> bool:
        """Use it, unless it is closed: from here on nobody else closes it."""
        with _registering:
            if not shared.closed:
                shared.users += 1
            return not shared.closed

    def _leave(self, shared: Shared[Product]) -> bool:
        """Use it no longer; whether nobody does. Then nobody else may join: what is closed is not opened again."""
        with _registering:
            shared.users -= 1
            if shared.users == 0:
                shared.closed = True
                if _shared.get(self._key) is shared:
                    del _shared[self._key]
            return shared.closed
