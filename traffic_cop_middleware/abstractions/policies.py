"""What a limit says: "100/minute", as numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from traffic_cop_middleware.errors import ConfigurationError

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
SHORT = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day", "w": "week"}
MOST = 9_000_000_000
"""Tokens of a bucket at the most: stores answer in millionths of a token, in integers below 2**53."""

RATE = re.compile(r"\s*(\d{1,30})\s*(?:/|\bper\b)\s*(\d{1,6})?\s*([a-z]+)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` tokens in `seconds`, as it was written."""

    text: str
    count: int
    seconds: int


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One limit, ready to be applied. Made once per plan and compared by identity: it is a key on every request.

    `name` stands in the response fields, `bucket` behind the subject in the store's key; `rate` is tokens per second.
    """

    name: str
    bucket: str
    burst: float
    rate: float

    @property
    def window(self) -> int:
        """Seconds, rounded up, in which an empty bucket is full again: `w` on the wire."""
        return math.ceil(self.burst / self.rate - 1e-9)


def parse_rates(text: str) -> tuple[Rate, ...]:
    """The rates of "100/minute" or "10/second; 1000/day", in order.

    A unit is second, minute, hour, day or week (or s, min, h, d, w), with a count before it if wished: "5/30 seconds".

    Raises:
        ConfigurationError: it does not say a rate.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a limit is written as a string like '100/minute', not {text!r}")
    rates = []
    for part in text.split(";"):
        found = RATE.fullmatch(part.lower())
        unit = found[3] if found else ""
        unit = SHORT.get(unit, unit.removesuffix("s") if len(unit) > 1 else unit)
        if found is None or unit not in SECONDS:
            raise ConfigurationError(
                f"limit {text!r}: {part.strip()!r} is not a rate. Write a count, a slash and second, minute, hour, day "
                "or week: '100/minute', '5/30 seconds', or several as '10/second; 1000/day'"
            )
        count, seconds = int(found[1]), int(found[2] or 1) * SECONDS[unit]
        if not 1 <= count <= MOST or seconds < 1:
            raise ConfigurationError(
                f"limit {text!r}: a count is from 1 to {MOST} and a period at least a second. To refuse everything, "
                "remove the route; to let everything pass, leave the limit out or mark the route @exempt"
            )
        rates.append(Rate(" ".join(part.split()), count, seconds))
    return tuple(rates)


def capacity(rate: Rate, burst: float | None) -> float:
    """The capacity of a bucket: `burst` where given, else the rate's count.

    Raises:
        ConfigurationError: `burst` is no number from 1 up.
    """
    if burst is None:
        return rate.count
    if isinstance(burst, bool) or not isinstance(burst, (int, float)) or not 1 <= burst <= MOST:
        raise ConfigurationError(
            f"burst={burst!r}: a bucket holds from 1 to {MOST} tokens. Leave burst out for the limit's own count "
            f"({rate.count} for {rate.text!r})"
        )
    return burst
