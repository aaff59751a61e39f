"""Health checks over the gateway's connections, by one worker for all that share a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b

from traffic_cop_middleware.abstractions.balancing.checks import Checker, HealthCheck, HealthMarks
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts import Backend
from traffic_cop_middleware.contracts.leases import MOST_LEASE_NAME
from traffic_cop_middleware.contracts.transport import Deadlines, Outgoing, Transport
from traffic_cop_middleware.errors import ConfigurationError, UpstreamError

LEASE = 5.0
"""Seconds of the lease of whoever checks a pool: who is killed is followed after that."""


MOST_BODY = 64 * 1024
"""Bytes that are read of an answer; where there are more its connection is closed."""


def _lease_of(pool: BalancedPool) -> str:
    """The lease's name; with a digest where a pool's own name is longer than that may be."""
    name = f"health:{pool.name}"
    if len(name.encode("utf-8", "surrogatepass")) <= MOST_LEASE_NAME:
        return name
    return "health:" + blake2b(pool.name.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


class Checking:
    """Makes what checks a pool. `backend` gives what is open on the running event loop, `transport` its connections."""

    def __init__(
        self, transport: Callable[[], Transport], backend: Callable[[], Backend | None], marks: HealthMarks
    ) -> None:
        self._transport = transport
        self._backend = backend
        self.marks = marks

    def of(self, pool: BalancedPool, check: HealthCheck) -> Leader:
        """What checks a pool whenever no other worker does, while its `run` runs; the pool goes by the marks.

        Raises:
            ConfigurationError: the backend keeps no leases or records.
        """
        backend = self._backend()
        leases = getattr(backend, "leases", None)
        if backend is None or leases is None or backend.records is None:
            raise ConfigurationError(
                f"Service({pool.name!r}, check=…): the backend can't say which worker checks, or tell the others. Use "
                "redis:// or memory://, or leave check out"
            )
        self.marks.checks(pool)
        return Leader(leases, _lease_of(pool), Checker(pool, check, self.ask, self.marks).run, ttl=LEASE)

    async def ask(self, upstream: Upstream, check: HealthCheck) -> str:
        """Ask an instance; gives why its answer is bad, or "" for a good one."""
        request = Outgoing(
            "GET",
            check.path.encode("ascii"),
            ((b"host", upstream.authority), (b"user-agent", b"traffic-cop-health"), (b"accept", b"*/*")),
            None,
        )
        deadlines = Deadlines(check.deadline, check.deadline, check.deadline)
        try:
            async with asyncio.timeout(check.deadline):
                incoming = await self._transport().send(upstream.origin, request, deadlines=deadlines)
                try:
                    status = incoming.status
                    left = MOST_BODY
                    async for chunk in incoming.chunks():  # read to its end, the connection can be used again
                        left -= len(chunk)
                        if left < 0:
                            break
                finally:
                    incoming.close()
        except TimeoutError:
            return f"no answer to its check within {check.deadline:g} s"
        except UpstreamError as exc:
            return f"its check failed: {exc}"
        return "" if 200 <= status < 300 else f"its check was answered {status}"
