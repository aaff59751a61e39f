"""What a limit would have refused of recorded use: bounds, since only counts per span of time are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from traffic_cop_middleware.abstractions.advisor.bounds import Bucket, KeyBounds, Span, Spanned
from traffic_cop_middleware.abstractions.advisor.pseudonyms import pseudonyms
from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation, Refusals, RefusalTimes
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.policies import capacity, parse_rates
from traffic_cop_middleware.contracts.usage import REST, UsageCount
from traffic_cop_middleware.errors import ConfigurationError

MICRO = 1_000_000
MOST_KEYS = 200_000
"""Keys that are told apart; what comes after that is hidden, as what a cap put together."""
AT_ONCE = 256
Place = tuple[int, int]
"""A span in microseconds: its start, its end."""
Recorded = dict[str, dict[Place, int]]
"""The counts of each key by span."""


def simulate_usage(
    usage: Iterable[UsageCount],
    limit: str,
    *,
    by: str,
    burst: float | None = None,
    cost: float = 1,
    route: str | None = None,
    delay: float = 0.0,
    hash_keys: bool = False,
    most_shown: int = 100,
) -> LimitSimulation:
    """What `limit` would have refused of recorded use, had it stood with full buckets from the first span on.

    Bounds that hold however the requests lay within their spans (`bounds.py` proves them). `limit` is one rate
    ("100/minute"), `burst` its capacity in tokens, `cost` tokens a request. `by` says what the keys are ("user").
    `route`: only what was recorded of this route, as a limit on it counts; `None`: of all together. `delay`: seconds
    after which requests were counted at the latest, where they were when they ended. `hash_keys` tells keys by names
    that only this simulation has. Of keys and spans the `most_shown` that may have the most refused.

    Raises:
        ConfigurationError: the limit can't be read or has several rates; counts overlap in time or are below 0; the
            delay is longer than a span.
    """
    counts, rest = gathered(each for each in usage if route is None or each.route == route)
    shortest = min((end - start for spans in (*counts.values(), rest) for start, end in spans), default=60 * MICRO)
    if not 0 <= delay * MICRO <= shortest:
        raise ConfigurationError(f"delay={delay!r}: seconds, no more than a span of the counts has")
    found = RecordedUse(bucket_of(limit, burst, cost, delay=delay))
    for key, spans in counts.items():
        for span in in_order(key, spans):
            found.add(key, span)
    for (start, end), count in rest.items():
        found.add(REST, Span(start, end, count))
    return found.simulation(written(limit, burst), by, route=route, hash_keys=hash_keys, most_shown=most_shown)


def bucket_of(limit: str, burst: float | None, cost: float, *, delay: float = 0.0) -> Bucket:
    """The bucket of a limit that has one rate.

    Raises:
        ConfigurationError: it can't be read or has several rates, or the cost is more than it holds.
    """
    rates = parse_rates(limit)
    if len(rates) != 1:
        raise ConfigurationError(
            f"limit {limit!r}: bounds are worked out for one rate at a time; simulate each of {len(rates)} by itself"
        )
    return Bucket.of(rates[0], capacity(rates[0], burst), cost, delay=round(delay * MICRO))


def written(limit: str, burst: float | None) -> str:
    """A limit as simulations tell it."""
    return limit if burst is None else f"{limit}, burst {burst:g}"


class RecordedUse:
    """Works out what a bucket would have refused as counts come: what it keeps grows with keys and spans alone.

    `late`: requests that were counted later after they came than the bucket's `delay` says; whose is not known.
    `foreign`: requests among those counted that took from no bucket, or another; whose is not known either.
    """

    def __init__(self, bucket: Bucket, *, late: int = 0, foreign: int = 0, most_keys: int = MOST_KEYS) -> None:
        self._bucket = bucket
        self._late = late
        self._unsure = late + foreign
        self._most_keys = most_keys
        self._keys: dict[str, KeyBounds] = {}
        self._rest: defaultdict[Place, int] = defaultdict(int)
        self._times: defaultdict[Place, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, key: str, span: Span) -> None:
        """Count a span of a key: its spans are disjoint, and come in order of time; those of `REST` need not."""
        known = self._keys.get(key)
        if known is None:
            if key == REST or len(self._keys) >= self._most_keys:
                self._rest[span.start, span.end] += span.requests
                return
            known = self._keys[key] = KeyBounds(self._bucket)
        settled = known.add(span)
        if settled is not None:
            self._settle(settled)

    def _settle(self, settled: Spanned) -> None:
        (start, end, count), (low, high) = settled
        sums = self._times[start, end]
        sums[0] += count
        sums[1] += low
        sums[2] += high

    def simulation(
        self,
        limit: str,
        by: str,
        *,
        route: str | None = None,
        hash_keys: bool = False,
        most_shown: int = 100,
        notes: Sequence[str] = (),
        pause: Callable[[], None] = never,
    ) -> LimitSimulation:
        """What was found; nothing can be added any more."""
        told_as = pseudonyms() if hash_keys else str
        hidden, late = sum(self._rest.values()), self._late
        who: list[Refusals] = []
        lows: list[int] = []
        rooms: list[int] = []
        low = high = requests = 0
        for at, (key, found) in enumerate(self._keys.items()):
            settled = found.end()
            if settled is not None:
                self._settle(settled)
            refused = found.refused
            requests += found.requests
            low, high = low + refused.low, high + refused.high
            lows.append(refused.low)
            rooms.append(found.room)
            if refused.high:
                between = Between(max(0, refused.low - self._unsure), min(found.requests, refused.high + late))
                who.append(Refusals(told_as(key), found.requests, between))
            if not at % AT_ONCE:
                pause()
        whole = requests + hidden
        refused = Between(max(0, low - self._unsure), min(whole, high + hidden + late))
        if hidden:
            who.append(Refusals(REST, hidden, Between(0, hidden)))
        who.sort(key=lambda each: (-each.refused.low, -each.refused.high, each.name))
        times = self._with_hidden()
        return LimitSimulation(
            limit=limit,
            by=by,
            replayed=False,
            start=min((start for start, _ in times), default=0) / MICRO,
            end=max((end for _, end in times), default=0) / MICRO,
            requests=whole,
            refused=refused,
            keys=len(self._keys),
            keys_hidden=hidden,
            keys_refused=Between(_certainly(lows, self._unsure), self._perhaps(rooms, hidden, late)),
            who=tuple(who[:most_shown]),
            where=() if route is None else (Refusals(route, whole, refused),),
            when=_worst(times, most_shown),
            notes=(*notes, *self._notes(hidden)),
        )

    def _perhaps(self, rooms: Sequence[int], hidden: int, late: int) -> int:
        """How many keys can have had requests refused: what nobody knows the keys of went to where it touches most."""
        unknown = hidden + late
        touched = 0
        for room in sorted(max(0, room + 1) for room in rooms):
            if room > unknown:
                break
            unknown -= room
            touched += 1
        return touched + min(hidden, unknown) // (self._bucket.burst // self._bucket.one + 1)

    def _with_hidden(self) -> Mapping[Place, Sequence[int]]:
        """The spans, with what may have been refused because of those requests of which the key is not known."""
        if not self._rest and not self._unsure:
            return self._times
        came = self._late
        for place in sorted({*self._times, *self._rest}):
            # What was hidden up to here may have emptied buckets of known keys, and may have been refused itself.
            count = self._rest.get(place, 0)
            came += count
            sums = self._times[place]
            sums[0] += count
            sums[1] = max(0, sums[1] - self._unsure)
            sums[2] = min(sums[0], sums[2] + came)
        return self._times

    def _notes(self, hidden: int) -> Sequence[str]:
        notes = []
        if self._keys:
            notes.append("of requests within a span of time only their number is known, so these are bounds")
        if hidden:
            notes.append(
                f"{hidden:,} requests of keys that a cap put together ({REST}): none or all of them may have been "
                f"refused, and whose they were is not known, so there may be up to {hidden:,} keys more"
            )
        return notes


def _certainly(lows: Sequence[int], unsure: int) -> int:
    """How many keys had requests refused for sure, if what came at another time, or elsewhere, spared most."""
    certain = sorted(filter(None, lows))
    spared = 0
    for low in certain:
        unsure -= low
        if unsure < 0:
            break
        spared += 1
    return len(certain) - spared


def gathered(usage: Iterable[UsageCount]) -> tuple[Recorded, Mapping[Place, int]]:
    """The counts of each key by span, and those of the rest.

    Raises:
        ConfigurationError: a count is none, or below 0, or a step is not above 0.
    """
    counts: Recorded = defaultdict(lambda: defaultdict(int))
    for each in usage:
        if not isinstance(each, UsageCount):
            raise ConfigurationError(
                f"{each!r}: usage is of UsageCount('alice', start, step, requests): so many requests of a key within "
                "`step` seconds from `start` on, in seconds since the epoch"
            )
        if each.requests < 0 or not each.step > 0:
            raise ConfigurationError(f"{each!r}: a count is 0 or more, and a step more than 0 seconds")
        place = round(each.start * MICRO), round((each.start + each.step) * MICRO)
        counts[each.key][place] += each.requests
    rest = counts.pop(REST, {})
    return counts, rest


def in_order(key: str, spans: Mapping[Place, int]) -> list[Span]:
    """A key's counts as spans, in order of time.

    Raises:
        ConfigurationError: they overlap.
    """
    found = [Span(start, end, count) for (start, end), count in sorted(spans.items())]
    for earlier, later in pairwise(found):
        if later.start < earlier.end:
            raise ConfigurationError(
                f"the counts of {key!r} overlap at {later.start / MICRO:g}: give each moment's requests once, from one "
                "step (minutes, or the hours that were made of them)"
            )
    return found


def _worst(times: Mapping[Place, Sequence[int]], most: int) -> tuple[RefusalTimes, ...]:
    found = [
        RefusalTimes(start / MICRO, (end - start) / MICRO, count, Between(low, high))
        for (start, end), (count, low, high) in times.items()
        if high
    ]
    found.sort(key=lambda span: (-span.refused.high, -span.refused.low, span.start))
    return tuple(sorted(found[:most], key=lambda span: span.start))
