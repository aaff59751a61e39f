"""Requests in order of time, from a log that is nearly so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter

from traffic_cop_middleware.contracts.access_log import LoggedRequest

BATCH = 8192
MOST_HELD = 500_000
"""Requests that are held back at the most; with more within the window, the earliest go on."""
_time = itemgetter(0)


class InOrder:
    """The same requests, sorted by time as far as lines are no later than `window` seconds.

    Servers log a request when it ends, so lines are out of order by as long as requests take. Of the same time they
    stay as they stand. A line that comes later than that has the time of the last one: `late` counts them.
    """

    def __init__(self, requests: Iterable[LoggedRequest], *, window: float) -> None:
        self._requests = requests
        self._window = window
        self.late = 0

    def __iter__(self) -> Iterator[LoggedRequest]:
        last = 0.0
        for ready in self._sorted():
            for each in ready:
                if each.time < last:
                    self.late += 1
                    yield each._replace(time=last)
                else:
                    last = each.time
                    yield each

    def _sorted(self) -> Iterator[list[LoggedRequest]]:
        """What nothing earlier is waited for any more, sorted: one stretch after another."""
        held: list[LoggedRequest] = []
        room, newest = BATCH, 0.0
        for request in self._requests:
            held.append(request)
            newest = max(newest, request.time)
            if len(held) < room:
                continue
            held.sort(key=_time)
            ready = _before(held, newest - self._window)
            if len(held) - ready > MOST_HELD:
                ready = len(held) - MOST_HELD // 2
            yield held[:ready]
            del held[:ready]
            room = len(held) + BATCH
        held.sort(key=_time)
        yield held


def _before(held: list[LoggedRequest], time: float) -> int:
    """How many of these, sorted by time, are not after it."""
    low, high = 0, len(held)
    while low < high:
        middle = (low + high) // 2
        if held[middle].time <= time:
            low = middle + 1
        else:
            high = middle
    return low
