"""What the live view needs of a stretch of time, in a form that adds up fast: the windows are written in it.

Theory of operation. A summary has rows of numbers (of a route, method and status: requests, bytes, and so on), and the
buckets of durations, which are told apart by route and method. Either is one integer with a lane for each number
(`lanes.py`). A blob of it has the names (JSON), the rows, where the buckets of each histogram begin and how many they
are, and the buckets, empty ones too, in narrow lanes where the counts are small (behind a number that none of them
reaches; 0 where the lanes are not narrow), and last the levels (JSON); compression takes the empty ones away, and
brings them back in C. Blobs with the same names, as workers of one app mostly have them, are added up place by place,
all of their rows by one addition. So 400 workers with 300 series take a quarter of a second of CPU where reading bucket
by bucket took five.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from traffic_cop_middleware.abstractions.metrics.blobs import blob_of, parts_of
from traffic_cop_middleware.abstractions.metrics.business import Level
from traffic_cop_middleware.abstractions.metrics.figures import MOST_NAMES, Figures, Name
from traffic_cop_middleware.abstractions.metrics.lanes import BUCKET, NARROW, NUMBER, Buckets, lanes_of, relaned
from traffic_cop_middleware.abstractions.metrics.pauses import never
from traffic_cop_middleware.abstractions.metrics.series import OVERFLOW, Key, Series
from traffic_cop_middleware.abstractions.metrics.usage import MOST
from traffic_cop_middleware.contracts.usage import REST

FORM = b"4"
REQUESTS, STREAMS, COUNTS, TIMINGS, USAGE = "requests", "streams", "counts", "timings", "usage"
BUSINESS = "business"
FIRST_BYTE = {REQUESTS: "requests.first_byte", STREAMS: "streams.first_byte"}
WIDTHS = {REQUESTS: 5, STREAMS: 5, COUNTS: 1, USAGE: 6, BUSINESS: 2}
"""Numbers of a row by the first part of its name. Of requests: their number, bytes in and out, exceptions,
disconnects; of usage those of `Used`; of an app's own metrics one that is twice as wide."""
MOST_NARROW = 1 << 13
"""Up to so many durations in each histogram the lanes are narrow; so seven blobs at least are added up as they are."""
LOWEST = 1 << 15
"""Added to an index, so that it is not negative."""
SHORT = 1_000
"""Bytes of names that are remembered."""
AT_ONCE = 64
"""Histograms that are added up without a pause: that takes a tenth of a millisecond."""


class Summary:
    """`rows` are numbers, `durations` buckets, `levels` what an app's own gauges say, by name: a word of above, and
    labels."""

    __slots__ = ("_grown", "durations", "levels", "rows")

    def __init__(self) -> None:
        self.rows: dict[Name, int] = {}
        self.durations: dict[Name, Buckets] = {}
        self.levels: dict[Name, Level] = {}
        self._grown: dict[Name, int] = defaultdict(int)
        """How many names there are of those whose number is limited."""

    def add_row(self, name: Name, row: int) -> None:
        """Add numbers to a row."""
        rows = self.rows
        known = rows.get(name)
        if known is None:
            name = self._limited(name)
            known = rows.get(name, 0)
        rows[name] = known + row

    def add_durations(self, name: Name, low: int, lanes: int) -> None:
        """Add buckets."""
        known = self.durations.get(name)
        if known is None:
            name = self._limited(name)
            known = self.durations.setdefault(name, Buckets())
        known.add(low, lanes)

    def add_level(self, name: Name, level: Level) -> None:
        """Take note of a level."""
        known = self.levels.get(name)
        if known is None:
            name = self._limited(name)
            known = self.levels.get(name, level)
        self.levels[name] = known.with_(level)

    def _limited(self, name: Name) -> Name:
        """The name, or where there are too many that of the rest."""
        kind = name[0]
        if kind == USAGE:
            limited, most, rest = name[:2], MOST, (*name[:2], REST)
        elif kind == BUSINESS:
            if name in self.rows or name in self.durations:
                return name  # an observation has both
            limited, most, rest = name[:2], MOST_NAMES, (*name[:2], *(OVERFLOW for _ in name[2:]))
        elif kind in (COUNTS, TIMINGS):
            limited, most, rest = name[:1], MOST_NAMES, (*name[:2], *(OVERFLOW for _ in name[2:]))
        else:
            return name
        if name != rest:
            if self._grown[limited] >= most:
                return rest
            self._grown[limited] += 1
        return name

    def add(self, other: Summary, *, pause: Callable[[], None] = never) -> None:
        """Add what another one holds."""
        for at, (name, row) in enumerate(other.rows.items()):
            self.add_row(name, row)
            if not at % AT_ONCE:
                pause()
        for at, (name, buckets) in enumerate(other.durations.items()):
            self.add_durations(name, buckets.low, buckets.lanes)
            if not at % AT_ONCE:
                pause()
        for name, level in other.levels.items():
            self.add_level(name, level)


