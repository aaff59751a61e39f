"""Limits on all paths below a prefix."""

from __future__ import annotations

from traffic_cop_middleware.errors import ConfigurationError
from traffic_cop_middleware.middleware.marks import Limit


class Subtree:
    """Limits on all paths below a prefix."""

    __slots__ = ("_below", "_prefix", "limits")

    def __init__(self, pattern: str, limits: tuple[Limit, ...]) -> None:
        if (
            not isinstance(pattern, str)
            or not pattern.startswith("/")
            or not pattern.endswith("/*")
            or "*" in pattern[:-1]
        ):
            raise ConfigurationError(
                f"{pattern!r}: a subtree of paths is written as its prefix and a star, as in '/admin/*'; it takes "
                "in '/admin' and all below"
            )
        if not limits:
            raise ConfigurationError(f"{pattern!r}: that names no limit: write one like '10/minute'")
        self._prefix = pattern[:-2]
        self._below = pattern[:-1]
        self.limits = limits

    @property
    def pattern(self) -> str:
        return self._below + "*"

    def takes_in(self, path: str) -> bool:
        return path.startswith(self._below) or path.rstrip("\n") == self._prefix
