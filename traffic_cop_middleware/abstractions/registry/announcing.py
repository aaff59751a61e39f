"""An instance announces itself: again and again, until it ends.

Theory of operation. A heartbeat is the announcement made anew, so it needs no memory of the store's: one that lost
everything has the instance back with the next one. It comes after a third of the `ttl`, so that two may be lost before
the instance is taken for dead; while the store is away it is tried every second, so that what ran out meanwhile is back
before the watchers give it up (watching.py). Only a heartbeat that changed the list is told on the bus.
"""

from __future__ import annotations

import logging
import os
import random
from typing import NoReturn

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.contracts import Instance, InstanceStore, MessageBus
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop")

TOPIC = "instances"
"""On this topic the services are named whose list has changed."""
BEATS = 1 / 3
"""Share of the `ttl` after which it is announced again."""
TRIED = 1.0
"""Seconds after which it is tried again, where it could not be announced."""
PATIENCE = 2.0
"""Seconds that the farewell may take; after that the announcement runs out by itself."""


class Announcer:
    """Keeps an instance announced. One event loop's; `bus` may be `None`: then watchers find it when they next look."""

    def __init__(self, instances: InstanceStore, bus: MessageBus | None, instance: Instance) -> None:
        self.instance = instance
        self.announced = False
        """Whether the last heartbeat was taken."""
        self._instances = instances
        self._bus = bus
        self._holder = os.urandom(8).hex()
        self._lost = False
        self._hurry = anyio.Event()

    async def announce(self) -> None:
        """Announce it once. One round trip, and one to tell where the list has changed by it.

        Raises:
            StoreError: it was not taken, or nobody knows.
        """
        if await answered(self._instances.register(self.instance, holder=self._holder)):
            await self._tell()

    async def run(self) -> NoReturn:
        """Announce it again and again, whatever the store does meanwhile, until cancelled."""
        while True:
            self._hurry = hurry = anyio.Event()
            ttl = self.instance.ttl
            rest = ttl * BEATS if await self.beat() else min(TRIED, ttl * BEATS)
            with anyio.move_on_after(rest * random.uniform(0.8, 1.0)):  # noqa: S311 - jitter, no secret
                await hurry.wait()

    def hurry(self) -> None:
        """Announce it now, and not when it is due: the store is back, or the instance is another one."""
        self._hurry.set()

    async def beat(self) -> bool:
        """One heartbeat; whether it was taken. Tells once that it was not, and once that it is again."""
        instance = self.instance
        taken = False
        try:
            await self.announce()
        except StoreError as exc:
            if not self._lost:
                log.warning("%s of %s is not announced at present: %s", instance.name, instance.service, exc)
        except Exception:  # nobody else would go on with it
            if not self._lost:
                log.exception("%s of %s could not be announced; it is tried again", instance.name, instance.service)
        else:
            taken = True
            if self._lost:
                log.warning("%s of %s is announced again", instance.name, instance.service)
        self.announced, self._lost = taken, not taken
        return taken

    async def withdraw(self) -> None:
        """Say farewell, also when cancelled, for up to two seconds. Where that fails it runs out by itself."""
        instance = self.instance
        with anyio.move_on_after(PATIENCE, shield=True) as farewell:
            try:
                if await answered(self._instances.unregister(instance.service, instance.name, holder=self._holder)):
                    await self._tell()
            except StoreError as exc:
                log.debug("%s of %s runs out by itself: %s", instance.name, instance.service, exc)
        if farewell.cancelled_caught:
            log.debug("%s of %s runs out by itself: no answer", instance.name, instance.service)

    async def _tell(self) -> None:
        if self._bus is not None:
            try:
                await answered(self._bus.publish(TOPIC, self.instance.service))
            except StoreError as exc:  # it stands; the watchers find it when they next look
                log.debug("not told of %s: %s", self.instance.service, exc)
