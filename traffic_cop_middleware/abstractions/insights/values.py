"""What the detectors read, and what they find."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any, Literal

from traffic_cop_middleware.abstractions.insights.durations import Durations, added, histogram_of
from traffic_cop_middleware.abstractions.metrics.histogram import Histogram

Severity = Literal["info", "warning", "critical"]
WEEK = 7 * 86_400
Timed = Histogram | Durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Insight:
    """Something that stands out in the traffic, as a sentence and as figures.

    `kind` is "spike", "drop", "slow", "errors", "mover", "quota", "uneven", "slow_upstream",
    "failing_upstream" or "unused". `sentence` is plain English
    with its numbers, times in UTC. `severity` is "info", "warning" or "critical". `start` says since when (Unix
    seconds, UTC). `labels` say what it is about ("route", "method", "tenant", "upstream", …), `evidence` what was seen,
    `baseline` what it was compared with; times are in seconds, shares between 0 and 1. `confidence` lies between 0 and
    1. The same traffic gives the same insights.
    """

    kind: str
    sentence: str
    severity: Severity
    start: float
    labels: Mapping[str, str]
    evidence: Mapping[str, float]
    baseline: Mapping[str, float]
    confidence: float

    @property
    def key(self) -> str:
        """What it is about: an insight of the same key is the same one, seen again with other figures.

        Its kind and labels, and of a quota the period: a user may have several.
        """
        about = [f"{name}={self.labels[name]}" for name in sorted(self.labels)]
        period = [f"period={self.baseline['period']:g}"] if "period" in self.baseline else []
        return "|".join([self.kind, *about, *period])

    def record(self) -> dict[str, Any]:
        """It as JSON."""
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "severity": self.severity,
            "start": self.start,
            "labels": dict(self.labels),
            "evidence": dict(self.evidence),
            "baseline": dict(self.baseline),
            "confidence": self.confidence,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Insight:
        """The one whose `record()` this is."""
        return cls(**record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Traffic in buckets of time: bucket `i` begins at `start + i * step` (Unix seconds, UTC).

    `counts` has the requests of each; 0 says that none came, `None` that nobody knows. `errors` has those of them that
    failed (5xx), `durations` how long they took (`None`: nothing was timed); either may be left out. `step` divides an
    hour, or is one, and `start` is a multiple of it.

    Raises:
        ValueError: the lengths differ, or the buckets don't lie on a grid.
    """

    start: float
    step: int
    counts: Sequence[int | None]
    errors: Sequence[int] = ()
    durations: Sequence[Timed | None] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.step <= 0 or 3600 % self.step or not isfinite(self.start) or self.start % self.step:
            raise ValueError(f"Series(start={self.start!r}, step={self.step!r}): step divides 3600, and start is on it")
        if any(each and len(each) != len(self.counts) for each in (self.errors, self.durations)):
            raise ValueError("Series: counts, errors and durations have one figure for each bucket")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def end(self) -> float:
        """When the last bucket ends."""
        return self.start + len(self.counts) * self.step

    @property
    def name(self) -> str:
        """What sentences call it: "GET /search", "tenant acme"."""
        return name_of(self.labels)

    def time(self, index: int) -> float:
        """When a bucket begins."""
        return self.start + index * self.step

    def index(self, moment: float) -> int:
        """The first bucket that begins at this moment or later; one of ours, or their number."""
        return min(max(0, -int((self.start - moment) // self.step)), len(self.counts))

    def coarser(self, factor: int) -> Series:
        """The same in buckets that are `factor` times as long, on their own grid; a last one that is not full is left
        out. A bucket with a part that nobody knows is unknown.
        """
        skipped = int(-(self.start // self.step) % factor)
        edges = range(skipped, len(self.counts) + 1, factor)
        spans = list(pairwise(edges))
        return Series(
            start=self.time(skipped),
            step=self.step * factor,
            counts=[_added(self.counts[a:b]) for a, b in spans],
            errors=[sum(self.errors[a:b]) for a, b in spans] if self.errors else (),
            durations=[merged(self.durations[a:b]) for a, b in spans] if self.durations else (),
            labels=self.labels,
        )


def name_of(labels: Mapping[str, str]) -> str:
    """What sentences call something with these labels."""
    route, method = labels.get("route"), labels.get("method")
    words = [" ".join(each for each in (method, route) if each)] if route or method else []
    words += [f"{name} {labels[name]}" for name in sorted(labels) if name not in ("route", "method")]
    return ", ".join(words) or "the traffic"


def merged(histograms: Iterable[Timed | None]) -> Histogram | None:
    """All of them as one; `None` where nothing was timed."""
    found: Histogram | None = None
    known = [each for each in histograms if each is not None and each.count]
    if packed := [each for each in known if isinstance(each, Durations)]:
        found = histogram_of(added(packed))
    for each in known:
        if isinstance(each, Durations):
            continue
        if found is None:
            found = Histogram(scale=each.scale)
        found.merge(each)
    return found


def _added(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
