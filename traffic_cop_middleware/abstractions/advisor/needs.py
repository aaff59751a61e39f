"""What each key needs of a limit on a route so that it is never refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from traffic_cop_middleware.abstractions.advisor.bounds import Bucket, KeyBounds, Span
from traffic_cop_middleware.abstractions.advisor.usage import gathered, in_order
from traffic_cop_middleware.abstractions.policies import Rate
from traffic_cop_middleware.contracts.usage import REST, UsageCount

MINUTE = 60.0
MOST_KEYS = 200_000
"""Pairs of a route and a key that are followed; of what comes after that only the number is counted."""

Needs = Mapping[str, Mapping[str, tuple[int, int]]]
"""By route and key: how many requests a minute it needs, and how many requests it made."""


class NeedsOfArrivals:
    """Finds the needs of requests whose times are known, as they come.

    Each route and key has a bucket of `N` tokens that gains `N` a minute, and `N` is raised whenever a request would be
    refused. *Invariant*: `N/minute` refuses none of the requests so far. For what is missing of the bucket was drained
    at rates up to `N`, so with `N` from the beginning less is missing at any time. It may be more than is needed.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], list[float]] = {}
        self.left_out = 0

    def add(self, time: float, route: str, key: str) -> None:
        """A request. Times do not go back."""
        known = self._known.get((route, key))
        if known is None:
            if len(self._known) >= MOST_KEYS:
                self.left_out += 1
            else:
                self._known[route, key] = [time, 1.0, 1.0, 1.0]
            return
        stamp, missing, need, requests = known
        missing = max(0.0, missing - (time - stamp) * need / MINUTE) + 1
        while missing > need + 1e-9:
            need += 1
        known[:] = time, missing, need, requests + 1

    def needs(self) -> Needs:
        """What was found so far."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for (route, key), (_stamp, _missing, need, requests) in self._known.items():
            found.setdefault(route, {})[key] = round(need), round(requests)
        return found


class NeedsOfCounts:
    """Finds the needs of counts as they come, of spans of a minute or longer; what is kept grows with the keys alone.

    `needs` has by key how many requests a minute it needs, and how many it made. All of two spans that follow each
    other may have come at their border: `N` is enough for any two. *Proof.* Of spans `i…j` there may come no more than
    `N + N (s_j - e_i) / 60`. Of three or more `s_j - e_i` is at least 60 s for each of those in between, and half of
    them, rounded up, are pairs of at most `N`.
    """

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._most_keys = most_keys
        self._last: dict[str, Span] = {}
        self.needs: dict[str, tuple[int, int]] = {}
        self.hidden = 0
        """Requests of keys that are not told apart."""

    def add(self, key: str, span: Span) -> None:
        """Count a span: those of a key are disjoint, and come in order of time."""
        if key == REST or (len(self.needs) >= self._most_keys and key not in self.needs):
            self.hidden += span.requests
            return
        need, requests = self.needs.get(key, (1, 0))
        last = self._last.get(key)
        beside = last.requests if last is not None and last.end == span.start else 0
        self._last[key] = span
        self.needs[key] = max(need, beside + span.requests), requests + span.requests


def needs_of_usage(usage: Iterable[UsageCount]) -> Needs:
    """The needs of recorded use, of which only the number within each span is known: no less than the true ones.

    Raises:
        ConfigurationError: a count is below 0, or counts overlap in time.
    """
    by_route: dict[str, list[UsageCount]] = {}
    for each in usage:
        by_route.setdefault(each.route, []).append(each)
    found = {}
    for route, counts in by_route.items():
        keys, _rest = gathered(counts)
        found[route] = {key: (_need(in_order(key, spans)), sum(spans.values())) for key, spans in keys.items()}
    return found


def _need(spans: Sequence[Span]) -> int:
    """The least `N` with which certainly none is refused: more tokens refuse no more, so halving finds it."""
    low = max([1, *(span.requests for span in spans)])  # all of a span may have come at once
    high = low
    while not _fits(spans, high):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if _fits(spans, middle):
            high = middle
        else:
            low = middle + 1
    return high


def _fits(spans: Sequence[Span], need: int) -> bool:
    found = KeyBounds(Bucket.of(Rate("", need, 60), need))
    for span in spans:
        found.add(span)
    return found.room >= 0
