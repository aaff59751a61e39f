"""Token buckets in a dict, bounded.

A bucket is `[stamp, debt, rate]`: the tokens that were missing at `stamp` (microseconds). A full bucket holds nothing
worth keeping, so it may go at any time. Every new key looks at the two oldest buckets and drops those that are full
again: the dict shrinks by itself, with no pause for a sweep. At `max_keys` the bucket that lacks the fewest tokens, of
the 64 oldest, makes room: in a flood of made-up keys that is one of the flood's own, and a busy client's bucket stays.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import ceil, inf
from typing import Any

from traffic_cop_middleware.contracts import MICRO, SLACK, Guard, Take, Taken

SWEPT_PER_NEW_KEY = 2
LOOKED_AT_WHEN_CROWDED = 64
RELATIVE_SLACK = 1 + SLACK / 1000
ROUNDING = 2.0**52
"""Added to a float and taken away again, it leaves the nearest whole number: the cheapest way to one."""
_new = tuple.__new__


class MemoryBuckets:
    """`BucketStore` over a dict. One `take` at a time, over all threads, so each is atomic."""

    shared = False

    def __init__(self, *, clock: Callable[[], float], max_keys: int, keyspace: Mapping[str, Any]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._max_keys = max_keys
        self._keyspace = keyspace
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, requests: Sequence[Take], *, guard: Guard | None = None, now: float | None = None) -> Taken:
        at = (self._clock() if now is None else now) * MICRO + ROUNDING - ROUNDING
        with self._lock:
            if guard is not None and not self._holds(guard):
                return self._take(guard.otherwise, at, guard_held=False)
            if len(requests) == 1:
                # The usual request, granted, from a bucket that is known: in a third of the time of the other way.
                ((key, burst, rate, cost),) = requests
                bucket = self._buckets.get(key)
                if bucket is not None:
                    stamp, debt, known_rate = bucket
                    if at >= stamp and rate == known_rate:
                        debt -= (at - stamp) * rate / MICRO
                        after = debt + cost if debt > 0 else cost
                        if after <= burst:
                            bucket[0] = at
                            bucket[1] = after
                            return _new(Taken, (True, [ceil(after * MICRO)], True))
            return self._take(requests, at, guard_held=True)

    def _take(self, requests: Sequence[Take], at: float, *, guard_held: bool) -> Taken:
        find = self._buckets.get
        admitted = True
        fresh = False
        answers = []
        found = []
        debts = []
        for key, burst, rate, cost in requests:
            bucket = find(key)
            found.append(bucket)
            if bucket is None:
                fresh = True
                after = cost
            else:
                stamp, debt, known_rate = bucket
                if at >= stamp:
                    after = debt - (at - stamp) * rate / MICRO
                    after = after + cost if after > 0 else cost
                else:
                    bucket[0] = at
                    after = debt + cost
                if rate != known_rate:
                    bucket[2] = rate
            debts.append(after)
            if after <= burst or after <= burst * RELATIVE_SLACK + SLACK:
                answers.append(ceil(after * MICRO))
            else:
                admitted = False
                answers.append(min(-1, -ceil((after - burst) * MICRO / rate)))
        if not admitted:
            for index, after in enumerate(debts):
                if answers[index] >= 0:
                    answers[index] = ceil((after - requests[index].cost) * MICRO)
        elif fresh:
            self._charge(requests, found, debts, at)
        else:
            for bucket, after in zip(found, debts, strict=True):
                bucket[0] = at  # type: ignore[index]  # none of them is fresh
                bucket[1] = after  # type: ignore[index]
        return Taken(admitted, answers, guard_held)

    def forget(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._buckets.pop(key, None)

    def _charge(
        self, requests: Sequence[Take], found: Sequence[list[float] | None], debts: Sequence[float], at: float
    ) -> None:
        """Write debts where some of the buckets are new. Those come last: making room may drop one of this call's."""
        for bucket, after in zip(found, debts, strict=True):
            if bucket is not None:
                bucket[:2] = at, after
        for take, bucket, after in zip(requests, found, debts, strict=True):
            if bucket is None:
                self._make_room(at)
                self._buckets[take.key] = [at, after, take.rate]

    def _holds(self, guard: Guard) -> bool:
        record = self._keyspace.get(guard.record)
        if (
            record is None or getattr(record, "expires", inf) <= self._clock()
        ):  # it ran out, and is not cleared away yet
            return False
        return bool(self._keyspace.get(guard.generation_key, 0) == guard.generation)

    def _make_room(self, at: float) -> None:
        buckets = self._buckets
        for key, (stamp, debt, rate) in list(islice(buckets.items(), SWEPT_PER_NEW_KEY)):
            if debt <= (at - stamp) * rate / MICRO:
                del buckets[key]
            else:
                buckets.move_to_end(key)
        if len(buckets) >= self._max_keys:
            oldest = islice(buckets.items(), LOOKED_AT_WHEN_CROWDED)
            del buckets[min((debt - (at - stamp) * rate / MICRO, key) for key, (stamp, debt, rate) in oldest)[1]]
