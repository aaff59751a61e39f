"""What this worker knows of the live instances of a service.

Theory of operation. A watch asks its source again and again, at once where it is told that something has changed, and
tells whoever listens when the instances are others than before. A source that is away changes nothing: what was known
goes on, without a limit, for an outage of the registry must not become one of the services. (Whether an instance
answers is seen by those who send it requests.)

A registry that comes *back* knows less than there is: it may be empty, or everything in it ran out while no heartbeat
reached it. So after a loss, or an outage that a live instance's announcement may not have outlasted, what was known and
is missing is *unconfirmed*: it goes on for its `ttl`, within which whoever lives announces itself again. Outages with
less time between them than an announcement needs (`CALM`) are one: a registry that is never calm for longer counts as
away, and keeps what was known.

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
from math import inf
from typing import NoReturn

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.registry.announcing import BEATS, TOPIC, TRIED
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
RAN_OUT = 0.6
"""Share of its `ttl` before which no announcement has run out after the first heartbeat that did not come through."""
CALM = 1.2
"""Times as long as until the next try, between two outages, in which an instance that lives has announced itself."""
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


class Missing:
    """An instance that goes on though the registry does not list it: `since` when, and `until` when, on the local
    clock."""

    __slots__ = ("instance", "since", "until")

    def __init__(self, instance: Instance, now: float) -> None:
        self.instance = instance
        self.since = now
        self.until = now + instance.ttl


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
        self._missing: dict[str, Missing] = {}
        """What is unconfirmed."""
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
            for missing in self._missing.values():
                # It announces itself a third of its `ttl` after it is missing, or as soon as it can after that.
                tried = missing.since + missing.instance.ttl * BEATS + CALM * TRIED
                if self._outage(missing.instance)[0] <= tried:
                    missing.until = now + missing.instance.ttl
        if found is not None:
            self._compare(found, now)
        self._missing = {name: each for name, each in self._missing.items() if each.until > asked}
        return [*self._listed.values(), *(missing.instance for missing in self._missing.values())]

    def _compare(self, found: Instances, now: float) -> None:
        """Take over a list; what it lacks goes on where the registry can't know better."""
        lost = self._version > 0 and (found.version < self._version or found.begun > self._version)
        listed = {instance.name: instance for instance in found.instances}
        was_known = {**{name: missing.instance for name, missing in self._missing.items()}, **self._listed}
        for name, instance in was_known.items():
            if name in listed:
                self._missing.pop(name, None)
            elif lost or (name not in self._missing and self._may_live(instance, now)):
                self._missing[name] = Missing(instance, now)
        self._version, self._listed = found.version, listed

    def _may_live(self, instance: Instance, now: float) -> bool:
        """Whether its announcement may have run out because no heartbeat came through."""
        began, ended = self._outage(instance)
        return (
            now - ended <= instance.ttl * CONFIRMED
            and ended - began >= instance.ttl * OUTLASTED
            and now - began >= instance.ttl * RAN_OUT
        )

    def _outage(self, instance: Instance) -> tuple[float, float]:
        """When the last outage began for an instance, and was over: several are one where it may not have had the time
        to announce itself between them."""
        calm = CALM * min(TRIED, instance.ttl * BEATS)
        began, ended = inf, -inf
        for start, end in reversed(self._outages):
            if began - end > calm and ended > -inf:
                break
            began, ended = start, max(end, ended)
        return began, ended
