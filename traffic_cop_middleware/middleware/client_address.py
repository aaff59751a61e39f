"""Whose request it is: the client's address, with what trusted proxies say and nothing that strangers say.

A proxy appends the address it was called from, so only the rightmost entries can be trusted: the list is read from the
right until an address that is no trusted proxy's (RFC 7239, section 5.2 and 8.1). An IPv6 client has a whole /64 to
choose addresses from, so its network counts (RFC 6177).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")

TrustedProxies = int | str | Sequence[str]
Headers = Iterable[tuple[bytes, bytes]]
MOST_HOPS = 32
LONGEST_LIST = 4096
REQUESTS_WATCHED = 1000
"""How many requests are looked at for a proxy that nobody declared."""


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, with a port, in brackets, IPv4 inside IPv6."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=8192)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 one; other text as it is."""
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed) if parsed is not None else address[:64]


@lru_cache(maxsize=8192)
def _is_private(address: str) -> bool:
    parsed = _parse(address)
    return parsed is None or parsed.is_private


class ClientAddress:
    """Finds the client of a request.

    `trusted_proxies`: networks ("10.0.0.0/8"), whose `X-Forwarded-For` or `Forwarded` is believed; or a number of
    proxies that every request passes through. Empty: nobody is believed, the peer is the client.

    Raises:
        ConfigurationError: it is neither.
    """

    def __init__(self, trusted_proxies: TrustedProxies = ()) -> None:
        self._hops = 0
        self._networks: list[IPv4Network | IPv6Network] = []
        if isinstance(trusted_proxies, int):
            if isinstance(trusted_proxies, bool) or not 0 <= trusted_proxies <= MOST_HOPS:
                raise ConfigurationError(
                    f"trusted_proxies={trusted_proxies!r}: a number of proxies is from 0 to {MOST_HOPS}"
                )
            self._hops = trusted_proxies
        else:
            entries = [trusted_proxies] if isinstance(trusted_proxies, str) else trusted_proxies
            try:
                self._networks = [ip_network(entry) for entry in entries]
            except (TypeError, ValueError) as exc:
                raise ConfigurationError(
                    f"trusted_proxies={trusted_proxies!r}: {exc}. Write the proxies' networks, as in ['10.0.0.0/8'], "
                    "or the number of proxies in front, as in 1"
                ) from exc
        self.trusting = bool(self._networks or self._hops)
        """Whether anybody's headers are believed; if not, the peer is the client."""
        self.watched = 0 if self.trusting else REQUESTS_WATCHED
        """How many more requests are to be looked at by `watch`."""
        self._trusts = lru_cache(maxsize=1024)(self._is_trusted)

    def of(self, peer: tuple[str, int] | None, headers: Headers) -> str:
        """The client's address (its network for IPv6) from `scope["client"]`; "unknown" where the server gives none."""
        address = peer[0] if peer else ""
        if self.trusting:
            address = self._behind_proxies(headers, address)
        return client_network(address) if address else "unknown"

    def trusts(self, peer: str) -> bool:
        """Whether this peer is a proxy whose headers are believed."""
        return bool(self._hops) or (bool(self._networks) and self._trusts(peer))

    def _behind_proxies(self, headers: Headers, peer: str) -> str:
        if self._networks and not self._trusts(peer):
            return peer
        forwarded, listed = [], []
        for name, value in headers:
            if name == b"x-forwarded-for":
                listed += value[-LONGEST_LIST:].decode("latin-1").split(",")
            elif name == b"forwarded":
                forwarded += _forwarded_for(value[-LONGEST_LIST:].decode("latin-1"))
        found = {self._last_stranger(entries, peer) for entries in (forwarded, listed) if entries}
        # A proxy keeps up one of the two headers and passes the other on as the client sent it: where both are there
        # and disagree, one of them is a forgery, and nobody can tell which.
        return found.pop() if len(found) == 1 else peer

    def _last_stranger(self, entries: Sequence[str], peer: str) -> str:
        if self._hops:
            last = _parse(entries[-self._hops]) if len(entries) >= self._hops else None
            return str(last) if last is not None else peer
        nearest = peer
        for entry in reversed(entries[-MOST_HOPS:]):
            address = _parse(entry)
            if address is None:
                return nearest
            nearest = str(address)
            if not self._trusts(nearest):
                return nearest
        return nearest

    def _is_trusted(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def watch(self, scope: Scope) -> None:
        """Look for a proxy that nobody declared; warn of it once."""
        self.watched -= 1
        peer = (scope.get("client") or ("",))[0]
        names = (b"x-forwarded-for", b"forwarded")
        if any(name in names for name, _ in scope.get("headers", ())) and _is_private(peer):
            self.watched = 0
            log.warning(
                "a peer on a private address sends X-Forwarded-For or Forwarded, and trusted_proxies is empty: if it "
                "is your proxy, all its clients share one bucket. Name it: trusted_proxies=[%r] or its network",
                peer or "its address",
            )


def _forwarded_for(value: str) -> list[str]:
    """The `for=` of each element of a Forwarded field (RFC 7239, section 4), in order."""
    found = []
    for element in value.split(","):
        pairs = (pair.partition("=") for pair in element.split(";"))
        found += [node for name, _, node in pairs if name.strip().lower() == "for"] or [""]
    return found
