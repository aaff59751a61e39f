"""What a limit would have refused of the recorded traffic, and which limits would fit it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from traffic_cop_middleware.abstractions.advisor.bounds import Bucket, Span
from traffic_cop_middleware.abstractions.advisor.needs import NeedsOfCounts
from traffic_cop_middleware.abstractions.advisor.pseudonyms import pseudonyms
from traffic_cop_middleware.abstractions.advisor.simulation import Between, LimitSimulation, duration, moment
from traffic_cop_middleware.abstractions.advisor.suggesting import (
    HEADROOM,
    KEEP,
    Suggestion,
    check_settings,
    of_route_totals,
)
from traffic_cop_middleware.abstractions.advisor.usage import AT_ONCE, MICRO, RecordedUse, bucket_of, written
from traffic_cop_middleware.abstractions.history.questions import HistoryQuestions
from traffic_cop_middleware.abstractions.history.ranges import MINUTE, Window, finest
from traffic_cop_middleware.abstractions.history.rows import summary_of_rows
from traffic_cop_middleware.abstractions.metrics import families
from traffic_cop_middleware.abstractions.metrics.histogram import SCALE
from traffic_cop_middleware.abstractions.metrics.lanes import numbers_in
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, UNMATCHED
from traffic_cop_middleware.abstractions.metrics.summary import COUNTS, REQUESTS, STREAMS, TIMINGS, USAGE, WIDTHS
from traffic_cop_middleware.abstractions.metrics.usage import KINDS
from traffic_cop_middleware.contracts import HistoryRow
from traffic_cop_middleware.contracts import Span as Buckets
from traffic_cop_middleware.contracts.history import RESOLUTIONS
from traffic_cop_middleware.errors import ConfigurationError

UsedBy = Literal["user", "tenant", "plan", "api_key", "route", "everyone"]
AT_A_TIME = 120
"""Buckets that are read at once."""
LONGEST_DELAY = 60.0
"""Seconds: no bucket of the history is shorter."""


class Slice(NamedTuple):
    """The rows of one bucket, of all sources: its start and end in microseconds."""

    start: int
    end: int
    rows: Sequence[HistoryRow]


class Shown(NamedTuple):
    """Whether keys are told by other names, and how many."""

    hashed: bool = False
    most: int = 100


class Durations(NamedTuple):
    """How long requests took: how many up to each bound (seconds), and how many of which that is not known."""

    bins: Mapping[float, int]
    others: int
    logins: int
    """Requests that count as their user's, though the limiter did not know him yet."""

    def delay(self, most: float) -> tuple[float, int]:
        """Seconds that nearly all took at the most, up to `most`, and how many may have taken longer."""
        within = [bound for bound in self.bins if bound <= most]
        longer = sum(count for bound, count in self.bins.items() if bound > most)
        return max(within, default=0.0), longer + self.others


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is to be read: buckets, and how long requests took meanwhile."""

    spans: Sequence[Buckets]
    durations: Durations


class HistoryAdvice(HistoryQuestions):
    """The limit advisor over the history."""

    async def simulate_limit(
        self,
        limit: str,
        *,
        by: UsedBy = "user",
        range: Window = "24h",
        burst: float | None = None,
        cost: float = 1,
        hash_keys: bool = False,
        most_shown: int = 100,
    ) -> LimitSimulation:
        """What a limit would have refused of the recorded traffic: `await cop.analytics.simulate_limit("100/minute")`.

        Bounds on how many requests and how many users it would have refused, who and when, had it stood with full
        buckets from the beginning of the range. The truth lies within them however requests lay within a minute; a
        request is counted when it ends, so the longest durations widen them. `print` tells it to people.

        `limit` is one rate. `by` says who shares a bucket: "user", "tenant", "plan", "api_key" (of the requests that
        had one; the others are not among them), "route" (one bucket each) or "everyone". Addresses are not recorded: an
        access log knows them (`python -m traffic_cop_middleware.advisor`). `burst` is the capacity and `cost` what a
        request takes, in tokens. `range` is as in `traffic`; minutes are there for 48 hours, what is older is in
        coarser buckets, and the bounds are further apart. `hash_keys` tells keys by names that only this simulation
        has.

        Of users beyond 2,000 in a bucket only the sum is known: it widens the bounds, `keys_hidden` says by how many
        users. Requests to routes with `@exempt` count like others. Reads all buckets of the range, 120 at a time, and
        works in a thread: a day of 2,000 busy users takes some seconds.

        Raises:
            ConfigurationError: no such range or `by`, or the limit can't be read or has several rates.
            StoreUnavailable: the documents are away.
        """
        _check_by(by, get_args(UsedBy))
        plain = bucket_of(limit, burst, cost)
        stretch = await self._stretch(range, by)
        bucket, late, notes = _allowing_for_ends(plain, stretch.durations)
        used = RecordedUse(bucket, late=late, foreign=stretch.durations.logins)
        async for slices in self._slices(stretch.spans, by):
            await self._computed(_add_to, used, slices, by)
        return await self._computed(
            _simulated,
            used,
            written(limit, burst),
            by,
            Shown(hash_keys, most_shown),
            [*notes, *_told(stretch.spans, by)],
        )

    async def suggest_limits(
        self,
        range: Window = "24h",
        *,
        by: Literal["user", "tenant", "plan", "api_key", "route"] = "user",
        keep: float = KEEP,
        headroom: float = HEADROOM,
        most: int = 50,
        hash_keys: bool = False,
    ) -> Sequence[Suggestion]:
        """A limit for each of the `most` busiest routes, the busiest first, each with its reason.

        Which route a user asks is not recorded, only how much each uses in all, and each route has. So a suggestion is
        the lower of two figures that no limit on the route needs to exceed: what `keep` of the usual users need over
        all routes together, and what the whole route needed; times `headroom`. It may be higher than need be; the
        reason says which figure it is, and `simulation` has bounds of what it would have refused on that route. An
        access log tells more (`python -m traffic_cop_middleware.advisor`). Where nobody was recorded, the whole route
        sets it: then it holds by whatever key. By "route" it is one bucket for all of the route's clients.

        The range is read twice. It raises what `simulate_limit` does.
        """
        _check_by(by, ("route", *KINDS))
        check_settings(keep, headroom)
        stretch = await self._stretch(range, by)
        users, routes = NeedsOfCounts(), NeedsOfCounts()
        if by != "route":
            async for slices in self._slices(stretch.spans, by):
                await self._computed(_needs_of, users, slices, by)
        async for slices in self._slices(stretch.spans, "route"):
            await self._computed(_needs_of, routes, slices, "route")
        told_as = pseudonyms() if hash_keys else str
        found = of_route_totals(
            {name: each for name, each in routes.needs.items() if name not in (UNMATCHED, OVERFLOW)},
            users.needs,
            by=by,
            keep=keep,
            headroom=headroom,
            most=most,
            told_as=told_as,
        )
        return await self._with_bounds(found, stretch, by)

    async def _with_bounds(self, found: Sequence[Suggestion], stretch: Stretch, by: UsedBy) -> Sequence[Suggestion]:
        """The same, each with the bounds of what it would have refused on its route."""
        alone: dict[str, tuple[RecordedUse, Sequence[str]]] = {}
        of_users: dict[str, RecordedUse] = {}
        for each in found:
            bucket, late, notes = _allowing_for_ends(bucket_of(each.limit, None, 1), stretch.durations)
            alone[each.route] = RecordedUse(bucket, late=late, foreign=stretch.durations.logins), notes
            # Where the whole route sets it, no user is near it, and what the users did on all routes tells no more.
            if by != "route" and not each.by_whole:
                of_users.setdefault(each.limit, RecordedUse(bucket, late=late, foreign=stretch.durations.logins))
        async for slices in self._slices(stretch.spans, "route"):
            await self._computed(_add_by_route, {route: used for route, (used, _) in alone.items()}, slices)
        if of_users:
            async for slices in self._slices(stretch.spans, by):
                for used in of_users.values():
                    await self._computed(_add_to, used, slices, by)
        notes_of_steps = _told(stretch.spans, by)
        users = {
            limit: await self._computed(_simulated, used, limit, by, Shown(most=0), ())
            for limit, used in of_users.items()
        }
        told = []
        for each in found:
            used, notes = alone[each.route]
            whole = await self._computed(_simulated, used, each.limit, by, Shown(), [*notes, *notes_of_steps])
            told.append(replace(each, simulation=_on_route(each, whole, users.get(each.limit))))
        return told

    async def _stretch(self, window: Window, by: UsedBy) -> Stretch:
        """Which buckets there are, as fine as can be, and how long requests took in them."""
        timed = [await self._find(window, kind=kind, name=None, step=None) for kind in (REQUESTS, STREAMS)]
        told = [families.SOCKET, families.SESSIONS] if by in KINDS else [families.SOCKET]
        counted = [await self._find(window, kind=COUNTS, name=name, step=None) for name in told]
        rows = [past.row for found in (*timed, *counted) for past in found.rows]
        durations = await self._computed(_durations, rows)
        start, end = timed[0].start, timed[0].end
        due = {each[:2] for each in await self._kept.due()}
        since = {} if self._kept.durable else await self._first(end)
        return Stretch(finest(start, end, now=self._clock(), due=due, since=since), durations)

    async def _first(self, end: int) -> Mapping[int, int]:
        """From when on there are buckets of each resolution, in memory, where the oldest of the finest go first."""
        found: dict[int, int] = {}
        since = end
        for resolution, coarser in pairwise(RESOLUTIONS):
            kept = await self._kept.read([Buckets(resolution, 0, end)])
            # Before the first of the finer ones there may be coarser ones; from then on these may not be made yet.
            since = min(since // coarser * coarser if found else end, kept[0].start if kept else end)
            found[resolution] = since
        return found

    async def _slices(self, spans: Sequence[Buckets], by: UsedBy) -> AsyncIterator[Sequence[Slice]]:
        """The rows about use, bucket by bucket, the oldest first, and some buckets at a time."""
        kinds = ((USAGE, by),) if by in KINDS else ((REQUESTS, None), (STREAMS, None))
        for resolution, first, last in spans:
            for start in _steps(first, last, AT_A_TIME * resolution):
                part = Buckets(resolution, start, min(last, start + AT_A_TIME * resolution))
                rows: dict[int, list[HistoryRow]] = {}
                for kind, name in kinds:
                    for past in await self._kept.read([part], kind=kind, name=name):
                        rows.setdefault(past.start, []).append(past.row)
                yield [Slice(at * MICRO, (at + resolution) * MICRO, each) for at, each in sorted(rows.items())]


def _check_by(by: str, known: Sequence[str]) -> None:
    if by not in known:
        more = ""
        if by == "ip":
            more = ". Addresses are not recorded; an access log has them: python -m traffic_cop_middleware.advisor"
        raise ConfigurationError(f"by={by!r}: there are {', '.join(map(repr, known))}{more}")


def _steps(first: int, last: int, step: int) -> Iterator[int]:
    return iter(range(first, last, step))


def _durations(rows: Sequence[HistoryRow], *, pause: Callable[[], None]) -> Durations:
    bins: dict[float, int] = {}
    others = 0
    summary = summary_of_rows(rows, pause=pause)
    for name, buckets in summary.durations.items():
        if name[0] in (REQUESTS, STREAMS):
            for index, count in buckets.bins().items():
                bound = 2.0 ** ((index + 1) / (1 << SCALE)) * 1.000_001
                bins[bound] = bins.get(bound, 0) + count
        elif name[:2] == (TIMINGS, families.SOCKET):
            others += buckets.count  # of a WebSocket it is known how long it was open, not how long it took to open
        pause()
    logins = sum(row for name, row in summary.rows.items() if name[:3] == (COUNTS, families.SESSIONS, "created"))
    return Durations(bins, others, logins)


def _allowing_for_ends(bucket: Bucket, durations: Durations) -> tuple[Bucket, int, Sequence[str]]:
    """The bucket, with a delay after which nearly all requests were counted; how many came later; and notes on that."""
    most = min(LONGEST_DELAY, bucket.burst / bucket.gain / MICRO / 2)
    delay, late = durations.delay(most)
    notes = []
    if late:
        notes.append(
            f"{late:,} requests or WebSockets may have taken longer than {duration(most)}; use is counted at their "
            "end, so each of them widens the bounds by one"
        )
    return replace(bucket, delay=round(delay * MICRO) + 1), late, notes


def _counts(part: Slice, by: UsedBy, pause: Callable[[], None]) -> Mapping[str, int]:
    """The requests of each key in a bucket."""
    found: dict[str, int] = {}
    for at, (name, row) in enumerate(summary_of_rows(part.rows, pause=pause).rows.items()):
        key = name[2] if name[0] == USAGE else "everyone" if by == "everyone" else name[1]
        found[key] = found.get(key, 0) + numbers_in(row, WIDTHS[name[0]])[0]
        if not at % AT_ONCE:
            pause()
    return found


def _add_to(used: RecordedUse, slices: Sequence[Slice], by: UsedBy, *, pause: Callable[[], None]) -> None:
    for part in slices:
        for at, (key, count) in enumerate(_counts(part, by, pause).items()):
            used.add(key, Span(part.start, part.end, count))
            if not at % AT_ONCE:
                pause()


def _add_by_route(used: Mapping[str, RecordedUse], slices: Sequence[Slice], *, pause: Callable[[], None]) -> None:
    for part in slices:
        for route, count in _counts(part, "route", pause).items():
            if route in used:
                used[route].add(route, Span(part.start, part.end, count))


def _needs_of(needs: NeedsOfCounts, slices: Sequence[Slice], by: UsedBy, *, pause: Callable[[], None]) -> None:
    for part in slices:
        for at, (key, count) in enumerate(_counts(part, by, pause).items()):
            needs.add(key, Span(part.start, part.end, count))
            if not at % AT_ONCE:
                pause()


def _simulated(
    used: RecordedUse, limit: str, by: str, shown: Shown, notes: Sequence[str], *, pause: Callable[[], None]
) -> LimitSimulation:
    return used.simulation(limit, by, hash_keys=shown.hashed, most_shown=shown.most, notes=notes, pause=pause)


def _told(spans: Sequence[Buckets], by: UsedBy) -> Sequence[str]:
    """What is to be said of the figures that were read."""
    said = []
    coarse = [span for span in spans if span.resolution > MINUTE]
    if coarse:
        steps = " and ".join(sorted({duration(span.resolution) for span in coarse}))
        said.append(f"up to {moment(max(span.end for span in coarse))} there are only counts of {steps}")
    if by in KINDS:
        said.append(f"only requests that had a verified {by.replace('_', ' ')} are recorded by it")
    return said


def _on_route(suggestion: Suggestion, whole: LimitSimulation, users: LimitSimulation | None) -> LimitSimulation:
    """What a limit would have refused on a route, where it is not known who asked it.

    A bucket for all of the route's clients together refuses no less than one for each; and a user's bucket refuses no
    more of the requests on one route than of all that it made.
    """
    if suggestion.by == "route":
        return replace(whole, keys_refused=Between(*(min(1, each) for each in whole.keys_refused)))
    high, touched = whole.refused.high, min(whole.refused.high, suggestion.keys)
    if users is not None:
        high, touched = min(high, users.refused.high), min(whole.refused.high, users.keys_refused.high)
    return replace(
        whole,
        refused=Between(0, high),
        keys=suggestion.keys,
        keys_hidden=0 if users is None else users.keys_hidden,
        keys_refused=Between(0, touched),
        who=(),
        when=tuple(replace(each, refused=Between(0, min(high, each.refused.high))) for each in whole.when),
    )
