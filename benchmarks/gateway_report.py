"""The tables and the bars of gateway.py."""

from __future__ import annotations

from statistics import median

from gateway_apps import BODIES
from gateway_runs import Figures, Memory
from report import grid

BAR_OF_AIOHTTP = 0.75
BAR_OF_PROXY_LIB = 10.0
BAR_MEMORY = 16 * 2**20
BARE = "aiohttp in ASGI"
OTHER_BARE = "aiohttp.web"
LIB = "fastapi-proxy-lib"
DIRECT = "no proxy"
SIZES = dict(zip(BODIES, ("100 B", "64 KiB"), strict=True))
DISTURBED = 0.05

LIBRARIES = [
    *("traffic-cop-middleware", "aiohttp", "starlette", "uvicorn", "uvloop", "httptools"),
    *("fastapi-proxy-lib", "fastapi", "httpx"),
]


def ratios(figures: dict[str, Figures], name: str, path: str) -> list[float]:
    """Ours over another's requests a second, round by round: of one round both had the same machine."""
    ours, other = figures["ours"].runs.get(path, []), figures[name].runs.get(path, [])
    return [mine.load.per_second / its.load.per_second for mine, its in zip(ours, other, strict=False)]


def throughput(figures: dict[str, Figures]) -> str:
    header = ["", "req/s", "least", "most", "CPU us", "ours / it", "by CPU", "p50 ms", "p99 ms", "errors"]
    parts = []
    for path, size in SIZES.items():
        lines = []
        for name, found in figures.items():
            runs = found.runs.get(path)
            if not runs:
                continue
            speeds = [run.load.per_second for run in runs]
            compared = "ours" in figures and name != "ours" and path in figures["ours"].runs
            lines.append(
                [
                    name,
                    *(f"{value:.0f}" for value in (median(speeds), min(speeds), max(speeds))),
                    f"{found.cpu(path):.0f}",
                    f"{median(ratios(figures, name, path)):.2f}" if compared else "",
                    f"{found.cpu(path) / figures['ours'].cpu(path):.2f}" if compared else "",
                    f"{median(run.load.p50 for run in runs):.2f}",
                    f"{median(run.load.p99 for run in runs):.2f}",
                    str(sum(run.load.unserved + run.load.socket_errors for run in runs)),
                ]
            )
        parts.append(f"\n{size}, 64 connections, as fast as they are answered\n{grid(header, lines)}")
    every = [run.disturbed for found in figures.values() for runs in found.runs.values() for run in runs]
    disturbed = sum(share > DISTURBED for share in every)
    parts.append(
        "\nMedians of the rounds. CPU us: of the proxy per request. ours / it: requests a second, by rounds; by CPU:"
        "\nthe same of CPU per request. What binds the faster proxies are the load and the upstream, on one core."
        f"\nOthers had the proxy's core for over {DISTURBED:.0%} of {disturbed} of {len(every)} runs"
        f" (median {median(every):.1%}, most {max(every):.0%})."
    )
    return "\n".join(parts)


def latency(figures: dict[str, Figures], rate: float) -> str:
    header = ["", "p50 ms", "added", "p99 ms", "added"]
    parts = []
    for path, size in SIZES.items():
        direct = figures[DIRECT]
        lines = []
        for name, found in figures.items():
            if path not in found.p50:
                continue
            values = [(median(of.p50[path]), median(of.p99[path])) for of in (found, direct)]
            (p50, p99), (p50_direct, p99_direct) = values
            added = ["", ""] if name == DIRECT else [f"{p50 - p50_direct:+.2f}", f"{p99 - p99_direct:+.2f}"]
            lines.append([name, f"{p50:.2f}", added[0], f"{p99:.2f}", added[1]])
        parts.append(f"\n{size}, {rate:.0f} requests a second\n{grid(header, lines)}")
    return "\n".join(parts)


def memory(found: dict[str, Memory]) -> str:
    mib = 2**20
    lines = []
    for name, each in found.items():
        sizes = [f"{value / mib:.1f}" for value in (each.before, each.peak, each.after, each.grown)]
        lines.append([name, *sizes, f"{each.seconds:.1f}"])
    return "\n1 GiB through it, resident MiB\n" + grid(["", "before", "peak", "after", "grown", "seconds"], lines)


def bars(figures: dict[str, Figures], found: dict[str, Memory], bad: dict[str, str]) -> tuple[str, bool]:
    """Every bar with its figure, and whether all were met. One without its figures is not: silence would read as so."""
    lines, verdicts = [f"  not measured: {name}: {why}" for name, why in bad.items()], [not bad]

    def bar(text: str, figure: str, met: bool | None) -> None:
        verdicts.append(bool(met))
        lines.append(f"  {'NO FIGURE' if met is None else 'met   ' if met else 'MISSED'}  {text}{figure}")

    for path, size in SIZES.items():
        for name, least in ((BARE, BAR_OF_AIOHTTP), (LIB, BAR_OF_PROXY_LIB)):
            text = f"{size}: at least {least:g}x the requests a second of {name}"
            values = ratios(figures, name, path) if "ours" in figures and name in figures else []
            if values:
                bar(text, f": {median(values):.2f}x ({min(values):.2f} to {max(values):.2f})", median(values) >= least)
            else:
                bar(text, "", None)
        runs = figures["ours"].runs.get(path, []) if "ours" in figures else []
        failed = sum(run.load.unserved + run.load.socket_errors for run in runs)
        bar(f"{size}: ours answers every request", f": {failed} were not", not failed if runs else None)
    text = f"memory grows by at most {BAR_MEMORY // 2**20} MiB while 1 GiB goes through"
    mine = found.get("ours")
    if mine is None:
        bar(text, "", None)
    else:
        bar(text, f": {mine.grown / 2**20:.1f} MiB", mine.grown <= BAR_MEMORY)
    return "\nBars\n" + "\n".join(lines), all(verdicts)
