"""Token buckets in Redis: what an event loop takes within one tick is one call of one script.

The groups of concurrent requests are packed into a single EVALSHA (`take.lua`): packing, sending, running and parsing
are paid once a tick instead of once a request. The script is loaded by its first use after a start, a SCRIPT FLUSH or
a fail-over: NOSCRIPT comes before any effect, so the same call is asked again as EVAL.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import hiredis

from traffic_cop_middleware.adapters.redis.link import Link
from traffic_cop_middleware.adapters.redis.replies import NEVER, reply_error
from traffic_cop_middleware.contracts import MICRO, Guard, Take, Taken
from traffic_cop_middleware.errors import StoreError

log = logging.getLogger("traffic_cop.redis")

SCRIPT = files("traffic_cop_middleware.adapters.redis").joinpath("take.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT).hexdigest()  # noqa: S324 - the name that Redis gives a script
GROUPS_PER_CALL = 64
"""A script runs to its end before Redis does anything else: one call stays well below a millisecond."""


@lru_cache(maxsize=128)
def spoilt(keys: tuple[str, ...]) -> str:
    """What is said of keys of which one is no bucket's. Kept, so that the log hears of them once."""
    said = f"a key of the limits holds something else than a bucket, one of: {', '.join(keys)}"
    log.error("%s. Delete it, or give the app a namespace= of its own; until then the outage policy decides", said)
    return said


class Group(NamedTuple):
    """One request's takes, and who waits for them."""

    takes: Sequence[Take]
    guard: Guard | None
    future: asyncio.Future[Taken]


class Call:
    """The sink of one script call: hands each group its part of the reply."""

    __slots__ = ("_arguments", "_groups", "_link", "_retried", "expires")

    def __init__(self, link: Link, groups: list[Group], arguments: list[Any], expires: float) -> None:
        self._link = link
        self._groups = groups
        self._arguments = arguments
        self._retried = False
        self.expires = expires

    def send(self) -> None:
        self._link.put(["EVALSHA", SHA, *self._arguments], self)

    def resolve(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT") and not self._retried and self.expires != NEVER:
                self._retried = True
                self._link.put(["EVAL", SCRIPT, *self._arguments], self)
            else:
                self.fail(reply_error(reply))
            return
        place = 0
        for takes, guard, future in self._groups:
            held = reply[place]
            count = len(takes) if held % 2 or guard is None else len(guard.otherwise)
            answers = reply[place + 1 : place + 1 + count]
            place += 1 + count
            if future.done():
                continue
            if held < 0:
                future.set_exception(StoreError(spoilt(tuple(take.key for take in takes))))
            else:
                future.set_result(Taken(min(answers, default=0) >= 0, answers, held == 1))

    def fail(self, error: StoreError) -> None:
        for group in self._groups:
            if not group.future.done():
                group.future.set_exception(error)


class RedisBuckets:
    """`BucketStore` on Redis. Keys get the prefix `<namespace>:b:`."""

    shared = True

    def __init__(self, link: Link, *, namespace: str) -> None:
        self._link = link
        self._prefix = f"{namespace}:b:"
        self._guard_prefix = f"{namespace}:"
        self._groups: list[Group] = []
        self._now = ""
        self._expires = 0.0

    def take(
        self, requests: Sequence[Take], *, guard: Guard | None = None, now: float | None = None
    ) -> asyncio.Future[Taken]:
        future: asyncio.Future[Taken] = self._link.loop.create_future()
        stamp = "" if now is None else str(round(now * MICRO))
        if stamp != self._now:
            self._emit()
            self._now = stamp
        if not self._groups:
            self._expires = self._link.gather(self._emit)
        self._groups.append(Group(requests, guard, future))
        return future

    def forget(self, keys: Sequence[str]) -> asyncio.Future[Any]:
        return self._link.ask("DEL", *(self._prefix + key for key in keys))

    def _emit(self) -> None:
        groups = [group for group in self._groups if not group.future.cancelled()]
        self._groups = []
        for start in range(0, len(groups), GROUPS_PER_CALL):
            part = groups[start : start + GROUPS_PER_CALL]
            Call(self._link, part, self._pack(part, self._now), self._expires).send()

    def _pack(self, groups: Sequence[Group], now: str) -> list[Any]:
        prefix = self._prefix
        keys: list[str] = []
        arguments: list[str | int | float] = [now]
        for takes, guard, _ in groups:
            if guard is None:
                arguments += ("0", len(takes))
            else:
                keys += (self._guard_prefix + guard.record, self._guard_prefix + guard.generation_key)
                arguments += (f"g{guard.generation}", len(takes))
            for key, burst, rate, cost in takes:
                keys.append(prefix + key)
                arguments += (burst, rate, cost)
            if guard is not None:
                arguments.append(len(guard.otherwise))
                for key, burst, rate, cost in guard.otherwise:
                    keys.append(prefix + key)
                    arguments += (burst, rate, cost)
        return [len(keys), *keys, *arguments]
