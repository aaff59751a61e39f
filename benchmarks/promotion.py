"""What promotion costs: the analysis of a state, what a request pays for it, and files promoted per second.

    python benchmarks/promotion.py [--quick] [--rounds N] [--only analysis|requests|files]

"requests" and "files" are told of in promotion_requests.py and promotion_files.py.

The analysis stands beside one `orjson.dumps` plus sha256 of the same state. The state is an order with its lines, in
1 KB, 50 KB and 1 MB of JSON; "dense" has short values only, so more of them. In each round every row has one turn, of
as many calls as take some milliseconds, in a new random order. Figures are medians over the rounds, of this process's
CPU in microseconds per call. "analysis" is what a state is judged by, from the text that the store has, as the preset
"balanced" asks for it; "classic" counts the outermost members as well; "judged" is the whole verdict of "balanced",
with its reasons.

Needs `redis-server` and the extra `bench`. Ends with status 1 when a bar is missed: an analysis is to take at most 10,
3 and 1.5 times as long as `orjson.dumps` plus sha256; promotion is to add no round trip and at most 60 us of CPU to a
request that changes 1 KB of state; and files are to be promoted at 0.8 of the rate of plain uploads at least.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import orjson
import report
from harness import FIRST_CORE, BenchmarkError, one_at_a_time, stop_on_sigterm
from promotion_files import files
from promotion_requests import requests

from traffic_cop_middleware.abstractions.json_texts import dumps
from traffic_cop_middleware.abstractions.promotion.analysis import analyse
from traffic_cop_middleware.abstractions.promotion.promotion import StatePromotionAbstraction
from traffic_cop_middleware.abstractions.promotion.settings import CRITICAL_FIELDS, PromotionSettings
from traffic_cop_middleware.contracts import Item, StateKey

DENSE = "1 KB, dense"
BARS = {"1 KB": (1024, 10.0), DENSE: (1024, 10.0), "50 KB": (50 * 1024, 3.0), "1 MB": (1024 * 1024, 1.5)}
"""Bytes, and how often as long as `orjson.dumps` plus sha256 an analysis may take."""
LIBRARIES = ("starlette", "redis", "hiredis", "google-cloud-storage", "orjson")
PARTS = ("analysis", "requests", "files")
TURN = 0.004
"""Seconds that a turn is to take."""


def order(size: int, *, dense: bool = False) -> dict[str, Any]:
    """An order of so many bytes: what it is of comes first, its tags and importance last."""
    found: dict[str, Any] = {
        "type": "order",
        "id": "8d7c2d1e-5f0b-4f0e-9a39-2f6a1c0b7e55",
        "user_id": "u-48213",
        "created_at": "2025-11-28T10:04:00Z",
        "address": {"name": "Alice Example", "street": "12 High Street", "city": "York", "zip": "YO1 7HH"},
        "remark": "",
        "lines": [],
        "tags": ["web"],
        "importance": 4,
    }
    line = len(orjson.dumps(_line(99_999, dense=dense)))
    count = max(1, (size - len(orjson.dumps(found))) // (line + 1))
    found["lines"] = [_line(number, dense=dense) for number in range(count)]
    found["remark"] = ("Please ring twice. " * (size // 19 + 1))[: size - len(orjson.dumps(found))]
    return found


def _line(number: int, *, dense: bool) -> dict[str, Any]:
    line = {
        "sku": f"sku-{number:06d}",
        "title": f"A thing that people buy, in size {number % 7}",
        "count": number % 3 + 1,
        "price": 12.5 + number % 90,
        "gift": number % 5 == 0,
        "note": None,
        "options": {"colour": "green", "engraved": ["A", "E"]},
    }
    if not dense:
        line["id"] = f"0b7e55c1-{number % 65_536:04x}-4d7a-9a39-2f6a1c0b7e55"
        line["added_at"] = "2025-11-28T10:04:00Z"
        line["picture"] = f"/pictures/2025/11/sku-{number:06d}-large.webp"
    return line


def rows_of(size: int, *, dense: bool = False) -> dict[str, Callable[[], Any]]:
    """What is measured of a state of a size."""
    value = order(size, dense=dense)
    text = dumps(value)
    fields = frozenset(CRITICAL_FIELDS)
    if analyse(text, critical_fields=fields).importance != 4:
        raise BenchmarkError("the analysis did not find what stands at the end of the state")
    promotion = StatePromotionAbstraction(PromotionSettings(), emit=lambda *_: None, files=True)
    item = Item(StateKey("", "order", "7"), 1, text, "cache", time.time())

    def judged() -> None:
        with_nothing_to_wait_for = promotion.judge(item, trigger="change")
        try:
            with_nothing_to_wait_for.send(None)
        except StopIteration:
            return
        raise BenchmarkError("a verdict without hooks waited for something")

    return {
        "orjson.dumps + sha256": lambda: hashlib.sha256(orjson.dumps(value)).digest(),
        "analysis": lambda: analyse(text, critical_fields=fields),
        "analysis, classic": lambda: analyse(text, critical_fields=fields, top=True),
        "judged": judged,
    }


def turn(act: Callable[[], Any], times: int) -> float:
    """CPU per call, in microseconds."""
    start = time.process_time()
    for _ in range(times):
        act()
    return (time.process_time() - start) / times * 1e6


def analysis(rounds: int) -> tuple[str, list[tuple[bool, str]]]:
    """The table of the analyses, and their bars."""
    rows = {
        (size, name): act
        for size, (count, _) in BARS.items()
        for name, act in rows_of(count, dense=size == DENSE).items()
    }
    calls = {row: max(1, int(TURN * 1e6 / max(0.1, turn(act, 20)))) for row, act in rows.items()}
    found: dict[tuple[str, str], list[float]] = {row: [] for row in rows}
    gc.collect()
    gc.freeze()
    for number in range(-1, rounds):  # the first one only warms up
        for row in random.sample(list(rows), len(rows)):
            figure = turn(rows[row], calls[row])
            if number >= 0:
                found[row].append(figure)
    gc.unfreeze()
    us = {row: median(each) for row, each in found.items()}
    yardstick = "orjson.dumps + sha256"
    names = list(dict.fromkeys(name for _, name in rows))
    lines = [
        [name, *(f"{us[size, name]:.1f} ({us[size, name] / us[size, yardstick]:.2f}x)" for size in BARS)]
        for name in names
    ]
    bars = []
    for size, (_, most) in BARS.items():
        for name in ("analysis", "analysis, classic"):
            ratio = us[size, name] / us[size, yardstick]
            bars.append((ratio <= most, f"{name} of {size}: at most {most:g}x {yardstick}: {ratio:.2f}x"))
    return report.grid(["CPU us per call", *BARS], lines), bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: figures to develop by")
    parser.add_argument("--rounds", type=int, help="default 41, quick 9")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    given = parser.parse_args()
    rounds = given.rounds or (9 if given.quick else 41)
    parts = [given.only] if given.only else PARTS
    bars: list[tuple[bool, str]] = []
    stop_on_sigterm()
    with one_at_a_time():
        print(report.machine(LIBRARIES))
        cores = os.sched_getaffinity(0)
        for part in parts:
            os.sched_setaffinity(0, FIRST_CORE if part == "analysis" else cores)
            if part == "analysis":
                table, found = analysis(rounds)
            else:
                table, found = asyncio.run(requests(rounds) if part == "requests" else files(rounds))
            print(f"\n{table}", flush=True)
            bars += found
    print("\nBars")
    for met, told in bars:
        print(f"  {'met   ' if met else 'MISSED'}  {told}")
    if rounds < 41:
        print("A quick run: figures to develop by, not to publish.")
    return 0 if all(met for met, _ in bars) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmark: {error}")
