"""The tables, the bars and the machine, as text."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median

from plan import Figures, Row

LIBRARIES = [
    "traffic-cop-middleware",
    *("starlette", "fastapi", "uvicorn", "uvloop", "httptools", "redis", "hiredis"),
    *("slowapi", "fastapi-limiter", "pyrate-limiter", "throttled-py", "limits", "coredis"),
]

BAR_OVER_BARE = {"memory": 5.0, "redis": 14.0}
BAR_PEERS_OVER_OURS = 4.0
BAR_FOUR_OVER_ONE = 1.3


def machine(libraries: Sequence[str] = LIBRARIES) -> str:
    """Processor, cores, Python and the versions of all that takes part."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    versions = []
    for name in libraries:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} (a checkout)" if name == LIBRARIES[0] else f"{name} missing")
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{cpu}, {os.cpu_count()} cores, load {load}, {platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}\n" + ", ".join(versions)
    )


def cheapest_peer(figures: dict[Row, Figures], row: Row) -> float | None:
    """The least that a peer adds on the same framework and store, served or refused alike."""
    return min(
        (
            found.over_bare
            for other, found in figures.items()
            if other.is_peer and (other.framework, other.store, other.refuse) == (row.framework, row.store, row.refuse)
        ),
        default=None,
    )


def grid(header: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in [header, *lines]) for at in range(len(header))]
    shown = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [header, ["-" * width for width in widths], *lines]
    ]
    return "\n".join(shown)


def tables(figures: dict[Row, Figures], bad: dict[Row, str]) -> str:
    """One table for each framework: served rows, then refused ones, cheapest first."""
    header = ["", "CPU us", "+ us", "±", "x bare", "x peer", "req/s", "p50 ms", "p99 ms", "Redis us"]
    parts = []
    for framework in dict.fromkeys(row.framework for row in figures):
        for refuse in (False, True):
            mine = [row for row in figures if (row.framework, row.refuse) == (framework, refuse)]
            lines = []
            for row in sorted(mine, key=lambda row: (row.store, figures[row].over_bare)):
                found = figures[row]
                peer = cheapest_peer(figures, row)
                lines.append(
                    [
                        row.variant,
                        f"{found.cpu:.1f}",
                        f"{found.over_bare:.1f}",
                        f"{found.uncertainty:.1f}",
                        f"{found.cpu / found.bare_cpu:.2f}",
                        f"{found.over_bare / peer:.2f}" if peer and row.store and not refuse else "",
                        f"{median(load.per_second for load in found.plain):.0f}",
                        f"{median(load.p50 for load in found.plain):.2f}",
                        f"{median(load.p99 for load in found.plain):.2f}",
                        f"{found.redis_cpu:.1f}" if row.store == "redis" else "",
                    ]
                )
            if lines:
                what = "every request refused" if refuse else "every request served"
                parts.append(f"\n{framework}, {what}\n{grid(header, lines)}")
        parts += [f"{row.variant}: {why}" for row, why in bad.items() if row.framework == framework]
    everything = [pair for found in figures.values() for pair in found.pairs]
    disturbed = sum(not pair.is_calm for pair in everything)
    if disturbed:
        parts.append(
            f"\n{disturbed} of {len(everything)} pairs of turns shared the server's core: expect too much noise"
        )
    parts.append(
        "\nCPU us: of the serving process per request (user and system, all threads). + us: median over the bare app in"
        "\nturns with it, ± its 95 % interval. x peer: added CPU over the cheapest peer's on the same store. Redis us:"
        "\nof redis-server per request."
        "\nThe rows of `limits` and `throttled` send no header fields; ours sends them and tells an observer."
    )
    return "\n".join(parts)


def keys(found: dict[str, tuple[float, float]]) -> str:
    lines = [[name, f"{once:.0f}", f"{often:.0f}"] for name, (once, often) in found.items()]
    return "\nRedis memory per client, bytes\n" + grid(["", "after 1 request", "after 50"], lines)


def bars(figures: dict[Row, Figures], bad: dict[Row, str]) -> tuple[str, bool]:
    """Every bar with its figure, and whether all were met; a row of ours that failed misses its bars."""
    ours = [(row, why) for row, why in bad.items() if row.store and not row.is_peer]
    lines = [f"  MISSED  {row.variant} on {row.framework} was not measured: {why}" for row, why in ours]
    verdicts = [False for _ in ours]

    def bar(text: str, value: float, figure: str, met: bool) -> None:
        verdicts.append(met)
        lines.append(f"  {'met   ' if met else 'MISSED'}  {text}: {figure.format(value)}")

    def unjudged(text: str) -> None:
        """A bar without its figures is not met: silence would read as success."""
        verdicts.append(False)
        lines.append(f"  NO FIGURE  {text}")

    for framework in dict.fromkeys(row.framework for row in [*figures, *bad]):
        for store, allowed in BAR_OVER_BARE.items():
            one = figures.get(Row(framework, f"ours mark {store}"))
            two = figures.get(Row(framework, f"ours stack+mark {store}"))
            four = figures.get(Row(framework, f"ours 2+2 {store}"))
            refused = figures.get(Row(framework, f"ours mark {store}", refuse=True))
            where = f"{framework}, {store}"
            for name, found in (("one marked limit", one), ("a stack limit and a marked one", two)):
                text = f"{where}: {name} adds at most {allowed:.0f} us"
                if found:
                    value = found.over_bare
                    bar(text, value, f"{{:.1f}} us ± {found.uncertainty:.1f}", value <= allowed)
                else:
                    unjudged(text)
            peer = cheapest_peer(figures, Row(framework, f"ours mark {store}"))
            if store == "redis":
                text = f"{where}: at least {BAR_PEERS_OVER_OURS:.0f}x cheaper than the cheapest peer"
                if one and peer:
                    value = peer / max(one.over_bare, 0.1)
                    bar(f"{text} ({peer:.1f} us)", value, "{:.1f}x", value >= BAR_PEERS_OVER_OURS)
                else:
                    unjudged(text)
            text = f"{where}: two stack and two marked limits add at most {BAR_FOUR_OVER_ONE}x of what one adds"
            if one and four:
                value = four.over_bare / max(one.over_bare, 0.1)
                bar(text, value, "{:.2f}x", value <= BAR_FOUR_OVER_ONE)
            else:
                unjudged(text)
            text = f"{where}: a refusal costs less than serving the bare app"
            if refused:
                value = refused.over_bare
                bar(text, value, f"{{:+.1f}} us ± {refused.uncertainty:.1f}", value < 0)
            else:
                unjudged(text)
    return "\nBars\n" + ("\n".join(lines) or "  no row of ours was measured"), all(verdicts) and bool(verdicts)
