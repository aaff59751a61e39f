"""Durations of the example shop as they were recorded, and series made of them.

Recorded: `examples/shop.py` without its limits, on uvicorn, by 8 clients at once, 1,200 requests
over loopback; 40 quantiles of each route, in microseconds. The tail is what the event loop's neighbours did.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from traffic_cop_middleware.abstractions.insights.values import Series
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram

MONDAY = 1_767_571_200
"""2026-01-05, 00:00 UTC."""
STEP, HOUR, DAY = 300, 3600, 86_400
SHOP: dict[str, Sequence[int]] = {
    "GET /products": (
        *(216, 282, 323, 371, 403, 432, 466, 541, 599, 643, 674, 716, 760, 779, 809, 849, 896, 942, 1004, 1041),
        *(1089, 1123, 1143, 1198, 1241, 1314, 1437, 1479, 1530, 1582, 1631, 1686, 1746, 1816, 1865, 1978, 2108),
        *(2694, 3995, 9628),
    ),
    "GET /search": (
        *(252, 271, 301, 323, 369, 421, 466, 489, 534, 565, 629, 668, 691, 751, 774, 814, 856, 900, 957, 1004),
        *(1058, 1097, 1132, 1172, 1213, 1259, 1317, 1369, 1432, 1490, 1534, 1562, 1622, 1665, 1767, 1865, 1983),
        *(2407, 5140, 9792),
    ),
    "POST /orders": (
        *(363, 425, 476, 521, 561, 587, 636, 690, 718, 770, 817, 850, 899, 964, 1016, 1065, 1105, 1152, 1198, 1236),
        *(1284, 1334, 1377, 1433, 1467, 1547, 1571, 1628, 1686, 1736, 1781, 1849, 1921, 2014, 2102, 2211, 2807),
        *(4683, 8147, 10268),
    ),
}
MEANS = {"GET /products": 60, "GET /search": 40, "POST /orders": 12}


def labels_of(name: str) -> dict[str, str]:
    method, route = name.split(" ")
    return {"method": method, "route": route}


def shop(
    *,
    days: float = 3,
    seed: int = 1,
    slow: Callable[[str, float], float] = lambda name, at: 0.0,
    fails: Callable[[str, float], float] = lambda name, at: 0.001,
) -> list[Series]:
    """Its traffic in buckets of 5 minutes: each request takes a recorded duration, and `slow` (seconds) more."""
    found = []
    for name, durations in SHOP.items():
        rng = random.Random(f"{seed}/{name}")
        counts, errors, times = [], [], []
        for index in range(int(days * DAY // STEP)):
            at = MONDAY + index * STEP
            mean = MEANS[name] * (1 + 0.6 * math.sin((at % DAY / DAY - 0.35) * 2 * math.pi))
            count = max(0, round(rng.gauss(mean, math.sqrt(mean))))
            histogram = Histogram()
            histogram.add_all(rng.choice(durations) / 1e6 + slow(name, at) for _ in range(count))
            counts.append(count)
            errors.append(sum(rng.random() < fails(name, at) for _ in range(count)))
            times.append(histogram)
        found.append(
            Series(start=MONDAY, step=STEP, counts=counts, errors=errors, durations=times, labels=labels_of(name))
        )
    return found


def noisy_week(mean: float, *, weeks: float = 5, seed: int = 1, step: int = STEP) -> list[int]:
    """Counts with the shape of a day, and chance."""
    rng = random.Random(seed)
    found = []
    for index in range(int(weeks * 7 * DAY // step)):
        expected = mean * (1 + 0.6 * math.sin(index * step % DAY / DAY * 2 * math.pi))
        found.append(max(0, round(rng.gauss(expected, math.sqrt(expected)))))
    return found
