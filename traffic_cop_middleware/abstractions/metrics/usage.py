"""Who used how much: by verified user, tenant, plan and API key. Never a label of Prometheus."""

from __future__ import annotations

from typing import NamedTuple

from traffic_cop_middleware.contracts.usage import REST

KINDS = ("user", "tenant", "plan", "api_key")
MOST = 2_000
"""How many of a kind are told apart within one window; the rest is one."""
LONGEST = 200
"""Characters of a name; longer ones go by their beginning."""


class Used(NamedTuple):
    """What one of them used: requests, those answered 5xx, those refused with 429, bytes of the bodies.

    `cost` is in millionths of what the cost hook gives.
    """

    requests: int = 0
    errors: int = 0
    refused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cost: int = 0


class Usage:
    """The use of one window, by kind and name."""

    __slots__ = ("kinds",)

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, list[int]]] = {}

    def add(self, kind: str, name: str, status: int, bytes_in: int, bytes_out: int, *, cost: int = 0) -> None:
        """Count a request."""
        used = self._of(kind, name)
        used[0] += 1
        if status >= 500:
            used[1] += 1
        elif status == 429:
            used[2] += 1
        used[3] += bytes_in
        used[4] += bytes_out
        used[5] += cost

    def _of(self, kind: str, name: str) -> list[int]:
        names = self.kinds.get(kind)
        if names is None:
            names = self.kinds.setdefault(kind, {})  # of another event loop, if that was faster
        used = names.get(name)
        if used is None:
            if len(name) > LONGEST:
                return self._of(kind, name[:LONGEST])
            if len(names) >= MOST and name != REST:
                return self._of(kind, REST)
            used = names.setdefault(name, [0] * len(Used._fields))
        return used
