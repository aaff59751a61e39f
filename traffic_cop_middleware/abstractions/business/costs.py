"""What requests cost, by a function or a table of the app's.

Costs are added up in millionths, as whole numbers, so that a sum of any length is exact. A function that fails, or
gives what is no cost, is logged, once a minute at most: the request goes on, and counts with no cost.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from math import isfinite
from typing import TypeGuard

from traffic_cop_middleware.abstractions.metrics.business import MILLION
from traffic_cop_middleware.errors import ConfigurationError

log = logging.getLogger("traffic_cop")

Amount = int | float | Decimal
CostFunction = Callable[[str, str, int, float, int], Amount]
"""Of route template, method, status, seconds and bytes of the response's body."""
Costs = CostFunction | Mapping[str, Amount]
MOST_COST = 1_000_000
"""Of one request."""
LOG_PERIOD = 60.0
EVERY_OTHER = "*"
EXACT = Context(prec=400, traps=[])
"""More digits than any number has that may be counted, and a millionth of it."""


def millionths(amount: object) -> int:
    """A cost, in millionths.

    Raises:
        ValueError: it is no number, not finite, negative, or above `MOST_COST`.
    """
    if not is_finite(amount):
        raise ValueError(f"{amount!r} is no number")
    if not 0 <= amount <= MOST_COST:
        raise ValueError(f"{amount!r} is not from 0 to {MOST_COST}")
    return in_millionths(amount)


def is_finite(number: object) -> TypeGuard[Amount]:
    """Whether it is a number that is told apart from infinity as a float."""
    if not isinstance(number, (int, float, Decimal)) or isinstance(number, bool):
        return False
    try:
        return isfinite(number)
    except (OverflowError, ValueError):  # an int beyond floats; a signaling NaN
        return False


def in_millionths(number: Amount) -> int:
    """A finite number, rounded to a millionth."""
    # The app's decimal context may have fewer digits.
    return round(EXACT.multiply(number, MILLION) if isinstance(number, Decimal) else number * MILLION)


class CostOf:
    """What a request costs, in millionths. `costs` is a function, or a table by route template (`"*"`: the others).

    Raises:
        ConfigurationError: it is neither, or has what is no cost.
    """

    __slots__ = ("_costs", "_logged", "_other", "_table")

    def __init__(self, costs: Costs) -> None:
        self._costs: CostFunction | None = None
        self._table: dict[str, int] = {}
        self._logged = -LOG_PERIOD
        if isinstance(costs, Mapping):
            for route, amount in costs.items():
                try:
                    self._table[route] = millionths(amount)
                except ValueError as exc:
                    raise ConfigurationError(f"business_metrics_cost={{{route!r}: {amount!r}}}: {exc}") from exc
        elif callable(costs) and not any(map(inspect.iscoroutinefunction, (costs, type(costs).__call__))):
            self._costs = costs
        else:
            raise ConfigurationError(
                f"business_metrics_cost={costs!r}: a plain function (route, method, status, seconds, bytes_out) that "
                "gives a number, or {'/report': 0.002, '*': 0.0001}"
            )
        self._other = self._table.get(EVERY_OTHER, 0)

    def __call__(self, route: str, method: str, status: int, seconds: float, bytes_out: int) -> int:
        if self._costs is None:
            return self._table.get(route, self._other)
        try:
            return millionths(self._costs(route, method, status, seconds, bytes_out))
        except Exception as exc:  # noqa: BLE001 - it is the app's, and no request fails of it
            now = time.monotonic()
            if now - self._logged >= LOG_PERIOD:
                self._logged = now
                log.warning(
                    "business_metrics_cost failed for %s %s, whose cost is left out: %s: %s",
                    method,
                    route,
                    type(exc).__name__,
                    exc,
                )
            return 0
