"""Who makes the history of the traffic: one worker of all that share the live figures, or each for itself."""

from __future__ import annotations

import contextlib
import os

import anyio

from traffic_cop_middleware.abstractions.asking import answered
from traffic_cop_middleware.abstractions.history.keeping import HistoryKeeper
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.contracts import Backend, Lease
from traffic_cop_middleware.errors import StoreError

LEASE, LEASE_SECONDS = "traffic-history", 30.0
"""The lease of whoever makes the history for all."""
LAST_PASS = 5.0
"""Seconds that a shutdown gives to the minute that is not over."""


class HistoryKeeping:
    """Lets one worker make the history, where the live figures and the history are shared and there are leases."""

    def __init__(self, backend: Backend, keeper: HistoryKeeper) -> None:
        self._keeper = keeper
        leases = getattr(backend, "leases", None)  # a backend may be older than leases
        self._leases = None if self._keeper.by_itself else leases

    async def run(self) -> None:
        """Make the history wherever this worker leads, until cancelled."""
        if self._leases is None:
            await self._keeper.keep(None)
        else:
            await Leader(self._leases, LEASE, self._lead, ttl=LEASE_SECONDS).run()

    async def _lead(self, lease: Lease) -> None:
        await self._keeper.keep(lease.token)

    async def end(self) -> None:
        """Write the minute that is not over, unless another worker leads and will do so: this may be the last one."""
        if not self._keeper.lasts:
            return
        with anyio.move_on_after(LAST_PASS), contextlib.suppress(StoreError):
            if self._leases is None:
                await self._keeper.take(token=None, ending=True)
                return
            lease = await answered(self._leases.acquire(LEASE, os.urandom(8).hex(), ttl=LEASE_SECONDS))
            if lease is not None:
                try:
                    await self._keeper.take(token=lease.token, ending=True)
                finally:
                    await answered(self._leases.release(lease))
