"""Health checks over the gateway's connections, by one worker for all that share a backend."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from traffic_cop_middleware.abstractions.balancing.checks import Checker, HealthCheck, HealthMarks
from traffic_cop_middleware.abstractions.balancing.pool import BalancedPool
from traffic_cop_middleware.abstractions.leader import Leader
from traffic_cop_middleware.abstractions.upstreams import Upstream
from traffic_cop_middleware.contracts import Backend, LeaseStore
from traffic_cop_middleware.contracts.records import MOST_NAME
from traffic_cop_middleware.contracts.transport import Deadlines, Outgoing, Transport
from traffic_cop_middleware.errors import ConfigurationError, UpstreamError

LEASE = 5.0
"""Seconds of the lease of whoever checks a pool: who is killed is followed after that."""


MOST_BODY = 64 * 1024
"""Bytes that are read of an answer; where there are more its connection is closed."""


class Checking:
    """Makes what checks a pool. `backend` gives what is open on the running event loop, `transport` its connections."""

    def __init__(
        self, transport: Callable[[], Transport], backend: Callable[[], Backend | None], marks: HealthMarks
    ) -> None:
        self._transport = transport
        self._backend = backend
        self.marks = marks

    def of(self, pool: BalancedPool, check: HealthCheck, key: str) -> Leader:
        """What checks a pool whenever no other worker does, while its `run` runs; the pool goes by the marks.

        `key` is the same for the pools of all workers that have the same instances, and for no others.

        Raises:
            ConfigurationError: the backend keeps no leases or records.
        """
        leases = self.leases(pool.name)
        self.marks.checks(pool, key)
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return Leader(leases, f"health:{digest}", Checker(pool, check, self.ask, self.marks).run, ttl=LEASE)

    def leases(self, name: str) -> LeaseStore:
        """What says which worker checks the pool of that name.

        Raises:
            ConfigurationError: the backend keeps no leases or records.
        """
        backend = self._backend()
        leases: LeaseStore | None = getattr(backend, "leases", None)
        if backend is None or leases is None or backend.records is None:
            raise ConfigurationError(
                f"{name!r}, check=HealthCheck(…): the backend can't say which worker checks, or tell the others. Use "
                "redis:// or memory://, or leave check out"
            )
        return leases

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


def key_of_route(name: str) -> str:
    """Under what the marks of a route's own upstreams stand: no service has such a name."""
    key = f"route{{{name}}}"
    return key if len(key.encode()) <= MOST_NAME else f"route{{{hashlib.blake2b(key.encode()).hexdigest()}}}"
