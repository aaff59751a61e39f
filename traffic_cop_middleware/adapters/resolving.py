"""The system's resolver: what /etc/hosts, DNS and whatever else the host is set up with say of a name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from traffic_cop_middleware.errors import NoAddress

DEADLINE = 5.0


class SystemResolver:
    """`Resolver` by getaddrinfo, in the threads of asyncio's event loop. One event loop's.

    A question that has no answer within `deadline` seconds goes on in its thread, for getaddrinfo can't be stopped;
    meanwhile nothing more is asked of that name, so a DNS server that hangs takes one thread per name.
    """

    def __init__(self, *, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._asked: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(self, host: str) -> Sequence[str]:
        """As in the contract. Link-local addresses of IPv6 are left out: they mean nothing without an interface."""
        asked = self._asked.get(host)
        if asked is None:
            asked = self._asked[host] = asyncio.ensure_future(_ask(host))
            asked.add_done_callback(lambda done: self._answered(host, done))
        await asyncio.wait([asked], timeout=self._deadline)
        if not asked.done():
            raise NoAddress(f"no resolver said within {self._deadline:g} s where {host} is")
        return asked.result()

    def _answered(self, host: str, asked: asyncio.Future[Sequence[str]]) -> None:
        del self._asked[host]
        if not asked.cancelled():
            asked.exception()  # it is raised where somebody still waits


async def _ask(host: str) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise NoAddress(f"{host} has no address: {exc}") from exc
    addresses = {str(place[0]) for *_, place in found}
    usable = sorted(address for address in addresses if "%" not in address and not address.startswith("fe80:"))
    if not usable:
        raise NoAddress(f"{host} has no address that can be used: {', '.join(sorted(addresses))}")
    return usable
