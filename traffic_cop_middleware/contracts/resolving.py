"""Names of hosts and their addresses."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol


class Resolver(Protocol):
    """Finds the addresses of a host's name."""

    def resolve(self, host: str) -> Awaitable[Sequence[str]]:
        """Its addresses of IPv4 and IPv6, as texts, each once and in no order that means something; at least one.

        Raises:
            NoAddress: it has none, or nobody said so in time.
        """
        ...