def summary_of(figures: Figures, *, pause: Callable[[], None] = never) -> Summary:
    """Figures in this form.

    What goes by requests is copied first: one of another event loop may still come in.
    """
    summary = Summary()
    for kind, series_by in ((REQUESTS, figures.requests), (STREAMS, figures.streams)):
        for key, series in series_by.copy().items():
            _add_series(summary, kind, key, series)
            pause()
    for name, number in figures.counts.items():
        summary.add_row((COUNTS, *name), number)
    for name, timed in figures.timings.items():
        buckets = Buckets.of(timed.bins)
        summary.add_durations((TIMINGS, *name), buckets.low, buckets.lanes)
    for kind, names in figures.usage.kinds.copy().items():
        for user, used in names.copy().items():
            summary.add_row((USAGE, kind, user), lanes_of(used))
        pause()
    business = figures.business
    for name, number in business.numbers.items():
        summary.add_row((BUSINESS, *name), number)
    for name, observed in business.observed.items():
        buckets = Buckets.of(observed.bins)
        summary.add_durations((BUSINESS, *name), buckets.low, buckets.lanes)
        pause()
    for name, level in business.levels.items():
        summary.add_level((BUSINESS, *name), level)
    return summary


def _add_series(summary: Summary, kind: str, key: Key, series: Series) -> None:
    series.settle()
    route, method, status = key
    numbers = (series.count, series.bytes_in, series.bytes_out, series.exceptions, series.disconnects)
    summary.add_row((kind, route, method, str(status)), lanes_of(numbers))
    for name, timed in ((kind, series.duration), (FIRST_BYTE[kind], series.first_byte)):
        buckets = Buckets.of(timed.bins)
        summary.add_durations((name, route, method), buckets.low, buckets.lanes)


def encode(summary: Summary, *, pause: Callable[[], None] = never) -> bytes:
    """A summary as a blob."""
    rows, durations = sorted(summary.rows), sorted(summary.durations)
    numbers = b"".join(summary.rows[name].to_bytes(WIDTHS[name[0]] * NUMBER, "little") for name in rows)
    every = [summary.durations[name] for name in durations]
    # No bucket has more than its histogram.
    most = max((buckets.count for buckets in every), default=0) + 1
    if most > MOST_NARROW:
        most = 0
    places = [most]
    lanes = []
    for buckets in every:
        data = buckets.packed()
        places += buckets.low + LOWEST, len(data) // BUCKET
        lanes.append(relaned(data, BUCKET, NARROW) if most else data)
        pause()
    names = json.dumps([rows, durations], separators=(",", ":")).encode("ascii")
    levels = json.dumps(sorted(summary.levels.items()), separators=(",", ":")).encode("ascii")
    return blob_of(FORM, (names, numbers, struct.pack(f"<{len(places)}H", *places), b"".join(lanes), levels))


class Layout(NamedTuple):
    """Names as a blob has them: those of rows, with their bytes and where their first number is; and of durations."""

    rows: Sequence[tuple[Name, int]]
    places: Sequence[int]
    durations: Sequence[Name]
    size: int


def _layout(names: bytes) -> Layout:
    """Raises ValueError: these are no names."""
    return _known_layout(names) if len(names) <= SHORT else _new_layout(names)


def _new_layout(names: bytes) -> Layout:
    try:
        told, durations = json.loads(names)
        rows = [(tuple(name), WIDTHS[name[0]] * NUMBER) for name in told]
        *places, size = accumulate((size for _, size in rows), initial=0)
        return Layout(rows, places, [tuple(name) for name in durations], size)
    except (ValueError, TypeError, LookupError) as exc:
        raise ValueError(f"a blob that holds no figures: {exc}") from exc


_known_layout = lru_cache(maxsize=2_000)(_new_layout)
"""Each route has the same names in each bucket of its history."""


def _spread(layout: Layout, numbers: bytes, places: bytes, lanes: bytes) -> tuple[int, Sequence[int], Sequence[int]]:
    """What no narrow lane reaches, and where the buckets begin and how many they are.

    Raises:
        ValueError: the parts don't fit the names.
    """
    if len(numbers) != layout.size or len(places) != 2 + 4 * len(layout.durations):
        raise ValueError("a blob that holds no figures: its numbers do not fit its names")
    most, *found = struct.unpack(f"<{len(places) // 2}H", places)
    lows, sizes = found[::2], found[1::2]
    if sum(sizes) * (NARROW if most else BUCKET) != len(lanes):
        raise ValueError("a blob that holds no figures: its buckets do not fit their places")
    return most, lows, sizes


