"""Traffic for the advisor's tests, as requests and as logs of them."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

START = 1_700_000_000.0


class Asked(NamedTuple):
    """A request as a client sends it."""

    time: float
    peer: str
    method: str
    path: str
    tenant: str = "acme"
    forwarded: str = ""


def usual(seed: int = 1, *, count: int = 4000, per_second: float = 8.0, digits: int = 3) -> list[Asked]:
    """Clients of which few are busy; bunches; IPv6 neighbours; routes of all kinds."""
    rng = random.Random(seed)
    peers = [f"198.51.100.{number}" for number in range(40)] + ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    weights = [30, 10, 10] + [1] * 37 + [4, 4, 4]
    paths = ["/search", "/items/1", "/items/2", "/items/3/parts", "/health", "/nothing", "/report"]
    found, time = [], START
    while len(found) < count:
        time += rng.expovariate(per_second)
        peer = rng.choices(peers, weights)[0]
        method = rng.choices(["GET", "HEAD", "POST"], [8, 1, 2])[0]
        asked = Asked(
            round(time, digits), peer, method, rng.choice(paths), rng.choice(["acme", "zenith", "o'neil & co"])
        )
        found += [asked] * (rng.randrange(2, 12) if rng.random() < 0.03 else 1)
    return found[:count]


def as_combined(asked: list[Asked], file: Path, *, offset: int = -7) -> Path:
    """As nginx writes it, in some time zone; in its `main` format where proxies are told."""
    zone = timezone(timedelta(hours=offset))

    def line(each: Asked) -> str:
        time = datetime.fromtimestamp(int(each.time), zone).strftime("%d/%b/%Y:%H:%M:%S %z")
        more = f' "{each.forwarded}"' if each.forwarded else ""
        request = f"{each.method} {each.path}?q=a%20b HTTP/1.1"
        return f'{each.peer} - {each.tenant} [{time}] "{request}" 200 12 "-" "curl/8"{more}\n'

    file.write_text("".join(map(line, asked)))
    return file


def as_json(asked: list[Asked], file: Path) -> Path:
    """JSON lines with names that have to be told."""
    file.write_text(
        "".join(
            json.dumps(
                {
                    "at": datetime.fromtimestamp(each.time, UTC).isoformat(),
                    "from": each.peer,
                    "verb": each.method,
                    "where": {"path": each.path},
                    "tenant": each.tenant,
                    "xff": each.forwarded,
                }
            )
            + "\n"
            for each in asked
        )
    )
    return file


JSON_FIELDS = {"time": "at", "client": "from", "method": "verb", "path": "where.path", "forwarded": "xff"}
