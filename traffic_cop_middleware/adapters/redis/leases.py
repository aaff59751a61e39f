"""Leases in Redis: each is one key, and each operation one script (leases.lua).

What a lease guards in Redis asks `fenced.lua` in its own script. Redis must not evict (`maxmemory-policy noeviction`):
a lease that is evicted is given to another one, with a larger token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from traffic_cop_middleware.adapters.redis.calls import Script
from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.contracts import MICRO, Lease
from traffic_cop_middleware.contracts.leases import check_lease

LEASES = Script("leases.lua")

KEPT = 30 * 86_400
"""Seconds that a token is remembered after its lease's end: by so much the server's clock may go back."""


class RedisLeases:
    """`LeaseStore` on Redis. A lease's key is `<namespace>:{lease:<name>}`."""

    shared = True

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:"

    def acquire(self, name: str, holder: str, *, ttl: float) -> asyncio.Future[Lease | None]:
        """As in the contract. One command."""
        check_lease(name, holder, ttl)
        given: Callable[[Any], Any] = partial(_given, name, holder, ttl)
        return LEASES.ask(self._link, self._keys(name), ("acquire", holder, round(ttl * MICRO), KEPT * 1000), given)

    def release(self, lease: Lease) -> asyncio.Future[bool]:
        """As in the contract. One command."""
        return LEASES.ask(self._link, self._keys(lease.name), ("release", lease.holder, lease.token), bool)

    def _keys(self, name: str) -> list[str]:
        return [f"{self._prefix}{{lease:{name}}}"]


def _given(name: str, holder: str, ttl: float, token: int | None) -> Lease | None:
    return None if token is None else Lease(name, holder, token, ttl)
