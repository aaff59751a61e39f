"""The rows, the tables and the bars of sessions.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from report import grid

BAR_NO_CREDENTIAL = 2.0
BAR_MEMORY_HIT = 8.0
BAR_OF_STARSESSIONS = 0.5

CONCURRENCIES = (1, 64)
WHAT = {"/": "untouched", "/read": "reads", "/write": "writes", "/login": "logs in"}


@dataclass(frozen=True)
class Row:
    """One line of the tables: what an app does with the session of a client that is logged in, or of a stranger."""

    app: str
    path: str
    stranger: bool = False
    concurrency: int = 1

    @property
    def name(self) -> str:
        return f"{self.app}: {'no credential, ' if self.stranger and self.path != '/login' else ''}{WHAT[self.path]}"


@dataclass(frozen=True)
class Turn:
    """Microseconds per request: this process's CPU, the clock's, and redis-server's CPU."""

    cpu: float
    wall: float
    redis: float


@dataclass
class Figures:
    """The turns of a row, and those of the bare app beside them."""

    turns: list[Turn] = field(default_factory=list)
    bare: list[Turn] = field(default_factory=list)

    def added(self, of: str = "cpu") -> float:
        return median(self._added(of))

    def uncertainty(self) -> float:
        """Half the width of a 95 % interval of `added`, by the median absolute deviation."""
        added, middle = self._added("cpu"), self.added()
        return 2 * 1.2533 * 1.4826 * median(abs(value - middle) for value in added) / math.sqrt(len(added))

    def _added(self, of: str) -> list[float]:
        return [getattr(turn, of) - getattr(bare, of) for turn, bare in zip(self.turns, self.bare, strict=True)]


Found = dict[Row, Figures]


def table(title: str, found: Found) -> str:
    """Cheapest first."""
    header = ["", "CPU us", "+ us", "±", "x bare", "x starsessions", "+ us wall", "Redis us"]
    lines = []
    for row in sorted(found, key=lambda row: (list(WHAT).index(row.path), not row.stranger, found[row].added())):
        mine = found[row]
        peer = found.get(Row("starsessions", row.path, row.stranger, row.concurrency))
        cpu, bare = (median(turn.cpu for turn in turns) for turns in (mine.turns, mine.bare))
        there = median(turn.redis for turn in mine.turns)
        ratio = f"{mine.added() / max(peer.added(), 0.01):.2f}" if peer else ""
        cells = [f"{cpu:.1f}", f"{mine.added():.2f}", f"{mine.uncertainty():.2f}", f"{cpu / bare:.1f}", ratio]
        lines.append([row.name, *cells, f"{mine.added('wall'):.1f}", f"{there:.1f}" if there else ""])
    return f"\n{title}\n{grid(header, lines)}"


def bars(in_memory: Found, on_redis: Found) -> tuple[str, bool]:
    """Every bar with its figure, and whether all were met."""
    lines: list[str] = []
    verdicts: list[bool] = []

    def bar(text: str, figure: str, met: bool) -> None:
        verdicts.append(met)
        lines.append(f"  {'met   ' if met else 'MISSED'}  {text}: {figure}")

    for path, stranger, most in (
        ("/", True, BAR_NO_CREDENTIAL),
        *((path, False, BAR_MEMORY_HIT) for path in ("/", "/read", "/write")),
    ):
        row = Row("ours", path, stranger)
        value, error = in_memory[row].added(), in_memory[row].uncertainty()
        what = "no credential" if stranger else "a verified token"
        bar(f"memory, {what}, {WHAT[path]}: adds at most {most:.0f} us", f"{value:.2f} us ± {error:.2f}", value <= most)
    for concurrency in CONCURRENCIES:
        for path in ("/read", "/write"):
            mine, peer = (on_redis[Row(app, path, False, concurrency)] for app in ("ours", "starsessions"))
            ratios = {of: mine.added(of) / max(peer.added(of), 0.01) for of in ("cpu", "wall")}
            bar(
                f"redis, {concurrency} at once, {WHAT[path]}: adds at most {BAR_OF_STARSESSIONS} of starsessions",
                f"{mine.added():.1f} of {peer.added():.1f} us CPU, {ratios['cpu']:.2f}; wall {ratios['wall']:.2f}",
                ratios["cpu"] <= BAR_OF_STARSESSIONS,
            )
    return "\nBars\n" + "\n".join(lines), all(verdicts)


def beside_limits(on_redis: Found) -> str:
    """What a session adds to a request that has limits on the same Redis: its question travels along."""
    lines = []
    for concurrency in CONCURRENCIES:
        alone = on_redis[Row("limits", "/", False, concurrency)]
        for path in ("/", "/read", "/write"):
            both = on_redis[Row("limits + session", path, False, concurrency)]
            figures = [f"{both.added(of) - alone.added(of):.1f}" for of in ("cpu", "wall")]
            lines.append([f"{concurrency} at once, {WHAT[path]}", *figures])
    return "\nA session, over limits alone\n" + grid(["", "+ us", "+ us wall"], lines)
