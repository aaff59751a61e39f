"""How long sessions live, how many a user may have, and how much one may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from traffic_cop_middleware.errors import ConfigurationError, SessionTooLarge

OnLimit = Literal["end_oldest", "refuse"]
LONGEST = 400 * 86_400.0
"""Seconds: the longest that browsers keep a cookie (RFC 6265bis, section 5.6.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """Durations in seconds. Checked when made.

    `idle`: without use a session ends after that. `lifetime`: in any case after that. `access`: how long an access
    token is good. `grace`: how long a refresh token that was just spent is answered with its successor; 0 is strict.
    `limit`: sessions that one user may have at once, and `on_limit` what a further login does. `size`: bytes.

    Raises:
        ConfigurationError: a value can't be used.
    """

    idle: float = 86_400.0
    lifetime: float = 30 * 86_400.0
    access: float = 600.0
    grace: float = 10.0
    limit: int | None = None
    on_limit: OnLimit = "end_oldest"
    size: int = 65_536

    def __post_init__(self) -> None:
        for name, least, most in (
            ("lifetime", 1, LONGEST),
            ("idle", 1, self.lifetime),
            ("access", 1, self.lifetime),
            ("grace", 0, 60),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
                why = " (session_lifetime)" if most is self.lifetime and name != "lifetime" else ""
                raise ConfigurationError(f"session_{name}={value!r}: seconds from {least} to {most:g}{why}")
        limit = self.limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000):
            raise ConfigurationError(
                f"session_limit={limit!r}: how many sessions a user may have at once, from 1 to 1000, or None"
            )
        if self.on_limit not in get_args(OnLimit):
            raise ConfigurationError(
                f"session_on_limit={self.on_limit!r}: 'end_oldest', or 'refuse' to turn the new login away"
            )
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 256 <= self.size <= 1 << 20:
            raise ConfigurationError(f"session_size={self.size!r}: bytes from 256 to {1 << 20}")

    def check_size(self, data: Mapping[str, str]) -> None:
        """See that a session's data is not too large.

        Raises:
            SessionTooLarge: it is.
        """
        size = sum(len(key.encode()) + len(text.encode()) for key, text in data.items())
        if size > self.size:
            raise too_large(size, self.size)


def too_large(size: int, most: int) -> SessionTooLarge:
    return SessionTooLarge(
        f"this session would hold {size:,} bytes, and {most:,} is the most. Keep large things elsewhere and their key "
        "here, or raise session_size="
    )
