"""Routes that nobody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from traffic_cop_middleware.abstractions.insights.sentences import number
from traffic_cop_middleware.abstractions.insights.values import Insight, name_of
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW

LEAST_DAYS = 7
"""Days that must be known before a route is called unused."""
ENOUGH_DAYS = 28
Route = tuple[str, str]
"""A template, and a method of it; "" where a route takes any."""


def unused(
    routes: Iterable[Route], requests: Mapping[Route, int], *, start: float, end: float, days: float
) -> list[Insight]:
    """Of the routes that an app has, those that no request came for; where none came for any of its methods, as one.

    `requests` are those from `start` to `end` (Unix seconds), of which `days` were recorded: less than a week says
    nothing, and neither do requests that no longer have a route of their own (`metrics_series`).
    """
    asked = {route for route, count in requests.items() if count}
    templates = {template for template, _ in asked}
    if days < LEAST_DAYS or not asked or OVERFLOW in templates:
        return []
    elsewhere = sum(requests.values())
    quiet = {(template, method if template in templates else "") for template, method in {*routes} - asked}
    found = []
    for template, method in sorted(each for each in quiet if each[1] or each[0] not in templates):
        labels = {"method": method, "route": template} if method else {"route": template}
        found.append(
            Insight(
                kind="unused",
                sentence=f"{name_of(labels)} had no request in {int(days)} days ({number(elsewhere)} elsewhere)",
                severity="info",
                start=start,
                labels=labels,
                evidence={"requests": 0.0, "days": round(days, 2), "until": end},
                baseline={"requests": float(elsewhere)},
                confidence=round(min(1.0, days / ENOUGH_DAYS), 2),
            )
        )
    return found
