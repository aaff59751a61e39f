"""A backend: the stores that one product offers behind one URL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from traffic_cop_middleware.contracts.buckets import BucketStore
from traffic_cop_middleware.contracts.bus import MessageBus
from traffic_cop_middleware.contracts.events import Event
from traffic_cop_middleware.contracts.leases import LeaseStore
from traffic_cop_middleware.contracts.metrics import MetricsStore
from traffic_cop_middleware.contracts.records import RecordStore
from traffic_cop_middleware.contracts.registry import InstanceStore
from traffic_cop_middleware.contracts.session_routes import SessionRouteStore
from traffic_cop_middleware.contracts.sessions import SessionStore
from traffic_cop_middleware.contracts.state import StateStore


class Backend(Protocol):
    """Stores that are opened and closed together. A store that the product lacks is `None`."""

    @property
    def name(self) -> str:
        """The URL as it may be printed: no password in it."""
        ...

    @property
    def buckets(self) -> BucketStore | None: ...

    @property
    def sessions(self) -> SessionStore | None: ...

    @property
    def session_routes(self) -> SessionRouteStore | None: ...

    @property
    def records(self) -> RecordStore | None: ...

    @property
    def metrics(self) -> MetricsStore | None: ...

    @property
    def state(self) -> StateStore | None: ...

    @property
    def bus(self) -> MessageBus | None: ...

    @property
    def leases(self) -> LeaseStore | None: ...

    @property
    def instances(self) -> InstanceStore | None: ...

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds, never going back: what this process times waits with. A test gives a fake one."""
        ...

    @property
    def live_workers(self) -> int | None:
        """How many workers share this backend, by its last count; `None` while it was never counted."""
        ...

    async def connect(self, *, patience: float = 1.0) -> None:
        """Reach the product, or go on trying in the background when that takes longer than `patience` seconds.

        Unreachable is no error (what then is the caller's policy); a refused password is.

        Raises:
            ConfigurationError: it will never work as configured.
        """
        ...

    async def close(self) -> None:
        """Let go of everything. A closed backend is not opened again."""
        ...


class Opener(Protocol):
    """What an adapter exports as an entry point `traffic_cop_middleware.backends` under the name of a URL scheme."""

    def __call__(self, url: str, *, namespace: str, deadline: float, notify: Callable[[Event], None]) -> Backend:
        """A backend for `url`, checked but not yet connected: no input or output happens here.

        `namespace` prefixes every key, `deadline` bounds every call (seconds), `notify` hears of losses and recoveries.

        Raises:
            ConfigurationError: the URL can't be used.
        """
        ...
