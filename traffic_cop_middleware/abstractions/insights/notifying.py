"""Which insights are told to somebody, and when: news, reminders, and that something is over.

A detector finds the same spike at each look for as long as it lasts, with other figures each time. Told is what was not
there before; again, when it got worse or went on for a `cooldown`; and once that it is over. What comes back soon after
it was over is the same thing flapping: it is told no sooner than a `cooldown` after it was last told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Literal

from traffic_cop_middleware.abstractions.insights.values import Insight

News = Literal["new", "repeated", "over"]
RANKS = {"info": 0, "warning": 1, "critical": 2}
PASSING = frozenset(("mover", "unused"))
"""Kinds that tell of what was, and so are not over."""


@dataclass(frozen=True, slots=True)
class Notification:
    """An insight that is to be told: "new", "repeated" (it goes on, or got worse) or "over". `time` is Unix seconds."""

    news: News
    insight: Insight
    time: float


@dataclass(slots=True)
class _Known:
    insight: Insight
    seen: float
    told: float
    rank: int
    over: bool = False
    pending: bool = field(default=False)
    """Whether it came back and nobody was told of that."""


class Notifier:
    """Remembers what was told.

    `cooldown` is the seconds between two notices of one thing that does not get worse, `quiet` those without it after
    which it is over. `least` is the severity below which nothing is told. The `most` latest are remembered.
    """

    def __init__(
        self, *, cooldown: float = 3600.0, quiet: float = 900.0, least: str = "warning", most: int = 1000
    ) -> None:
        if least not in RANKS or cooldown < 0 or quiet < 0 or most < 1:
            raise ValueError(f"Notifier(cooldown={cooldown!r}, quiet={quiet!r}, least={least!r}, most={most!r})")
        self._cooldown = cooldown
        self._quiet = quiet
        self._least = RANKS[least]
        self._most = most
        self._known: dict[str, _Known] = {}

    def look(self, insights: Iterable[Insight], *, now: float) -> list[Notification]:
        """What is to be told after a look that found these. Looks come in the order of time."""
        found = []
        for insight in insights:
            if RANKS[insight.severity] < self._least and insight.key not in self._known:
                continue
            news = self._news(insight, now)
            if news is not None:
                found.append(Notification(news, insight, now))
        return found + self._ended(now)

    def records(self) -> Mapping[str, str]:
        """What is remembered, each as a JSON text under a name of its own, the latest last."""
        return {_name(key): _text(known) for key, known in self._known.items()}

    def recall(self, texts: Iterable[str]) -> None:
        """Remember what `records` of this or another notifier gave, and nothing else.

        Raises:
            ValueError: it is none of that.
        """
        try:
            found = [_known(text) for text in texts]
        except (TypeError, LookupError, AttributeError) as exc:
            raise ValueError(f"what was told can't be read: {exc}") from exc
        found.sort(key=lambda known: (known.seen, known.insight.key))
        self._known = {known.insight.key: known for known in found}

    def _news(self, insight: Insight, now: float) -> News | None:
        rank = RANKS[insight.severity]
        known = self._known.pop(insight.key, None)
        if known is None:
            self._known[insight.key] = _Known(insight, now, now, rank)
            return "new"
        self._known[insight.key] = known  # as the latest
        back, worse, due = known.over, rank > known.rank, now - known.told >= self._cooldown
        known.insight, known.seen, known.over = insight, now, False
        known.pending = known.pending or back
        if not (worse or due):
            return None
        news: News = "new" if known.pending else "repeated"
        known.told, known.rank, known.pending = now, max(rank, known.rank) if worse else rank, False
        return news

    def _ended(self, now: float) -> list[Notification]:
        found = []
        for key, known in list(self._known.items()):
            if now - known.seen < self._quiet:
                continue
            if not known.over:
                known.over = True
                if known.insight.kind not in PASSING and not known.pending:
                    found.append(Notification("over", known.insight, now))
            if now - max(known.told, known.seen) >= max(self._cooldown, self._quiet):
                del self._known[key]
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return found


def _name(key: str) -> str:
    """A key may be of any length, a record's name not."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _text(known: _Known) -> str:
    figures = {each.name: getattr(known, each.name) for each in fields(known) if each.name != "insight"}
    return json.dumps({**figures, "insight": known.insight.record()}, separators=(",", ":"), sort_keys=True)


def _known(text: str) -> _Known:
    told = json.loads(text)
    return _Known(Insight.of(told.pop("insight")), **told)
