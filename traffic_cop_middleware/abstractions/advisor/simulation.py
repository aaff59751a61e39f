"""What a simulation found: whom a limit would have refused, where and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

WIDEST = 380
"""Characters of a line that `str` gives."""
SHOWN = 5
"""How many keys, routes and times `str` tells."""


class Between(NamedTuple):
    """A number that is known to lie from `low` to `high`; exactly known where they are equal."""

    low: int
    high: int

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def share(self, whole: int) -> tuple[float, float]:
        """Both ends as shares of a whole, from 0 to 1."""
        return (self.low / whole, self.high / whole) if whole else (0.0, 0.0)

    def __str__(self) -> str:
        return f"{self.low:,}" if self.exact else f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True, slots=True)
class Refusals:
    """Of one key, route or limit: how many requests it had, and how many of them would have been refused."""

    name: str
    requests: int
    refused: Between

    def __str__(self) -> str:
        return f"{self.name}: {self.refused} of {self.requests:,}"


@dataclass(frozen=True, slots=True)
class RefusalTimes:
    """The same of a span of time: from `start` (seconds since the epoch) on, `step` seconds."""

    start: float
    step: float
    requests: int
    refused: Between

    def __str__(self) -> str:
        return f"{moment(self.start)}, {duration(self.step)}: {self.refused} of {self.requests:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSimulation:
    """What a limit would have refused. `str` tells it to people.

    `replayed`: the limiter itself was asked of each request, so that the figures are exact; else they are bounds from
    recorded counts. `requests` came from `start` to `end` (seconds since the epoch), of `keys` keys that are told apart
    (`by`: of which kind); `keys_hidden` is how many more there may be, of requests that a cap on keys put together, and
    they are among `keys_refused` too. `who`, `where` and `limits` have the most refused first, `when` is in order of
    time, all without those of which nothing can have been refused. `notes` says what a reader should know of the
    figures.
    """

    limit: str
    by: str
    replayed: bool
    start: float
    end: float
    requests: int
    refused: Between
    keys: int
    keys_refused: Between
    keys_hidden: int = 0
    who: tuple[Refusals, ...] = ()
    where: tuple[Refusals, ...] = ()
    when: tuple[RefusalTimes, ...] = ()
    limits: tuple[Refusals, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def share_refused(self) -> tuple[float, float]:
        """The share of requests that would have been refused, from 0 to 1: at least and at most."""
        return self.refused.share(self.requests)

    @property
    def share_of_keys_refused(self) -> tuple[float, float]:
        """The share of keys of which a request would have been refused, from 0 to 1: at least and at most."""
        low, high = self.keys_refused
        whole = self.keys + self.keys_hidden
        return low / whole if whole else 0.0, min(1.0, high / self.keys) if self.keys else float(high > 0)

    @property
    def peaks(self) -> tuple[RefusalTimes, ...]:
        """The spans of time in which the most would have been refused, the worst first."""
        return tuple(sorted(self.when, key=lambda span: (-span.refused.high, -span.refused.low, span.start)))

    def __str__(self) -> str:
        how = "exact replay" if self.replayed else "bounds from recorded counts"
        lines = [f"limit {self.limit} by {self.by}: {how}"]
        if self.requests:
            lines.append(f"  {moment(self.start)} to {moment(self.end)} ({duration(self.end - self.start)})")
        lines.append(f"  refused: {self.refused} of {self.requests:,} requests ({percent(self.share_refused)})")
        keys = Between(self.keys, self.keys + self.keys_hidden)
        lines.append(f"  touched: {self.keys_refused} of {keys} keys ({percent(self.share_of_keys_refused)})")
        for title, found in (("who", self.who), ("where", self.where), ("when", self.peaks)):
            if found:
                lines.append(f"  {title}:")
                lines += [f"    {each}" for each in found[:SHOWN]]
                if len(found) > SHOWN:
                    lines.append(f"    … and {len(found) - SHOWN} more")
        if len(self.limits) > 1:
            lines.append("  by limit (a request may be refused by several):")
            lines += [f"    {each}" for each in self.limits[:SHOWN]]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    """A line with escapes for what would move a cursor, change a terminal or turn the direction of writing.

    Names come from logs, and so from whoever sends requests. Very long lines are cut in the middle.
    """
    if not text.isprintable():
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST // 2]} … {text[-WIDEST // 2 :]}"


def percent(share: tuple[float, float]) -> str:
    """A share as percent, with the digits that it needs."""
    low, high = (f"{100 * each:.2g}" if each < 0.1 else f"{100 * each:.1f}" for each in share)
    return f"{low} %" if low == high else f"{low} to {high} %"


def moment(seconds: float) -> str:
    """A time as people write it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """A length of time in its largest fitting unit."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
