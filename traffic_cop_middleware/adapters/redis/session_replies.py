"""What the scripts of sessions answer, as the contract's values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil
from typing import Any, TypeVar

from traffic_cop_middleware.adapters.redis.calls import text_of
from traffic_cop_middleware.contracts import MICRO, Listed, Loaded, SessionKey

log = logging.getLogger("traffic_cop.redis")
T = TypeVar("T")

LONGEST = 10**12
"""Milliseconds that anything lasts at most: 31 years, so that all stamps are whole numbers for Lua."""

NUMBERS = (b"g", b"v", b"c", b"e", b"r", b"t", b"n")
"""The fields of a record that are whole numbers (sessions.lua)."""


def ms(seconds: float) -> int:
    """Milliseconds, at least one."""
    return max(1, ceil(min(seconds * 1000, LONGEST)))


def member(key: SessionKey) -> str:
    """A session in the sorted set of its kind; also the end of its record's key."""
    return f"{{{key.tag}}}{key.id}"


def key_of(place: bytes) -> SessionKey | None:
    """What `member` wrote; `None` for anything else."""
    tag, closing, id = place.rpartition(b"}")
    try:
        return SessionKey(text_of(tag[1:]), text_of(id)) if closing and tag[:1] == b"{" else None
    except UnicodeDecodeError:
        return None


def pairs(flat: Sequence[T]) -> list[tuple[T, T]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def loaded(record: str, generation: int, spoilt: Callable[[str], None], reply: Any) -> Loaded | None:
    """What sessions_load.lua read under the key `record`; `None` where it is no session of this generation.

    `spoilt` is told where something else stands there.
    """
    if reply is None:
        return None
    own: dict[bytes, bytes] = {}
    data = {}
    try:
        idle_left, seconds, micros, flat = reply
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            if name[:1] == b":":
                data[text_of(name[1:])] = text_of(text)
            else:
                own[name] = text
        made_in, version, created, ends, rotation, *_ = [int(own[name]) for name in NUMBERS]
        meta, _ = text_of(own[b"m"]), own[b"k"]
    except (TypeError, ValueError, KeyError):
        spoilt(record)
        return None
    now = int(seconds) * MICRO + int(micros)
    left = (ends - now) / MICRO
    if made_in != generation or left <= 0:
        return None
    return Loaded(version, age(created, now), soonest(idle_left, left), left, rotation, meta, data)


def listed(reply: Sequence[Any]) -> list[Listed]:
    """What sessions_list.lua read."""
    now, *rows = reply
    found = []
    for id, version, created, ends, idle_left, meta in rows:
        left = (ends - now) / MICRO
        found.append(Listed(text_of(id), version, age(created, now), soonest(idle_left, left), left, text_of(meta)))
    return found


def age(since: int, now: int) -> float:
    """Seconds between two stamps; 0 where the server's clock went back."""
    return max(0, now - since) / MICRO


def soonest(idle_left: int, left: float) -> float:
    """Seconds until a record ends: `idle_left` is its TTL in milliseconds, below 0 where somebody took that away."""
    return min(idle_left / 1000, left) if idle_left >= 0 else left


@lru_cache(maxsize=128)
def log_spoilt(record: str) -> None:
    """Log, once, a record's key that holds something else."""
    log.error("%s holds something else than a session, so nobody is logged in by it. Delete it", record)