def first_numbers(
    blob: bytes, *, timed: Collection[str]
) -> tuple[Sequence[tuple[Name, int]], Sequence[tuple[Name, Buckets]]]:
    """Of one blob the first number of each row, and the durations whose name begins with one of `timed`.

    So much of it, and adding nothing up, takes a quarter of the time.

    Raises:
        ValueError: it holds no figures.
    """
    names, numbers, places, lanes, _ = parts_of(blob, FORM, 5)
    layout = _layout(names)
    most, lows, sizes = _spread(layout, numbers, places, lanes)
    counts = [
        (name, int.from_bytes(numbers[at : at + NUMBER], "little"))
        for (name, _), at in zip(layout.rows, layout.places, strict=True)
    ]
    durations, at, width = [], 0, NARROW if most else BUCKET
    for name, low, size in zip(layout.durations, lows, sizes, strict=True) if timed else ():
        end = at + size * width
        if size and name[0] in timed:
            durations.append((name, Buckets(low - LOWEST, int.from_bytes(lanes[at:end], "little"), width=width)))
        at = end
    return counts, durations


class Column:
    """Blobs with the same names, added up."""

    def __init__(self, names: bytes) -> None:
        """Raises ValueError: these are no names."""
        self._layout = layout = _layout(names)
        self._rows, self._names, self._size = layout.rows, layout.durations, layout.size
        self._numbers = 0
        self._buckets = [Buckets() for _ in self._names]
        self._begin_narrow()

    def _begin_narrow(self) -> None:
        self._narrow = [Buckets(width=NARROW) for _ in self._names]
        self._most = 0
        """What a narrow lane may have come to."""

    def add(self, numbers: bytes, places: bytes, lanes: bytes, pause: Callable[[], None]) -> None:
        """Add the parts of a blob.

        Raises:
            ValueError: they don't fit the names; nothing was added.
        """
        most, lows, sizes = _spread(self._layout, numbers, places, lanes)
        width = NARROW if most else BUCKET
        if self._most + most >= 1 << 8 * NARROW:
            self._widen()
            self._begin_narrow()
        self._most += most
        self._numbers += int.from_bytes(numbers, "little")
        at = 0
        every = self._narrow if most else self._buckets
        for number, (buckets, low, size) in enumerate(zip(every, lows, sizes, strict=True)):
            end = at + size * width
            buckets.add(low - LOWEST, int.from_bytes(lanes[at:end], "little"))
            at = end
            if not number % AT_ONCE:
                pause()

    def _widen(self) -> None:
        """Add the narrow buckets to the others, before they outgrow their lanes."""
        for buckets, narrow in zip(self._buckets, self._narrow, strict=True):
            if narrow.lanes:
                buckets.add(narrow.low, int.from_bytes(relaned(narrow.packed(), NARROW, BUCKET), "little"))

    def give(self, summary: Summary) -> None:
        """Add what it came to; nothing may be added to it after that."""
        self._widen()
        data = self._numbers.to_bytes(self._size, "little")
        at = 0
        for name, size in self._rows:
            summary.add_row(name, int.from_bytes(data[at : at + size], "little"))
            at += size
        for name, buckets in zip(self._names, self._buckets, strict=True):
            summary.add_durations(name, buckets.low, buckets.lanes)


def _levels(told: bytes) -> Sequence[tuple[Name, Level]]:
    """Raises ValueError: these are none."""
    try:
        return [(tuple(name), Level(*level)) for name, level in json.loads(told)]
    except (ValueError, TypeError) as exc:
        raise ValueError(f"a blob that holds no figures: {exc}") from exc


def summed_up(
    blobs: Iterable[bytes],
    *,
    unreadable: Callable[[ValueError], None],
    pause: Callable[[], None] = never,
    whole: Summary | None = None,
) -> Summary:
    """Blobs as one summary, added to `whole` if there is one. `unreadable` hears of those that are left out."""
    columns: dict[bytes, Column] = {}
    whole = Summary() if whole is None else whole
    for blob in blobs:
        try:
            names, numbers, places, lanes, told = parts_of(blob, FORM, 5)
            levels = _levels(told)
            column = columns.get(names)
            if column is None:
                column = columns[names] = Column(names)
            column.add(numbers, places, lanes, pause)
            for name, level in levels:
                whole.add_level(name, level)
        except ValueError as exc:
            unreadable(exc)
        pause()
    for column in columns.values():
        column.give(whole)
        pause()
    return whole
