"""Instances from DNS: every address of a host's name is one.

The name is resolved again and again, so a change is known within a period (and what a resolver caches). An answer that
does not come, or has no address, changes nothing: the last good one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from traffic_cop_middleware.abstractions.registry.watching import Heard, InstanceWatch
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts import Instance, Resolver
from traffic_cop_middleware.contracts.registry import MOST_INSTANCES

PERIOD = 5.0
"""Seconds between two questions for a name."""


class DnsWatch(InstanceWatch):
    """The addresses of the host in `url`, as instances: `DnsWatch(resolver, "http://billing.internal:8080", heard)`.

    Each is named by its address and port, and has the URL with the address in place of the name. `metadata` has the
    name as `host`: what a `Host` field and a certificate are checked by. `service` is the host's name where it is left
    out; `weight` is each address's.

    Raises:
        ConfigurationError: the URL can't be used.
    """

    def __init__(
        self,
        resolver: Resolver,
        url: str,
        heard: Heard,
        *,
        service: str | None = None,
        weight: int = 1,
        metadata: Mapping[str, str] | None = None,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        upstream = Upstream(url, weight)
        super().__init__(service or upstream.origin.host, heard, period=period, clock=clock)
        self._resolver = resolver
        self._upstream = upstream
        self._metadata = {**(metadata or {}), "host": upstream.origin.host}

    async def _ask(self) -> Iterable[Instance]:
        found = await self._resolver.resolve(self._upstream.origin.host)
        return [self._instance(address) for address in sorted(found)[:MOST_INSTANCES]]

    def _instance(self, address: str) -> Instance:
        origin, path = self._upstream.origin, self._upstream.prefix.decode()
        place = f"[{address}]:{origin.port}" if ":" in address else f"{address}:{origin.port}"
        url = f"{origin.scheme}://{place}{path}"
        return Instance(self.service, place, url, self._upstream.weight, self._metadata, 0.0)
