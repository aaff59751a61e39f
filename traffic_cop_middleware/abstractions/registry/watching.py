"""What this worker knows of the live instances of a service.

Theory of operation. A watch asks its source again and again, at once where it is told that something has changed, and
tells whoever listens when the instances are others than before. A source that is away changes nothing: what was known
goes on, without a limit, for an outage of the registry must not become one of the services. (Whether an instance
answers is seen by those who send it requests.)

A registry that comes *back* knows less than there is: it may be empty, or everything in it ran out while no heartbeat
reached it. So after a loss, or an outage that a live instance's announcement may not have outlasted, what was known and
is missing is *unconfirmed*: it goes on for its `ttl`, within which whoever lives announces itself again.

Invariants. An instance that the source lists is known. One that is missing while the source was neither lost nor away
is gone at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.registry.announcing import TOPIC
from traffic_cop_middleware.contracts import Instance, Instances, InstanceStore, Message, MessageBus
from traffic_cop_middleware.errors import NoAddress, StoreError

log = logging.getLogger("traffic_cop")

PERIOD = 0.5
"""Seconds between two looks at the registry."""
OUTLASTED = 0.3
"""Share of its `ttl` for which a live instance's announcement outlasts an outage in any case: the last heartbeat may
have come a third of it before, and the next one comes up to a third of it after."""
CONFIRMED = 0.5
"""Share of its `ttl` within which a live instance is announced again after an outage."""
MOST_OUTAGES = 100
BLOCKED = 4
"""Periods without a look after which that was an outage too: of this event loop."""

Heard = Callable[[Sequence[Instance]], None]


class InstanceWatch(ABC):
    """The instances of `service`, kept up to date while `run` runs. One event loop's.

    `heard` is called, and returns at once, with all instances in order of their names: when they are first known, and
    whenever they are others than before. `period` is the seconds between two looks, give or take a fifth; `clock` gives
    seconds that never go back.
    """

    def __init__(
        self, service: str, heard: Heard, *, period: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.service = service
        self.instances: tuple[Instance, ...] | None = None
        """What is known; `None` until the source has answered once."""
        self._heard = heard
        self._period = period
        self._clock = clock
        self._seen: float | None = None
        self._failing = False
        self._told = anyio.Event()

    @property
    def age(self) -> float | None:
        """Seconds since the source last answered; `None` before its first answer."""
        return None if self._seen is None else self._clock() - self._seen

    async def run(self) -> NoReturn:
        """Look again and again until cancelled. A source that is away is told of once in the log."""
        while True:
            self._told = told = anyio.Event()
            await self._look_on()
            with anyio.move_on_after(self._period * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter, no secret
                await told.wait()

    async def _look_on(self) -> None:
        try:
            await self.look()
        except (StoreError, NoAddress) as exc:
            if not self._failing:
                log.warning("the instances of %s stay as they were known: %s", self.service, exc)
            self._failing = True
        except Exception:  # nobody else would go on with it
            if not self._failing:
                log.exception("the instances of %s could not be looked at; they stay as they were known", self.service)
            self._failing = True
        else:
            if self._failing:
                log.warning("the instances of %s are known again", self.service)
            self._failing = False

    async def look(self) -> None:
        """Ask the source once, and tell of what has changed.

        Raises:
            StoreError, NoAddress: it did not answer; what is known goes on.
        """
        found = await self._ask()
        self._seen = self._clock()
        known = tuple(sorted(found, key=lambda instance: instance.name))
        if known != self.instances:
            self.instances = known
            try:
                self._heard(known)
            except Exception:
                log.exception("the instances of %s are others now, and a listener failed on that", self.service)

    @abstractmethod
    async def _ask(self) -> Iterable[Instance]:
        """What lives, as far as the source can say."""


class ServiceWatch(InstanceWatch):
    """The instances that are announced for a service. A look is one round trip, and a few bytes where nothing changed.

    With a `bus` what changes is heard of at once, without one within a `period`.
    """

    def __init__(
        self,
        instances: InstanceStore,
        bus: MessageBus | None,
        service: str,
        heard: Heard,
        *,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(service, heard, period=period, clock=clock)
        self._instances = instances
        self._bus = bus
        self._thread = 0
        self._version = 0
        self._listed: dict[str, Instance] = {}
        self._missing: dict[str, tuple[Instance, float]] = {}
        """What is unconfirmed, and until when (on the local clock)."""
        self._failed = False
        """Whether the last look had no answer."""
        self._outages = deque[tuple[float, float]](maxlen=MOST_OUTAGES)
        """When each began, and was over."""

    @property
    def unconfirmed(self) -> frozenset[str]:
        """Names of instances that the registry does not list at present, and that go on all the same."""
        return frozenset(self._missing)

    async def run(self) -> NoReturn:
        """As in `InstanceWatch`; and hears the bus meanwhile."""
        self._thread = threading.get_ident()
        unsubscribe = self._bus.subscribe(TOPIC, self._hear) if self._bus is not None else lambda: None
        try:
            await super().run()
        finally:
            unsubscribe()

    def _hear(self, message: Message) -> None:
        """A list has changed; without a payload nobody knows which."""
        if message.payload in (None, self.service) and threading.get_ident() == self._thread:
            self._told.set()  # of another thread's event loop it is heard within a period

    async def _ask(self) -> Iterable[Instance]:
        asked = self._clock()
        failed, self._failed = self._failed, True
        found = await answered(self._instances.read(self.service, since=self._version))
        self._failed = False
        now = self._clock()
        silent = 0.0 if self._seen is None else now - self._seen
        if failed or silent > BLOCKED * self._period:
            self._outages.append((now - silent, now))
            waited_for = [instance for instance, _ in self._missing.values() if self._may_live(instance, now)]
            self._missing.update({each.name: (each, now + each.ttl) for each in waited_for})
        if found is not None:
            self._compare(found, now)
        self._missing = {name: each for name, each in self._missing.items() if each[1] > asked}
        return [*self._listed.values(), *(instance for instance, _ in self._missing.values())]

    def _compare(self, found: Instances, now: float) -> None:
        """Take over a list; what it lacks goes on where the registry can't know better."""
        lost = self._version > 0 and (found.version < self._version or found.begun > self._version)
        listed = {instance.name: instance for instance in found.instances}
        was_known = {**{name: instance for name, (instance, _) in self._missing.items()}, **self._listed}
        for name, instance in was_known.items():
            if name in listed:
                self._missing.pop(name, None)
            elif lost or self._may_live(instance, now):
                self._missing[name] = (instance, now + instance.ttl)
        self._version, self._listed = found.version, listed

    def _may_live(self, instance: Instance, now: float) -> bool:
        """Whether its announcement may have run out because no heartbeat came through.

        Between two outages one after the other none needs to have come either.
        """
        until: float | None = None
        since = now
        for began, ended in reversed(self._outages):
            if since - ended > instance.ttl * CONFIRMED:
                break
            until = ended if until is None else until
            since = began
        return until is not None and until - since >= instance.ttl * OUTLASTED
