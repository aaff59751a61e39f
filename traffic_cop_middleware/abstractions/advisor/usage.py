"""What a limit would have refused of recorded use: bounds, since only counts per span of time are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from traffic_cop_middleware.abstractions.advisor.bounds import Bucket, Span, bounds
from traffic_cop_middleware.abstractions.advisor.pseudonyms import pseudonyms
from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation, Refusals, RefusalTimes
from traffic_cop_middleware.abstractions.policies import capacity, parse_rates
from traffic_cop_middleware.contracts.usage import REST, UsageCount
from traffic_cop_middleware.errors import ConfigurationError

MICRO = 1_000_000
Recorded = dict[str, dict[tuple[int, int], int]]
"""The counts of each key by span (microseconds: its start, its end)."""


def simulate_usage(
    usage: Iterable[UsageCount],
    limit: str,
    *,
    by: str,
    burst: float | None = None,
    cost: float = 1,
    route: str | None = None,
    hash_keys: bool = False,
    most_shown: int = 100,
) -> LimitSimulation:
    """What `limit` would have refused of recorded use, had it stood with full buckets from the first span on.

    Bounds that hold however the requests lay within their spans (`bounds.py` proves them). `limit` is one rate
    ("100/minute"), `burst` its capacity in tokens, `cost` tokens a request. `by` says what the keys are ("user").
    `route`: only what was recorded of this route, as a limit on it counts; `None`: of all together. `hash_keys` tells
    keys by names that only this simulation has. Of keys and spans the `most_shown` that may have the most refused.

    Raises:
        ConfigurationError: the limit can't be read or has several rates; counts overlap in time or are below 0.
    """
    rates = parse_rates(limit)
    if len(rates) != 1:
        raise ConfigurationError(
            f"limit {limit!r}: bounds are worked out for one rate at a time; simulate each of {len(rates)} by itself"
        )
    bucket = Bucket.of(rates[0], capacity(rates[0], burst), cost)
    told_as = pseudonyms() if hash_keys else str
    counts, rest = gathered(each for each in usage if route is None or each.route == route)
    who: list[Refusals] = []
    times: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    low = high = certainly = perhaps = requests = 0
    for key, spans in counts.items():
        of_key = in_order(key, spans)
        found = bounds(of_key, bucket)
        asked = sum(spans.values())
        requests += asked
        low, high = low + found.refused.low, high + found.refused.high
        certainly, perhaps = certainly + (found.refused.low > 0), perhaps + (found.refused.high > 0)
        if found.refused.high:
            who.append(Refusals(told_as(key), asked, found.refused))
        for span, refused in zip(of_key, found.spans, strict=True):
            _add(times[span.start, span.end], span.requests, *refused)
    hidden = sum(rest.values())
    came = 0
    for place in sorted({*times, *rest} if rest else ()):
        # What was hidden up to here may have emptied buckets of known keys, and may have been refused itself.
        count = rest.get(place, 0)
        came += count
        sums = times[place]
        sums[0] += count
        sums[2] = min(sums[0], sums[2] + came)
    notes = ["of requests within a span of time only their number is known, so these are bounds"] if counts else []
    if hidden:
        who.append(Refusals(REST, hidden, Between(0, hidden)))
        perhaps = len(counts)
        notes.append(
            f"{hidden:,} requests of keys that a cap put together ({REST}): none or all of them may have been refused; "
            "such keys are not counted, and a key that is told may have had some of them beside its own"
        )
    who.sort(key=lambda each: (-each.refused.low, -each.refused.high, each.name))
    return LimitSimulation(
        limit=limit if burst is None else f"{limit}, burst {burst:g}",
        by=by,
        replayed=False,
        start=min((start for start, _ in times), default=0) / MICRO,
        end=max((end for _, end in times), default=0) / MICRO,
        requests=requests + hidden,
        refused=Between(low, high + hidden),
        keys=len(counts),
        keys_refused=Between(certainly, perhaps),
        who=tuple(who[:most_shown]),
        where=() if route is None else (Refusals(route, requests + hidden, Between(low, high + hidden)),),
        when=_worst(times, most_shown),
        notes=tuple(notes),
    )


def gathered(usage: Iterable[UsageCount]) -> tuple[Recorded, Mapping[tuple[int, int], int]]:
    """The counts of each key by span, and those of the rest.

    Raises:
        ConfigurationError: a count is below 0, or a step is not above 0.
    """
    counts: Recorded = defaultdict(lambda: defaultdict(int))
    for each in usage:
        if each.requests < 0 or not each.step > 0:
            raise ConfigurationError(f"{each!r}: a count is 0 or more, and a step more than 0 seconds")
        place = round(each.start * MICRO), round((each.start + each.step) * MICRO)
        counts[each.key][place] += each.requests
    rest = counts.pop(REST, {})
    return counts, rest


def in_order(key: str, spans: Mapping[tuple[int, int], int]) -> list[Span]:
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


def _add(sums: list[int], count: int, low: int, high: int) -> None:
    sums[0] += count
    sums[1] += low
    sums[2] += high


def _worst(times: Mapping[tuple[int, int], list[int]], most: int) -> tuple[RefusalTimes, ...]:
    found = [
        RefusalTimes(start / MICRO, (end - start) / MICRO, count, Between(low, high))
        for (start, end), (count, low, high) in times.items()
        if high
    ]
    found.sort(key=lambda span: (-span.refused.high, -span.refused.low, span.start))
    return tuple(sorted(found[:most], key=lambda span: span.start))
