"""Counts a replay's decisions, within bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation, Refusals, RefusalTimes
from traffic_cop_middleware.contracts.usage import REST

STEPS = (60, 300, 3600, 86_400)
"""Seconds of a span of time: the next larger one where there are too many spans."""
MOST_SPANS = 20_000
MOST_ROUTES = 1_000
MOST_KEYS = 1_000_000
"""Keys that are told apart; the rest is one, which is not counted among the keys."""

Counts = dict[str, list[int]]
"""Requests and refusals by name."""


class Tally:
    """What was asked and refused: in all, by key, route, limit and span of time."""

    def __init__(self, *, most_keys: int = MOST_KEYS) -> None:
        self._most_keys = most_keys
        self.requests = 0
        self.refused = 0
        self.start = 0.0
        self.end = 0.0
        self.keys: Counts = {}
        self.routes: Counts = {}
        """What is told apart."""
        self._limits: Counts = {}
        self._spans: dict[int, list[int]] = {}
        self._step = STEPS[0]
        self.whole_seconds = True
        """Whether no time had a fraction of a second."""

    def add(self, time: float, key: str, route: str, refused: bool) -> None:
        """Count a request. Times do not go back."""
        if not self.requests:
            self.start = time
        self.requests += 1
        self.end = time
        if self.whole_seconds and time % 1:
            self.whole_seconds = False
        counts = self.keys.get(key) or self._new(self.keys, key, self._most_keys)
        counts[0] += 1
        of_route = self.routes.get(route) or self._new(self.routes, route, MOST_ROUTES)
        of_route[0] += 1
        span = int(time) // self._step
        of_span = self._spans.get(span)
        if of_span is None:
            of_span = self._new_span(time)
        of_span[0] += 1
        if refused:
            self.refused += 1
            counts[1] += 1
            of_route[1] += 1
            of_span[1] += 1

    def charge(self, limits: Iterable[str], refusing: Iterable[str]) -> None:
        """Count that these limits were asked, and that those refused."""
        for name in limits:
            self._limits.setdefault(name, [0, 0])[0] += 1
        for name in refusing:
            self._limits[name][1] += 1

    def _new(self, names: Counts, name: str, most: int) -> list[int]:
        if len(names) >= most:
            return names.setdefault(REST, [0, 0])
        counts = names[name] = [0, 0]
        return counts

    def _new_span(self, time: float) -> list[int]:
        while len(self._spans) >= MOST_SPANS and self._step < STEPS[-1]:
            coarser = STEPS[STEPS.index(self._step) + 1]
            spans: dict[int, list[int]] = {}
            for span, (requests, refused) in self._spans.items():
                counts = spans.setdefault(span * self._step // coarser, [0, 0])
                counts[0] += requests
                counts[1] += refused
            self._spans, self._step = spans, coarser
        return self._spans.setdefault(int(time) // self._step, [0, 0])

    def simulation(
        self,
        limit: str,
        by: str,
        *,
        notes: Iterable[str] = (),
        told_as: Callable[[str], str] | None = None,
        most_shown: int = 100,
    ) -> LimitSimulation:
        """What was found, keys called as `told_as` says; of each kind the `most_shown` with the most refused."""
        hidden = self.keys.get(REST)
        told = list(notes)
        if hidden is not None:
            told.append(f"more than {self._most_keys:,} keys: {hidden[0]:,} requests of the rest are not told apart")
        touched = sum(1 for name, (_, refused) in self.keys.items() if refused and name != REST)
        spans = sorted(
            ((span, counts) for span, counts in self._spans.items() if counts[1]), key=lambda each: -each[1][1]
        )
        who = _most_refused(self.keys, most_shown)
        if told_as is not None:
            who = tuple(Refusals(told_as(each.name), each.requests, each.refused) for each in who)
        return LimitSimulation(
            limit=limit,
            by=by,
            replayed=True,
            start=self.start,
            end=self.end,
            requests=self.requests,
            refused=Between(self.refused, self.refused),
            keys=len(self.keys) - (hidden is not None),
            keys_refused=Between(touched, touched),
            who=who,
            where=_most_refused(self.routes, most_shown),
            when=tuple(
                RefusalTimes(span * self._step, self._step, requests, Between(refused, refused))
                for span, (requests, refused) in sorted(spans[:most_shown])
            ),
            limits=_most_refused(self._limits, most_shown),
            notes=tuple(told),
        )


def _most_refused(names: Counts, most: int) -> tuple[Refusals, ...]:
    found = sorted(
        ((refused, requests, name) for name, (requests, refused) in names.items() if refused),
        key=lambda each: (-each[0], each[2]),
    )
    return tuple(Refusals(name, requests, Between(refused, refused)) for refused, requests, name in found[:most])
