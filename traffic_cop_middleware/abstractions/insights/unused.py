"""Routes that nobody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from traffic_cop_middleware.abstractions.insights.sentences import DAY, number
from traffic_cop_middleware.abstractions.insights.values import Insight, Series, name_of

LEAST_DAYS = 7
"""Days that must be known before a route is called unused."""
ENOUGH_DAYS = 28


def unused(routes: Iterable[Mapping[str, str]], seen: Sequence[Series]) -> list[Insight]:
    """Of the routes that an app has (by the labels of their series), those that no request came for.

    `seen` is the traffic of all routes, a week of it at least; less says nothing.
    """
    if not seen:
        return []
    start, end = min(series.start for series in seen), max(series.end for series in seen)
    known = {series.time(at) for series in seen for at, count in enumerate(series.counts) if count is not None}
    days = len(known) * seen[0].step / DAY
    requests = sum(count or 0 for series in seen for count in series.counts)
    if days < LEAST_DAYS or not requests:
        return []
    asked = [series.labels for series in seen if any(series.counts)]
    found = []
    for labels in sorted(routes, key=name_of):
        if not any(all(other.get(name) == value for name, value in labels.items()) for other in asked):
            found.append(
                Insight(
                    kind="unused",
                    sentence=f"{name_of(labels)} had no request in {int(days)} days ({number(requests)} elsewhere)",
                    severity="info",
                    start=start,
                    labels=dict(labels),
                    evidence={"requests": 0.0, "days": round(days, 2), "until": end},
                    baseline={"requests": float(requests)},
                    confidence=round(min(1.0, days / ENOUGH_DAYS), 2),
                )
            )
    return found
